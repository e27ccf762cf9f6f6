"""Modules that a program can import: for each, the names that are pure functions, plain classes or constants."""

from __future__ import annotations

import abc
import ast
import contextlib
import dataclasses
import decimal
import enum
import functools
import random
import types
import typing
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

from vibethinker.sandbox.language import class_policy as classes
from vibethinker.sandbox.language import guarded_copy, library_guards, threading_shim
from vibethinker.sandbox.language.attribute_guards import BASES, table
from vibethinker.sandbox.language.module_shims import CALENDARS, PATHS, PRINTERS, SHIMS, operating_system, some
from vibethinker.sandbox.language.name_policy import exact, words
from vibethinker.sandbox.language.standard_streams import SYS

_WHOLE = {  # module → its public names that are left out
    **dict.fromkeys(
        words("__future__ binascii cmath collections.abc graphlib heapq itertools math numbers operator"), ""
    ),
    **dict.fromkeys(words("secrets statistics struct textwrap zlib"), ""),
    "base64": "encode decode",
    "collections": "UserString",
    "re": "template",
    "string": "Formatter",
    "typing": "ForwardRef get_type_hints get_overloads clear_overloads dataclass_transform no_type_check_decorator "
    "runtime_checkable get_origin get_args BinaryIO TextIO IO assert_type reveal_type is_typeddict",
    "unicodedata": "UCD ucd_3_2_0 ucnhash_CAPI",
}
_PARTS = {  # module → its names that are there
    "abc": "ABC abstractproperty abstractclassmethod abstractstaticmethod",
    "array": "array ArrayType typecodes",
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "calendar": "isleap leapdays weekday monthrange monthcalendar timegm Calendar TextCalendar month calendar "
    "MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY",
    "codecs": "encode decode",
    "contextlib": "contextmanager closing suppress nullcontext ExitStack ContextDecorator AbstractContextManager",
    "copy": "Error error",
    "csv": "reader writer DictReader DictWriter Error QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE QUOTE_NONNUMERIC excel",
    "dataclasses": "field fields replace is_dataclass FrozenInstanceError InitVar KW_ONLY MISSING",
    "datetime": "date time datetime timedelta timezone tzinfo MINYEAR MAXYEAR UTC",
    "difflib": "SequenceMatcher Differ get_close_matches ndiff unified_diff context_diff restore",
    "enum": "auto unique",
    "fractions": "Fraction",
    "functools": "reduce partial partialmethod lru_cache cache cached_property cmp_to_key",
    "hashlib": "new md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s sha3_224 sha3_256 sha3_384 sha3_512 "
    "shake_128 shake_256 pbkdf2_hmac",
    "html": "escape unescape",
    "json": "dump dumps load loads JSONDecoder JSONEncoder JSONDecodeError",
    "json.decoder": "JSONDecoder JSONDecodeError",
    "pprint": "pformat isreadable isrecursive saferepr",
    "queue": "Queue LifoQueue PriorityQueue SimpleQueue Empty Full",
    "shlex": "split quote join",
    "types": "MappingProxyType MethodType GenericAlias UnionType NoneType EllipsisType NotImplementedType",
    "uuid": "UUID uuid3 uuid4 uuid5 NAMESPACE_DNS NAMESPACE_URL NAMESPACE_OID NAMESPACE_X500",
    "weakref": "ref proxy WeakSet",
}
_TYPE_NAMES = words("FunctionType LambdaType BuiltinFunctionType BuiltinMethodType GeneratorType ModuleType")
_REPLACED: dict[str, dict[str, Any]] = {  # module → names of our own
    "abc": {"ABCMeta": classes.SHOWN[abc.ABCMeta], "abstractmethod": library_guards.abstractmethod},
    "ast": {"literal_eval": lambda text: ast.literal_eval(exact(text))},
    "calendar": CALENDARS,
    "collections": some(library_guards, "namedtuple"),
    "contextlib": some(library_guards, "redirect_stdout"),
    "copy": some(guarded_copy, "copy deepcopy"),
    "dataclasses": some(library_guards, "dataclass make_dataclass") | some(guarded_copy, "asdict astuple"),
    "enum": {**library_guards.ENUMS, "EnumMeta": classes.SHOWN[enum.EnumMeta]},
    "functools": some(library_guards, "wraps update_wrapper total_ordering singledispatch singledispatchmethod"),
    "operator": some(library_guards, "attrgetter methodcaller"),
    "pprint": some(library_guards, "PrettyPrinter") | PRINTERS,
    "threading": threading_shim.THREADING,
    "types": {
        **some(library_guards, "SimpleNamespace"),
        **{name: classes.SHOWN[getattr(types, name)] for name in _TYPE_NAMES},
    },
    "typing": {
        **some(typing, "BinaryIO TextIO IO"),
        **dict.fromkeys(("final", "no_type_check", "overload", "override"), lambda value: value),
        **some(library_guards, "runtime_checkable"),
        **{name: library_guards.hide_type(getattr(typing, name)) for name in ("get_origin", "get_args")},
    },
    **SHIMS,
}


