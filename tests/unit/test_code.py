"""What a function depends on: the scenarios of edits, each as two versions of a few modules."""

import functools
import importlib
import itertools
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flowpar.caching.code import FunctionDigester, untracked
from flowpar.caching.digest import NotDigestible, ValueDigester
from flowpar.caching.keeping import imported_of

ROOT = Path(__file__).parents[2]


class Lab:
    """Writes modules, imports them afresh and digests what they define."""

    def __init__(self, tmp_path):
        self.tmp_path = tmp_path
        self.numbers = itertools.count()

    def write(self, modules, folder=None):
        folder = folder or self.tmp_path / f"v{next(self.numbers)}"
        for name, text in modules.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return folder

    def load(self, modules, folder=None):
        folder = self.write(modules, folder)
        names = {name.replace("/", ".").removesuffix(".__init__") for name in modules}
        for name in list(sys.modules):
            if name in names or name in {"main", "helpers"}:
                del sys.modules[name]
        importlib.invalidate_caches()
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return importlib.import_module("main")
        finally:
            sys.dont_write_bytecode = before
            # The folder stays on the path, for imports inside functions.

    def code(self, modules, folder=None):
        modules = {"main": modules} if isinstance(modules, str) else modules
        return FunctionDigester().code(self.load(modules, folder).f)

    def digest(self, modules, folder=None):
        return self.code(modules, folder).digest


