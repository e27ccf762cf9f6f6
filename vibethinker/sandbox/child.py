"""What the process of one program does: read the job, run, answer. Everything it says is untrusted by whoever reads it.

A job is one of
    {"kind": "inputs", "program", "inputs": [text, …], "limit"}     → a text for each
    {"kind": "calls", "program", "calls": [[name, args, kwargs], …]} → a value for each
    {"kind": "serve", "program"}                                    → answers the judge on the link (`remote`)
    {"kind": "judge", "tests": [source, …]}                         → whether each passes, by asking over the link
and an answer {"at": index, "value": …} or {"at": index, "failed": [outcome, detail]}, without `at` for all that follow.
"""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any, Final

from vibethinker.sandbox import codec, remote
from vibethinker.sandbox import unrestricted as plain
from vibethinker.sandbox.exceptions import LostError, OutputLimitError, RejectedError
from vibethinker.sandbox.wire import Channel

BROKEN: Final = 70  # exit code of a child that could not say what went wrong
MAX_DETAIL: Final = 300


def preload(restricted: bool) -> None:
    """Imports what a program may need: later there are no files to import from."""
    dialect(restricted).preload()


def dialect(restricted: bool) -> ModuleType:
    """The restricted language, or plain Python: `preload`, `compile_program`, `Console`, `namespace`."""
    if not restricted:
        return plain
    from vibethinker.sandbox import language

    return language


def work(job: int, link: int, restricted: bool) -> int:
    """Carries out the job that comes on the descriptor `job`; returns an exit code."""
    channel = Channel(job)
    task = channel.receive()
    try:
        _KINDS[task["kind"]](channel, task, dialect(restricted), Channel(link))
    except LostError:  # the host has heard enough, or the other process of a pair is gone
        return 0
    except BaseException as error:
        channel.send({"failed": failure(error)})
    return 0


def failure(error: BaseException) -> list[str]:
    """[outcome, detail] of an exception out of a program."""
    kind = type(error).__name__
    try:
        text = str(error)[:MAX_DETAIL]
    except BaseException:  # it may be the program's own class
        text = ""
    if isinstance(error, RejectedError):
        return ["rejected", text]
    if isinstance(error, MemoryError):
        return ["memory", "more memory than allowed"]
    line = _line(error.__traceback__)
    return ["error", f"{kind}: {text}" + (f" (line {line})" if line else "")]


def _line(trace: TracebackType | None) -> int | None:
    """The last line of the program itself that an exception went through."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _run_inputs(channel: Channel, task: dict[str, Any], language: Any, link: Channel) -> None:
    code = language.compile_program(task["program"])
    for at, text in enumerate(task["inputs"]):
        console = language.Console(text, task["limit"])
        try:
            _execute(code, language.namespace(console, "__main__"))
            text = console.text()
            if console.exceeded:  # it may have swallowed the error
                raise OutputLimitError("more output than allowed")
            answer: dict[str, Any] = {"at": at, "value": text}
        except BaseException as error:
            answer = {"at": at, "failed": failure(error)}
        channel.send(answer)


def _execute(code: Any, namespace: dict[str, Any]) -> None:
    """Runs a program to its end; leaving with status 0 is an end like any other."""
    try:
        exec(code, namespace)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"exit status {end.code!r:.100}") from None


def load(task: dict[str, Any], language: Any) -> dict[str, Any]:
    """The names that a program defines."""
    namespace: dict[str, Any] = language.namespace(language.Console("", task["limit"]), "solution")
    exec(language.compile_program(task["program"]), namespace)
    return namespace


def _run_calls(channel: Channel, task: dict[str, Any], language: Any, link: Channel) -> None:
    namespace = load(task, language)
    for at, (name, args, kwargs) in enumerate(task["calls"]):
        try:
            function = find(namespace, name)
            result = function(*codec.decode(args), **codec.decode(kwargs))
            answer: dict[str, Any] = {"at": at, "value": codec.encode(result, lambda _: ["o"])}
        except BaseException as error:
            answer = {"at": at, "failed": failure(error)}
        channel.send(answer)


def find(namespace: dict[str, Any], name: str) -> Any:
    """A function by its name; a method of a class `Solution` where there is no such function."""
    if name in namespace:
        return namespace[name]
    if "Solution" in namespace and hasattr(namespace["Solution"], name):
        return getattr(namespace["Solution"](), name)
    raise NameError(f"the program defines no {name!r}")


def _serve(channel: Channel, task: dict[str, Any], language: Any, link: Channel) -> None:
    remote.Servant(load(task, language)).serve(link)


def _judge(channel: Channel, task: dict[str, Any], language: Any, link: Channel) -> None:
    language.open_to_writes(remote.Stand)
    judge = remote.Judge(link, language)
    for at, source in enumerate(task["tests"]):
        try:
            judge.run(source)
            answer: dict[str, Any] = {"at": at, "value": True}
        except LostError:
            raise
        except AssertionError as error:
            answer = {"at": at, "failed": ["wrong", f"assertion failed{_line_of(error)}"]}
        except BaseException as error:
            answer = {"at": at, "failed": failure(error)}
        channel.send(answer)


def _line_of(error: BaseException) -> str:
    line = _line(error.__traceback__)
    return f" (line {line} of the test)" if line else ""


_KINDS: Final = {"inputs": _run_inputs, "calls": _run_calls, "serve": _serve, "judge": _judge}
