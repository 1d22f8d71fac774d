"""What a pool is to the scheduler, and a clock that several pools need."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Callback = Callable[[Any], object]


class Pool(Protocol):
    """Runs functions somewhere, and says how they ended by callbacks.

    This is the shape of ``multiprocessing.Pool``, so that a pool of the user's fits too. The
    scheduler only ever sends ``execute`` with one `Batch`. Exactly one of the two callbacks is
    called for each `apply_async`, once, from any thread; it only puts what it got on a queue.
    """

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> object:
        """Start a call and return a ticket for it."""


class OwnPool(Pool, Protocol):
    """What flowpar's own pools can do besides.

    Attributes
    ----------
    name
        Shown to people: "threads", "processes", …
    width
        How many calls run at the same time.
    slots
        How many calls are worth handing over at once: `width`, and perhaps a few that wait
        where a worker can take them without asking.
    """

    name: str
    width: int
    slots: int

    def cancel(self, ticket: object) -> None:
        """Stop a call, or forget it where that cannot be; it ends with `Cancelled`, if at all."""

    def close(self) -> None:
        """Stop what still runs and free everything. May be called twice."""


class Ticket:
    """One call of `apply_async` where it may have several ends: the first is told, no other.

    Parameters
    ----------
    callback, error_callback
        Who is told.
    """

    __slots__ = ("_callback", "_error_callback", "_once")

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._once = threading.Lock()

    @property
    def is_settled(self) -> bool:
        """Whether an end was told."""
        return self._once.locked()

    def succeed(self, result: Any) -> bool:
        """Tell the result, unless something was told before; return whether it was told."""
        return self._settle() and self._tell(self._callback, result)

    def fail(self, error: BaseException) -> bool:
        """Tell the error, unless something was told before; return whether it was told."""
        return self._settle() and self._tell(self._error_callback, error)

    def _settle(self) -> bool:
        return self._once.acquire(blocking=False)

    def _tell(self, callback: Callback | None, what: Any) -> bool:
        # A watchdog may hold this ticket for hours, and must not hold the batch with it.
        self._callback = self._error_callback = None
        if callback is not None:
            callback(what)
        return True


class Watchdog:
    """Calls functions when their time has come; one daemon thread, started on first use."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call `function`, which must be quick and must not raise, after some seconds."""
        with self._condition:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), function))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._watch, name="flowpar-watchdog", daemon=True
                )
                self._thread.start()
            self._condition.notify()

    def close(self) -> None:
        """Forget what has not come yet, and end the thread."""
        with self._condition:
            self._closed = True
            self._due.clear()
            self._condition.notify()

    def _watch(self) -> None:
        while True:
            with self._condition:
                if self._closed:
                    return
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is None or pause > 0:
                    # Longer than this is more than a lock takes: then look again.
                    self._condition.wait(pause and min(pause, threading.TIMEOUT_MAX))
                    continue
                _, _, function = heapq.heappop(self._due)
            function()