@pytest.fixture
def lab(tmp_path):
    path, modules = list(sys.path), dict(sys.modules)
    yield Lab(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def kinds(code):
    return {(each.kind, each.name) for each in code.components}


BODY = """
def f(x):
    total = x + 1
    return total
"""

LOGGING = """
import logging, threading
LOG = logging.getLogger('x')
L = threading.Lock()
def f():
    with L:
        LOG.info('x')
"""

SAME = {
    "A1 nothing": (BODY, BODY),
    "A3 comment": (BODY, "def f(x):\n    # why\n    total = x + 1  # so\n    return total\n"),
    "A4 lines above": (BODY, "import os\n\n\n\nX = 1\n" + BODY),
    "A5 docstring": (BODY, 'def f(x):\n    "Doc."\n    total = x + 1\n    return total\n'),
    "A6 local renamed": (BODY, BODY.replace("total", "t")),
    "A7 whitespace": (BODY, BODY.replace("x + 1", "(x  +\n       1)")),
    "A8 annotation": (
        BODY,
        BODY.replace("(x)", "(x: int) -> 'str'").replace("total =", "total: int ="),
    ),
    "renamed": (BODY + "f = f", BODY.replace("def f", "def g") + "f = g"),
    "recursive, renamed": (
        "def f(n):\n    return n and f(n - 1)\n",
        "def g(n):\n    return n and g(n - 1)\nf = g\n",
    ),
    "helper renamed": (
        "def h(): return 1\ndef f(): return h()",
        "def k(): return 1\ndef f(): return k()",
    ),
    "functions reordered": (
        "def h(): return 1\ndef f(): return h()",
        "def f(): return h()\ndef h(): return 1",
    ),
    "helper moved": (
        "def h(): return 1\ndef f(): return h()",
        {"main": "from helpers import h\ndef f(): return h()", "helpers": "def h():\n    return 1"},
    ),
    "helper's comment": (
        {"main": "import helpers\ndef f(): return helpers.h()", "helpers": "def h(): return 1"},
        {
            "main": "import helpers as p\ndef f(): return p.h()",
            "helpers": "# x\ndef h(): return 1\ndef other(): 2",
        },
    ),
    "nested names": (
        "def f(x):\n    def inner(a):\n        return a\n    return [inner(i) for i in x]",
        "def f(x):\n    def within(a):\n        return a\n    return [within(k) for k in x]",
    ),
    "except name": (
        "def f():\n    try: pass\n    except ValueError as e: return e",
        "def f():\n    try: pass\n    except ValueError as err: return err",
    ),
    "A40 logger and lock": (LOGGING, LOGGING),
    "docstring of a class": (
        "class A:\n    def m(self): return 1\ndef f(): return A().m()",
        "class A:\n    'doc'\n    def m(self):  return 1\ndef f(): return A().m()",
    ),
    "methods reordered": (
        "class A:\n    def m(self): return 1\n    def n(self): return 2\ndef f(): return A()",
        "class A:\n    def n(self): return 2\n    def m(self): return 1\ndef f(): return A()",
    ),
    "unused global": ("X = 1\ndef f(): return 1", "X = 2\ndef f(): return 1"),
    "untracked body": (
        "import flowpar.caching.code as c\n@c.untracked\ndef h(): return 1\ndef f(): h()",
        "import flowpar.caching.code as c\n@c.untracked\ndef h(): return 2\ndef f(): h()",
    ),
    "what a logger reports": (
        LOGGING,
        LOGGING.replace("L =", "# so\nLOG.setLevel(10)\nL ="),
    ),
    "annotation of a function": (
        "def h(x: int): return x\ndef f(x): return h(x)",
        "def h(x: float): return x\ndef f(x): return h(x)",
    ),
    "docstring nobody reads": (
        "def h():\n    'a'\ndef f(): return h()",
        "def h():\n    'b'\ndef f(): return h()",
    ),
    "constant of a module nobody reads": (
        {"main": "import helpers\ndef f(): return getattr(helpers, 'N')", "helpers": "N = 1"},
        {
            "main": "import helpers\ndef f(): return getattr(helpers, 'N')",
            "helpers": "N = 1\nM = 2",
        },
    ),
    "local of the name of a global": (
        "x = 1\ndef f(y):\n    x = y\n    return x",
        "x = 2\ndef f(y):\n    x = y\n    return x",
    ),
}

WRAPS = """
import functools
def twice(g):
    @functools.wraps(g)
    def wrapper(*args):
        return g(*args) * 2
    return wrapper
@twice
def f(x):
    return x + 1
"""
PLAIN = WRAPS.replace("    @functools.wraps(g)\n", "")
BY_GLOBAL = """
N = 3
def times(n):
    def deco(g):
        def wrapper(*args):
            return g(*args) * n
        return wrapper
    return deco
@times(N)
def f(x):
    return x
"""
RECURSIVE = """
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def f(n): return even(n)
"""


def in_helpers(main, helpers, old, new):
    return {"main": main, "helpers": helpers}, {"main": main, "helpers": helpers.replace(old, new)}


def edit(text, old, new):
    assert old in text
    return text, text.replace(old, new)


OTHER = {
    "A2 body": edit(BODY, "+ 1", "+ 2"),
    "A9 default": edit("def f(x=1): return x", "=1", "=2"),
    "keyword default": edit("def f(*, x=1): return x", "=1", "=2"),
    "A10 default from a global": edit("N = 1\ndef f(x=N): return x", "N = 1", "N = 2"),
    "A11 helper": edit("def h(): return 1\ndef f(): return h()", "1", "2"),
    "A12 imported helper": in_helpers(
        "from helpers import h\ndef f(): return h()", "def h(): return 1", "1", "2"
    ),
    "A13 module.attr": in_helpers(
        "import helpers\ndef f(): return helpers.h()", "def h(): return 1", "1", "2"
    ),
    "A13 constant of a module": in_helpers(
        "import helpers\ndef f(): return helpers.N", "N = 1", "1", "2"
    ),
    "A14 helper of helper": edit(
        "def k(): return 1\ndef h(): return k()\ndef f(): return h()", "1", "2"
    ),
    "A15 global": edit("N = 1\ndef f(): return N", "1", "2"),
    "A15 type of a global": edit("N = 1\ndef f(): return N", "1", "1.0"),
    "A16 dict": edit("N = {'a': 1}\ndef f(): return N['a']", "1", "2"),
    "A17 closure": edit(
        "def make(n):\n    def f(): return n\n    return f\nf = make(1)", "make(1)", "make(2)"
    ),
    "A18 lambda": edit("f = lambda x: x + 1", "1", "2"),
    "A19 two lambdas on one line": edit(
        "both = (lambda x: x + 1, lambda x: x + 2); f = both[0]", "[0]", "[1]"
    ),
    "A20 partial": edit(
        "import functools\ndef g(a, b): return a\nf = functools.partial(g, 1)", "1)", "2)"
    ),
    "A20 function of a partial": edit(
        "import functools\ndef g(a, b): return 7\nf = functools.partial(g, 1)", "7", "8"
    ),
    "A21 body of wraps": edit(WRAPS, "* 2", "* 3"),
    "A21 wrapped": edit(WRAPS, "+ 1", "+ 2"),
    "A22 decorator's argument": edit(BY_GLOBAL, "N = 3", "N = 4"),
    "A23 below a decorator without wraps": edit(PLAIN, "+ 1", "+ 2"),
    "A24 class attribute": edit("class A:\n    n = 1\ndef f(): return A.n", "1", "2"),
    "A25 method": edit("class A:\n    def m(self): return 1\ndef f(): return A().m()", "1", "2"),
    "A25 inherited method": edit(
        "class B:\n    def m(self): return 1\nclass A(B): pass\ndef f(): return A().m()", "1", "2"
    ),
    "A26 method of a global instance": edit(
        "class A:\n    def m(self): return 1\na = A()\ndef f(): return a.m()", "1", "2"
    ),
    "A26 state of a global instance": edit(
        "class A:\n    def __init__(self): self.n = 1\na = A()\ndef f(): return a.n", "1", "2"
    ),
    "A27 nested": edit("def f():\n    def g(): return 1\n    return g()", "1", "2"),
    "A28 registry": edit("def g(): return 1\nR = {'g': g}\ndef f(k): return R[k]()", "1", "2"),
    "A28 registry, swapped": edit(
        "def a(): return 1\ndef b(): return 2\nR = {'a': a, 'b': b}\ndef f(k): return R[k]()",
        "'a': a, 'b': b",
        "'a': b, 'b': a",
    ),
    "A29 lru_cache": edit(
        "import functools\n@functools.lru_cache\ndef h(): return 1\ndef f(): return h()", "1", "2"
    ),
    "A30 circle": edit(RECURSIVE, "n != 0", "n != 1"),
    "A30 circle, other": edit(RECURSIVE, "n == 0", "n == 1"),
    "A31 import inside": in_helpers(
        "def f():\n    import helpers\n    return helpers.h()", "def h(): return 1", "1", "2"
    ),
    "A31 from import inside": in_helpers(
        "def f():\n    from helpers import h as k\n    return k()", "def h(): return 1", "1", "2"
    ),
    "property": edit(
        "class A:\n    @property\n    def m(self): return 1\ndef f(): return A().m", "1", "2"
    ),
    "cached property": edit(
        "import functools\nclass A:\n    @functools.cached_property\n    def m(self): return 1\n"
        "def f(): return A().m",
        "return 1",
        "return 2",
    ),
    "classmethod": edit(
        "class A:\n    @classmethod\n    def m(cls): return 1\ndef f(): return A.m()", "1", "2"
    ),
    "dataclass field": edit(
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    a: int\n    b: int\n"
        "def f(): return A(1, 2)",
        "    a: int\n    b: int\n",
        "    b: int\n    a: int\n",
    ),
    "dataclass default": edit(
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    a: int = 7\ndef f(): return A()",
        "7",
        "8",
    ),
    "enum": edit("import enum\nclass E(enum.Enum):\n    A = 7\ndef f(): return E.A", "7", "8"),
    "slots": edit("class A:\n    __slots__ = ('a',)\ndef f(): return A()", "'a'", "'b'"),
    "namedtuple": edit(
        "import collections\nA = collections.namedtuple('A', 'x y')\ndef f(): return A(1, 2)",
        "x y",
        "y x",
    ),
    "super": edit(
        "class B:\n    def m(self): return 1\nclass A(B):\n    def m(self): return super().m()\n"
        "f = A.m",
        "1",
        "2",
    ),
    "callable instance": edit(
        "class A:\n    def __call__(self): return 1\nf = A()", "return 1", "return 2"
    ),
    "state of a callable instance": edit(
        "class A:\n    def __init__(self): self.n = 7\n    def __call__(self): return 1\nf = A()",
        "7",
        "8",
    ),
    "bound method": edit(
        "class A:\n    def __init__(self): self.n = 7\n    def m(self): return 1\nf = A().m",
        "7",
        "8",
    ),
    "opaque, made otherwise": edit(
        "import threading\nL = threading.Semaphore(7)\ndef f():\n    with L: pass", "7", "8"
    ),
    "contextmanager": edit(
        "import contextlib\n@contextlib.contextmanager\ndef c():\n    yield 1\ndef f():\n"
        "    with c() as x: return x",
        "1",
        "2",
    ),
    "singledispatch": edit(
        "import functools\n@functools.singledispatch\ndef g(x): return 0\n@g.register(int)\n"
        "def _(x): return 1\ndef f(x): return g(x)",
        "return 1",
        "return 2",
    ),
    "private name in a class": edit(
        "_A__h = 1\nclass A:\n    def m(self): return __h\nf = A.m", "1", "2"
    ),
    "parameter renamed": edit("def f(x): return x", "x", "y"),
    "set of functions": edit(
        "def a(): return 1\ndef b(): return 2\nS = {a, b}\ndef f(): return S", "1", "3"
    ),
    "stdlib function": edit("import math\ndef f(x): return math.floor(x)", "floor", "ceil"),
    "stdlib function by name": (
        "from math import floor as g\ndef f(x): return g(x)",
        "from math import ceil as g\ndef f(x): return g(x)",
    ),
    "builtin": edit("def f(x): return min(x)", "min", "max"),
    "names matter to eval": edit("def f(x):\n    y = 1\n    return eval('y')", " y =", " z ="),
    "order of globals": edit("A = 1\nB = 2\ndef f(): return A - B", "A - B", "B - A"),
    "local or global": (
        "y = 1\ndef f(a):\n    x = a\n    return x",
        "y = 1\ndef f(a):\n    x = a\n    return y",
    ),
    "class renamed": (
        "class A: pass\ndef f(): return A()",
        "class B: pass\ndef f(): return B()",
    ),
    "class moved": (
        {"main": "from helpers import A\ndef f(): return A()", "helpers": "class A: pass"},
        {"main": "class A: pass\ndef f(): return A()", "helpers": ""},
    ),
    "function in a container renamed": (
        "def a(): return 1\nR = [a]\ndef f(): return R",
        "def b(): return 1\nR = [b]\ndef f(): return R",
    ),
    "match args": edit(
        "class A:\n    __match_args__ = ('x', 'y')\ndef f(): return A()", "'x', 'y'", "'y', 'x'"
    ),
    "private name in an enum": edit(
        "import enum\nclass E(enum.Enum):\n    __factor = 7\n    A = 1\ndef f(): return E.A",
        "7",
        "8",
    ),
    "attribute of a member": edit(
        "import enum\nclass E(enum.Enum):\n    A = 1\nE.A.extra = 7\ndef f(): return E.A", "7", "8"
    ),
    "attribute of a member, made with it": edit(
        "import enum\nclass E(enum.Enum):\n    def __new__(cls, v, label):\n"
        "        o = object.__new__(cls); o._value_ = v; o.label = label; return o\n"
        "    A = (1, 'a')\ndef f(): return E.A.label",
        "'a'",
        "'b'",
    ),
    "singledispatchmethod": edit(
        "import functools\nclass A:\n    @functools.singledispatchmethod\n"
        "    def g(self, x): return 0\n    @g.register\n    def _(self, x: int): return 7\n"
        "    @g.register\n    def _(self, x: str): return 1\n"
        "def f(x): return A().g(x)",
        "7",
        "8",
    ),
    "attribute of a function": edit("def h(): return 1\nh.w = 7\ndef f(): return h()", "7", "8"),
    "own attribute": edit("def f(): return f.w\nf.w = 7", "7", "8"),
    "cmp_to_key": edit(
        "import functools\ndef c(a, b): return a - b\nK = functools.cmp_to_key(c)\n"
        "def f(x): return sorted(x, key=K)",
        "a - b",
        "b - a",
    ),
    "frompyfunc": edit(
        "import numpy\ndef h(x): return x * 7\nU = numpy.frompyfunc(h, 1, 1)\ndef f(x): return U(x)",
        "7",
        "8",
    ),
    "module given on": in_helpers(
        "import helpers\ndef use(m): return m.N\ndef f(): return use(helpers)", "N = 1", "1", "2"
    ),
    "module under another name": in_helpers(
        "import helpers\ndef f():\n    m = helpers\n    return m.N", "N = 1", "1", "2"
    ),
    "module imported inside, under another name": in_helpers(
        "def f():\n    import helpers\n    m = helpers\n    return m.N", "N = 1", "1", "2"
    ),
    "module in a dict": in_helpers(
        "import helpers\nR = {'m': helpers}\ndef f(): return R['m'].N", "N = 1", "1", "2"
    ),
    "module as a default": in_helpers(
        "import helpers\ndef f(m=helpers): return m.N", "N = 1", "1", "2"
    ),
    "getattr of a constant name": in_helpers(
        "import helpers\ndef f(): return getattr(helpers, 'N')", "N = 1", "1", "2"
    ),
    "getattr with or without a name": (
        "import os as m\ndef f(d): return getattr(m, 'x', d)",
        "import os as m\ndef f(d): return getattr(m.x, d)",
    ),
    "import within that hides a global": in_helpers(
        "class x: N = 0\ndef f():\n    def g():\n        import helpers as x\n        return x.N\n"
        "    return g(), x.N",
        "N = 1",
        "1",
        "2",
    ),
    "what is called a subclass": edit(
        "import abc\nclass B(abc.ABC): pass\nclass A: pass\nif 0: B.register(A)\n"
        "def f(x): return isinstance(x, B)",
        "if 0",
        "if 1",
    ),
    "metadata of a field": edit(
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n"
        "    x: int = dataclasses.field(default=1, metadata={'k': 7})\ndef f(): return A",
        "7",
        "8",
    ),
    "annotation of a field": edit(
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\ndef f(): return A",
        "int",
        "float",
    ),
    "annotation of a field, of a class": edit(
        "class B: n = 7\nclass A:\n    x: list[B | None]\ndef f(): return A", "7", "8"
    ),
    "annotation in a named tuple": edit(
        "import typing\nclass A(typing.NamedTuple):\n    x: int\ndef f(): return A", "int", "float"
    ),
    "annotation in a class within": edit(
        "def f():\n    class A:\n        x: int\n    return A", "int", "float"
    ),
    "what a base is generic in": edit(
        "import typing\nT = typing.TypeVar('T')\nclass B(typing.Generic[T]): pass\n"
        "class A(B[int]): pass\ndef f(): return A",
        "B[int]",
        "B[float]",
    ),
    "name of a function, read": (
        "def a(): pass\nK = a\ndef f(): return K.__name__",
        "def b(): pass\nK = b\ndef f(): return K.__name__",
    ),
    "docstring, read": edit("def k():\n    'a'\ndef f(): return k.__doc__", "'a'", "'b'"),
    "docstring of a class, read": edit(
        "class K:\n    'a'\ndef f(): return K.__doc__", "'a'", "'b'"
    ),
    "docstring of a method, read through a module": in_helpers(
        "import helpers\ndef f(): return helpers.K.m.__doc__",
        "class K:\n    def m(self):\n        'a'\n",
        "'a'",
        "'b'",
    ),
    "context variable": edit(
        "import contextvars\nC = contextvars.ContextVar('c')\nC.set(7)\ndef f(): return C.get()",
        "7",
        "8",
    ),
    "what a thread keeps": edit(
        "import threading\nT = threading.local()\nT.k = 7\ndef f(): return T.k", "7", "8"
    ),
    "method table of a class": edit(
        "class A:\n    def m(self): return 1\n    def n(self): return 2\ndef f(): return A()",
        "def n",
        "def k",
    ),
}


@pytest.mark.parametrize(("before", "after"), SAME.values(), ids=SAME)
def test_same(lab, before, after):
    first = lab.digest(before)
    assert lab.digest(after) == first


@pytest.mark.filterwarnings("ignore:private variables:DeprecationWarning")  # of enum in 3.10
@pytest.mark.parametrize(("before", "after"), OTHER.values(), ids=OTHER)
def test_other(lab, before, after):
    first = lab.digest(before)
    assert lab.digest(after) != first
    assert lab.digest(before) == first  # A36


MODEL = """
import threading
class Model:
    def __init__(self, scale):
        self.scale, self._lock = scale, threading.Lock()
    def __call__(self): return self.scale
    def run(self): return self.scale
"""
TOKENS = """
class Model:
    def __init__(self, scale):
        self.scale, self._tokens = None, iter([scale])
    def __call__(self): return next(self._tokens)
    def run(self): return next(self._tokens)
"""

HELD = {
    "constant in the statement": "SCALE = 7\nM = Model(SCALE)\ndef f(): return M.run()",
    "made by a function": "def make(): return Model(7)\nM = make()\ndef f(): return M.run()",
    "in a dict": "R = {'m': Model(7)}\ndef f(): return R['m'].run()",
    "class attribute": "class H:\n    m = Model(7)\ndef f(): return H.m.run()",
    "what was done to it": "M = Model(1)\nM.more = 7\ndef f(): return M.more",
}
"""What holds something without content, bound by a statement."""

UNBOUND = {
    "default": ("def f(m=Model(7)): return m.run()", "f: default m"),
    "closure": (
        "def make(m):\n    def f(): return m.run()\n    return f\nf = make(Model(7))",
        "f: captured m",
    ),
    "default of a helper": (
        "def h(m=Model(7)): return m.run()\ndef f(): return h()",
        "h: default m",
    ),
    "bound method": ("f = Model(7).run", "Model.run: captured self"),
    "bound method, global": (
        "run = Model(7).run\ndef f(): return run()",
        "Model.run: captured self",
    ),
    "callable": ("f = Model(7)", "Model"),
    "bound by a function": (
        "M = None\ndef init():\n    global M\n    M = Model(7)\ninit()\ndef f(): return M.run()",
        "f: global M",
    ),
    "bound from outside": (
        "M = None\nglobals()['M'] = Model(7)\ndef f(): return M.run()",
        "f: global M",
    ),
    "local class": (
        (
            "def make():\n    class A:\n        m = Model(7)\n    return A\nA = make()\n"
            "def f(): return A.m.run()"
        ),
        "A: attribute m",
    ),
    "attribute put into a class": (
        "class A:\n    m = None\nsetattr(A, 'm', Model(7))\ndef f(): return A.m.run()",
        "A: attribute m",
    ),
}
"""What holds something without content, bound by no statement."""


@pytest.mark.parametrize("text", HELD.values(), ids=HELD)
@pytest.mark.parametrize("model", [MODEL, TOKENS], ids=["lock", "tokens"])
def test_what_has_no_content_is_known_by_its_statement(lab, model, text):
    first = lab.digest(model + text)
    assert lab.digest(model + text.replace("7", "8")) != first
    assert lab.digest(model.replace("return ", "return 2, ") + text) != first
    assert lab.digest(model + "\n\nOTHER = 1\n" + text) == first


@pytest.mark.parametrize(("text", "path"), UNBOUND.values(), ids=UNBOUND)
def test_what_has_no_content_and_no_statement_has_no_digest(lab, text, path):
    with pytest.raises(NotDigestible) as caught:
        lab.digest(TOKENS + text)
    assert caught.value.path == f"{path}._tokens"
    first = lab.digest(MODEL + text)
    assert lab.digest(MODEL + text.replace("7", "8")) != first


def test_one_without_digest_leaves_the_others_theirs(lab):
    module = lab.load(
        {"main": TOKENS + "N = [1]\ndef g(): return N\ndef f(m=Model(7)): return g()"}
    )
    digester = FunctionDigester()
    known = digester.code(module.g)
    for _ in range(2):
        with pytest.raises(NotDigestible):
            digester.code(module.f)
        with pytest.raises(NotDigestible):
            digester.values.digest([module.f])
    digester.new_epoch()
    assert digester.code(module.g) is known
    module.N.append(2)
    digester.new_epoch()
    assert digester.code(module.g).digest != known.digest


def test_the_module_that_binds_it_says_how(lab):
    main = "from middle import M\ndef f(): return M.run()"
    for middle in ("from helpers import M", "from helpers import *"):
        modules = {"main": main, "middle": middle, "helpers": TOKENS + "N = 7\nM = Model(N)"}
        code = lab.code(modules)
        assert {("opaque", "M"), ("global", "N")} <= kinds(code)
        assert lab.digest({**modules, "helpers": TOKENS + "N = 8\nM = Model(N)"}) != code.digest
    # It was another thing when it was imported.
    late = {**modules, "helpers": TOKENS + "M = Model(1)", "main": main + "\nimport helpers"}
    module = lab.load({**late, "middle": "import helpers\nM = helpers.Model(2)"})
    assert FunctionDigester().code(module.f)
    module = lab.load({**late, "middle": "from helpers import M\nimport helpers\nhelpers.M = 1"})
    with pytest.raises(NotDigestible):
        FunctionDigester().code(module.f)


def test_a_source_that_was_edited_says_nothing_of_what_runs(lab):
    text = TOKENS + "M = Model(1)\ndef f(): return M"
    module = lab.load({"main": text})
    path = Path(module.__file__)
    path.write_text(
        text.replace("M = Model(1)\ndef f(): return M", "M = Model(2)\n\n\ndef f(): return M, 1")
    )
    with pytest.raises(NotDigestible):
        FunctionDigester().code(module.f)


def test_arguments_are_refused_as_ever(lab):
    module = lab.load({"main": MODEL + "M = Model(1)\ndef f(): return M"})
    values = FunctionDigester().values
    assert values.digest([module.f])
    with pytest.raises(NotDigestible, match="_lock"):
        values.digest(module.M)
    with pytest.raises(NotDigestible, match="_lock"):
        values.digest(module.M.run)


HARMLESS = """
import asyncio, contextvars, logging, multiprocessing, sys, threading
class Local(threading.local): pass
def make(held):
    def f(): return held
    return f
f = make([
    threading.Lock(), threading.RLock(), threading.Condition(), threading.Event(), Local(),
    threading.Semaphore(), threading.local(), logging.getLogger(), contextvars.ContextVar("x"),
    sys.stdout, asyncio.Lock(), multiprocessing.Lock(), logging.LoggerAdapter(logging.getLogger(), {}),
])
"""


def test_what_changes_no_result(lab):
    first = lab.digest(HARMLESS)
    assert lab.digest(HARMLESS) == first
    assert lab.digest(HARMLESS.replace("threading.Lock(), ", "None, ")) != first
    assert (
        lab.digest(
            HARMLESS.replace("Local(threading.local): pass", "Local(threading.local): x = 1")
        )
        != first
    )
    with pytest.raises(NotDigestible, match=r"f: captured held\[9\]"):
        lab.digest(HARMLESS.replace("sys.stdout", "iter([])"))


TWINS = """
import dataclasses, enum
class A: pass
class B: pass
@dataclasses.dataclass
class C: x: int = 1
@dataclasses.dataclass
class D: x: int = 1
class E(enum.Enum): X = 1
class F(enum.Enum): X = 1
def p(x): return x
def q(x): return x
"""


def test_twins_are_two(lab):
    modules = {"main": TWINS + "import helpers", "helpers": TWINS}
    main = lab.load(modules)
    values = FunctionDigester().values
    for module in (main, main.helpers):
        for first, second in ("AB", "CD", "EF", "pq"):
            one, other = getattr(module, first), getattr(module, second)
            assert values.digest(one) != values.digest(other)
            assert values.digest([one]) != values.digest([other])
            assert values.digest({one: 1, other: 2}) != values.digest({other: 1, one: 2})
    assert values.digest(main.A()) != values.digest(main.B())
    assert values.digest(main.E.X) != values.digest(main.F.X)
    for name in "ABCDEFpq":
        assert values.digest(getattr(main, name)) != values.digest(getattr(main.helpers, name))
    assert values.digest(len) == values.digest(len)


def test_a_class_of_the_main_module_has_the_name_it_is_imported_by(lab, monkeypatch):
    module = lab.load({"main": "class A: pass\ndef f(): return A()\ndef p(): pass"})
    names = ("__main__", "__mp_main__", "main")
    for filename, argv in ((module.__file__, "other"), (None, module.__file__)):
        main = type(module)("__main__")
        if filename is not None:
            main.__file__ = filename
        monkeypatch.setitem(sys.modules, "__main__", main)
        monkeypatch.setattr(sys, "argv", [argv])
        found = set()
        for name in names:
            monkeypatch.setitem(sys.modules, name, module if name == "main" else main)
            module.A.__module__ = module.f.__module__ = module.p.__module__ = name
            digester = FunctionDigester()
            digests = [digester.code(module.f).digest]
            digests += [digester.values.digest(each) for each in (module.A(), module.p)]
            found.add(tuple(digests))
        assert len(found) == 1


def made(text, name="plug"):
    """Return what a text without a file defines as f."""
    names = {"__name__": name}
    exec(compile(textwrap.dedent(text), "<string>", "exec"), names)
    return FunctionDigester().code(names["f"]).digest


WITHOUT_SOURCE = {
    "comprehension": ("def f(x): return [y + 'a' for y in x]", "'a'", "'b'"),
    "generator": ("def f(x): return list(y + 'a' for y in x)", "'a'", "'b'"),
    "lambda": ("f = lambda: 'a'", "'a'", "'b'"),
    "what a docstring says too": (
        "def f(x):\n    'a'\n    return [y for y in x if y == 'a']",
        "== 'a'",
        "== 'b'",
    ),
    "method of a dataclass": (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
            "    def __repr__(self): return 7\n    def m(self): return 8\ndef f(): return A(1)"
        ),
        "8",
        "9",
    ),
    "own repr of a dataclass": (
        (
            "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
            "    def __repr__(self): return 7\ndef f(): return A(1)"
        ),
        "7",
        "9",
    ),
    "method of a named tuple": (
        (
            "import typing\nclass A(typing.NamedTuple):\n    x: int\n    def m(self): return 7\n"
            "def f(): return A(1)"
        ),
        "7",
        "8",
    ),
    "what a handler covers": (
        (
            "def f():\n    try:\n        g()\n        try:\n            h()\n        except OSError:\n"
            "            return 1\n    except Exception:\n        return 2"
        ),
        "        g()\n        try:\n            h()",
        "        try:\n            g()\n            h()",
    ),
    "attribute of another": ("def f():\n    import os\n    return os.sep", "sep", "pathsep"),
}


