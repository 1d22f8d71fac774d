"""Locks that travel: a byte of a file that the kernel locks, and frees when its holder dies.

The locks that a process makes are bytes of one file, of which nothing is ever written or read:
making a lock costs a number, and there is nothing to take away. Within a process a lock of
`threading`'s comes first; who has that takes the byte for the whole process.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import itertools
import os
import struct
import threading
import time
import weakref
from types import TracebackType
from typing import Any, Final

from flowpar.common.mapping import new_name
from flowpar.errors import PoolError
from flowpar.pickling import refuse_to_be_kept
from flowpar.pools.home import nearest

_FLOCK: Final = struct.Struct("hhqqi")
"""``struct flock`` of <fcntl.h>: type, whence, start, length, process."""

_numbers = itertools.count(1)


class _LockFile:
    """A file of which bytes are locked, open in this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.handle = -1
        self.open()

    def open(self) -> None:
        """Open it, anew after a fork: what was opened before it, parent and child share."""
        try:
            self.handle = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise PoolError(
                "a lock cannot be used any more: the program that made it has ended"
            ) from error

    def close(self) -> None:
        """Close it, which unlocks all that this process has locked."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        self.close()


class Gate:
    """One lock, as all objects in this process that stand for it see it."""

    def __init__(self, file: _LockFile, number: int) -> None:
        self.file = file
        self.number = number
        self.inner = threading.Lock()
        """Who has it has the byte, or is about to take it."""
        self.owner = 0
        """The thread that holds an `RLock`, and how often."""
        self.count = 0
        self._take = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        self._leave = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, number, 1, 0)
        self._scout: _Scout | None = None
        self._holding: int | None = None

    def acquire(self, timeout: float | None) -> bool:
        """Lock it, waiting so many seconds, None: as long as it takes; return whether it is."""
        deadline = None if timeout is None else time.monotonic() + timeout
        limit = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
        if not self.inner.acquire(timeout=limit):
            return False
        done = False
        try:
            done = self._acquire_byte(deadline)
        finally:
            if not done:
                self.inner.release()
        return done

    def release(self) -> None:
        """Unlock it; the caller has locked it."""
        if self._holding is None:
            fcntl.fcntl(self.file.handle, fcntl.F_OFD_SETLK, self._leave)
        else:
            os.close(self._holding)
            self._holding = None
        self.inner.release()

    def reset(self) -> None:
        """Forget, in a process that was just forked, who holds it in the other."""
        self.inner = threading.Lock()
        self.owner = self.count = 0
        # Open for both, it would stay locked as long as either lives.
        if self._holding is not None:
            os.close(self._holding)
        if self._scout is not None:
            self._scout.close()
        self._holding = self._scout = None

    def _acquire_byte(self, deadline: float | None) -> bool:
        # First, also where a scout waits: it may not have heard yet that the byte is free.
        try:
            fcntl.fcntl(self.file.handle, fcntl.F_OFD_SETLK, self._take)
        except (BlockingIOError, PermissionError):
            pass
        else:
            return True
        scout = self._scout
        if scout is not None and scout.is_wanted_again():
            return self._follow(scout, deadline)
        if deadline is None:
            fcntl.fcntl(self.file.handle, fcntl.F_OFD_SETLKW, self._take)
            return True
        if deadline <= time.monotonic():
            return False
        self._scout = _Scout(self.file.path, self._take)
        return self._follow(self._scout, deadline)

    def _follow(self, scout: _Scout, deadline: float | None) -> bool:
        handle = scout.wait(None if deadline is None else max(deadline - time.monotonic(), 0))
        if handle is None:
            return False
        self._scout = None
        self._holding = handle
        return True


class _Scout:
    """A thread that waits for a byte, because the kernel knows no timeout.

    It opens the file for itself, so that what it locks is not mistaken for what others in this
    process lock. One whom nobody waits for any more goes on waiting, for whoever comes next; if
    nobody has come when it has the byte, it lets go of it.
    """

    def __init__(self, path: str, take: bytes) -> None:
        self._mutex = threading.Lock()
        self._arrived = threading.Event()
        self._is_wanted = True
        self._is_over = False
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._take = take
        threading.Thread(target=self._go, name="flowpar-lock", daemon=True).start()

    def is_wanted_again(self) -> bool:
        """Return whether it still waits, now for the caller, who calls `wait` next."""
        with self._mutex:
            self._is_wanted = not self._is_over
            return self._is_wanted

    def wait(self, timeout: float | None) -> int | None:
        """Return the file that has the byte, to be closed in the end; None: it took too long."""
        try:
            self._arrived.wait(timeout if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:
            with self._mutex:
                self._is_wanted = False
                found = self._handle if self._arrived.is_set() else None
                self._is_over = found is not None
        return found

    def _go(self) -> None:
        fcntl.fcntl(self._handle, fcntl.F_OFD_SETLKW, self._take)
        with self._mutex:
            if self._is_wanted:
                self._arrived.set()
            else:
                self._is_over = True
                self.close()

    def close(self) -> None:
        """Close the file, which unlocks the byte."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


