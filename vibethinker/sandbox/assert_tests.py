"""Assert-style tests in a process of their own, which asks the program's process.

The tester runs the test's source. Names that the program defines are remote objects there: a call travels to the
program's process as plain data and its result travels back as plain data, so the test compares values, never the
program's objects with the program's idea of equality. An instance of the program's own class, which is no plain data,
comes back as a remote object, too: its attributes, items and methods can be asked for, but it equals only itself.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from vibethinker.sandbox import plain_data
from vibethinker.sandbox.framing import Channel
from vibethinker.sandbox.plain_data import Encoded

_MAX_MESSAGE: Final = 300
_MUTABLE: Final = (list, dict, set, bytearray)


class FailedAssertError(Exception):
    """A test's assertion failed."""


class ObjectServer:
    """The program's side: looks up, calls and iterates on request.

    Args:
        namespace: names that the program defines.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.actions: dict[str, Callable[..., Any]] = {
            "names": lambda: [name for name in self.namespace if not name.startswith("_")],
            "name": lambda name: self.namespace[name],
            "get": getattr,
            "set": setattr,
            "item": lambda thing, key: thing[key],
            "len": len,
            "iter": iter,
            "next": next,
            "text": str,
        }

    def serve(self, link: Channel) -> NoReturn:
        """Answers until the tester closes the link; then raises LostError."""
        while True:
            action, arguments, keywords = link.receive()
            try:
                reply = ["v", *self._answer(action, arguments, keywords)]
            except BaseException as error:
                kinds = [kind.__name__ for kind in type(error).__mro__]
                try:
                    message = str(error)[:_MAX_MESSAGE]
                except BaseException:
                    message = ""
                reply = ["e", kinds, message]
            link.send(reply)

    def _answer(self, action: str, arguments: list[Any], keywords: Any) -> tuple[Any, ...]:
        values = [plain_data.decode(argument, self._resolve) for argument in arguments]
        if action != "call":
            return (plain_data.encode(self.actions[action](*values), self._refer),)
        function, *given = values
        named = plain_data.decode(keywords, self._resolve)
        result = function(*given, **named)
        sent = [*enumerate(arguments[1:]), *zip(keywords[1::2], keywords[2::2], strict=True)]
        passed = [*given, *named.values()]
        changed = {  # it may have worked in place
            str(key): now
            for (key, before), value in zip(sent, passed, strict=True)
            if type(value) in _MUTABLE and (now := plain_data.encode(value, self._refer)) != before
        }
        return plain_data.encode(result, self._refer), changed

    def _refer(self, value: Any) -> Encoded:
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["E", *(kind.__name__ for kind in value.__mro__)]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return ["o", self.numbers[id(value)]]

    def _resolve(self, data: list[Any]) -> Any:
        return self.objects[data[1]]


class RemoteObject:
    """The tester's reference to an object of the program's process. Without `__eq__`: it equals itself alone."""

    __slots__ = ("_ask", "_number")

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self, name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Calls it in its own process."""
        return self._ask("call", self, *arguments, **keywords)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self, key)

    def __len__(self) -> int:
        length = self._ask("len", self)
        if type(length) is not int:
            raise TypeError("a length must be a whole number")
        return length

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        items = self._ask("iter", self)
        while True:
            try:
                yield self._ask("next", items)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __contains__(self, key: Any) -> bool:
        return key in list(self)  # all of it: an endless iterator does not contain everything

    def __str__(self) -> str:
        return str(self._ask("text", self))