@pytest.mark.parametrize(("text", "old", "new"), WITHOUT_SOURCE.values(), ids=WITHOUT_SOURCE)
def test_what_counts_without_source(text, old, new):
    before, after = edit(text, old, new)
    assert made(before) != made(after)
    assert made(before) == made(before) == made("\n\n# so\n" + before)


def test_a_docstring_does_not_count_without_source():
    assert made("def f():\n    'a'\n    return 1") == made("def f():\n    'b'\n    return 1")


def test_what_is_registered_later_counts(lab):
    module = lab.load(
        {
            "main": "import functools\n@functools.singledispatch\ndef g(x): return 0\ndef f(x): return g(x)"
        }
    )
    digester = FunctionDigester()
    first = digester.code(module.f)
    module.g.register(int, lambda x: 1)
    digester.new_epoch()
    assert digester.code(module.f).digest != first.digest


COUNTING = """
def f():
    f.calls += 1
    return f.calls
f.calls = 0
f.weight = 1
"""


def test_attributes_of_functions(lab):
    module = lab.load({"main": COUNTING})
    digester = FunctionDigester()
    first = digester.code(module.f).digest
    module.f()
    digester.new_epoch()
    assert digester.code(module.f).digest == first  # its own state
    assert lab.digest(COUNTING.replace("calls = 0", "calls = 5")) == first
    module.f.weight = 2
    digester.new_epoch()
    assert digester.code(module.f).digest != first
    assert lab.digest(COUNTING + "f.opened = iter([])") != first


