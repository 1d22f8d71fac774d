"""Pools of the user's: whatever has `apply_async` or `submit` runs a graph, and never hangs it."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import signal
import threading
import weakref
from concurrent.futures.process import BrokenProcessPool

import pytest
from conftest import wait_until

import flowpar
from flowpar import TaskTimeout, delayed
from flowpar.pools.foreign import ForeignPool


def diamond():
    a = delayed(abs)(-2)
    return delayed(sum)([a + 1, a * 2, delayed(len)({"k": a})])


class Minimal:
    """All that is asked of a pool; runs each call in a thread of its own."""

    def __init__(self):
        self.calls = 0

    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        self.calls += 1

        def work():
            try:
                result = func(*args, **(kwds or {}))
            except BaseException as error:
                error_callback(error)
            else:
                callback(result)

        threading.Thread(target=work).start()


class Inline:
    """Calls back before apply_async returns."""

    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        callback(func(*args, **(kwds or {})))


class Twice(Inline):
    """Calls back twice, as it must not."""

    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        result = func(*args)
        callback(result)
        callback(result)
        error_callback(RuntimeError("and once more"))


class Refuses:
    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        raise RuntimeError("this pool is closed")


class Fails:
    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        error_callback(OSError("lost"))


class Old(concurrent.futures.Executor):
    """An executor that has nothing but submit."""

    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        future.set_result(function(*args, **kwargs))
        return future


class Cancels(concurrent.futures.Executor):
    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_graph_runs_on_every_pool(pool):
    assert diamond().compute(scheduler=pool) == 8
    assert flowpar.compute([delayed(abs)(-i) for i in range(500)], scheduler=pool) == list(
        range(500)
    )


@pytest.mark.parametrize("kind", [Minimal, Inline, Twice, Old])
def test_the_least_that_is_a_pool_will_do(kind):
    assert diamond().compute(scheduler=kind()) == 8


def test_the_pool_is_really_used(pool):
    if isinstance(pool, str):
        assert delayed(abs)(-1).compute(scheduler=pool) == 1
        return
    run = flowpar.run(diamond(), scheduler=pool)
    assert type(pool).__name__ in {task.pool for task in run.tasks}


def test_a_pool_of_the_users_stays_open_and_is_let_go_of():
    pool = Minimal()
    for _ in range(3):
        assert diamond().compute(scheduler=pool) == 8
    assert pool.calls >= 3
    known = weakref.ref(pool)
    del pool
    assert wait_until(lambda: gc.collect() is not None and known() is None)


@pytest.mark.parametrize(("kind", "error"), [(Refuses, RuntimeError), (Fails, OSError)])
@pytest.mark.parametrize("on_error", ["raise", "continue"])
def test_a_pool_that_fails_gives_its_error_and_no_hang(kind, error, on_error):
    with pytest.raises(Exception) as caught:
        diamond().compute(scheduler=kind(), on_error=on_error)
    errors = getattr(caught.value, "exceptions", [caught.value])
    assert all(isinstance(each, error) for each in errors)
    assert "task abs" in errors[0].__notes__[-1]


def test_an_executor_that_cancels_ends_the_run():
    with pytest.raises(flowpar.Cancelled):
        diamond().compute(scheduler=Cancels())


def test_a_pool_that_was_shut_down_gives_an_error():
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        diamond().compute(scheduler=executor)
    pool = multiprocessing.pool.ThreadPool(1)
    pool.terminate()
    with pytest.raises(ValueError, match="not running"):
        diamond().compute(scheduler=pool)
    pool.join()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_executor_whose_worker_dies_gives_an_error_and_no_hang():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        with pytest.raises(BrokenProcessPool) as caught:
            flowpar.compute(delayed(abs)(-1), delayed(die)(), scheduler=executor)
        assert "task" in caught.value.__notes__[-1]
        with pytest.raises(BrokenProcessPool):
            diamond().compute(scheduler=executor)
        tasks = [delayed(abs)(-i) for i in range(50)]
        with pytest.raises(flowpar.RunFailed) as group:
            flowpar.compute(tasks, scheduler=executor, on_error="continue")
        assert len(group.value.exceptions) == 50


def test_a_pool_whose_worker_dies_loses_one_task_and_no_run():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        tasks = [delayed(abs)(-1), delayed(die)(), delayed(abs)(-2)]
        with pytest.raises(flowpar.RunFailed) as caught:
            flowpar.compute(tasks, scheduler=pool, on_error="continue")
        assert [type(error) for error in caught.value.exceptions] == [flowpar.WorkerDied]
        assert caught.value.run.finished == {"abs[0]": 1, "abs[1]": 2}
        assert diamond().compute(scheduler=pool) == 8
        pool.terminate()
        pool.join()


def test_workers_that_are_replaced_as_a_rule_are_no_failure():
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        tasks = [delayed(abs, pure=False)(-i) for i in range(4)]
        assert flowpar.compute(tasks, scheduler=pool) == [0, 1, 2, 3]
        pool.close()
        pool.join()


def test_a_call_that_hangs_is_reported_on_time_and_forgotten():
    release = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        with pytest.raises(TaskTimeout, match="ThreadPoolExecutor cannot stop it"):
            delayed(release.wait, timeout=0.1)(60).compute(scheduler=executor)
        release.set()
        assert diamond().compute(scheduler=executor) == 8


def test_lambdas_travel_through_pools_that_pickle():
    factor = 5
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert delayed(lambda x: x * factor)(2).compute(scheduler=pool) == 10
        pool.close()
        pool.join()


def test_a_pool_hint_wins_over_a_pool_of_the_users():
    pool = Minimal()
    run = flowpar.run(delayed(abs, pool="inline")(-1), scheduler=pool)
    assert run.tasks[0].pool == "inline"
    assert pool.calls == 0


def test_arguments_of_a_timed_call_are_not_kept_until_its_time():
    class Thing:
        pass

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        adapted = ForeignPool(executor)
        thing, heard = Thing(), threading.Event()
        from flowpar.pools.transport import Batch
        from flowpar.pools.worker import execute

        batch = Batch([(0, 1, 0, (thing,), None)], {1: id}, {}, frozenset({0}), timeout=1000)
        adapted.apply_async(execute, (batch,), callback=lambda report, held=thing: heard.set())
        assert heard.wait(20)
        known = weakref.ref(thing)
        del thing, batch
        assert wait_until(lambda: gc.collect() is not None and known() is None)
        adapted.close()
