"""How long the rest of a run will take."""

from __future__ import annotations

from collections.abc import Iterable

from flowpar.lanes import Lane
from flowpar.planner import Plan


def seconds_left(plan: Plan, lanes: Iterable[Lane], begin: float, now: float) -> float | None:
    """Return in how many seconds a run will have ended, about; None: nobody knows.

    What is left is reckoned by how long calls of each function take, in this run or in earlier
    ones, and by how many seconds of calls each second of this run has brought so far. Functions of
    which nothing is known are taken to be as the others are. That tasks wait for one another, or
    that what is left may be found in the cache, is not reckoned with.

    Parameters
    ----------
    plan
        Where the run stands.
    lanes
        The pools that it uses.
    begin, now
        Seconds on the clock of the run.
    """
    timings = {id(state.timing): state.timing for state in plan.functions.values()}
    spent = sum(timing.seconds for timing in timings.values())
    left, known, unknown = 0.0, 0, 0
    for state in plan.functions.values():
        each = state.timing.mean_seconds or state.timing.earlier_seconds
        left += state.left * each
        known += state.left if each else 0
        unknown += 0 if each else state.left
    if not known:
        if unknown:
            return None
        return 0.0
    left *= (known + unknown) / known
    begun = sum(_begun_seconds(plan, lane, now) for lane in lanes)
    width = (spent + begun) / (now - begin) if now > begin else 0.0
    return max(0.0, left - begun) / width if width else None


def _begun_seconds(plan: Plan, lane: Lane, now: float) -> float:
    """Return for how long the calls have run, together, that run in a lane.

    Where more batches were sent than there are workers, some wait, and nobody says which: a worker
    begins its next when one was heard of.
    """
    heard = sorted(lane.heard, reverse=True)
    flights = sorted(lane.flights, key=lambda flight: flight.begun, reverse=True)
    total = 0.0
    for place, flight in enumerate(flights[: lane.width]):
        start = max(flight.begun, heard[place]) if place < len(heard) else flight.begun
        timing = plan.state(flight.indices[0]).timing
        each = timing.mean_seconds or timing.earlier_seconds
        total += min(now - start, each * len(flight.indices))
    return total
