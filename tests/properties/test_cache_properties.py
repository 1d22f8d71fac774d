"""What must be true of any graph that is run again and again with one cache.

A model knows which keys have been computed, and says of each run which functions it calls.
"""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowpar
from flowpar import delayed

relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)

KINDS = ("flat", "flat", "list", "dict", "keyword", "pair", "operator", "after")
WAYS = ("plain", "plain", "plain", "dynamic", "deep", "coroutine", "fails")
ON_PROCESSES = ("plain", "plain", "dynamic", "deep", "coroutine")
POLICIES = ("kept", "kept", "kept", "passing", "impure")

# Calls --------------------------------------------------------------------------------------------

calls: list[str] = []
lock = threading.Lock()


@flowpar.untracked
def note(name):
    with lock:
        calls.append(name)


@dataclass(frozen=True)
class Node:
    """One call.

    Attributes
    ----------
    salt, constant
        What its code, and its first argument, give to the value.
    modulus
        Where it is small, other arguments often give an equal value.
    """

    needs: tuple[int, ...]
    kind: str
    way: str
    policy: str
    salt: int
    constant: int
    modulus: int


@st.composite
def graphs(draw, most=9, ways=WAYS, kinds=KINDS, policies=POLICIES):
    nodes = []
    for number in range(draw(st.integers(1, most))):
        needs = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else []
        kind = draw(st.sampled_from(kinds if needs else ["flat", "list", "pair"]))
        is_cheap = kind == "operator"
        if is_cheap:
            needs = [needs[0], needs[-1]]
        nodes.append(
            Node(
                needs=tuple(needs),
                kind=kind,
                way="plain" if is_cheap else draw(st.sampled_from(ways)),
                policy="cheap" if is_cheap else draw(st.sampled_from(policies)),
                salt=draw(st.integers(0, 3)),
                constant=draw(st.integers(0, 3)),
                modulus=draw(st.sampled_from([1, 2, 1009])),
            )
        )
    return tuple(nodes)


def ints(things):
    """Return all numbers in some nested things."""
    if isinstance(things, int):
        return [things]
    if isinstance(things, dict):
        things = [*things, *things.values()]
    return [n for thing in things if not isinstance(thing, str) for n in ints(thing)]


def result(salt, modulus, args, kwargs):
    return (salt * 7 + sum(n * at for at, n in enumerate(ints([args, kwargs]), 1))) % modulus


def inner(name, value):
    note(f"{name}.inner")
    return value


def leaf(name, value):
    note(f"{name}.leaf")
    return value + 1


def less(name, value):
    note(f"{name}.less")
    return value - 1


def make(number, node):
    """Return a function of its own: what it captures is part of its code."""
    salt, modulus, way, kind = node.salt, node.modulus, node.way, node.kind

    def run(*args, **kwargs):
        note(f"t{number}")
        if way == "fails":
            raise ValueError(number)
        value = result(salt, modulus, args, kwargs)
        if kind == "pair":
            value = ("first", value)
        elif way == "dynamic":
            return delayed(inner)(f"t{number}", value)
        elif way == "deep":
            return delayed(less)(f"t{number}", delayed(leaf)(f"t{number}", value))
        return value

    async def run_async(*args, **kwargs):
        return run(*args, **kwargs)

    return run_async if way == "coroutine" else run


def build(nodes, pool=None):
    """Return the delayed values of all nodes."""
    tasks = []
    for number, node in enumerate(nodes):
        needs = [tasks[need] for need in node.needs]
        if node.kind == "operator":
            tasks.append(needs[0] + needs[-1])
            continue
        policy = {
            "cache": False if node.policy == "passing" else None,
            "pure": node.policy != "impure",
            "pool": None if node.way == "coroutine" else pool,
        }
        call = delayed(make(number, node), name=f"t{number}", **policy)
        tasks.append(called(call, node, needs))
    return tasks


def called(call, node, needs):
    constant = node.constant
    if node.kind == "after":
        return call.options(after=needs)(constant)
    if node.kind == "list":
        return call(constant, [*needs, [1]])
    if node.kind == "dict":
        return call(constant, {"k": needs, "t": (1, *needs)})
    if node.kind == "keyword":
        return call(constant, k=needs[0])
    if node.kind == "pair":
        return call.options(nout=2)(constant, *needs)[1]
    return call(constant, *needs)


