"""Real edits of real files, and reruns in new interpreters: what runs again, and what it gives.

The names of the rows are those of the survey that the cache was designed from: A is about what a
function is, B about its arguments, C about graphs, D about results and faults.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CALLS = """
import os, flowpar

@flowpar.untracked
def called(name):
    descriptor = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{name}\\n".encode())
    os.close(descriptor)
"""

HEAD = "from calls import called\nimport flowpar\nfrom flowpar import delayed\n"

TAIL = """
if __name__ == "__main__":
    import sys
    print(repr(flowpar.compute(out, cache="cache", scheduler=sys.argv[1])))
"""


@dataclass(frozen=True)
class Step:
    """What is done to the project, what the next run calls, and what it gives.

    Attributes
    ----------
    edits
        Pairs of old and new text, for the one file of a row; with the file's name before them
        where there are more; or functions that are given the project.
    """

    edits: tuple[Any, ...]
    called: str
    value: Any


@dataclass(frozen=True)
class Row:
    name: str
    files: dict[str, str]
    first: tuple[str, Any]
    steps: tuple[Step, ...]
    warns: str = ""
    where: tuple[str, ...] = ("sync",)
    fails: str = ""
    marks: tuple[Any, ...] = field(default=())


class Project:
    """A folder with some modules, a cache and a log of calls."""

    def __init__(self, folder, files):
        self.folder = folder
        self.environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        self.environment["CALLS"] = str(folder / "calls.log")
        self.write("calls.py", CALLS)
        for name, text in files.items():
            tail = TAIL if name == "main.py" else ""
            head = HEAD if name.endswith(".py") else ""
            self.write(name, head + textwrap.dedent(text) + tail)

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name, old, new):
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
        self.write(name, text.replace(old, new))

    def start(self, *args, script="main.py"):
        return subprocess.Popen(
            [sys.executable, "-W", "default", script, *args],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args, script="main.py"):
        """Run the script and return what it printed, and what it said."""
        process = self.start(*args, script=script)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out.strip(), err

    def calls(self):
        """Return which functions were called since this was last asked."""
        log = Path(self.environment["CALLS"])
        if not log.exists():
            return []
        names = log.read_text().split()
        log.unlink()
        return sorted(names)


def rows_of(*rows):
    return [
        pytest.param(
            row,
            scheduler,
            id=row.name if scheduler == "sync" else f"{row.name}-{scheduler}",
            marks=[*row.marks, *([pytest.mark.xfail(reason=row.fails)] if row.fails else [])],
        )
        for row in rows
        for scheduler in row.where
    ]


def row(name, files, *steps, first=("f", 6), **more):
    """Return a row; a single source is that of a module, from which the script has `out`."""
    if isinstance(files, str):
        files = {"lib.py": files, "main.py": "from lib import out"}
    return Row(name, files, first, steps, **more)


def then(*edits, called="", value=6):
    return Step(edits, called, value)


CHANGES_ITS_ARGUMENT = """
mine = [1, 2]

@delayed
def f(values):
    called("f")
    values.append(3)
    return sum(values)

out = f(mine)
"""

BOTH = ("sync", "processes")


def check(row, scheduler, folder):
    project = Project(folder, row.files)
    default = next((name for name in row.files if name != "main.py"), "main.py")
    for number, step in enumerate((then(called=row.first[0], value=row.first[1]), *row.steps)):
        for edit in step.edits:
            if callable(edit):
                edit(project)
            else:
                project.replace(*(edit if len(edit) == 3 else (default, *edit)))
        out, said = project.run(scheduler)
        assert project.calls() == sorted(step.called.split()), f"step {number}"
        assert out == repr(step.value), f"step {number}"
        if row.warns:
            assert number or re.search(row.warns, said), said
        else:
            assert not said, f"step {number}: {said}"


# Functions ----------------------------------------------------------------------------------------

F = """
@delayed
def f(x: int):
    '''Double it.'''
    called("f")
    result = x * 2
    return result

out = f(3)
"""

DECORATED = """
import functools

TIMES = 2

def times(n):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args) * n
        return wrapper
    return decorate

def plain(function):
    def inner(*args):
        return function(*args)
    return inner

@delayed
@times(TIMES)
def f(x):
    called("f")
    return x + 0

@delayed
@plain
def g(x):
    called("g")
    return x * 2

out = {}
"""

HELPERS = """
import functools

FACTOR = 1
TABLE = {"k": [1, 0]}

def helper(x):
    return deeper(x) * 2

def deeper(x):
    return x + 0

@functools.lru_cache
def remembered(x):
    return x * 2

def even(n):
    return 0 if n == 0 else odd(n - 1)

def odd(n):
    return 1 if n == 0 else even(n - 1)

REGISTRY = {"twice": lambda x: x * 2}

class Scale:
    factor = 2
    def by(self, x):
        return x * self.factor
    def __init__(self, offset=0):
        self.offset = offset
    def move(self, x):
        return x * 2 + self.offset

SCALE = Scale()

@delayed
def f(x):
    called("f")
    return USES

out = f(3)
"""


def uses(expression):
    return HELPERS.replace("USES", expression)


DOUBLER = "def double(x):\n    return x * 2\n"

PACKAGE = "site-packages/outside-1.0.dist-info"


def upgrade(project):
    """Let the installed package be of another version."""
    old, new = project.folder / PACKAGE, project.folder / PACKAGE.replace("1.0", "2.0")
    old.rename(new)
    (new / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 2.0\n")
    project.replace("site-packages/outside.py", "x * 2", "x * 3")


def set_variable(name, value):
    def change(project):
        project.environment[name] = value

    return change


FUNCTION_ROWS = rows_of(
    row("A1", F, then(), where=BOTH),
    row("A2", F, then(("x * 2", "x * 3"), called="f", value=9), where=BOTH),
    row("A3", F, then(("result = x * 2", "# Twice.\n    result = x * 2  # as much"))),
    row("A4", F, then(("@delayed", "import math\n\nUNUSED = math.pi\n\n\n@delayed"))),
    row("A5", F, then(("Double it.", "Return twice as much.\n\n    More."))),
    row("A6", F, then(("result = x * 2\n    return result", "y = x * 2\n    return y"))),
    row("A7", F, then(("result = x * 2", "result = (x  *\n        2)"))),
    row("A8", F, then(("x: int", "x: 'float | None'"))),
    row(
        "A9",
        """
        @delayed
        def f(x, times=2):
            called("f")
            return x * times

        out = f(3)
        """,
        then(("times=2", "times=3"), called="f", value=9),
        where=BOTH,
    ),
    row(
        "A10",
        """
        TIMES = 2

        @delayed
        def f(x, times=TIMES):
            called("f")
            return x * times

        out = f(3)
        """,
        then(("TIMES = 2", "TIMES = 3"), called="f", value=9),
    ),
    row("A11", uses("helper(x)"), then(("deeper(x) * 2", "deeper(x) * 3"), called="f", value=9)),
    row(
        "A12",
        {
            "tools.py": DOUBLER,
            "lib.py": "from tools import double\n@delayed\ndef f(x):\n    called('f')\n"
            "    return double(x)\nout = f(3)",
            "main.py": "from lib import out",
        },
        then(("tools.py", "x * 2", "x * 3"), called="f", value=9),
        where=BOTH,
    ),
    row(
        "A13",
        {
            "tools.py": DOUBLER + "\ndef other(x):\n    return x - 1\n",
            "lib.py": "import tools\n@delayed\ndef f(x):\n    called('f')\n"
            "    return tools.double(x)\nout = f(3)",
            "main.py": "from lib import out",
        },
        then(("tools.py", "x - 1", "x - 2")),
        then(("tools.py", "x * 2", "x * 3"), called="f", value=9),
    ),
    row("A14", uses("helper(x)"), then(("return x + 0", "return x + 1"), called="f", value=8)),
    row(
        "A15",
        uses("x * 2 * FACTOR"),
        then(("FACTOR = 1", "FACTOR = 2"), called="f", value=12),
        where=BOTH,
    ),
    row(
        "A16",
        uses("x * 2 + TABLE['k'][1]"),
        then(("[1, 0]", "[1, 1]"), called="f", value=7),
    ),
    row(
        "A17",
        """
        def make(n):
            def f(x):
                called("f")
                return x * n
            return delayed(f)

        out = make(2)(3)
        """,
        then(("make(2)", "make(3)"), called="f", value=9),
        where=BOTH,
    ),
    row(
        "A18",
        "out = delayed(lambda x: [called('f'), x * 2][1])(3)",
        then(("x * 2", "x * 3"), called="f", value=9),
        where=BOTH,
    ),
    row(
        "A19",
        """
        two = lambda x: [called("f"), x * 2][1], lambda x: [called("f"), x * 3][1]
        out = delayed(two[0])(3)
        """,
        then(("two[0]", "two[1]"), called="f", value=9),
        then(("two[1]", "two[0]")),
        where=BOTH,
    ),
    row(
        "A20",
        """
        import functools

        def f(n, x):
            called("f")
            return x * n

        out = delayed(functools.partial(f, 2))(3)
        """,
        then(("(f, 2)", "(f, 3)"), called="f", value=9),
    ),
    row(
        "A21",
        DECORATED.format("f(3)"),
        then(("function(*args) * n", "function(*args) * n + 1"), called="f", value=7),
        where=BOTH,
    ),
    row(
        "A22",
        DECORATED.format("f(3)"),
        then(("TIMES = 2", "TIMES = 3"), called="f", value=9),
    ),
    row(
        "A23",
        DECORATED.format("g(3)"),
        then(("x * 2", "x * 3"), called="g", value=9),
        first=("g", 6),
    ),
    row("A23b", DECORATED.format("f(3)"), then(("x + 0", "x + 1"), called="f", value=8)),
    row("A24", uses("Scale().by(x)"), then(("factor = 2", "factor = 3"), called="f", value=9)),
    row("A25", uses("Scale().by(x)"), then(("self.factor\n", "6\n"), called="f", value=18)),
    row(
        "A26",
        uses("SCALE.move(x)"),
        then(("x * 2 + self", "x * 3 + self"), called="f", value=9),
        then(("SCALE = Scale()", "SCALE = Scale(1)"), called="f", value=10),
    ),
    row(
        "A27",
        """
        @delayed
        def f(x):
            called("f")
            def nested(y):
                return y * 2
            return nested(x)

        out = f(3)
        """,
        then(("y * 2", "y * 3"), called="f", value=9),
    ),
    row(
        "A28",
        uses("REGISTRY['twice'](x)"),
        then(("lambda x: x * 2", "lambda x: x * 3"), called="f", value=9),
    ),
    row(
        "A29",
        uses("remembered(x)"),
        then(
            ("def remembered(x):\n    return x * 2", "def remembered(x):\n    return x * 3"),
            called="f",
            value=9,
        ),
    ),
    row(
        "A30",
        uses("even(x)"),
        then(("0 if n == 0", "5 if n == 0"), called="f", value=1),
        then(("1 if n == 0", "7 if n == 0"), called="f", value=7),
        first=("f", 1),
    ),
    row(
        "A31",
        {
            "tools.py": DOUBLER,
            "lib.py": "@delayed\ndef f(x):\n    from tools import double\n    called('f')\n"
            "    return double(x)\nout = f(3)",
            "main.py": "from lib import out",
        },
        then(("tools.py", "x * 2", "x * 3"), called="f", value=9),
        where=BOTH,
    ),
    # Which function that is cannot be known: the docs say so, and what to do.
    row(
        "A32",
        uses("globals()['deep' + 'er'](x) * 2"),
        then(("return x + 0", "return x + 1"), called="", value=6),
    ),
    row(
        "A32-deps",
        uses("globals()['deep' + 'er'](x) * 2").replace("@delayed", "@delayed(deps=[deeper])"),
        then(("return x + 0", "return x + 1"), called="f", value=8),
    ),
    row(
        "A33",
        """
        import os

        @delayed
        def f(x):
            called("f")
            return x * int(os.environ.get("KK", "2"))

        out = f(3)
        """,
        then(set_variable("KK", "3"), called="", value=6),
    ),
    row(
        "A33-deps",
        """
        import os

        @delayed(deps=[os.environ.get("KK")])
        def f(x):
            called("f")
            return x * int(os.environ.get("KK", "2"))

        out = f(3)
        """,
        then(set_variable("KK", "3"), called="f", value=9),
        where=BOTH,
    ),
    row("A34", {"main.py": F}, then(), then(("x * 2", "x * 3"), called="f", value=9), where=BOTH),
    row(
        "A35",
        {"main.py": F},
        then(
            lambda project: project.write("lib.py", HEAD + F),
            lambda project: project.write("main.py", HEAD + "from lib import out\n" + TAIL),
        ),
        where=BOTH,
    ),
    row(
        "A36",
        F,
        then(("x * 2", "x * 3"), called="f", value=9),
        then(("x * 3", "x * 2")),
        then(("x * 2", "x * 3"), value=9),
    ),
    row(
        "A37",
        {
            "lib.py": F,
            "main.py": """
            from lib import out
            import pathlib
            source = pathlib.Path("lib.py")
            source.write_text(source.read_text().replace("x * 2", "x * 3"))
            """,
        },
        then(called="f", value=9),
        then(value=9),
    ),
    row(
        "A37-helper",
        {
            "lib.py": uses("helper(x)"),
            "main.py": """
            from lib import out
            import pathlib
            source = pathlib.Path("lib.py")
            source.write_text("#\\n\\n" + source.read_text().replace("deeper(x) * 2", "deeper(x) * 3"))
            """,
        },
        then(called="f", value=9),
        then(value=9),
    ),
    row(
        "A39",
        {
            "site-packages/outside.py": DOUBLER,
            f"{PACKAGE}/METADATA": "Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n",
            f"{PACKAGE}/RECORD": "outside.py,,\n",
            f"{PACKAGE}/top_level.txt": "outside\n",
            "lib.py": "import sys\nsys.path.append('site-packages')\nimport outside\n"
            "def helper(x):\n    return outside.double(x)\n"
            "@delayed\ndef f(x):\n    called('f')\n    return helper(x)\nout = f(3)",
            "main.py": "from lib import out",
        },
        then(upgrade, called="f", value=9),
    ),
    row(
        "A40",
        """
        import logging
        import threading

        LOG = logging.getLogger(__name__)
        LOCK = threading.Lock()

        @delayed
        def f(x):
            called("f")
            with LOCK:
                LOG.info("working")
            return x * 2

        out = f(3)
        """,
        then(),
        where=BOTH,
    ),
    row(
        "A41",
        """
        NAMES = {"aa", "bb", "cc", "dd"}

        @delayed
        def f(x):
            called("f")
            return x * 2 if "q" not in {"a", "b", "c", "d", "e"} | NAMES else 0

        out = f(3)
        """,
        then(set_variable("PYTHONHASHSEED", "1")),
        then(set_variable("PYTHONHASHSEED", "4242")),
        where=BOTH,
    ),
)


@pytest.mark.parametrize(("row", "scheduler"), FUNCTION_ROWS)
def test_functions(row, scheduler, tmp_path):
    check(row, scheduler, tmp_path)


def test_what_a_worker_made_of_a_file_edited_since_is_not_kept_as_of_the_old_code(tmp_path):
    """Row A37, where a process that starts later sees other code than the one that asks it."""
    source = """
        from lib import f
        import pathlib
        import sys
        f(1).compute(cache="cache", scheduler="sync")
        path = pathlib.Path("lib.py")
        text = path.read_text()
        if sys.argv[1] == "processes":
            path.write_text(text.replace("x * 2", "x * 3"))
        print(f(3).compute(cache="cache", scheduler=sys.argv[1]))
        path.write_text(text)
    """
    project = Project(tmp_path, {"lib.py": F})
    project.write("main.py", textwrap.dedent(source))
    project.run("processes")
    out, _ = project.run("sync")
    assert out == "6"


def test_another_python_finds_what_this_one_kept(tmp_path):
    """Row A38; FLOWPAR_OTHER_PYTHON names an interpreter that has flowpar, too."""
    other = os.environ.get("FLOWPAR_OTHER_PYTHON")
    if not other:
        pytest.skip("FLOWPAR_OTHER_PYTHON names no other interpreter")
    project = Project(tmp_path, {"main.py": F})
    project.run("sync")
    assert project.calls() == ["f"]
    command = [other, "-W", "default", "main.py", "sync"]
    done = subprocess.run(
        command, cwd=tmp_path, env=project.environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), project.calls()) == ("6", []), done.stderr


# Arguments ----------------------------------------------------------------------------------------

ARGUMENTS = """
import collections
import contextlib
import json
import os
import pathlib
import random
import sys

