"""One thread that hands the calls of many sources to a pool, and hears how they ended.

::

    Source.take ──> Chunk ──> pool.apply_async(execute, (Batch,)) ──> worker
                      ^                                                 │
    Sink.put  <── outcomes <── inbox <── callback(report), error_callback(error)

What a worker did not begin, since it died or gave it back, is sent again; what did end is told to
the sink of its source, item by item.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import functools
import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from flowpar.compat.chunks import Chunk, Outcome, Source, check_owner
from flowpar.compat.functions import Functions
from flowpar.compat.lending import Lender
from flowpar.errors import (
    Cancelled,
    NotPicklable,
    PoolError,
    TaskError,
    WorkerDied,
    add_note,
)
from flowpar.notes import describe_call
from flowpar.pools.failures import text_of
from flowpar.pools.items import Items, arguments_of
from flowpar.pools.ticket import announce
from flowpar.pools.transport import SEALED, Batch, Report
from flowpar.pools.worker import execute

QUICK_SECONDS: Final = 0.002
"""Messages that take less wait behind one another at a worker, or it would wait for each."""

DEEP: Final = 16
"""How many then are at a worker."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A chunk on its way; its methods are the callbacks of the pool."""

    chunk: Chunk
    inbox: queue.SimpleQueue[tuple[_Flight | None, Any]]
    ticket: Any = None
    lent: object = None
    """What it takes that lies in files; they go with it."""

    def succeed(self, report: Report) -> None:
        """Put the report where the dispatcher hears it."""
        self.inbox.put((self, report))

    def fail(self, error: BaseException) -> None:
        """Put the error where the dispatcher hears it."""
        self.inbox.put((self, error))