def test_members_of_enumerations_that_change(lab):
    module = lab.load({"main": "import enum\nclass E(enum.Enum): A = 1\ndef f(): return E.A"})
    digester = FunctionDigester()
    first = digester.code(module.f).digest
    module.E.A.extra = 1
    digester.new_epoch()
    assert digester.code(module.f).digest != first


def test_calls_that_cannot_be_followed(lab):
    code = lab.code(
        "import importlib\nclass A: pass\n"
        "def f(m): return A.__subclasses__(), importlib.import_module(m), getattr(m, 'x')"
    )
    untracked = {name for kind, name in kinds(code) if kind == "untracked"}
    assert untracked == {"__subclasses__()", "import_module()"}


def test_what_wraps_something_untracked_counts(lab):
    text = """
        import flowpar, functools
        @flowpar.untracked
        def report(x): return 1
        def deco(g):
            @functools.wraps(g)
            def inner(x): return g(x) * 2
            return inner
        report = deco(report)
        def f(n): return report(n)
    """
    first = lab.digest(text)
    assert lab.digest(text.replace("* 2", "* 3")) != first
    assert lab.digest(text.replace("return 1", "return 5")) == first


def test_a_declared_package_counts_by_all_its_files(lab):
    modules = {
        "main": "import pk\ndef f(): return 1",
        "pk/__init__": "",
        "pk/sub/__init__": "",
        "pk/sub/deep": "from other import K\ndef go(): return K",
        "other": "K = 1",
    }

    def digest(**changed):
        module = lab.load({**modules, **changed})
        return FunctionDigester().code(module.f, deps=[module.pk]).digest

    first = digest()
    assert digest() == first
    assert digest(**{"pk/sub/deep": "def go(): return 2"}) != first
    assert digest(other="K = 2") != first


