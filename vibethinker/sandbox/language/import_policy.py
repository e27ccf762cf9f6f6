"""Modules that a program can import: for each, the names that are pure functions, plain classes or constants."""

from __future__ import annotations
import __future__

import _strptime  # noqa: F401 - C code asks for it by name
import abc
import array
import ast
import base64
import binascii
import bisect
import calendar
import cmath
import codecs
import collections
import collections.abc
import contextlib
import copy
import csv
import dataclasses
import datetime
import decimal
import difflib
import enum
import fractions
import functools
import graphlib
import hashlib
import heapq
import html
import importlib
import itertools
import json
import math
import numbers
import operator
import pprint
import queue
import random
import re
import secrets
import shlex
import statistics
import string
import struct
import textwrap
import types
import typing
import unicodedata
import uuid
import weakref
import zlib
from collections.abc import Callable
from typing import Any

from vibethinker.sandbox.language import class_policy as classes
from vibethinker.sandbox.language import guarded_copy, library_guards, threading_shim
from vibethinker.sandbox.language.attribute_guards import BASES, table
from vibethinker.sandbox.language.module_shims import CALENDARS, PATHS, PRINTERS, SHIMS, operating_system
from vibethinker.sandbox.language.module_shims import some as _some
from vibethinker.sandbox.language.name_policy import exact
from vibethinker.sandbox.language.standard_streams import SYS


