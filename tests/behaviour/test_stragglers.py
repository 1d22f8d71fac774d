"""Under ``speculate=True`` a call that takes too long is made twice; the first result counts."""

import os
import signal
import time
from pathlib import Path

import pytest

import flowpar
from flowpar import delayed
from flowpar.pools.processes import ProcessPool

LONG = 60.0
"""Seconds; nobody waits for that."""


@delayed
def work(n, folder):
    """Take long, if it is the first who makes this call of number 7."""
    mine = Path(folder, f"{n}-{os.getpid()}")
    mine.touch()
    time.sleep(LONG if n == 7 and len(list(Path(folder).glob("7-*"))) == 1 else 0.02)
    return n, os.getpid()


def run(targets, pool=None, **options):
    options = {"speculate": True, "workers": 2, **options}
    return flowpar.compute(targets, scheduler=pool or "processes", **options)


def makers(folder, n):
    return {int(path.name.partition("-")[2]) for path in Path(folder).glob(f"{n}-*")}


def is_gone(pid):
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_straggler_is_made_again_and_the_slower_is_stopped(tmp_path):
    found = run([work(n, tmp_path) for n in range(12)])
    assert [n for n, _ in found] == list(range(12))
    both = makers(tmp_path, 7)
    assert len(both) == 2
    (slow,) = both - {found[7][1]}
    assert is_gone(slow)
    assert all(len(makers(tmp_path, n)) == 1 for n in range(12) if n != 7)


def test_it_is_an_option(tmp_path):
    started = time.monotonic()
    with pytest.raises(flowpar.TaskTimeout):
        run(
            [work(n, tmp_path) for n in range(7)] + [work.options(timeout=1)(7, tmp_path)],
            speculate=False,
        )
    assert time.monotonic() - started < LONG
    assert len(makers(tmp_path, 7)) == 1


def test_what_is_not_pure_is_never_made_twice(tmp_path):
    with pytest.raises(flowpar.TaskTimeout):
        run([work.options(pure=False, timeout=1)(n, tmp_path) for n in range(12)])
    assert len(makers(tmp_path, 7)) == 1


@delayed
def fail_slowly(n, folder):
    mine = Path(folder, f"{n}-{os.getpid()}")
    mine.touch()
    if n == 7:
        time.sleep(LONG if len(list(Path(folder).glob("7-*"))) == 1 else 0.02)
        raise ValueError("as it should")
    time.sleep(0.02)


def test_an_error_is_a_result_too(tmp_path):
    with pytest.raises(ValueError, match="as it should"):
        run([fail_slowly(n, tmp_path) for n in range(12)])


@delayed
def die_second(n, folder):
    mine = Path(folder, f"{n}-{os.getpid()}")
    mine.touch()
    if n == 7:
        if len(list(Path(folder).glob("7-*"))) == 1:
            time.sleep(1.5)
            return n
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return n


def test_the_death_of_one_leaves_it_to_the_other(tmp_path):
    assert run([die_second(n, tmp_path) for n in range(12)]) == list(range(12))
    assert len(makers(tmp_path, 7)) == 2


@delayed
def both_die(n, folder):
    mine = Path(folder, f"{n}-{os.getpid()}")
    mine.touch()
    if n == 7:
        if len(list(Path(folder).glob("7-*"))) == 1:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return n


def test_the_death_of_both_is_an_error(tmp_path):
    with pytest.raises(flowpar.WorkerDied):
        run([both_die(n, tmp_path) for n in range(12)])
    assert run([work(n, tmp_path) for n in range(3)])[2][0] == 2


@delayed
def late(n, folder):
    Path(folder, f"{n}-{os.getpid()}").touch()
    time.sleep(LONG if n == 7 else 0.02)
    return n


def test_a_timeout_ends_both(tmp_path):
    pool = ProcessPool(2)
    try:
        with pytest.raises(flowpar.TaskTimeout):
            run([late.options(timeout=4)(n, tmp_path) for n in range(12)], pool)
    finally:
        pool.close()
    assert len(makers(tmp_path, 7)) == 2
    assert all(is_gone(pid) for pid in makers(tmp_path, 7))


def test_large_results_of_the_slower_leave_nothing(tmp_path):
    import numpy as np

    from flowpar.pools import home

    @delayed
    def large(n, folder):
        Path(folder, f"{n}-{os.getpid()}").touch()
        time.sleep(0.4 if n == 7 else 0.02)  # the second begins after 0.1 s, and ends later
        return np.full(200_000, n)

    found = run([large(n, tmp_path) for n in range(12)])
    assert [int(each[0]) for each in found] == list(range(12))
    del found
    assert [path for folder in home.home().folders for path in Path(folder).iterdir()] == []
