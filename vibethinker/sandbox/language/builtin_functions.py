"""Built-in functions of a program, and the namespace in which it runs."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

from vibethinker.sandbox.language import ast_transformer as transformer
from vibethinker.sandbox.language import attribute_guards as guards
from vibethinker.sandbox.language import class_policy as classes
from vibethinker.sandbox.language import import_policy, module_shims
from vibethinker.sandbox.language.name_policy import READABLE, exact, is_dunder, words
from vibethinker.sandbox.language.standard_streams import Console

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
    transformer.LOAD: guards.load,
    transformer.WRITE: guards.write,
    transformer.WRITE_NAMED: guards.write_named,
    transformer.TYPE: type,
    transformer.OWN: guards.OWN,
    transformer.KINDS: classes.KINDS,
    transformer.STAND_IN: classes.TYPE_STAND_IN,
    "input": module_shims.read_line,
    "open": module_shims.open_,
    "__import__": import_policy.import_,
    **dict.fromkeys(("exit", "quit"), module_shims.leave),
}
guards.BASES.update(
    value for value in _FIXED.values() if isinstance(value, type) and value not in classes.REAL and value is not type
)
guards.BASES.difference_update({super, memoryview, bool, range, slice})


def _hidden(name: object) -> bool:
    return type(name) is not str or not name.isidentifier() or (is_dunder(name) and name not in READABLE)


class Globals(MutableMapping[str, Any]):
    """`globals()`: a view of the names that a source can spell. Made by `_view`: programs can call `__init__`."""

    __slots__ = ("_content",)
    _content: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self._content[_visible(name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self._content[_visible(name)] = value

    def __delitem__(self, name: str) -> None:
        del self._content[_visible(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(_snapshot(self._content))

    def __len__(self) -> int:
        return len(_snapshot(self._content))

    def __repr__(self) -> str:
        return repr(_snapshot(self._content))


def _visible(name: str) -> str:
    if _hidden(name):
        raise KeyError(name)
    return name


def _snapshot(scope: Any) -> dict[str, Any]:
    return {name: value for name, value in scope.items() if not _hidden(name)}


def _view(content: dict[str, Any]) -> Globals:
    view = object.__new__(Globals)
    view._content = content
    return view


# Built-in functions that depend on the scope of their caller

_top: dict[str, Any] = {"__builtins__": {}}  # globals of the program that this process runs


def _caller() -> tuple[dict[str, Any], dict[str, Any]]:
    """Globals and locals of the program's frame that calls; its outermost scope where library code calls."""
    frame = sys._getframe(2)
    ours = frame.f_builtins is _top["__builtins__"] and frame.f_code.co_filename == transformer.FILENAME
    return (frame.f_globals, frame.f_locals) if ours else (_top, _top)


def _shown_locals(scope: tuple[dict[str, Any], dict[str, Any]]) -> Any:
    return _view(scope[0]) if scope[1] is scope[0] else _snapshot(scope[1])


def _vars(*value: Any) -> Any:
    if not value:
        return _shown_locals(_caller())
    try:
        return guards.load(value[0], "__dict__")
    except AttributeError:
        raise TypeError("vars() argument must have __dict__ attribute") from None


def _run(source: Any, mode: str, caller: tuple[dict[str, Any], dict[str, Any]], given: Any, inner: Any) -> Any:
    """Runs a source in dictionaries of its own, which hold the guards, and copies back what it has changed."""
    if not isinstance(source, str):
        raise TypeError(f"{mode}() arg 1 must be a string")
    source = exact(source)
    code = transformer.compile_program(source.lstrip(" \t") if mode == "eval" else source, mode)
    outer, local = caller
    if type(given) is Globals and given._content.get("__builtins__") is _top["__builtins__"]:
        outer = local = given._content
    elif given is not None:
        if not isinstance(given, dict):
            raise TypeError("globals must be a dict")
        outer = local = {"__name__": "__main__", **_snapshot(given), "__builtins__": _top["__builtins__"]}
    if inner is not None or local is not outer:
        local = _snapshot(local if inner is None else inner)
    result = eval(code, outer, local)
    if isinstance(given, dict):
        given.update(_snapshot(outer))
    if isinstance(inner, dict) and inner is not given:
        inner.update(_snapshot(local))
    return result


_SCOPE_FUNCTIONS: dict[str, Any] = {
    "globals": lambda: _view(_caller()[0]),
    "locals": lambda: _shown_locals(_caller()),
    "vars": _vars,
    "dir": lambda *value: sorted(dir(value[0]) if value else _snapshot(_caller()[1])),
    "eval": lambda source, given=None, inner=None, /: _run(source, "eval", _caller(), given, inner),
    "exec": lambda source, given=None, inner=None, /: _run(source, "exec", _caller(), given, inner),
}
for _name, _function in (*_SCOPE_FUNCTIONS.items(), ("input", module_shims.read_line), ("open", module_shims.open_)):
    _function.__name__ = _function.__qualname__ = _name


def make_namespace(console: Console, name: str) -> dict[str, Any]:
    """Globals of the program `name` that comes next; everything in them that can change is its own."""
    global _top
    module_shims.begin(console, name)
    import_policy.forget()
    names = _FIXED | _SCOPE_FUNCTIONS | {"print": console.printer()}
    _top = {"__name__": name, "__doc__": None, "__builtins__": names}
    return _top
