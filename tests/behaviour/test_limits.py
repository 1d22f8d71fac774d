"""A limit is never exceeded: counted by the tasks themselves, in files that all of them see."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

import flowpar
from flowpar import delayed


def change(path, by):
    """Add to a number in a file under a lock, and keep the highest that it was."""
    with open(path, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        now, most = map(int, file.read().split())
        now += by
        file.seek(0)
        file.truncate()
        file.write(f"{now} {max(now, most)}")


def use(path, amount=1, value=None):
    """Hold some of a resource for a moment that lets others come in, if they can."""
    change(path, amount)
    threading.Event().wait(0.01)
    change(path, -amount)
    return value


def fail(path):
    change(path, 1)
    threading.Event().wait(0.005)
    change(path, -1)
    raise ValueError


@pytest.fixture
def counter(tmp_path):
    path = tmp_path / "counter"
    path.write_text("0 0")
    return str(path)


def highest(counter):
    now, most = map(int, Path(counter).read_text().split())
    assert now == 0
    return most


def test_one_at_a_time_unless_the_run_says_more(pool, counter):
    tasks = [delayed(use, limit="gpu")(counter, 1, i) for i in range(12)]
    assert flowpar.compute(tasks, scheduler=pool) == list(range(12))
    assert highest(counter) == 1


def test_as_many_as_the_run_says_and_no_fewer(counter):
    tasks = [delayed(use, limit="gpu")(counter) for _ in range(30)]
    flowpar.compute(tasks, scheduler="threads", workers=6, limits={"gpu": 3})
    assert highest(counter) == 3


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_amounts_add_up(scheduler, counter):
    tasks = [delayed(use, limit={"memory": 1 + i % 3})(counter, 1 + i % 3) for i in range(20)]
    flowpar.compute(tasks, scheduler=scheduler, workers=4, limits={"memory": 4})
    assert highest(counter) <= 4


def test_a_limit_holds_across_functions_and_pools(counter):
    tasks = [
        delayed(use, limit="disk", pool=pool, name=f"use_{pool}")(counter)
        for pool in ["threads", "processes"]
        for _ in range(8)
    ]
    flowpar.compute(tasks, workers=2)
    assert highest(counter) == 1


def test_coroutines_keep_to_a_limit(counter):
    import asyncio

    running, most = [0], [0]

    @delayed(limit="web")
    async def fetch(i):
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.005)
        running[0] -= 1
        return i

    got = flowpar.compute([fetch(i) for i in range(20)], scheduler="threads", limits={"web": 5})
    assert got == list(range(20))
    assert most[0] == 5


def test_failures_and_retries_give_back_what_they_held(own, counter):
    tasks = [delayed(fail, limit="gpu", retries=1)(counter) for _ in range(4)]
    tasks += [delayed(use, limit="gpu")(counter) for _ in range(4)]
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute(tasks, scheduler=own, on_error="continue")
    assert len(caught.value.exceptions) == 4
    assert highest(counter) == 1


def test_a_task_that_returns_a_delayed_value_under_the_same_limit(own, counter):
    def outer(n):
        return delayed(use, limit="gpu")(counter, 1, n)

    tasks = [delayed(outer, limit="gpu")(n) for n in range(4)]
    assert flowpar.compute(tasks, scheduler=own) == [0, 1, 2, 3]
    assert highest(counter) == 1


def test_more_than_there_is_is_refused_and_does_not_wait_for_ever(own):
    with pytest.raises(flowpar.OptionError, match="gpu"):
        flowpar.compute(delayed(abs, limit={"gpu": 5})(1), scheduler=own, limits={"gpu": 4})
