"""What threads of the user's process may run, by the code alone; both ways."""

import asyncio
import collections
import contextlib
import copy
import csv
import dataclasses
import functools
import gc
import heapq
import io
import itertools
import json
import logging
import math
import operator
import os
import queue
import random
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import urllib.request
import warnings
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from os import _exit as leave
from os import chdir as cd
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowpar import delayed
from flowpar.placement import TRIAL, Placement
from flowpar.sharing.codetrees import tree_of
from flowpar.sharing.shareable import shares_badly

BUFFER = np.zeros(10)
TOTAL = []
TABLE = {"a": 1}
SCALE = 3
NAMES = ("a", "b")
LOCK = threading.Lock()
LOCAL = threading.local()
DATABASE = sqlite3.connect(":memory:", check_same_thread=False)
COUNTER = itertools.count()
OPEN = io.StringIO("text")
LOOP = asyncio.new_event_loop()
LOOP.close()
LOG = logging.getLogger("shareable")
QUEUE = queue.Queue()
GENERATOR = (k for k in range(3))
PATTERN = re.compile("a")


class Filter:
    """Has a buffer of its own, which all who use it share."""

    shared = []  # noqa: RUF012 - the fault that is to be found

    def __init__(self, size=3):
        self.buffer = np.zeros(size)
        self.count = 0

    def __call__(self, x):
        self.buffer[:] = x
        return float(self.buffer.sum())

    def method(self, x):
        return self(x)

    def deep(self, x):
        return self._inner(x)

    def _inner(self, x):
        self.count = x

    def look(self, x):
        return self.buffer.sum() + x

    @property
    def next(self):
        self.count += 1
        return self.count

    @property
    def size(self):
        return len(self.buffer)

    @staticmethod
    def fill(a):
        a[0] = 1

    @classmethod
    def note(cls, x):
        cls.shared.append(x)

    def ends(self, x):
        os._exit(x)

    def __getitem__(self, k):
        self.count = k
        return k


class Quiet(Filter):
    def __call__(self, x):
        return x

    def method(self, x):
        return super().method(x)

    def above(self, x):
        return super().deep(x)


@dataclasses.dataclass
class Point:
    x: float
    y: float

    def norm(self):
        return math.hypot(self.x, self.y)

    def moved(self, by):
        return Point(self.x + by, self.y)

    def move(self, by):
        self.x += by


FILTER, QUIET, POINT = Filter(), Quiet(), Point(1, 2)
HOLDER = types.SimpleNamespace(database=DATABASE, filter=FILTER)


def fill_first(a, i):
    a[0] = i


def fill_through(a, i):
    fill_first(a, i)


def first_of(a):
    return a[0]


def walk_down(node, found):
    found.append(node)
    for child in node:
        walk_down(child, found)


def count_down(n, k=0):
    return k if n == 0 else count_down(n - 1, k + 1)


def with_default(x, seen=[]):
    seen.append(x)
    return seen


def with_none(x, seen=None):
    seen = [] if seen is None else seen
    return [*seen, x]


bad = {}
good = {}


def noted(cases):
    def note(function):
        assert function.__name__ not in cases, function.__name__
        cases[function.__name__] = function
        return function

    return note


# What must not run on threads


@noted(bad)
def tuple_target(a, i):
    a[0], a[1] = i, i + 1


@noted(bad)
def out_keyword(a, i):
    return np.add(a, i, out=a)


@noted(bad)
def out_tuple(a, i):
    return np.add(a, i, out=(a,))


@noted(bad)
def stars(*args):
    args[0][0] = args[1]


@noted(bad)
def keywords(**kwargs):
    kwargs["a"][0] = 1


@noted(bad)
def alias(a, i):
    b = a
    b[0] = i


@noted(bad)
def alias_slice(a, i):
    b = a[1:3]
    b += i
    return b


@noted(bad)
def alias_either(a, i):
    b = a if i else [0]
    b.append(1)


@noted(bad)
def alias_late(a, i):
    b = [0]
    for _ in range(3):
        b[0] = 1
        b = a
    return b


@noted(bad)
def alias_asarray(a):
    b = np.asarray(a)
    b[0] = 1
    return b


@noted(bad)
def alias_reshape(a):
    a.reshape(-1)[0] = 1


@noted(bad)
def alias_unpacked(pair):
    a, b = pair
    a[0] = b


@noted(bad)
def alias_walrus(a):
    if (b := a) is not None:
        b[0] = 1