def _public(module: Any, left_out: str) -> dict[str, Any]:
    """A module's `__all__`, or the names of a C module, less modules and those left out."""
    names = set(getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]) - set(words(left_out))
    found = some(module, " ".join(sorted(names)))
    return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}


STATIC: dict[str, dict[str, Any]] = {
    **{name: _public(import_module(name), left_out) for name, left_out in _WHOLE.items()},
    **{name: some(import_module(name), names) for name, names in _PARTS.items()},
}
for _module, _content in _REPLACED.items():
    STATIC[_module] = STATIC.get(_module, {}) | _content
STATIC["typing_extensions"] = STATIC["typing"]

# A program's own, made when it imports them: state and environment.
_CONTEXTS = ("DefaultContext", "BasicContext", "ExtendedContext")
_DECIMAL = _public(decimal, " ".join(_CONTEXTS))
_CLASSES = ("Random", "SystemRandom")


def _random() -> dict[str, Any]:
    source = random.Random()
    return {n: getattr(random if n in _CLASSES else source, n) for n in random.__all__}


_FRESH: dict[str, Callable[[], dict[str, Any]]] = {
    "random": _random,
    "decimal": lambda: {**_DECIMAL, **{n: getattr(decimal, n).copy() for n in _CONTEXTS}},
    "os": operating_system,
}
# C code imports these through the program's own `__import__`, and takes the result from elsewhere.
_BY_C = ("_strptime", "_pylong")  # the latter converts large integers from Python 3.12 on
for _module in _BY_C:
    with contextlib.suppress(ImportError):
        import_module(_module)
_SHARED = {name: table(name, content) for name, content in STATIC.items()} | {n: table(n, {}) for n in _BY_C}
_SHARED["collections"].__dict__["abc"] = _SHARED["collections.abc"]
_SHARED["json"].__dict__["decoder"] = _SHARED["json.decoder"]
_SHARED |= {"os.path": PATHS, "sys": SYS}
_imported: dict[str, Any] = {}  # of `_FRESH`, by the program that this process runs

# Their instances hold a name that other code writes to, or a class that they would let through.
_FINAL = {
    *(functools.cached_property, functools.partial, functools.partialmethod, library_guards.singledispatchmethod),
    *(dataclasses.InitVar, types.MappingProxyType, types.MethodType, types.GenericAlias, types.UnionType),
    *(weakref.ref, super, memoryview),
}
BASES.update(
    value
    for content in (*STATIC.values(), _DECIMAL, {"Random": random.Random})
    for value in content.values()
    if isinstance(value, type) and value not in _FINAL and value not in classes.REAL
    if not issubclass(value, enum.Enum) or value in library_guards.ENUMS.values()
)
classes.BASE_FUNCTIONS += [typing.NamedTuple, typing.TypedDict]


def forget() -> None:
    """Drops the modules that have a state: the next program gets its own."""
    _imported.clear()


def _find(name: str) -> Any:
    if name in _FRESH and name not in _imported:
        _imported[name] = table(name, _FRESH[name]())
    found = _imported.get(name) or _SHARED.get(name)
    if found is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return found


def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """`__import__`.

    Args:
        name: of the module, dotted.
        globals: unused, as are `locals`.
        locals: unused.
        fromlist: what is imported from it; without, the result is the topmost package.
        level: above 0 for a relative import, which fails.

    Raises:
        ImportError: no such module.
    """
    name = exact(name)
    if level:
        raise ImportError("attempted relative import with no known parent package")
    found = _find(name)
    return found if fromlist or "." not in name else _find(name.partition(".")[0])


import_.__name__ = import_.__qualname__ = "__import__"
