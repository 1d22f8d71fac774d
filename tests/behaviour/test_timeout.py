"""A task that runs too long fails on time; the rest of the run does not feel it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from support.gates import hold, mark, marks

import flowpar
from flowpar import RunFailed, TaskTimeout, delayed


@pytest.fixture
def gate(tmp_path):
    """What holds a task back; opened when the test ends, for workers that cannot be stopped."""
    path = tmp_path / "gate"
    yield str(path)
    path.touch()


@pytest.fixture(autouse=True)
def _warm(pool):
    """Start the workers, whose start is no part of a timeout."""
    delayed(abs)(-1).compute(scheduler=pool)


def test_a_task_over_its_time_fails_on_time(pool, gate):
    begin = time.monotonic()
    with pytest.raises(TaskTimeout, match=r"longer than its timeout of 0\.2 s") as caught:
        delayed(hold, timeout=0.2)(gate).compute(scheduler=pool)
    assert 0.2 <= time.monotonic() - begin < 1.5
    assert caught.value.timeout == 0.2
    assert isinstance(caught.value, TimeoutError)
    assert "task hold" in caught.value.__notes__[0]


def test_a_task_within_its_time_is_not_touched(pool):
    assert delayed(abs, timeout=60)(-1).compute(scheduler=pool) == 1
    assert delayed(abs, timeout=1e12)(-1).compute(scheduler=pool) == 1


def test_the_others_go_on(pool, gate):
    late = delayed(hold, timeout=0.2)(gate)
    others = [delayed(abs)(-i) for i in range(20)]
    with pytest.raises(RunFailed) as caught:
        flowpar.compute(late, *others, scheduler=pool, on_error="continue")
    assert len(caught.value.exceptions) == 1
    assert len(caught.value.run.finished) == 20


def test_each_attempt_has_its_own_time(pool, gate, tmp_path):
    calls = str(tmp_path / "calls")

    def late_at_first(calls, gate):
        mark(calls)
        return "late" if len(marks(calls)) > 1 else hold(gate)

    call = delayed(late_at_first, timeout=0.3, retries=1)
    assert call(calls, gate).compute(scheduler=pool) == "late"
    assert len(marks(calls)) == 2


def test_a_timeout_can_be_left_out_of_the_retries(pool, gate, tmp_path):
    with pytest.raises(TaskTimeout):
        delayed(hold, timeout=0.1, retries=5, retry_on=ValueError)(gate).compute(scheduler=pool)


def test_a_coroutine_is_cancelled_and_cleans_up():
    cleaned = threading.Event()

    @delayed(timeout=0.1)
    async def f():
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with pytest.raises(TaskTimeout, match="cancelled"):
        f().compute(scheduler="threads")
    assert cleaned.wait(5)


def test_a_coroutine_that_will_not_end_is_left_behind():
    release = threading.Event()

    @delayed(timeout=0.1)
    async def f():
        while not release.is_set():
            try:
                await asyncio.wait_for(asyncio.Event().wait(), 0.02)
            except (asyncio.CancelledError, asyncio.TimeoutError):
                continue

    begin = time.monotonic()
    try:
        with pytest.raises(TaskTimeout):
            f().compute(scheduler="threads")
        assert time.monotonic() - begin < 2
    finally:
        release.set()


def test_many_threads_that_hang_do_not_use_up_the_pool(gate):
    tasks = [delayed(hold, timeout=0.1, name="late")(gate) for _ in range(12)]
    good = delayed(abs)(-5)
    with pytest.raises(RunFailed) as caught:
        flowpar.compute(*tasks, good, scheduler="threads", workers=2, on_error="continue")
    assert len(caught.value.exceptions) == 12
    assert caught.value.run.finished == {"abs": 5}
    assert delayed(abs)(-6).compute(scheduler="threads", workers=2) == 6