def test_a_module_edited_while_it_runs_counts_as_it_was(lab):
    module = lab.load({"main": "import helpers\ndef f(m=helpers): return m.K", "helpers": "K = 1"})
    digester = FunctionDigester()
    first = digester.code(module.f).digest
    Path(module.helpers.__file__).write_text("K = 2222")
    digester.new_epoch()
    assert digester.code(module.f).digest == first
    importlib.reload(module.helpers)
    digester.new_epoch()
    assert digester.code(module.f).digest != first


def test_what_others_have_compiled():
    np = pytest.importorskip("numpy")
    values = FunctionDigester().values
    for make in (np.random.SeedSequence, np.random.PCG64):
        assert values.digest(make(1)) != values.digest(make(2))
    pa = pytest.importorskip("pyarrow")
    for one, other in (
        (pa.schema([("a", pa.int8())]), pa.schema([("a", pa.int16())])),
        (pa.field("a", pa.int8()), pa.field("a", pa.int16())),
        (pa.py_buffer(b"a"), pa.py_buffer(b"b")),
    ):
        assert values.digest(one) != values.digest(other)


def test_pydantic_is_the_same_in_each_process(lab):
    pytest.importorskip("pydantic")
    text = """
        import pydantic
        class M(pydantic.BaseModel):
            x: int = 3
            @pydantic.field_validator("x", mode="before")
            @classmethod
            def v(cls, x): return x + 1
        def f(): return M(x=1)
    """
    first = lab.digest(text)
    assert lab.digest(text) == first  # another class, of other numbers
    for old, new in (("x + 1", "x + 2"), ("before", "after"), ("int", "float"), ("= 3", "= 4")):
        assert lab.digest(text.replace(old, new)) != first


