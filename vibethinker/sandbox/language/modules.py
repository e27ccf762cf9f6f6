"""What can be imported: per module, the names that are pure functions, plain classes or constants."""

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

from vibethinker.sandbox.language import classes, copying, gadgets, guards, shims, threads
from vibethinker.sandbox.language.console import Console
from vibethinker.sandbox.language.guards import table
from vibethinker.sandbox.language.names import exact


def _public(module: Any, without: str = "") -> dict[str, Any]:
    """A module's `__all__`, or what a C module holds, less modules and `without`."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
    hidden = without.split()
    found = {n: getattr(module, n) for n in names if n not in hidden}
    return {n: v for n, v in found.items() if not isinstance(v, types.ModuleType)}


def _some(module: Any, names: str) -> dict[str, Any]:
    return {n: getattr(module, n) for n in names.split()}


def _literal_eval(text: str) -> Any:
    return ast.literal_eval(exact(text))


_IDENTITY_HINTS = dict.fromkeys(("final", "no_type_check", "overload", "override"), gadgets.same)
_TYPING = {
    **_public(
        typing,
        "ForwardRef get_type_hints get_overloads clear_overloads dataclass_transform no_type_check_decorator "
        "runtime_checkable get_origin get_args BinaryIO TextIO IO assert_type reveal_type is_typeddict",
    ),
    **_some(typing, "BinaryIO TextIO IO"),
    **_IDENTITY_HINTS,
    "runtime_checkable": gadgets.runtime_checkable,
    "get_origin": gadgets.hide_type(typing.get_origin),
    "get_args": gadgets.hide_type(typing.get_args),
}

STATIC: dict[str, dict[str, Any]] = {
    "__future__": _public(__future__),
    "abc": {
        "ABC": abc.ABC,
        "ABCMeta": classes.SHOWN[abc.ABCMeta],
        "abstractmethod": gadgets.abstractmethod,
        **_some(abc, "abstractproperty abstractclassmethod abstractstaticmethod"),
    },
    "array": {"array": array.array, "ArrayType": array.array, "typecodes": array.typecodes},
    "ast": {"literal_eval": _literal_eval},
    "base64": _public(base64, "encode decode"),
    "binascii": _public(binascii),
    "bisect": _some(bisect, "bisect bisect_left bisect_right insort insort_left insort_right"),
    "calendar": _some(
        calendar,
        "isleap leapdays weekday monthrange monthcalendar timegm Calendar TextCalendar month calendar "
        "MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY",
    ),
    "cmath": _public(cmath),
    "codecs": _some(codecs, "encode decode"),
    "collections": {**_public(collections, "UserString"), "namedtuple": gadgets.namedtuple},
    "collections.abc": _public(collections.abc),
    "contextlib": {
        **_some(
            contextlib,
            "contextmanager closing suppress nullcontext ExitStack ContextDecorator AbstractContextManager",
        ),
        "redirect_stdout": gadgets.redirect_stdout,
    },
    "copy": {"copy": copying.copy, "deepcopy": copying.deepcopy, "Error": copy.Error, "error": copy.Error},
    "csv": _some(
        csv,
        "reader writer DictReader DictWriter Error QUOTE_ALL QUOTE_MINIMAL QUOTE_NONE QUOTE_NONNUMERIC excel",
    ),
    "dataclasses": {
        **_some(
            dataclasses,
            "field fields replace is_dataclass FrozenInstanceError InitVar KW_ONLY MISSING",
        ),
        "dataclass": gadgets.dataclass,
        "asdict": copying.asdict,
        "astuple": copying.astuple,
        "make_dataclass": gadgets.make_dataclass,
    },
    "datetime": _some(datetime, "date time datetime timedelta timezone tzinfo MINYEAR MAXYEAR UTC"),
    "difflib": _some(difflib, "SequenceMatcher Differ get_close_matches ndiff unified_diff context_diff restore"),
    "enum": {**gadgets.ENUMS, **_some(enum, "auto unique"), "EnumMeta": classes.SHOWN[enum.EnumMeta]},
    "fractions": {"Fraction": fractions.Fraction},
    "functools": {
        **_some(functools, "reduce partial partialmethod lru_cache cache cached_property cmp_to_key"),
        **_some(gadgets, "wraps update_wrapper total_ordering singledispatch singledispatchmethod"),
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
    "operator": {
        **_public(operator),
        "attrgetter": gadgets.attrgetter,
        "methodcaller": gadgets.methodcaller,
    },
    "pprint": {**_some(pprint, "pformat isreadable isrecursive saferepr"), "PrettyPrinter": gadgets.PrettyPrinter},
    "queue": _some(queue, "Queue LifoQueue PriorityQueue SimpleQueue Empty Full"),
    "re": _public(re, "template"),
    "secrets": _public(secrets),
    "shlex": _some(shlex, "split quote join"),
    "statistics": _public(statistics),
    "string": _public(string, "Formatter"),
    "struct": _public(struct),
    "textwrap": _public(textwrap),
    "time": shims.TIME,
    "threading": threads.THREADING,
    "types": {
        **_some(types, "MappingProxyType MethodType GenericAlias UnionType NoneType EllipsisType NotImplementedType"),
        "SimpleNamespace": gadgets.SimpleNamespace,
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
    **shims.QUIET,
}
_CONTEXTS = ("DefaultContext", "BasicContext", "ExtendedContext")
_DECIMAL = _public(decimal, " ".join(_CONTEXTS))
_RANDOM = [n for n in random.__all__ if n not in ("Random", "SystemRandom")]
# C code imports these through the program's own `__import__`, and takes the result from elsewhere
_BY_C = ("_strptime", "_pylong")
with contextlib.suppress(ImportError):
    importlib.import_module("_pylong")  # what Python 3.12 and later convert large integers with
# Their instances hold a name that other code writes to, or a class that they would let through.
_FINAL = {
    *(functools.cached_property, functools.partial, functools.partialmethod, gadgets.singledispatchmethod),
    *(dataclasses.InitVar, types.MappingProxyType, types.MethodType, types.GenericAlias, types.UnionType),
    *(weakref.ref, super, memoryview),
}
_STANDALONE = {name: table(name, content) for name, content in STATIC.items()}
_STANDALONE["collections"].__dict__["abc"] = _STANDALONE["collections.abc"]
_STANDALONE["json"].__dict__["decoder"] = _STANDALONE["json.decoder"]


def _collect_bases() -> None:
    contents = [*STATIC.values(), _DECIMAL, shims.STREAM_CLASSES, {"Random": random.Random}]
    for content in contents:
        for value in content.values():
            if not isinstance(value, type) or value in _FINAL or value in classes.REAL:
                continue
            if not issubclass(value, enum.Enum) or value in gadgets.ENUMS.values():
                guards.BASES.add(value)
    classes.BASE_FUNCTIONS += [typing.NamedTuple, typing.TypedDict]


_collect_bases()


def importer(console: Console, system: Any) -> Callable[..., Any]:
    """`__import__` of one run: tables shared by all runs, and fresh ones for what has a state."""
    fresh: dict[str, Any] = {"sys": system}

    def make(name: str) -> Any:
        if name == "random":
            source = random.Random()
            drawn = {n: getattr(source, n) for n in _RANDOM}
            return table("random", {**drawn, **_some(random, "Random SystemRandom")})
        if name == "decimal":
            return table("decimal", {**_DECIMAL, **{n: getattr(decimal, n).copy() for n in _CONTEXTS}})
        if name == "io":
            return table("io", {**shims.STREAM_CLASSES, "open": shims.opener(console)})
        if name == "os":
            return shims.operating_system(console)
        if name == "os.path":
            return shims.PATHS
        if name == "fileinput":
            return table("fileinput", {"input": lambda files=(), **options: _lines(files, system)})
        if name in ("traceback", "warnings"):
            fresh.update(shims.reporters(console))
            return fresh[name]
        if name == "calendar":
            return table("calendar", {**STATIC["calendar"], **_calendars(system)})
        if name == "pprint":
            return table("pprint", {**STATIC["pprint"], **_printers(system)})
        return _STANDALONE.get(name)

    def find(name: str) -> Any:
        found = fresh.get(name)
        if found is None:
            if name in _BY_C:
                return table(name, {})
            found = fresh[name] = make(name)
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        name = exact(name)
        if level:
            raise ImportError("attempted relative import with no known parent package")
        found = find(name)
        return found if fromlist or "." not in name else find(name.partition(".")[0])

    import_.__name__ = import_.__qualname__ = "__import__"
    return import_


def _printers(system: Any) -> dict[str, Any]:
    def show(value: Any, stream: Any = None, **options: Any) -> None:
        pprint.pprint(value, system.stdout if stream is None else stream, **options)

    return {"pprint": show, "pp": lambda value, *args, **options: show(value, *args, sort_dicts=False, **options)}


def _lines(files: Any, system: Any) -> Any:
    """`fileinput.input`, whose lines can only be those of standard input."""
    for file in (files,) if isinstance(files, str) else files or ():
        if file != "-":
            raise FileNotFoundError(2, "No such file or directory", file)
    return system.stdin


def _calendars(system: Any) -> dict[str, Any]:
    names = {n: tuple(getattr(calendar, n)) for n in ("month_name", "month_abbr", "day_name", "day_abbr")}
    return {
        **names,
        "prmonth": lambda year, month, *sizes: system.stdout.write(calendar.month(year, month, *sizes)) and None,
        "prcal": lambda year, *sizes: system.stdout.write(calendar.calendar(year, *sizes)) and None,
    }
