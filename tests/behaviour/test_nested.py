"""A task may compute: inside its worker, without a deadlock and without more processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from pathlib import Path

import pytest

import flowpar
from flowpar import delayed


def inner(n):
    """Compute inside a task, and say in which processes that was."""
    pids = flowpar.compute([delayed(os.getpid)() for _ in range(n)])
    tasks = Path("/proc/self/task").iterdir()
    below = "".join((task / "children").read_text() for task in tasks)
    return os.getpid(), set(pids), below.split()


def fibonacci(n):
    if n < 2:
        return n
    return sum(flowpar.compute(delayed(fibonacci)(n - 1), delayed(fibonacci)(n - 2)))


def test_a_task_that_computes_does_so_in_its_own_process(pool):
    for own, pids, below in flowpar.compute([delayed(inner)(3) for _ in range(8)], scheduler=pool):
        assert pids == {own}
        if own != os.getpid():
            assert below == []


def test_deep_nesting_does_not_deadlock(pool):
    assert delayed(fibonacci)(7).compute(scheduler=pool) == 13


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_more_nested_runs_than_workers(scheduler):
    tasks = [delayed(fibonacci)(3) for _ in range(20)]
    assert flowpar.compute(*tasks, scheduler=scheduler, workers=2) == (2,) * 20


def test_a_nested_run_that_asks_for_processes_gets_none(own):
    def outer():
        return flowpar.compute(delayed(os.getpid)(), scheduler="processes"), os.getpid()

    inside, outside = delayed(outer)().compute(scheduler=own)
    assert inside == outside


def test_nested_ways_to_run(own):
    def outer():
        x = delayed(abs)(-1)
        return (
            x.compute(),
            flowpar.run(x).value,
            x.submit().result(60),
            sorted(flowpar.as_completed([x, delayed(abs)(-2)])),
            (x.persist() + 1).compute(),
        )

    assert delayed(outer)().compute(scheduler=own) == (1, 1, 1, [1, 2], 2)


def test_a_nested_failure_is_the_users_own(own):
    def outer():
        return delayed(int)("x").compute()

    with pytest.raises(ValueError, match="invalid literal") as caught:
        delayed(outer)().compute(scheduler=own)
    notes = " ".join(caught.value.__notes__)
    assert "task int" in notes
    assert "task outer" in notes


def test_a_coroutine_that_computes(own):
    async def outer(n):
        await asyncio.sleep(0)
        return flowpar.compute(delayed(abs)(-n))

    tasks = [delayed(outer)(n) for n in range(5)]
    assert flowpar.compute(tasks, scheduler=own) == [0, 1, 2, 3, 4]


def test_a_coroutine_that_awaits_delayed_values(own):
    async def outer(n):
        return await delayed(abs)(-n) + await delayed(abs)(-1)

    tasks = [delayed(outer)(n) for n in range(5)]
    assert flowpar.compute(tasks, scheduler=own) == [1, 2, 3, 4, 5]


def test_a_thread_pool_of_the_users_inside_a_task(own):
    def outer():
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            return list(executor.map(abs, [-1, -2]))

    assert delayed(outer)().compute(scheduler=own) == [1, 2]


def test_an_executor_of_the_users_as_scheduler_inside_a_task(own):
    def outer():
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return flowpar.compute(delayed(abs)(-1), scheduler=executor)

    assert delayed(outer)().compute(scheduler=own) == 1


def test_many_runs_at_once_from_threads(own):
    results = {}

    def work(n):
        results[n] = flowpar.compute([delayed(abs)(-i) for i in range(n)], scheduler=own)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: list(range(n)) for n in range(20)}
