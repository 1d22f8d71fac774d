"""Stand-ins for the standard streams, for what tasks write.

They give it to who keeps it for that task, or write it above the bars that may be at the bottom of
the terminal. All else goes where it always went. What a task's child processes write, or C code, is
not seen.
"""

from __future__ import annotations

import contextvars
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TextIO

CLEAR: Final = "\r\x1b[J"
"""Has a terminal go to the start of the line and forget all from there on: the bars. Who draws
them draws them again, soon and below."""


class Keeper(Protocol):
    """Keeps what one task writes."""

    def write(self, text: str) -> None:
        """Take some text."""


keeper: Final[contextvars.ContextVar[Keeper | None]] = contextvars.ContextVar(
    "flowpar_keeper", default=None
)
"""Who keeps what is written in this thread, or by this coroutine."""

_lock = threading.RLock()
_users = 0
_real: list[TextIO | None] = []


class Bars:
    """Whether there are bars, and what keeps others from drawing.

    Attributes
    ----------
    shown
        How many runs of this process show theirs.
    lock
        Held by who draws.
    are_shown
        Returns whether there are any; a worker process asks its parent.
    """

    def __init__(self) -> None:
        self.shown = 0
        self.lock: Any = threading.RLock()
        self.are_shown: Callable[[], object] = lambda: self.shown

    def leave(self) -> None:
        """Forget them, in a process forked from one that has them: they are not its own."""
        self.__init__()  # type: ignore[misc]


bars: Final = Bars()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=bars.leave)


class StandIn(io.TextIOBase):
    """A standard stream, but for what is kept, and for whole lines where there are bars."""

    def __init__(self, real: TextIO) -> None:
        self._real = real
        self._rests: dict[int, str] = {}

    def write(self, text: str) -> int:
        """Write a text where it belongs."""
        kept_by = keeper.get()
        if kept_by is not None:
            kept_by.write(text)
        elif bars.are_shown() and self._real.isatty():
            self._write_lines(text)
        else:
            self._real.write(self._rests.pop(threading.get_ident(), "") + text)
        return len(text)

    def _write_lines(self, text: str) -> None:
        """Write what is whole; the rest of a line waits, or the next bar would wipe it out."""
        name = threading.get_ident()
        whole, newline, rest = (self._rests.pop(name, "") + text).rpartition("\n")
        if rest:
            self._rests[name] = rest
        if newline:
            with bars.lock:
                self._real.write(CLEAR + whole + newline)
                self._real.flush()

    def drain(self) -> None:
        """Write lines that have no end."""
        for name in list(self._rests):
            self._real.write(f"{self._rests.pop(name)}\n")
        self._real.flush()

    def flush(self) -> None:
        """Pass on what was written."""
        self._real.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether a terminal is at the other end."""
        return keeper.get() is None and self._real.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the real stream."""
        return self._real.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def install() -> bool:
    """Put stand-ins in place of the standard streams; return whether there were none so far."""
    global _users  # noqa: PLW0603 - as are the streams
    with _lock:
        _users += 1
        if _users > 1:
            return False
        _real[:] = [sys.stdout, sys.stderr]
        sys.stdout, sys.stderr = (
            stream if stream is None else StandIn(stream) for stream in (sys.stdout, sys.stderr)
        )
        return True


def remove() -> bool:
    """Put the streams back when all who called `install` have; return whether that is now."""
    global _users  # noqa: PLW0603 - as above
    with _lock:
        _users -= 1
        if _users:
            return False
        for name, real in zip(("stdout", "stderr"), _real, strict=True):
            stream = getattr(sys, name)
            if isinstance(stream, StandIn):  # a task may have put another there
                stream.drain()
                setattr(sys, name, real)
        return True


def drain() -> None:
    """Write lines that have no end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, StandIn):
            stream.drain()


def stand_ins() -> Iterator[tuple[TextIO, StandIn]]:
    """Yield the streams that have one, each with it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, StandIn):
            yield stream._real, stream
