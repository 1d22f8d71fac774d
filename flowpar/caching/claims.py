"""Who computes a key: locks on bytes of a file, which the system frees with their owner.

::

    store ──> Held ─┐
    store ──> Held ─┴─> Claims: the bytes that this process has, and which thread has which

The system has one owner of locks for all threads of a process, so between them a table of ours
decides. And closing any descriptor of a file takes away all locks that the process has there, so
there is one for all stores of a directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from flowpar.caching.folders import inode_of, is_file

OPENING: Final = 1 << 62
"""The byte of the locks that is locked by who opens the directory; those of keys are before it."""
PATIENCE: Final = 30.0
"""Seconds that a thread waits for another of its process to compute a key."""

ANCESTORS_PATIENCE: Final = 2.0
"""Seconds that a process waits for one that started it, and that may wait for it."""

_FLOCK: Final = struct.Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, process."""

OPENING_TRIES: Final = 1000
_PAUSE: Final = 0.01


class Held:
    """The keys that one store has; safe for its threads.

    Parameters
    ----------
    claims
        Of its directory; entered already for this store.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._lock = threading.Lock()
        self._is_closed = False
        self._mine: dict[int, int] = {}
        self._due: list[int] = []

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Be the only process that opens the directory."""
        return self._claims.alone()

    def take(self, key: bytes, owner: int, *, wait: bool) -> bool:
        """Lock a key; return whether it is the owner's now."""
        with self._lock:
            if self._is_closed:
                return True
            self._claims.enter()  # it stays open as long as this thread waits
        try:
            at = _offset(key)
            return self._claims.take(at, owner, wait=wait) and self._note(at)
        finally:
            self._claims.leave()

    def _note(self, at: int) -> bool:
        with self._lock:
            if not self._is_closed:
                self._mine[at] = self._mine.get(at, 0) + 1
                return True
        self._claims.free([at])  # closed in the meantime
        return True

    def free(self, key: bytes) -> None:
        """Let others have a key."""
        self._free([_offset(key)])

    def free_later(self, key: bytes) -> None:
        """Let others have a key, at the next `free_due`."""
        with self._lock:
            self._due.append(_offset(key))

    def free_due(self) -> None:
        """Let others have the keys that were to be freed later."""
        with self._lock:
            due, self._due = self._due, []
        if due:
            self._free(due)

    def _free(self, places: Iterable[int]) -> None:
        with self._lock:
            had = [at for at in places if self._forget(at)]
        self._claims.free(had)

    def _forget(self, at: int) -> bool:
        left = self._mine.pop(at, 0) - 1
        if left > 0:
            self._mine[at] = left
        return left >= 0

    def close(self) -> None:
        """Let go of every key."""
        with self._lock:
            mine, self._mine = self._mine, {}
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            self._claims.free([at for at, times in mine.items() for _ in range(times)])
            self._claims.leave()