class TestWhatComesFromElsewhere:
    """What a worker compares with what it has imported itself."""

    HELPERS = (
        "K = 1\ndef h(x=2): return x\ndef deco(g):\n    def inner(): return g()\n    return inner"
    )
    MAIN = "import helpers\nS = 5\nclass A: pass\ndef g(): return S, A\n"

    def seen(self, lab, main, change=""):
        module = lab.load({"main": self.MAIN + main, "helpers": self.HELPERS})
        vars(module)["__name__"] = "__main__"
        module.A.__module__ = "__main__"
        exec(change, vars(module))
        return imported_of(FunctionDigester().code(module.f))

    @pytest.mark.parametrize(
        ("main", "change"),
        [
            ("def f(): return helpers.K", "helpers.K = 2"),
            ("def f(): return helpers.h()", "helpers.h.__defaults__ = (3,)"),
            ("def f(): return helpers.h()", "helpers.h = g"),
            ("def f(): return helpers.h()", "helpers.h = lambda: 1"),
        ],
    )
    def test_changed(self, lab, main, change):
        assert not self.seen(lab, main) <= self.seen(lab, main, change)
        assert not self.seen(lab, main, change) <= self.seen(lab, main)

    @pytest.mark.parametrize("change", ["S = 6", "A.n = 1", "def g(): return 7"])
    def test_what_travels(self, lab, change):
        main = "def f(): return g(), helpers.K"
        assert self.seen(lab, main, change) <= self.seen(lab, main)


def test_a_file_edited_after_the_import_is_not_what_runs(lab):
    folder = lab.write({"main": BODY})
    module = lab.load({"main": BODY}, folder)
    fresh = FunctionDigester().code(module.f).digest
    digester = FunctionDigester()
    digester.code(module.f)
    edited = lab.load({"main": BODY.replace("1", "2")}, folder)
    digester.new_epoch()
    assert digester.code(module.f).digest == fresh
    # The same digester reads the file again for code that is new.
    assert digester.code(edited.f).digest == FunctionDigester().code(edited.f).digest
    late = FunctionDigester().code(module.f).digest  # by its instructions
    assert late not in {fresh, digester.code(edited.f).digest}


