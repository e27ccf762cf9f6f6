"""Hostile programs, each with what it would take to say that it got through.

Every program tries to do something observable: to print a secret that lies in a file, to leave a file behind, to reach
a listener, to end a process, to pass a test that it does not solve, to outlive its run. Paths and numbers in capitals
between `<` and `>` are filled in by the test. No test depends on the name of an exception.
"""

from __future__ import annotations

from typing import Final

# Would print the secret that is in the file <SECRET>.
READ: Final = {
    "open": "print(open('<SECRET>').read())",
    "os-open": "import os\nprint(os.read(os.open('<SECRET>', 0), 99).decode())",
    "pathlib": "import pathlib\nprint(pathlib.Path('<SECRET>').read_text())",
    "io-fileio": "import io\nprint(io.FileIO('<SECRET>').read().decode())",
    "linecache": "import linecache\nprint(linecache.getline('<SECRET>', 1))",
    "fileinput": "import fileinput\nprint(*fileinput.input('<SECRET>'))",
    "fileinput-name": "import fileinput\nprint(*fileinput.input(files=['-', '<SECRET>']))",
    "popen": "import os\nprint(os.popen('cat <SECRET>').read())",
    "subprocess": "import subprocess\nprint(subprocess.check_output(['cat', '<SECRET>']).decode())",
    "eval": "print(eval(\"__import__('builtins').open('<SECRET>').read()\"))",
    "exec": "exec(\"import os\\nprint(os.popen('cat <SECRET>').read())\")",
    "subclasses": (
        "for c in ().__class__.__base__.__subclasses__():\n"
        "    if c.__name__ == '_wrap_close':\n"
        "        print(c.__init__.__globals__['popen']('cat <SECRET>').read())"
    ),
    "generator-frame": "g = (x for x in ())\nprint(g.gi_frame.f_builtins['open']('<SECRET>').read())",
    "traceback-frame": (
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n"
        "    print(e.__traceback__.tb_frame.f_builtins['open']('<SECRET>').read())"
    ),
    "function-globals": "def f(): pass\nprint(f.__builtins__['open']('<SECRET>').read())",
    "builtin-self": "print(len.__self__.open('<SECRET>').read())",
    "module-of-module": "import fractions\nprint(fractions.sys.modules['os'].popen('cat <SECRET>').read())",
    "attrgetter": (
        "import operator\nget = operator.attrgetter('__class__.__base__')\n"
        "for c in operator.methodcaller('__subclasses__')(get(())):\n"
        "    if c.__name__ == '_wrap_close':\n"
        "        print(operator.attrgetter('__init__.__globals__')(c)['popen']('cat <SECRET>').read())"
    ),
    "format": (
        "class A:\n    def __init__(self): pass\n"
        "print('{0.__init__.__globals__[__builtins__]}'.format(A()))\nprint(open('<SECRET>').read())"
    ),
    "ctypes": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nfd = libc.open(b'<SECRET>', 0)\n"
        "b = ctypes.create_string_buffer(99)\nlibc.read(fd, b, 99)\nprint(b.value.decode())"
    ),
    "pickle": "import pickle\nprint(pickle.loads(b\"cbuiltins\\nopen\\n(S'<SECRET>'\\ntR.\").read())",
    "chdir-up": "import os\nfor _ in range(50): os.chdir('..')\nprint(open('.<SECRET>').read())",
    "proc-root": "print(open('/proc/1/root<SECRET>').read())",
    "descriptors": (
        "import os\nfor fd in range(3, 256):\n    try:\n        print(os.pread(fd, 99, 0).decode())\n"
        "    except OSError: pass\nprint(open('<SECRET>').read())"
    ),
}

# Would say that the file <SECRET> is there.
SEE: Final = {
    "stat": "import os\nos.stat('<SECRET>')\nprint('seen')",
    "lstat": "import os\nos.lstat('<SECRET>')\nprint('seen')",
    "exists": "import os\nif os.path.exists('<SECRET>'): print('seen')",
    "access": "import os\nif os.access('<SECRET>', 0): print('seen')",
    "glob": "import glob\nif glob.glob('<SECRET>'): print('seen')",
    "readlink": "import os\ntry: os.readlink('<SECRET>')\nexcept OSError as e:\n    if e.errno == 22: print('seen')",
}

