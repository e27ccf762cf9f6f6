"""Assert-style tests in a process of their own, which asks the program's process and judges what comes back.

The judge runs the test's source. Names that the program defines are stand-ins there: a call travels to the program's
process as plain data and its result travels back as plain data, so the judge compares values, never the program's
objects with the program's idea of equality. What is no plain data (an instance of the program's own class) comes back
as a stand-in, too: its attributes, items and methods can be asked for, but it equals nothing except itself.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from vibethinker.sandbox import codec
from vibethinker.sandbox.wire import Channel

_MAX_MESSAGE: Final = 300
_MUTABLE: Final = (list, dict, set, bytearray)


class Servant:
    """The program's side: looks up, calls and iterates on request.

    Args:
        namespace: what the program has defined.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.objects: list[Any] = []
        self.places: dict[int, int] = {}
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

    def serve(self, link: Channel) -> None:
        """Until the judge closes the link."""
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
        values = [codec.decode(argument, self._resolve) for argument in arguments]
        if action != "call":
            return (codec.encode(self.actions[action](*values), self._refer),)
        function, *given = values
        named = codec.decode(keywords, self._resolve)
        result = function(*given, **named)
        sent = [*enumerate(arguments[1:]), *zip(keywords[1::2], keywords[2::2], strict=True)]
        held = [*given, *named.values()]
        changed = {  # it may have worked in place
            str(place): now
            for (place, before), value in zip(sent, held, strict=True)
            if type(value) in _MUTABLE and (now := codec.encode(value, self._refer)) != before
        }
        return codec.encode(result, self._refer), changed

    def _refer(self, value: Any) -> codec.Wire:
        if isinstance(value, type) and issubclass(value, BaseException):
            return ["E", *(kind.__name__ for kind in value.__mro__)]
        if id(value) not in self.places:
            self.places[id(value)] = len(self.objects)
            self.objects.append(value)
        return ["o", self.places[id(value)]]

    def _resolve(self, wire: list[Any]) -> Any:
        return self.objects[wire[1]]


class Stand:
    """An object of the program's process, as the judge holds it. Without `__eq__`: it equals itself alone."""

    __slots__ = ("_ask", "_place")

    def __init__(self, ask: Callable[..., Any], place: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_place", place)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self, name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._ask("call", self, *arguments, **keywords)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self, key)

    def __len__(self) -> int:
        return _whole(self._ask("len", self))

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


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("a length must be a whole number")
    return value


class Judge:
    """The tests' side.

    Args:
        link: to the process that serves the program.
        language: dialect in which tests run.
    """

    def __init__(self, link: Channel, language: Any) -> None:
        self.link, self.language = link, language
        self.stands: dict[int, Stand] = {}
        self.errors: dict[str, type[BaseException]] = {}
        self.defined = frozenset(self.ask("names"))

    def run(self, source: str) -> None:
        """Runs one test.

        Raises:
            AssertionError: it failed; anything else: it failed otherwise.
        """
        tree = ast.parse(source)
        names = under_test(tree, self.defined)
        library = modules(tree, names)
        code = self.language.compile_program("".join(f"import {name}; " for name in library) + source)
        namespace = self.language.namespace(self.language.Console(), "tests")
        for name in names:
            if name not in library:
                namespace[name] = self.ask("name", name)
        try:
            exec(code, namespace)
        except SystemExit:
            raise RuntimeError("the test left before its end") from None

    def ask(self, action: str, *arguments: Any, **keywords: Any) -> Any:
        sent = [codec.encode(argument, self._refer) for argument in arguments]
        self.link.send([action, sent, codec.encode(keywords, self._refer)])
        kind, *reply = self.link.receive()
        if kind == "e":
            error = self._error(reply[0])
            if action != "next" and issubclass(error, StopIteration | StopAsyncIteration | GeneratorExit):
                error = RuntimeError  # it would end the loop in which the test calls
            raise error(str(reply[1]))
        if len(reply) > 1:
            for place, wire in reply[1].items():
                old = keywords[place] if place in keywords else arguments[1 + int(place)]
                _overwrite(old, codec.decode(wire, self._resolve))
        return codec.decode(reply[0], self._resolve)

    def _refer(self, value: Any) -> codec.Wire:
        if type(value) is Stand:
            return ["o", value._place]
        raise codec.NotPlainDataError(f"a test cannot pass a {type(value).__name__} to the program")

    def _resolve(self, wire: list[Any]) -> Any:
        if wire[0] == "E":
            return self._error(wire[1:])
        if wire[0] != "o" or type(wire[1]) is not int:
            raise ValueError("no such kind of data")
        return self.stands.setdefault(wire[1], Stand(self.ask, wire[1]))

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
    """Which names of a test mean the program's: those it defines and the test does not.

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
    """Which of the names are used as modules of the standard library alone: the judge has its own of those."""
    nodes = list(ast.walk(tree))
    bases = {
        id(node.value): node.value.id
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    otherwise = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in bases}
    return [name for name in names if name in sys.stdlib_module_names and name not in otherwise]
