"""What the processes of a run use while it goes on: CPU and memory, looked at now and then.

Needs psutil (extra "resources").
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flowpar.errors import MissingExtra


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one process used at one moment."""

    time: float
    """Seconds since the epoch."""
    pid: int
    cpu_percent: float
    """Of one CPU, since the last look; more than 100 if several threads compute."""
    memory_bytes: int
    """What it has in memory (its resident set), shared pages included."""


class Samples:
    """Looks at some processes until it is closed.

    Parameters
    ----------
    pids
        Returns the processes to look at; called in a thread of this object's.
    interval
        Seconds between two looks.

    Attributes
    ----------
    all
        What was seen, in the order of time.

    Raises
    ------
    MissingExtra
        If psutil is not installed.
    """

    def __init__(self, pids: Callable[[], Iterable[int]], interval: float) -> None:
        try:
            import psutil  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtra(
                'the option "sample" needs psutil: pip install "flowpar[resources]"',
                extra="resources",
            ) from error
        self.all: list[Sample] = []
        self._psutil = psutil
        self._pids = pids
        self._interval = interval
        self._known: dict[int, Any] = {}
        self._look()  # the first look only begins to count the CPU time
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="flowpar samples", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look once more, and end."""
        self._closing.set()
        self._thread.join()

    def peak_bytes(self, pid: int, start: float, end: float) -> int | None:
        """Return the most memory that a process was seen to have in some time; None: nobody looked.

        Parameters
        ----------
        pid
            The process.
        start, end
            Seconds since the epoch.
        """
        seen = self.all
        first = bisect.bisect_left(seen, start, key=_time)
        last = bisect.bisect_right(seen, end, key=_time)
        found = (each.memory_bytes for each in seen[first:last] if each.pid == pid)
        return max(found, default=None)

    def _look_on(self) -> None:
        while True:
            is_last = self._closing.wait(self._interval)
            self._look()
            if is_last:
                return

    def _look(self) -> None:
        for pid in dict.fromkeys((os.getpid(), *self._pids())):
            try:
                process = self._known.get(pid)
                if process is None:
                    process = self._known[pid] = self._psutil.Process(pid)
                    process.cpu_percent()  # the next will be since now
                    continue
                used, memory = process.cpu_percent(), process.memory_info().rss
            except self._psutil.Error:  # it has ended
                self._known.pop(pid, None)
                continue
            sample = Sample(time=time.time(), pid=pid, cpu_percent=used, memory_bytes=memory)
            self.all.append(sample)


def _time(sample: Sample) -> float:
    return sample.time