class Dispatcher:
    """Feeds a pool.

    Parameters
    ----------
    pool
        One of flowpar's own.
    name
        Of the thread.
    owns_pool
        Whether the pool is closed when the dispatcher ends; else others use it, too.

    Attributes
    ----------
    functions
        What its calls are of.
    """

    def __init__(self, pool: Any, name: str, *, owns_pool: bool = True) -> None:
        self.pool = pool
        self._owns_pool = owns_pool
        self._name = name
        self._owner = os.getpid()
        self._inbox: queue.SimpleQueue[tuple[_Flight | None, Any]] = queue.SimpleQueue()
        self._sources: collections.deque[Source] = collections.deque()
        self._again: collections.deque[Chunk] = collections.deque()
        self._flights: dict[_Flight, None] = {}
        self.functions = Functions(pool)
        self._lender = Lender()
        self._is_quick = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = self._is_stopped = self._is_drained = False
        self.ended = threading.Event()

    # ------------------------------------------------------------------ from any thread

    def add(self, source: Source) -> None:
        """Take a source.

        Raises
        ------
        PoolError
            If it was closed.
        """
        check_owner(self._owner)
        with self._lock:
            if self._is_closed:
                raise PoolError("the pool is closed")
            self._sources.append(source)
        self.start()
        self.wake()

    def start(self) -> None:
        """Have its thread running."""
        with self._lock:
            if self._thread is None and not self._is_closed:
                # In no context of the caller's: it would hold for the calls of all others.
                empty = contextvars.Context()
                self._thread = threading.Thread(
                    target=empty.run, args=(self._run,), name=self._name, daemon=True
                )
                self._thread.start()

    def wake(self) -> None:
        """Have it look at its sources."""
        self._inbox.put((None, None))

    def do(self, call: Callable[[], object]) -> None:
        """Have something done in its thread; what it raises is reported."""
        self._inbox.put((None, call))

    def drop(self, source: Source) -> None:
        """Stop what runs of a source, which gives nothing more."""
        self.do(lambda: self._drop(source))

    def _drop(self, source: Source) -> None:
        for flight in list(self._flights):
            if flight.chunk.source is source and flight.ticket is not None:
                self.pool.cancel(flight.ticket)

    @property
    def is_this_thread(self) -> bool:
        """Whether its own thread asks, which can wait for nothing of it."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Take no more sources, and end when all that it has have ended."""
        with self._lock:
            self._is_closed = True
            if self._thread is None:
                self._finish()
        self.wake()

    def join(self) -> None:
        """Wait until it has ended; then nobody is waited for who might take values."""
        self._is_drained = True
        self.wake()
        if os.getpid() == self._owner and threading.current_thread() is not self._thread:
            self.ended.wait()

    def stop(self) -> None:
        """End now; what has not ended is told to be cancelled."""
        with self._lock:
            self._is_closed = self._is_stopped = True
            if self._thread is None:
                self._finish()
        self.wake()

    def _finish(self) -> None:
        if self._owns_pool:
            self.pool.close()
            self.functions.close()
        else:
            for flight in self._flights:
                if flight.ticket is not None:
                    self.pool.cancel(flight.ticket)
        self._flights.clear()
        self._lender.forget()
        self.ended.set()

    # ------------------------------------------------------------------ in its thread

    def _run(self) -> None:
        reason: BaseException = Cancelled("the pool was terminated before the call ended")
        try:
            while not self._is_stopped and self._has_more():
                self._hear()
        except BaseException as error:  # noqa: BLE001 - nobody may wait for ever for our fault
            reason = PoolError(f"the thread that feeds the pool failed: {error!r}", error=error)
            reason.__cause__ = error
        finally:
            self._cut_off(reason)
            self._finish()

    def _has_more(self) -> bool:
        """Send what can be sent; return whether there is anything to hear."""
        if self._is_drained:
            for source in list(self._sources):
                source.unbind()
        self._fill()
        if not self._flights:
            self._let_go()
        return not self._is_closed or bool(self._flights or self._sources or self._again)

    def _let_go(self) -> None:
        """Keep nothing of the user's while there is nothing to do, but for plain functions."""
        self._lender.forget()
        self.functions.let_go()

    def _fill(self) -> None:
        if not self._is_quick:
            self._fill_up()
        elif len(self._flights) <= self._room // 2:  # many at once cost less than one by one
            with self.pool.gathering():
                self._fill_up()

    def _fill_up(self) -> None:
        while len(self._flights) < self._room:
            chunk = self._again.popleft() if self._again else self._take()
            if chunk is None:
                return
            self._send(chunk)

    def _take(self) -> Chunk | None:
        """Return the next chunk of the first source that has one; sources take turns."""
        for _ in range(len(self._sources)):
            # It stays there meanwhile: should this fail, it is told.
            source = self._sources[0]
            chunk = source.take()
            self._sources.popleft()
            if not source.is_spent:
                self._sources.append(source)
            if chunk is not None:
                return chunk
        return None

    def _send(self, chunk: Chunk) -> None:
        flight = _Flight(chunk, self._inbox)
        self._flights[flight] = None  # first: should this fail, it is told
        batch = self._batch(chunk)
        flight.lent = batch.inputs
        try:
            flight.ticket = self.pool.apply_async(
                execute, (batch,), callback=flight.succeed, error_callback=flight.fail
            )
        except BaseException as error:  # noqa: BLE001 - refused; or what pickling runs is the user's
            flight.fail(error if isinstance(error, Exception) else _refusal(error))

    def _batch(self, chunk: Chunk) -> Batch:
        """Return what is sent of a chunk."""
        number, call = chunk.function.number, self.functions.as_sent(chunk.function)
        calls: Any = Items(number, chunk.form, chunk.items)
        inputs: dict[int, object] = {}
        if self.pool.name == "processes":
            calls, inputs = self._lender.lend(calls, chunk.moment) or (calls, inputs)
        wanted = range(len(chunk.items))
        batch = Batch(calls, {number: call}, inputs, wanted, timeout=chunk.timeout)
        if self._is_quick:
            batch.room = DEEP
        return batch

    @property
    def _room(self) -> int:
        """How many messages may be on their way."""
        slots: int = self.pool.slots
        return self.pool.width * DEEP if self._is_quick else slots

    def _hear(self) -> None:
        """Wait until something has come, and take in all that has."""
        flight, outcome = self._inbox.get()
        with contextlib.suppress(queue.Empty):
            while not self._is_stopped:
                if flight is not None:
                    self._take_in(flight, outcome)
                elif outcome is not None:
                    _guarded(outcome)
                flight, outcome = self._inbox.get_nowait()

    def _take_in(self, flight: _Flight, outcome: Report | BaseException) -> None:
        if isinstance(outcome, Report):
            self._take_report(flight.chunk, outcome)
        else:
            self._take_error(flight.chunk, outcome)
        # Not before: if the thread fails meanwhile, it is cut off with the others.
        self._flights.pop(flight, None)
        flight.ticket = None  # whose callbacks are the flight's own

    def _take_report(self, chunk: Chunk, report: Report) -> None:
        made = len(report.row or report.values) + len(report.failed)
        if made and report.ends:
            taken = report.ends[-1] - report.start
            # On threads a message costs less than what it brings to have several wait.
            self._is_quick = self.pool.name == "processes" and taken < QUICK_SECONDS
            chunk.source.pace(taken / made, self._room)
        row = report.row
        if row is not None:
            _guarded(lambda: chunk.sink.put_values(chunk.first, row))
            return
        values, failed = report.values, report.failed
        values.update(report.expanded)
        for at in range(len(chunk.items)):
            if at in failed:
                error = failed[at].error
                self._explain(error, chunk, at, report.worker, report.shown.get(at))
                self._tell(chunk, at, Outcome(error=error))
            elif at in values:
                self._tell(chunk, at, self._loaded(values.pop(at), chunk, at, report.worker))
        self._send_again(chunk, report.unstarted)

    def _loaded(self, value: Any, chunk: Chunk, at: int, worker: str) -> Outcome:
        if type(value) not in SEALED:
            return Outcome(value)
        try:
            return Outcome(value.load())
        except BaseException as raised:  # noqa: BLE001 - loading runs the user's code
            error = TaskError(
                "the result arrived, and cannot be loaded: "
                f"{type(raised).__name__}: {text_of(raised)}"
            )
            error.__cause__ = raised
            self._explain(error, chunk, at, worker)
            return Outcome(error=error)

    def _take_error(self, chunk: Chunk, error: BaseException) -> None:
        """Decide which item of a chunk is to blame for an error of the pool."""
        everybody = range(len(chunk.items))
        suspects: Collection[int] = everybody
        if isinstance(error, WorkerDied) and error.position is not None:
            suspects = range(error.position, error.position + error.span)
        if len(suspects) > 1 and not isinstance(error, (NotPicklable, WorkerDied)):
            for at in everybody:  # the pool is at its end, and no call is to blame
                self._tell(chunk, at, Outcome(error=error))
            return
        if len(suspects) > 1:
            # One of them kills, cannot be sent, or not be loaded: alone, each answers for itself.
            for at in suspects:
                self._send_again(chunk, [at])
        else:
            (guilty,) = suspects
            if not isinstance(error, PoolError):  # which all calls share, and none is to blame for
                where = f"process {error.pid}" if isinstance(error, WorkerDied) else "?"
                self._explain(error, chunk, guilty, where)
            self._tell(chunk, guilty, Outcome(error=error))
        self._send_again(chunk, [at for at in everybody if at not in suspects])

    def _send_again(self, chunk: Chunk, positions: Sequence[int]) -> None:
        """Send some items of a chunk again, as chunks of those that follow one another."""
        for first, last in _stretches(positions):
            number = chunk.first + first
            self._again.append(replace(chunk, items=chunk.items[first:last], first=number))

    @staticmethod
    def _tell(chunk: Chunk, at: int, outcome: Outcome) -> None:
        _guarded(lambda: chunk.sink.put(chunk.first + at, [outcome]))

    def _explain(
        self, error: BaseException, chunk: Chunk, at: int, worker: str, call: str | None = None
    ) -> None:
        if call is None:
            args, kwargs = arguments_of(chunk.form, chunk.items[at])
            call = describe_call(chunk.function.name, args, kwargs)
        add_note(error, f"flowpar: {call}, in {self.pool.name} ({worker})")

    def _cut_off(self, reason: BaseException) -> None:
        """Tell all that has not ended that it will not."""
        with self._lock:
            self._is_closed = True
            sources, self._sources = self._sources, collections.deque()
        chunks = [flight.chunk for flight in self._flights] + list(self._again)
        for source in sources:
            _guarded(functools.partial(source.cut, reason))
        for chunk in chunks:
            outcomes = [Outcome(error=reason)] * len(chunk.items)
            _guarded(functools.partial(chunk.sink.put, chunk.first, outcomes))
        self._again.clear()


