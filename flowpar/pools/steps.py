"""How far a call says that it is: `progress`, and who reads what it says.

In a worker process that is written on its slate, which the parent sees; in this process it is kept
here. Nothing is sent, and nobody waits: who wants to know looks.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from flowpar.pools import standins
from flowpar.pools.slate import SENDING, write_step
from flowpar.pools.transport import Batch, Report

T = TypeVar("T")

INTERVAL: Final = 0.05
"""Seconds between two writings of how far a call is that goes through many items."""


class Step(NamedTuple):
    """How far one call is."""

    position: int
    """Which call of its batch it is."""
    done: float
    total: float | None
    """None: nobody knows."""
    desc: str


class Turn:
    """A batch whose calls are made now, as `progress` needs to know it."""

    __slots__ = ("_batch", "_has_ended", "_mark", "_position")

    def __init__(
        self,
        batch: Batch,
        report: Report,
        mark: Any = None,
        *,
        position: Callable[[], int] | None = None,
    ) -> None:
        # Each call that has ended has put something into one of them.
        self._position = position or (lambda: len(report.ends) + len(report.unstarted))
        self._batch = batch
        self._mark = mark
        self._has_ended = False

    def write(self, steps: Steps[Any]) -> None:
        """Note how far the call is that is made now."""
        step = Step(self._position(), steps.n, steps.total, steps.desc)
        if self._mark is not None:
            write_step(self._mark, self._mark[SENDING], *step)
            return
        with _lock:
            if not self._has_ended:  # a thread that the task has started may still be at it
                _here[id(self._batch)] = step

    def end(self) -> None:
        """Forget what was noted, and end a line that the last call has left open."""
        if standins.bars.shown:
            standins.drain_thread()
        with _lock:
            self._has_ended = True
            _here.pop(id(self._batch), None)


_here: dict[int, Step] = {}
_lock = threading.Lock()
turn: Final[contextvars.ContextVar[Turn | None]] = contextvars.ContextVar("turn", default=None)
"""The batch that this thread, or this coroutine, is at."""


def step_of(batch: Batch) -> Step | None:
    """Return how far the call is that is made now of a batch that runs in this process."""
    with _lock:
        return _here.get(id(batch))


class Steps(Generic[T]):
    """What `progress` returns.

    Attributes
    ----------
    n
        How many are done.
    total
        Of how many; None: nobody knows.
    desc
        What is being done.
    """

    def __init__(self, iterable: Iterable[T], total: float | None, desc: str) -> None:
        self.n: float = 0
        self.total = total
        self.desc = desc
        self._iterable = iterable
        self._turn = turn.get()
        self._due = 0.0
        self._show()

    def __iter__(self) -> Iterator[T]:
        for item in self._iterable:
            yield item
            self.n += 1
            if (now := time.perf_counter()) >= self._due:
                self._due = now + INTERVAL
                self._show()
        self._show()

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]  # what has none says so itself

    def update(self, n: float = 1) -> None:
        """Count so many more as done."""
        self.n += n
        self._show()

    def _show(self) -> None:
        if self._turn is not None:
            self._turn.write(self)

    def __enter__(self) -> Steps[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._show()

    def __repr__(self) -> str:
        of = "" if self.total is None else f"/{self.total:g}"
        return f"<progress {self.n:g}{of}>"


def progress(iterable: Iterable[T] = (), *, total: float | None = None, desc: str = "") -> Steps[T]:
    """Show how far a task is, in a bar of its own under that of the run.

    To be called in a task; elsewhere it counts, and shows nothing. An item costs 0.1 µs.

    Parameters
    ----------
    iterable
        What the task goes through. Without it, call `update` of what is returned.
    total
        How many there are; None: its length, if it has one.
    desc
        What is being done; the first 100 characters or so are shown.

    Returns
    -------
    Steps
        Gives the items, and counts them.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def longest(words):
    ...     return max(flowpar.progress(words, desc="words"), key=len)
    >>> longest(["one", "three", "two"]).compute()
    'three'

    >>> def download(size):
    ...     with flowpar.progress(total=size, desc="MB") as steps:
    ...         while steps.n < size:
    ...             steps.update(4)
    ...     return steps
    >>> download(8)
    <progress 8/8>
    """
    if total is None:
        total = _length(iterable)
    return Steps(iterable, total, str(desc))


def _length(iterable: Iterable[Any]) -> float | None:
    try:
        return len(iterable) or None  # type: ignore[arg-type]
    except TypeError:
        return None
