"""The kernel's locks of bytes, with timeouts, as all threads of a process share them.

The locks that a process makes are bytes of one file, of which nothing is ever written or read:
making a lock costs a number, and there is nothing to take away. Within a process a lock of
`threading`'s comes first; who has that takes the byte for the whole process.

A signal handler may raise between any two calls of functions, also just after one has taken a lock
and before Python has noted that; and, where there are audit hooks, within `fcntl`. So each step
here is one that can be done again, or whose outcome can be seen: bytes are unlocked whether or not
they were locked; `held` changes by statements that are not calls; and what a lazy `map` does is
done where its item is unpacked and assigned.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import itertools
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from flowpar.common.mapping import new_name
from flowpar.errors import PoolError
from flowpar.pools.home import nearest

_FLOCK: Final = struct.Struct("hhqqi")
"""``struct flock`` of <fcntl.h>: type, whence, start, length, process."""

_YES: Final = (True,)
_NO_LIMIT: Final = (-1.0,)

_Name = tuple[str, int]
"""Of a lock: the path of its file, and its number."""

_numbers = itertools.count(1)


def seconds(timeout: float) -> float:
    """Return how long to wait.

    Parameters
    ----------
    timeout
        Seconds; less than zero is zero, and more than the system can wait is what it can.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is not a number.

    Examples
    --------
    >>> seconds(-1), seconds(2)
    (0.0, 2.0)
    """
    try:
        found = float(min(max(timeout, 0), threading.TIMEOUT_MAX))
    except TypeError:
        raise TypeError(f"a timeout is None or a number of seconds, not {timeout!r}") from None
    if found != found:  # noqa: PLR0124 - only NaN is not itself
        raise ValueError("a timeout is None or a number of seconds, not NaN")
    return found


class _LockFile:
    """A file of which bytes are locked, open in this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.handle = _open(path)

    def open_again(self) -> None:
        """Open it anew after a fork: what was opened before it, parent and child share."""
        self.close()
        with contextlib.suppress(OSError, PoolError):  # the parent has ended: who uses it is told
            self.handle = _open(self.path)

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close it, which unlocks all that this process has locked."""
        # Bound: at the end of the interpreter, `os` may have gone before a lock that is held.
        handle, self.handle = self.handle, -1
        if handle >= 0:
            close(handle)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.close()


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise PoolError(
            "a lock cannot be used any more: the program that made it has ended"
        ) from error


class Gate:
    """One lock; in a process there is one object for it."""

    def __init__(self) -> None:
        path, number = _new_name()
        with _making:
            self._set_up(path, number)

    def _set_up(self, path: str, number: int) -> None:
        file = _files.get(path)
        if file is None:
            file = _files[path] = _LockFile(path)
        self._file = file
        self._name = path, number
        # Who has it has the byte, or is about to take it.
        self._inner = threading.Lock()
        # How often the thread that has locked it has done so.
        self._count = 0
        # The one whose file has the byte, if it is not ours.
        self._scout: _Scout | None = None
        self._take = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        self._leave = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0)
        _gates[self._name] = self

    def acquire(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool = True
    ) -> bool:
        """Lock it; return whether that was possible.

        Parameters
        ----------
        block, blocking
            Whether to wait; `threading` has the second name for it.
        timeout
            Seconds to wait for at most; None: as long as it takes.

        Raises
        ------
        PoolError
            If its program has ended.
        """
        limit, deadline = _NO_LIMIT, None
        if timeout is not None or not block or not blocking:
            rest = seconds(timeout or 0) if block and blocking else 0.0
            limit, deadline = (rest,), time.monotonic() + rest
        me = threading.get_ident()
        has_inner = is_done = False
        try:
            (has_inner,) = map(self._inner.acquire, _YES, limit)
            if not has_inner:
                return False
            try:
                # First, also where a scout waits: it may not have heard yet that the byte is free.
                fcntl.fcntl(self._file.handle, fcntl.F_OFD_SETLK, self._take)
            except (BlockingIOError, PermissionError):
                if not self._wait(deadline):
                    return False
            self._count = 1
            held[self] = me
            is_done = True
        finally:
            if has_inner and not is_done:
                self._scout = None
                try:
                    fcntl.fcntl(self._file.handle, fcntl.F_OFD_SETLK, self._leave)
                    self._dismiss_scout()
                finally:
                    self._inner.release()
        return True

    def release(self) -> None:
        """Unlock it.

        Raises
        ------
        ValueError
            If this process has not locked it.
        """
        try:
            del held[self]
        except KeyError:
            raise ValueError("a lock was released that this process does not hold") from None
        try:
            scout, self._scout = self._scout, None
            handle = self._file.handle if scout is None else scout.handle
            try:
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, self._leave)
            except BaseException:  # perhaps in a hook, before it was unlocked
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, self._leave)
                raise
            if scout is not None:
                scout.close()
        finally:
            self._inner.release()

    def _is_mine(self) -> bool:
        return held.get(self) == threading.get_ident()

    def _take_again(self, count: int) -> None:
        """Lock it as often as this thread had, unless it still has."""
        if not self._is_mine():
            self.acquire()
        self._count = count

    def _reset(self) -> None:
        """Forget, in a process that was just forked, who holds it in the other."""
        self._inner = threading.Lock()
        self._scout = None

    def _wait(self, deadline: float | None) -> bool:
        scout = _scouts.get(self._name)
        if scout is not None and not scout.is_wanted_again():
            scout.close()
            scout = None
        if scout is None:
            if deadline is None:
                fcntl.fcntl(self._file.handle, fcntl.F_OFD_SETLKW, self._take)
                return True
            if deadline <= time.monotonic():
                return False
            scout = _Scout(self._name, self._take, self._leave)
            scout.start()
        if not scout.wait(None if deadline is None else max(deadline - time.monotonic(), 0)):
            return False
        self._scout = scout
        return True

    def _dismiss_scout(self) -> None:
        scout = _scouts.get(self._name)
        if scout is not None:
            scout.dismiss()


class _Scout:
    """A thread that waits for a byte, because the kernel knows no timeout.

    It opens the file for itself, so that what it locks is not mistaken for what others in this
    process lock. One whom nobody waits for any more goes on waiting for whoever comes next, also if
    the object of the lock is another by then. If nobody has come when it has the byte, it lets go.
    """

    def __init__(self, name: _Name, take: bytes, leave: bytes) -> None:
        self.handle = -1
        self._name = name
        self._take = take
        self._leave = leave
        self._mutex = threading.Lock()
        self._arrival = threading.Lock()
        self._arrival.acquire()
        self._has_arrived = False
        self._is_wanted = True
        self._error: Exception | None = None

    def start(self) -> None:
        """Send it; only who has the inner lock of the gate does."""
        _scouts[self._name] = self
        try:
            # Not a `threading.Thread`, whose start cannot be interrupted safely.
            (_,) = map(_thread.start_new_thread, (self._go,), ((),))
        except BaseException:  # so it does not run
            _scouts.pop(self._name, None)
            raise

    def is_wanted_again(self) -> bool:
        """Return whether it still waits, now for the caller, who calls `wait` next."""
        with self._mutex:
            self._is_wanted = not self._has_arrived
            return self._is_wanted

    def wait(self, timeout: float | None) -> bool:
        """Return whether its file has the byte, which is the caller's then."""
        self._arrival.acquire(timeout=-1 if timeout is None else timeout)
        with self._mutex:
            self._is_wanted = self._has_arrived
        if self._error is not None:
            raise self._error
        return self._is_wanted

    def dismiss(self) -> None:
        """Have it keep nothing for the caller."""
        with self._mutex:
            self._is_wanted = False
            if self._has_arrived:
                self.close()

    def close(self) -> None:
        """Unlock the byte, and close the file."""
        if _scouts.get(self._name) is self:
            del _scouts[self._name]
        handle, self.handle = self.handle, -1
        if handle >= 0:
            try:
                # A process that was forked meanwhile may have the file open too.
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, self._leave)
            finally:
                os.close(handle)

    def _go(self) -> None:
        error: Exception | None = None
        try:
            self.handle = _open(self._name[0])
            fcntl.fcntl(self.handle, fcntl.F_OFD_SETLKW, self._take)
        except (OSError, PoolError) as failure:
            error = failure
        with self._mutex:
            self._has_arrived, self._error = True, error
            if self._is_wanted:
                self._arrival.release()
            else:
                self.close()


