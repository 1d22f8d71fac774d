"""Coroutines on one event loop in a thread of its own, thousands at once."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowpar.arguments import holds_task
from flowpar.errors import Cancelled, PoolError
from flowpar.pools.base import Callback, Ticket, Watchdog
from flowpar.pools.steps import Turn, turn
from flowpar.pools.transport import Batch, Failure, Report
from flowpar.pools.values import NotComputed, Values, sealed_by
from flowpar.pools.worker import (
    fill,
    mark_thread_as_inside,
    tame,
    timed_out,
    worker_name,
)
from flowpar.task import ALL_REFS, LITERAL, Call, Task

MOST = 10_000
"""Coroutines that run at the same time; each holds some kilobytes."""


class CoroutineTicket(Ticket):
    """A coroutine: its task on the loop, once there is one."""

    __slots__ = ("cancelled", "task")

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        super().__init__(callback, error_callback)
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False


class CoroutinePool:
    """An event loop in a daemon thread, started on first use.

    Parameters
    ----------
    width
        How many coroutines its user has running at the same time.
    """

    name = "async"

    def __init__(self, width: int = MOST) -> None:
        self.width = self.slots = width
        self.closed = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._watchdog = Watchdog()

    def apply_async(
        self,
        func: Callable[..., Any],  # noqa: ARG002 - the shape of every pool
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,  # noqa: ARG002
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> CoroutineTicket:
        """Start a batch of one coroutine call on the loop and return its ticket.

        `func` is ``execute``; what is run in its place is its sibling for coroutines.
        """
        if self.closed or os.getpid() != self._pid:
            raise PoolError("this event loop is closed, or belongs to another process")
        ticket = CoroutineTicket(callback, error_callback)
        self._running_loop().call_soon_threadsafe(
            self._start, ticket, args[0], context=contextvars.copy_context()
        )
        return ticket

    def cancel(self, ticket: object) -> None:
        """Cancel a coroutine: it gets a CancelledError where it waits."""
        if isinstance(ticket, CoroutineTicket) and self._loop is not None:
            self._loop.call_soon_threadsafe(_cancel, ticket)

    def close(self) -> None:
        """Cancel what runs and end the loop."""
        with self._lock:
            self.closed = True
            self._watchdog.close()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_run_loop, args=(self._loop,), name="event loop", daemon=True
                ).start()
            return self._loop

    def _start(self, ticket: CoroutineTicket, batch: Batch) -> None:
        if self._loop is None:
            return
        ticket.task = self._loop.create_task(_run(ticket, batch))
        if ticket.cancelled:
            ticket.task.cancel()
        elif batch.timeout is not None:
            # Not the loop's own clock, which stands still while a coroutine keeps the loop busy.
            expire = functools.partial(self._expire, ticket, batch.timeout)
            self._watchdog.call_later(batch.timeout, expire)

    def _expire(self, ticket: CoroutineTicket, timeout: float) -> None:
        if ticket.fail(timed_out(timeout, "it was cancelled")):
            self.cancel(ticket)


def _cancel(ticket: CoroutineTicket) -> None:
    ticket.cancelled = True
    if ticket.task is not None:
        ticket.task.cancel()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    mark_thread_as_inside()
    try:
        _run_until_stopped(loop)
        _clear(loop)
    finally:
        loop.close()


def _clear(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what the user's coroutines left on a loop that has stopped."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except (KeyboardInterrupt, SystemExit):
            continue  # of a task that a coroutine of the user's started: asyncio lets it pass
        return


async def _run(ticket: CoroutineTicket, batch: Batch) -> None:
    try:
        report = await execute_coroutine(batch)
    except asyncio.CancelledError as error:
        text = "the coroutine cancelled itself"
        ticket.fail(Cancelled("the run ended") if ticket.cancelled else tame(error, text))
    except BaseException as error:  # noqa: BLE001 - handed to who asked
        ticket.fail(error)
    else:
        ticket.succeed(report)


async def execute_coroutine(batch: Batch) -> Report:
    """Make the one call of a batch, and await what it gives; a plain value is taken as it is."""
    index, number, *_ = batch.calls[0]
    report = Report({}, {}, {}, [], time.perf_counter(), [], {}, worker_name())
    values = Values(batch.inputs)
    listening = None
    if batch.capture is not None:
        from flowpar.pools.capturing import Listening  # noqa: PLC0415 - as in `execute`

        listening = Listening(batch.capture, report)
        listening.begin()
    this_turn = Turn(batch, report)
    turn.set(this_turn)  # in the context of this coroutine alone
    try:
        taken, named = _taken(batch.calls[0], values)
        value = batch.functions[number](*taken, **named)
        if inspect.isawaitable(value) and not isinstance(value, Task):
            value = await value
    except asyncio.CancelledError:
        raise
    except NotComputed:
        report.unstarted.append(index)
        report.damaged += values.damaged
        return report
    except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
        report.failed[index] = Failure(tame(error))
    else:
        _take(value, index, batch, report)
    finally:
        this_turn.end()
        if listening is not None:
            listening.end(index)
            listening.close()
    report.ends.append(time.perf_counter())
    return report


def _take(value: object, index: int, batch: Batch, report: Report) -> None:
    if holds_task(value):
        report.expanded[index] = value
        return
    report.values[index] = value
    if batch.keeper is not None and index in batch.keeper.digests:
        seconds = time.perf_counter() - report.start
        report.kept[index] = kept = batch.keeper.keep(index, value, seconds)
        if index in batch.lent:
            report.values[index] = sealed_by(kept) or value


def _taken(call: Call, values: Mapping[int, object]) -> tuple[list[Any], dict[str, Any]]:
    _, _, kind, args, kwargs = call
    if kind == ALL_REFS:
        return [values[ref] for ref in args], {}
    if kind == LITERAL:
        return list(args), dict(kwargs or {})
    taken, named = fill(args, kwargs, values)
    return taken, named or {}


class Awaited:
    """A coroutine function as an ordinary one: a call runs an event loop until it is done."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the coroutine returns."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return _run_alone(self.function(*args, **kwargs))
        # A loop runs in this thread, as in a notebook: it cannot run another one inside.
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(lambda: _run_alone(self.function(*args, **kwargs))).result()

    def __reduce__(self) -> tuple[object, ...]:
        return Awaited, (self.function,)


class SharedLoop:
    """An event loop in a daemon thread on which threads have coroutines run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(
            target=_run_loop, args=(self._loop,), name="event loop", daemon=True
        ).start()

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return what a coroutine function returns."""

        async def call() -> Any:
            return await function(*args, **kwargs)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def close(self) -> None:
        """Cancel what runs, and end the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)


def _run_alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop of its own.

    Not by ``asyncio.run``, which takes Ctrl-C for itself, and now and then keeps it.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        _clear(loop)
        loop.close()
