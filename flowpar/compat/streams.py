"""`imap`, `imap_unordered` and `stream`: inputs of any length through workers, in constant memory.

Each stage has a thread that reads what the stage before gives, no further ahead than its window::

    source ──reads──> workers ──> Shelf ──reads──> workers ──> Shelf ──> who takes the values
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from flowpar.compat.chunks import Broken, Chunk, Outcome
from flowpar.compat.dispatcher import Dispatcher
from flowpar.compat.functions import undelayed
from flowpar.compat.inputs import Inputs
from flowpar.compat.results import for_loops
from flowpar.compat.shelves import make_shelf
from flowpar.errors import NotPicklable, OptionError, PoolError
from flowpar.policy import check_bool, check_choice, check_count, check_number
from flowpar.pools import shared, worker
from flowpar.pools.items import ONE
from flowpar.pools.resources import cpu_count
from flowpar.pools.threads import ThreadPool
from flowpar.task import gives_coroutine

POOLS: Final = ("threads", "processes")
ERRORS: Final = ("raise", "skip", "return")

MORE_THREADS: Final = 4
"""Threads of a stage beyond the number of CPUs: most of what they do is wait."""

COROUTINES: Final = 100
"""Coroutines of a stage at the same time, where nobody says."""


def imap(
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    *,
    window: int | None = None,
    pool: str = "processes",
    workers: int | None = None,
    timeout: float | None = None,
    chunksize: int = 1,
    progress: bool = False,
) -> Iterator[Any]:
    """Call a function with each item, in workers, and give the values one after another.

    Parameters
    ----------
    func
        Takes one argument.
    iterable
        The items, any number of them: they are read as values are taken.
    window
        How many may have been read whose values were not taken; None: as many as keep the workers
        busy, which is more the quicker the calls are.
    pool
        "processes" or "threads". Coroutine functions are awaited: in place of threads, on one
        event loop; in each process, one at a time.
    workers
        How many; None: as many as CPUs may be used, and a few more threads, or 100 coroutines.
    timeout
        Seconds that a call may take; each then travels alone.
    chunksize
        How many travel together: more where they are quick. Coroutines travel alone.
    progress
        Whether a bar shows how many values were taken.

    Returns
    -------
    Iterator
        In the order of the items. An item that failed raises its error in its place, and the next
        call of `next` goes on.

    Examples
    --------
    >>> import flowpar, itertools
    >>> squares = flowpar.imap(lambda n: n * n, itertools.count(), pool="threads")
    >>> list(itertools.islice(squares, 4))
    [0, 1, 4, 9]
    """
    made = stream(iterable, progress=progress)
    stage = made.map(
        func, pool=pool, workers=workers, window=window, timeout=timeout, chunksize=chunksize
    )
    return iter(stage)


def imap_unordered(
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    *,
    window: int | None = None,
    pool: str = "processes",
    workers: int | None = None,
    timeout: float | None = None,
    chunksize: int = 1,
    progress: bool = False,
) -> Iterator[Any]:
    """Do as `imap`, and give the values as they come.

    Parameters
    ----------
    func, iterable, window, pool, workers, timeout, chunksize, progress
        As for `imap`.

    Examples
    --------
    >>> import flowpar
    >>> sorted(flowpar.imap_unordered(abs, [-1, 2, -3], pool="threads"))
    [1, 2, 3]
    """
    made = stream(iterable, progress=progress)
    stage = made.map(
        func,
        pool=pool,
        workers=workers,
        window=window,
        timeout=timeout,
        chunksize=chunksize,
        ordered=False,
    )
    return iter(stage)


def stream(source: Iterable[Any], *, errors: str = "raise", progress: bool = False) -> Stream:
    """Return a stream of items, which stages are added to and which is then gone through.

    Parameters
    ----------
    source
        The items, any number of them.
    errors
        What becomes of items that fail: "raise" their error in their place (the next call of
        `next` goes on); "skip" them; "return" the error in place of the value. What no item is
        to blame for is raised in any case, such as what the source raises, which comes last.
    progress
        Whether a bar shows how many values were taken.

    Examples
    --------
    >>> import flowpar
    >>> pairs = flowpar.stream("12x4", errors="skip").map(int).batch(2).map(sum)
    >>> list(pairs)
    [3, 4]
    """
    return Stream(
        source, (), check_choice("errors", errors, ERRORS), check_bool("progress", progress)
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """Calls that are made of each item."""

    func: Callable[[Any], Any]
    pool: str
    workers: int | None
    window: int | None
    timeout: float | None
    chunksize: int
    is_ordered: bool


@dataclass(frozen=True, slots=True)
class Batching:
    """Items that are put together."""

    size: int


@dataclass(frozen=True)
class Stream:
    """Items, and what is done to them on the way; made by `stream`.

    Nothing runs before it is gone through, and no more than the windows of its stages allow.
    """

    source: Iterable[Any]
    stages: tuple[Stage | Batching, ...]
    errors: str
    progress: bool

    def map(
        self,
        func: Callable[[Any], Any],
        *,
        pool: str = "threads",
        workers: int | None = None,
        window: int | None = None,
        timeout: float | None = None,
        chunksize: int = 1,
        ordered: bool = True,
    ) -> Stream:
        """Return the stream of what a function makes of each item.

        Parameters
        ----------
        func
            Takes one argument.
        pool
            "threads", for what waits; "processes", for what computes. Coroutine functions are
            awaited, as by `imap`.
        workers, window, timeout, chunksize
            As for `imap`.
        ordered
            Whether the values keep the order of the items; else they go on as they come.
        """
        if not callable(func):
            raise TypeError(f"a stage calls a function, and not {func!r}")
        check_choice("pool", pool, POOLS)
        check_count("chunksize", chunksize, least=1)
        if gives_coroutine(undelayed(func)) and pool == "threads":
            pool = "async"
            if chunksize > 1:
                raise OptionError("chunksize= is for calls that are made one after another")
        stage = Stage(
            func,
            pool,
            None if workers is None else check_count("workers", workers, least=1),
            None if window is None else check_count("window", window, least=1),
            None if timeout is None else check_number("timeout", timeout),
            chunksize,
            check_bool("ordered", ordered),
        )
        return replace(self, stages=(*self.stages, stage))

    def batch(self, size: int) -> Stream:
        """Return the stream of lists of so many items; the last may be shorter."""
        return replace(self, stages=(*self.stages, Batching(check_count("size", size, least=1))))

    def run(self) -> int:
        """Go through all of it; return how many values there were.

        Raises
        ------
        Exception
            The first error of an item, under ``errors="raise"``.
        """
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Any]:
        return StreamIterator(self)


class StreamIterator(Iterator[Any]):
    """Goes through a stream once; leaving it early stops its stages.

    Parameters
    ----------
    given
        The stream.
    """

    def __init__(self, given: Stream) -> None:
        self._errors = given.errors
        self._lock = threading.Lock()
        """Of who takes the next value: what gives them serves one at a time."""
        self._running = _Running()
        # Before anything starts: an error in between stops what was started.
        self._stop = weakref.finalize(self, self._running.stop)
        self._outcomes = self._running.start(given)
        self._bar = _bar() if given.progress else None

    def __iter__(self) -> StreamIterator:
        return self

    def __next__(self) -> Any:
        while (outcome := self._next()) is not None:
            if self._bar is not None:
                self._bar.update()
            if outcome.error is None:
                return outcome.value
            if self._errors == "raise" or type(outcome) is Broken or _is_of_all(outcome.error):
                raise for_loops(outcome.error)
            if self._errors == "return":
                return outcome.error
        self.close()
        raise StopIteration

    def _next(self) -> Outcome | None:
        with self._lock:
            return next(self._outcomes, None)

    def close(self) -> None:
        """Stop all stages; may be called twice."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._stop()
        self._outcomes = iter(())