import numpy as np
import pandas as pd

from shapes import Imported


class Local(Imported):
    pass


@delayed
def f(x):
    called("f")
    return x


@delayed
def defaults(x, y=2, *, z=3):
    called("f")
    return (x, y, z)


def mapped(values, shape, dtype="int64"):
    number = len(list(pathlib.Path().glob("*.map")))
    path = f"{os.getpid()}-{number}.map"
    np.asarray(values, "int64").tofile(path)
    return np.memmap(path, dtype=dtype, shape=shape, mode="r")


def by_columns(frame):
    made = pd.DataFrame(index=frame.index)
    for name in frame:
        made[name] = frame[name].copy()
    return made


def nested(depth, value):
    for _ in range(depth):
        value = [value]
    return value


def same(a, b):
    if isinstance(b, np.ndarray):
        signs = np.array_equal(np.signbit(a), np.signbit(b))
        return a.dtype == b.dtype and np.array_equal(a, b) and signs
    if isinstance(b, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
        return True
    if isinstance(b, dict):
        return type(a) is type(b) and list(a.items()) == list(b.items())
    if isinstance(b, (set, frozenset, Imported)):
        return type(a) is type(b) and a == b
    if isinstance(b, random.Random):
        return a.getstate() == b.getstate()
    return repr(a) == repr(b)


def evaluate(text):
    a, b = ["a"], ["a"]
    return eval(text, {**globals(), **locals()})


if __name__ == "__main__":
    found = {}
    for name, text in json.loads(pathlib.Path(sys.argv[1]).read_text()).items():
        os.environ["CALLS"] = f"{name}.log"
        pathlib.Path(f"{name}.log").unlink(missing_ok=True)
        wanted = evaluate(text)
        task, want = wanted if isinstance(wanted, tuple) and len(wanted) == 2 and isinstance(
            wanted[0], flowpar.Delayed) else (f(wanted), wanted)
        value = flowpar.compute(task, cache=f"caches/{name}", scheduler="sync")
        called_ = pathlib.Path(f"{name}.log").exists()
        found[name] = "wrong" if not same(value, want) else "called" if called_ else "cached"
    print(json.dumps(found))
"""

SHAPES = """
class Imported:
    def __init__(self, **state):
        vars(self).update(state)

    def __eq__(self, other):
        return vars(self) == vars(other)

    __hash__ = None
"""

FRAME = "pd.DataFrame({'a': [1, 2], 'b': [3., 4.]})"

ARGUMENT_ROWS = {
    "B1": ("{'a', 'b', 'c', 'd'}", "{'d', 'c', 'b', 'a'}", "cached"),
    "B2": ("frozenset('abcd')", "frozenset('dcba')", "cached"),
    "B3": ("[1, {'a', 'b', 'c'}]", "[1, {'c', 'b', 'a'}]", "cached"),
    "B4": ("Imported(s={'a', 'b', 'c'})", "Imported(s={'c', 'b', 'a'})", "cached"),
    "B5": ("{'a': 1, 'b': 2}", "{'b': 2, 'a': 1}", "called"),
    "B6": ("{1: 'x', '1': 'y'}", "{1: 'x', '1': 'y'}", "cached"),
    "B6-order": ("{1: 'x', '1': 'y'}", "{'1': 'y', 1: 'x'}", "called"),
    "B7": ("1", "'1'", "called"),
    "B8-float": ("1", "1.0", "called"),
    "B8-bool": ("1", "True", "called"),
    "B9": ("[1, 2, 3]", "(1, 2, 3)", "called"),
    "B10": ("np.zeros(4, 'int64')", "np.zeros(4, 'float64')", "called"),
    "B11": ("np.zeros(4)", "np.zeros((2, 2))", "called"),
    "B12": ("np.array([[1, 2], [3, 4]])", "np.array([[1, 3], [2, 4]], order='F')", "called"),
    "B13": ("np.array([[1, 2], [3, 4]])", "np.array([[1, 2], [3, 4]], order='F')", "cached"),
    "B14-stride": ("np.arange(10)[::2]", "np.arange(10)[::2].copy()", "cached"),
    "B14-reversed": ("np.arange(10)[::-1]", "np.arange(10)[::-1].copy()", "cached"),
    "B15": ("0.0", "-0.0", "called"),
    "B15-array": ("np.array([0.0])", "np.array([-0.0])", "called"),
    "B16": ("float('nan')", "float('nan')", "cached"),
    "B17": ("mapped(range(4), 4)", "np.arange(4)", "cached"),
    "B18-shape": ("mapped(range(24), (4, 6))", "mapped(range(24), (6, 4))", "called"),
    "B18-dtype": ("mapped(range(4), 4)", "mapped(range(4), 4, 'uint64')", "called"),
    "B19": (FRAME, f"{FRAME}.rename(columns={{'a': 'c'}})", "called"),
    "B20": (FRAME, f"{FRAME}.set_index(pd.Index([7, 8]))", "called"),
    "B21": (FRAME, f"{FRAME}[['b', 'a']]", "called"),
    "B22": (FRAME, f"{FRAME}.astype({{'a': 'int32'}})", "called"),
    "B23": (
        "pd.DataFrame({'a': [1, 2]}, index=[0, 0])",
        "pd.DataFrame({'a': [1, 3]}, index=[0, 0])",
        "called",
    ),
    "B24": (
        "pd.DataFrame({'a': pd.Categorical(['x'], ['x', 'y'])})",
        "pd.DataFrame({'a': pd.Categorical(['x'], ['y', 'x'])})",
        "called",
    ),
    "B25": (FRAME, f"by_columns({FRAME})", "cached"),
    "B26": ("Imported(v=1)", "Imported(v=1)", "cached"),
    "B26-other": ("Imported(v=1)", "Imported(v=2)", "called"),
    "B27": ("Local(v=1)", "Local(v=1)", "cached"),
    "B31": ("(defaults(1), (1, 2, 3))", "(defaults(1, z=3, y=2), (1, 2, 3))", "cached"),
    "B31-other": ("(defaults(1), (1, 2, 3))", "(defaults(1, z=2), (1, 2, 2))", "called"),
    "B32": ("[a, a]", "[a, b]", "cached"),
    "B33-deep": ("nested(30, 1)", "nested(30, 2)", "called"),
    "B33-very-deep": ("nested(100, 1)", "nested(100, 1)", "cached"),
    "B33-random": ("random.Random(1)", "random.Random(2)", "called"),
    "B33-na": ("[pd.NA]", "[None]", "called"),
    "B34": (
        "collections.OrderedDict(a=1, b=2)",
        "collections.OrderedDict(b=2, a=1)",
        "called",
    ),
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Return by row what the second of two programs did, of other hash seeds."""
    project = Project(tmp_path_factory.mktemp("arguments"), {"shapes.py": SHAPES})
    project.write("main.py", HEAD + ARGUMENTS)
    found = []
    for which in (0, 1):
        given = {name: row[which] for name, row in ARGUMENT_ROWS.items()}
        project.write("given.json", json.dumps(given))
        project.environment["PYTHONHASHSEED"] = str(which + 1)
        out, said = project.run("given.json")
        assert not said
        found.append(json.loads(out))
    assert set(found[0].values()) == {"called"}, found[0]
    return found[1]


@pytest.mark.parametrize("name", ARGUMENT_ROWS)
def test_arguments(name, arguments):
    assert arguments[name] == ARGUMENT_ROWS[name][2]


METHOD = """
class Scale:
    def __init__(self, n):
        self.n = n
    def by(self, x):
        return x * self.n

@delayed
def f(scale, x):
    called("f")
    return scale.by(x)

out = f(Scale(2), 3)
"""

APPLY = """
def twice(x):
    return x * 2

@delayed
def f(functions, x):
    called("f")
    return functions[0](x)

out = f([FUNCTION], 3)
"""

READS = """
@delayed
def f(path):
    called("f")
    with open(path) as file:
        return len(file.read()) * 2

out = f(PATH)
"""

# As if all files had been there for long: only then is it remembered what was in them.
LATER = """
import time
import flowpar.caching.files
flowpar.caching.files._now = lambda: time.time_ns() + 10**12
"""


def touch(project):
    os.utime(project.folder / "data.txt", (1_000_000_000, 1_000_000_000))


def rewrite(project):
    """Change the content, and neither size nor mtime."""
    path = project.folder / "data.txt"
    facts = path.stat()
    path.write_text("b\n\n")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def with_data(source, path):
    return {
        "lib.py": LATER
        + source.replace("PATH", path).replace("len(file.read())", "len(file.read().split())"),
        "main.py": "from lib import out",
        "data.txt": "a b",
    }


OTHER_ROWS = rows_of(
    row("B28", METHOD, then(("x * self.n", "x * self.n + 1"), called="f", value=7), where=BOTH),
    row(
        "B28-main",
        {"main.py": METHOD},
        then(),
        then(("x * self.n", "x * self.n + 1"), called="f", value=7),
        where=BOTH,
    ),
    row(
        "B29",
        APPLY.replace("FUNCTION", "twice"),
        then(),
        then(("x * 2", "x * 3"), called="f", value=9),
        where=BOTH,
    ),
    row(
        "B30",
        APPLY.replace("FUNCTION", "lambda x: x * 2 + 0"),
        then(),
        then(("x * 2 + 0", "x * 2 + 1"), called="f", value=7),
        where=BOTH,
    ),
    # What a function writes to is not what was kept of it.
    row(
        "B35",
        """
        @delayed
        def g():
            called("g")
            return [1, 2]

        @delayed
        def f(values):
            called("f")
            values.append(3)
            return sum(values)

        out = f(g())
        """,
        then(),
        then(("sum(values)", "sum(values) + 1"), called="f", value=7),
        then(("sum(values) + 1", "sum(values) + 2"), called="f", value=8),
        first=("f g", 6),
        where=BOTH,
    ),
    row(
        "B35-literal",
        CHANGES_ITS_ARGUMENT,
        then(),
        where=("processes",),
    ),
    row(
        "B35-literal-here",
        CHANGES_ITS_ARGUMENT,
        then(called="f"),
        warns="what f returns is not kept, and it always runs: an argument of it was changed",
    ),
    row(
        "B36",
        with_data(READS, "'data.txt'"),
        then(rewrite, value=4),
        warns=r"f read data\.txt, which is not among its arguments",
        first=("f", 4),
        where=BOTH,
    ),
    row(
        "B36-declared",
        with_data(READS, "flowpar.File('data.txt')"),
        then(value=4),
        then(lambda project: project.write("data.txt", "a b c"), called="f", value=6),
        first=("f", 4),
        where=BOTH,
    ),
    row(
        "B37",
        with_data(READS, "flowpar.File('data.txt')"),
        then(rewrite, called="f", value=2),
        first=("f", 4),
    ),
    row(
        "B38",
        with_data(READS, "flowpar.File('data.txt')"),
        then(touch, value=4),
        first=("f", 4),
    ),
)


@pytest.mark.parametrize(("row", "scheduler"), OTHER_ROWS)
def test_arguments_that_are_edited(row, scheduler, tmp_path):
    check(row, scheduler, tmp_path)


# Graphs -------------------------------------------------------------------------------------------

G_F = """
ROOT = 1

class Value:
    def __init__(self, n):
        self.n = n
    def __getstate__(self):
        return self.n
    def __setstate__(self, n):
        called("loads")
        self.n = n

@delayed
def g(x):
    called("g")
    return Value(abs(x) + 1)

@delayed
def f(value):
    called("f")
    return value.n * 3

out = f(g(ROOT))
"""

RANDOM = """
import random
import uuid

@delayed
def g():
    called("g")
    return uuid.uuid4().hex

@delayed
def f(text):
    called("f")
    return len(text) * 2

out = f(g())
"""


def lose_objects(project):
    """Delete all values, and leave what is known of them."""
    project.write(
        "lose.py",
        "import flowpar\nstore = flowpar.Cache('cache').store()\n"
        "store.execute('delete from object')\nstore.close()\n",
    )
    project.run(script="lose.py")
    for path in (project.folder / "cache" / "objects").glob("*/*"):
        path.unlink()


GRAPH_ROWS = rows_of(
    row("C1", G_F, then(), first=("g f", 6), where=BOTH[:1]),
    row(
        "C2",
        G_F,
        then(("abs(x) + 1", "1 + abs(x)"), called="g"),
        then(),
        first=("g f", 6),
        where=BOTH[:1],
    ),
    row("C3", G_F, then(("abs(x) + 1", "abs(x) + 2"), called="g f", value=9), first=("g f", 6)),
    row("C4", G_F, then(("ROOT = 1", "ROOT = -1"), called="g"), first=("g f", 6)),
    row(
        "C5", G_F, then(("value.n * 3", "value.n * 4"), called="loads f", value=8), first=("g f", 6)
    ),
    row(
        "C6", RANDOM, then(value=64), then(("* 2", "* 3"), called="f", value=96), first=("g f", 64)
    ),
    row(
        "C7",
        RANDOM,
        then(lose_objects, called="g f", value=64),
        then(value=64),
        then(("* 2", "* 3"), called="f", value=96),
        then(value=96),
        first=("g f", 64),
        where=BOTH,
    ),
)


@pytest.mark.parametrize(("row", "scheduler"), GRAPH_ROWS)
def test_graphs(row, scheduler, tmp_path):
    check(row, scheduler, tmp_path)


# Results and faults -------------------------------------------------------------------------------

RAISES = """
@delayed
def ok():
    called("ok")
    return 3

@delayed
def bad(x):
    called("bad")
    raise ValueError("no")

@delayed
def after(x):
    called("after")
    return x * 2

def main():
    try:
        return after(bad(ok())).compute(cache="cache", scheduler="sync")
    except ValueError as error:
        return str(error)

out = main()
"""

RESULT_ROWS = rows_of(
    row(
        "D1",
        "@delayed\ndef f():\n    called('f')\nout = f()",
        then(value=None),
        first=("f", None),
        where=BOTH,
    ),
    row(
        "D2",
        RAISES,
        then(called="bad", value="no"),
        then(('raise ValueError("no")', "return x"), called="bad after", value=6),
        then(value=6),
        first=("ok bad", "no"),
    ),
    row(
        "D3",
        """
        class Stubborn:
            def __init__(self):
                self.n = 3
            def __reduce_ex__(self, protocol):
                raise TypeError("not me")

        @delayed
        def g():
            called("g")
            return Stubborn()

        @delayed
        def f(x):
            called("f")
            return x.n * 2

        out = f(g())
        """,
        then(called="g f"),
        first=("g f", 6),
        warns="what g returns is not kept, and it always runs: .*Stubborn",
    ),
    row(
        "D4",
        """
        @delayed
        def g():
            called("g")
            return (n for n in (1, 2, 3))

        @delayed
        def f(x):
            called("f")
            return sum(x)

        out = f(g())
        """,
        then(called="g f"),
        first=("g f", 6),
        warns="what g returns is not kept, and it always runs: .*generator",
    ),
)


@pytest.mark.parametrize(("row", "scheduler"), RESULT_ROWS)
def test_results(row, scheduler, tmp_path):
    check(row, scheduler, tmp_path)
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def test_three_programs_that_start_at_once_compute_a_value_once(tmp_path):
    """Row D10."""
    project = Project(tmp_path, {"main.py": F})
    processes = [project.start("sync") for _ in range(3)]
    for process in processes:
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out.strip(), said) == (0, "6", "")
    assert project.calls() == ["f"]
