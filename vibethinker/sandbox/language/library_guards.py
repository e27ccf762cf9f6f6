"""Checked versions of library functions and classes that fetch attributes by name, make classes or evaluate text.

None of them extends the class that it replaces: `super(Checked, x)` would lead to the unchecked one.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import pprint
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language import attribute_guards as guards
from vibethinker.sandbox.language.attribute_guards import check_key, guarded_getattr
from vibethinker.sandbox.language.class_policy import REAL, SHOWN, adopt, check_base, check_member, exact_keys, shown
from vibethinker.sandbox.language.name_policy import exact, is_dunder
from vibethinker.sandbox.language.standard_streams import SYS


def _walk(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = guarded_getattr(value, name)
    return value


def attrgetter(*paths: str) -> Callable[[Any], Any]:
    """`operator.attrgetter` over the guarded `getattr`."""
    names = [exact(path) for path in paths]
    if not names:
        raise TypeError("attrgetter expected at least 1 argument, got 0")
    return lambda value: _walk(value, names[0]) if len(names) == 1 else tuple(_walk(value, name) for name in names)


def methodcaller(name: str, /, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """`operator.methodcaller` over the guarded `getattr`."""
    name = exact(name)
    return lambda value: guarded_getattr(value, name)(*args, **kwargs)


def _require_instance(value: object, cls: type) -> None:
    if cls not in type(value).__mro__:
        raise TypeError(f"{cls.__name__!r} object needed, not {type(value).__name__!r}")


class SimpleNamespace:
    """`types.SimpleNamespace`, whose keywords may not be special names."""

    def __init__(self, /, **kwargs: Any) -> None:
        _require_instance(self, SimpleNamespace)  # a program can call it on anything
        for name in kwargs:
            check_key(name)
        self.__dict__.update(kwargs)

    def __repr__(self) -> str:
        _require_instance(self, SimpleNamespace)
        title = "namespace" if type(self) is SimpleNamespace else type(self).__name__
        return f"{title}({', '.join(f'{n}={v!r}' for n, v in self.__dict__.items())})"

    def __eq__(self, other: object) -> bool:
        _require_instance(self, SimpleNamespace)
        return self.__dict__ == other.__dict__ if isinstance(other, SimpleNamespace) else NotImplemented


guards.WITH_DICT.add(SimpleNamespace)


def namedtuple(
    typename: str, field_names: Any, *, rename: bool = False, defaults: Any = None, module: str | None = None
) -> Any:
    """`collections.namedtuple`, registered as the program's class.

    Args:
        typename: name of the class.
        field_names: of its fields, in a sequence or a string.
        rename: whether invalid names become positional ones.
        defaults: of the last fields.
        module: ignored.
    """
    factory: Any = collections.namedtuple  # typed for literals only
    return adopt(factory(typename, field_names, rename=rename, defaults=defaults, module="__main__"))


# dataclasses: the real machinery writes source text from the names of fields


def _require_own(cls: Any, what: str) -> None:
    if not (isinstance(cls, type) and guards.owns_class(cls)):
        raise TypeError(f"{what} is for classes of the program")


def dataclass(cls: Any = None, /, **options: Any) -> Any:
    """`dataclasses.dataclass` on a class of the program."""
    exact_keys(options)
    if cls is None:
        return lambda cls: dataclass(cls, **options)
    _require_own(cls, "dataclass")
    for name in vars(cls).get("__annotations__", ()):
        if type(name) is not str or not name.isidentifier() or is_dunder(name):
            raise TypeError(f"{name!r} is not a valid field name")
    return adopt(dataclasses.dataclass(cls, **options))


def make_dataclass(
    cls_name: str, fields: Any, *, bases: Any = (), namespace: Any = None, module: Any = None, **options: Any
) -> Any:
    """`dataclasses.make_dataclass` with the names of fields and namespace checked.

    Args:
        cls_name: name of the class.
        fields: names, or tuples of a name, a type and a field.
        bases: classes that it extends.
        namespace: further members.
        module: ignored.
        options: those of `dataclasses.dataclass`.
    """
    specs: list[Any] = []
    for field in fields:
        name, *rest = (field,) if isinstance(field, str) else field
        specs.append((check_key(name), *rest) if rest else check_key(name))
    content = {check_member(n): v for n, v in dict(namespace or {}).items()}
    exact_keys(options)
    bases = tuple(bases)
    for base in bases:
        check_base(base)
    made = dataclasses.make_dataclass(exact(cls_name), specs, bases=bases, namespace=content, **options)
    made.__module__ = "__main__"
    return adopt(made)


# enum


class _EnumMeta(enum.EnumMeta):
    """Checks the names that the functional form `Enum("Title", names)` turns into a class body."""

    def _create_(cls, class_name: Any, names: Any, **options: Any) -> Any:
        if isinstance(names, str):
            names = exact(names).replace(",", " ").split()
        members = list(names.items()) if isinstance(names, dict) else list(names)
        if members and isinstance(members[0], str):
            members = [exact(name) for name in members]
        else:
            members = [(name, value) for name, value in members]
        for member in members:
            name = member if isinstance(member, str) else member[0]
            if type(name) is not str or name[:1] == "_":
                raise ValueError(f"invalid enum member name: {name!r}")
        if options.get("type") is not None:
            check_base(options["type"])
        options["module"] = "__main__"
        return adopt(super()._create_(exact(class_name), members, **options))  # type: ignore[misc]

    def __instancecheck__(cls, value: object) -> bool:
        plain = _PLAIN_ENUMS.get(cls)
        return isinstance(value, plain) if plain else type.__instancecheck__(cls, value)

    def __subclasscheck__(cls, other: type) -> bool:
        plain = _PLAIN_ENUMS.get(cls)
        return issubclass(other, plain) if plain else type.__subclasscheck__(cls, other)


_PLAIN_ENUMS: dict[Any, type] = {}  # so that an IntEnum is an Enum, though the checked classes are siblings


def _enum(plain: Any) -> Any:
    bases = (plain,)
    content = _EnumMeta.__prepare__(plain.__name__, bases)
    content.update({"__module__": "enum", "__doc__": None})
    made = _EnumMeta.__new__(_EnumMeta, plain.__name__, bases, content)
    _PLAIN_ENUMS[made] = plain
    return made


ENUMS = {cls.__name__: _enum(cls) for cls in (enum.Enum, enum.IntEnum, enum.StrEnum, enum.Flag, enum.IntFlag)}


# functools


def update_wrapper(wrapper: Any, wrapped: Any) -> Any:
    """`functools.update_wrapper`: it writes attributes, so only on what the program made."""
    if not guards.owns(wrapper):
        return wrapper
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        if hasattr(wrapped, name) and guards.owns_function(wrapper):
            setattr(wrapper, name, getattr(wrapped, name))
    if guards.owns_function(wrapped):
        wrapper.__dict__.update(wrapped.__dict__)
    return wrapper


def wraps(wrapped: Any) -> Callable[[Any], Any]:
    """`functools.wraps`."""
    return lambda wrapper: update_wrapper(wrapper, wrapped)


def total_ordering(cls: Any) -> Any:
    """`functools.total_ordering` on a class of the program."""
    _require_own(cls, "total_ordering")
    return functools.total_ordering(cls)


def singledispatch(function: Any) -> Any:
    """`functools.singledispatch`; types are given, never taken from annotations, which are evaluated as text."""
    dispatcher = functools.singledispatch(function)
    real = dispatcher.register

    def register(cls: Any, func: Any = None) -> Any:
        cls = REAL.get(cls, cls)
        if not isinstance(cls, type | types.UnionType):
            raise TypeError("Invalid first argument to `register()`: a class is needed")
        return (lambda f: real(cls, f)) if func is None else real(cls, func)

    dispatcher.register = register  # type: ignore[method-assign]
    return dispatcher


class singledispatchmethod:  # noqa: N801 - the library's name
    """`functools.singledispatchmethod` over the checked dispatcher."""

    def __init__(self, func: Any) -> None:
        self.dispatcher = singledispatch(func)

    def register(self, cls: Any, method: Any = None) -> Any:
        """Registers a method for a class."""
        return self.dispatcher.register(cls, method)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.dispatcher.dispatch(type(args[0])).__get__(instance, owner)(*args, **kwargs)

        return call


# abc and typing decorators


def abstractmethod(function: Any) -> Any:
    """`abc.abstractmethod`."""
    if isinstance(function, types.FunctionType) and not guards.owns_function(function):
        raise TypeError("abstractmethod is for functions of the program")
    function.__isabstractmethod__ = True
    return function


def runtime_checkable(cls: Any) -> Any:
    """`typing.runtime_checkable` on a class of the program."""
    _require_own(cls, "runtime_checkable")
    return typing.runtime_checkable(cls)


def hide_type(function: Callable[..., Any]) -> Callable[..., Any]:
    """`typing.get_origin` and `get_args` without the real `type` in what they give."""

    def hidden(value: Any) -> Any:
        found = function(value)
        if isinstance(found, tuple):
            return tuple(SHOWN.get(f, f) if isinstance(f, type) else f for f in found)
        return shown(found) if isinstance(found, type) else found

    return hidden


class PrettyPrinter(pprint.PrettyPrinter):
    """`pprint.PrettyPrinter` that writes to the program's own `sys.stdout`."""

    def pprint(self, object: Any) -> None:
        """Writes an object's representation and a new line."""
        stream: Any = self._stream  # type: ignore[attr-defined]
        (SYS.stdout if stream is sys.stdout else stream).write(self.pformat(object) + "\n")


class redirect_stdout:  # noqa: N801 - the library's name
    """`contextlib.redirect_stdout` for the program's own `sys`."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __enter__(self) -> Any:
        self._before, SYS.stdout = SYS.stdout, self.target
        return self.target

    def __exit__(self, *error: Any) -> None:
        SYS.stdout = self._before
