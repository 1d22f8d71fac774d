"""Puts values on disk when those that are held take more memory than they may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flowpar.planner import BATCH_TASKS, Plan
from flowpar.pools.depot import SHARED_FROM, Held
from flowpar.pools.home import put_on_disk
from flowpar.pools.transport import PLAIN, SEALED
from flowpar.status import RUNNING

AIM: Final = 0.8
"""Share of the limit that is left when values are put on disk, so that it is not done each time."""


FIRST_BATCH: Final = 4
"""Tasks in a batch while nobody knows how large their values are."""

BATCH_SHARE: Final = 0.1
"""Share of the limit that the values of one batch may take, as they come all at once."""


class Guard:
    """Keeps the values that a run holds within a limit.

    Parameters
    ----------
    plan
        Whose values; those that a running task takes stay where they are.
    limit
        Bytes.
    """

    def __init__(self, plan: Plan, limit: float) -> None:
        self._plan = plan
        self._limit = limit
        self._unable: set[int] = set()
        """Values that could not be put on disk, which is not tried again."""
        plan.is_guarded = True
        plan.trusts_memory = False
        plan.most_tasks = FIRST_BATCH

    def tend(self) -> int:
        """Put the values on disk that are needed last, until the others are within the limit.

        Returns
        -------
        int
            How many bytes went to disk.
        """
        plan = self._plan
        most = BATCH_SHARE * self._limit / max(1, plan.largest_bytes)
        plan.most_tasks = max(1, min(BATCH_TASKS, int(most)))
        spilled = 0
        if plan.held_bytes <= self._limit:
            return spilled
        for index in self._least_needed():
            if plan.held_bytes <= AIM * self._limit:
                break
            held = _on_disk(plan.values[index])
            if held is None:
                self._unable.add(index)
                continue
            spilled += plan.sizes[index]
            plan.put_aside(index, held)
        return spilled

    def _least_needed(self) -> Iterator[int]:
        """Yield the large values that no running task takes; what the user asked for first."""
        plan = self._plan
        needed: list[tuple[float, int]] = []
        for index, size in plan.sizes.items():
            if size < SHARED_FROM or index in self._unable:
                continue
            takers = [each for each in plan.graph.dependents[index] if plan.status[each] <= RUNNING]
            if index in plan.values and all(plan.status[each] != RUNNING for each in takers):
                needed.append((min(takers, default=float("inf")), index))
        return (index for _, index in sorted(needed, reverse=True))


_FAITHFUL: Final = frozenset({"numpy", "pandas", "polars", "pyarrow"})
"""Packages whose objects are the same again when they come back."""


def _on_disk(value: object) -> Held | None:
    try:
        held = put_on_disk(value)
        if held is not None and not _comes_back(value):
            held.load()
    except Exception:  # noqa: BLE001 - pickling runs the user's code; what does not pickle stays
        return None
    return held


def _comes_back(value: object) -> bool:
    kind = type(value)
    package = (kind.__module__ or "").partition(".")[0]
    return kind in SEALED or kind in PLAIN or package in _FAITHFUL
