"""What stands for calls that were handed to a pool: one, all of a list, or one after another."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flowpar.compat.chunks import Outcome, check_owner
from flowpar.compat.dispatcher import report_callback
from flowpar.compat.inputs import Inputs
from flowpar.errors import NotPicklable, add_note

Callback = Callable[[Any], object]


@functools.cache
def _time_over() -> type[TimeoutError]:
    """Return the TimeoutError that is Python's and multiprocessing's."""
    import multiprocessing  # noqa: PLC0415 - slow to import, and rare

    bases = (multiprocessing.TimeoutError, TimeoutError)
    return type("TimeoutError", bases, {"__module__": "flowpar"})


def time_over(seconds: float) -> TimeoutError:
    """Return the error of who waits no longer; what was waited for goes on."""
    return _time_over()(f"the result was not there after {seconds:g} s")


def as_expected(error: BaseException) -> BaseException:
    """Return the error that who knows multiprocessing expects where something does not pickle."""
    if not isinstance(error, NotPicklable):
        return error
    if error.path.startswith("result"):
        from multiprocessing import pool  # noqa: PLC0415 - as above

        refused: BaseException = pool.MaybeEncodingError(error, error.path)  # type: ignore[attr-defined]
        refused.__cause__ = error
        return refused
    cause = error.__cause__
    if cause is None:
        return error
    for note in (str(error), *getattr(error, "__notes__", ())):
        add_note(cause, note)
    return cause


def for_loops(error: BaseException) -> BaseException:
    """Return what to raise in place of an error that would end the loop, and nobody knew."""
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError("a call raised StopIteration")
    told.__cause__ = error
    return told


class AsyncResult:
    """One call that was handed to a pool; as `multiprocessing.pool.AsyncResult`."""

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._event = threading.Event()
        self._owner = os.getpid()
        self._value: Any = None
        self._error: BaseException | None = None

    def ready(self) -> bool:
        """Return whether it has ended."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Return whether it has ended with a value.

        Raises
        ------
        ValueError
            If it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        if not self._event.is_set():
            check_owner(self._owner)
            self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the value, once it is there.

        Raises
        ------
        TimeoutError
            If it is not there after so many seconds. It is multiprocessing's, and Python's.
        BaseException
            What the call raised.
        """
        self.wait(timeout)
        if not self.ready():
            raise time_over(timeout or 0.0)
        if self._error is not None:
            raise self._error
        return self._value

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcome."""
        del first
        self._settle(outcomes[0].value, outcomes[0].error)

    def put_values(self, first: int, values: list[Any]) -> None:
        """Take the value."""
        del first
        self._settle(values[0], None)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        error = None if error is None else as_expected(error)
        self._value, self._error = value, error
        callback = self._callback if error is None else self._error_callback
        self._callback = self._error_callback = None
        # As multiprocessing: who waits finds that the callback was called.
        report_callback(callback, value if error is None else error)
        self._event.set()

    def __repr__(self) -> str:
        if not self.ready():
            return f"<{type(self).__name__}: not ready>"
        return f"<{type(self).__name__}: {'failed' if self._error else 'ready'}>"


class MapResult(AsyncResult):
    """All calls of a list that was handed to a pool; as `multiprocessing.pool.MapResult`.

    Parameters
    ----------
    callback
        Given the list of all values.
    error_callback
        Given the error of the first call, in their order, that raised one.
    """

    def __init__(self, callback: Callback | None, error_callback: Callback | None) -> None:
        super().__init__(callback, error_callback)
        self._values: list[Any] = []
        self._left = 0
        self._failed: dict[int, BaseException] = {}

    def expect(self, size: int) -> None:
        """Know how many calls there are."""
        self._values = [None] * size
        self._left = size
        if not size:
            self._settle([], None)

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of some calls."""
        for number, outcome in enumerate(outcomes, first):
            if outcome.error is None:
                self._values[number] = outcome.value
            else:
                self._failed[number] = outcome.error
        self._count(len(outcomes))

    def put_values(self, first: int, values: list[Any]) -> None:
        """Take the values of some calls."""
        self._values[first : first + len(values)] = values
        self._count(len(values))

    def _count(self, more: int) -> None:
        self._left -= more
        if not self._left:
            error = self._failed[min(self._failed)] if self._failed else None
            values, self._values = self._values, []
            self._settle(None if error else values, error)


class ResultIterator(Iterator[Any]):
    """Values of calls, one after another; as `multiprocessing.pool.IMapIterator`.

    A call that failed raises its error in its place, and the next call of `next` goes on.

    Parameters
    ----------
    inputs
        Where the calls come from.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        weakref.finalize(self, inputs.leave).atexit = False

    def __iter__(self) -> ResultIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """Return the next value.

        Parameters
        ----------
        timeout
            Seconds to wait for it; None: as long as it takes.

        Raises
        ------
        StopIteration
            If there is none.
        TimeoutError
            If it is not there in time; one may ask again. It is multiprocessing's, and Python's.
        BaseException
            What the call raised, or the input.
        """
        try:
            outcome = self._inputs.next(timeout)
        except TimeoutError:
            raise time_over(timeout or 0.0) from None
        if outcome is None:
            raise StopIteration
        if outcome.error is not None:
            raise for_loops(as_expected(outcome.error))
        return outcome.value

    __next__ = next  # noqa: A003 - multiprocessing's
