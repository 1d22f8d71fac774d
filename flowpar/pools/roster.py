"""The workers that a pool has, the nursery they come from, and their place in a selector."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import selectors
import socket
import time
from collections.abc import Iterator
from typing import Final

from flowpar.pools.groups import kill_group
from flowpar.pools.nursery import (
    Notice,
    Nursery,
    NurseryGoneError,
    Settings,
    context_file,
    make_nursery,
)
from flowpar.pools.remote import RemoteWorker

CAUSE_SECONDS: Final = 0.2
"""How long a worker that closed its socket may take to end by itself."""
REAP_SECONDS: Final = 2.0
"""How long we wait to be told how it ended."""


class Roster:
    """Starts workers, knows which there are, and lets go of them; it knows nothing of batches.

    All of it is for the transport thread, except where a method says otherwise.

    Parameters
    ----------
    settings
        How the workers are to be.
    selector
        Where sockets are registered; their data is a `RemoteWorker`, or the nursery.
    """

    def __init__(self, settings: Settings, selector: selectors.BaseSelector) -> None:
        self._settings = settings
        self._selector = selector
        self._nursery: Nursery | None = None
        self._workers: dict[int, RemoteWorker] = {}
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[RemoteWorker]:
        # A copy, as workers come and go meanwhile; made in one step, so any thread may ask.
        return iter(list(self._workers.values()))

    def __contains__(self, worker: RemoteWorker) -> bool:
        return self._workers.get(worker.number) is worker

    def find(self, number: int) -> RemoteWorker | None:
        """Return a worker by its number, unless it was forgotten."""
        return self._workers.get(number)

    @property
    def alive(self) -> list[RemoteWorker]:
        """Workers that can be sent something now or soon."""
        return [worker for worker in self if worker.is_alive]

    @property
    def can_serve(self) -> bool:
        """Whether there is at least one that has said that it is set up."""
        return any(worker.is_alive and worker.is_ready for worker in self)

    def prepare(self) -> Nursery:
        """Return the nursery, opened if it was not.

        Raises
        ------
        OSError, PoolError
            If the system refuses.
        """
        if self._nursery is None:
            self._nursery = make_nursery(self._settings)
            self._selector.register(self._nursery, selectors.EVENT_READ, self._nursery)
        return self._nursery

    def start_worker(self) -> None:
        """Start a worker.

        Raises
        ------
        OSError, PoolError, NurseryGoneError
            If it cannot be.
        """
        nursery = self.prepare()
        cpu = self._next_cpu() if self._settings.pin else None
        worker = RemoteWorker(next(self._numbers), cpu, self._settings.max_tasks_per_worker)
        # Known before it is there: a process forked from this one closes what is known.
        self._workers[worker.number] = worker
        try:
            files = worker.take_files(context_file(self._settings, cpu))
            try:
                worker.pid = nursery.start(worker.number, files)
            finally:
                files.close()
            self._selector.register(worker.sock, selectors.EVENT_READ, worker)
        except BaseException:
            del self._workers[worker.number]
            worker.close()
            raise

    def _next_cpu(self) -> int:
        """Return the CPU that the fewest workers are bound to: a replacement gets the old one's."""
        bound = collections.Counter(worker.cpu for worker in self.alive)
        # Of the process: this thread's may be others.
        return min(sorted(os.sched_getaffinity(os.getpid())), key=bound.__getitem__)

    def notices(self, nursery: object) -> list[Notice]:
        """Return what a nursery says.

        Raises
        ------
        NurseryGoneError
            If it has gone.
        """
        if self._nursery is None or nursery is not self._nursery:  # replaced a moment ago
            return []
        return self._nursery.notices()

    def flush(self, worker: RemoteWorker) -> int:
        """Write what a worker's socket takes; return how much that was."""
        try:
            sent_bytes = worker.flush()
        except OSError:
            # It has gone; what it still said is to be read before its end is.
            self._watch(worker, selectors.EVENT_READ)
            return 0
        writing = selectors.EVENT_WRITE if worker.has_unsent else 0
        self._watch(worker, selectors.EVENT_READ | writing)
        return sent_bytes

    def _watch(self, worker: RemoteWorker, events: int) -> None:
        if self._selector.get_key(worker.sock).events != events:
            self._selector.modify(worker.sock, events, worker)

    def lose(self, worker: RemoteWorker) -> None:
        """Note that a worker's channel has closed; the nursery will say how it ended."""
        self._selector.unregister(worker.sock)
        worker.sock.close()
        worker.lost_at = time.monotonic()

    def dismiss(self, worker: RemoteWorker) -> None:
        """Have a worker that has nothing to do end by itself; the nursery will say that it has."""
        worker.is_retired = True
        worker.reason = "was told to end"
        # Also where a process that was forked behind our back has a copy of the socket.
        with contextlib.suppress(OSError):  # it has gone
            worker.sock.shutdown(socket.SHUT_RDWR)
        self.lose(worker)

    def kill(self, worker: RemoteWorker) -> None:
        """Have a worker killed, with its process group; the nursery will say that it ended."""
        try:
            if self._nursery is not None:
                self._nursery.kill(worker.number)
        except NurseryGoneError:
            # We hear of it by end of file, too, and all workers end with the nanny.
            return

    def forget(self, worker: RemoteWorker) -> None:
        """Let go of a worker that has ended or was killed."""
        if worker.is_alive:
            self._selector.unregister(worker.sock)
        self._workers.pop(worker.number, None)
        worker.close()

    def drop_nursery(self) -> bool:
        """Kill what a nanny that has gone was watching; return whether there was one."""
        nursery, self._nursery = self._nursery, None
        if nursery is None:
            return False
        self._selector.unregister(nursery)
        nursery.close()
        for worker in self:
            if worker.pid:
                kill_group(worker.pid)
        return True

    def close(self) -> None:
        """Kill all workers, and let go of everything."""
        nursery, self._nursery = self._nursery, None
        try:
            if nursery is not None:
                nursery.close()
        finally:
            for worker in self:
                worker.close()
            self._workers.clear()

    def abandon(self) -> None:
        """Close every descriptor, in a process forked from this one."""
        if self._nursery is not None:
            self._nursery.abandon()
        for worker in self:
            worker.close()

    def next_deadline(self) -> float | None:
        """Return when the first worker will be late, by `time.monotonic`."""
        times = [due for worker in self if (due := _due(worker)) is not None]
        return min(times, default=None)

    def late(self) -> list[RemoteWorker]:
        """Return those that should have ended a batch, or themselves, by now."""
        now = time.monotonic()
        return [worker for worker in self if (due := _due(worker)) is not None and due <= now]


def _due(worker: RemoteWorker) -> float | None:
    if worker.lost_at is None:
        return worker.deadline
    return worker.lost_at + (CAUSE_SECONDS if worker.reason is None else REAP_SECONDS)
