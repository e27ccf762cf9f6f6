"""The built-in functions of a program, and the namespace it runs in."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from vibethinker.sandbox.language import classes, guards, shims
from vibethinker.sandbox.language import transformer as policy
from vibethinker.sandbox.language.console import Console
from vibethinker.sandbox.language.modules import importer
from vibethinker.sandbox.language.names import READABLE, exact, is_dunder, words

_SAME = words(
    "abs all any ascii bin bool bytearray bytes callable chr classmethod complex delattr dict divmod enumerate filter "
    "float format frozenset hash hex id int isinstance issubclass iter len list map max memoryview min next object "
    "oct ord pow property range repr reversed round set slice sorted staticmethod str sum super tuple zip "
    "None True False Ellipsis NotImplemented __debug__"
)
_ERRORS = [
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, BaseExceptionGroup)
]
_FIXED: dict[str, Any] = {
    **{name: getattr(builtins, name) for name in (*_SAME, *_ERRORS)},
    "getattr": guards.guarded_getattr,
    "hasattr": guards.guarded_hasattr,
    "setattr": guards.guarded_setattr,
    "delattr": guards.guarded_delattr,
    "type": classes.TYPE_STAND_IN,
    "__build_class__": classes.build_class,
    policy.LOAD: guards.load,
    policy.WRITE: guards.write,
    policy.WRITE_NAMED: guards.write_named,
    policy.TYPE: type,
    policy.OWN: guards.OWN,
    policy.KINDS: classes.KINDS,
    policy.STAND_IN: classes.TYPE_STAND_IN,
}
guards.BASES.update(
    value for value in _FIXED.values() if isinstance(value, type) and value not in classes.REAL and value is not type
)
guards.BASES.difference_update({super, memoryview, bool, range, slice})


class Globals(MutableMapping[str, Any]):
    """`globals()`: the names that a source can spell. Made by `_view`: programs can call `__init__`."""

    __slots__ = ("_content",)
    _content: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        if _hidden(name):
            raise KeyError(name)
        return self._content[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if _hidden(name):
            raise KeyError(name)
        self._content[name] = value

    def __delitem__(self, name: str) -> None:
        if _hidden(name):
            raise KeyError(name)
        del self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self._content if not _hidden(name)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return not _hidden(name) and name in self._content

    def __repr__(self) -> str:
        return repr(dict(self))


def _hidden(name: object) -> bool:
    return type(name) is not str or not name.isidentifier() or (is_dunder(name) and name not in READABLE)


def _view(content: dict[str, Any]) -> Globals:
    view = object.__new__(Globals)
    view._content = content
    return view


def make_namespace(console: Console, name: str) -> dict[str, Any]:
    """A fresh globals dictionary; everything in it that can change is its own."""
    system = shims.system(console, name)
    console.current = lambda: system.stdout
    names: dict[str, Any] = dict(_FIXED)
    top: dict[str, Any] = {"__name__": name, "__doc__": None, "__builtins__": names}

    def read_line(prompt: object = "", /) -> str:
        if prompt != "":
            system.stdout.write(str(prompt))
        line = system.stdin.readline()
        if not line:
            raise EOFError("EOF when reading a line")
        return line[:-1] if line[-1] == "\n" else line

    def leave(status: Any = None, /) -> None:
        raise SystemExit(status)

    read_line.__name__ = read_line.__qualname__ = "input"
    names |= {
        "$sys": system,
        "print": console.printer(),
        "input": read_line,
        "exit": leave,
        "quit": leave,
        "open": shims.opener(console),
        "__import__": importer(console, system),
        **_scope_functions(names, top),
    }
    return top


def _scope_functions(names: dict[str, Any], top: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Built-ins that look at their caller: `globals`, `locals`, `vars`, `dir`, `eval`, `exec`."""

    def caller() -> tuple[dict[str, Any], dict[str, Any]]:
        """Scope of the program; when library code calls in between, the outermost scope, never the library's."""
        frame = sys._getframe(2)
        ours = frame.f_builtins is names and frame.f_code.co_filename == policy.FILENAME
        return (frame.f_globals, frame.f_locals) if ours else (top, top)

    def snapshot(scope: Any) -> dict[str, Any]:
        return {n: v for n, v in scope.items() if not _hidden(n)}

    def globals_() -> Globals:
        return _view(caller()[0])

    def locals_() -> Any:
        here, local = caller()
        return _view(here) if local is here else snapshot(local)

    def vars_(*value: Any) -> Any:
        if value:
            try:
                return guards.load(value[0], "__dict__")
            except AttributeError:
                raise TypeError("vars() argument must have __dict__ attribute") from None
        here, local = caller()
        return _view(here) if local is here else snapshot(local)

    def dir_(*value: Any) -> list[str]:
        return sorted(dir(value[0]) if value else snapshot(caller()[1]))

    def scopes(here: Any, local: Any, given: Any, inner: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
        """Globals and locals to run in, and the dictionary that changed globals go back to."""
        if given is None:
            return here, here if local is here and inner is None else snapshot(local if inner is None else inner), None
        if type(given) is Globals and given._content.get("__builtins__") is names:
            return given._content, given._content if inner is None else snapshot(inner), None
        if not isinstance(given, dict):
            raise TypeError("globals must be a dict")
        made = {"__name__": "__main__", **snapshot(given), "__builtins__": names}
        return made, made if inner is None else snapshot(inner), given

    def run(source: Any, mode: str, here: Any, local: Any, given: Any, inner: Any) -> Any:
        if not isinstance(source, str):
            raise TypeError(f"{mode}() arg 1 must be a string")
        code = policy.compile_source(exact(source).lstrip(" \t") if mode == "eval" else exact(source), mode)
        outer, scope, back = scopes(here, local, given, inner)
        result = eval(code, outer, scope)
        if back is not None:
            back.update(snapshot(outer))
        if isinstance(inner, dict) and inner is not given:
            inner.update(snapshot(scope))
        return result

    def eval_(source: Any, given: Any = None, inner: Any = None, /) -> Any:
        return run(source, "eval", *caller(), given, inner)

    def exec_(source: Any, given: Any = None, inner: Any = None, /) -> None:
        run(source, "exec", *caller(), given, inner)

    functions: dict[str, Any] = {
        "globals": globals_,
        "locals": locals_,
        "vars": vars_,
        "dir": dir_,
        "eval": eval_,
        "exec": exec_,
    }
    for name, function in functions.items():
        function.__name__ = function.__qualname__ = name
    return functions