_files: Final[weakref.WeakValueDictionary[str, _LockFile]] = weakref.WeakValueDictionary()
_gates: Final[weakref.WeakValueDictionary[tuple[str, int], Gate]] = weakref.WeakValueDictionary()
_making = threading.Lock()


class _Own:
    """The file of the locks that this process makes."""

    path = ""
    pid = 0


def new_gate() -> Gate:
    """Return a new lock."""
    folder = nearest().folders[0]
    with _making:
        if _Own.pid != os.getpid() or not _Own.path.startswith(f"{folder}/"):
            _Own.path, _Own.pid = f"{folder}/{new_name('locks')}", os.getpid()
            os.close(os.open(_Own.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return gate_of(_Own.path, next(_numbers))


def gate_of(path: str, number: int) -> Gate:
    """Return the lock of that number.

    Raises
    ------
    PoolError
        If its program has ended.
    """
    with _making:
        gate = _gates.get((path, number))
        if gate is None:
            file = _files.get(path)
            if file is None:
                file = _files[path] = _LockFile(path)
            gate = _gates[path, number] = Gate(file, number)
    return gate


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent's may have held it at the fork
    _making = threading.Lock()
    for gate in list(_gates.values()):
        gate.reset()
    for file in list(_files.values()):
        file.close()
        with contextlib.suppress(OSError, PoolError):  # the parent has ended: who uses it is told
            file.open()


os.register_at_fork(after_in_child=_after_fork)


class _Common(abc.ABC):
    """What both kinds of locks do."""

    def __init__(self) -> None:
        self._gate = new_gate()

    @abc.abstractmethod
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
        """

    @abc.abstractmethod
    def release(self) -> None:
        """Unlock it."""

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_be_kept(type(self).__name__)
        return _revive, (type(self), self._gate.file.path, self._gate.number)

    def __flowpar_digest__(self) -> object:
        return None  # it decides when something happens, never what it gives

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._gate.number}>"


def _revive(kind: Any, path: str, number: int) -> object:
    found = kind.__new__(kind)
    found._gate = gate_of(path, number)
    return found


class Lock(_Common):
    """A lock that can be passed to tasks, on threads and in processes; it ends with its holder.

    Used like `multiprocessing.Lock`. When a process dies that holds it, it is free again. Only
    the process that holds it can release it, by any of its threads. Where somebody has waited for
    it in vain, ``acquire(block=False)`` may fail for a moment after it became free.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def add(total, amount, lock):
    ...     with lock:
    ...         total.value += amount
    >>> lock, total = flowpar.Lock(), flowpar.Value("i", 0)
    >>> _ = flowpar.compute([add(total, n, lock) for n in range(5)], scheduler="processes")
    >>> total.value
    10
    """

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
        """
        return self._gate.acquire(timeout if block and blocking else 0)

    def release(self) -> None:
        """Unlock it.

        Raises
        ------
        ValueError
            If this process has not locked it.
        """
        if not self._gate.inner.locked():
            raise ValueError("a lock was released that this process does not hold")
        self._gate.release()

    def _is_owned(self) -> bool:
        return self._gate.inner.locked()

    def _let_go(self) -> int:
        self.release()
        return 1

    def _take_again(self, _depth: int) -> None:
        self.acquire()


class RLock(_Common):
    """A lock that a thread which holds it can take again; otherwise as `Lock`.

    Examples
    --------
    >>> import flowpar
    >>> lock = flowpar.RLock()
    >>> with lock, lock:
    ...     "held twice"
    'held twice'
    """

    def acquire(
        self, block: bool = True, timeout: float | None = None, *, blocking: bool = True
    ) -> bool:
        """Lock it, once more if this thread has; return whether that was possible.

        Parameters
        ----------
        block, blocking
            Whether to wait; `threading` has the second name for it.
        timeout
            Seconds to wait for at most; None: as long as it takes.
        """
        gate, me = self._gate, threading.get_ident()
        if gate.owner == me:
            gate.count += 1
            return True
        if not gate.acquire(timeout if block and blocking else 0):
            return False
        gate.owner, gate.count = me, 1
        return True

    def release(self) -> None:
        """Unlock it, if as often as it was locked.

        Raises
        ------
        AssertionError
            If this thread does not hold it, as `multiprocessing` has it.
        """
        gate = self._gate
        if gate.owner != threading.get_ident():
            raise AssertionError("a recursive lock was released by a thread that does not own it")
        gate.count -= 1
        if not gate.count:
            gate.owner = 0
            gate.release()

    def _is_owned(self) -> bool:
        return self._gate.owner == threading.get_ident()

    def _let_go(self) -> int:
        """Unlock it, however often it was locked; return how often."""
        depth, self._gate.count = self._gate.count, 1
        self.release()
        return depth

    def _take_again(self, depth: int) -> None:
        self.acquire()
        self._gate.count = depth