@noted(bad)
def alias_in_list(a):
    found = [a]
    found[0][0] = 1


@noted(bad)
def alias_appended(a):
    found = []
    found.append(a)
    for each in found:
        each[0] = 1


@noted(bad)
def alias_match(a):
    match a:
        case [first, *_]:
            first.append(1)


@noted(bad)
def alias_try(a):
    b = a
    try:
        b = a.copy()
        json.loads("x")
    except ValueError:
        b[0] = 1


@noted(bad)
def iterated(rows):
    for row in rows:
        row["x"] = 1


@noted(bad)
def iterated_items(rows):
    for _, row in rows.items():
        row["x"] = 1


@noted(bad)
def iterated_enumerate(rows):
    for k, row in enumerate(rows):
        row.append(k)


@noted(bad)
def iterated_comprehension(rows):
    return [row.pop("x") for row in rows]


@noted(bad)
def for_target(a):
    for a[0] in range(3):
        pass


@noted(bad)
def with_target(a):
    with open("x") as a[0]:
        pass


@noted(bad)
def deleted(a):
    del a[0]


@noted(bad)
def deleted_attribute(a):
    del a.x


@noted(bad)
def attribute(a):
    a.x = 1


@noted(bad)
def augmented(a):
    a += 1
    return a


@noted(bad)
def augmented_item(a):
    a[0] += 1


@noted(bad)
def annotated(a):
    a.x: int = 1


@noted(bad)
def inplace(frame):
    frame.fillna(0, inplace=True)  # noqa: PD002 - as users write


@noted(bad)
def helper(a, i):
    fill_through(a, i)


@noted(bad)
def helper_keyword(a, i):
    fill_through(i=i, a=a)


@noted(bad)
def helper_starred(*args):
    fill_through(*args)


@noted(bad)
def helper_returned(a):
    first_of(a)[0] = 1


@noted(bad)
def helper_static(a):
    Filter.fill(a)


@noted(bad)
def helper_recursive(tree, found):
    walk_down(tree, found)


@noted(bad)
def helper_default(x):
    return with_default(x)


@noted(bad)
def helper_passed(rows):
    return list(map(lambda row: row.pop(), rows))  # noqa: C417 - as users write


@noted(bad)
def helper_nested(a):
    def fill():
        a[0] = 1

    fill()


@noted(bad)
def helper_nested_argument(a):
    def fill(b):
        b[0] = 1

    fill(a)


@noted(bad)
def helper_returned_closure(a):
    def fill(i):
        a[0] = i

    return fill


@noted(bad)
def helper_partial(a):
    functools.partial(fill_first, a)(1)


@noted(bad)
def numpy_copyto(a):
    np.copyto(a, 1)


@noted(bad)
def numpy_at(a):
    np.add.at(a, [0], 1)


@noted(bad)
def shuffled(a):
    random.shuffle(a)


@noted(bad)
def heaped(a):
    heapq.heappush(a, 1)


@noted(bad)
def by_operator(a):
    operator.setitem(a, 0, 1)


@noted(bad)
def by_setattr(a):
    setattr(a, "x", 1)


@noted(bad)
def torch_like(a):
    a.zero_()


@noted(bad)
def trained(model, x):
    return model.fit(x)


@noted(bad)
def advanced(numbers):
    return next(numbers)


@noted(bad)
def global_buffer(i):
    BUFFER[:] = i


@noted(bad)
def global_list(i):
    TOTAL.clear()
    TOTAL.append(i)


@noted(bad)
def global_name(i):
    global SCALE
    SCALE = i


@noted(bad)
def global_augmented(i):
    global SCALE
    SCALE += i


@noted(bad)
def global_alias(i):
    table = TABLE
    table["a"] = i


@noted(bad)
def global_dict_of_names(i):
    globals()["SCALE"] = i


@noted(bad)
def environment(i):
    os.environ["WHO"] = str(i)


@noted(bad)
def environment_update(i):
    os.environ.update(WHO=str(i))


@noted(bad)
def arguments_of_program(i):
    sys.argv = ["prog", str(i)]


@noted(bad)
def path_of_modules(i):
    sys.path.insert(0, i)


@noted(bad)
def function_attribute(i):
    function_attribute.last = i


@noted(bad)
def caught_warnings(i):
    with warnings.catch_warnings(record=True):
        warnings.warn(str(i))


@noted(bad)
def directory(i):
    cd(str(i))


@noted(bad)
def directory_within(i):
    from os import chdir as go

    go(str(i))


