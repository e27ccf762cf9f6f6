"""Run-time guards: the attributes of an object that a program may read and write.

`OWN` holds the classes that programs make. Their instances, they themselves and the functions that programs define are
open to the program, apart from names of the interpreter; everything else only shows its public attributes.
"""

from __future__ import annotations

import abc
import types
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language.ast_transformer import FILENAME
from vibethinker.sandbox.language.name_policy import (
    BINDABLE,
    DESCRIPTOR,
    FORMATS,
    MAGIC,
    RULES,
    SENSITIVE,
    TEXTS,
    Access,
    check_template,
    exact,
    is_dunder,
)

OWN: set[type] = set()
BASES: set[type] = set()  # library classes that a program may extend, and whose instances it may write to
WITH_DICT: set[type] = set()  # library classes whose instances show their `__dict__`
under_construction = 0  # classes being built now; Enum runs a program's methods before the class is registered

_NATIVE = Access.NATIVE  # by a name of its own: members of an Enum are slow to fetch
_super_instance = super.__dict__["__self__"].__get__


class Names:
    """A frozen table of names: the result of an import, which is never a module that leads to the library behind it.

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
    """A new table. Programs can call any `__init__`, so classes of this layer have none with an effect.

    Args:
        title: name of the module.
        content: its public names; `__all__` becomes a tuple of them, since a star import fetches those unguarded.
        kind: class of the table.
    """
    names = object.__new__(kind)
    object.__setattr__(names, "_title", title)
    names.__dict__.update(content, __all__=tuple(n for n in content if n[0] != "_"))
    return names


# ownership


def owns_class(cls: type) -> bool:
    """True of a class that a program makes or is making."""
    if cls in OWN:
        return True
    if under_construction and any(c in OWN or any(map(owns_function, vars(c).values())) for c in cls.__mro__):
        OWN.add(cls)
        return True
    return False


def owns_function(value: object) -> bool:
    """True of a function that a program defines."""
    return type(value) is types.FunctionType and value.__code__.co_filename == FILENAME


def owns(value: object) -> bool:
    """True where the program made this object's class, or this class or function itself."""
    return owns_class(type(value)) or (isinstance(value, type) and owns_class(value)) or owns_function(value)


def denied(value: object, name: str) -> AttributeError:
    """The error for an attribute that is absent, to the program."""
    kind = f"type object {value.__name__!r}" if isinstance(value, type) else f"{type(value).__name__!r} object"
    return AttributeError(f"{kind} has no attribute {name!r}")


# reading


def load(value: Any, name: str) -> Any:
    """Fetches an attribute whose name is `GUARDED` or `FORMAT`, where the program may have it."""
    if (special := SPECIAL.get(name)) is not None:
        return special(value, name)
    if owns_class(type(value)) or owns_function(value) or (isinstance(value, Names) and name in value.__dict__):
        return getattr(value, name)
    if isinstance(value, type):
        # not what the metaclass has: a metaclass can make classes and reads modules by name
        if owns_class(value) and any(name in vars(c) for c in value.__mro__):
            return getattr(value, name)
    elif type(value) is super and owns(_super_instance(value)):
        return getattr(value, name)
    raise denied(value, name)


def _load_dict(value: Any, name: str) -> Any:
    if isinstance(value, type) and owns_class(value):
        return types.MappingProxyType({n: v for n, v in vars(value).items() if not is_dunder(n) or n in BINDABLE})
    if owns_class(type(value)) or type(value) in WITH_DICT:
        return attributes(value)
    raise denied(value, name)


def _load_register(value: Any, name: str) -> Any:
    found = getattr(value, name)
    if not isinstance(value, abc.ABCMeta) or any(name in vars(c) for c in value.__mro__):
        return found

    def register(cls: type) -> type:
        if not owns_class(cls):
            raise TypeError("only a class of the program can be registered")
        return found(cls)

    return register


def _load_format(value: Any, name: str) -> Any:
    """A string's own `format`, bound or not, with its fields checked; anything else as it is."""
    found = getattr(value, name)
    if isinstance(found, types.BuiltinMethodType) and isinstance(found.__self__, str) and found.__name__ in FORMATS:
        template = str.__str__(found.__self__)
        check_template(template)
        return getattr(template, found.__name__)
    if found is not str.format and found is not str.format_map:
        return found

    def unbound(template: str, /, *args: Any, **kwargs: Any) -> str:
        template = exact(template)
        check_template(template)
        return found(template, *args, **kwargs)

    return unbound