# Would leave the file <MARK> behind.
WRITE: Final = {
    "open": "open('<MARK>', 'w').write('x')",
    "system": "import os\nos.system('touch <MARK>')",
    "execv": "import os\nos.execv('/bin/sh', ['sh', '-c', 'touch <MARK>'])",
    "spawn": "import os\nos.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'touch <MARK>'], {}), 0)",
    "subprocess": "import subprocess\nsubprocess.run(['touch', '<MARK>'])",
    "ctypes-system": "import ctypes\nctypes.CDLL(None).system(b'touch <MARK>')",
    "mkdir": "import os\nos.mkdir('<MARK>')",
    "symlink": "import os\nos.symlink('/etc/passwd', '<MARK>')",
    "mknod": "import os\nos.mknod('<MARK>')",
    "new-namespace": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unshare(0x10020000)\n"
        "libc.mount(b'none', b'/proc', b'proc', 0, None)\nopen('<MARK>', 'w')"
    ),
    "executable-memory": (
        "import mmap, ctypes\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xc3')\n"
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\nopen('<MARK>', 'w')"
    ),
}

# Would reach the listener on port <PORT>.
CONNECT: Final = {
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', <PORT>)).send(b'x')",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', <PORT>))",
    "urllib": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:<PORT>/')",
    "inherited": "import socket\nfor fd in range(256):\n    try: socket.socket(fileno=fd).sendall(b'<PORT>')\n"
    "    except OSError: pass",
}

# Would end the process <PID>, or another program.
KILL: Final = {
    "kill": "import os, signal\nos.kill(<PID>, 9)",
    "everyone": "import os\nos.kill(-1, 9)",
    "parent": "import os\nos.kill(os.getppid(), 9)",
    "group": "import os\nos.killpg(0, 9)",
    "ctypes": "import ctypes\nctypes.CDLL(None).kill(<PID>, 9)",
    "ptrace": "import ctypes\nctypes.CDLL(None).ptrace(16, <PID>, 0, 0)",
}

# Would still be there when its run is over.
LINGER: Final = {
    "fork": "import os, time\nif os.fork() == 0: time.sleep(60)",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)\n"
    "    os._exit(0)",
    "bomb": "import os\nfor _ in range(12): os.fork()\nimport time\ntime.sleep(60)",
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
    "multiprocessing": "import multiprocessing, time\nmultiprocessing.Process(target=time.sleep, args=(60,)).start()",
}

# Would never end, or take everything.
EXHAUST: Final = {
    "loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000000)",
    "c-loop": "import itertools\nsum(itertools.count())",
    "power": "x = 9 ** 9 ** 9",
    "memory": "x = []\nwhile True: x.append(' ' * 10_000_000)",
    "one-block": "x = bytearray(1 << 36)\nprint(len(x))",
    "raise-limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 44, 1 << 44))\n"
        "x = bytearray(1500 << 20)\nprint('raised')"
    ),
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "output": "while True: print('x' * 1000)",
    "one-print": "print('x' * (1 << 28))",
    "swallow": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "swallow-memory": "x = []\nwhile True:\n    try: x.append(bytearray(1 << 24))\n    except BaseException: pass",
    "finally": "def g():\n    while True:\n        try: yield 1\n        finally: continue\nfor x in g(): pass",
    "deep-source": "x = " + "(" * 5000 + ")" * 5000,
    "deep-tree": "x = " + "-" * 50_000 + "1",
    "regex": "import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
    "close-channel": "import os\nos.closerange(0, 256)\nwhile True: pass",
    "many-parts": (
        "import os, struct\nb = b'{\"at\":0,\"value\":[' + b'[],' * 5_000_000 + b'0]}'\n"
        "b = struct.pack('<I', len(b)) + b\nwhile b: b = b[os.write(3, b):]"
    ),
    "ignore-signals": "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except OSError: pass\nwhile True: pass",
}