# The model ----------------------------------------------------------------------------------------


def taken(node):
    return {"after": (), "keyword": node.needs[:1]}.get(node.kind, node.needs)


def waited_for(node):
    return node.needs[:1] if node.kind == "keyword" else node.needs


def value_of(node, values):
    """Return what a node gives, where it does not fail."""
    got = [values[need] for need in taken(node)]
    if node.kind == "operator":
        return got[0] + got[-1]
    args, kwargs = (node.constant, *got), {}
    if node.kind == "list":
        args = (node.constant, [*got, [1]])
    elif node.kind == "dict":
        args = (node.constant, {"k": got, "t": (1, *got)})
    elif node.kind == "keyword":
        args, kwargs = (node.constant,), {"k": got[0]}
    return result(node.salt, node.modulus, args, kwargs)


def evaluate(nodes):
    """Return the values of all nodes; None of those that fail, or need one that does."""
    values = []
    for node in nodes:
        fails = node.way == "fails" or any(values[need] is None for need in waited_for(node))
        values.append(None if fails else value_of(node, values))
    return values


@dataclass(frozen=True)
class Cell:
    """A call as the model sees it: a pair is two, that of the function and that of its item."""

    name: str | None
    identity: object
    takes: tuple[int, ...]
    waits_for: tuple[int, ...]
    policy: str
    way: str
    value: object


def cells_of(nodes):
    """Return the cells of a graph, and by node that which gives its value."""
    values, cells, place = evaluate(nodes), [], []
    for number, node in enumerate(nodes):
        takes = tuple(place[need] for need in taken(node))
        waits_for = tuple(place[need] for need in waited_for(node))
        if node.kind == "operator":
            cells.append(Cell(None, "add", takes, takes, "kept", "plain", values[number]))
        else:
            identity = number, replace(node, needs=())
            value = ("first", values[number]) if node.kind == "pair" else values[number]
            way = "plain" if node.kind == "pair" else node.way
            cells.append(Cell(f"t{number}", identity, takes, waits_for, node.policy, way, value))
        if node.kind == "pair":
            at = (len(cells) - 1,)
            cells.append(Cell(None, "item 1", at, at, "cheap", "plain", values[number]))
        place.append(len(cells) - 1)
    return cells, place


@dataclass
class Model:
    """What a cache knows, as sets of keys made of plain values.

    Attributes
    ----------
    known
        Keys of which it has the value's digest.
    objects
        Keys of cheap calls whose values it has, too: those of the others it always has.
    """

    known: set = field(default_factory=set)
    objects: set = field(default_factory=set)

    def run(self, nodes, targets):
        """Return which functions a run calls, and take in what it computes."""
        cells, place = cells_of(nodes)
        return Running(self, cells, [place[target] for target in targets]).calls


class Running:
    """One run, as the model has it; no task fails in it."""

    def __init__(self, model, cells, targets):
        self.model, self.cells, self.targets = model, cells, set(targets)
        self.calls = Counter()
        self.there, self.keys, self.digests = set(), {}, {}
        needed = set(targets)
        for at in reversed(range(len(cells))):
            if at in needed:
                needed.update(cells[at].waits_for)
        for at in sorted(needed):
            self.judge(at)
        for at in targets:
            self.load(at)

    def judge(self, at):
        cell = self.cells[at]
        key = self.keys[at] = cell.identity, tuple(self.digests[need] for need in cell.takes)
        if cell.policy == "passing":
            self.digests[at] = "passed", key
            return
        if cell.policy == "impure" or key not in self.model.known:
            self.compute(at, is_kept=at in self.targets)
        self.digests[at] = "value", cell.value

    def load(self, at):
        is_object = self.cells[at].policy == "kept" or self.keys[at] in self.model.objects
        if at not in self.there and not is_object:
            self.compute(at, is_kept=True)

    def compute(self, at, *, is_kept):
        """Call a function, for which what it takes is loaded, and compute what it returned."""
        cell = self.cells[at]
        for need in cell.waits_for:
            if need in cell.takes or self.cells[need].policy == "passing":
                self.load(need)
        self.there.add(at)
        self.model.known.add(self.keys[at])
        if cell.policy == "cheap" and is_kept:
            self.model.objects.add(self.keys[at])
        if cell.name is None:
            return
        self.calls[cell.name] += 1
        if cell.way == "dynamic":
            self.compute_inner(cell.name, "inner", cell.value)
        elif cell.way == "deep":
            self.compute_inner(cell.name, "leaf", cell.value)
            self.compute_inner(cell.name, "less", cell.value + 1)

    def compute_inner(self, *key):
        if key not in self.model.known:
            self.model.known.add(key)
            self.calls[f"{key[0]}.{key[1]}"] += 1


