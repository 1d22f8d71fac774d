"""What a run does with a cache: what it keeps, what it runs again, and what it says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import pytest
from conftest import wait_until
from support.gates import hold, mark, marks

import flowpar
from flowpar import Cache, File, delayed

calls: list[str] = []
lock = threading.Lock()

LOCAL = ["sync", "threads"]

PATH = os.pathsep.join(
    [os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]
).strip(os.pathsep)
"""Where programs that tests start find `support`."""


@flowpar.untracked
def note(name):
    with lock:
        calls.append(name)


@pytest.fixture(autouse=True)
def _no_calls(monkeypatch):
    """Begin with no calls, and run where they can be counted unless a test says where."""
    monkeypatch.setenv("FLOWPAR_SCHEDULER", "sync")
    calls.clear()


@pytest.fixture
def cache(tmp_path):
    yield tmp_path / "cache"
    Cache(tmp_path / "cache").store().close()


def called():
    """Return which functions were called since this was last asked, sorted."""
    found = sorted(calls)
    calls.clear()
    return found


def one(x=1):
    note("one")
    return x


def add(x, y=0):
    note("add")
    return x + y


def total(xs):
    note("total")
    return sum(xs)


def fresh(x=0):
    note("fresh")
    return random.SystemRandom().random()


def big(n):
    """Return what is too large for the index."""
    note("big")
    return list(range(n, n + 100_000))


def statuses(run):
    return {task.key: task.status for task in run.tasks}


def reasons(run):
    return {task.key: task.reason for task in run.tasks}


# Policies -----------------------------------------------------------------------------------------


def test_what_expired_runs_again(cache, monkeypatch):
    task = delayed(add, expires=60)(1, 2)
    assert task.compute(cache=cache) == 3
    assert task.compute(cache=cache) == 3
    assert called() == ["add"]
    cached_at = Cache(cache).store()
    cached_at.execute("update trace set created = created - 100")
    run = flowpar.run(task, cache=cache)
    assert run.value == 3
    assert called() == ["add"]
    assert reasons(run)["add"].startswith("expired: it is 100 s old")
    assert task.compute(cache=cache) == 3
    assert not called()


def test_what_was_made_in_the_future_is_not_trusted_for_long(cache):
    task = delayed(add, expires=60)(1, 2)
    task.compute(cache=cache)
    Cache(cache).store().execute("update trace set created = created + 1000")
    task.compute(cache=cache)
    assert called() == ["add", "add"]


def test_only_what_has_a_limit_expires(cache):
    task = delayed(add)(delayed(one, expires=10)(), 2)
    task.compute(cache=cache)
    Cache(cache).store().execute("update trace set created = created - 100")
    called()
    task.compute(cache=cache)
    assert called() == ["one"]


def test_a_version_is_part_of_the_key(cache):
    def run(version):
        return flowpar.run(delayed(add, version=version)(1), cache=cache)

    assert run(None).counts.done == 1
    assert run("1").counts.done == 1
    second = run("2")
    assert second.counts.done == 1
    assert "version" in reasons(second)["add"]
    assert [run(version).counts.done for version in (None, "1", "2")] == [0, 0, 0]
    assert called() == ["add"] * 3


def test_an_ignored_parameter_is_not_part_of_the_key(cache):
    quiet = delayed(add, ignore=["y"])
    assert quiet(1, 2).compute(cache=cache) == 3
    assert quiet(1, y=5).compute(cache=cache) == 3
    assert quiet(1).compute(cache=cache) == 3
    assert called() == ["add"]
    assert quiet(2, 2).compute(cache=cache) == 4


def test_an_ignored_parameter_may_be_what_has_no_digest(cache):
    quiet = delayed(add, ignore="y")
    for _ in range(2):
        assert quiet(1, Odd()).compute(cache=cache, scheduler="sync") == 3
    assert called() == ["add"]


class Odd:
    """A value that equals no other, and has no content."""

    def __init__(self):
        self.lock = threading.Lock()

    def __radd__(self, other):
        return other + 2


def test_a_name_that_is_no_parameter_cannot_be_ignored(cache):
    with pytest.raises(
        flowpar.OptionError, match="'z', which is no parameter of add: there are x, y"
    ):
        delayed(add, ignore=["z"])(1).compute(cache=cache)
    assert not called()


def test_keywords_that_a_function_takes_can_be_ignored(cache):
    def loose(**options):
        note("loose")
        return options

    task = delayed(loose, ignore=["level"])
    assert task(a=1, level=2).compute(cache=cache) == {"a": 1, "level": 2}
    assert task(a=1, level=3).compute(cache=cache) == {"a": 1, "level": 2}
    assert called() == ["loose"]


def test_dependencies_are_part_of_the_key(cache):
    def run(*deps):
        return delayed(add, deps=deps)(1).compute(cache=cache)

    for deps in [(1,), (2,), (len,), (one,), (lambda: 1,), (lambda: 2,), (textwrap,)]:
        run(*deps)
        assert called() == ["add"]
        run(*deps)
        assert not called()


def test_what_is_not_kept_runs_only_for_what_runs(cache):
    passing = delayed(one, cache=False)(4)
    task = delayed(add)(passing, 1)
    assert task.compute(cache=cache) == 5
    assert called() == ["add", "one"]
    run = flowpar.run(task, cache=cache)
    assert (run.value, called()) == (5, [])
    assert statuses(run) == {"one": "cached", "add": "cached"}
    other = delayed(add)(passing, 2)
    assert flowpar.compute(task, other, cache=cache) == (5, 6)
    assert called() == ["add", "one"]
    assert passing.compute(cache=cache) == 4
    assert called() == ["one"]


def test_an_argument_of_what_is_not_kept_is_passed_on(cache):
    def chain(x):
        return delayed(add)(delayed(one, cache=False)(delayed(one, cache=False)(x)), 1)

    assert [chain(x).compute(cache=cache) for x in (1, 2, 1, 2)] == [2, 3, 2, 3]
    assert Counter(called()) == {"one": 4, "add": 2}


def test_what_is_not_kept_runs_once_for_all_who_need_it(cache):
    source = delayed(one, cache=False)(1)
    left, right = delayed(add)(source, 1), delayed(total, cache=False)([source])
    task = delayed(add)(left, right)
    assert task.compute(cache=cache, scheduler="sync") == 3
    assert called() == ["add", "add", "one", "total"]


def test_what_is_not_kept_runs_before_what_comes_after_it(cache):
    first = delayed(one, cache=False)()
    delayed(add).options(after=[first])(1).compute(cache=cache, scheduler="sync")
    assert called() == ["add", "one"]


def test_what_is_not_pure_always_runs(cache):
    source = delayed(one, pure=False)(3)
    task = delayed(add)(source, 1)
    for _ in range(3):
        run = flowpar.run(task, cache=cache)
        assert run.value == 4
    assert Counter(called()) == {"one": 3, "add": 1}
    assert reasons(run)["one"] == "it is not pure, and always runs"


def test_order_without_data_is_not_part_of_the_key(cache):
    def run(x):
        return delayed(add).options(after=[delayed(one)(x)])(1).compute(cache=cache)

    run(1)
    assert called() == ["add", "one"]
    run(2)
    assert called() == ["one"]


def test_an_audit_reports_what_gives_another_value(cache):
    tasks = [delayed(fresh)(), delayed(one)(5)]
    first = flowpar.compute(*tasks, cache=cache)
    called()
    with pytest.warns(flowpar.FlowparWarning, match="fresh gave another value") as caught:
        second = flowpar.compute(*tasks, cache=Cache(cache, audit=1.0))
    assert len(caught) == 1
    assert called() == ["fresh", "one"]
    assert first != second
    assert flowpar.compute(*tasks, cache=cache) == second
    (text,) = Cache(cache).store().query("select text from event")[0]
    assert text.startswith("audit: fresh gave another value")


def test_a_seed_is_part_of_the_key(cache):
    def draw():
        note("draw")
        return random.random()

    task = delayed(draw)()
    found = [task.compute(cache=cache, seed=seed) for seed in (1, 2, 1, 2)]
    assert called() == ["draw", "draw"]
    assert found[:2] == found[2:]
    assert found[0] != found[1]
    assert found[0] == task.compute(seed=1)
    task.compute(cache=cache)
    assert called() == ["draw", "draw"]


# What cannot be kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", LOCAL)
def test_an_argument_without_digest_is_said_once_and_runs(cache, scheduler):
    def use(things, n):
        note("use")
        return n

    tasks = [delayed(use)({"a": [Odd()]}, n) for n in range(3)]
    with pytest.warns(flowpar.FlowparWarning) as caught:
        assert flowpar.compute(tasks, cache=cache, scheduler=scheduler) == [0, 1, 2]
    assert len(caught) == 1
    assert "what use returns is not kept" in str(caught[0].message)
    assert "argument 0" in str(caught[0].message)
    assert ".lock" in str(caught[0].message)
    with pytest.warns(flowpar.FlowparWarning):
        flowpar.compute(tasks, cache=cache, scheduler=scheduler)
    assert called() == ["use"] * 6


class Unpicklable:
    def __init__(self, n):
        self.n = n

    def __reduce_ex__(self, protocol):
        raise TypeError("not to be pickled")

    def __add__(self, other):
        return self.n + other


def unpicklable(n):
    note("unpicklable")
    return Unpicklable(n)


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_result_that_does_not_pickle_is_passed_on(cache, scheduler):
    task = delayed(add)(delayed(unpicklable)(3), 1)
    for _ in range(2):
        with pytest.warns(flowpar.FlowparWarning, match="what unpicklable returns is not kept"):
            assert task.compute(cache=cache, scheduler=scheduler) == 4
    assert called() == ["add", "add", "unpicklable", "unpicklable"]
    assert not list((cache / "tmp").iterdir())


class Registered:
    """A value that has a digest, and cannot be pickled."""

    def __reduce_ex__(self, protocol):
        raise TypeError("not to be pickled")


flowpar.register_digest(Registered, lambda value: b"always the same")


def test_a_result_with_a_digest_that_does_not_pickle_is_not_kept(cache):
    def make():
        note("make")
        return Registered()

    def use(x):
        note("use")
        return type(x).__name__

    task = delayed(use)(delayed(make)())
    with pytest.warns(flowpar.FlowparWarning, match="what make returns is not kept"):
        assert task.compute(cache=cache, scheduler="sync") == "Registered"
    assert called() == ["make", "use"]
    task.compute(cache=cache, scheduler="sync")
    assert not called()
    with pytest.warns(flowpar.FlowparWarning, match="what make returns is not kept"):
        delayed(make)().compute(cache=cache, scheduler="sync")
    assert called() == ["make"]
    assert not list((cache / "tmp").iterdir())


def test_a_generator_that_a_task_returns_is_not_kept(cache):
    task = delayed(total)(delayed(lambda: (n for n in range(4)), name="numbers")())
    with pytest.warns(flowpar.FlowparWarning, match="what numbers returns is not kept"):
        assert task.compute(cache=cache, scheduler="sync") == 6


def test_none_is_a_value(cache):
    task = delayed(lambda: note("none"))()
    assert [task.compute(cache=cache) for _ in range(2)] == [None, None]
    assert called() == ["none"]


# Graphs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_key_that_comes_twice_is_computed_once(cache, scheduler):
    tasks = [delayed(add)(n % 3, 1) for n in range(30)]
    assert flowpar.compute(tasks, cache=cache, scheduler=scheduler) == [
        n % 3 + 1 for n in range(30)
    ]
    assert called() == ["add"] * 3


def test_equal_arguments_from_other_tasks_are_computed_once(cache):
    tasks = [delayed(add)(delayed(abs)(n), 1) for n in (-1, 1)]
    run = flowpar.run(*tasks, cache=cache)
    assert run.values == (2, 2)
    assert called() == ["add"]
    assert (run.counts.done, run.counts.cached) == (3, 1)


def test_a_like_task_is_tried_where_the_first_fails(cache):
    def bad(x):
        note("bad")
        raise ValueError(x)

    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute([delayed(bad)(1) for _ in range(3)], cache=cache, on_error="continue")
    assert len(caught.value.exceptions) == 3
    assert called() == ["bad"] * 3


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_what_fails_is_tried_again_and_the_rest_is_kept(cache, scheduler, tmp_path):
    gate = tmp_path / "gate"

    def touchy(x):
        note("touchy")
        if not os.path.exists(gate):
            raise ValueError("not yet")
        return x

    good, bad = delayed(one)(1), delayed(touchy)(2)
    after, other = delayed(add)(good, bad), delayed(add)(good, 5)
    options = {"cache": cache, "scheduler": scheduler, "on_error": "continue"}
    for expected in (["add", "one", "touchy"], ["touchy"]):
        with pytest.raises(flowpar.RunFailed) as caught:
            flowpar.compute(after, other, **options)
        assert called() == expected
        assert caught.value.run.finished["add[1]"] == 6
        counts = caught.value.run.counts
        assert (counts.failed, counts.skipped) == (1, 1)
    gate.touch()
    assert flowpar.compute(after, other, **options) == (3, 6)
    assert called() == ["add", "touchy"]
    assert flowpar.run(after, other, **options).counts.done == 0


@pytest.mark.parametrize("scheduler", [*LOCAL, "processes"])
def test_an_attempt_that_failed_leaves_nothing(cache, scheduler, tmp_path):
    log = str(tmp_path / "log")

    def second_time(log):
        mark(log)
        if len(marks(log)) < 2:
            raise ValueError("again")
        return 7

    task = delayed(second_time, retries=2, ignore=["log"])(log)
    assert task.compute(cache=cache, scheduler=scheduler) == 7
    assert task.compute(cache=cache, scheduler=scheduler) == 7
    assert len(marks(log)) == 2


def test_coroutines_are_kept(cache):
    async def wait(n):
        note("wait")
        await asyncio.sleep(0)
        return n

    tasks = [delayed(wait)(n) for n in range(20)]
    for _ in range(2):
        assert flowpar.compute(tasks, cache=cache) == list(range(20))
    assert called() == ["wait"] * 20


# Tasks that return delayed values -----------------------------------------------------------------


def expand(n, step=add):
    note("expand")
    return delayed(total)([delayed(step)(k, 1) for k in range(n)])


@pytest.mark.parametrize("scheduler", LOCAL)
def test_what_a_task_returned_as_delayed_is_kept(cache, scheduler):
    task = delayed(one)(delayed(expand)(3))
    assert task.compute(cache=cache, scheduler=scheduler) == 6
    assert called() == ["add", "add", "add", "expand", "one", "total"]
    run = flowpar.run(task, cache=cache, scheduler=scheduler)
    assert (run.value, called(), run.counts.done) == (6, [], 0)
    assert delayed(one)(delayed(expand)(4)).compute(cache=cache, scheduler=scheduler) == 10
    assert called() == ["add", "expand", "one", "total"]


def test_what_expands_again_and_again_is_kept(cache):
    def down(n):
        note("down")
        return delayed(down)(n - 1) if n else "ground"

    task = delayed(down)(20)
    assert task.compute(cache=cache) == "ground"
    assert len(called()) == 21
    run = flowpar.run(task, cache=cache)
    assert (run.value, called(), run.counts.done) == ("ground", [], 0)


EDITED = """
    from flowpar import delayed
    from support.gates import mark

    def inner(x):
        mark("log", "inner")
        return x * 2

    def other(x):
        mark("log", "other")
        return x + 1

    @delayed
    def expand(n):
        mark("log", "expand")
        return delayed(other)(delayed(inner)(n))

    out = expand(3)
    print(out.compute(cache="cache", scheduler=SCHEDULER))