@noted(bad)
def directory_context(i):
    with contextlib.chdir(i):
        pass


@noted(bad)
def output(i):
    with contextlib.redirect_stdout(io.StringIO()):
        print(i)


@noted(bad)
def leaves(i):
    leave(i)


@noted(bad)
def leaves_by_method(i):
    return FILTER.ends(i)


@noted(bad)
def leaves_by_class(i):
    made = Filter()
    return made.ends(i)


@noted(bad)
def replaced(i):
    os.execv("/bin/true", ["true"])


@noted(bad)
def limited(i):
    resource.setrlimit(resource.RLIMIT_AS, (i, i))


@noted(bad)
def collected(i):
    gc.disable()


@noted(bad)
def seeded(i):
    np.random.seed(i)  # noqa: NPY002 - as users write


@noted(bad)
def seeded_argument(rng):
    rng.seed(1)


@noted(bad)
def seeded_alias(i):
    from numpy.random import seed as start

    start(i)  # noqa: NPY002 - as users write


@noted(bad)
def drawn(i):
    import matplotlib.pyplot as plt

    plt.figure()


@noted(bad)
def drawn_from(i):
    from matplotlib.pyplot import figure

    figure()


@noted(bad)
def drawn_seaborn(i):
    import seaborn as sns

    sns.heatmap(i)


@noted(bad)
def from_a_global(i):
    return FILTER(i)


@noted(bad)
def from_a_global_method(i):
    return FILTER.deep(i)


@noted(bad)
def from_a_global_property(i):
    return FILTER.next + i


@noted(bad)
def from_a_global_item(i):
    return FILTER[i]


@noted(bad)
def from_a_class_method(i):
    Filter.note(i)


@noted(bad)
def from_a_holder(i):
    return HOLDER.filter.deep(i)


@noted(bad)
def point_moved(i):
    POINT.move(i)


@noted(bad)
def of_a_thread():
    return LOCAL.x


@noted(bad)
def of_a_database(i):
    return DATABASE.execute("select ?", (i,)).fetchone()


@noted(bad)
def of_a_held_database(i):
    return HOLDER.database.execute("select ?", (i,)).fetchone()


@noted(bad)
def of_an_open_file():
    return OPEN.read()


@noted(bad)
def of_an_iterator():
    return next(COUNTER)


@noted(bad)
def of_a_generator():
    return list(GENERATOR)


@noted(bad)
def of_a_loop(x):
    return LOOP.run_until_complete(x)


# What must stay there


@noted(good)
def plain(x):
    return x**3


@noted(good)
def empty_filled(n):
    out = np.empty(n)
    out[0], out[1:] = 1, 2
    out[1:3] += 1
    out *= 2
    np.multiply(out, 2, out=out)
    out.sort()
    return out


@noted(good)
def copied(frame, k=2):
    frame = frame.copy()
    frame["b"] = frame["a"] * k
    frame.loc[0, "b"] = 1
    frame.dropna(inplace=True)  # noqa: PD002 - as users write
    return frame


@noted(good)
def copied_in_loop(frames):
    made = []
    for frame in frames:
        frame = frame.copy()
        frame["x"] = 1
        made.append(frame)
    return pd.concat(made)


@noted(good)
def result_of_a_call(path):
    frame = pd.read_csv(path)
    frame["b"] = frame["a"].map(str)
    frame.columns = ["a", "b"]
    return frame.groupby("a").sum()


@noted(good)
def local_containers(values):
    found, seen, text = {}, set(), ""
    for k, value in enumerate(values):
        k += 1
        found[value] = k
        found.setdefault(value, []) and None
        seen.add(value)
        text += str(value)
    counts = defaultdict(list)
    counts["a"].append(1)
    number = 0
    number += len(found)
    found.update(a=1)
    rows = [*values]
    rows.append(3)
    rows.sort(key=lambda row: row[0])
    return found, text, number


@noted(good)
def options_popped(x, **kwargs):
    k = kwargs.pop("k", 1)
    kwargs["b"] = 2
    return x * k, kwargs


@noted(good)
def constants(x):
    return x * SCALE + len(NAMES) + TABLE["a"] + BUFFER.sum()


@noted(good)
def counted_constant(x):
    n = SCALE
    n += x
    return n


@noted(good)
def shape_counted(a):
    rows, _ = a.shape
    rows += 1
    size = a.size
    size -= 1
    return rows * size


@noted(good)
def logged(x):
    LOG.info("x %s", x)
    print(x, file=sys.stderr)
    sys.stdout.write("")
    return x


