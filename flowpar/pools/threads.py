"""Threads that take calls from one queue.

A thread cannot be stopped. A call that is cancelled, or whose time is over, is reported as such
and goes on in its thread; another thread takes that one's place, and it ends with the call.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flowpar.errors import Cancelled, PoolError
from flowpar.pools.base import Callback, Ticket, Watchdog
from flowpar.pools.failures import initializer_failed
from flowpar.pools.resources import cpu_count
from flowpar.pools.runqueue import account_for_this_thread
from flowpar.pools.transport import Batch
from flowpar.pools.worker import timed_out


class ThreadTicket(Ticket):
    """A call for a thread: what it is, and whether a thread has begun it."""

    __slots__ = ("begun", "run", "timeout")

    def __init__(
        self,
        run: Callable[[], Any],
        callback: Callback | None,
        error_callback: Callback | None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(callback, error_callback)
        self.run: Callable[[], Any] | None = run
        self.timeout = timeout
        self.begun = False

    def _tell(self, callback: Callback | None, what: Any) -> bool:
        self.run = None  # it holds the arguments
        return super()._tell(callback, what)


class ThreadPool:
    """A number of daemon threads.

    Parameters
    ----------
    workers
        How many; None: as many as CPUs may be used.
    label
        What each is called, with a number.
    initializer, initargs
        Called first in each thread. If it raises, every call from then on ends with `PoolError`.
    """

    name = "threads"

    def __init__(
        self,
        workers: int | None = None,
        *,
        label: str = "thread",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        self._label = label
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._broken: BaseException | None = None
        self.width = workers or cpu_count()
        # None waits behind another: after Ctrl-C a thread would begin it, before the thread that
        # was interrupted can call it off.
        self.slots = self.width
        self.closed = False
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[ThreadTicket | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        self._threads = 0
        self._numbers = itertools.count(1)
        self._watchdog = Watchdog()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> ThreadTicket:
        """Queue the call and return its ticket."""
        if self.closed or os.getpid() != self._pid:
            raise PoolError("this thread pool is closed, or belongs to another process")
        timeout = args[0].timeout if args and type(args[0]) is Batch else None
        # What the caller has set for its own thread holds for its calls: decimals, numpy.errstate.
        context = contextvars.copy_context()
        ticket = ThreadTicket(
            lambda: context.run(func, *args, **(kwds or {})), callback, error_callback, timeout
        )
        with self._lock:
            # Each call claims a thread that waits; if none is left, there is to be one more.
            needed = not self._free and self._threads < self.width
            self._threads += needed
            self._free -= bool(self._free)
            self._queue.put(ticket)
        if needed:
            self._start_thread()
        return ticket

    def cancel(self, ticket: object) -> None:
        """Forget a call; if it has begun, another thread takes the place of its own."""
        if isinstance(ticket, ThreadTicket) and ticket.fail(Cancelled("the run ended")):
            with self._lock:
                begun = ticket.begun
            if begun:
                self._start_thread()

    def close(self) -> None:
        """Let every thread end after the call that it is in."""
        self.closed = True
        self._watchdog.close()
        for _ in range(self._threads):
            self._queue.put(None)

    def _start_thread(self) -> None:
        name = f"{self._label} {next(self._numbers)}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _expire(self, ticket: ThreadTicket) -> None:
        error = timed_out(
            ticket.timeout or 0.0, "it goes on in its thread, which cannot be stopped"
        )
        if ticket.fail(error):
            self._start_thread()

    def _work(self) -> None:
        account_for_this_thread()
        self._initialize()
        while True:
            ticket = self._next()
            if ticket is None:
                return
            if self._begin(ticket) and not self._run(ticket):
                return  # another thread has this one's place
            ticket = None  # it holds what it was given until the next one comes

    def _next(self) -> ThreadTicket | None:
        with self._lock:
            try:
                return self._queue.get_nowait()
            except queue.Empty:
                self._free += 1
        return self._queue.get()

    def _begin(self, ticket: ThreadTicket) -> bool:
        """Return whether a call is still wanted; from then on, who ends it replaces its thread."""
        with self._lock:
            ticket.begun = not ticket.is_settled
        if ticket.begun and ticket.timeout is not None:
            self._watchdog.call_later(ticket.timeout, functools.partial(self._expire, ticket))
        return ticket.begun

    def _initialize(self) -> None:
        if self._initializer is None or self._broken is not None:
            return
        try:
            self._initializer(*self._initargs)
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            self._broken = error

    def _run(self, ticket: ThreadTicket) -> bool:
        run = ticket.run
        if run is None:
            return False
        if self._broken is not None:
            return ticket.fail(initializer_failed(self._broken))
        try:
            result = run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, this thread serves others
            return ticket.fail(error)
        return ticket.succeed(result)
