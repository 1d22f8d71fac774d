"""What goes in and out of a dispatcher: chunks of items from sources, outcomes to sinks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowpar.errors import PoolError
from flowpar.task import Function


@dataclass(slots=True)  # not frozen, which would take three times as long to make
class Outcome:
    """How one item ended."""

    value: Any = None
    error: BaseException | None = None


class Broken(Outcome):
    """The error with which the items themselves end: nothing comes after it."""

    __slots__ = ()


class Sink(Protocol):
    """Hears how items ended, each once, in the dispatcher's thread; it may not raise."""

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of some items that follow one another."""

    def put_values(self, first: int, values: list[Any]) -> None:
        """Do the same for items that all have ended with a value."""


@dataclass(slots=True, eq=False)
class Chunk:
    """Items of one function that travel together.

    Attributes
    ----------
    function
        What is called.
    items
        With what.
    form
        `ONE`, `SEVERAL` or `FULL`: what an item is.
    first
        The number of the first item, as the sink counts them.
    sink
        Who hears.
    source
        Where they came from.
    timeout
        Seconds that the call, then the only one, may take.
    moment
        When its arguments were given; that of a list is one.
    """

    function: Function
    items: Sequence[Any]
    form: int
    first: int
    sink: Sink
    source: Source
    timeout: float | None = None
    moment: object = field(default_factory=object)


class Source(Protocol):
    """Where chunks come from.

    Attributes
    ----------
    function
        What is called.
    """

    function: Function

    @property
    def is_spent(self) -> bool:
        """Whether there will be no more."""

    def take(self) -> Chunk | None:
        """Return the next items that travel together; None: there are none now."""

    def cut(self, reason: BaseException) -> None:
        """Tell its sinks that the rest will not be called."""

    def pace(self, seconds: float, slots: int) -> None:
        """Know how long a call takes, and how many messages are on their way at once."""

    def unbind(self) -> None:
        """Wait no more for those who take values: somebody waits for the end."""


def check_owner(pid: int) -> None:
    """Raise PoolError in a process that was forked from that one: nobody feeds a pool here."""
    if os.getpid() != pid:
        raise PoolError(
            "this pool belongs to the process that this one was forked from; make one here"
        )