class Claims:
    """The bytes of one file of locks that this process has, for all its stores of the directory.

    It stays open as long as anybody uses it.
    """

    def __init__(self, handle: int, inode: tuple[int, int]) -> None:
        self.inode = inode
        self._handle = handle
        self._users = 1
        self._changed = threading.Condition()
        self._owners: dict[int, list[int]] = {}
        self._wanted: dict[int, int] = {}

    def enter(self) -> None:
        """Keep it open until `leave`."""
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        """Close it, if nobody else uses it."""
        with self._changed:
            self._users -= 1
            if self._users:
                return
        with here.opening, self._changed:
            # It may have been entered again by now, and even left and closed.
            if here.claims.get(self.inode) is self and self._users < 1:
                del here.claims[self.inode]
                os.close(self._handle)

    def take(self, at: int, me: int, *, wait: bool) -> bool:
        """Lock a byte; return whether it is the caller's now, who is called `me`."""
        has_locked = self._reserve(at, me, wait=wait)
        if has_locked is None or has_locked:
            return has_locked is not None
        try:
            is_ours = self._lock(at) or (wait and self._wait_for(at))
        except BaseException:
            self.free([at])
            raise
        if not is_ours:
            self.free([at])
        return is_ours

    def _lock(self, at: int) -> bool:
        """Lock a byte among processes; return False if another has it."""
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks: computing twice is only slow
            return True
        return True

    def _wait_for(self, at: int) -> bool:
        """Lock a byte as soon as the process that has it frees it."""
        until = time.monotonic() + ANCESTORS_PATIENCE
        while _holder(self._handle, at) in _ancestors():
            if time.monotonic() > until:
                return False  # it waits for us, as it seems
            time.sleep(_PAUSE)  # no lock can be waited for with a limit
            if self._lock(at):
                return True
        with contextlib.suppress(OSError):  # each would wait for the other
            fcntl.lockf(self._handle, fcntl.LOCK_EX, 1, at)
        return True

    def _reserve(self, at: int, me: int, *, wait: bool) -> bool | None:
        """Take a byte among the threads of this process.

        Returns
        -------
        bool | None
            Whether this process has the lock already; None: another thread has the byte, and
            keeps it. It may wait for this thread in a way that nobody can see, so we do not wait
            for ever.
        """
        with self._changed:
            until = time.monotonic() + PATIENCE
            while at in self._owners:
                if not wait or time.monotonic() > until:
                    return None
                if self._waits_for(at, me):
                    self._owners[at].append(me)
                    return True
                self._wanted[me] = at
                try:
                    self._changed.wait(PATIENCE)
                finally:
                    del self._wanted[me]
            self._owners[at] = [me]
            return False

    def _waits_for(self, at: int, me: int) -> bool:
        """Return whether who has a byte waits, over however many others, for this thread."""
        seen, left = set[int](), list(self._owners[at])
        while left:
            owner = left.pop()
            if owner == me:
                return True
            if owner not in seen:
                seen.add(owner)
                left += self._owners.get(self._wanted.get(owner, -1), ())
        return False

    def free(self, places: Iterable[int]) -> None:
        """Let others have these bytes."""
        me = threading.get_ident()
        with self._changed:
            gone = [at for at in places if self._give_back(at, me)]
            if gone:
                self._unlock(gone)
                self._changed.notify_all()

    def _give_back(self, at: int, me: int) -> bool:
        """Take one owner from a byte; return whether it was the last."""
        owners = self._owners[at]
        owners.remove(me if me in owners else owners[0])
        if owners:
            return False
        del self._owners[at]
        return True

    def _unlock(self, places: Collection[int]) -> None:
        """Unlock bytes that nobody here has any more.

        What is between two bytes that somebody has, or is about to lock, goes at one time, if that
        is fewer times: a call of the system takes the longer, the more is locked.
        """
        spans = [(at, 1) for at in places]
        if len(self._owners) < len(places):
            edges = [-1, *sorted(self._owners), OPENING]
            spans = [(low + 1, high - low - 1) for low, high in itertools.pairwise(edges)]
        for start, length in spans:
            if length:  # none at all means all that follows
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._handle, fcntl.LOCK_UN, length, start)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that opens the directory; or go on after a while, if one hangs."""
        for _ in range(OPENING_TRIES):
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, OPENING)
            except (BlockingIOError, PermissionError):
                time.sleep(_PAUSE)
            except OSError:  # a file system without locks
                break
            else:
                break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, OPENING)

    def disown(self) -> None:
        """Close the copy of a forked child, which has none of the locks."""
        os.close(self._handle)


def claims_at(path: Path) -> Claims:
    """Return those of a file of locks, for one more user; `here.opening` is held meanwhile."""
    if is_file(path):
        known = here.claims.get(inode_of(path) or (0, 0))
        if known is not None:
            known.enter()
            return known
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    facts = os.fstat(handle)
    made = Claims(handle, (facts.st_dev, facts.st_ino))
    here.claims[made.inode] = made
    return made


def _holder(handle: int, at: int) -> int:
    """Return the id of the process that has locked a byte; 0 if nobody has, or nobody can say."""
    if sys.platform != "linux":
        return 0
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    try:
        answer = _FLOCK.unpack(fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    except OSError:
        return 0
    return 0 if answer[0] == fcntl.F_UNLCK else answer[-1]


def _ancestors() -> set[int]:
    """Return the ids of the processes that started this one, and so may wait for it."""
    found, pid = set[int](), os.getppid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        pid = int(text.rpartition(")")[2].split()[1])
    return found


def _offset(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") & (OPENING - 1)


class _Process:
    """What all directories share that this process has open."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Share nothing so far."""
        self.opening = threading.RLock()
        """Held while a directory is opened; who has it takes no lock of another store."""
        self.claims: dict[tuple[int, int], Claims] = {}

    def begin_anew(self) -> None:
        """Leave all locks to the process that this one was forked from."""
        claims = list(self.claims.values())
        self.begin()
        for each in claims:
            each.disown()


here: Final = _Process()
os.register_at_fork(after_in_child=here.begin_anew)
