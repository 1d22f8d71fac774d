"""Pools that are not ours: anything like ``multiprocessing.Pool``, and any ``Executor``.

They get a `Batch` and give a `Report` like our own. Both pickle themselves where a pool pickles,
so lambdas work there too. What such a pool cannot do, flowpar cannot add: a call that runs too long
is reported and forgotten, not stopped.

A ``multiprocessing.Pool`` never reports a call whose process died. So each call leaves a note of
its process before it begins, and while calls are out, the notes are held against the living.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from flowpar.errors import Cancelled, PoolError, WorkerDied
from flowpar.pools.base import Callback, Ticket, Watchdog
from flowpar.pools.resources import cpu_count
from flowpar.pools.transport import Batch, Report
from flowpar.pools.worker import execute, settle, timed_out

LOOK_EVERY: Final = 0.2
"""Seconds between two looks at the processes of a pool. A call is given up at the second look that
finds its process gone: a result may be on its way at the first."""


class ForeignTicket(Ticket):
    """A call of somebody else's pool: its future, if it is an executor's, and its note."""

    __slots__ = ("future", "is_suspected", "note")

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        super().__init__(callback, error_callback)
        self.future: Future[Any] | None = None
        self.note: Path | None = None
        self.is_suspected = False


def execute_noted(batch: Batch, note: str) -> Report:
    """Write down which process this is, then make the calls of a batch."""
    Path(note).write_text(str(os.getpid()), encoding="ascii")
    report = execute(batch)
    settle()
    return report


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
        self._notes = _Notes(pool, self._watchdog) if _has_processes(pool) else None

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> ForeignTicket:
        """Hand the call to the pool and return its ticket."""
        ticket = ForeignTicket(callback, error_callback)
        if args and type(args[0]) is Batch and args[0].memory is not None:
            raise PoolError(
                f"memory= cannot be held in {self.name}, which flowpar does not watch over: take "
                'the policy away, or let the task be one of pool="processes"'
            )
        if args and type(args[0]) is Batch and args[0].timeout is not None:
            error = timed_out(args[0].timeout, f"{self.name} cannot stop it")
            self._watchdog.call_later(args[0].timeout, lambda: ticket.fail(error))
        if self._notes is not None and func is execute:
            func, args = execute_noted, (*args, self._notes.add(ticket))
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
        if isinstance(ticket, ForeignTicket):
            if ticket.future is not None:
                ticket.future.cancel()
            ticket.fail(Cancelled("the run ended"))

    def close(self) -> None:
        """Leave the pool to its owner."""
        self._watchdog.close()
        if self._notes is not None:
            self._notes.close()


def _has_processes(pool: Any) -> bool:
    processes = getattr(pool, "_pool", None)
    return isinstance(processes, list) and all(hasattr(p, "sentinel") for p in processes)


class _Notes:
    """Which process has which call of a pool, by files that the processes write.

    Parameters
    ----------
    pool
        Like a ``multiprocessing.Pool``, which keeps its processes in ``_pool``.
    watchdog
        Wakes us to look.
    """

    def __init__(self, pool: Any, watchdog: Watchdog) -> None:
        self._pool = pool
        self._watchdog = watchdog
        self._folder = Path(tempfile.mkdtemp(prefix="flowpar-notes-"))
        self._tickets: list[ForeignTicket] = []
        self._lock = threading.Lock()
        self._number = 0
        self.close = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def add(self, ticket: ForeignTicket) -> str:
        """Watch a call from now on; return where its process is to leave its note."""
        with self._lock:
            self._number += 1
            ticket.note = self._folder / str(self._number)
            first = not self._tickets
            self._tickets.append(ticket)
        if first:
            self._watchdog.call_later(LOOK_EVERY, self._look)
        return str(ticket.note)

    def _look(self) -> None:
        alive = {process.pid for process in self._pool._pool if process.exitcode is None}
        with self._lock:
            settled = [ticket for ticket in self._tickets if ticket.is_settled]
            self._tickets = [ticket for ticket in self._tickets if not ticket.is_settled]
            open_tickets = list(self._tickets)
        for ticket in settled:
            if ticket.note is not None:
                ticket.note.unlink(missing_ok=True)
        for ticket in open_tickets:
            self._judge(ticket, alive)
        if open_tickets:
            self._watchdog.call_later(LOOK_EVERY, self._look)

    def _judge(self, ticket: ForeignTicket, alive: set[int]) -> None:
        pid = _read(ticket.note)
        if pid is None or pid in alive:
            return
        if not ticket.is_suspected:
            ticket.is_suspected = True
            return
        ticket.fail(
            WorkerDied(
                f"process {pid} of the {type(self._pool).__name__} ended while it had this task; "
                "such a pool does not say how",
                pid=pid,
            )
        )


def _read(note: Path | None) -> int | None:
    if note is None or not note.exists():
        return None
    text = note.read_text(encoding="ascii")
    return int(text) if text.isdecimal() else None


def _settle(ticket: ForeignTicket, future: Future[Any]) -> None:
    if future.cancelled():
        ticket.fail(Cancelled("the executor cancelled it"))
        return
    error = future.exception()
    if error is None:
        ticket.succeed(future.result())
    else:
        ticket.fail(error)
