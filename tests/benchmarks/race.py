"""One race: flowpar and a peer in turn, A B A B …, so that a machine whose speed drifts slows both."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

MOST_ROUNDS = 7


@dataclass(frozen=True)
class Row:
    """What is raced. Each side does all its work when called, and checks what came of it."""

    work: str
    ours: Callable[[], object]
    peer: str
    theirs: Callable[[], object]
    budget: float | None = None
    """What theirs / ours should be at least."""
    tasks: int = 1
    """By how many our time is divided, to be shown in µs a task; 1: shown in ms."""
    their_tasks: int | None = None
    """By how many the peer's time is divided; as many, if None."""


@dataclass(frozen=True)
class Result:
    """How a race went: seconds a task, one figure for each round."""

    row: Row
    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self):
        """How many times faster flowpar was, in rising order."""
        return sorted(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self):
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def is_met(self):
        """Whether the budget is met; None if there is none."""
        return None if self.row.budget is None else self.ratio >= self.row.budget

    def cells(self):
        """Return what the table says of this race."""
        scale, unit = (1e6, "µs") if self.row.tasks > 1 else (1e3, "ms")
        ours, theirs = (statistics.median(t) * scale for t in (self.ours, self.theirs))
        spread = f" ({self.ratios[0]:.3g} to {self.ratios[-1]:.3g})" if len(self.ours) > 1 else ""
        return [
            self.row.work,
            self.row.peer,
            f"{ours:.3g} {unit}",
            f"{theirs:.3g} {unit}",
            f"**{self.ratio:.3g} ×**{spread}",
            len(self.ours),
            "" if self.row.budget is None else f"{self.row.budget:g} ×",
            {None: "", True: "met", False: "**missed**"}[self.is_met],
        ]


def race(row, seconds):
    """Run both sides in turn.

    Parameters
    ----------
    row
        What to race.
    seconds
        How long it may take, roughly: a slow row gets fewer rounds, one at least.

    Returns
    -------
    Result
        Without the rounds that came first: what a peer does in its first one may change what ours
        starts from.
    """
    pair = sum(_pair(row))
    if pair < seconds / 2:
        pair = sum(_pair(row))
    pairs = [_pair(row) for _ in range(min(MOST_ROUNDS, max(1, int(seconds / pair))))]
    their_tasks = row.their_tasks or row.tasks
    return Result(
        row, [ours / row.tasks for ours, _ in pairs], [theirs / their_tasks for _, theirs in pairs]
    )


def _pair(row):
    times = []
    for side in (row.ours, row.theirs):
        gc.collect()
        start = time.perf_counter()
        side()
        times.append(time.perf_counter() - start)
    return times
