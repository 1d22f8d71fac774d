"""What stands for one call of `apply_async`: what is sent, and who hears of its end."""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
import warnings
from dataclasses import dataclass

from flowpar.errors import FlowparWarning, NotPicklable, TaskError
from flowpar.pools.base import Callback
from flowpar.pools.parcel import Parcel
from flowpar.pools.transport import SEALED, Report, load_report

Ending = bytes | bytearray | BaseException
"""A pickled report, or an error."""


@dataclass(slots=True, eq=False, kw_only=True)
class ProcessTicket:
    """A batch on its way; once it was posted, only the transport thread writes to it."""

    callback: Callback | None
    error_callback: Callback | None
    calls: int
    """How many calls the batch has."""
    timeout: float | None
    """Seconds that it may run."""
    memory: float | None
    """Bytes that it may come to hold."""
    wants_report: bool
    """False: the callback is given the value of the only call, and not a report."""
    room: int = 2
    """How many batches may be at a worker with it."""
    parcel: Parcel | None = None
    """What is sent; None once it has ended."""
    misses: int = 0
    """Workers that died before they began it, with nothing else to do."""
    is_repeated: bool = False
    """Whether two workers are at it."""
    has_ended: bool = False

    def tell(self, ending: Ending) -> None:
        """Call the right callback; nothing that happens in it comes back, but for Ctrl-C."""
        if isinstance(ending, BaseException):
            _call(self.error_callback, ending)
            return
        try:
            report = load_report(ending)  # type: ignore[arg-type]  # any bytes will do
        except BaseException as error:  # noqa: BLE001 - loading an exception runs the user's code
            _call(self.error_callback, _unloadable("the report of the worker", error))
            return
        if self.wants_report:
            _call(self.callback, report)
        else:
            self._tell_value(report)

    def _tell_value(self, report: Report) -> None:
        for failure in report.failed.values():
            _call(self.error_callback, failure.error)
            return
        value = next(iter([*report.values.values(), *report.expanded.values()]), None)
        if type(value) in SEALED:
            try:
                value = value.load()  # type: ignore[attr-defined]
            except BaseException as error:  # noqa: BLE001 - loading runs the user's code
                _call(self.error_callback, _unloadable("the result", error))
                return
        _call(self.callback, value)


def _unloadable(what: str, error: BaseException) -> TaskError:
    refusal = NotPicklable(f"{what} could not be loaded: {type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal


def _call(callback: Callback | None, ending: object) -> None:
    if callback is None:
        return
    try:
        callback(ending)
    except BaseException as error:
        if (
            isinstance(error, KeyboardInterrupt)
            and threading.current_thread() is threading.main_thread()
        ):
            raise
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        announce(f"a callback of a process pool raised; the pool goes on:\n{text}")


def announce(message: str) -> None:
    """Warn the user where an error would lose what is worth more, or end a thread of ours."""
    # Nobody can be told where standard error is closed, or full.
    with contextlib.suppress(OSError, ValueError):
        try:
            warnings.warn(message, FlowparWarning, stacklevel=2)
        except FlowparWarning:  # warnings are errors here
            if sys.stderr is not None:
                print(f"flowpar: {message}", file=sys.stderr)  # noqa: T201 - nobody else would hear
