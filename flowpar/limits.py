"""Resources that tasks share: how much there is, how much is held, and who waits for some."""

from __future__ import annotations

import collections
import heapq
from collections.abc import Mapping

from flowpar.errors import OptionError
from flowpar.task import Function

_ROUNDING = 1e-9
"""Makes up for what adding and taking away fractions loses."""


class Limits:
    """The resources of one run.

    Parameters
    ----------
    amounts
        How much there is of each; of one that is not named there is one.
    """

    def __init__(self, amounts: Mapping[str, float]) -> None:
        self._amounts = dict(amounts)
        self._held: dict[str, float] = collections.defaultdict(float)
        self._parked: dict[str, list[tuple[int, float]]] = collections.defaultdict(list)

    def check(self, function: Function) -> None:
        """Raise OptionError if a function needs more of a resource than there is."""
        for name, amount in function.policy.limit.items():
            there_is = self._amounts.get(name, 1.0)
            if amount > there_is:
                raise OptionError(
                    f"{function.name} needs {amount:g} of {name!r}, and there is {there_is:g}: "
                    f"give the run limits={{{name!r}: {amount:g}}} or more"
                )

    def acquire(self, limit: Mapping[str, float], entry: int) -> bool:
        """Hold what a task needs; or park its entry until the first that is short is freed."""
        for name, amount in limit.items():
            if self._held[name] + amount > self._amounts.get(name, 1.0) + _ROUNDING:
                heapq.heappush(self._parked[name], (entry, amount))
                return False
        for name, amount in limit.items():
            self._held[name] += amount
        return True

    def release(self, limit: Mapping[str, float]) -> list[int]:
        """Free what a task held; return the entries that there is room for now, best first."""
        freed = []
        for name, amount in limit.items():
            self._held[name] -= amount
            room = self._amounts.get(name, 1.0) - self._held[name] + _ROUNDING
            parked = self._parked[name]
            while parked and parked[0][1] <= room:
                entry, needed = heapq.heappop(parked)
                room -= needed
                freed.append(entry)
        return freed