@noted(good)
def slept(x):
    time.sleep(x)
    return os.getpid(), os.getcwd(), os.environ.get("HOME"), os.environ["PATH"]


@noted(good)
def fetched(url):
    with urllib.request.urlopen(url) as page:
        data = json.loads(page.read())
    data["url"] = url
    return data


@noted(good)
def opened(path):
    with open(path, "w") as file:
        file.write("x")
        file.seek(0)
    found = Path(path)
    found.write_text("x")
    return list(open(path))


@noted(good)
def wrote_rows(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(rows)


@noted(good)
def own_database(path):
    with sqlite3.connect(path) as database:
        database.execute("create table t(x)")
        database.commit()
        return database.execute("select 1").fetchall()


@noted(good)
def own_process(x):
    process = subprocess.Popen(["sleep", "9"])
    process.kill()
    return subprocess.run(["true"], check=True).returncode


@noted(good)
def own_generator(n):
    rng = np.random.default_rng(n)
    values = rng.normal(size=3)
    values[0] = 0
    rng.shuffle(values)
    mine = random.Random(n)
    mine.seed(3)
    return values, np.random.rand(3), random.random()  # noqa: NPY002 - as users write


@noted(good)
def own_object(n):
    made = Filter()
    made.deep(n)
    made.count += 1
    return made(n) + made.next


@noted(good)
def own_point(n):
    point = Point(n, 1)
    point.move(3)
    return point.moved(2).norm()


@noted(good)
def looked(i):
    return FILTER.look(i) + FILTER.size + POINT.norm() + POINT.moved(i).x


@noted(good)
def helped(n):
    mine = np.zeros(n)
    fill_through(mine, 1)
    found = []
    walk_down([], found)
    return mine, first_of(mine), count_down(3), with_none(n), found


@noted(good)
def nested(n):
    total = 0

    def add(k):
        nonlocal total
        total += k

    def fill(a):
        a[0] = 1
        return a

    add(n)
    return total, fill(np.zeros(3)), [*map(lambda k: k + 1, range(n))]  # noqa: C417 - as users write


@noted(good)
def applied(frame):
    def shorter(row):
        return row["a"] + 1

    made = frame.assign(b=lambda each: each.a + 1)
    made["c"] = made.apply(shorter, axis=1)
    return made.sort_values("c").reset_index(drop=True)


@noted(good)
def pandas_methods(frame):
    added = frame.add(1).round(2)
    return added.drop(columns="a"), frame.replace(1, 2), frame["a"].str.partition(",")


@noted(good)
def texts(line, path):
    head, _, tail = line.partition("=")
    path = path + ".txt"
    line += ", and so on"
    return re.sub("a", "b", head), PATTERN.findall(tail), line


@noted(good)
def image_like(image):
    return image.resize((100, 100))


@noted(good)
def numbers(n: int):
    while n > 1:
        n -= 1
    return n


@noted(good)
def copied_deeply(config):
    config = copy.deepcopy(config)
    config["a"] = 1
    config = dict(config)
    config["b"] = 2
    return config


@noted(good)
def in_pool(names):
    with ThreadPoolExecutor() as pool:
        return list(pool.map(str.upper, names))


@noted(good)
def queued(x):
    QUEUE.put(x)


@noted(good)
def locked(x):
    with LOCK:
        return x


@noted(good)
def temporary(x):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_text(str(x))
    return Counter(x).most_common(3)


@noted(good)
def errors(x):
    try:
        return 1 / x
    except ZeroDivisionError as error:
        error.x = 1
        raise ValueError(x) from error


@noted(good)
def masked(a):
    b = np.where(a > 0, a, 0)
    b[b > 3] = 3
    c = a[a > 0] * 2
    c[0] = 1
    d = a.astype(float)
    d += 1
    e = np.array(a)
    e.fill(0)
    return b, c, d


@noted(good)
def matched(x):
    match x:
        case {"a": a}:
            return a
        case [a, *rest]:
            return len(rest)
    return None


@noted(good)
def state_of_numpy(x):
    with np.errstate(all="ignore"):
        return np.log(x)


@noted(good)
def generated(n):
    for k in range(n):
        k += 1
        yield k


@noted(good)
def dated(x):
    ordered = collections.OrderedDict(x)
    ordered.move_to_end("a")
    stack = [1]
    while stack:
        stack.pop()
        stack.extend([])
    return ordered


@pytest.mark.parametrize("name", bad)
def test_what_touches_what_is_shared_is_not_for_threads(name):
    assert tree_of(bad[name].__code__) is not None
    assert shares_badly(bad[name])


@pytest.mark.parametrize("name", good)
def test_what_keeps_to_itself_is(name):
    assert tree_of(good[name].__code__) is not None
    assert shares_badly(good[name]) == ""


CALLABLES = {
    "object": (FILTER, True),
    "object that only looks": (QUIET, False),
    "method": (FILTER.method, True),
    "method that calls another": (FILTER.deep, True),
    "method of the class above": (QUIET.above, True),
    "method of the class above, that calls one of this": (QUIET.method, False),
    "method that only looks": (FILTER.look, False),
    "method that ends the process": (FILTER.ends, True),
    "class": (Filter, False),
    "dataclass": (Point, False),
    "static method": (Filter.fill, True),
    "class method": (Filter.note, True),
    "partial": (functools.partial(fill_first, i=1), True),
    "partial of a method": (functools.partial(FILTER.deep, 1), True),
    "partial that holds a file": (functools.partial(plain, OPEN), True),
    "partial that holds nothing": (functools.partial(plain, 3), False),
    "cached": (functools.lru_cache(fill_first), True),
    "cached, and plain": (functools.lru_cache(plain), False),
    "lambda": (lambda i: FILTER(i), True),
    "lambda that only looks": (lambda i: FILTER.look(i), False),
    "lambda that is a part of a line": ((lambda i: TOTAL.append(i)), True),
    "default that is kept": (with_default, True),
    "built in": (len, False),
    "built in, with a name for it": (os.chdir, True),
    "built in, of a list": (TOTAL.append, True),
    "built in, of any list": (list.append, True),
    "built in, of a database": (DATABASE.execute, True),
    "function of numpy": (np.sum, False),
    "function of numpy, with an out=None": (np.mean, False),
    "function of numpy, that reads": (np.load, False),
    "function of pandas": (pd.read_csv, False),
    "method of pandas": (pd.DataFrame.sum, False),
    "of the library, with a state of its own": (urllib.request.urlopen, False),
    "ufunc": (np.add, False),
    "of the library": (textwrap.TextWrapper._wrap_chunks, True),
    "of the library, and plain": (textwrap.dedent, False),
    "of the library, random": (random.shuffle, True),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_callables_of_all_kinds(name):
    call, is_bad = CALLABLES[name]
    assert bool(shares_badly(call)) == is_bad


def test_captured_things_count_as_global_ones():
    lines, cells = iter([1]), []

    def reads(k):
        return next(lines)

    def grows(k):
        cells.append(k)

    def counts(k):
        nonlocal cells
        cells = k

    def looks(k):
        return cells[k]

    assert all(map(shares_badly, (reads, grows, counts)))
    assert not shares_badly(looks)


SOURCELESS = {
    "def f(a, i): a[0] = i": True,
    "def f(a, i): a[0], a[1] = i, i": True,
    "def f(a, i): a[1:2] = i": True,
    "def f(a): del a[0]": True,
    "def f(a): a.x = 1": True,
    "def f(a, b):\n a.x, b.x = 1, 2": True,
    "def f(a): a += 1": True,
    "def f(a): a.append(1)": True,
    "def f(i):\n global x\n x = i": True,
    "def f(a): g(a)\ndef g(a): a.x = 1": True,
    "def f(a): import numpy as np; np.add(a, 1, out=a)": True,
    "def f(a): return [each.pop() for each in a]": True,
    "def f(a): import os; os._exit(1)": True,
    "def f(a): from os import chdir as cd; cd(a)": True,
    "import os\ndef f(a): os._exit(1)": True,
    "from os import chdir as cd\ndef f(a): cd(a)": True,
    "import random\ndef f(a): random.shuffle(a)": True,
    "def f(a): import matplotlib.pyplot": True,
    "class M:\n def run(self, i): self.x = i\nm = M()\ndef f(i): return m.run(i)": True,
    "class M:\n def __call__(self, i): self.x = i\nm = M()\ndef f(i): return m(i)": True,
    "def made():\n n = 0\n def f(i):\n  nonlocal n\n  n = i\n return f\nf = made()": True,
    "f = lambda a: a.pop()": True,
    "def f(a): return a + 1": False,
    "def f(a):\n total = 0\n for k in a: total += k\n return total": False,
    "import time\ndef f(a): time.sleep(a); return [k for k in range(3)]": False,
    "import numpy as np\ndef f(a): return np.zeros(a).sum()": False,
    "class M:\n def __init__(self): self.x = 1\ndef f(i): return M()": False,
    "def g(a): return a\ndef f(a): return g(a)": False,
    "f = lambda a: a.sum()": False,
}


@pytest.mark.parametrize("source", SOURCELESS)
def test_without_source_instructions_have_to_tell(source):
    names = {}
    exec(compile(source, "<nowhere>", "exec"), names)
    assert tree_of(names["f"].__code__) is None
    assert bool(shares_badly(names["f"])) == SOURCELESS[source]


def test_a_file_that_was_edited_says_nothing(tmp_path):
    path = tmp_path / "edited.py"
    path.write_text("def f(a):\n    a[0] = 1\n    return a\n")
    names = {}
    exec(compile(path.read_text(), path, "exec"), names)
    path.write_text("def f(a):\n    b = 0, 1\n    return a\n")
    assert tree_of(names["f"].__code__) is None
    assert shares_badly(names["f"])


def test_what_cannot_be_looked_through_does_not_share():
    lines = ["def f0(x): return x", *(f"def f{k}(x): return f{k - 1}(x)" for k in range(1, 5000))]
    names = {}
    exec(compile("\n".join(lines), "<nowhere>", "exec"), names)
    started = time.perf_counter()
    assert shares_badly(names["f4999"])
    assert time.perf_counter() - started < 5
    assert not shares_badly(names["f9"])


def test_nothing_of_the_users_is_run():
    class Loud:
        def __getattr__(self, name):
            raise AssertionError(name)

        @property
        def value(self):
            raise AssertionError

        __class__ = value
        __name__ = __module__ = __wrapped__ = __func__ = value

    class Strange:
        def __getattribute__(self, name):
            raise RuntimeError(name)

    loud, strange = Loud(), Strange()

    def looks(x):
        return loud.value, loud.method(x), loud.other.deep, loud[x]

    assert isinstance(shares_badly(looks), str)
    assert isinstance(shares_badly(loud), str)
    assert isinstance(shares_badly(strange), str)
    assert shares_badly(lambda x: strange.value) == ""
    assert isinstance(shares_badly(functools.partial(plain, loud)), str)


def lane_of(function, **options):
    return Placement("auto", **options).lane_of(delayed(function)(1)._function)


def test_what_shares_badly_and_cannot_travel_runs_here():
    lock = threading.Lock()

    def guarded(i):
        with lock:
            os.chdir(i)

    def unguarded(i):
        with lock:
            return i

    assert lane_of(guarded) == "inline"
    assert lane_of(unguarded) == TRIAL
    assert lane_of(directory) == "processes"
    assert lane_of(plain) == TRIAL


# Random functions, made of writes to what was given and to what was not: those that change what
# they were given when they run are found.

PIECES = (
    "{t} = {s}",
    "{t} = {s}[0]",
    "{t} = [{s}, [0]]",
    "{t} = list({s})",
    "{t} = [[0], [1]]",
    "{t}, {u} = {s}, {t}",
    "{t}.append([1])",
    "{t}[0] = {s}",
    "for {t} in {s}: pass",
    "for {t} in [{s}]: {t}.append([2])",
    "if len({s}) > 1: {t} = {u}",
    "{t} = {t} + {s}",
    "grow({s})",
    "{t} = same({s})",
    "{t} = [{u} for {u} in {s}]",
)
HELPERS = "def grow(x): x.append([0])\ndef same(x): return x\n"


@pytest.mark.parametrize("seed", range(300))
def test_random_functions_that_change_what_they_get_are_found(seed, tmp_path):
    rng = random.Random(seed)
    lines = ["def f(a, b):", "    c = [[0], [1]]"]
    for _ in range(rng.randint(1, 6)):
        t, u, s = (rng.choice("abc") for _ in range(3))
        lines.append("    " + rng.choice(PIECES).format(t=t, u=u, s=s))
    path = tmp_path / f"random{seed}.py"
    path.write_text(HELPERS + "\n".join(lines) + "\n")
    names = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    given = [[[1], [2]], [[3]], [4]], [[[5]], [[6]]]
    before = copy.deepcopy(given)
    with contextlib.suppress(IndexError, TypeError, AttributeError):
        names["f"](*given)
    if not _is_equal(given, before):
        assert shares_badly(names["f"]), path.read_text()


def _is_equal(one, other):
    try:
        return one == other
    except RecursionError:  # it was put into itself
        return False