def test_without_source():
    def made(text):
        names = {"__name__": "made", "N": 1}
        exec(textwrap.dedent(text), names)
        return FunctionDigester().code(names["f"]).digest

    assert made(BODY) == made("\n\n# x\n" + BODY.replace("total", "total"))
    assert made(BODY) != made(BODY.replace("1", "2"))
    assert made("def f(): return N") != made("N = 2\ndef f(): return N")
    assert made("def f(): return 'a' in {'a', 'b'}") != made("def f(): return 'a' in {'a', 'c'}")
    helper = "def h(): return 1\ndef f(): return h()"
    assert made(helper) != made(helper.replace("1", "2"))
    assert made("def f():\n    import os\n    return os.sep") == made(
        "def f():\n    import os\n    return os.sep"
    )
    nested = "def f(x):\n    return [lambda: 1 for _ in x]"
    assert made(nested) != made(nested.replace("1", "2"))


def test_a_circle_is_the_same_from_everywhere(lab):
    module = lab.load({"main": RECURSIVE})
    names = ("even", "odd", "f")
    found = []
    for order in itertools.permutations(names):
        digester = FunctionDigester()
        digests = {name: digester.code(getattr(module, name)).digest for name in order}
        found.append([digests[name] for name in names])
    assert all(each == found[0] for each in found)
    assert len(set(found[0])) == 3


def test_an_instance_that_leads_to_its_class_and_back(lab):
    text = "class A:\n    def m(self): return A.one\nA.one = A()\nA.one.call = A.one.m\ndef f(): return A.one"
    assert lab.digest(text) == lab.digest(text)


def test_a_long_chain(lab):
    lines = ["def f(): return h0()"]
    lines += [f"def h{n}(): return h{n + 1}()" for n in range(2000)]
    text = "\n".join(lines) + "\ndef h2000(): return 1\n"
    code = lab.code(text)
    assert len(code.components) == 2002
    assert lab.digest(text.replace("return 1", "return 2")) != code.digest


def test_components(lab):
    code = lab.code(
        {
            "main": """
            import helpers, logging, threading
            import pytest as numerics
            N = {"a": 1}
            LOG = logging.getLogger("x")
            class A: pass
            def g(): return numerics.raises
            def f(x, y=3):
                LOG.info(missing, getattr(x, y))
                return helpers.h(A(), N, g(), numerics.fail)
        """,
            "helpers": "def h(*args): return args",
        }
    )
    found = kinds(code)
    assert ("code", "f") == (code.components[0].kind, code.components[0].name)
    assert code.components[0].text == "main.py:8"
    assert {
        ("helper", "helpers.h"),
        ("global", "N"),
        ("opaque", "LOG"),
        ("class", "A"),
        ("helper", "g"),
        ("package", "pytest"),
        ("untracked", "missing"),
        ("untracked", "getattr()"),
        ("default", "y"),
    } <= found
    assert sum(each.kind == "package" for each in code.components) == 1
    package = next(each for each in code.components if each.kind == "package")
    assert package.text == pytest.__version__
    assert next(each.text for each in code.components if each.name == "N") == "{'a': 1}"


def test_the_version_of_a_package_counts(lab, monkeypatch):
    from flowpar.caching import things as module

    text = "import pytest\ndef f(): return pytest.fail"
    first = lab.digest(text)
    monkeypatch.setattr(module, "package_of", lambda _: ("pytest", "0"))
    assert lab.digest(text) != first


def test_declared_dependencies(lab):
    text = "def _a(): return 1\ndef f(): return globals()['_a']()"
    first, second = lab.load({"main": text}), lab.load({"main": text.replace("1", "2")})
    digester = FunctionDigester()
    assert digester.code(first.f).digest == digester.code(second.f).digest
    assert ("untracked", "globals()") in kinds(digester.code(first.f))
    one, other = (digester.code(each.f, deps=[each._a]) for each in (first, second))
    assert one.digest != other.digest
    assert ("dep", "_a") in kinds(one)
    assert digester.code(first.f, deps=[1]).digest != digester.code(first.f, deps=[2]).digest


def test_a_declared_module_counts_by_its_file(lab):
    modules = {"main": "import helpers\ndef f(): return 1", "helpers": "N = 1"}
    digester = FunctionDigester()
    first = lab.load(modules)
    before = digester.code(first.f, deps=[first.helpers]).digest
    second = lab.load({**modules, "helpers": "N = 2"})
    assert digester.code(second.f, deps=[second.helpers]).digest != before


def test_values_count_the_code_in_them(lab):
    text = "class A:\n    def m(self): return 1\nf = A"
    first, second = lab.load({"main": text}), lab.load({"main": text.replace("1", "2")})
    values = FunctionDigester().values
    assert isinstance(values, ValueDigester)
    assert values.digest(first.f()) != values.digest(second.f())
    assert values.digest(first.f().m) != values.digest(second.f().m)
    assert values.digest(first.f()) == values.digest(first.f())
    assert values.digest([len, functools.partial(print, 1), os, os.path.join])


class TestMemo:
    def test_it_pays_once(self, lab):
        module = lab.load({"main": RECURSIVE})
        digester = FunctionDigester()
        first = digester.code(module.f)
        begin = time.perf_counter()
        for _ in range(10_000):
            assert digester.code(module.f) is first
        assert time.perf_counter() - begin < 0.5

    def test_unchanged_in_a_new_epoch(self, lab):
        module = lab.load({"main": "N = [1]\n" + RECURSIVE + "def f(): return N, even"})
        digester = FunctionDigester()
        first = digester.code(module.f)
        digester.new_epoch()
        assert digester.code(module.f) is first

    @pytest.mark.parametrize(
        "change",
        [
            "module.N = 2",
            "module.D['a'] = 2",
            "module.h = lambda: 3",
            "module.h.__code__ = (lambda: 3).__code__",
            "module.f.__defaults__ = (9,)",
            "module.A.n = 2",
            "module.A.m = lambda self: 5",
            "del module.N",
            "module.later = 1",
            "module.len = max",
            "module.helpers.K = 2",
            "module.a.n = 5",
        ],
    )
    def test_changed_in_a_new_epoch(self, lab, change):
        module = lab.load(
            {
                "main": """
                import helpers
                N = 1
                D = {"a": 1}
                class A:
                    n = 1
                    def m(self): return 1
                a = A()
                def h(): return N
                def f(x=1): return h(), D, A, later, len(x), helpers.K, a
            """,
                "helpers": "K = 1",
            }
        )
        digester = FunctionDigester()
        first = digester.code(module.f)
        exec(change, {"module": module})
        assert digester.code(module.f) is first
        digester.new_epoch()
        assert digester.code(module.f).digest != first.digest
        assert digester.code(module.f).digest == FunctionDigester().code(module.f).digest