held: Final[dict[Gate, int]] = {}
"""The gates that this process has locked, and by which thread.

They are kept alive, so that there is never another for the same byte: the kernel would let that
lock it too.
"""
_gates: Final[weakref.WeakValueDictionary[_Name, Gate]] = weakref.WeakValueDictionary()
_files: Final[weakref.WeakValueDictionary[str, _LockFile]] = weakref.WeakValueDictionary()
_scouts: Final[dict[_Name, _Scout]] = {}
_making = threading.RLock()


class _Own:
    """The file of the locks that this process makes."""

    path = ""
    pid = 0


def _new_name() -> _Name:
    folder = nearest().folders[0]
    with _making:
        if _Own.pid != os.getpid() or not _Own.path.startswith(f"{folder}/"):
            _Own.path, _Own.pid = f"{folder}/{new_name('locks')}", os.getpid()
            os.close(os.open(_Own.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return _Own.path, next(_numbers)


def gate_of(kind: Any, path: str, number: int) -> Gate:
    """Return the lock of that number; the same each time.

    Raises
    ------
    PoolError
        If its program has ended.
    """
    with _making:
        found = _gates.get((path, number))
        if found is None:
            found = kind.__new__(kind)
            found._set_up(path, number)
        return found


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent's may have held it at the fork
    _making = threading.RLock()
    held.clear()
    for gate in list(_gates.values()):
        gate._reset()
    # Closed, not unlocked: parent and child share what is open, and it is locked until both close.
    for scout in _scouts.values():
        if scout.handle >= 0:
            os.close(scout.handle)
    _scouts.clear()
    for file in list(_files.values()):
        file.open_again()


os.register_at_fork(after_in_child=_after_fork)
