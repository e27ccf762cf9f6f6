"""Run-time guards: what of an object a program may read and write, and how it may make classes.

`OWN` holds the classes that programs made. Their instances, they themselves and the functions that programs define
are open to the program, apart from names of the interpreter; everything else only shows its public attributes.
"""

from __future__ import annotations

import abc
import types
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language.names import (
    BINDABLE,
    DESCRIPTOR,
    FORMATS,
    MAGIC,
    SENSITIVE,
    TEXTS,
    Access,
    access,
    check_template,
    exact,
    is_dunder,
    is_plain,
)
from vibethinker.sandbox.language.transformer import FILENAME

_plain: set[str] = set()  # names met that are public and need no guard
OWN: set[type] = set()
BASES: set[type] = set()  # library classes that a program may extend, and whose instances it may write to
WITH_DICT: set[type] = set()  # library classes whose instances show their `__dict__`
under_construction = 0  # classes being built right now; Enum runs a program's methods before the class is registered

_FORMAT, _FORMAT_MAP = str.format, str.format_map
_super_instance = super.__dict__["__self__"].__get__


class Names:
    """What an import gives: a frozen table of names, never a module, so nothing leads to the library behind it.

    It must not have a `__name__`: `from table import x` would then look for a real module of that name.
    """

    __slots__ = ("__dict__", "_title")

    _title: str
    _assignable: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if name not in type(self)._assignable:
            raise AttributeError(f"module {self._title!r} is read-only")
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"module {self._title!r} is read-only")

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("cannot copy a module")

    def __repr__(self) -> str:
        return f"<module {self._title!r}>"


Names.__name__ = Names.__qualname__ = "module"


def table(title: str, content: dict[str, Any], kind: type[Names] = Names) -> Any:
    """A new table. Programs can call any `__init__`, so classes of this layer have none that does something.

    `__all__` is a tuple: a star import fetches what it names, unguarded.
    """
    names = object.__new__(kind)
    object.__setattr__(names, "_title", title)
    names.__dict__.update(content, __all__=tuple(n for n in content if n[0] != "_"))
    return names


# ownership


def owns_class(cls: type) -> bool:
    if cls in OWN:
        return True
    if under_construction and any(c in OWN or _has_program_function(c) for c in cls.__mro__):
        OWN.add(cls)
        return True
    return False


def _has_program_function(cls: type) -> bool:
    return any(owns_function(value) for value in vars(cls).values())


def owns_function(value: object) -> bool:
    return type(value) is types.FunctionType and value.__code__.co_filename == FILENAME


def owns(value: object) -> bool:
    """Whether the program made this object's class, or this class or function itself."""
    return owns_class(type(value)) or (isinstance(value, type) and owns_class(value)) or owns_function(value)


def denied(value: object, name: str) -> AttributeError:
    kind = f"type object {value.__name__!r}" if isinstance(value, type) else f"{type(value).__name__!r} object"
    return AttributeError(f"{kind} has no attribute {name!r}")


# reading


def load(value: Any, name: str) -> Any:
    """Attribute whose name is `GUARDED` or `FORMAT`."""
    special = SPECIAL.get(name)
    if special is not None:
        return special(value)
    if owns_class(type(value)) or owns_function(value) or (isinstance(value, Names) and name in value.__dict__):
        return getattr(value, name)
    if isinstance(value, type):
        # not what the metaclass has: a metaclass can make classes and reads modules by name
        if owns_class(value) and any(name in vars(c) for c in value.__mro__):
            return getattr(value, name)
    elif type(value) is super and owns(_super_instance(value)):
        return getattr(value, name)
    raise denied(value, name)


def _load_dict(value: Any) -> Any:
    if isinstance(value, type) and owns_class(value):
        return types.MappingProxyType({n: v for n, v in vars(value).items() if not is_dunder(n) or n in BINDABLE})
    if owns_class(type(value)) or type(value) in WITH_DICT:
        return attributes(value)
    raise denied(value, "__dict__")


def _load_register(value: Any) -> Any:
    found = getattr(value, "register")  # noqa: B009
    if not isinstance(value, abc.ABCMeta) or any("register" in vars(c) for c in value.__mro__):
        return found

    def register(cls: type) -> type:
        if not owns_class(cls):
            raise TypeError("only a class of the program can be registered")
        return found(cls)

    return register


def _load_format(name: str) -> Callable[[Any], Any]:
    def loader(value: Any) -> Any:
        if type(value) is str:
            check_template(value)
            return getattr(value, name)
        return shield(getattr(value, name))

    return loader


def _load_setattr(name: str) -> Callable[[Any], Any]:
    """`object.__setattr__`, bound or not, with the check that a plain assignment has."""

    def unbound(found: Any) -> Any:
        def setter(target: Any, attribute: str, *new: Any) -> None:
            attribute = exact(attribute)
            found(write_named(target, attribute), attribute, *new)

        return setter

    def loader(value: Any) -> Any:
        found = getattr(value, name)
        if owns_function(found) or (isinstance(found, types.MethodType) and owns_function(found.__func__)):
            return found
        if type(value) is super:
            value = _super_instance(value)
        elif isinstance(value, type):
            return unbound(found)

        def bound(attribute: str, *new: Any) -> None:
            attribute = exact(attribute)
            write_named(value, attribute)
            found(attribute, *new)

        return bound

    return loader