# Properties ---------------------------------------------------------------------------------------


@pytest.fixture
def folder():
    """Make a folder for each example, whatever hypothesis makes of fixtures."""
    made = []

    def new():
        made.append(tempfile.mkdtemp())
        return Path(made[-1]) / "cache"

    yield new
    for path in made:
        store = flowpar.Cache(Path(path) / "cache").store()
        store.close()
        shutil.rmtree(path)


def run_and_catch(targets, **options):
    del calls[:]
    try:
        return flowpar.run(*targets, on_error="continue", **options)
    except flowpar.RunFailed as error:
        return error.run


def check_values(run, nodes, targets):
    """Compare the values of the targets, in their order, with those of naive evaluation."""
    want = evaluate(nodes)
    plan = run._plan
    for target, index in zip(targets, run.graph.targets, strict=True):
        found = run._load(index) if index in plan.values else None
        assert found == want[target], f"t{target}"


@st.composite
def stories(draw, runs=4, **options):
    """A graph as it is edited and edited back, and what is asked of it each time."""
    nodes = draw(graphs(**options))
    versions = [nodes]
    for _ in range(draw(st.integers(1, runs - 1))):
        if draw(st.booleans()):
            at = draw(st.integers(0, len(nodes) - 1))
            what = draw(st.sampled_from(["salt", "constant"]))
            edited = list(versions[-1])
            edited[at] = replace(edited[at], **{what: draw(st.integers(0, 3))})
            versions.append(tuple(edited))
        else:
            versions.append(draw(st.sampled_from(versions)))
    numbers = st.sampled_from(range(len(nodes)))
    return [(each, draw(st.lists(numbers, min_size=1, unique=True))) for each in versions]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@relaxed
@given(story=stories(ways=tuple(way for way in WAYS if way != "fails")))
def test_exactly_what_changed_is_called(scheduler, story, folder):
    model, cache = Model(), folder()
    for nodes, targets in story:
        tasks = build(nodes)
        run = run_and_catch([tasks[i] for i in targets], cache=cache, scheduler=scheduler)
        check_values(run, nodes, targets)
        assert Counter(calls) == model.run(nodes, targets)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@relaxed
@given(story=stories())
def test_values_are_those_of_naive_evaluation_where_tasks_fail(scheduler, story, folder):
    cache = folder()
    for nodes, targets in story:
        tasks = build(nodes)
        run = run_and_catch([tasks[i] for i in targets], cache=cache, scheduler=scheduler)
        check_values(run, nodes, targets)
        assert max(Counter(calls).values(), default=0) <= 1
        assert run.counts.running == 0
        assert {task.status for task in run.tasks} <= {"done", "cached", "failed", "skipped"}


@relaxed
@given(nodes=graphs(policies=("kept",)), data=st.data())
def test_a_second_run_is_silent(nodes, data, folder):
    cache = folder()
    schedulers = [data.draw(st.sampled_from(["sync", "threads"])) for _ in range(2)]
    failing = {f"t{number}" for number, node in enumerate(nodes) if node.way == "fails"}
    first = run_and_catch(build(nodes), cache=cache, scheduler=schedulers[0])
    check_values(first, nodes, range(len(nodes)))
    tried = failing.intersection(calls)
    second = run_and_catch(build(nodes), cache=cache, scheduler=schedulers[1])
    check_values(second, nodes, range(len(nodes)))
    assert sorted(calls) == sorted(tried)
    if not tried:
        assert second.counts.done == 0


def lose_some(cache, rng):
    """Delete some of the values, and leave what is known of them."""
    store = flowpar.Cache(cache).store()
    for (digest,) in store.query("select digest from object"):
        if rng.random() < 0.5:
            store.execute("delete from object where digest = ?", (digest,))
    for path in sorted((cache / "objects").glob("*/*")):
        if rng.random() < 0.5:
            path.unlink()


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@relaxed
@given(story=stories(), seed=st.integers(0, 2**32))
def test_values_that_got_lost_are_made_again(scheduler, story, seed, folder):
    cache, rng = folder(), random.Random(seed)
    for nodes, targets in story:
        tasks = build(nodes)
        run = run_and_catch([tasks[i] for i in targets], cache=cache, scheduler=scheduler)
        check_values(run, nodes, targets)
        # What is not kept may have been let go of when it turns out that a kept value is lost.
        passing = {f"t{number}" for number, node in enumerate(nodes) if node.policy == "passing"}
        assert max(Counter(call for call in calls if call not in passing).values(), default=0) <= 1
        lose_some(cache, rng)


@settings(relaxed, max_examples=25)
@given(
    story=stories(ways=ON_PROCESSES),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_processes_and_this_one_share_what_is_kept(story, seed, data, folder):
    cache, rng = folder(), random.Random(seed)
    for nodes, targets in story:
        scheduler = data.draw(st.sampled_from(["processes", "auto", "sync"]))
        tasks = build(nodes, pool=data.draw(st.sampled_from([None, "processes"])))
        run = run_and_catch([tasks[i] for i in targets], cache=cache, scheduler=scheduler)
        check_values(run, nodes, targets)
        if data.draw(st.booleans()):
            lose_some(cache, rng)
    again = run_and_catch([tasks[i] for i in targets], cache=cache, scheduler="sync")
    check_values(again, nodes, targets)
    final = run_and_catch([tasks[i] for i in targets], cache=cache, scheduler="processes")
    check_values(final, nodes, targets)
    done = {task.key for task in final.tasks if task.status == "done"}
    if all(node.policy in {"kept", "cheap"} for node in nodes):
        assert not done


@relaxed
@given(nodes=graphs())
def test_a_run_with_a_cache_tells_the_same_as_one_without(nodes, folder):
    cache = folder()
    plain = run_and_catch(build(nodes), scheduler="sync")
    kept = run_and_catch(build(nodes), cache=cache, scheduler="sync")
    # One that is like another is not called again.
    told = [
        sorted((task.function, task.status.replace("cached", "done")) for task in run.tasks)
        for run in (plain, kept)
    ]
    assert told[0] == told[1]
    assert sorted(map(repr, plain.errors)) == sorted(map(repr, kept.errors))


KEYS = """
    import flowpar, enum
    from flowpar import delayed

    class Colour(enum.Enum):
        RED = 1

    class Point:
        def __init__(self, x, tags):
            self.x, self.tags = x, tags

    NAMES = {"a", "b", "c", "d"}
    TABLE = {frozenset("abcd"): 1}

    def helper(x):
        return [x, NAMES, TABLE, Colour.RED]

    @delayed
    def f(*args, **kwargs):
        return helper(args) if "q" in {"q", "r", "s"} else Point(1.0, frozenset("xyz"))

    @delayed
    def g(x):
        return len(x)

    if __name__ == "__main__":
        import sys
        x = f({"a", "b", "c"}, Colour.RED, [Point(2.0, frozenset("abc"))], k={1: {"u", "v"}})
        y = g([x, f(helper, Point, y=lambda z: {"l", "m"})])
        run = flowpar.run(y, cache=sys.argv[1], scheduler=sys.argv[2])
        rows = flowpar.Cache(sys.argv[1]).store().query("select key, value from trace order by key")
        print([(key.hex(), value.hex()) for key, value in rows])
"""


def test_keys_do_not_depend_on_the_hash_seed_or_the_process(run_script, tmp_path):
    told = {}
    for seed, scheduler in itertools.product("012", ["sync", "processes"]):
        cache = str(tmp_path / f"{seed}{scheduler}")
        done = run_script(KEYS, cache, scheduler, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        told[seed, scheduler] = done.stdout
    assert len(set(told.values())) == 1
    assert "(" in told["0", "sync"]


def test_a_dataclass_of_the_script_has_the_same_digest_in_a_worker(run_script, tmp_path):
    source = """
        import dataclasses
        import flowpar

        @dataclasses.dataclass
        class Point:
            x: float

        @flowpar.delayed
        def f():
            return Point(1.0)

        for number, scheduler in enumerate(["sync", "processes"]):
            f().compute(cache=f"c{number}", scheduler=scheduler)
            print(flowpar.Cache(f"c{number}").store().query("select hex(value) from trace")[0][0])
    """
    done = run_script(source)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 1
