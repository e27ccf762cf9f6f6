"""Which names a program may spell, as variables and as attributes: for the compiler and for the run-time guards."""

from __future__ import annotations

import _string
from enum import Enum
from functools import lru_cache


def words(text: str) -> list[str]:
    return text.split()


# Special methods that a program may define, and call by name on anything: each is what an operator or a built-in
# function would do anyway.
MAGIC = frozenset(
    f"__{name}__"
    for name in words(
        "init new del repr str bytes format lt le eq ne gt ge hash bool call post_init "
        "len length_hint getitem setitem delitem missing iter next reversed contains enter exit "
        "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or "
        "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror "
        "iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ixor ior "
        "neg pos abs invert complex int float index round trunc floor ceil copy deepcopy sizeof fspath "
        # Python 2 names, harmless and still seen
        "div rdiv idiv cmp nonzero unicode long"
    )
)
# Definable, but fetched through a guard: on foreign objects they write or read what the guards protect.
DESCRIPTOR = frozenset({"__setattr__", "__delattr__", "__get__", "__set__", "__delete__"})
TEXTS = frozenset({"__name__", "__qualname__", "__doc__", "__module__"})
MODULE = frozenset(
    f"__{name}__"
    for name in words("name doc all author version date license copyright email status maintainer credits main builtin")
)
BINDABLE = MAGIC | DESCRIPTOR | MODULE | {"__slots__", "__match_args__", "__qualname__"}
READABLE = BINDABLE | {"__class__", "__debug__", "__import__", "__file__", "__package__"}
NATIVE_DUNDERS = MAGIC | TEXTS | {"__members__", "__cause__", "__suppress_context__", "__notes__", "__all__"}
GUARDED_DUNDERS = DESCRIPTOR | {
    *("__class__", "__dict__", "__slots__", "__match_args__"),
    *("__stdin__", "__stdout__", "__stderr__", "__version__", "__file__"),
}
# What Enum, NamedTuple and dataclass add to a class by themselves.
LIBRARY_MADE = frozenset(
    f"__{name}__"
    for name in words(
        "module dict weakref annotations orig_bases parameters abstractmethods dataclass_fields dataclass_params "
        "new_member reduce_ex getnewargs getstate setstate total required_keys optional_keys static_attributes "
        "firstlineno set_name final subclasshook readonly_keys mutable_keys closed extra_items protocol_attrs "
        "non_callable_proto_members callable_proto_members_only type_params classdictcell replace annotate "
        "annotate_func annotations_cache"
    )
)
NAMED_TUPLE = frozenset({"_make", "_replace", "_asdict", "_fields", "_field_defaults"})
FORMATS = frozenset({"format", "format_map"})
# Public names that are harmless on a program's own objects and a way out on the library's.
SENSITIVE = frozenset({"obj", "gen", "mro", "register"})
FRAMES = frozenset(
    [f"f_{n}" for n in words("back builtins code globals lasti lineno locals trace trace_lines trace_opcodes")]
    + [f"tb_{n}" for n in words("frame lasti lineno next")]
    + [f"gi_{n}" for n in words("code frame running suspended yieldfrom state")]
    + [f"cr_{n}" for n in words("await code frame running suspended origin state")]
    + [f"ag_{n}" for n in words("await code frame running suspended state")]
    + [
        f"co_{n}"
        for n in words(
            "argcount code cellvars consts exceptiontable filename firstlineno flags freevars kwonlyargcount lines "
            "linetable lnotab name names nlocals positions posonlyargcount qualname stacksize varnames"
        )
    ]
)


class Access(Enum):
    """How an attribute of that name is fetched."""

    NATIVE = 0  # the same on every object: no check
    GUARDED = 1  # only on what belongs to the program
    FORMAT = 2  # may be a string's `format`, which walks attributes by itself
    REFUSED = 3


def is_dunder(name: str) -> bool:
    return name[:2] == "__" == name[-2:] and name.strip("_") != ""


@lru_cache(4096)
def access(name: str) -> Access:
    """Rules on the name alone; what the object is decides the rest at run time."""
    if name[:1] == "_":
        if is_dunder(name):
            if name in NATIVE_DUNDERS:
                return Access.NATIVE
            return Access.GUARDED if name in GUARDED_DUNDERS else Access.REFUSED
        return Access.NATIVE if name in NAMED_TUPLE else Access.GUARDED
    if name in FRAMES:
        return Access.REFUSED
    if name in FORMATS:
        return Access.FORMAT
    return Access.GUARDED if name in SENSITIVE else Access.NATIVE


def is_plain(name: str) -> bool:
    """A public name that needs no guard on any object."""
    return name[:1] != "_" and access(name) is Access.NATIVE


def exact(name: object) -> str:
    """`name` as a real `str`: a subclass may say one thing to a check and another to what comes after it."""
    if type(name) is str:
        return name
    if not isinstance(name, str):
        raise TypeError(f"attribute name must be string, not '{type(name).__name__}'")
    return str.__str__(name)


@lru_cache(512)
def check_template(template: str) -> None:
    """Lets a format string pass whose fields reach public attributes only.

    Raises:
        AttributeError: a field walks through a private or special attribute.
        ValueError: what `str.format` says of a malformed string.
    """
    if "." not in template:
        return
    for _, field, spec, _ in _string.formatter_parser(template):
        if field:
            _, rest = _string.formatter_field_name_split(field)
            for is_attribute, name in rest:
                if is_attribute and not is_plain(name):
                    raise AttributeError(f"a format field may not reach the attribute {name!r}")
        if spec:
            check_template(spec)
