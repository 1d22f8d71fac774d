"""Where outcomes wait until somebody takes them."""

from __future__ import annotations

import collections
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

from flowpar.compat.chunks import Outcome, check_owner


class Shelf:
    """Outcomes that wait until somebody takes them, in the order of the calls.

    What the items end with, if that is an error, comes after all others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0
        self._total = math.inf
        self._last: Outcome | None = None
        self._is_dropped = False
        self._owner = os.getpid()
        self.ended = 0
        """How many calls have ended."""
        self._there: dict[int, Outcome] = {}

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of some calls."""
        with self._changed:
            self.ended += len(outcomes)
            if not self._is_dropped:
                self._keep(first, outcomes)
                self._changed.notify_all()

    def put_values(self, first: int, values: list[Any]) -> None:
        """Do the same for calls that all have ended with a value."""
        self.put(first, [Outcome(value) for value in values])

    def end(self, total: int, last: Outcome | None) -> None:
        """Know that there will be so many in all, and perhaps an error."""
        with self._changed:
            if not self._is_dropped:
                self._total, self._last = total, last
                self._changed.notify_all()

    def drop(self) -> None:
        """Keep nothing any more: nobody will take it, and who waits for it is told the end."""
        with self._changed:
            self._is_dropped = True
            self._total, self._last = 0, None
            self._clear()
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> Outcome | None:
        """Return the next outcome, once it is there; None: there is none any more.

        Raises
        ------
        TimeoutError
            If it is not there after so many seconds.
        """
        with self._changed:
            self._wait(timeout)
            if self._taken >= self._total:
                return self._take_last()
            outcome = self._next()
            self._taken += 1
            return outcome

    def take_some(self, timeout: float | None = None) -> list[Outcome]:
        """Return all outcomes that can be taken, once there is one; none: there are none any more.

        That costs less than one by one.

        Raises
        ------
        TimeoutError
            If none is there after so many seconds.
        """
        with self._changed:
            self._wait(timeout)
            if self._taken >= self._total:
                last = self._take_last()
                return [] if last is None else [last]
            found = self._all_next()
            self._taken += len(found)
            return found

    def _wait(self, timeout: float | None) -> None:
        if self._taken >= self._total or self._has_next():
            return
        check_owner(self._owner)
        is_there = self._changed.wait_for(
            lambda: self._taken >= self._total or self._has_next(), timeout
        )
        if not is_there:
            raise TimeoutError

    def _take_last(self) -> Outcome | None:
        last, self._last = self._last, None
        return last

    def _keep(self, first: int, outcomes: Sequence[Outcome]) -> None:
        self._there.update(enumerate(outcomes, first))

    def _has_next(self) -> bool:
        return self._taken in self._there

    def _next(self) -> Outcome:
        return self._there.pop(self._taken)

    def _all_next(self) -> list[Outcome]:
        found: list[Outcome] = []
        while (outcome := self._there.pop(self._taken + len(found), None)) is not None:
            found.append(outcome)
        return found

    def _clear(self) -> None:
        self._there.clear()


class UnorderedShelf(Shelf):
    """Outcomes that wait until somebody takes them, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._line: collections.deque[Outcome] = collections.deque()

    def _keep(self, first: int, outcomes: Sequence[Outcome]) -> None:
        del first
        self._line.extend(outcomes)

    def _has_next(self) -> bool:
        return bool(self._line)

    def _next(self) -> Outcome:
        return self._line.popleft()

    def _all_next(self) -> list[Outcome]:
        found = list(self._line)
        self._line.clear()
        return found

    def _clear(self) -> None:
        self._line.clear()


def make_shelf(*, is_ordered: bool) -> Shelf:
    """Return an empty shelf."""
    return Shelf() if is_ordered else UnorderedShelf()
