"""Sees what another thread does while this one holds the GIL."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from typing import Any, Final

from flowpar.pools.runqueue import RunQueue

_LONGEST_LOOK: Final = 2e-3
"""Seconds; short beside the 5 ms after which Python hands the GIL to who waits for it."""

_NAP: Final = 50
"""Microseconds for which we leave a CPU to the other thread, which may have none of its own."""

_COMPUTED: Final = 1e-4
"""Seconds of CPU time; a thread that has lost the GIL needs less until it sleeps."""


class Watched:
    """A thread that others may look at: the one that makes this, until `close`.

    Attributes
    ----------
    thread
        Its identifier.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._lock = threading.Lock()
        # macOS has no such clocks.
        clock_of = getattr(time, "pthread_getcpuclockid", None)
        self._clock: int | None = None if clock_of is None else clock_of(self.thread)
        self._queue = RunQueue(threading.get_native_id())
        self._state: int | None = None
        with contextlib.suppress(OSError):
            path = f"/proc/self/task/{threading.get_native_id()}/stat"
            self._state = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let nobody look any more."""
        with self._lock:
            state, self._state, self._clock = self._state, None, None
        if state is not None:
            os.close(state)

    def cpu_seconds(self) -> float | None:
        """Return the CPU time that the thread has used; None if nobody can say."""
        with self._lock:
            return None if self._clock is None else time.clock_gettime(self._clock)

    def delayed_seconds(self) -> float:
        """Return for how long it has waited for a CPU in all; 0 if nobody can say."""
        return self._queue.delayed_seconds()

    def is_importing(self) -> bool:
        """Return whether it is in the middle of an import."""
        frame = sys._current_frames().get(self.thread)
        while frame is not None:
            if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
                return True
            frame = frame.f_back
        return False

    def computes(self) -> bool | None:
        """Return whether it computes, though this thread has the GIL; None if nobody can say.

        What waits for the GIL sleeps soon, as the kernel knows; what computes without it uses CPU
        time. What does neither has no CPU just now. The kernel is asked in a way that does not let
        go of the GIL, or the other would have it while it is looked at.
        """
        with self._lock:
            if self._state is None or self._clock is None:
                return None
            cpu = time.clock_gettime(self._clock)
            until = time.perf_counter() + _LONGEST_LOOK
            while time.perf_counter() < until:
                if time.clock_gettime(self._clock) - cpu > _COMPUTED:
                    return True
                if not _runs(self._state):
                    return False
                _libc().usleep(_NAP)  # with the GIL: that is the point
            return None


def _runs(handle: int) -> bool:
    """Return whether a thread has a CPU, or waits for nothing else."""
    return _read(handle).rpartition(b")")[2].lstrip()[:1] == b"R"


def _read(handle: int) -> bytes:
    import ctypes  # noqa: PLC0415 - slow to import, and few runs look at a thread

    text = ctypes.create_string_buffer(512)
    length = _libc().pread(handle, text, len(text) - 1, 0)
    return text.raw[: max(0, length)]


@functools.cache
def _libc() -> Any:
    import ctypes  # noqa: PLC0415 - as above

    libc = ctypes.PyDLL(None)  # unlike CDLL it keeps the GIL
    libc.pread.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long]
    libc.pread.restype = ctypes.c_ssize_t
    libc.usleep.argtypes = [ctypes.c_uint]
    return libc
