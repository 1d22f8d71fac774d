"""Where large values stay: in files of shared memory, whose names travel in place of them.

A worker writes a large result into a file and sends back its name. Whoever needs the value maps the
file copy-on-write: nothing is copied, and who writes to what it got changes nobody else's::

    worker: Depot.put ──> Deposit ──pickled──> Held, in the parent ──pickled──> Borrowed, elsewhere

The parent owns the files: one goes when its `Held` does. Values that were loaded from it stay, as
the system keeps what is mapped. What is left of a program that was killed is swept by its nanny, or
else by the next program of the same user.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowpar.caching.objects import digest_of, digest_of_file, laid_out, read_unchecked
from flowpar.pickling import dump, dump_apart

SHARED_FROM: Final = 1 << 16
"""Bytes; a smaller value costs less to send than a file costs to make."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A value in a file that another process owns."""

    path: str
    size: int

    def load(self) -> Any:
        """Return the value, its large buffers mapped copy-on-write.

        Raises
        ------
        ObjectDamaged
            If the file cannot be read.
        Exception
            Whatever the value's own unpickling raises.
        """
        return read_unchecked(self.path)


class Held:
    """A value in a file that this process owns; the file goes when this does."""

    __slots__ = ("__weakref__", "_digest", "_owner", "path", "size")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self._owner = os.getpid()
        self._digest: bytes | None = None

    def load(self) -> Any:
        """Return the value; see `Borrowed.load`."""
        return Borrowed(self.path, self.size).load()

    def holds(self, value: object) -> bool:
        """Return whether the file has this value, as it is now; a third of what it costs to write.

        Raises
        ------
        Exception
            Whatever the value's own pickling raises.
        """
        if self._digest is None:
            self._digest = digest_of_file(self.path)
        _, pieces = laid_out(*dump_apart(value))
        return digest_of(pieces) == self._digest

    def moved(self, folder: str) -> Held | None:
        """Return the same in a file of another folder; None if there is no room."""
        path = f"{folder}/{os.getpid()}-moved-{next(_numbers)}"
        with contextlib.suppress(OSError), open(self.path, "rb") as file:  # noqa: PTH123 - as it is
            if write_file(path, iter(lambda: file.read(1 << 24), b"")):
                return Held(path, self.size)
        return None

    def __reduce__(self) -> tuple[object, ...]:
        return Borrowed, (self.path, self.size)

    def __del__(
        self,
        # Bound here, as a module loses its names while the interpreter ends.
        _getpid: Callable[[], int] = os.getpid,
        _unlink: Callable[[str], None] = os.unlink,
    ) -> None:
        if _getpid() != self._owner:  # a process forked from the owner has a copy, and owns nothing
            return
        try:
            _unlink(self.path)
        except OSError:  # the whole depot is gone
            return

    def __repr__(self) -> str:
        return f"<Held {self.size} bytes in {self.path}>"


@dataclass(frozen=True, slots=True)
class Deposit:
    """A value in a file that this process wrote; who gets this owns it."""

    path: str
    size: int

    def load(self) -> Any:
        """Return the value; see `Borrowed.load`."""
        return read_unchecked(self.path)

    def remove(self) -> None:
        """Take the file away: nobody was told of it."""
        Path(self.path).unlink(missing_ok=True)

    def __reduce__(self) -> tuple[object, ...]:
        return Held, (self.path, self.size)


@dataclass(frozen=True, slots=True)
class Depot:
    """Two folders of one program: the first in memory, the other on disk for when that is full."""

    folders: tuple[str, ...]

    def put(self, value: object, mark: int = 0) -> Deposit | bytes:
        """Write a value into a file if it is large.

        Parameters
        ----------
        value
            Anything that pickles.
        mark
            Part of the file's name, by which `sweep` finds it.

        Returns
        -------
        Deposit or bytes
            Where it is; or its pickle, if it is small or there is no room for it.

        Raises
        ------
        Exception
            Whatever the value's own pickling raises.
        """
        data, buffers = dump_apart(value)
        size = len(data) + sum(buffer.raw().nbytes for buffer in buffers)
        if size >= SHARED_FROM:
            size, pieces = laid_out(data, buffers)
            for folder in self.folders:
                path = f"{folder}/{os.getpid()}-{mark}-{next(_numbers)}"
                if write_file(path, pieces):
                    return Deposit(path, size)
        return data if not buffers else dump(value)

    def sweep(self, pid: int, marks: Iterable[int]) -> None:
        """Take away what a worker wrote under these marks, and nobody was told of."""
        starts = tuple(f"{pid}-{mark}-" for mark in marks)
        for path in _files(self.folders) if starts else ():
            if path.name.startswith(starts):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take away the folders, with all that is in them; nothing in them is a folder."""
        for path in _files(self.folders):
            path.unlink(missing_ok=True)
        for folder in self.folders:
            with contextlib.suppress(OSError):  # it is gone, or a worker still writes
                Path(folder).rmdir()


def _files(folders: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        with contextlib.suppress(OSError):
            found += Path(folder).iterdir()
    return found


def write_file(path: str, pieces: Iterable[Any]) -> bool:
    """Write a new file, whole or not at all; return whether there was room for it."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        # Not through a mapping: there, a full memory is a signal that ends the process.
        with open(handle, "wb", buffering=0) as file:  # noqa: PTH123 - it is a descriptor
            for piece in pieces:
                _write_all(file, memoryview(piece).cast("B"))
    except OSError:
        Path(path).unlink()
        return False
    return True


def _write_all(file: Any, rest: memoryview) -> None:
    while rest:
        written = file.write(rest)
        if not written:
            raise OSError(errno.ENOSPC, "nothing was written")
        rest = rest[written:]
