"""For how long a thread wanted a CPU and had none, as Linux counts it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

_local = threading.local()


class RunQueue:
    """The kernel's account of one thread of this process; closed when nobody has it any more.

    Parameters
    ----------
    thread
        Its number in the system.
    """

    __slots__ = ("_file",)

    def __init__(self, thread: int) -> None:
        self._file = -1
        try:
            self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # no such system, or kernel
            return

    def delayed_seconds(self) -> float:
        """Return for how long it has waited for a CPU in all; 0 if nobody can say."""
        if self._file < 0:
            return 0.0
        try:
            # Nanoseconds on a CPU, nanoseconds in the queue for one, turns.
            return int(os.pread(self._file, 100, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # a task has closed what it did not open
            return 0.0

    # Bound here, as a module loses its names while the interpreter ends.
    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        try:
            if self._file >= 0:
                _close(self._file)
        except OSError:  # as above
            return


def account_for_this_thread() -> None:
    """Have `delayed_seconds` answer for this thread, one of a pool's, as long as it lives."""
    _local.queue = RunQueue(threading.get_native_id())


def delayed_seconds() -> float:
    """Return for how long this thread has waited for a CPU in all; 0 if nobody can say."""
    found: RunQueue | None = getattr(_local, "queue", None)
    return 0.0 if found is None else found.delayed_seconds()