def _public(module: Any, without: str = "") -> dict[str, Any]:
    """A module's `__all__`, or what a C module holds, less modules and `without`."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
    hidden = without.split()
    found = {n: getattr(module, n) for n in names if n not in hidden}
    return {n: v for n, v in found.items() if not isinstance(v, types.ModuleType)}


def _literal_eval(text: str) -> Any:
    return ast.literal_eval(exact(text))


_IDENTITY_HINTS = dict.fromkeys(("final", "no_type_check", "overload", "override"), library_guards.same)
_TYPING = {
    **_public(
        typing,
        "ForwardRef get_type_hints get_overloads clear_overloads dataclass_transform no_type_check_decorator "
        "runtime_checkable get_origin get_args BinaryIO TextIO IO assert_type reveal_type is_typeddict",
    ),
    **_some(typing, "BinaryIO TextIO IO"),
    **_IDENTITY_HINTS,
    "runtime_checkable": library_guards.runtime_checkable,
    "get_origin": library_guards.hide_type(typing.get_origin),
    "get_args": library_guards.hide_type(typing.get_args),
}

STATIC: dict[str, dict[str, Any]] = {
    "__future__": _public(__future__),
    "abc": {
        "ABC": abc.ABC,
        "ABCMeta": classes.SHOWN[abc.ABCMeta],
        "abstractmethod": library_guards.abstractmethod,
        **_some(abc, "abstractproperty abstractclassmethod abstractstaticmethod"),
    },
    "array": {"array": array.array, "ArrayType": array.array, "typecodes": array.typecodes},
    "ast": {"literal_eval": _literal_eval},
    "base64": _public(base64, "encode decode"),
    "binascii": _public(binascii),
    "bisect": _some(bisect, "bisect bisect_left bisect_right insort insort_left insort_right"),
    "calendar": {
        **_some(
            calendar, "isleap leapdays weekday monthrange monthcalendar timegm Calendar TextCalendar month calendar"
        ),
        **_some(calendar, "TextCalendar MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY"),
        **CALENDARS,
    },
    "cmath": _public(cmath),
    "codecs": _some(codecs, "encode decode"),
    "collections": {**_public(collections, "UserString"), "namedtuple": library_guards.namedtuple},
    "collections.abc": _public(collections.abc),
    "contextlib": {
        **_some(contextlib, "contextmanager closing suppress nullcontext ExitStack ContextDecorator"),
        "AbstractContextManager": contextlib.AbstractContextManager,
        "redirect_stdout": library_guards.redirect_stdout,
    },
    "copy": {**_some(guarded_copy, "copy deepcopy"), "Error": copy.Error, "error": copy.Error},
    "csv": _some(
        csv, "reader writer DictReader DictWriter Error QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE QUOTE_NONNUMERIC excel"
    ),
    "dataclasses": {
        **_some(dataclasses, "field fields replace is_dataclass FrozenInstanceError InitVar KW_ONLY MISSING"),
        **_some(library_guards, "dataclass make_dataclass"),
        **_some(guarded_copy, "asdict astuple"),
    },
    "datetime": _some(datetime, "date time datetime timedelta timezone tzinfo MINYEAR MAXYEAR UTC"),
    "difflib": _some(difflib, "SequenceMatcher Differ get_close_matches ndiff unified_diff context_diff restore"),
    "enum": {**library_guards.ENUMS, **_some(enum, "auto unique"), "EnumMeta": classes.SHOWN[enum.EnumMeta]},
    "fractions": {"Fraction": fractions.Fraction},
    "functools": {
        **_some(functools, "reduce partial partialmethod lru_cache cache cached_property cmp_to_key"),
        **_some(library_guards, "wraps update_wrapper total_ordering singledispatch singledispatchmethod"),
    },
    "graphlib": _public(graphlib),
    "hashlib": _some(
        hashlib,
        "new md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s sha3_224 sha3_256 sha3_384 sha3_512 "
        "shake_128 shake_256 pbkdf2_hmac",
    ),
    "heapq": _public(heapq),
    "html": _some(html, "escape unescape"),
    "itertools": _public(itertools),
    "json": _some(json, "dump dumps load loads JSONDecoder JSONEncoder JSONDecodeError"),
    "json.decoder": _some(json, "JSONDecoder JSONDecodeError"),
    "math": _public(math),
    "numbers": _public(numbers),
    "operator": {**_public(operator), **_some(library_guards, "attrgetter methodcaller")},
    "pprint": {
        **_some(pprint, "pformat isreadable isrecursive saferepr"),
        "PrettyPrinter": library_guards.PrettyPrinter,
        **PRINTERS,
    },
    "queue": _some(queue, "Queue LifoQueue PriorityQueue SimpleQueue Empty Full"),
    "re": _public(re, "template"),
    "secrets": _public(secrets),
    "shlex": _some(shlex, "split quote join"),
    "statistics": _public(statistics),
    "string": _public(string, "Formatter"),
    "struct": _public(struct),
    "textwrap": _public(textwrap),
    "threading": threading_shim.THREADING,
    "types": {
        **_some(types, "MappingProxyType MethodType GenericAlias UnionType NoneType EllipsisType NotImplementedType"),
        "SimpleNamespace": library_guards.SimpleNamespace,
        **{n: classes.SHOWN[getattr(types, n)] for n in ("FunctionType", "BuiltinFunctionType", "GeneratorType")},
        "LambdaType": classes.SHOWN[types.FunctionType],
        "BuiltinMethodType": classes.SHOWN[types.BuiltinFunctionType],
        "ModuleType": classes.SHOWN[types.ModuleType],
    },
    "typing": _TYPING,
    "typing_extensions": _TYPING,
    "unicodedata": _public(unicodedata, "UCD ucd_3_2_0 ucnhash_CAPI"),
    "uuid": _some(uuid, "UUID uuid3 uuid4 uuid5 NAMESPACE_DNS NAMESPACE_URL NAMESPACE_OID NAMESPACE_X500"),
    "weakref": _some(weakref, "ref proxy WeakSet"),
    "zlib": _public(zlib),
    **SHIMS,
}
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
_BY_C = ("_strptime", "_pylong")
with contextlib.suppress(ImportError):
    importlib.import_module("_pylong")  # converts large integers from Python 3.12 on
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


def _collect_bases() -> None:
    for content in (*STATIC.values(), _DECIMAL, {"Random": random.Random}):
        for value in content.values():
            if not isinstance(value, type) or value in _FINAL or value in classes.REAL:
                continue
            if not issubclass(value, enum.Enum) or value in library_guards.ENUMS.values():
                BASES.add(value)
    classes.BASE_FUNCTIONS += [typing.NamedTuple, typing.TypedDict]


_collect_bases()


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