def _load_setattr(value: Any, name: str) -> Any:
    """`object.__setattr__` or `__delattr__`, bound or not, with the check that a plain assignment has."""
    found = getattr(value, name)
    if owns_function(found) or (isinstance(found, types.MethodType) and owns_function(found.__func__)):
        return found
    bound: tuple[Any, ...] = (
        () if isinstance(value, type) else (_super_instance(value) if type(value) is super else value,)
    )

    def setter(*args: Any) -> None:
        target, attribute, *new = (*bound, *args)
        attribute = exact(attribute)
        write_named(target, attribute)
        found(*(() if bound else (target,)), attribute, *new)

    return setter


def _load_descriptor(value: Any, name: str) -> Any:
    if owns(value) or (type(value) is super and owns(_super_instance(value))):
        return getattr(value, name)
    raise denied(value, name)


SPECIAL: dict[str, Callable[[Any, str], Any]] = {
    "__dict__": _load_dict,
    "register": _load_register,
    **dict.fromkeys(FORMATS, _load_format),
    **dict.fromkeys(("__setattr__", "__delattr__"), _load_setattr),
    **dict.fromkeys(("__get__", "__set__", "__delete__"), _load_descriptor),
}


def guarded_getattr(value: Any, name: str, /, *default: Any) -> Any:
    """`getattr` under the rules of the attribute syntax."""
    if type(name) is not str:
        name = exact(name)
    if RULES[name] is _NATIVE:
        return getattr(value, name, *default)
    try:
        if RULES[name] is Access.REFUSED:
            raise denied(value, name)
        return load(value, name)
    except AttributeError:
        if default:
            return default[0]
        raise


def guarded_hasattr(value: Any, name: str, /) -> bool:
    """`hasattr` under the same rules."""
    try:
        guarded_getattr(value, name)
    except AttributeError:
        return False
    return True


# writing


def write(value: Any) -> Any:
    """Returns `value` where the program may write public attributes of it."""
    kind = type(value)
    if kind in OWN or (kind is type and value in OWN):
        return value
    if kind in BASES or owns(value) or isinstance(value, BaseException):
        return value
    if issubclass(kind, Names) and kind._assignable:
        return value
    raise AttributeError(f"{kind.__name__!r} object attributes are read-only")


def write_named(value: Any, name: str) -> Any:
    """The same for an attribute of any name, private and special ones included."""
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
    """`setattr` under the rules of an assignment."""
    if type(name) is str and RULES[name] is _NATIVE and name[:1] != "_" and type(value) in OWN:
        setattr(value, name, new)
        return
    name = exact(name)
    if RULES[name] is Access.REFUSED:
        raise AttributeError(f"the attribute {name!r} may not be written")
    setattr(write_named(value, name), name, new)


def guarded_delattr(value: Any, name: str, /) -> None:
    """`delattr` under the rules of a `del` statement."""
    name = exact(name)
    if RULES[name] is Access.REFUSED:
        raise AttributeError(f"the attribute {name!r} may not be deleted")
    delattr(write_named(value, name), name)


def check_key(name: object) -> str:
    """A name that may stand in an instance's dictionary: copying reads special methods from there."""
    if type(name) is not str:
        raise TypeError(f"attribute name must be string, not '{type(name).__name__}'")
    if is_dunder(name):
        raise AttributeError(f"the attribute {name!r} may not be written")
    return name


def _relayed(method: Callable[..., Any]) -> Any:
    """A method of `Attributes` that brings no new name."""
    return lambda view, *args: view._change(method, *args)


class Attributes(dict[str, Any]):
    """An instance's `__dict__`: a copy whose changes, with their names checked, are made to the real one."""

    __slots__ = ("_target",)
    _target: dict[str, Any]

    def _change(self, method: Callable[..., Any], *args: Any) -> Any:
        result = method(self._target, *args)
        dict.clear(self)
        dict.update(self, self._target)
        return result

    def __setitem__(self, name: str, value: Any) -> None:
        self._change(dict.__setitem__, check_key(name), value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """`dict.update`."""
        self._change(dict.update, {check_key(name): value for name, value in dict(*args, **kwargs).items()})

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """`dict.setdefault`."""
        return self._change(dict.setdefault, check_key(name), default)

    __delitem__, pop = _relayed(dict.__delitem__), _relayed(dict.pop)
    popitem, clear = _relayed(dict.popitem), _relayed(dict.clear)

    def __reduce_ex__(self, protocol: object) -> Any:
        return dict, (dict(self),)


def attributes(owner: Any) -> Attributes:
    """The `__dict__` of an object as a program sees it."""
    target = object.__getattribute__(owner, "__dict__")
    view = Attributes(target)
    view._target = target
    return view