"""


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_an_inner_function_that_was_edited_runs_again(run_script, tmp_path, scheduler):

    def run(source):
        done = run_script(source.replace("SCHEDULER", repr(scheduler)), PYTHONPATH=PATH)
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        found = sorted(marks(tmp_path / "log"))
        (tmp_path / "log").unlink(missing_ok=True)
        return int(done.stdout), found

    # What a task calls by way of a delayed value is part of its code, as any function that it
    # names; the delayed value that it returned is another one then.
    assert run(EDITED) == (7, ["expand", "inner", "other"])
    assert run(EDITED) == (7, [])
    value, found = run(EDITED.replace("x * 2", "x * 3"))
    assert value == 10
    assert set(found) == {"expand", "inner", "other"}
    value, found = run(EDITED.replace("x * 2", "x + x"))
    assert value == 7
    assert set(found) == {"expand", "inner"}
    assert run(EDITED) == (7, [])


def read(file):
    note("read")
    with open(file) as opened:
        return opened.read()


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_file_within_an_expansion_is_looked_at(cache, scheduler, tmp_path):
    path = tmp_path / "data.txt"

    def expand_to_file(path):
        note("expand")
        return delayed(read)(File(path))

    task = delayed(one)(delayed(expand_to_file)(str(path)))
    path.write_text("a")
    for _ in range(2):
        assert task.compute(cache=cache, scheduler=scheduler) == "a"
    assert called() == ["expand", "one", "read"]
    path.write_text("b")
    assert task.compute(cache=cache, scheduler=scheduler) == "b"
    assert called() == ["one", "read"]
    path.write_text("a")
    assert task.compute(cache=cache, scheduler=scheduler) == "a"
    assert not called()


def less(x):
    note("less")
    return x - 1


def test_a_lost_value_in_an_expansion_is_made_again_beside_what_is_not_kept(cache):
    def run():
        source = delayed(one, cache=False)(0)
        grown = delayed(lambda x: delayed(less)(5), name="grow")(source)
        tasks = [grown, delayed(add)(grown, 0), delayed(total, pure=False)([source])]
        return flowpar.compute(*tasks, cache=cache, scheduler="sync")

    assert run() == (4, 4, 0)
    store = Cache(cache).store()
    store.execute(
        "delete from object where digest in (select object from trace where name = 'less')"
    )
    assert run() == (4, 4, 0)


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_file_counts_by_its_content(cache, scheduler, tmp_path):
    path, copy = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("a")
    copy.write_text("a")

    def run(path):
        return delayed(read)(File(path)).compute(cache=cache, scheduler=scheduler)

    assert [run(path), run(path), run(copy)] == ["a", "a", "a"]
    assert called() == ["read"]
    os.utime(path, (1, 1))
    assert (run(path), called()) == ("a", [])
    path.write_text("b")
    assert (run(path), called()) == ("b", ["read"])


def test_a_file_that_is_not_there_is_the_error_of_its_task(cache, tmp_path):
    task = delayed(read)(File(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError) as caught:
        task.compute(cache=cache)
    assert any("task read" in line for line in caught.value.__notes__)
    (tmp_path / "none.txt").write_text("now")
    assert task.compute(cache=cache) == "now"


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_file_that_a_task_returns_is_made_again_when_it_is_gone(cache, scheduler, tmp_path):
    path = tmp_path / "out.txt"

    def write(text, path):
        note("write")
        with open(path, "w") as file:
            file.write(text)
        return File(path)

    task = delayed(read)(delayed(write)("made", str(path)))
    for _ in range(2):
        assert task.compute(cache=cache, scheduler=scheduler) == "made"
    assert called() == ["read", "write"]
    path.unlink()
    run = flowpar.run(task, cache=cache, scheduler=scheduler)
    assert (run.value, called()) == ("made", ["write"])
    assert path.read_text() == "made"
    assert "is gone or was changed" in reasons(run)["write"]
    path.write_text("spoilt")
    assert task.compute(cache=cache, scheduler=scheduler) == "made"
    assert called() == ["write"]
    assert path.read_text() == "made"


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_file_that_nobody_declared_is_said_once(cache, scheduler, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    tasks = [delayed(read)(str(tmp_path / name)) for name in "ab"]
    with pytest.warns(flowpar.FlowparWarning, match="which is not among its arguments") as caught:
        assert flowpar.compute(tasks, cache=cache, scheduler=scheduler) == ["a", "b"]
    assert len(caught) == 1
    assert flowpar.compute(tasks, cache=cache, scheduler=scheduler) == ["a", "b"]
    assert called() == ["read", "read"]


def test_a_file_that_is_written_is_not_said(cache, tmp_path):
    def write(path):
        with open(path, "w") as file:
            file.write("x")
        with open(path) as file:
            return file.read()

    assert delayed(write)(str(tmp_path / "f")).compute(cache=cache, scheduler="sync") == "x"


# Faults -------------------------------------------------------------------------------------------


def objects(cache):
    return sorted((cache / "objects").glob("*/*"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


@pytest.mark.parametrize("harm", [flip, cut, empty, delete])
@pytest.mark.parametrize("scheduler", [*LOCAL, "processes"])
def test_a_damaged_value_that_is_needed_is_made_again(cache, scheduler, harm, tmp_path):
    log = str(tmp_path / "log")

    def source(n, log):
        mark(log, "source")
        return list(range(n))

    def use(values, k, log):
        mark(log, "use")
        return sum(values) + k

    def run(k):
        made = delayed(source, ignore=["log"])(100_000, log)
        return flowpar.run(
            delayed(use, ignore=["log"])(made, k, log), cache=cache, scheduler=scheduler
        )

    def told():
        found = sorted(marks(log))
        if found:
            os.unlink(log)
        return found

    want = sum(range(100_000))
    assert run(0).value == want
    assert told() == ["source", "use"]
    (path,) = objects(cache)
    harm(path)
    assert run(0).value == want
    assert told() == []  # nobody needed it
    again = run(1)
    assert again.value == want + 1
    assert told() == ["source", "use"]
    assert statuses(again) == {"source": "done", "use": "done"}
    assert run(2).value == want + 2
    assert told() == ["use"]


@pytest.mark.parametrize("harm", [flip, cut, empty, delete])
@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_damaged_value_that_was_asked_for_is_made_again(cache, scheduler, harm):
    task = delayed(big)(3)
    want = task.compute(cache=cache, scheduler=scheduler)
    (path,) = objects(cache)
    harm(path)
    assert task.compute(cache=cache, scheduler=scheduler) == want
    assert called() == ["big", "big"]
    assert task.compute(cache=cache, scheduler=scheduler) == want
    assert not called()


@pytest.mark.parametrize("harm", [flip, cut, delete])
def test_all_values_of_a_chain_that_were_damaged_are_made_again(cache, harm):
    def more(values):
        note("more")
        return [value + 1 for value in values]

    def chain(last):
        task = delayed(big)(0)
        for _ in range(4):
            task = delayed(more)(task)
        return delayed(add)(delayed(total)(task), last)

    want = chain(0).compute(cache=cache, scheduler="sync")
    called()
    for path in objects(cache):
        harm(path)
    Cache(cache).store().execute("delete from object")
    assert chain(1).compute(cache=cache, scheduler="sync") == want + 1
    assert Counter(called()) == {"big": 1, "more": 4, "total": 1, "add": 1}


def test_a_value_that_cannot_be_made_again_is_a_failure(cache, tmp_path):
    gate = tmp_path / "gate"

    def once(n):
        note("once")
        if os.path.exists(gate):
            raise ValueError("not a second time")
        return list(range(n))

    def run(k):
        return delayed(add)(delayed(total)(delayed(once)(100_000)), k).compute(cache=cache)

    run(0)
    gate.touch()
    run(1)
    Cache(cache).store().execute("delete from object")
    for path in objects(cache):
        path.unlink()
    with pytest.raises(ValueError, match="not a second time"):
        run(2)


def test_deleting_the_directory_is_safe(cache):
    import shutil

    task = delayed(add)(delayed(one)(1), 2)
    task.compute(cache=cache)
    shutil.rmtree(cache)
    assert task.compute(cache=cache) == 3
    assert called() == ["add", "add", "one", "one"]
    assert flowpar.run(task, cache=cache).counts.done == 0


# Many processes -----------------------------------------------------------------------------------

SHARED = """
    import os
    import sys
    import flowpar
    from flowpar import delayed
    from support.gates import hold, mark

    @delayed(ignore=["log", "gate"])
    def slow(n, log, gate):
        mark(log, f"slow{n}")
        hold(gate)
        return n

    @delayed(ignore=["log"])
    def join(ns, log):
        mark(log, "join")
        return sum(ns)

    if __name__ == "__main__":
        scheduler, count, log, gate = sys.argv[1:]
        out = join([slow(n, log, gate) for n in range(int(count))], log)
        mark("started", str(os.getpid()))
        print(out.compute(cache="cache", scheduler=scheduler, workers=2))
