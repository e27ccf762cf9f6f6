"""`copy`, and `dataclasses.asdict` and `astuple`, which build on it.

The library's own rebuilds objects with whatever function their `__reduce_ex__` names: `getattr` for methods and enum
members, a look-up among module globals for generic aliases, with arguments that a program can choose.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import re
import types
import weakref
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language import attribute_guards as guards
from vibethinker.sandbox.language.attribute_guards import check_key

_ATOMIC = (
    *(type(None), int, float, bool, complex, str, bytes, type(...), type(NotImplemented), range, slice, property),
    *(types.FunctionType, types.BuiltinFunctionType, weakref.ref, re.Pattern, re.Match),
)
_MAKERS = (copyreg.__newobj__, copyreg.__newobj_ex__)  # type: ignore[attr-defined]


def copy(x: Any) -> Any:
    """`copy.copy`."""
    kind = type(x)
    if kind in _ATOMIC or isinstance(x, type | enum.Enum) or kind is tuple or kind is frozenset:
        return x
    if kind in (list, dict, set, bytearray):
        return x.copy()
    if kind is types.MethodType:
        return types.MethodType(x.__func__, x.__self__)
    own = getattr(kind, "__copy__", None)
    return own(x) if own is not None else _rebuild(x, lambda part: part)


def deepcopy(x: Any, memo: Any = None) -> Any:
    """`copy.deepcopy`."""
    kind = type(x)
    if kind in _ATOMIC or isinstance(x, type | enum.Enum):
        return x
    memo = {} if memo is None else memo
    done = memo.get(id(x))
    if done is not None:
        return done
    made = _deep(x, kind, memo)
    memo[id(x)] = made
    memo.setdefault(id(memo), []).append(x)  # its id must not be given to another object meanwhile
    return made


def _deep(x: Any, kind: type, memo: dict[int, Any]) -> Any:
    made: Any
    if kind is list:
        made = memo[id(x)] = []
        for part in x:
            made.append(deepcopy(part, memo))
        return made
    if kind is dict:
        made = memo[id(x)] = {}
        for key, value in x.items():
            made[deepcopy(key, memo)] = deepcopy(value, memo)
        return made
    if kind is tuple:
        parts = [deepcopy(part, memo) for part in x]
        return memo.get(id(x)) or (x if all(a is b for a, b in zip(x, parts, strict=True)) else tuple(parts))
    if kind is types.MethodType:
        return types.MethodType(x.__func__, deepcopy(x.__self__, memo))
    own = getattr(kind, "__deepcopy__", None)
    return own(x, memo) if own is not None else _rebuild(x, lambda part: deepcopy(part, memo), memo)


def _rebuild(x: Any, take: Callable[[Any], Any], memo: dict[int, Any] | None = None) -> Any:
    """A new object from the result of the class's `__reduce_ex__`, if the class itself makes it."""
    kind = type(x)
    reduce: Any = kind.__reduce_ex__
    parts = reduce(x, 4)
    if isinstance(parts, str):
        return x
    function, args, state, items, pairs = (*parts, None, None, None)[:5]
    if function is not kind and not any(function is maker and args and args[0] is kind for maker in _MAKERS):
        raise TypeError(f"cannot copy {kind.__name__!r} object")
    made = function(*[take(part) for part in args])
    if memo is not None:
        memo[id(x)] = made
    if state is not None:
        _restore(made, take(state))
    for item in items or ():
        made.append(take(item))
    for key, value in pairs or ():
        made[take(key)] = take(value)
    return made


def _restore(made: Any, state: Any) -> None:
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state is not None:
        object.__getattribute__(made, "__dict__").update({check_key(name): value for name, value in state.items()})
    for name, value in (slots or {}).items():
        object.__setattr__(guards.write_named(made, check_key(name)), name, value)


def asdict(value: Any, *, dict_factory: Callable[..., Any] = dict) -> Any:
    """`dataclasses.asdict`."""
    return _fields_of(value, dict_factory)


def astuple(value: Any, *, tuple_factory: Callable[..., Any] = tuple) -> Any:
    """`dataclasses.astuple`."""
    return _fields_of(value, lambda fields: tuple_factory([field for _, field in fields]))


def _fields_of(value: Any, build: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    if not _is_instance(value):
        raise TypeError("a dataclass instance is needed")
    return _plain(value, build)


def _is_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _plain(value: Any, build: Callable[[list[tuple[str, Any]]], Any]) -> Any:
    if _is_instance(value):
        return build([(f.name, _plain(getattr(value, f.name), build)) for f in dataclasses.fields(value)])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_plain(part, build) for part in value])
    if isinstance(value, list | tuple):
        return type(value)(_plain(part, build) for part in value)
    if type(value) is dict or (isinstance(value, dict) and not hasattr(type(value), "default_factory")):
        return type(value)((_plain(k, build), _plain(v, build)) for k, v in value.items())
    return deepcopy(value)
