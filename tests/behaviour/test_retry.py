"""A task that fails runs again, as often as its policy says and no more."""

from __future__ import annotations

import time

import pytest
from support.gates import mark, marks

import flowpar
from flowpar import delayed


def flaky(path, failures, kind=ValueError):
    """Fail some times, then say how often it was called."""
    mark(path)
    calls = len(marks(path))
    if calls <= failures:
        raise kind(calls)
    return calls


def test_a_task_is_tried_until_it_succeeds(pool, tmp_path):
    path = str(tmp_path / "calls")
    run = flowpar.run(delayed(flaky, retries=3)(path, 2), scheduler=pool)
    assert run.value == 3
    assert run.tasks[0].attempts == 3
    assert len(marks(path)) == 3


def test_the_last_failure_is_raised_when_no_attempt_is_left(pool, tmp_path):
    path = str(tmp_path / "calls")
    with pytest.raises(ValueError, match="3") as caught:
        delayed(flaky, retries=2)(path, 99).compute(scheduler=pool)
    assert len(marks(path)) == 3
    assert "attempt 3 of 3" in caught.value.__notes__[-1]


def test_without_retries_there_is_one_attempt(pool, tmp_path):
    path = str(tmp_path / "calls")
    with pytest.raises(ValueError):
        delayed(flaky)(path, 1).compute(scheduler=pool)
    assert len(marks(path)) == 1


def test_only_the_named_exceptions_are_worth_another_attempt(pool, tmp_path):
    path = str(tmp_path / "calls")
    call = delayed(flaky, retries=5, retry_on=(KeyError, OSError))
    with pytest.raises(ValueError):
        call(path, 99).compute(scheduler=pool)
    assert len(marks(path)) == 1
    assert call(path + "2", 2, KeyError).compute(scheduler=pool) == 3


def test_what_a_task_needs_is_not_run_again(pool, tmp_path):
    needs, calls = str(tmp_path / "needs"), str(tmp_path / "calls")

    def after(_, path):
        return flaky(path, 2)

    x = delayed(after, retries=2)(delayed(mark)(needs), calls)
    assert x.compute(scheduler=pool) == 3
    assert len(marks(needs)) == 1


def test_a_task_that_waits_for_its_retry_holds_nobody_up(own, tmp_path):
    path = str(tmp_path / "calls")
    slow = delayed(flaky, retries=1, retry_delay=0.4)(path, 1)
    others = [delayed(abs)(-i) for i in range(50)]
    begin = time.monotonic()
    values = flowpar.as_completed([slow, *others], scheduler=own)
    first = [next(values) for _ in range(50)]
    assert time.monotonic() - begin < 5
    assert sorted(first) == list(range(50))
    assert next(values) == 2


def test_the_delay_is_waited_for(tmp_path):
    path = str(tmp_path / "calls")
    begin = time.monotonic()
    delayed(flaky, retries=2, retry_delay=0.1)(path, 2).compute(scheduler="sync")
    assert 0.2 <= time.monotonic() - begin < 5


def test_batch_mates_of_a_failure_are_not_run_again(own, tmp_path):
    good, bad = str(tmp_path / "good"), str(tmp_path / "bad")
    tasks = [delayed(mark, name="good")(good, str(i)) for i in range(100)]
    tasks.insert(50, delayed(flaky, retries=2)(bad, 2))
    flowpar.compute(tasks, scheduler=own)
    assert sorted(marks(good)) == sorted(map(str, range(100)))
    assert len(marks(bad)) == 3
