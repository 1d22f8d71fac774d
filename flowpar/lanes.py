"""The pools of one run, and what is on its way to them and back."""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from flowpar.pools.transport import Batch, Report
from flowpar.trial import Trial


@dataclass(slots=True, eq=False)
class Lane:
    """A pool as one run uses it."""

    name: str
    pool: Any
    slots: int
    is_local: bool
    """Whether its workers are threads of this process."""
    flights: dict[Flight, object] = field(default_factory=dict)
    """What runs there, with the pool's ticket for it."""
    heard: deque[float] = field(default_factory=deque)
    """When batches were heard of: the last, of each worker one."""

    def __post_init__(self) -> None:
        self.heard = deque(maxlen=self.width)

    @property
    def width(self) -> int:
        """How many batches run at once."""
        return getattr(self.pool, "width", self.slots)


@dataclass(slots=True, eq=False)
class Flight:
    """One batch on its way; its methods are the callbacks of the pool."""

    lane: Lane
    indices: list[int]
    batch: Batch
    begun: float
    outcomes: queue.SimpleQueue[tuple[Flight, Report | BaseException]]
    trial: Trial | None = None
    """What watches it, if its functions are new."""

    def succeed(self, report: Report) -> None:
        """Put the report where the loop hears it."""
        self.outcomes.put((self, report))

    def fail(self, error: BaseException) -> None:
        """Put the error where the loop hears it."""
        self.outcomes.put((self, error))