def _load_descriptor(name: str) -> Callable[[Any], Any]:
    def loader(value: Any) -> Any:
        if owns(value) or (type(value) is super and owns(_super_instance(value))):
            return getattr(value, name)
        raise denied(value, name)

    return loader


SPECIAL: dict[str, Callable[[Any], Any]] = {
    "__dict__": _load_dict,
    "register": _load_register,
    **{name: _load_format(name) for name in FORMATS},
    **{name: _load_setattr(name) for name in ("__setattr__", "__delattr__")},
    **{name: _load_descriptor(name) for name in ("__get__", "__set__", "__delete__")},
}


def shield(found: Any) -> Any:
    """A string's own `format`, bound or not, with its fields checked; anything else as it is."""
    if isinstance(found, types.BuiltinMethodType) and isinstance(found.__self__, str) and found.__name__ in FORMATS:
        template, name = str.__str__(found.__self__), found.__name__

        def bound(*args: Any, **kwargs: Any) -> str:
            check_template(template)
            return getattr(template, name)(*args, **kwargs)

        return bound
    if found is _FORMAT or found is _FORMAT_MAP:

        def unbound(template: str, /, *args: Any, **kwargs: Any) -> str:
            template = exact(template)
            check_template(template)
            return found(template, *args, **kwargs)

        return unbound
    return found


def guarded_getattr(value: Any, name: str, /, *default: Any) -> Any:
    """`getattr` under the rules of the attribute syntax."""
    if type(name) is str and name in _plain:
        return getattr(value, name, *default)
    name = exact(name)
    rule = access(name)
    if rule is Access.NATIVE:
        if is_plain(name) and len(_plain) < 10_000:
            _plain.add(name)
        return getattr(value, name, *default)
    try:
        if rule is Access.REFUSED:
            raise denied(value, name)
        return load(value, name)
    except AttributeError:
        if default:
            return default[0]
        raise


def guarded_hasattr(value: Any, name: str, /) -> bool:
    try:
        guarded_getattr(value, name)
    except AttributeError:
        return False
    return True


# writing


def write(value: Any) -> Any:
    """`value`, if the program may write public attributes of it."""
    kind = type(value)
    if kind in OWN or (kind is type and value in OWN):
        return value
    if kind in BASES or owns(value) or isinstance(value, BaseException):
        return value
    if issubclass(kind, Names) and kind._assignable:
        return value
    raise AttributeError(f"{kind.__name__!r} object attributes are read-only")


def write_named(value: Any, name: str) -> Any:
    """The same for an attribute that is private, special, or sensitive."""
    if is_dunder(name):
        if name in TEXTS - {"__module__"} and (owns_function(value) or (isinstance(value, type) and owns_class(value))):
            return value
        if name in MAGIC | DESCRIPTOR and isinstance(value, type) and owns_class(value):
            return value
        raise AttributeError(f"the attribute {name!r} of {type(value).__name__!r} may not be written")
    if (name[:1] == "_" and not owns(value)) or (name in SENSITIVE and not owns_class(type(value))):
        raise AttributeError(f"{type(value).__name__!r} object attributes are read-only")
    return write(value)


def guarded_setattr(value: Any, name: str, new: Any, /) -> None:
    if type(name) is str and name in _plain and type(value) in OWN:
        setattr(value, name, new)
        return
    name = exact(name)
    if access(name) is Access.REFUSED:
        raise AttributeError(f"the attribute {name!r} may not be written")
    setattr(write_named(value, name), name, new)


def guarded_delattr(value: Any, name: str, /) -> None:
    name = exact(name)
    if access(name) is Access.REFUSED:
        raise AttributeError(f"the attribute {name!r} may not be deleted")
    delattr(write_named(value, name), name)


def check_key(name: object) -> str:
    """A name that may stand in an instance's dictionary: copying reads special methods from there."""
    if type(name) is not str:
        raise TypeError(f"attribute name must be string, not '{type(name).__name__}'")
    if is_dunder(name):
        raise AttributeError(f"the attribute {name!r} may not be written")
    return name


class Attributes(dict[str, Any]):
    """An instance's `__dict__`: a snapshot that writes through, names checked."""

    __slots__ = ("_target",)
    _target: dict[str, Any]

    def __setitem__(self, name: str, value: Any) -> None:
        self._target[check_key(name)] = value
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._target.pop(name, None)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        self._target.pop(name, None)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        name, value = super().popitem()
        self._target.pop(name, None)
        return name, value

    def clear(self) -> None:
        super().clear()
        self._target.clear()

    def __reduce_ex__(self, protocol: object) -> Any:
        return dict, (dict(self),)


def attributes(owner: Any) -> Attributes:
    target = object.__getattribute__(owner, "__dict__")
    snapshot = Attributes(target)
    snapshot._target = target
    return snapshot