def test_looking_at_a_value_leaves_its_class_alone(lab):
    """Pickle keeps names of slots in a class once an object of it was taken apart."""
    module = lab.load({"main": "class A:\n    def m(self): return 1\ndef f(): return A"})
    first = FunctionDigester().code(module.f).digest
    FunctionDigester().values.digest(module.A())
    assert FunctionDigester().code(module.f).digest == first


def test_a_delayed_function_counts_as_what_it_was_made_of(lab):
    text = "{0}\ndef h(): return 1\n{0}\ndef f(): return h()"
    plain = lab.load({"main": text.format("")})
    delayed = lab.load({"main": "import flowpar\n" + text.format("@flowpar.delayed")})
    digester = FunctionDigester()
    assert digester.code(plain.f).digest == digester.code(delayed.f).digest


def test_whatever_a_global_is(lab):
    text = """
        import itertools, random, re, typing, weakref
        rng, pattern, T = random.Random(1), re.compile("x"), typing.TypeVar("T")
        nested = []
        nested.append(nested)
        add = nested.append
        made, counter, weak = (i for i in ()), itertools.count(), weakref.WeakValueDictionary()
        class L(list):
            def f(self): return self
        values = L([1])
        class Meta(type):
            def __call__(cls, *args): return super().__call__(*args)
        class A(metaclass=Meta):
            registry = {}
            def __init_subclass__(cls): A.registry[cls.__name__] = cls
        class B(A): pass
        def f():
            return rng, pattern, T, nested, add, made, counter, weak, values, A, typing.cast
    """
    code = lab.code(text)
    assert {("opaque", "made"), ("opaque", "counter"), ("global", "rng")} <= kinds(code)
    assert lab.digest(text) == code.digest
    assert lab.digest(text.replace("super().__call__(*args)", "None")) != code.digest


def test_a_script_that_changes_its_directory(lab, tmp_path):
    script = tmp_path / "relative.py"
    script.write_text(
        "import os\nos.chdir('/')\ndef f(): return 1\n"
        + SCRIPT.replace("import main\n", "").replace("main.f", "f")
    )
    command = [sys.executable, script.name, "/", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.split()[-1] == lab.digest("def f(): return 1").hex(), done.stderr


def test_untracked_is_seen():
    @untracked
    def report():
        return 1

    def f():
        report()

    assert ("untracked", "report") in kinds(FunctionDigester().code(f))


EVERYTHING = '''
import collections, dataclasses, enum, functools, logging, math, threading, typing
LOG = logging.getLogger("x")
LOCK = threading.Lock()
NAMES = {"a", "b", "c"}
class Colour(enum.Enum):
    RED = 1
    BLUE = "b"
    def label(self): return self.name
class Bits(enum.IntFlag):
    A = 1
    B = 2
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float = 1.5
    z: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(slots=True, kw_only=True)
class Slotted:
    x: int = 1
Pair = collections.namedtuple("Pair", "a b")
class Named(typing.NamedTuple):
    a: int
    b: str = "x"
class Shape(typing.Protocol):
    def area(self) -> float: ...
class Config(typing.TypedDict):
    a: int
class Base(typing.Generic[typing.TypeVar("T")]):
    __slots__ = ("a",)
    def __init__(self): self.a = 1
    @property
    def p(self): return self.a
    @functools.cached_property
    def q(self): return super().p
    @staticmethod
    def s(x): return x
    def __eq__(self, other): return True
POINT = Point(1)
@functools.lru_cache(maxsize=None)
def cached(n): return n
def f(x, /, *args, k=None, **kw):
    """Doc."""
    with LOCK:
        LOG.info("x %s", x)
    import json
    from os.path import join as j
    text = f"{x!r:>{k}} and {math.pi:.2f}{args}" "tail"
    try:
        match x:
            case {"a": a, **rest}: return a, rest
            case [first, *others]: return first
            case Point(x=1) as p: return p
    except (ValueError, KeyError) as e:
        raise RuntimeError(1e300, 2j, b"x", ..., 10**3, "\\U0001fae8\\ud800") from e
    if x in {"a", "b"} and NAMES and not -1 < x < 1:
        y = [i for i in args if (z := i)] + [lambda q=1: q]
    while True:
        del y[0]
        break
    else:
        pass
    class Local:
        n: int = 1
        def m(self): return super().m()
    async def g():
        async with x as y:
            yield (await y)
    return POINT, Colour.RED, Bits.A, Slotted, Pair, Named, Shape, Config, Base, cached, json, j, Local
'''

SCRIPT = """
import sys, time
sys.path[:0] = sys.argv[1:3]
import main
from flowpar.caching.code import FunctionDigester
code = FunctionDigester().code(main.f)
for each in code.components:
    print(each.kind, each.name, each.text, each.digest.hex())
print(code.digest.hex())
"""


def run(python, folder, seed="0"):
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-c", SCRIPT, str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hash_seeds_and_processes(lab):
    folder = lab.write({"main": EVERYTHING})
    outputs = {run(sys.executable, folder, seed) for seed in ("0", "1", "2")}
    assert len(outputs) == 1
    assert outputs.pop().split()[-1] == lab.digest({"main": EVERYTHING}).hex()


def test_another_python_gives_the_same_digest(lab):
    """FLOWPAR_OTHER_PYTHON names an interpreter that has flowpar, too."""
    other = os.environ.get("FLOWPAR_OTHER_PYTHON")
    if not other:
        pytest.skip("FLOWPAR_OTHER_PYTHON names no other interpreter")
    folder = lab.write({"main": EVERYTHING})
    assert run(other, folder) == run(sys.executable, folder)


def test_main_and_module(lab, tmp_path):
    """A34, A35: what a script defines is the same as in a module."""
    folder = lab.write({"main": EVERYTHING})
    tail = SCRIPT.replace("import main\n", "").replace("main.f", "f")
    script = tmp_path / "script" / "main.py"  # of the same name, which its classes have
    script.parent.mkdir()
    script.write_text(EVERYTHING + tail)
    done = subprocess.run(
        [sys.executable, script, str(folder), str(ROOT)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == run(sys.executable, folder).split()[-1]
