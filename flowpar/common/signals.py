"""What tasks wait for: semaphores, events, conditions and barriers that travel."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import operator
import os
import sys
import threading
import time
from collections.abc import Callable
from threading import BrokenBarrierError
from types import TracebackType
from typing import Any, Final

from flowpar.common.gates import Gate, seconds
from flowpar.common.locks import Lock, RLock
from flowpar.common.remote import Remote, Shared, serve
from flowpar.common.serving import TIMED_OUT, server_at
from flowpar.common.things import Flag, Gathering, Permits, Turnstile
from flowpar.errors import PoolError
from flowpar.pickling import refuse_to_be_kept

_tickets = itertools.count(1)
"""The numbers by which this process enlists: made here, so that each can be taken back."""


def _limit(timeout: float | None) -> float | None:
    return None if timeout is None else seconds(timeout)


class Semaphore(Shared):
    """So many permits, which tasks on threads and in processes take and give back.

    Used like `multiprocessing.Semaphore`. When a process dies within a call, what it has taken in
    that call is given back. What a call keeps that has ended stays taken, until it is released.

    Parameters
    ----------
    value
        How many there are, a whole number.

    Examples
    --------
    >>> import flowpar
    >>> two = flowpar.Semaphore(2)
    >>> [two.acquire(block=False) for _ in range(3)]
    [True, True, False]
    >>> two.release()
    >>> two.get_value()
    1
    """

    def __init__(self, value: int = 1) -> None:
        count = operator.index(value)
        if count < 0:
            raise ValueError("a semaphore begins with zero permits or more")
        self._remote = serve(Permits(count, self._most(count)))

    def _most(self, _value: int) -> int | None:
        return None

    def acquire(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool = True
    ) -> bool:
        """Take a permit; return whether that was possible.

        Parameters
        ----------
        block, blocking
            Whether to wait; `threading` has the second name for it.
        timeout
            Seconds to wait for at most; None: as long as it takes.
        """
        limit = _limit(timeout)
        wait = block and blocking and limit != 0
        is_taken = self._ask("acquire", wait, timeout=limit if wait else None) is True
        if is_taken:
            _note(self._remote, 1)
        return is_taken

    def release(self) -> None:
        """Give a permit back.

        Raises
        ------
        ValueError
            If it is bounded, and none was taken.
        """
        self._ask("release")
        _note(self._remote, -1)

    def get_value(self) -> int:
        """Return how many permits there are now."""
        return int(self._ask("get_value"))

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __flowpar_digest__(self) -> object:
        return None  # it decides when something happens, never what it gives


class _Taken:
    """The permits that the call which runs here has taken from elsewhere, and not given back."""

    counts: Final[dict[Remote, int]] = {}
    lock = threading.RLock()
    pid = 0


def _note(remote: Remote, change: int) -> None:
    if server_at(remote.path) is not None:  # they end with this process
        return
    with _Taken.lock:
        count = _Taken.counts.pop(remote, 0) + change
        if count > 0:
            _Taken.counts[remote] = count
        if _Taken.pid != os.getpid():
            _Taken.pid = os.getpid()
            _settle_at_exit()


def _settle_at_exit() -> None:
    atexit.register(settle)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # its processes have exit functions of their own
        util.Finalize(None, settle, exitpriority=0)


def settle() -> None:
    """Have what was taken here stay taken, however this process ends: the call has ended."""
    with _Taken.lock:
        remotes = list(_Taken.counts)
        _Taken.counts.clear()
    for remote in remotes:
        with contextlib.suppress(PoolError, OSError):  # its process has ended
            remote.ask("settle")


def _after_fork() -> None:
    _Taken.lock = threading.RLock()
    _Taken.counts.clear()  # they are the parent's


os.register_at_fork(after_in_child=_after_fork)


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses more permits than it began with; otherwise as `Semaphore`.

    Parameters
    ----------
    value
        How many there are, a whole number.

    Examples
    --------
    >>> import flowpar
    >>> flowpar.BoundedSemaphore(2).release()
    Traceback (most recent call last):
    ValueError: a semaphore was released too many times
    """

    def _most(self, value: int) -> int | None:
        return value


