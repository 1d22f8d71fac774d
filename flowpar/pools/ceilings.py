"""Who may hold how much memory while it makes a call, and who holds more.

What counts is what the worker and the processes of its group hold for themselves beyond what they
held when the call was sent: its arguments are loaded after that, and memory shared with others
(large values, libraries) is nobody's own. It is looked at, and not enforced: between two looks a
call may take what the system gives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from flowpar.errors import MemoryExceeded
from flowpar.pools import usage
from flowpar.pools.remote import RemoteWorker

LOOK_SECONDS: Final = 0.05
"""Between two looks."""
FIRST_LOOK_SECONDS: Final = 0.005
"""Until the first: by then the worker has let go of what the call before has left."""
LOOKING_SHARE: Final = 0.05
"""Of the transport thread's time, where looking takes long as there are many processes."""


@dataclass(slots=True)
class _Ceiling:
    memory: float
    before: int
    """What was held at the least since the call was sent."""


class Ceilings:
    """The workers that are at a call with a ceiling; for the transport thread.

    Who sends a worker a call, hears of its end, or lets go of the worker has to say so.
    """

    def __init__(self) -> None:
        self._watched: dict[RemoteWorker, _Ceiling] = {}
        self._due = 0.0

    def watch(self, worker: RemoteWorker, memory: float) -> None:
        """Have a worker, which is about to get a call, hold no more than so many bytes more."""
        before = usage.own_bytes(usage.members({worker.pid})[worker.pid], worker.pid)
        first_look = time.monotonic() + FIRST_LOOK_SECONDS
        self._due = min(self._due, first_look) if self._watched else first_look
        self._watched[worker] = _Ceiling(memory, before)
        worker.is_watched = True

    def release(self, worker: RemoteWorker) -> None:
        """Look no longer at a worker."""
        if worker.is_watched:
            worker.is_watched = False
            self._watched.pop(worker, None)

    def next_look(self) -> float | None:
        """Return when the next look is due, by `time.monotonic`; None if there is none."""
        return self._due if self._watched else None

    def exceeded(self) -> list[tuple[RemoteWorker, MemoryExceeded]]:
        """Return who holds too much, if it is time to look."""
        if not self._watched or time.monotonic() < self._due:
            return []
        begun = time.thread_time()  # by the clock, a busy machine would have us look away for long
        groups = usage.members({worker.pid for worker in self._watched})
        found = [
            (worker, memory_exceeded(ceiling.memory, seen, worker.pid))
            for worker, ceiling in self._watched.items()
            if (seen := _seen(ceiling, groups[worker.pid], worker.pid)) > ceiling.memory
        ]
        pause = max(LOOK_SECONDS, (time.thread_time() - begun) / LOOKING_SHARE)
        self._due = time.monotonic() + pause
        return found


def _seen(ceiling: _Ceiling, pids: list[int], leader: int) -> int:
    """Return how much more is held than before."""
    held = usage.own_bytes(pids, leader)
    ceiling.before = min(ceiling.before, held)
    if held - ceiling.before <= ceiling.memory:
        return held - ceiling.before
    return usage.distinct_bytes(pids, leader) - ceiling.before


def memory_exceeded(memory: float, seen: int, pid: int) -> MemoryExceeded:
    """Return the error of a task that held too much.

    Examples
    --------
    >>> str(memory_exceeded(5e8, 620_000_000, 17))
    'held 620 MB, and its policy allows memory=500 MB: its process (17) was killed'
    """
    return MemoryExceeded(
        f"held {seen / 1e6:,.4g} MB, and its policy allows memory={memory / 1e6:,.4g} MB: its "
        f"process ({pid}) was killed",
        memory=memory,
        seen=seen,
    )
