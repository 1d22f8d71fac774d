"""Puts values on disk when those that are held take more memory than they may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flowpar.planner import Plan
from flowpar.pools.depot import Held
from flowpar.pools.home import put_on_disk
from flowpar.status import RUNNING

AIM: Final = 0.8
"""Share of the limit that is left when values are put on disk, so that it is not done each time."""


def spill(plan: Plan, limit: float) -> int:
    """Put the values on disk that are needed last, until the others are within a limit.

    Parameters
    ----------
    plan
        Whose values; those that a running task takes stay where they are.
    limit
        Bytes.

    Returns
    -------
    int
        How many bytes went to disk.
    """
    spilled = 0
    if plan.held_bytes <= limit:
        return spilled
    for index in _least_needed(plan):
        if plan.held_bytes <= AIM * limit:
            break
        held = _on_disk(plan.values[index])
        if held is not None:
            spilled += plan.sizes[index]
            plan.put_aside(index, held)
    return spilled


def _least_needed(plan: Plan) -> Iterator[int]:
    """Yield the large values that no running task takes; what the user asked for first."""
    needed: list[tuple[float, int]] = []
    for index in plan.sizes:
        takers = [each for each in plan.graph.dependents[index] if plan.status[each] <= RUNNING]
        if index in plan.values and all(plan.status[each] != RUNNING for each in takers):
            needed.append((min(takers, default=float("inf")), index))
    return (index for _, index in sorted(needed, reverse=True))


def _on_disk(value: object) -> Held | None:
    try:
        return put_on_disk(value)
    except Exception:  # noqa: BLE001 - pickling runs the user's code; what does not pickle stays
        return None
