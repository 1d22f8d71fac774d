"""Pools that are not ours: anything like ``multiprocessing.Pool``, and any ``Executor``.

They get a `Batch` and give a `Report` like our own. Both pickle themselves where a pool pickles,
so lambdas work there too. What such a pool cannot do, flowpar cannot add: a call that runs too long
is reported and forgotten, not stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from flowpar.errors import Cancelled
from flowpar.pools.base import Callback, Watchdog
from flowpar.pools.resources import cpu_count
from flowpar.pools.transport import Batch
from flowpar.pools.worker import timed_out


class _Ticket:
    """Lets one of several ends of a call be told: the first."""

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._once = threading.Lock()
        self.future: Future[Any] | None = None

    def succeed(self, result: Any) -> None:
        self._tell(self._callback, result)

    def fail(self, error: BaseException) -> None:
        self._tell(self._error_callback, error)

    def _tell(self, callback: Callback | None, what: Any) -> None:
        if not self._once.acquire(blocking=False):
            return
        # A watchdog may hold this ticket for hours, and must not hold the batch with it.
        self._callback = self._error_callback = None
        if callback is not None:
            callback(what)


class ForeignPool:
    """Adapts a pool with ``apply_async``, or an executor with ``submit``.

    Parameters
    ----------
    pool
        The user's; it is never closed here.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._watchdog = Watchdog()
        self.name = type(pool).__name__
        known = [getattr(pool, name, None) for name in ("_processes", "_max_workers")]
        self.width = next((n for n in known if isinstance(n, int) and n > 0), None) or cpu_count()
        self.slots = 2 * self.width

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> _Ticket:
        """Hand the call to the pool and return its ticket."""
        ticket = _Ticket(callback, error_callback)
        if args and type(args[0]) is Batch and args[0].timeout is not None:
            error = timed_out(args[0].timeout, f"{self.name} cannot stop it")
            self._watchdog.call_later(args[0].timeout, lambda: ticket.fail(error))
        if hasattr(self._pool, "apply_async"):
            self._pool.apply_async(
                func, args, dict(kwds or {}), callback=ticket.succeed, error_callback=ticket.fail
            )
        else:
            ticket.future = self._pool.submit(func, *args, **(kwds or {}))
            ticket.future.add_done_callback(lambda future: _settle(ticket, future))
        return ticket

    def cancel(self, ticket: object) -> None:
        """Forget a call; one that an executor has not begun does not begin."""
        if isinstance(ticket, _Ticket):
            if ticket.future is not None:
                ticket.future.cancel()
            ticket.fail(Cancelled("the run ended"))

    def close(self) -> None:
        """Leave the pool to its owner."""
        self._watchdog.close()


def _settle(ticket: _Ticket, future: Future[Any]) -> None:
    if future.cancelled():
        ticket.fail(Cancelled("the executor cancelled it"))
        return
    error = future.exception()
    if error is None:
        ticket.succeed(future.result())
    else:
        ticket.fail(error)
