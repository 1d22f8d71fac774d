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

LEAST_LOOKS: Final = 2
"""After so many, what a function does is known."""

MOVING_SECONDS: Final = 6e-10
"""A byte: writing 64 MB into a file of shared memory takes 30 ms, reading it mapped 5 to 8 more."""


@dataclass(slots=True, eq=False)
class Timing:
    """How long calls took; shared by functions that are the same code, such as closures."""

    calls: int = 0
    seconds: float = 0.0
    moves: int = 0
    """Values that went into files."""
    moved_bytes: int = 0
    cpu_seconds: float = 0.0
    """Of the calls that took long enough to ask, with their own time."""
    clocked_seconds: float = 0.0
    looks: int = 0
    """How often calls were looked at, by a thread that held the GIL."""
    free_looks: int = 0
    """How often they computed, so without it."""
    running_seconds: float = 0.0
    """How long the first call has taken so far, if it has not ended."""
    running_cpu: float = 0.0
    weighed: int = 0
    """Calls whose values were weighed: what they would cost to move."""
    pickle_seconds: float = 0.0
    """What pickling the results of those took, without the copying of large buffers."""
    weighed_bytes: int = 0
    """Large buffers in what they took and gave."""
    delayed_seconds: float = 0.0
    """For how long they had no CPU though they wanted one: others had it."""
    earlier_seconds: float = 0.0
    """How long a call took in earlier runs, on average."""
    placed: str = ""
    """Where calls were made last, and why."""

    def forget_times(self) -> None:
        """Begin anew with how long calls take."""
        self.calls, self.seconds, self.cpu_seconds, self.clocked_seconds = 0, 0.0, 0.0, 0.0
        self.running_seconds = self.running_cpu = self.delayed_seconds = 0.0

    def habits(self) -> Timing:
        """Return what holds for other calls, too: how a CPU is used, and what moving costs."""
        return Timing(
            moves=self.moves,
            moved_bytes=self.moved_bytes,
            cpu_seconds=self.cpu_seconds,
            clocked_seconds=self.clocked_seconds,
            looks=self.looks,
            free_looks=self.free_looks,
            weighed=self.weighed,
            pickle_seconds=self.pickle_seconds,
            weighed_bytes=self.weighed_bytes,
            delayed_seconds=self.delayed_seconds,
            earlier_seconds=self.seconds / self.calls if self.calls else self.earlier_seconds,
            placed=self.placed,
        )

    @property
    def mean_seconds(self) -> float | None:
        """How long a call takes; None: nobody knows."""
        if self.calls:
            return self.seconds / self.calls
        # It has not ended: as likely as not it will take that long again.
        return 2 * self.running_seconds or None

    @property
    def expected_seconds(self) -> float | None:
        """How long a call will take, for who sends many at once; None: nobody knows."""
        if self.calls:
            return self.seconds / self.calls
        # With other arguments it may take longer than it used to.
        return 2 * self.earlier_seconds or None

    @property
    def cpu_share(self) -> float:
        """How much of a call's time it uses a CPU, or would, from 0 to 1; 1 if nobody knows."""
        if self.clocked_seconds:
            return min(1.0, (self.cpu_seconds + self.delayed_seconds) / self.clocked_seconds)
        if self.running_seconds and not self.calls:
            return self.running_cpu / self.running_seconds
        return 1.0

    @property
    def free_share(self) -> float:
        """How often it computed when it was looked at, from 0 to 1; 0 if nobody knows."""
        return self.free_looks / self.looks if self.looks else 0.0

    @property
    def is_looked_at(self) -> bool:
        """Whether it was watched often enough to say what it does."""
        return self.looks >= LEAST_LOOKS

    @property
    def moving_seconds(self) -> float:
        """What it costs, about, to move what a call takes and gives to another process."""
        if self.moves:
            return MOVING_SECONDS * self.moved_bytes / self.moves
        if self.weighed:
            pickling = 2 * self.pickle_seconds  # and loading it again
            return (pickling + MOVING_SECONDS * self.weighed_bytes) / self.weighed
        return 0.0


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

    @property
    def left(self) -> int:
        """How many of its tasks have not ended."""
        return self.total - self.done - self.cached - self.failed - self.skipped

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
