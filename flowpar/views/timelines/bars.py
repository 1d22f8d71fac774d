"""How the spans of a run become bars, and not more of them than can be seen.

Up to some thousands, each span has a bar of its own. Of more, those that would be thinner than a
column of the picture are added up: a bar then stands for the calls of one function that began in
one column, and its height is the share of time that they took.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from flowpar.views.timelines.spans import History, Interval, Row, Span, lanes_of

MOST_SINGLE: Final = 3_000
"""Up to so many spans are drawn one by one."""
MOST_FUNCTIONS: Final = 12
"""So many functions have a colour: those that took longest."""
MOST_LANES: Final = 16
"""A worker that makes more calls at once than this is drawn as one area: how many at which time."""
_FEWEST_COLUMNS: Final = 50
OTHERS: Final = -1
"""Stands for all functions without a colour."""
GAP: Final = 0.1
"""Which share of a lane is left empty, where there are several."""


class Bar(NamedTuple):
    """A rectangle in a row."""

    start: float
    end: float
    bottom: float
    """From 0, the lower edge of the row, to 1."""
    top: float
    function: int
    """Place in `History.functions`, or `OTHERS`."""
    calls: int
    """How many spans it stands for. 0: it goes on with those of bars before it."""
    seconds: float
    """How long they took together."""
    failed: int
    """How many of them are of tasks that failed."""
    span: Span | None
    """The one that it stands for, if that is one."""


class Strip(NamedTuple):
    """A part of the line under a row: what its worker waited for."""

    start: float
    end: float
    share: float
    """Of this time, which share it was so."""


@dataclass(slots=True)
class RowOfBars:
    """What to draw of one worker."""

    row: Row
    most_at_once: int
    """How many calls it made at the same time."""
    bars: list[Bar] = field(default_factory=list)
    added_up: list[Bar] = field(default_factory=list)
    """Of those bars that stand for several calls, each call by itself."""
    waiting: list[Strip] = field(default_factory=list)
    moving: list[Strip] = field(default_factory=list)

    @property
    def is_area(self) -> bool:
        """Whether the height of a bar says how many calls were made at once."""
        return self.most_at_once > MOST_LANES

    @property
    def height(self) -> float:
        """How high the row should be, if that of one lane is 1."""
        return 4.0 if self.is_area else max(1.0, 0.35 * self.most_at_once)


@dataclass(slots=True)
class Layout:
    """All that there is to draw."""

    rows: list[RowOfBars]
    seconds: float
    """From the left edge to the right one; never 0."""
    shown: list[int]
    """The functions that have a colour, in the order of the graph."""
    others: int
    """How many have none."""
    column: float
    """Seconds; what is shorter is added up. 0: every span has its bar."""


def lay_out(history: History, *, columns: int = 1_000, most: int = 20_000) -> Layout:
    """Return what to draw of a run.

    Parameters
    ----------
    history
        Of the run.
    columns
        How many can be told apart from left to right.
    most
        How many bars there may be; if there were more, there are fewer columns.
    """
    shown = _most_used(history)
    lanes = [lanes_of([(span.start, span.end) for span in row.spans]) for row in history.rows]
    ends = (span.end for row in history.rows for span in row.spans)
    seconds = max(history.seconds, max(ends, default=0.0)) or 1.0
    while True:
        column = seconds / columns if history.calls > MOST_SINGLE else 0.0
        rows = [
            _row(row, taken, (column, seconds / columns), shown)
            for row, taken in zip(history.rows, lanes, strict=True)
        ]
        count = sum(len(each.bars) for each in rows)
        if count <= most or columns == _FEWEST_COLUMNS:
            break
        columns = max(_FEWEST_COLUMNS, int(0.9 * columns * most / count))
    return Layout(rows, seconds, sorted(shown), len(history.functions) - len(shown), column)


def _row(
    row: Row, lanes: list[int], widths: tuple[float, float], shown: frozenset[int]
) -> RowOfBars:
    column, width = widths
    each = RowOfBars(row, max(lanes, default=0) + 1)
    if each.is_area:
        each.bars = list(_area(each, width, shown))
    else:
        each.bars = list(_in_lanes(each, lanes, column, shown))
    each.waiting = _strips(row.waiting(), column)
    each.moving = _strips(row.moving(), column)
    return each


def _most_used(history: History) -> frozenset[int]:
    seconds = history.seconds_by_function()
    called = {span.function for row in history.rows for span in row.spans}
    ranked = sorted(called, key=lambda number: -seconds[number])
    return frozenset(ranked[:MOST_FUNCTIONS])


# ------------------------------------------------------------------------------ one by one


def _in_lanes(
    each: RowOfBars, taken: Sequence[int], column: float, shown: frozenset[int]
) -> Iterator[Bar]:
    count = each.most_at_once
    lanes: list[list[Span]] = [[] for _ in range(count)]
    for span, lane in zip(each.row.spans, taken, strict=True):
        lanes[lane].append(span)
    gap = GAP if count > 1 else 0.0
    for number, spans in enumerate(lanes):
        # The first lane lies on top, where one begins to read.
        bottom = (count - 1 - number + gap / 2) / count
        where = (bottom, bottom + (1 - gap) / count)
        yield from _in_lane(each, spans, (column, shown), where)


def _in_lane(
    each: RowOfBars,
    spans: list[Span],
    look: tuple[float, frozenset[int]],
    where: tuple[float, float],
) -> Iterator[Bar]:
    """Return a bar for each span that is long enough, and those of the others by columns."""
    column, shown = look
    for key, group in itertools.groupby(spans, lambda span: _column_of(span, column)):
        if key is None:
            yield from (_single(span, shown, where) for span in group)
        else:
            together = list(group)
            bars = [_single(span, shown, where) for span in together]
            if len(bars) == 1:
                yield from bars
            else:
                each.added_up += bars
                yield from _stack(together, shown, where)


def _column_of(span: Interval | Span, column: float) -> int | None:
    """Return in which column a span begins that has to share it; None: it is long enough."""
    return None if span[1] - span[0] >= column else int(span[0] / column)


def _single(span: Span, shown: frozenset[int], where: tuple[float, float]) -> Bar:
    return Bar(
        span.start,
        span.end,
        *where,
        span.function if span.function in shown else OTHERS,
        1,
        span.end - span.start,
        span.status == "failed",
        span,
    )


def _stack(spans: list[Span], shown: frozenset[int], where: tuple[float, float]) -> Iterator[Bar]:
    """Return a bar for each function that some spans call, one upon the other.

    They reach from the first start to the last end, so what is beside them is never covered.
    """
    start, end = spans[0].start, spans[-1].end
    bottom, height = where[0], where[1] - where[0]
    for function, (seconds, calls, failed) in sorted(_sums(spans, shown).items()):
        top = bottom + height * seconds / (end - start) if end > start else where[1]
        yield Bar(start, end, bottom, min(top, where[1]), function, calls, seconds, failed, None)
        bottom = top


def _sums(spans: Iterable[Span], shown: frozenset[int]) -> dict[int, tuple[float, int, int]]:
    sums: dict[int, tuple[float, int, int]] = {}
    for span in spans:
        function = span.function if span.function in shown else OTHERS
        seconds, calls, failed = sums.get(function, (0.0, 0, 0))
        failed += span.status == "failed"
        sums[function] = (seconds + span.end - span.start, calls + 1, failed)
    return sums


def _strips(intervals: list[Interval], column: float) -> list[Strip]:
    strips = []
    for key, group in itertools.groupby(intervals, lambda each: _column_of(each, column)):
        if key is None:
            strips += [Strip(start, end, 1.0) for start, end in group]
        else:
            together = list(group)
            start, end = together[0][0], together[-1][1]
            strips.append(Strip(start, end, sum(e - s for s, e in together) / (end - start)))
    return strips


# ------------------------------------------------------------------------ many at the same time


class _Load:
    """What the calls of one function do to some columns."""

    def __init__(self, columns: int) -> None:
        self.seconds = [0.0] * columns
        self.steps = [0] * columns
        """How many more calls than in the column before fill a column from edge to edge."""
        self.calls = [0] * columns
        self.failed = [0] * columns

    def add(self, span: Span, width: float) -> None:
        first, last = int(span.start / width), int(span.end / width)
        self.calls[first] += 1
        self.failed[first] += span.status == "failed"
        if first == last:
            self.seconds[first] += span.end - span.start
            return
        self.seconds[first] += (first + 1) * width - span.start
        self.seconds[last] += span.end - last * width
        self.steps[first + 1] += 1
        self.steps[last] -= 1

    def sums(self, width: float) -> Iterator[tuple[float, int, int]]:
        """Return of each column: seconds, calls that began there, and those that failed."""
        full = itertools.accumulate(self.steps)
        columns = zip(self.seconds, full, self.calls, self.failed, strict=True)
        for seconds, number, calls, failed in columns:
            yield seconds + number * width, calls, failed


def _area(each: RowOfBars, width: float, shown: frozenset[int]) -> Iterator[Bar]:
    """Return bars as high as there were calls at once; columns that look alike are joined."""
    loads: dict[int, _Load] = {}
    columns = int(max(span.end for span in each.row.spans) / width) + 1
    for span in each.row.spans:
        function = span.function if span.function in shown else OTHERS
        if function not in loads:
            loads[function] = _Load(columns)
        loads[function].add(span, width)
    scale = width * each.most_at_once
    bottoms = [0.0] * columns
    for function in sorted(loads):
        bars = []
        for number, (seconds, calls, failed) in enumerate(loads[function].sums(width)):
            bottom = bottoms[number]
            top = bottoms[number] = bottom + seconds / scale
            if top > bottom or calls:
                start = number * width
                bars.append(
                    Bar(start, start + width, bottom, top, function, calls, seconds, failed, None)
                )
        yield from _joined(bars)


def _joined(bars: list[Bar]) -> Iterator[Bar]:
    """Join neighbours that nobody could tell apart."""
    held: Bar | None = None
    for bar in bars:
        if held is not None and _is_alike(held, bar):
            held = held._replace(
                end=bar.end,
                calls=held.calls + bar.calls,
                seconds=held.seconds + bar.seconds,
                failed=held.failed + bar.failed,
            )
            continue
        if held is not None:
            yield held
        held = bar
    if held is not None:
        yield held


def _is_alike(bar: Bar, other: Bar) -> bool:
    touches = abs(bar.end - other.start) < (other.end - other.start) / 100
    near = abs(bar.bottom - other.bottom) + abs(bar.top - other.top) < 1 / 200
    return touches and near and not bar.failed and not other.failed
