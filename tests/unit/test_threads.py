"""The thread pool: as many calls at once as it is wide, and nothing kept that ended."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from conftest import wait_until

from flowpar.errors import Cancelled, PoolError, TaskTimeout
from flowpar.pools.threads import ThreadPool
from flowpar.pools.transport import Batch
from flowpar.pools.worker import execute


@pytest.fixture
def pool():
    made = ThreadPool(2)
    yield made
    made.close()


class Heard:
    def __init__(self):
        self.results, self.errors, self.told = [], [], threading.Event()

    def __call__(self, pool, func, *args):
        return pool.apply_async(func, args, None, self._result, self._error)

    def _result(self, result):
        self.results.append(result)
        self.told.set()

    def _error(self, error):
        self.errors.append(error)
        self.told.set()


def timed(func, timeout, *args):
    return Batch([(0, 1, 0, args, None)], {1: func}, {}, frozenset({0}), timeout=timeout)


def test_a_result_or_an_error_is_told_once(pool):
    good, bad = Heard(), Heard()
    good(pool, abs, -1)
    bad(pool, int, "x")
    assert good.told.wait(10)
    assert bad.told.wait(10)
    assert (good.results, good.errors) == ([1], [])
    assert bad.results == []
    assert isinstance(bad.errors[0], ValueError)


def test_as_many_calls_as_it_is_wide_always_run_at_once(pool):
    for _ in range(300):
        barrier, both = threading.Barrier(2), [Heard(), Heard()]
        for heard in both:
            heard(pool, barrier.wait, 10)
        for heard in both:
            assert heard.told.wait(15)
            assert heard.errors == []


def test_it_never_runs_more_than_it_is_wide(pool):
    running, most, lock = [0], [0], threading.Lock()

    def f():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.001)
        with lock:
            running[0] -= 1

    heard = [Heard() for _ in range(50)]
    for each in heard:
        each(pool, f)
    assert all(each.told.wait(10) for each in heard)
    assert most[0] == 2


def test_a_call_over_its_time_is_told_so_and_its_thread_replaced(pool):
    release = threading.Event()
    late = [Heard() for _ in range(4)]
    for heard in late:
        heard(pool, execute, timed(release.wait, 0.05, 60))
    for heard in late:
        assert heard.told.wait(10)
        assert isinstance(heard.errors[0], TaskTimeout)
    good = Heard()
    good(pool, abs, -1)
    assert good.told.wait(10)
    release.set()
    assert wait_until(lambda: sum("thread" in t.name for t in threading.enumerate()) <= 4)
    assert all(not heard.results for heard in late)


def test_a_cancelled_call_does_not_begin(pool):
    release, ran = threading.Event(), []
    for _ in range(2):
        Heard()(pool, release.wait, 60)
    heard = Heard()
    ticket = heard(pool, ran.append, 1)
    pool.cancel(ticket)
    assert isinstance(heard.errors[0], Cancelled)
    release.set()
    after = Heard()
    after(pool, abs, -1)
    assert after.told.wait(10)
    assert ran == []


def test_cancelling_in_every_moment_loses_no_thread(pool):
    for _ in range(500):
        heard = Heard()
        pool.cancel(heard(pool, abs, -1))
        assert heard.told.wait(10)
        assert len(heard.results) + len(heard.errors) == 1
    barrier, both = threading.Barrier(2), [Heard(), Heard()]
    for heard in both:
        heard(pool, barrier.wait, 10)
    assert all(heard.told.wait(15) and not heard.errors for heard in both)


@pytest.mark.parametrize("timeout", [None, 1000])
def test_nothing_is_kept_of_a_call_that_ended(pool, timeout):
    class Thing:
        pass

    thing, heard = Thing(), Heard()
    known = weakref.ref(thing)
    ticket = heard(pool, execute, timed(id, timeout, thing))
    assert heard.told.wait(10)
    del thing
    assert wait_until(lambda: gc.collect() is not None and known() is None)
    assert ticket.is_settled


def test_what_would_end_a_thread_does_not(pool):
    def leave():
        raise SystemExit

    for _ in range(5):
        heard = Heard()
        heard(pool, leave)
        assert heard.told.wait(10)
    assert isinstance(heard.errors[0], SystemExit)
    good = Heard()
    good(pool, abs, -1)
    assert good.told.wait(10)


def test_a_closed_pool_says_so():
    pool = ThreadPool(1)
    heard = Heard()
    heard(pool, abs, -1)
    assert heard.told.wait(10)
    threads = {t for t in threading.enumerate() if t.name.startswith("thread ")}
    pool.close()
    pool.close()
    with pytest.raises(PoolError, match="closed"):
        pool.apply_async(abs, (1,))
    assert threads
    assert wait_until(lambda: not pool_threads_alive(pool))


def pool_threads_alive(pool):
    return [t for t in threading.enumerate() if getattr(t, "_target", None) == pool._work]


def test_the_initializer_runs_first_in_each_thread():
    local, names, both = threading.local(), [], threading.Barrier(2)

    def prepare(value):
        local.value = value
        names.append(threading.current_thread().name)

    def look():
        both.wait(10)
        return local.value

    pool = ThreadPool(2, initializer=prepare, initargs=iter([7]))
    try:
        for _ in range(5):
            heard = [Heard(), Heard()]
            for each in heard:
                each(pool, look)
            assert all(each.told.wait(15) for each in heard)
            assert [each.results for each in heard] == [[7], [7]]
        assert len(set(names)) == len(names) == 2
    finally:
        pool.close()


@pytest.mark.parametrize("kind", [LookupError, SystemExit, KeyboardInterrupt, BaseException])
def test_an_initializer_that_raises_ends_every_call(kind):
    def fail():
        raise kind("no such database")

    pool = ThreadPool(2, initializer=fail)
    try:
        for _ in range(2):
            heard = [Heard() for _ in range(5)]
            for each in heard:
                each(pool, abs, -1)
            assert all(each.told.wait(15) for each in heard)
            for each in heard:
                (error,) = each.errors
                assert isinstance(error, PoolError)
                assert f"raised {kind.__name__}: no such database" in str(error)
                assert type(error.__cause__) is kind
    finally:
        pool.close()


def test_calls_are_cancelled_while_an_initializer_hangs():
    begun, release = threading.Event(), threading.Event()

    def hang():
        begun.set()
        release.wait(30)

    pool, heard = ThreadPool(1, initializer=hang), Heard()
    try:
        ticket = heard(pool, abs, -1)
        assert begun.wait(15)
        pool.cancel(ticket)
        assert heard.told.wait(15)
        assert isinstance(heard.errors[0], Cancelled)
    finally:
        release.set()
        pool.close()