class _Running:
    """The stages of one stream that is gone through."""

    def __init__(self) -> None:
        self._stages: list[tuple[Dispatcher, Relay]] = []
        self._lock = threading.Lock()

    def start(self, given: Stream) -> Iterator[Outcome]:
        """Start all stages; return what the last of them gives."""
        outcomes = _outcomes_of(iter(given.source))
        for stage in given.stages:
            if isinstance(stage, Batching):
                outcomes = _batched(outcomes, stage.size)
            else:
                outcomes = self._start_stage(stage, outcomes)
        return outcomes

    def _start_stage(self, stage: Stage, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        if worker.IN_PROCESS and stage.pool == "processes":
            stage = replace(stage, pool="threads")  # a worker starts no workers of its own
        dispatcher = _dispatcher(stage)
        relay = Relay(stage, outcomes, dispatcher)
        self._stages.append((dispatcher, relay))
        dispatcher.add(relay)
        return _Taken(relay)

    def stop(self) -> None:
        """Stop all stages."""
        with self._lock:
            stages, self._stages = self._stages, []
        for dispatcher, relay in reversed(stages):
            relay.shelf.drop()
            relay.stop()
            dispatcher.stop()


class Relay(Inputs):
    """What a stage reads of the one before it: what has failed there passes by.

    Parameters
    ----------
    stage
        Which.
    outcomes
        Of the stage before.
    dispatcher
        Hands the calls to the workers.
    """

    def __init__(self, stage: Stage, outcomes: Iterator[Outcome], dispatcher: Dispatcher) -> None:
        self._passed = 0
        """How many have failed before; `_sent` counts the others."""
        super().__init__(
            dispatcher.functions.get(stage.func),
            outcomes,
            make_shelf(is_ordered=stage.is_ordered),
            dispatcher,
            window=stage.window,
            chunksize=stage.chunksize,
            timeout=stage.timeout,
        )

    def take(self) -> Chunk | None:
        """Return the next items that follow one another."""
        if not self._may_take():
            return None
        first, value = self._ready.popleft()
        items = [value]
        while len(items) < self._chunksize and self._ready:
            if self._ready[0][0] != first + len(items):
                break  # what lies between them has failed before
            items.append(self._ready.popleft()[1])
        self._sent += len(items)
        return Chunk(self.function, items, ONE, first, self.shelf, self, self._timeout)

    @property
    def _is_idle(self) -> bool:
        return self.shelf.ended == self._sent + self._passed

    def cut(self, reason: BaseException) -> None:
        """Tell that the rest will not be called."""
        self._end(Broken(error=reason))
        while self._ready:
            number, _ = self._ready.popleft()
            self.shelf.put(number, [Outcome(error=reason)])

    def _read_some(self, most: int) -> bool:
        for _ in range(most):
            outcome = next(self._iterator, None)
            if outcome is None or self._has_ended:
                return False
            if type(outcome) is Broken:
                raise outcome.error  # type: ignore[misc]  # it has one
            number = self._read
            self._read += 1
            if outcome.error is not None:
                self._passed += 1
                self.shelf.put(number, [outcome])
                continue
            self._ready.append((number, self._frozen(outcome.value)))
            self._tell()
        return True


def _is_of_all(error: BaseException) -> bool:
    """Return whether an error is not one of its item: none could have been called."""
    if isinstance(error, NotPicklable):
        return error.path.startswith("function")
    return isinstance(error, PoolError)


class _Taken(Iterator[Outcome]):
    """What a stage gives; for any number of threads."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def __next__(self) -> Outcome:
        outcome = self._relay.next()
        if outcome is None:
            raise StopIteration
        return outcome


def _outcomes_of(items: Iterator[Any]) -> Iterator[Outcome]:
    """Yield items, and at last the error with which they end."""
    try:
        for item in items:
            given = [Outcome(item)]  # nothing here may hold it while it is used
            del item
            yield given.pop()
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is for who takes the values
        yield Broken(error=error)


def _batched(outcomes: Iterator[Outcome], size: int) -> Iterator[Outcome]:
    """Yield lists of values; what has failed passes by at once."""
    batch: list[Any] = []
    broken: Outcome | None = None
    for outcome in outcomes:
        if type(outcome) is Broken:
            broken = outcome
        elif outcome.error is not None:
            yield outcome
        else:
            batch.append(outcome.value)
        if len(batch) == size:
            yield Outcome(batch)
            batch = []
    if batch:
        yield Outcome(batch)
    if broken is not None:
        yield broken


def _dispatcher(stage: Stage) -> Dispatcher:
    if stage.pool == "threads":
        threads = ThreadPool(stage.workers or cpu_count() + MORE_THREADS, label="stage thread")
        return Dispatcher(threads, "flowpar feeds a stage")
    if stage.pool == "async":
        from flowpar.pools.coroutines import CoroutinePool  # noqa: PLC0415 - brings asyncio

        return Dispatcher(CoroutinePool(stage.workers or COROUTINES), "flowpar feeds a stage")
    pool = shared.process_pool(stage.workers, "forkserver")
    return Dispatcher(pool, "flowpar feeds a stage", owns_pool=False)


def _bar() -> Any:
    from tqdm.auto import tqdm  # noqa: PLC0415 - slow to import, and most streams show nothing

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
        """A bar that starts no thread, which would make it unsafe to fork."""

        monitor_interval = 0

    return Bar(unit="item", desc="flowpar")
