"""Which worker made which call when: plain data, for whatever shows it.

All times are seconds since the run began.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flowpar.graph import Graph
from flowpar.ledger import CLOCK_OFFSET, Ledger, cpu_seconds
from flowpar.planner import Plan
from flowpar.status import Status


class Span(NamedTuple):
    """One attempt to make a call."""

    start: float
    end: float
    task: int
    """Its index."""
    function: int
    """Place in `History.functions`."""
    status: str
    """Of the task; "repeated": another attempt followed; "running": the run ended before it."""
    cpu_seconds: float | None
    """CPU time of its thread; None: not known."""


class Trip(NamedTuple):
    """One batch on its way to a worker and back."""

    sent: float
    start: float
    """When the first of its calls was made."""
    end: float
    """When the last of them had ended."""
    heard: float


Interval = tuple[float, float]


@dataclass(slots=True)
class Row:
    """What one worker did."""

    pool: str
    worker: str
    """Which thread or process; "?" if nobody knows."""
    spans: list[Span] = field(default_factory=list)
    """By their starts."""
    trips: list[Trip] = field(default_factory=list)
    """By their starts."""
    busy: float | None = None
    """For how long it made calls, where not all of them are told of."""

    def busy_seconds(self) -> float:
        """Return for how long at least one call was being made."""
        if self.busy is not None:
            return self.busy
        # All that was heard of is in the trips, which are fewer; not all spans may be told of.
        told = [(span.start, span.end) for span in self.spans]
        told += [(trip.start, trip.end) for trip in self.trips]
        return sum(end - start for start, end in united(told))

    def waiting(self) -> list[Interval]:
        """Return when a batch was there and the worker was busy with another."""
        return united((trip.sent, free) for trip, free in self._arrivals())

    def moving(self) -> list[Interval]:
        """Return when a batch was on its way to the worker, or its report on the way back."""
        there = [(free, trip.start) for trip, free in self._arrivals()]
        return united([*there, *((trip.end, trip.heard) for trip in self.trips)])

    def _arrivals(self) -> Iterable[tuple[Trip, float]]:
        """Return each batch, and from when on the worker was free to begin it."""
        before = 0.0
        for trip in self.trips:
            yield trip, min(max(trip.sent, before), trip.start)
            before = max(before, trip.end)


@dataclass(slots=True)
class History:
    """A run, as far as it is a matter of time."""

    rows: list[Row]
    """By pool and worker."""
    functions: list[str]
    """In the order of the graph; also those that were never called."""
    began: float
    """When the run began, in seconds since the epoch."""
    seconds: float
    """How long it took; what is known of that, if it still runs."""
    headline: str
    """How it went, in a few words."""
    key: Callable[[int], str]
    """Names a task by its index."""

    @property
    def calls(self) -> int:
        """How many spans there are."""
        return sum(len(row.spans) for row in self.rows)

    def seconds_by_function(self) -> list[float]:
        """Return how long the calls of each function took together, by its place."""
        totals = [0.0] * len(self.functions)
        for row in self.rows:
            for span in row.spans:
                totals[span.function] += span.end - span.start
        return totals

    def idle_share(self) -> float | None:
        """Return for which share of the run a worker had nothing to do; None without workers."""
        if not self.rows or not self.seconds:
            return None
        busy = sum(row.busy_seconds() for row in self.rows)
        return max(0.0, 1 - busy / (len(self.rows) * self.seconds))


def history_of(
    graph: Graph,
    plan: Plan,
    ledger: Ledger,
    *,
    seconds: float,
    headline: str,
    only: Collection[int] | None = None,
) -> History:
    """Return who did what when in a run.

    Parameters
    ----------
    graph, plan, ledger
        Of the run.
    seconds
        How long it took; 0: it still runs.
    headline
        How it went, in a few words.
    only
        The indices of the tasks to tell of; None: of all. It then costs little in a large run.
    """
    ledger.settle(len(graph))
    numbers: dict[str, int] = {}
    function_of = [numbers.setdefault(t._function.name, len(numbers)) for t in graph.tasks]
    rows = [Row(pool, worker) for pool, worker in ledger.places]
    told = range(len(graph)) if only is None else only
    _add_spans(rows, plan, ledger, {task: function_of[task] for task in told})
    _add_trips(rows, ledger)
    last = max((row.spans[-1].end for row in rows if row.spans), default=0.0)
    return History(
        rows=sorted((row for row in rows if row.spans or row.trips), key=_rank),
        functions=list(numbers),
        began=ledger.begin + CLOCK_OFFSET,
        seconds=seconds or last,
        headline=headline,
        key=graph.key,
    )


def _add_spans(
    rows: list[Row],
    plan: Plan,
    ledger: Ledger,
    function_of: Mapping[int, int],
) -> None:
    begin, statuses = ledger.begin, plan.status
    names = [status.name.lower() for status in Status]

    def add(place: int, task: int, times: tuple[float, float, float], status: str) -> None:
        start, end, cpu = times
        known = cpu_seconds(cpu, end - start)
        span = Span(start - begin, end - begin, task, function_of[task], status, known)
        rows[place].spans.append(span)

    starts, ends, cpus, places = ledger.start, ledger.end, ledger.cpu, ledger.place
    for task in function_of:
        if places[task]:
            times = (starts[task], ends[task], cpus[task])
            add(places[task], task, times, names[statuses[task]])
    for task, start, end, cpu, place in ledger.earlier:
        if task in function_of:
            add(place, task, (start, end, cpu), "repeated")
    for first, place, sent, end in ledger.unheard:
        if first in function_of:
            add(place, first, (sent, end, 0.0), "running")
    for row in rows:
        row.spans.sort(key=_start_of)


def _add_trips(rows: list[Row], ledger: Ledger) -> None:
    begin = ledger.begin
    for place, *times in zip(ledger.batch_place, *ledger.batches, strict=True):
        rows[place].trips.append(Trip(*(moment - begin for moment in times)))
    for row in rows:
        row.trips.sort(key=_start_of)


def _start_of(each: Span | Trip) -> float:
    return each.start


def _rank(row: Row) -> tuple[object, ...]:
    """Sort ``thread 10`` behind ``thread 9``."""
    parts = re.split(r"(\d+)", row.worker)
    return (row.pool, *[(int(p), "") if p.isdecimal() else (-1, p) for p in parts])


def united(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the time that some intervals cover, as intervals that do not meet.

    Examples
    --------
    >>> united([(3, 4), (0, 1), (0.5, 2), (2, 2)])
    [(0, 2), (3, 4)]
    """
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def lanes_of(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """Return a lane for each interval, so that those of one lane do not overlap.

    Parameters
    ----------
    intervals
        By their starts.

    Returns
    -------
    list of int
        From 0; as few as can be.

    Examples
    --------
    >>> lanes_of([(0, 2), (1, 3), (2, 4)])
    [0, 1, 0]
    """
    lanes = []
    taken: list[tuple[float, int]] = []  # until when, and which
    free: list[int] = []
    for start, end in intervals:
        while taken and taken[0][0] <= start:
            heapq.heappush(free, heapq.heappop(taken)[1])
        lane = heapq.heappop(free) if free else len(taken)
        heapq.heappush(taken, (max(start, end), lane))
        lanes.append(lane)
    return lanes
