"""The process of one program: reads its task, runs it, sends untrusted answers.

A task is one of
    {"kind": "inputs", "program", "questions": [text, …], "limit"}                → a text for each
    {"kind": "calls", "program", "questions": [[name, args, kwargs], …], "limit"} → a value for each
    {"kind": "serve", "program", "limit"}                → answers the asserts' process over the link (`assert_tests`)
    {"kind": "asserts", "questions": [source, …]}        → true for each that passes, by asking over the link
and an answer {"at": index, "value": …} or {"at": index, "failed": [outcome, detail]}, without `at` for all that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, Final

from vibethinker.sandbox import assert_tests, plain_data, unrestricted
from vibethinker.sandbox.exceptions import LostError, OutputLimitError, RejectedError
from vibethinker.sandbox.framing import Channel

BROKEN: Final = 70  # exit code of a child that could not report what went wrong
MAX_DETAIL: Final = 300


def dialect(restricted: bool) -> ModuleType:
    """The language layer, or plain Python: `preload`, `compile_program`, `Console`, `namespace`, `open_to_writes`."""
    if not restricted:
        return unrestricted
    from vibethinker.sandbox import language  # as long as RestrictedPython may be missing

    return language


def work(task_descriptor: int, link_descriptor: int, restricted: bool) -> int:
    """Carries out a task; returns an exit code.

    Args:
        task_descriptor: of the socket on which it comes and is answered.
        link_descriptor: of the socket to the other process of a pair.
        restricted: True if the language layer is on.
    """
    host, link = Channel(task_descriptor), Channel(link_descriptor)
    task, language = host.receive(), dialect(restricted)
    try:
        if task["kind"] == "serve":
            assert_tests.ObjectServer(load(task, language)).serve(link)
        ask = _asked(task, language, link)
        for at, question in enumerate(task["questions"]):
            try:
                answer = {"value": ask(question)}
            except LostError:
                raise
            except BaseException as error:
                answer = {"failed": failure(error)}
            host.send({"at": at, **answer})
    except LostError:  # the host needs no further answers, or the other process of a pair is gone
        return 0
    except BaseException as error:
        host.send({"failed": failure(error)})
    return 0


def failure(error: BaseException) -> list[str]:
    """[outcome, detail] of an exception out of a program or a test."""
    line = _line(error.__traceback__)
    if isinstance(error, assert_tests.FailedAssertError):
        return ["wrong", "assertion failed" + (f" (line {line} of the test)" if line else "")]
    try:
        text = str(error)[:MAX_DETAIL]
    except BaseException:  # it may be the program's own class
        text = ""
    if isinstance(error, RejectedError):
        return ["rejected", text]
    if isinstance(error, MemoryError):
        return ["memory", "more memory than allowed"]
    return ["error", f"{type(error).__name__}: {text}" + (f" (line {line})" if line else "")]


def _line(trace: TracebackType | None) -> int | None:
    """The last line of the program itself that an exception went through."""
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _asked(task: dict[str, Any], language: Any, link: Channel) -> Callable[[Any], Any]:
    """The function that answers the task's questions."""
    if task["kind"] == "inputs":
        return partial(_run, language.compile_program(task["program"]), language, task["limit"])
    if task["kind"] == "calls":
        return partial(_call, load(task, language))
    language.open_to_writes(assert_tests.RemoteObject)
    return assert_tests.Tester(link, language).passes


def _run(code: Any, language: Any, limit: int, stdin: str) -> str:
    """The output of a program; leaving with status 0 is an end like any other."""
    console = language.Console(stdin, limit)
    try:
        exec(code, language.namespace(console, "__main__"))
    except SystemExit as end:
        if end.code not in (None, 0):
            raise RuntimeError(f"exit status {end.code!r:.100}") from None
    text: str = console.text()
    if console.exceeded:  # it may have swallowed the error
        raise OutputLimitError("more output than allowed")
    return text


def load(task: dict[str, Any], language: Any) -> dict[str, Any]:
    """The names that a program defines."""
    namespace: dict[str, Any] = language.namespace(language.Console("", task["limit"]), "solution")
    exec(language.compile_program(task["program"]), namespace)
    return namespace


def _call(namespace: dict[str, Any], question: list[Any]) -> Any:
    name, args, kwargs = question
    result = find(namespace, name)(*plain_data.decode(args), **plain_data.decode(kwargs))
    return plain_data.encode(result, lambda _: ["o"])


def find(namespace: dict[str, Any], name: str) -> Any:
    """A function by its name; a method of a class `Solution` where there is no such function."""
    if name in namespace:
        return namespace[name]
    if "Solution" in namespace and hasattr(namespace["Solution"], name):
        return getattr(namespace["Solution"](), name)
    raise NameError(f"the program defines no {name!r}")
