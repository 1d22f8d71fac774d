"""Calls that take far longer than others of their function are started again where nobody works."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, Protocol

from flowpar.planner import Plan
from flowpar.pools.processes import ProcessPool, ProcessTicket

TIMES_LONGER: Final = 2.0
"""How many times longer than the others a call may take."""

LEAST_SECONDS: Final = 0.1
"""A call that takes no longer is let end."""


class Flight(Protocol):
    """One batch on its way, as the scheduler knows it."""

    indices: list[int]
    begun: float


class Stragglers:
    """Watches the calls of one run that are in worker processes.

    Parameters
    ----------
    plan
        Of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def tend(
        self, pool: ProcessPool, flights: Collection[tuple[Flight, object]], now: float
    ) -> float | None:
        """Have the pool start late calls a second time; nothing else waits for its workers.

        Returns
        -------
        float or None
            In how many seconds to look again; None: there is nobody to start one.
        """
        if len(flights) >= pool.width:
            return None
        again = None
        for ticket, due in self._single(flights):
            if due <= now:
                pool.repeat(ticket)  # which it does once, as soon as a worker is idle
            again = min(again or LEAST_SECONDS, max(due - now, LEAST_SECONDS))
        return again

    def _single(
        self, flights: Collection[tuple[Flight, object]]
    ) -> Iterator[tuple[ProcessTicket, float]]:
        """Yield the calls that may be made twice, with when they are late."""
        for flight, ticket in flights:
            state = self._plan.state(flight.indices[0])
            policy, timing = state.function.policy, state.timing
            if (
                len(flight.indices) == 1
                and isinstance(ticket, ProcessTicket)
                and policy.pure
                and not policy.limit
                and timing.calls
            ):
                usual = timing.seconds / timing.calls
                yield ticket, flight.begun + max(LEAST_SECONDS, TIMES_LONGER * usual)
