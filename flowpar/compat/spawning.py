"""`spawn`: one function in a process of its own, whose value does not get lost."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any, Final

from flowpar.compat.results import time_over
from flowpar.errors import Cancelled, PoolError, add_note
from flowpar.pools.ticket import announce
from flowpar.pools.transport import prepare_module
from flowpar.task import TASK_TYPES, gives_coroutine

_LOOK_SECONDS: Final = 0.005
"""Between two looks whether the process is there, for who wants to know its id."""


def spawn(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Spawned:
    """Call a function in a new process, and return a handle of it at once.

    The process ends when the function has returned, and the threads that it has started and that
    are no daemons have ended. If it raises and nobody asks, that is told.

    Parameters
    ----------
    func
        Any function, a lambda too, or a coroutine function. A delayed call that it returns is
        computed there.
    *args, **kwargs
        With what it is called.

    Returns
    -------
    Spawned
        Its ``result()`` is what the function returns.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.spawn(pow, 2, 5).result()
    32
    """
    if not callable(func):
        raise TypeError(f"spawn calls a function, and not {func!r}")
    return Spawned(func, args, kwargs)


class Spawned:
    """A call in a process of its own; made by `spawn`.

    The process ends with the call. A program waits at its end for those that still run.
    """

    def __init__(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        from flowpar.pools.processes import ProcessPool  # noqa: PLC0415 - most of our import time

        prepare_module(getattr(func, "__module__", None) or "__main__")
        self._name = getattr(func, "__name__", type(func).__name__)
        self._owner = os.getpid()
        self._is_asked = False
        self._ended = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._pid: int | None = None
        self._pool = ProcessPool(1, is_single=True)
        _running.add(self)  # first: it may end at once
        _wait_at_exit()
        try:
            self._ticket = self._pool.apply_async(
                _Alone(func), args, kwargs, callback=self._succeed, error_callback=self._fail
            )
        except BaseException:
            self._settle()
            raise

    @property
    def pid(self) -> int | None:
        """The id of its process; None: it ended before anybody asked, or could not be started."""
        while self._pid is None and not self._wait(_LOOK_SECONDS):
            self._pid = next(iter(self._pool.pids()), None)
        return self._pid

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._ended.is_set()

    def is_alive(self) -> bool:
        """Return whether it has not."""
        return not self.done()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        self._wait(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """Return what the function returned, once it has.

        Raises
        ------
        TimeoutError
            If it has not after so many seconds; it goes on.
        WorkerDied
            If the process ended before the function did.
        Cancelled
            After `kill`.
        Exception
            What the function raised.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the function raised, once it has ended; None: it returned.

        Raises
        ------
        TimeoutError
            If it has not after so many seconds; it goes on.
        """
        if not self._wait(timeout):
            raise time_over(timeout or 0.0)
        self._is_asked = True
        return self._error

    def kill(self) -> None:
        """End the process now."""
        self._pool.cancel(self._ticket)

    def _wait(self, timeout: float | None) -> bool:
        if os.getpid() != self._owner and not self.done():
            raise PoolError(
                f"{self._name} was spawned by the process that this one was forked from, which "
                "alone hears of it"
            )
        return self._ended.wait(timeout)

    def _succeed(self, value: Any) -> None:
        self._value = value
        self._settle()

    def _fail(self, error: BaseException) -> None:
        add_note(error, f"flowpar: {self._name}, in a process of its own")
        self._error = error
        if not isinstance(error, Cancelled):
            _failed.add(self)
        self._settle()

    def _settle(self) -> None:
        _running.discard(self)
        self._ended.set()
        self._pool.close()

    def __repr__(self) -> str:
        state = "running" if self.is_alive() else "failed" if self._error else "done"
        return f"<Spawned {self._name}, {state}>"

    def tell(self) -> None:
        """Tell of an error that nobody has asked for."""
        error = self._error
        if error is None or self._is_asked or os.getpid() != self._owner:
            return
        self._is_asked = True
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        announce(f"{self._name} failed in a process of its own, and nobody asked:\n{text}")

    def __del__(self) -> None:
        if not isinstance(self._error, Cancelled):
            self.tell()


class _Alone:
    """A function that is all that its process does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = set(threading.enumerate())
        try:
            value = _plain(self.function)(*args, **kwargs)
            if type(value) in TASK_TYPES:
                value = value.compute(scheduler="sync", progress=False)
            return value
        finally:
            # More than once: they may start others.
            while started := [each for each in threading.enumerate() if _is_new(each, before)]:
                for thread in started:
                    thread.join()


def _is_new(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    return not thread.daemon and thread not in before


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a coroutine function as an ordinary one."""
    if not gives_coroutine(function):
        return function
    from flowpar.pools.coroutines import Awaited  # noqa: PLC0415 - brings asyncio

    return Awaited(function)


_running: Final[set[Spawned]] = set()

_failed: Final[weakref.WeakSet[Spawned]] = weakref.WeakSet()
"""Of whose errors nobody may have asked."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)


@functools.cache
def _wait_at_exit() -> None:
    # Not before there is something that ends workers at exit: what comes last is done first.
    atexit.register(_join_all)


def _join_all() -> None:
    """Wait for all, as multiprocessing does at the end of a program; after Ctrl-C end them."""
    for each in list(_running):
        if getattr(sys, "last_type", None) is KeyboardInterrupt:
            each.kill()
        each.join()
    for each in list(_failed):
        each.tell()
