"""Other processes that have what is served here, though this one may let go of it."""

from __future__ import annotations

import os
from collections import Counter

from flowpar.common.things import Thing


class Session:
    """A process elsewhere: its sockets, and what it has of what is served here."""

    def __init__(self) -> None:
        self.sockets = 0
        self.things: dict[int, Thing] = {}
        self._counts: Counter[int] = Counter()

    def hold(self, number: int, thing: Thing) -> None:
        """Note that it has a thing, perhaps before it is known that it let go of it."""
        self._counts[number] += 1
        self.things[number] = thing

    def let_go(self, number: int) -> None:
        """Note that it has it no more."""
        self._counts[number] -= 1
        if self._counts[number] <= 0:
            del self._counts[number]
            self.things.pop(number, None)


class Fork:
    """A process forked from this one, and what was served here then: it may use that.

    It has the other end of a pipe, which nobody writes to, and which ends with it.
    """

    def __init__(self, things: dict[int, Thing]) -> None:
        self.things = things
        self.ours, self.its = os.pipe()

    def begin(self) -> None:
        """Close its end, in the process that has forked it."""
        os.close(self.its)

    def close(self) -> None:
        """Close this process's end."""
        os.close(self.ours)