def _refusal(error: BaseException) -> NotPicklable:
    """Return what stands for an error of pickling that would end this thread, and not a call."""
    refusal = NotPicklable(
        f"the pickling of an argument raised {type(error).__name__}: {text_of(error)}"
    )
    refusal.__cause__ = error
    return refusal


def _guarded(call: Callable[[], object]) -> None:
    """Do what may run the user's code: what it raises is told, and harms nobody."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
        _announce_raised(error)


def _stretches(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the begin and the end of each stretch of numbers that follow one another.

    Examples
    --------
    >>> list(_stretches([0, 1, 2, 5]))
    [(0, 3), (5, 6)]
    """
    begin = end = None
    for at in sorted(positions):
        if begin is None or end is None:
            begin, end = at, at + 1
        elif at == end:
            end += 1
        else:
            yield begin, end
            begin, end = at, at + 1
    if begin is not None and end is not None:
        yield begin, end


def report_callback(callback: Any, argument: object) -> None:
    """Call what the user gave to be called; what it raises is told, and harms nobody."""
    if callback is not None:
        _guarded(lambda: callback(argument))


def _announce_raised(error: BaseException) -> None:
    import traceback  # noqa: PLC0415 - slow to import, and rare

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    announce(f"a callback of a pool raised; the pool goes on:\n{text}")
