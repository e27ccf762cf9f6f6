"""The names that a program may spell, as variables and as attributes: for the compiler and the run-time guards."""

from __future__ import annotations

import _string
import types
from enum import Enum
from functools import lru_cache


def words(text: str) -> list[str]:
    """Names in a string, separated by blanks."""
    return text.split()


def dunders(text: str) -> frozenset[str]:
    """Special names, given without their underscores."""
    return frozenset(f"__{name}__" for name in text.split())


# Special methods that a program may define, and call by name on anything: each is what an operator or a built-in
# function would do anyway.
MAGIC = dunders(
    "init new del repr str bytes format lt le eq ne gt ge hash bool call post_init "
    "len length_hint getitem setitem delitem missing iter next reversed contains enter exit "
    "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or "
    "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror "
    "iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ixor ior "
    "neg pos abs invert complex int float index round trunc floor ceil copy deepcopy sizeof fspath "
    # Python 2 names, harmless and still seen
    "div rdiv idiv cmp nonzero unicode long"
)
# Definable, but fetched through a guard: on foreign objects they write or read what the guards protect.
DESCRIPTOR = dunders("setattr delattr get set delete")
TEXTS = dunders("name qualname doc module")
MODULE = dunders("name doc all author version date license copyright email status maintainer credits main builtin")
BINDABLE = MAGIC | DESCRIPTOR | MODULE | dunders("slots match_args qualname")
READABLE = BINDABLE | dunders("class debug import file package")
NATIVE_DUNDERS = MAGIC | TEXTS | dunders("members cause suppress_context notes all")
GUARDED_DUNDERS = DESCRIPTOR | dunders("class dict slots match_args stdin stdout stderr version file")
# What Enum, NamedTuple and dataclass add to a class by themselves.
LIBRARY_MADE = dunders(
    "module dict weakref annotations orig_bases parameters abstractmethods dataclass_fields dataclass_params "
    "new_member reduce_ex getnewargs getstate setstate total required_keys optional_keys static_attributes "
    "firstlineno set_name final subclasshook readonly_keys mutable_keys closed extra_items protocol_attrs "
    "non_callable_proto_members callable_proto_members_only type_params classdictcell replace annotate "
    "annotate_func annotations_cache"
)
NAMED_TUPLE = frozenset({"_make", "_replace", "_asdict", "_fields", "_field_defaults"})
FORMATS = frozenset({"format", "format_map"})
# Public names that are harmless on a program's own objects and a way out on the library's.
SENSITIVE = frozenset({"obj", "gen", "mro", "register"})
# Attributes of frames, tracebacks, generators, coroutines and code objects.
FRAMES = frozenset(
    name
    for kind in (
        *(types.FrameType, types.TracebackType, types.CodeType),
        *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    )
    for name in dir(kind)
    if name.startswith(("f_", "tb_", "co_", "gi_", "cr_", "ag_"))
)


class Access(Enum):
    """How an attribute of that name is fetched."""

    NATIVE = 0  # the same on every object: no check
    GUARDED = 1  # only on what belongs to the program
    FORMAT = 2  # may be a string's `format`, which walks attributes by itself
    REFUSED = 3


def is_dunder(name: str) -> bool:
    """True of a special name such as `__len__`."""
    return name[:2] == "__" == name[-2:] and name.strip("_") != ""


def _access(name: str) -> Access:
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


class _Rules(dict[str, Access]):
    """The rule for each name alone; the object decides the rest at run time. Keys are exact strings."""

    def __missing__(self, name: str) -> Access:
        rule = _access(name)
        if len(self) < 10_000:
            self[name] = rule
        return rule


RULES = _Rules()


def is_plain(name: str) -> bool:
    """True of a public name that needs no guard on any object."""
    return name[:1] != "_" and RULES[name] is Access.NATIVE


def exact(name: object) -> str:
    """`name` as a real `str`: a subclass may tell a check one thing and its user another."""
    if type(name) is str:
        return name
    if not isinstance(name, str):
        raise TypeError(f"attribute name must be string, not '{type(name).__name__}'")
    return str.__str__(name)


@lru_cache(512)
def check_template(template: str) -> None:
    """Checks that the fields of a format string reach public attributes only.

    Raises:
        AttributeError: a field walks through a private or special attribute.
        ValueError: the string is malformed, in the words of `str.format`.
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