class Event(Shared):
    """A flag that tasks on threads and in processes set, and wait for.

    Used like `multiprocessing.Event`.

    Examples
    --------
    >>> import flowpar
    >>> ready = flowpar.Event()
    >>> ready.wait(timeout=0)
    False
    >>> flowpar.delayed(ready.set)().compute(scheduler="processes")
    >>> ready.wait()
    True
    """

    def __init__(self) -> None:
        self._remote = serve(Flag())

    def is_set(self) -> bool:
        """Return whether it is set."""
        return bool(self._ask("is_set"))

    def set(self) -> None:
        """Set it: all who wait go on."""
        self._ask("set")

    def clear(self) -> None:
        """Take it back."""
        self._ask("clear")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return whether it is.

        Parameters
        ----------
        timeout
            Seconds to wait for at most; None: as long as it takes.
        """
        return self._ask("wait", timeout=_limit(timeout)) is True


class Condition(Shared):
    """A lock, and those who wait until something has changed under it.

    Used like `multiprocessing.Condition`. A process that dies while it waits takes no notification
    with it. If a signal handler raises while `wait` takes the lock again, that is not held.

    Parameters
    ----------
    lock
        A `flowpar.Lock` or `RLock`; None: an `RLock` of its own.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def open_up(door, state):
    ...     with door:
    ...         state.value = 1
    ...         door.notify_all()
    >>> door, state = flowpar.Condition(), flowpar.Value("i", 0)
    >>> future = open_up(door, state).submit(scheduler="processes")
    >>> with door:
    ...     door.wait_for(lambda: state.value == 1, timeout=60)
    True
    >>> future.result()
    """

    def __init__(self, lock: Lock | RLock | None = None) -> None:
        if lock is not None and not isinstance(lock, (Lock, RLock)):
            raise TypeError(
                f"a condition cannot use {lock!r} as its lock: "
                "pass a flowpar.Lock(), a flowpar.RLock(), or nothing"
            )
        self._lock = RLock() if lock is None else lock
        self._remote = serve(Turnstile())
        self._share_lock()

    def _share_lock(self) -> None:
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_be_kept(type(self).__name__)
        return _condition, (type(self), self._lock, self._remote)

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # If a signal handler has raised while `wait` took the lock again, it is not held.
        if kind is None or self._lock._is_mine():
            self._lock.__exit__(kind, error, traceback)

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock, wait to be notified, and take it again.

        Parameters
        ----------
        timeout
            Seconds to wait for at most; None: as long as it takes.

        Returns
        -------
        bool
            Whether it was notified.
        """
        limit = _limit(timeout)
        self._check()
        lock, ticket = self._lock, next(_tickets)
        count = lock._count
        try:
            self._ask("enlist", ticket)
            try:
                Gate.release(lock)
                found = self._ask("wait", ticket, timeout=limit)
            finally:
                lock._take_again(count)
        except BaseException:  # also an interrupt: nobody is to be notified in vain
            self._ask("delist", ticket)
            raise
        return found is not TIMED_OUT

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until something is so; return what the predicate said last.

        Parameters
        ----------
        predicate
            Asked under the lock, each time that somebody notifies.
        timeout
            Seconds to wait for at most; None: as long as it takes.
        """
        deadline = None if timeout is None else time.monotonic() + seconds(timeout)
        while not (result := predicate()):
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return result
            self.wait(rest)
        return result

    def notify(self, n: int = 1) -> None:
        """Wake so many of those who wait.

        Parameters
        ----------
        n
            How many; less than zero is zero.
        """
        count = max(operator.index(n), 0)
        self._check()
        self._ask("notify", count)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self._check()
        self._ask("notify", None)

    def _check(self) -> None:
        if not self._lock._is_mine():
            raise RuntimeError(
                "the lock of a condition must be held by the thread that waits or notifies"
            )


def _condition(kind: Any, lock: Any, remote: Any) -> object:
    found = kind.__new__(kind)
    found._lock, found._remote = lock, remote
    found._share_lock()
    return found


class Barrier(Shared):
    """A place where so many parties wait for each other.

    Used like `multiprocessing.Barrier`. When a party dies while it waits, or gives up, the others
    get a `threading.BrokenBarrierError`: they would wait for ever.

    Parameters
    ----------
    parties
        How many.
    action
        Called by one of them when all are there, before they go on.
    timeout
        Seconds that each waits at most, if it does not say itself; None: as long as it takes.

    Examples
    --------
    >>> import flowpar
    >>> barrier = flowpar.Barrier(2)
    >>> meet = flowpar.delayed(barrier.wait, pool="processes")
    >>> sorted(flowpar.compute([meet(), meet()], workers=2))
    [0, 1]
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._parties = operator.index(parties)
        if self._parties < 1:
            raise ValueError("a barrier has at least one party")
        self._action = action
        self._timeout = _limit(timeout)
        self._remote = serve(Gathering(self._parties, action is not None))

    @property
    def parties(self) -> int:
        """How many there must be."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait."""
        return int(self._ask("state")[0])

    @property
    def broken(self) -> bool:
        """Whether somebody has left it."""
        return bool(self._ask("state")[1])

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all are there; return a number that no other gets, from zero on.

        Parameters
        ----------
        timeout
            Seconds to wait for at most; None: what the barrier has.

        Raises
        ------
        threading.BrokenBarrierError
            If somebody has left it, or it took too long.
        """
        limit = self._timeout if timeout is None else seconds(timeout)
        found = self._ask("arrive", timeout=limit)
        if found is TIMED_OUT:
            raise BrokenBarrierError("not all came to the barrier in time")
        place, is_to_act = found
        if is_to_act and self._action is not None:
            try:
                self._action()
            except BaseException:
                self.abort()
                raise
            self._ask("acted")
        return int(place)

    def reset(self) -> None:
        """Make it as new; who waits gets the error."""
        self._ask("reset")

    def abort(self) -> None:
        """Break it: who waits gets the error, and who comes."""
        self._ask("abort")
