"""What tasks print and log, kept apart for each."""

from __future__ import annotations

import contextvars
import io
import logging
import threading
from typing import Final

from flowpar.pools import standins
from flowpar.pools.standins import Keeper, keeper
from flowpar.pools.transport import Report

MOST_KEPT: Final = 1 << 16
"""Characters of one call; of more, the first and the last are kept."""

_lock = threading.Lock()
_users = 0


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


class _LogListener(logging.Handler):
    """Gives records to who captures, where nothing else would show them."""

    def emit(self, record: logging.LogRecord) -> None:
        buffer, last = keeper.get(), logging.lastResort
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
        self._buffer = _Buffer()
        self._token: contextvars.Token[Keeper | None] | None = None
        standins.install()
        _listen_to_logs()

    def begin(self) -> None:
        """Listen to the call that comes."""
        self._buffer = _Buffer()
        self._token = keeper.set(self._buffer)

    def end(self, index: int) -> None:
        """Keep what the call with this index has written."""
        if self._token is None:
            return
        keeper.reset(self._token)
        self._token = None
        text = self._buffer.text()
        if text and (self._mode == "all" or index in self._report.failed):
            self._report.output[index] = text

    def close(self) -> None:
        """Listen no more."""
        if self._token is not None:
            keeper.reset(self._token)
        _leave_logs()
        standins.remove()


def _listen_to_logs() -> None:
    global _users  # noqa: PLW0603 - as is the root logger
    with _lock:
        _users += 1
        root = logging.getLogger()
        if _users == 1 and not root.handlers:  # as in a worker process: nobody has set up any
            handler = _LogListener()
            handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)


def _leave_logs() -> None:
    global _users  # noqa: PLW0603 - as above
    with _lock:
        _users -= 1
        if _users:
            return
        root = logging.getLogger()
        for handler in [each for each in root.handlers if isinstance(each, _LogListener)]:
            root.removeHandler(handler)
