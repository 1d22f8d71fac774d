"""Stand-ins for the standard streams, for what tasks write.

They give it to who keeps it for that task, or write it above the bars that may be at the bottom of
the terminal. All else goes where it always went. What a task's child processes write, or C code, is
not seen.
"""

from __future__ import annotations

import collections
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

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the real stream."""
        return self._real.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What is done about characters that cannot be encoded."""
        return self._real.errors

    @property
    def buffer(self) -> Any:
        """What takes bytes."""
        return _Bytes(self)

    def write(self, text: str) -> int:
        """Write a text where it belongs."""
        kept_by = keeper.get()
        if kept_by is not None:
            kept_by.write(text)
        else:
            with bars.lock:  # or bars might come in between
                if bars.are_shown() and self._real.isatty():
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
            self._real.write(CLEAR + whole + newline)
            self._real.flush()

    def drain(self, end: str = "\n") -> None:
        """Write lines that have no end, and give them this one."""
        above = CLEAR if end and bars.are_shown() and self._real.isatty() else ""
        for name in list(self._rests):
            self._real.write(above + self._rests.pop(name) + end)
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


class _Bytes:
    """Takes what is written to a stand-in as bytes."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in

    def write(self, data: Any) -> int:
        stand_in = self._stand_in
        if keeper.get() is None and not bars.are_shown():
            return stand_in._real.buffer.write(data)
        stand_in.write(bytes(data).decode(stand_in.encoding or "utf-8", "replace"))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stand_in._real.buffer, name)


def _stand_in_for(stream: TextIO | None) -> Any:
    """Return the stand-in of a stream, always the same.

    It is kept, for some time: a thread that prints on it has only borrowed it from `sys`, and
    would crash the interpreter if it went meanwhile.
    """
    if stream is None or isinstance(stream, StandIn):
        return stream
    for known in _known:
        if known._real is stream:
            return known
    _known.append(StandIn(stream))
    return _known[-1]


_known: Final[collections.deque[StandIn]] = collections.deque(maxlen=100)


def install() -> None:
    """Put stand-ins in place of the standard streams, until `remove` was called as often."""
    global _users  # noqa: PLW0603 - as are the streams
    with _lock:
        _users += 1
        if _users == 1:
            _real[:] = [sys.stdout, sys.stderr]
            sys.stdout, sys.stderr = map(_stand_in_for, _real)


def remove() -> None:
    """Put the streams back, when all who called `install` have called this."""
    global _users  # noqa: PLW0603 - as above
    with _lock:
        _users -= 1
        if _users:
            return
        for name, real in zip(("stdout", "stderr"), _real, strict=True):
            stream = getattr(sys, name)
            if isinstance(stream, StandIn):  # a task may have put another there
                stream.drain("")  # who is writing it goes on
                setattr(sys, name, real)


def drain() -> None:
    """Write lines that have no end."""
    for _, stand_in in stand_ins():
        stand_in.drain()


def drain_thread() -> None:
    """Write a line of this thread that has no end."""
    for _, stand_in in stand_ins():
        if threading.get_ident() in stand_in._rests:
            stand_in.write("\n")


def stand_ins() -> Iterator[tuple[TextIO, StandIn]]:
    """Yield the streams that have one, each with it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, StandIn):
            yield stream._real, stream