class Tester:
    """The tests' side: runs their sources.

    Args:
        link: to the process that serves the program.
        language: in which tests run: a dialect of `program_process`.
    """

    def __init__(self, link: Channel, language: Any) -> None:
        self.link, self.language = link, language
        self.remotes: dict[int, RemoteObject] = {}
        self.errors: dict[str, type[BaseException]] = {}
        self.defined = frozenset(self.ask("names"))

    def passes(self, source: str) -> bool:
        """Runs one test and returns True; raises FailedAssertError when an assertion fails, or another exception."""
        tree = ast.parse(source)
        names = under_test(tree, self.defined)
        library = modules(tree, names)
        code = self.language.compile_program("".join(f"import {name}; " for name in library) + source)
        namespace = self.language.namespace(self.language.Console(), "tests")
        namespace.update((name, self.ask("name", name)) for name in names if name not in library)
        try:
            exec(code, namespace)
        except SystemExit:
            raise RuntimeError("the test left before its end") from None
        except AssertionError as error:
            raise FailedAssertError().with_traceback(error.__traceback__) from None
        return True

    def ask(self, action: str, *arguments: Any, **keywords: Any) -> Any:
        """The result of an action of the `ObjectServer`.

        Args:
            action: its name.
            arguments: plain data and remote objects; changed in place where the program has changed them.
            keywords: the same, of a call.
        """
        sent = [plain_data.encode(argument, self._refer) for argument in arguments]
        self.link.send([action, sent, plain_data.encode(keywords, self._refer)])
        kind, *reply = self.link.receive()
        if kind == "e":
            error = self._error(reply[0])
            if action != "next" and issubclass(error, StopIteration | StopAsyncIteration | GeneratorExit):
                error = RuntimeError  # it would end the loop in which the test calls
            raise error(str(reply[1]))
        if len(reply) > 1:
            for key, changed in reply[1].items():
                old = keywords[key] if key in keywords else arguments[1 + int(key)]
                _overwrite(old, plain_data.decode(changed, self._resolve))
        return plain_data.decode(reply[0], self._resolve)

    def _refer(self, value: Any) -> Encoded:
        if type(value) is RemoteObject:
            return ["o", value._number]
        raise plain_data.NotPlainDataError(f"a test cannot pass a {type(value).__name__} to the program")

    def _resolve(self, data: list[Any]) -> Any:
        if data[0] == "E":
            return self._error(data[1:])
        if data[0] != "o" or type(data[1]) is not int:
            raise ValueError("no such kind of data")
        return self.remotes.setdefault(data[1], RemoteObject(self.ask, data[1]))

    def _error(self, kinds: list[str]) -> type[BaseException]:
        """A class for an error of the program: Python's own, or one of that name below the nearest of Python's own."""
        name = str(kinds[0])
        known = [getattr(builtins, str(kind), None) for kind in kinds]
        base = next((k for k in known if isinstance(k, type) and issubclass(k, Exception)), RuntimeError)
        if base.__name__ == name:
            return base
        return self.errors.setdefault(name, type(name, (base,), {}))


def _overwrite(old: Any, new: Any) -> None:
    if type(old) is not type(new) or type(old) not in _MUTABLE:
        return
    old.clear()
    (old.extend if isinstance(old, list | bytearray) else old.update)(new)


def under_test(tree: ast.Module, defined: frozenset[str]) -> list[str]:
    """Names of a test that mean the program's: those that the program defines and the test does not.

    A name of Python's own stays Python's, whatever the program calls its functions, or `assert set(f(x)) == {1}` would
    ask the program for its `set`. Only when the test calls nothing else of the program's can such a name be what is
    under test.
    """
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            own |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    asked = [name for name in dict.fromkeys(node.id for node in names) if name in defined and name not in own]
    if ours := [name for name in asked if not hasattr(builtins, name)]:
        return ours
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return asked if len(calls) == 1 and len(asked) == 1 else []


def modules(tree: ast.Module, names: list[str]) -> list[str]:
    """Those of the names that a test only uses as modules of the standard library: the tester has its own of those."""
    nodes = list(ast.walk(tree))
    bases = {
        id(node.value): node.value.id
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    otherwise = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in bases}
    return [name for name in names if name in sys.stdlib_module_names and name not in otherwise]
