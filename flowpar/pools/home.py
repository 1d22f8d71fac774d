"""The depot of this process: made when it is first needed, and taken away at its end."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flowpar.errors import FlowparWarning
from flowpar.pools.depot import Deposit, Depot, Held
from flowpar.pools.transport import SEALED, pack

MEMORY: Final = "/dev/shm"  # noqa: S108 - our folder in it is made by mkdtemp
"""Where Linux keeps files in memory."""

_homes: dict[int, _Home] = {}
_lock = threading.Lock()
_closers: list[Callable[[], None]] = []
_parents: Depot | None = None


class _Home:
    """The depot of this process, with the locks that keep others from sweeping it."""

    def __init__(self) -> None:
        self._locks: list[int] = []
        folders = [folder for place in _places() if (folder := self._make(place)) is not None]
        self.depot = Depot(tuple(folders))
        self._has_warned = False
        if not any(folder.startswith(MEMORY) for folder in folders):
            self.warn(f"{MEMORY} cannot be used: large values are kept on disk, which is slower")

    def _make(self, place: str) -> str | None:
        """Return a new folder, locked as long as this process lives; None: there can be none."""
        prefix = _prefix()
        try:
            _sweep_dead(place, prefix)
            while True:
                folder = tempfile.mkdtemp(prefix=prefix, dir=place)
                handle = _locked(folder)
                if handle is not None:
                    self._locks.append(handle)
                    return folder
        except OSError:
            return None

    def warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(text, FlowparWarning, stacklevel=2)

    def close(self) -> None:
        self.depot.remove()
        for handle in self._locks:
            os.close(handle)
        self._locks.clear()


def _places() -> tuple[str, str]:
    return MEMORY, tempfile.gettempdir()


def _prefix() -> str:
    """Return how the names of this user's depots begin."""
    return f"flowpar-{os.getuid()}-"


def home() -> Depot:
    """Return the depot of this process, made when first asked for."""
    with _lock:
        found = _homes.get(os.getpid())
        if found is None:
            found = _homes[os.getpid()] = _Home()
        return found.depot


def nearest() -> Depot:
    """Return the depot for what is to outlive this process if that is a worker: its parent's."""
    return _parents or home()


def use_parents(depot: Depot) -> None:
    """Have a worker put what is to outlive it where its parent does."""
    global _parents  # noqa: PLW0603 - a process is the worker of one parent
    _parents = depot


def before_closing(closer: Callable[[], None]) -> None:
    """Have a function called each time before the depot of this process is taken away."""
    if closer not in _closers:
        _closers.append(closer)


def seal(value: object) -> object:
    """Return what goes to other processes in place of a value of this one.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """
    sealed = pack(value, home())
    if isinstance(sealed, Deposit):
        warn_of_disk(sealed.path)
        return Held(sealed.path, sealed.size)
    return sealed


def put_on_disk(value: object) -> Held | None:
    """Move a value to disk; None: it is small, or there is no room.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """
    folder = home().folders[-1]
    if isinstance(value, Held):
        if value.path.startswith(folder):
            return None
        return value.moved(folder)
    if type(value) in SEALED:
        return None
    put = Depot((folder,)).put(value)
    return Held(put.path, put.size) if isinstance(put, Deposit) else None


def warn_of_disk(path: str) -> None:
    """Tell people, once, that a value had no place in memory."""
    found = _homes.get(os.getpid())
    if found is not None and not path.startswith(MEMORY):
        found.warn(
            f"{MEMORY} is full: large values go to {tempfile.gettempdir()}, which is slower. "
            "Give the program more shared memory (docker run --shm-size), or let fewer large "
            "values wait at the same time"
        )


@atexit.register
def close_home() -> None:
    """Take away the depot of this process; another is made if it is needed again."""
    for closer in _closers:
        closer()
    with _lock:
        found = _homes.pop(os.getpid(), None)
    if found is not None:
        found.close()
        # Also those of pools that tasks had: their processes were killed.
        for place in _places():
            with contextlib.suppress(OSError):
                _sweep_dead(place, _prefix())


def _forget() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent's may have held it at the fork
    _lock = threading.Lock()
    # The parent's are no concern of a forked child; but its locks would outlive the parent in it.
    for found in _homes.values():
        for handle in found._locks:
            with contextlib.suppress(OSError):
                os.close(handle)
        found._locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _locked(folder: str) -> int | None:
    """Lock a folder; None: it was swept before."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # a sweeper has just found it
        os.close(handle)
        return None
    except OSError:  # a file system without locks: nothing is swept there
        return handle
    if os.fstat(handle).st_nlink:
        return handle
    os.close(handle)
    return None


def _sweep_dead(place: str, prefix: str) -> None:
    """Take away the folders of this user's programs that have ended."""
    for path in Path(place).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            facts = path.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
                continue
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Depot((str(path),)).remove()
            finally:
                os.close(handle)
