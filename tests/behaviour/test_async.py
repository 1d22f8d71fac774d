"""Coroutine functions are tasks, and delayed values can be awaited."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

import flowpar
from flowpar import TaskError, delayed


@delayed
async def after_a_moment(x):
    await asyncio.sleep(0)
    return x + 1


def test_a_coroutine_function_runs_on_every_pool(pool):
    x = delayed(abs)(after_a_moment(delayed(abs)(-1)))
    assert x.compute(scheduler=pool) == 2


@pytest.mark.parametrize("scheduler", ["threads", "auto"])
def test_thousands_wait_at_once(scheduler):
    waiting, most = [0], [0]
    everybody = {}

    @delayed
    async def f(n):
        event = everybody.setdefault("here", asyncio.Event())
        waiting[0] += 1
        most[0] = max(most[0], waiting[0])
        if waiting[0] == 3000:
            event.set()
        await event.wait()
        return n

    assert flowpar.compute([f(n) for n in range(3000)], scheduler=scheduler) == list(range(3000))
    assert most[0] == 3000


def test_await_computes_without_blocking_the_loop():
    gate = threading.Event()

    async def main():
        task = asyncio.ensure_future(value_of(delayed(gate.wait)(60)))
        await asyncio.sleep(0)
        gate.set()  # not reached if the loop were blocked
        return await task

    with flowpar.options(scheduler="threads"):
        assert asyncio.run(main()) is True


async def value_of(x):
    return await x


def test_many_awaits_at_once(own):
    async def main():
        return await asyncio.gather(*[value_of(delayed(abs)(-i)) for i in range(30)])

    with flowpar.options(scheduler=own):
        assert asyncio.run(main()) == list(range(30))


def test_await_raises_what_compute_raises(own):
    async def main():
        await delayed(int)("x")

    with flowpar.options(scheduler=own), pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(main())


def test_compute_inside_a_running_loop_works_as_in_a_notebook(pool):
    async def main():
        return after_a_moment(delayed(abs)(-1)).compute(scheduler=pool)

    assert asyncio.run(main()) == 2


def test_a_future_can_be_awaited_through_asyncio():
    async def main():
        return await asyncio.wrap_future(delayed(abs)(-1).submit(scheduler="threads"))

    assert asyncio.run(main()) == 1


def test_a_failure_in_a_coroutine_keeps_type_line_and_note(own):
    @delayed
    async def f():
        await asyncio.sleep(0)
        raise KeyError("inside")

    with pytest.raises(KeyError) as caught:
        f().compute(scheduler=own)
    assert "task f" in caught.value.__notes__[0]
    assert "f" in {frame.name for frame in caught.traceback}


def test_a_coroutine_that_is_retried(own):
    calls = []

    @delayed(retries=2, pool="async")
    async def f():
        calls.append(1)
        if len(calls) < 3:
            raise ValueError
        return len(calls)

    assert f().compute(scheduler=own) == 3


def test_a_coroutine_that_returns_a_delayed_value(own):
    @delayed
    async def f(n):
        return delayed(abs)(-n)

    assert f(3).compute(scheduler=own) == 3


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, GeneratorExit])
def test_what_a_coroutine_raises_cannot_end_the_loop(kind):
    @delayed
    async def f():
        raise kind("out")

    with pytest.raises((TaskError, kind)) as caught:
        f().compute(scheduler="threads")
    assert isinstance(caught.value, Exception)
    assert after_a_moment(1).compute(scheduler="threads") == 2


def test_a_task_that_a_coroutine_started_cannot_end_the_loop():
    @delayed
    async def f():
        inner = asyncio.ensure_future(leave())
        with contextlib.suppress(BaseException):
            await inner
        return "survived"

    async def leave():
        raise SystemExit("out")

    future = f().submit(scheduler="threads")
    assert future.result(20) == "survived"
    assert after_a_moment(1).submit(scheduler="threads").result(20) == 2


def test_coroutines_and_functions_run_side_by_side():
    begin = time.monotonic()

    @delayed
    async def wait():
        await asyncio.sleep(0.2)

    block = delayed(threading.Event().wait)(0.2)
    flowpar.compute([wait() for _ in range(50)], block, scheduler="threads")
    assert time.monotonic() - begin < 5


def test_a_plain_function_asked_onto_the_loop_runs_there(own):
    async def inner(x):
        await asyncio.sleep(0)
        return x

    assert delayed(abs, pool="async")(-1).compute(scheduler=own) == 1
    if own != "sync":
        assert delayed(lambda: inner(2), pool="async")().compute(scheduler=own) == 2


def test_context_of_the_caller_reaches_a_background_run():
    with flowpar.options(scheduler="sync"):
        name = delayed(lambda: threading.current_thread().name)().submit().result(20)
    assert name == "flowpar-run"
