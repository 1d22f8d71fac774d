"""`Queue`: what tasks give to each other while they run."""

from __future__ import annotations

import pickle
from queue import Empty, Full
from typing import Any

from flowpar.common.items import dump_item
from flowpar.common.remote import Shared, serve
from flowpar.common.serving import TIMED_OUT
from flowpar.common.things import Line


class Queue(Shared):
    """A queue that tasks on threads and in processes put items into, and get them from.

    Used like `multiprocessing.Queue`. An item is a copy, made when it is put: what does not pickle
    is refused there. Each item arrives once: one that was on its way to a process that died is
    the next again. The queue lives in the process that made it, and ends with that; there it goes
    when neither that process nor a worker that got it as an argument has it any more.

    Parameters
    ----------
    maxsize
        How many items it holds; zero or less: any number.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def produce(queue, number):
    ...     queue.put(number * number)
    >>> queue = flowpar.Queue()
    >>> _ = flowpar.compute([produce(queue, n) for n in range(4)], scheduler="processes")
    >>> sorted(queue.get() for _ in range(4))
    [0, 1, 4, 9]
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._remote = serve(Line(maxsize))

    @property
    def maxsize(self) -> int:
        """How many items it holds; zero or less: any number."""
        return self._maxsize

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Append an item.

        Parameters
        ----------
        obj
            Anything that pickles.
        block
            Whether to wait for room.
        timeout
            Seconds to wait for at most; None: as long as it takes.

        Raises
        ------
        queue.Full
            If there is no room, or was none in time.
        """
        limit = _limit(block, timeout)
        wait = block and limit != 0
        if self._ask("put", dump_item(obj), wait, timeout=limit if wait else None) is not True:
            raise Full

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item.

        Parameters
        ----------
        block
            Whether to wait for one.
        timeout
            Seconds to wait for at most; None: as long as it takes.

        Raises
        ------
        queue.Empty
            If there is none, or was none in time.
        """
        limit = _limit(block, timeout)
        wait = block and limit != 0
        found = self._ask("get", wait, timeout=limit if wait else None)
        if found is None or found is TIMED_OUT:
            raise Empty
        return pickle.loads(found)  # noqa: S301 - from a process of ours

    def put_nowait(self, obj: object) -> None:
        """Append an item if there is room now; see `put`."""
        self.put(obj, block=False)

    def get_nowait(self) -> Any:
        """Take the first item if there is one now; see `get`."""
        return self.get(block=False)

    def qsize(self) -> int:
        """Return how many items there are."""
        return int(self._ask("size"))

    def empty(self) -> bool:
        """Return whether there are none."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Return whether there is no room."""
        return 0 < self._maxsize <= self.qsize()

    def task_done(self) -> None:
        """Say that what was got is done, once for each item; see `join`.

        Raises
        ------
        ValueError
            If that was said more often than items were put.
        """
        self._ask("task_done")

    def join(self) -> None:
        """Wait until `task_done` was called for each item that was put, as `queue.Queue` does.

        Who dies with an item, or ends, and has not called it is waited for.
        """
        self._ask("join")

    def close(self) -> None:
        """Do nothing: it is for programs that used `multiprocessing.Queue`."""

    def join_thread(self) -> None:
        """Do nothing: what was put is in the queue already."""

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread to wait for."""


def _limit(block: bool, timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0 and block:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout
