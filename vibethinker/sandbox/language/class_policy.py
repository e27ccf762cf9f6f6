"""Types as a program sees them, and the creation of classes: class statement, `type()`, and the library's helpers."""

from __future__ import annotations

import abc
import builtins
import enum
import types
from itertools import takewhile
from typing import Any

from vibethinker.sandbox.language import attribute_guards as guards
from vibethinker.sandbox.language.attribute_guards import BASES, OWN, Names, owns_class, owns_function
from vibethinker.sandbox.language.name_policy import BINDABLE, LIBRARY_MADE, exact, is_dunder, is_plain


class _StandInMeta(type):
    """Metaclass of stand-ins: classes to compare with and test against, which cannot be instantiated."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"cannot create {cls.__name__!r} instances")

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, REAL[cls])

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(REAL.get(other, other), REAL[cls])

    def __repr__(cls) -> str:
        return f"<class {cls.__name__!r}>"


class _TypeMeta(_StandInMeta):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs:
            return KINDS[type(args[0])]
        if len(args) == 3 and not kwargs:
            return make_class(*args)
        raise TypeError("type() takes 1 or 3 arguments")

    def __getitem__(cls, item: Any) -> Any:
        return types.GenericAlias(cls, item)


def _stand_in(real: type, meta: type = _StandInMeta) -> Any:
    return meta(real.__name__, (), {"__slots__": (), "__doc__": real.__doc__, "__module__": "builtins"})


TYPE_STAND_IN = _stand_in(type, _TypeMeta)
SHOWN: dict[type, Any] = {type: TYPE_STAND_IN}
for _real in (
    *(types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.ModuleType, types.GeneratorType),
    *(types.CoroutineType, types.AsyncGeneratorType, types.FrameType, types.TracebackType, types.CellType),
    *(types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType),
    *(types.MethodWrapperType, types.MethodDescriptorType, types.ClassMethodDescriptorType),
    *(abc.ABCMeta, enum.EnumMeta),
):
    SHOWN[_real] = _stand_in(_real)
REAL: dict[Any, type] = {stand_in: real for real, stand_in in SHOWN.items()}


def shown(cls: Any) -> Any:
    """A type as a program sees it: a stand-in for those that make code, frames or classes."""
    if (found := SHOWN.get(cls)) is not None:
        return found
    if cls in OWN:
        return cls
    if issubclass(cls, type):
        return SHOWN[enum.EnumMeta] if issubclass(cls, enum.EnumMeta) else TYPE_STAND_IN
    return SHOWN[types.ModuleType] if issubclass(cls, Names) else cls


class _Kinds(dict[type, Any]):
    """`shown` as a look-up."""

    def __missing__(self, cls: type) -> Any:
        found = shown(cls)
        if found is not cls or cls in BASES:  # they stay for ever
            self[cls] = found
        return found


KINDS = _Kinds()


# Creation of classes

BASE_FUNCTIONS: list[Any] = []  # typing.NamedTuple and TypedDict are functions that stand for a base


def check_base(base: Any) -> None:
    """Raises TypeError unless a program may extend `base`."""
    origin = getattr(base, "__origin__", base) if type(base).__module__ in ("typing", "types") else base
    if isinstance(origin, type):
        if owns_class(origin) or origin in BASES:
            return
    elif any(origin is function for function in BASE_FUNCTIONS):
        return
    raise TypeError(f"type {getattr(base, '__name__', base)!r} is not an acceptable base type")


def build_class(body: Any, name: str, /, *bases: Any, **keywords: Any) -> Any:
    """The class statement."""
    for base in bases:
        check_base(base)
    exact_keys(keywords)
    if "metaclass" in keywords:
        keywords["metaclass"] = REAL.get(keywords["metaclass"])
        if keywords["metaclass"] not in (abc.ABCMeta, type):
            raise TypeError("metaclasses are not available")
    guards.under_construction += 1
    try:
        return adopt(builtins.__build_class__(body, name, *bases, **keywords))
    finally:
        guards.under_construction -= 1


def make_class(name: Any, bases: Any, content: Any) -> Any:
    """`type(name, bases, content)`."""
    bases = tuple(bases)  # once: an iterable may tell the check one thing and the maker another
    for base in bases:
        check_base(base)
    content = {check_member(key): value for key, value in dict(content).items()}
    return adopt(type(exact(name), bases, {"__module__": "__main__", **content}))


def exact_keys(options: dict[str, Any]) -> None:
    """Raises TypeError for keywords of a subclass of `str`, which compares as it likes."""
    if not all(type(name) is str for name in options):
        raise TypeError("keywords must be strings")


def check_member(name: Any) -> str:
    """Returns a name that a class may define; raises TypeError for any other."""
    if type(name) is not str or (is_dunder(name) and name not in BINDABLE):
        raise TypeError(f"a class may not define {name!r}")
    return name


def adopt(cls: Any) -> Any:
    """Registers a new class as the program's, after a check of what its body has become."""
    if not isinstance(cls, type):
        raise TypeError("metaclasses are not available")
    for name, value in vars(cls).items():
        special = type(name) is not str or (is_dunder(name) and name not in BINDABLE)
        if special and (
            name not in LIBRARY_MADE
            or isinstance(value, types.MemberDescriptorType)
            or (owns_function(value) and name != "__new_member__")
        ):
            raise TypeError(f"a class may not define {name!r}")
    matched = vars(cls).get("__match_args__", ())
    if not (type(matched) is tuple and all(type(n) is str for n in matched)):
        raise TypeError("__match_args__ must be a tuple of strings")
    if not all(map(is_plain, matched)):  # a pattern would fetch the others unguarded
        type.__setattr__(cls, "__match_args__", tuple(takewhile(is_plain, matched)))
    OWN.add(cls)
    return cls


def _load_class(value: Any, name: str) -> Any:
    if guards.owns(value) or isinstance(value, BaseException):
        return KINDS[type(value)]
    raise guards.denied(value, name)


guards.SPECIAL["__class__"] = _load_class
