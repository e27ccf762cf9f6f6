"""State that programs share with their process: loaded before it is locked in, reset before each program."""

from __future__ import annotations

import codecs
import decimal
import sys
import types
import warnings
from pprint import PrettyPrinter
from textwrap import TextWrapper
from typing import Any

from vibethinker.sandbox.language.ast_transformer import compile_program
from vibethinker.sandbox.language.builtin_functions import make_namespace
from vibethinker.sandbox.language.name_policy import words
from vibethinker.sandbox.language.standard_streams import Console

_ENCODINGS = words(
    "ascii latin-1 utf-8 utf-8-sig utf-16 utf-16-le utf-16-be utf-32 utf-7 cp1252 cp437 idna punycode rot13 "
    "unicode_escape raw_unicode_escape iso8859-15 cp1251 koi8-r"
)
_EXERCISE = r"""
import random, decimal, fractions, statistics, datetime, time, calendar, json, re, collections, functools, itertools
import dataclasses, enum, typing, copy, string, textwrap, pprint, heapq, hashlib, base64, uuid, secrets, csv, io, html
import difflib, queue, graphlib, shlex, zlib, unicodedata, struct, array, abc, contextlib, operator, types, os, weakref
datetime.datetime.strptime("2024-02-03 04:05", "%Y-%m-%d %H:%M").strftime("%A %j")
time.strptime("03 Feb", "%d %b"); time.localtime(); time.strftime("%c")
datetime.datetime.now().astimezone().isoformat()
calendar.month(2024, 2); decimal.Decimal(2).sqrt(); statistics.median([1, 2]); statistics.stdev([1, 2, 4])
statistics.NormalDist(0, 1).cdf(1); statistics.linear_regression([1, 2], [1, 2]); statistics.quantiles([1, 2, 3])
json.loads(json.dumps({"a": [1.5, None]}, indent=1)); re.sub(r"(?P<a>\w+)\s*", r"\g<a>", "ab c", flags=re.I)
collections.Counter("aab").most_common(1); collections.namedtuple("P", "x y")(1, 2)
@functools.singledispatch
def show(x): return x
@show.register(int)
def _(x): return x
show(1); functools.lru_cache(None)(len)("ab")
@dataclasses.dataclass(order=True, frozen=True, slots=True)
class D:
    x: int = 1
    y: list = dataclasses.field(default_factory=list, compare=False)
repr(dataclasses.replace(D(), x=2)), dataclasses.asdict(D()), copy.deepcopy([D(), {1: 2}])
class Color(enum.Flag):
    RED = enum.auto()
    BLUE = enum.auto()
Color.RED | Color.BLUE, enum.Enum("E", "A B"), str(Color.RED)
class T(typing.NamedTuple):
    x: int
class M(typing.TypedDict):
    x: int
class G(typing.Generic[typing.TypeVar("X")]): pass
@typing.runtime_checkable
class P(typing.Protocol):
    def f(self): ...
isinstance(G(), P), typing.Optional[typing.List["int"]]
string.Template("$a").substitute(a=1); textwrap.fill("a b " * 30, 20); pprint.pformat({1: list(range(99))})
for digest in "md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s sha3_256".split():
    hashlib.new(digest, b"a").hexdigest()
hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1); base64.b85encode(b"abc"); base64.b32decode(base64.b32encode(b"a"))
uuid.uuid4(), uuid.uuid5(uuid.NAMESPACE_DNS, "a"), secrets.token_hex(4), secrets.randbelow(9)
list(csv.DictReader(io.StringIO("a,b\n1,2"))); html.unescape("&eacute;"); "\N{BULLET}".encode("unicode_escape")
list(difflib.unified_diff(["a"], ["b"])), difflib.get_close_matches("ab", ["abc"]), shlex.split("a 'b c'")
list(graphlib.TopologicalSorter({1: [2]}).static_order()); queue.PriorityQueue().put(1); zlib.compress(b"a")
random.sample(range(9), 3), random.gauss(0, 1), random.choices("ab", [1, 2], k=2), random.SystemRandom().random()
with contextlib.ExitStack() as stack: stack.enter_context(contextlib.suppress(ValueError))
@contextlib.contextmanager
def managed(): yield 1
with managed(): pass
open(0).read(); io.TextIOWrapper(io.BytesIO(b"a")).read(); eval("1 + 1"); 10 ** 5000 > 1
try: [].x
except AttributeError as error: str(error)
print(f"{decimal.Decimal('1.5'):.3f} {1e10:,} {'{0:>{1}}'.format(1, 5)}", os.path.join("a", "b"))
"""


def preload() -> None:
    """Loads what would be imported or opened at first use; afterwards everything works without any file."""
    for encoding in _ENCODINGS:
        codecs.encode("a", encoding)
    warnings.simplefilter("ignore")
    console = Console("x\n")
    exec(compile_program(_EXERCISE), namespace(console))
    console.text()
    reset()


def namespace(console: Console, name: str = "__main__") -> dict[str, Any]:
    """Fresh globals in which to `exec` a compiled program; changes by an earlier program are not seen in them."""
    reset()
    return make_namespace(console, name)


def reset() -> None:
    """Resets settings of the interpreter that a program may change."""
    sys.setrecursionlimit(1000)
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
    decimal.setcontext(decimal.DefaultContext.copy())


# Class attributes of the library that a program could reach and change.
for _owner, _attribute in ((TextWrapper, "unicode_whitespace_trans"), (PrettyPrinter, "_dispatch")):
    setattr(_owner, _attribute, types.MappingProxyType(dict(getattr(_owner, _attribute))))
