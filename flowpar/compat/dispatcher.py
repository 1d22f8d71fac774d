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
import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from flowpar.compat.lending import Lender
from flowpar.errors import Cancelled, NotPicklable, PoolError, TaskError, WorkerDied, add_note
from flowpar.notes import describe_call
from flowpar.pools.failures import text_of
from flowpar.pools.items import Items, arguments_of
from flowpar.pools.ticket import announce
from flowpar.pools.transport import SEALED, Batch, Report, prepare_module
from flowpar.pools.worker import execute
from flowpar.task import Function

BATCH_SECONDS: Final = 0.004
"""How long the calls of a message take, where they are shorter than that."""

MOST_KNOWN: Final = 256
"""Functions that are remembered as the same one, and how long they take."""


class Sink(Protocol):
    """Hears how items ended, each once, in the dispatcher's thread; it may not raise."""

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of some items that follow one another."""

    def put_values(self, first: int, values: list[Any]) -> None:
        """Do the same for items that all have ended with a value."""


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Outcome:
    """How one item ended."""

    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Chunk:
    """Items of one function that travel together.

    Attributes
    ----------
    function
        What is called.
    items
        With what.
    form
        `ONE`, `SEVERAL` or `FULL`: what an item is.
    first
        The number of the first item, as the sink counts them.
    sink
        Who hears.
    source
        Where they came from.
    timeout
        Seconds that the call, then the only one, may take.
    """

    function: Function
    items: Sequence[Any]
    form: int
    first: int
    sink: Sink
    source: Source
    timeout: float | None = None


class Source(Protocol):
    """Where chunks come from.

    Attributes
    ----------
    function
        What is called.
    """

    function: Function

    @property
    def is_spent(self) -> bool:
        """Whether there will be no more."""

    @property
    def waiting(self) -> int:
        """How many items there are now."""

    def take(self, most: int) -> Chunk | None:
        """Return the next items, so many at most or as many as belong together; or None now."""

    def cut(self, reason: BaseException) -> None:
        """Tell its sinks that the rest will not be called."""

    def pace(self, seconds: float, slots: int) -> None:
        """Know how long a call takes, and how many messages are on their way at once."""

    def unbind(self) -> None:
        """Wait no more for those who take values: somebody waits for the end."""


@dataclass(slots=True, eq=False)
class _Flight:
    """Chunks on their way in one message; its methods are the callbacks of the pool."""

    chunks: list[Chunk]
    inbox: queue.SimpleQueue[tuple[_Flight | None, Any]]
    lent: object
    """What it takes that lies in files; they go with it."""
    ticket: Any = None

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
    reason
        What calls end with that are cut off.
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
        self._functions: dict[int, Function] = {}
        self._lender = Lender()
        self._seconds: dict[int, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = self._is_stopped = self._is_drained = False
        self.ended = threading.Event()

    # ------------------------------------------------------------------ from any thread

    def function(self, call: Callable[..., Any]) -> Function:
        """Return a function by which like calls are known; what it captures is looked at anew."""
        known = self._functions.get(id(call))
        if known is None or known.call is not call:
            if len(self._functions) >= MOST_KNOWN:
                self._functions.clear()
            known = self._functions[id(call)] = Function(call)
        elif self.pool.name == "processes":
            self.pool.renew_functions(known.number)
        return known

    def add(self, source: Source) -> None:
        """Take a source.

        Raises
        ------
        PoolError
            If it was closed.
        """
        if os.getpid() != self._owner:
            raise PoolError(
                "this pool belongs to the process that this one was forked from; make one here"
            )
        with self._lock:
            if self._is_closed:
                raise PoolError("the pool is closed")
            self._sources.append(source)
            if self._thread is None:
                context = contextvars.copy_context()
                self._thread = threading.Thread(
                    target=context.run, args=(self._run,), name=self._name, daemon=True
                )
                self._thread.start()
        self.wake()

    def wake(self) -> None:
        """Have it look at its sources."""
        self._inbox.put((None, None))

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
            self._lender.forget()
        return not self._is_closed or bool(self._flights or self._sources or self._again)

    def _fill(self) -> None:
        while len(self._flights) < self.pool.slots:
            if self._again:
                self._send([self._again.popleft()])
                continue
            chunks = self._take()
            if not chunks:
                return
            self._send(chunks)

    def _take(self) -> list[Chunk]:
        """Return what goes into the next message: of one function, and as much as pays."""
        for _ in range(len(self._sources)):
            source = self._sources.popleft()
            most = self._most(source)
            chunk = source.take(most)
            if not source.is_spent:
                self._sources.append(source)
            if chunk is None:
                continue
            chunks = [chunk]
            if chunk.timeout is None:
                self._add_like(chunks, most - len(chunk.items))
            return chunks
        return []

    def _most(self, source: Source) -> int:
        """Return how many calls of a source's function are worth a message."""
        seconds = self._seconds.get(source.function.number)
        if seconds is None:
            return 1
        # Towards the end the messages become smaller, so that no worker has much when others wait.
        share: int = (source.waiting + len(self._sources)) // (2 * self.pool.slots)
        return max(1, min(int(BATCH_SECONDS / max(seconds, 1e-7)), share))

    def _add_like(self, chunks: list[Chunk], room: int) -> None:
        """Add calls of the same function that other sources have."""
        while room > 0 and self._sources:
            source = self._sources[0]
            if source.function is not chunks[0].function:
                return
            chunk = source.take(room)
            if chunk is None or not source.is_spent or chunk.form != chunks[0].form:
                if chunk is not None:
                    self._again.append(chunk)
                return
            self._sources.popleft()
            chunks.append(chunk)
            room -= len(chunk.items)

    def _send(self, chunks: list[Chunk]) -> None:
        function, form = chunks[0].function, chunks[0].form
        call = function.call
        if self.pool.name == "processes":
            prepare_module(getattr(call, "__module__", None) or "__main__")
            call = function.as_sent()
        values = chunks[0].items
        if len(chunks) > 1:
            values = [item for chunk in chunks for item in chunk.items]
        calls: Any = Items(function.number, form, values)
        wanted: Any = range(len(values))
        inputs: dict[int, object] = {}
        if self.pool.name == "processes" and (lent := self._lender.lend(calls)) is not None:
            calls, inputs = lent
            wanted = frozenset(wanted)
        batch = Batch(calls, {function.number: call}, inputs, wanted, timeout=chunks[0].timeout)
        flight = _Flight(chunks, self._inbox, inputs)
        self._flights[flight] = None
        try:
            flight.ticket = self.pool.apply_async(
                execute, (batch,), callback=flight.succeed, error_callback=flight.fail
            )
        except Exception as error:  # noqa: BLE001 - the pool is closed, or the system refuses
            flight.fail(error)

    def _hear(self) -> None:
        """Wait until something has come, and take in all that has."""
        flight, outcome = self._inbox.get()
        with contextlib.suppress(queue.Empty):
            while not self._is_stopped:
                if flight is not None:
                    self._take_in(flight, outcome)
                flight, outcome = self._inbox.get_nowait()

    def _take_in(self, flight: _Flight, outcome: Report | BaseException) -> None:
        del self._flights[flight]
        if isinstance(outcome, Report):
            self._take_report(flight.chunks, outcome)
        else:
            self._take_error(flight.chunks, outcome)

    def _take_report(self, chunks: list[Chunk], report: Report) -> None:
        self._note_pace(chunks[0], report)
        first = 0
        for chunk in chunks:
            self._take_part(chunk, report, first)
            first += len(chunk.items)

    def _note_pace(self, chunk: Chunk, report: Report) -> None:
        made = len(report.row or report.values) + len(report.failed)
        if not made:
            return
        seconds = (report.ends[-1] - report.start) / made
        if len(self._seconds) > MOST_KNOWN:
            self._seconds.clear()
        self._seconds[chunk.function.number] = seconds
        chunk.source.pace(seconds, self.pool.slots)

    def _take_part(self, chunk: Chunk, report: Report, first: int) -> None:
        """Tell how the items of a chunk ended, the first of which has this index in the report."""
        if report.row is not None:
            chunk.sink.put_values(chunk.first, report.row[first : first + len(chunk.items)])
            return
        numbers = range(first, first + len(chunk.items))
        values, failed = report.values, report.failed
        for at, number in enumerate(numbers):
            if number in failed:
                error = failed[number].error
                self._explain(error, chunk, at, report.worker)
                self._tell(chunk, at, Outcome(error=error))
            elif number in values:
                self._tell(chunk, at, self._loaded(values.pop(number), chunk, at, report.worker))
        unstarted = set(report.unstarted)
        self._send_again(chunk, [at for at, number in enumerate(numbers) if number in unstarted])

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

    def _take_error(self, chunks: list[Chunk], error: BaseException) -> None:
        """Decide which item of a message is to blame for an error of the pool."""
        items = [(chunk, at) for chunk in chunks for at in range(len(chunk.items))]
        guilty = 0
        if isinstance(error, WorkerDied) and error.position is not None:
            guilty = error.position
            if error.span > 1:
                self._part(chunks, items, range(guilty, guilty + error.span))
                return
        elif len(items) > 1:
            for chunk, at in items:
                if isinstance(error, (NotPicklable, WorkerDied)):
                    # One cannot be sent, or not be loaded: alone, each answers for itself.
                    self._send_again(chunk, [at])
                else:  # the pool is at its end
                    self._tell(chunk, at, Outcome(error=error))
            return
        where = f"process {error.pid}" if isinstance(error, WorkerDied) else "?"
        chunk, at = items.pop(guilty)
        self._explain(error, chunk, at, where)
        self._tell(chunk, at, Outcome(error=error))
        for chunk in chunks:
            self._send_again(chunk, [at for other, at in items if other is chunk])

    def _part(
        self, chunks: list[Chunk], items: list[tuple[Chunk, int]], suspects: Collection[int]
    ) -> None:
        """Send some items of a message each alone, so that they answer for themselves."""
        for number in suspects:
            chunk, at = items[number]
            self._send_again(chunk, [at])
        innocent = [item for number, item in enumerate(items) if number not in suspects]
        for chunk in chunks:
            self._send_again(chunk, [at for other, at in innocent if other is chunk])

    def _send_again(self, chunk: Chunk, positions: Sequence[int]) -> None:
        """Send some items of a chunk again, as chunks of those that follow one another."""
        for first, last in _stretches(positions):
            number = chunk.first + first
            self._again.append(replace(chunk, items=chunk.items[first:last], first=number))

    @staticmethod
    def _tell(chunk: Chunk, at: int, outcome: Outcome) -> None:
        chunk.sink.put(chunk.first + at, [outcome])

    def _explain(self, error: BaseException, chunk: Chunk, at: int, worker: str) -> None:
        args, kwargs = arguments_of(chunk.form, chunk.items[at])
        call = describe_call(chunk.function.name, args, kwargs)
        add_note(error, f"flowpar: {call}, in {self.pool.name} ({worker})")

    def _cut_off(self, reason: BaseException) -> None:
        """Tell all that has not ended that it will not."""
        with self._lock:
            self._is_closed = True
            sources, self._sources = self._sources, collections.deque()
        chunks = [chunk for flight in self._flights for chunk in flight.chunks]
        chunks += self._again
        for source in sources:
            source.cut(reason)
        for chunk in chunks:
            chunk.sink.put(chunk.first, [Outcome(error=reason)] * len(chunk.items))
        self._again.clear()


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
    if callback is None:
        return
    try:
        callback(argument)
    except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
        import traceback  # noqa: PLC0415 - slow to import, and rare

        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        announce(f"a callback of a pool raised; the pool goes on:\n{text}")
