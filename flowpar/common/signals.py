"""What tasks wait for: semaphores, events, conditions and barriers that travel."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import BrokenBarrierError
from types import TracebackType
from typing import Any

from flowpar.common.locks import Lock, RLock
from flowpar.common.remote import Shared, serve
from flowpar.common.serving import TIMED_OUT
from flowpar.common.things import Flag, Gathering, Permits, Turnstile
from flowpar.pickling import refuse_to_be_kept


class Semaphore(Shared):
    """So many permits, which tasks on threads and in processes take and give back.

    Used like `multiprocessing.Semaphore`. When a process dies, what it holds is given back.

    Parameters
    ----------
    value
        How many there are.

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
        if value < 0:
            raise ValueError("a semaphore begins with zero permits or more")
        self._remote = serve(Permits(value, self._most(value)))

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
        wait = block and blocking and (timeout is None or timeout > 0)
        return self._ask("acquire", wait, timeout=timeout if wait else None) is True

    def release(self) -> None:
        """Give a permit back.

        Raises
        ------
        ValueError
            If it is bounded, and none was taken.
        """
        self._ask("release")

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


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses more permits than it began with; otherwise as `Semaphore`.

    Parameters
    ----------
    value
        How many there are.

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
        return self._ask("wait", timeout=None if timeout is None else max(timeout, 0)) is True


class Condition(Shared):
    """A lock, and those who wait until something has changed under it.

    Used like `multiprocessing.Condition`.

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
        self._lock.release()

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
        self._check()
        ticket = self._ask("enlist")
        depth = self._lock._let_go()
        limit = None if timeout is None else max(timeout, 0)
        try:
            found = self._ask("wait", ticket, timeout=limit)
        except BaseException:
            self._ask("delist", ticket)
            raise
        finally:
            self._lock._take_again(depth)
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
        deadline = None if timeout is None else time.monotonic() + timeout
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
            How many.
        """
        self._check()
        self._ask("notify", n)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self._check()
        self._ask("notify", None)

    def _check(self) -> None:
        if not self._lock._is_owned():
            raise RuntimeError("the lock of a condition must be held to wait and to notify")


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
        if parties < 1:
            raise ValueError("a barrier has at least one party")
        self._parties = parties
        self._action = action
        self._timeout = timeout
        self._remote = serve(Gathering(parties, action is not None))

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
        timeout = self._timeout if timeout is None else timeout
        found = self._ask("arrive", timeout=None if timeout is None else max(timeout, 0))
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
