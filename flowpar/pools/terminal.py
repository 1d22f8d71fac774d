"""A terminal that bars and tasks share: while there are bars, what tasks write goes above them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from flowpar.pools import standins, switchboard


class Shared:
    """Bars are at the bottom of the terminal, until `close`.

    Tasks in threads, and what logs in this process, write through stand-ins for the standard
    streams; worker processes have theirs, and see on their slates that there are bars.

    Parameters
    ----------
    lock
        Held by who draws the bars.
    """

    def __init__(self, lock: Any) -> None:
        standins.bars.lock = lock
        standins.install()
        self._handlers = list(_redirected_handlers())
        self._change(1)

    def close(self) -> None:
        """Let everybody write as they did."""
        self._change(-1)
        for handler, stream in self._handlers:
            with contextlib.suppress(ValueError):  # closed meanwhile
                handler.setStream(stream)
        self._handlers.clear()
        standins.remove()

    def _change(self, number: int) -> None:
        standins.bars.shown += number
        switchboard.tell_of_bars()


def _redirected_handlers() -> Iterator[tuple[Any, Any]]:
    """Have log handlers write to the stand-ins; yield each with the stream that it had."""
    logging = sys.modules.get("logging")
    if logging is None:
        return
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    for stream, stand_in in standins.stand_ins():
        for handler in handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                yield handler, stream
                handler.setStream(stand_in)