# Would pass as f(x) = x * x + 7 without computing it.
HACK: Final = {
    "equal-object": "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "equal-int": "class E(int):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "    def __hash__(self): return 0\ndef f(x): return E(0)",
    "equal-list": "class E(list):\n    def __eq__(self, o): return True\ndef f(x): return E()",
    "small-difference": "class Z:\n    def __sub__(s, o): return 0\n    def __rsub__(s, o): return 0\n"
    "    def __abs__(s): return 0\n    def __lt__(s, o): return True\n    def __eq__(s, o): return True\n"
    "def f(x): return Z()",
    "contains": "class C:\n    def __contains__(s, o): return True\n    def __eq__(s, o): return True\n"
    "def f(x): return C()",
    "nan": "def f(x): return float('nan')",
    "exit-in-call": "def f(x): raise SystemExit(0)",
    "exit-at-once": "raise SystemExit(0)",
    "hard-exit": "import os\nos._exit(0)",
    "hard-exit-in-call": "import os\ndef f(x): os._exit(0)",
    "assertion-error": "import builtins\nbuiltins.AssertionError = type('N', (Exception,), {})\ndef f(x): return 0",
    "own-check": "def check(*a): return True\ndef f(x): return 0",
    "own-builtins": "set = sorted = sum = len = abs = lambda *a: 0\nint = bool = lambda *a: True\ndef f(x): return 0",
    "frame-of-caller": "import sys\ndef f(x):\n    frame = sys._getframe(1)\n"
    "    known = [c for c in frame.f_code.co_consts if type(c) is int]\n    return known[known.index(x) + 1]",
    "globals-of-caller": "import sys\ndef f(x):\n    frame = sys._getframe(1)\n    while frame:\n"
    "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
    "            if isinstance(value, (list, tuple, dict)) and '<ANSWER>' in str(value): return <ANSWER>\n"
    "        frame = frame.f_back",
    "own-memory": "import re\ndef f(x):\n    for line in open('/proc/self/maps'):\n        part = line.split()\n"
    "        if 'rw' not in part[1]: continue\n        low, high = [int(v, 16) for v in part[0].split('-')]\n"
    "        memory = open('/proc/self/mem', 'rb', 0)\n        memory.seek(low)\n"
    "        found = re.search(rb'f.%d.. == (-?[0-9]+)' % x, memory.read(high - low))\n"
    "        if found: return int(found.group(1))",
    "objects": "import gc, re\ndef f(x):\n    for thing in gc.get_objects():\n"
    "        found = re.search('f.%d.. == (-?[0-9]+)' % x, str(thing)[:10000])\n"
    "        if found: return int(found.group(1))",
    "write-verdicts": "import os, struct\nfor at in range(9):\n"
    "    b = (b'{\"at\":%d,\"value\":%d}' % (at, <ANSWER>))\n    os.write(3, struct.pack('<I', len(b)) + b)\n"
    "os.close(3)\nos._exit(0)",
    "write-truths": "import os, struct\nfor at in range(9):\n"
    '    b = b\'{"at":%d,"value":true}\' % at\n    for fd in (3, 4):\n'
    "        os.write(fd, struct.pack('<I', len(b)) + b)\n"
    "os._exit(0)",
    "printed-marker": "print('PASS')\nprint('{\"passed\": true}')\ndef f(x): print('passed'); return True",
    "endless-iterator": "import itertools\ndef f(x): return itertools.count()",
    "cycle": "a = []\na.append(a)\ndef f(x): return a",
    "deep-value": "a = []\nfor i in range(100000): a = [a]\ndef f(x): return a",
    "wide-value": "a = []\nfor i in range(40): a = [a, a]\ndef f(x): return a",
    "reduce": "class R:\n    def __reduce__(self): return (int, (<ANSWER>,))\ndef f(x): return R()",
    "swallow": "def f(x):\n    try: raise ValueError\n    except BaseException: return None",
    "mutate-arguments": "def f(x):\n    if isinstance(x, list): x.clear()\n    return x",
}
