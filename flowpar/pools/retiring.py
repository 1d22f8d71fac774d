"""Which workers have worked long enough, or have grown too large, and are to end.

Such a worker gets nothing more. When what it has begun has ended its channel is closed, upon which
it ends by itself; a fresh one takes its place when there is work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flowpar.pools import usage
from flowpar.pools.nursery import Settings
from flowpar.pools.remote import RemoteWorker
from flowpar.pools.roster import Roster


@dataclass(slots=True)
class Retired:
    """How many workers were retired, by why.

    Attributes
    ----------
    tasks
        For having made as many calls as they may.
    memory
        For holding more memory than they may.
    """

    tasks: int = 0
    memory: int = 0


class Retiring:
    """Sees who is to retire; for the transport thread.

    Parameters
    ----------
    settings
        How many calls, and how much memory, are enough.
    roster
        The workers.
    retired
        Where it is counted.
    """

    def __init__(self, settings: Settings, roster: Roster, retired: Retired) -> None:
        self._most_bytes = settings.max_worker_memory
        self._is_asked = (settings.max_tasks_per_worker or self._most_bytes) is not None
        self._roster = roster
        self._retired = retired

    def weigh(self, worker: RemoteWorker) -> None:
        """Look at the memory of a worker that has just reported."""
        if self._most_bytes is not None:
            worker.is_heavy = (usage.resident_bytes(worker.pid) or 0) > self._most_bytes

    def leaving(self) -> Iterator[RemoteWorker]:
        """Yield the workers that are to get nothing more, and have not been let go."""
        if self._is_asked:
            for worker in self._roster:
                if worker.is_alive and worker.is_leaving:
                    yield worker

    def let_go(self, worker: RemoteWorker) -> None:
        """Have a worker end that has nothing left."""
        self._retired.memory += worker.is_heavy
        self._retired.tasks += not worker.is_heavy
        self._roster.dismiss(worker)