"""


@pytest.fixture
def start(tmp_path):
    """Start a script; what is still running at the end is killed."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SHARED))
    started = []

    def go(*args):
        started.append(
            subprocess.Popen(
                [sys.executable, "-W", "default", str(script), *map(str, args)],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def ended(process):
    out, said = process.communicate(timeout=90)
    return process.returncode, out.strip(), said


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_two_programs_at_once_share_the_work(start, tmp_path, scheduler):
    log, gate = tmp_path / "log", tmp_path / "gate"
    processes = [start(scheduler, 6, log, gate) for _ in range(2)]
    assert wait_until(lambda: len(marks(tmp_path / "started")) == 2, 60)
    assert wait_until(lambda: marks(log), 60)
    gate.touch()
    for process in processes:
        assert ended(process) == (0, "15", "")
    assert Counter(marks(log)) == {"join": 1, **{f"slow{n}": 1 for n in range(6)}}


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_what_a_program_that_was_killed_had_begun_is_taken_over(start, tmp_path, scheduler):
    log, other_log = tmp_path / "log", tmp_path / "other"
    gate, never = tmp_path / "gate", tmp_path / "never"
    first = start(scheduler, 1, log, never)
    assert wait_until(lambda: marks(log), 60)
    gate.touch()
    second = start(scheduler, 1, other_log, gate)
    assert wait_until(lambda: len(marks(tmp_path / "started")) == 2, 60)
    os.kill(first.pid, signal.SIGKILL)
    assert ended(second) == (0, "0", "")
    assert Counter(marks(other_log)) == {"slow0": 1, "join": 1}


def test_two_runs_of_one_program_share_the_work(cache):
    both = threading.Barrier(2, timeout=60)
    found = []

    def work():
        both.wait()
        tasks = [delayed(add)(n, 1) for n in range(50)]
        found.append(flowpar.compute(tasks, cache=cache, scheduler="threads", workers=2))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [list(range(1, 51))] * 2
    assert called() == ["add"] * 50


# Ways to run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [*LOCAL, "processes"])
def test_a_task_may_compute_with_the_same_cache(cache, scheduler):
    def outer(n, cache):
        return sum(flowpar.compute([delayed(abs)(-k) for k in range(n)], cache=cache))

    tasks = [delayed(outer)(n, str(cache)) for n in range(6)]
    want = [sum(range(n)) for n in range(6)]
    for _ in range(2):
        assert flowpar.compute(tasks, cache=cache, scheduler=scheduler, workers=2) == want


def test_a_task_that_computes_itself_does_not_wait_for_itself(cache):
    def outer(n, cache):
        note("outer")
        return flowpar.compute(delayed(outer)(n - 1, cache), cache=cache) + 1 if n else 0

    assert delayed(outer)(5, str(cache)).compute(cache=cache, scheduler="sync") == 5
    assert called() == ["outer"] * 6
    assert delayed(outer)(5, str(cache)).compute(cache=cache, scheduler="sync") == 5
    assert not called()


def test_a_task_that_computes_what_another_is_computing(cache, tmp_path):
    gate = str(tmp_path / "gate")

    def slow(gate):
        return hold(gate, 5)

    def outer(cache, gate):
        open(gate, "w").close()
        return flowpar.compute(delayed(slow)(gate), cache=cache)

    tasks = [delayed(slow)(gate), delayed(outer)(str(cache), gate)]
    assert flowpar.compute(*tasks, cache=cache, scheduler="threads", workers=2) == (5, 5)


@pytest.mark.parametrize("scheduler", LOCAL)
def test_as_completed_gives_what_is_kept(cache, scheduler):
    tasks = [delayed(add)(n, 1) for n in range(10)]
    for _ in range(2):
        values = flowpar.as_completed(tasks, cache=cache, scheduler=scheduler)
        assert sorted(values) == list(range(1, 11))
    assert called() == ["add"] * 10


def test_as_completed_makes_again_what_is_damaged(cache):
    tasks = [delayed(big)(n) for n in range(4)]
    want = flowpar.compute(tasks, cache=cache)
    called()
    for path in objects(cache)[:2]:
        flip(path)
    assert sorted(flowpar.as_completed(tasks, cache=cache, scheduler="sync")) == want
    assert called() == ["big"] * 2


def test_submitted_and_awaited_values_are_kept(cache):
    task = delayed(add)(1, 2)
    assert task.submit(cache=cache).result(60) == 3
    assert task.submit(cache=cache).result(60) == 3

    async def main():
        with flowpar.options(cache=cache):
            return await task

    assert asyncio.run(main()) == 3
    assert called() == ["add"]


def test_a_persisted_value_is_kept_and_counts_by_its_content(cache):
    held = delayed(one)(3).persist(cache=cache)
    assert delayed(add)(held, 1).compute(cache=cache) == 4
    assert delayed(add)(delayed(one)(3), 1).compute(cache=cache) == 4
    assert delayed(add)(3, 1).compute(cache=cache) == 4
    assert called() == ["add", "one"]


def test_the_environment_names_a_cache(cache, monkeypatch):
    monkeypatch.setenv("FLOWPAR_CACHE", str(cache))
    assert [delayed(add)(1, 2).compute() for _ in range(2)] == [3, 3]
    assert called() == ["add"]


@pytest.mark.parametrize("first", ["sync", "threads", "processes", "auto"])
def test_what_one_scheduler_kept_another_finds(cache, first):
    def work(n):
        return {"n": n, "squares": [k * k for k in range(n)], "name": str(n)}

    def pick(record, key):
        return record[key]

    tasks = [delayed(pick)(delayed(work)(n), "n") for n in range(5)]
    assert flowpar.compute(tasks, cache=cache, scheduler=first) == list(range(5))
    for scheduler in ("sync", "threads", "processes", "auto"):
        run = flowpar.run(tasks, cache=cache, scheduler=scheduler)
        assert (run.value, run.counts.done) == (list(range(5)), 0)


def test_observers_are_told_of_what_was_kept(cache):
    from support.fakes import RecordingObserver

    task = delayed(add)(delayed(one)(1), 2)
    task.compute(cache=cache)
    observer = RecordingObserver()
    task.compute(cache=cache, observers=[observer])
    assert not observer.named("task_start")
    ended = {event.record.key: event.record.status for event in observer.named("task_end")}
    assert ended == {"one": "cached", "add": "cached"}
    assert observer.named("run_end")[0].counts.cached == 2


def test_what_a_function_writes_to_its_argument_is_not_kept_of_the_other(cache):
    def spoil(values):
        note("spoil")
        values.append("spoilt")
        return len(values)

    def lengths(n, k):
        return delayed(add)(delayed(spoil)(delayed(big)(n)), k)

    assert lengths(0, 0).compute(cache=cache, scheduler="sync") == 100_001
    assert delayed(big)(0).compute(cache=cache, scheduler="sync") == list(range(100_000))
    assert called() == ["add", "big", "spoil"]


def _listed(n):
    return list(range(n))


def _grown(values):
    values.append(100)
    return sum(values)


@pytest.mark.parametrize("scheduler", [*LOCAL, "processes"])
@pytest.mark.parametrize("n", [3, 50_000])
def test_nothing_is_kept_that_was_made_of_what_another_task_has_changed(cache, scheduler, n):
    options = {"cache": cache, "scheduler": scheduler}
    given = delayed(_listed)(n)
    grown = delayed(_grown)
    flowpar.compute(grown(given), delayed(total)(given), grown(given), **options)
    calls.clear()
    assert delayed(total)(delayed(_listed)(n)).compute(**options) == sum(range(n))
    assert called() == []


def _write_and_read(file):
    path = Path(file)
    text = path.read_text()
    path.write_text("later")
    return text


@pytest.mark.parametrize("scheduler", [*LOCAL, "processes"])
def test_what_a_file_was_that_changes_meanwhile_is_not_kept(cache, tmp_path, scheduler):
    path = tmp_path / "input.txt"
    options = {"cache": cache, "scheduler": scheduler}
    path.write_text("first")
    read = delayed(_write_and_read)
    with pytest.warns(flowpar.FlowparWarning, match="a file written to, while it ran"):
        assert read(File(path)).compute(**options) == "first"
    path.write_text("first")
    with pytest.warns(flowpar.FlowparWarning, match="a file written to, while it ran"):
        assert flowpar.run(read(File(path)), **options).tasks[0].status == "done"


@pytest.mark.parametrize("size", [3, 3_000_000])
def test_what_an_argument_was_that_changes_meanwhile_is_not_kept(cache, size):
    given = bytearray(size)

    def change_and_count(content):
        given[0] += 1
        return sum(content[:10])

    def count(content):
        return sum(content[:10])

    with pytest.warns(flowpar.FlowparWarning, match="an argument of it was changed"):
        delayed(change_and_count)(given).compute(cache=cache)
    given[0] = 0
    with pytest.warns(flowpar.FlowparWarning, match="an argument of it was changed"):
        run = flowpar.run(delayed(change_and_count)(given), cache=cache)
    assert run.tasks[0].status == "done"
    delayed(count)(given).compute(cache=cache)
    assert flowpar.run(delayed(count)(given), cache=cache).tasks[0].status == "cached"


UNPICKLES = """
import pickle, sys
import flowpar
from flowpar import File, delayed
from support.gates import mark

@delayed
def load(file):
    mark("calls", "load")
    with open(file, "rb") as content:
        return pickle.load(content)

@delayed
def predict(model, x):
    mark("calls", "predict")
    return model.predict(x)

if __name__ == "__main__":
    out = predict(load(File("model.pkl")), 3)
    print(out.compute(cache="cache", scheduler=sys.argv[1]))
"""


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
def test_methods_of_a_value_count_with_it_though_no_code_names_its_class(tmp_path, scheduler):
    model = "class Model:\n    def predict(self, x):\n        return 2 * x\n"
    (tmp_path / "models.py").write_text(model)
    (tmp_path / "script.py").write_text(UNPICKLES)
    environment = {**os.environ, "PYTHONPATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, sorted(marks(tmp_path / "calls")), (tmp_path / "calls").unlink(True)

    make = "import models, pickle; pickle.dump(models.Model(), open('model.pkl', 'wb'))"
    run("-c", make)
    assert run("script.py", scheduler)[:2] == ("6\n", ["load", "predict"])
    assert run("script.py", scheduler)[:2] == ("6\n", [])
    (tmp_path / "models.py").write_text(model.replace("2 * x", "3 * x"))
    assert run("script.py", scheduler)[:2] == ("9\n", ["predict"])
    assert run("script.py", scheduler)[:2] == ("9\n", [])
    (tmp_path / "models.py").write_text(model)
    assert run("script.py", scheduler)[:2] == ("6\n", [])
