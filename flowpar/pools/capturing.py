"""What tasks print and log, kept apart for each.

While somebody captures, ``sys.stdout`` and ``sys.stderr`` are stand-ins that know, by a context
variable, which call is writing; what is written outside of a captured call goes where it always
went. What a task's child processes write, or C code, is not seen.
"""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
from typing import Any, Final, TextIO

from flowpar.pools.transport import Report

MOST_KEPT: Final = 1 << 16
"""Characters of one call; of more, the first and the last are kept."""

_buffer: contextvars.ContextVar[_Buffer | None] = contextvars.ContextVar(
    "flowpar_output", default=None
)
_lock = threading.Lock()
_users = 0
_real: list[TextIO | None] = []


class _Buffer:
    """What one call has written so far."""

    __slots__ = ("_end", "_skipped", "_start")

    def __init__(self) -> None:
        self._start = io.StringIO()
        self._end = ""
        self._skipped = 0

    def write(self, text: str) -> None:
        room = MOST_KEPT // 2 - self._start.tell()
        self._start.write(text[: max(0, room)])
        rest = self._end + text[max(0, room) :]
        self._skipped += max(0, len(rest) - MOST_KEPT // 2)
        self._end = rest[-(MOST_KEPT // 2) :]

    def text(self) -> str:
        left_out = f"\n… {self._skipped:,} characters …\n" if self._skipped else ""
        return self._start.getvalue() + left_out + self._end


class _StandIn(io.TextIOBase):
    """A standard stream, but for captured calls."""

    def __init__(self, real: TextIO) -> None:
        self._real = real

    def write(self, text: str) -> int:
        buffer = _buffer.get()
        if buffer is None:
            return self._real.write(text)
        buffer.write(text)
        return len(text)

    def flush(self) -> None:
        self._real.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return _buffer.get() is None and self._real.isatty()

    def fileno(self) -> int:
        return self._real.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _LogListener(logging.Handler):
    """Gives records to who captures, where nothing else would show them."""

    def emit(self, record: logging.LogRecord) -> None:
        buffer, last = _buffer.get(), logging.lastResort
        if buffer is not None:
            buffer.write(self.format(record) + "\n")
        elif last is not None and record.levelno >= last.level:
            last.handle(record)  # which was there for it before we came


class Listening:
    """Captures what the calls of one batch write.

    Parameters
    ----------
    mode
        "all", or "failed": only that of calls that fail is kept.
    report
        Where it is put.
    """

    def __init__(self, mode: str, report: Report) -> None:
        self._mode = mode
        self._report = report
        self._token: contextvars.Token[_Buffer | None] | None = None
        _install()

    def begin(self) -> None:
        """Listen to the call that comes."""
        self._token = _buffer.set(_Buffer())

    def end(self, index: int) -> None:
        """Keep what the call with this index has written."""
        if self._token is None:
            return
        buffer = _buffer.get()
        _buffer.reset(self._token)
        self._token = None
        text = "" if buffer is None else buffer.text()
        if text and (self._mode == "all" or index in self._report.failed):
            self._report.output[index] = text

    def close(self) -> None:
        """Listen no more."""
        if self._token is not None:
            _buffer.reset(self._token)
        _remove()


def _install() -> None:
    global _users  # noqa: PLW0603 - as are the streams
    with _lock:
        _users += 1
        if _users > 1:
            return
        _real[:] = [sys.stdout, sys.stderr]
        sys.stdout, sys.stderr = (
            stream if stream is None else _StandIn(stream) for stream in (sys.stdout, sys.stderr)
        )
        root = logging.getLogger()
        if not root.handlers:  # as in a worker process, where nobody has set up any
            handler = _LogListener()
            handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)


def _remove() -> None:
    global _users  # noqa: PLW0603 - as above
    with _lock:
        _users -= 1
        if _users:
            return
        for name, real in zip(("stdout", "stderr"), _real, strict=True):
            if isinstance(getattr(sys, name), _StandIn):  # a task may have put another there
                setattr(sys, name, real)
        root = logging.getLogger()
        for handler in [each for each in root.handlers if isinstance(each, _LogListener)]:
            root.removeHandler(handler)
