"""Where a task stands in a run, how it may move, and the counts of a function's tasks."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from flowpar.events import Counts
from flowpar.task import Function


class Status(enum.IntEnum):
    """Where a task stands in a run."""

    WAITING = 0
    READY = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    SKIPPED = 5
    CACHED = 6


WAITING, READY, RUNNING, DONE, FAILED, SKIPPED, CACHED = map(int, Status)

MOVES: Final = frozenset(
    {
        (WAITING, READY),
        (WAITING, RUNNING),  # in a batch with all that it waits for
        (WAITING, SKIPPED),
        (WAITING, DONE),  # its delayed value was computed
        (READY, RUNNING),
        (READY, CACHED),
        (READY, WAITING),  # what it needs is known and not there
        (CACHED, WAITING),  # its value is not there, and a task that runs needs it
        (CACHED, FAILED),
        (WAITING, CACHED),  # the delayed value that it is known to return was
        (RUNNING, DONE),
        (RUNNING, FAILED),
        (RUNNING, READY),
        (RUNNING, WAITING),
        (DONE, FAILED),  # its value cannot be loaded where it is wanted
        (DONE, WAITING),  # its value is gone, and a task that came into being needs it
    }
)
"""The only moves that a task may make."""

MOVING_SECONDS: Final = 6e-10
"""A byte: writing 64 MB into a file of shared memory takes 30 ms, and mapping it another 9."""


@dataclass(slots=True, eq=False)
class Timing:
    """How long calls took; shared by functions that are the same code, such as closures."""

    calls: int = 0
    seconds: float = 0.0
    moves: int = 0
    """Values that went into files."""
    moved_bytes: int = 0

    @property
    def moving_seconds(self) -> float:
        """What it costs, about, to write such a value and to map it elsewhere."""
        return MOVING_SECONDS * self.moved_bytes / self.moves if self.moves else 0.0


@dataclass(slots=True, eq=False)
class FunctionState:
    """What the plan knows of one function, for all its tasks."""

    function: Function
    lane: str
    """Names the pool that its tasks wait for."""
    alone: bool
    """Whether its tasks share no batch."""
    joins: bool
    """Whether its tasks may share a batch with what they wait for. Not those that come ``after``
    something: no value is missing where that fails, so the worker would go on."""
    priority: int
    """Taken from the index, so that the lowest number comes first."""
    rides: bool
    """Whether its tasks cost so little that they go with what they need, wherever that runs."""
    keeps: bool
    """Whether values stay until the run ends: a task that comes later may need one, and its task
    must not run again."""
    limited: bool
    """Whether its tasks hold a resource while they run; they then run alone."""
    total: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    timing: Timing = field(default_factory=Timing)

    def counts(self, running: int = 0) -> Counts:
        """Return how many of its tasks are where."""
        return Counts(
            total=self.total,
            done=self.done,
            cached=self.cached,
            failed=self.failed,
            skipped=self.skipped,
            running=running,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that came to its end."""

    index: int
    status: Status
