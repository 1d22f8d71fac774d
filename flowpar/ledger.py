"""When and where the tasks of a run ran, as the reports of the workers tell it."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from flowpar.caching.objects import Stored
from flowpar.pools.depot import Held
from flowpar.pools.transport import Packed, Report

CLOCK_OFFSET = time.time() - time.perf_counter()
"""Turns the clock that the workers read into seconds since the epoch."""


MEASURED_FROM: Final = 2e-4
"""Seconds; of shorter calls the CPU time may not be measured. Workers do it from 0.1 ms on."""


class Ledger:
    """When, where and how long each task ran, and when each batch was sent and heard of.

    Reports come in by the thousand and are only kept; they are sorted into columns, of 27 bytes a
    task and 34 a batch, when somebody asks.

    Attributes
    ----------
    begin
        When the run began. All times are seconds on the workers' clock.
    start, end, cpu
        By index; zero for what did not run.
    place
        By index: a number in `places`; zero for what did not run.
    size
        Bytes of the values that travelled, by index.
    earlier
        Attempts that were followed by others of the same task.
    batches
        When each batch was sent, begun, ended and heard of: four columns.
    batch_place
        By batch: a number in `places`.
    unheard
        The batches that nothing was heard of: the run was over before they were.
    """

    def __init__(self) -> None:
        self.begin = 0.0
        self.start = array("d")
        self.end = array("d")
        self.cpu = array("d")
        self.place = array("H")
        self.size: dict[int, int] = {}
        self.earlier: list[Earlier] = []
        self.batches = (array("d"), array("d"), array("d"), array("d"))
        self.batch_place = array("H")
        self.unheard: list[Unheard] = []
        self.places: list[tuple[str, str]] = [("", "")]
        self._numbers: dict[tuple[str, str], int] = {("", ""): 0}
        self._pages: list[_Page] = []

    def write(
        self, batch: Sequence[int], report: Report, pool: str, *, sent: float, heard: float
    ) -> None:
        """Record how the calls of a batch went, and when the batch was sent and heard of."""
        if report.unstarted:
            aside = set(report.unstarted)
            batch = [index for index in batch if index not in aside]
        place = self._place(pool, report.worker)
        start, ends = report.start, array("d", report.ends)
        last = ends[-1] if ends else start
        if start < sent or last > heard:  # read from the clock of another machine
            shift = (sent + heard - start - last) / 2
            start += shift
            ends = array("d", [end + shift for end in ends])
        self._pages.append(
            _Page(array("L", batch), start, ends, report.cpu_seconds, place, sent, heard)
        )
        for index, value in report.values.items():
            if type(value) is Packed:
                self.size[index] = len(value.data)
            elif type(value) is Held or type(value) is Stored:
                self.size[index] = value.size

    def write_lost(self, index: int, place: tuple[str, str], start: float, end: float) -> None:
        """Record an attempt that never reported: its worker died, or its time was over."""
        number = self._place(*place)
        ends = array("d", [end])
        self._pages.append(_Page(array("L", [index]), start, ends, {}, number, start, end))

    def write_unheard(self, batch: Sequence[int], pool: str, sent: float, end: float) -> None:
        """Record a batch that was on its way when the run ended. Nobody knows how far it came."""
        self.unheard.append(Unheard(batch[0], self._place(pool, "?"), sent, end))

    def settle(self, size: int) -> None:
        """Sort what came since the last time into the columns, for a graph of this size."""
        more = size - len(self.start)
        for column in (self.start, self.end, self.cpu):
            column.frombytes(bytes(column.itemsize * more))
        self.place.frombytes(bytes(self.place.itemsize * more))
        start, end, cpu, places = self.start, self.end, self.cpu, self.place
        pages, self._pages = self._pages, []
        for page in pages:
            first = last = page.start
            for index, ended in zip(page.batch, page.ends, strict=False):
                if places[index]:
                    self._keep_earlier(index)
                start[index] = last
                end[index] = last = ended
                cpu[index] = 0.0
                places[index] = page.place
            for index, seconds in page.cpu_seconds.items():
                cpu[index] = seconds
            times = (page.sent, first, last, page.heard)
            for column, moment in zip(self.batches, times, strict=True):
                column.append(moment)
            self.batch_place.append(page.place)

    def _keep_earlier(self, index: int) -> None:
        self.earlier.append(
            Earlier(index, self.start[index], self.end[index], self.cpu[index], self.place[index])
        )

    def _place(self, pool: str, worker: str) -> int:
        place = (pool, worker)
        number = self._numbers.get(place)
        if number is None:
            number = self._numbers[place] = min(len(self.places), 2**16 - 1)
            self.places.append(place)
        return number


def cpu_seconds(cpu: float, seconds: float) -> float | None:
    """Return the CPU time of a call; None: nobody knows it.

    Parameters
    ----------
    cpu
        As the column says: 0 if it was not measured.
    seconds
        How long the call took. What is too short to be measured is too short to wait.
    """
    return cpu or (seconds if seconds <= MEASURED_FROM else None)


class Earlier(NamedTuple):
    """One attempt of a task, not its last."""

    task: int
    start: float
    end: float
    cpu: float
    place: int


class Unheard(NamedTuple):
    """A batch that was sent and not heard of."""

    first: int
    """Index of the first task in it."""
    place: int
    sent: float
    end: float
    """When the run ended."""


@dataclass(frozen=True, slots=True)
class _Page:
    """The times of one batch."""

    batch: array[int]
    start: float
    ends: array[float]
    cpu_seconds: dict[int, float]
    place: int
    sent: float
    heard: float
