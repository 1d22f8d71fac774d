"""A directory that is open: its index and its locks, given up when they fail.

Nothing in here raises into a run: a directory that cannot be used is given up with one warning. The
index tells nothing that cannot be made again: a damaged one is moved aside. A directory that can
only be read gives what it has.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flowpar.caching.claims import Held, claims_at, here
from flowpar.caching.folders import NotOurs, begin, inode_of, is_new, refuse_foreign
from flowpar.caching.index import (
    TROUBLES,
    connect,
    connect_to_read,
    disown,
    is_damage,
    move_aside,
)
from flowpar.caching.objects import sweep
from flowpar.errors import FlowparWarning


class Directory:
    """One directory, as one process has it open.

    In a forked child it does nothing: a connection to the index must not cross a fork.

    Parameters
    ----------
    path
        The directory.
    makes
        Whether it is made if it is not there; if not, it is as if nothing was ever kept in it.

    Attributes
    ----------
    why_not
        Why this directory is not used any more; empty while it is.
    is_writable
        Whether anything can be kept in it; if not, it may still be read.

    Raises
    ------
    CacheRefused
        If it belongs to another user, or if others may write to it.
    """

    def __init__(self, path: Path, *, makes: bool = True) -> None:
        self.path = Path(os.path.realpath(path))
        self.objects = self.path / "objects"
        self.folder = str(self.objects)
        self.why_not = ""
        self.is_writable = True
        self._makes = makes
        self._index_path = self.path / "index.sqlite"
        self._index_name = str(self._index_path)
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._pid = os.getpid()
        self._held: Held | None = None
        self._is_renewed = False

    # ------------------------------------------------------------------------------ opening

    def _open(self) -> None:
        with here.opening, self._guarded():
            self._open_files()

    def _open_files(self) -> None:
        if self._makes:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700, parents=True)
        elif not self.path.exists():
            return
        refuse_foreign(self.path)
        try:
            is_first = is_new(self.path)
        except NotOurs as error:
            self.give_up(str(error))
            return
        if is_first and not self._makes:
            return
        self.is_writable = os.access(self.path, os.W_OK, effective_ids=True)
        try:
            if self.is_writable:
                self._open_to_write(is_first=is_first)
            else:
                self._open_to_read()
        except BaseException:
            self._release()
            raise

    def _open_to_write(self, *, is_first: bool) -> None:
        for folder in (self.objects, self.path / "tmp"):
            folder.mkdir(exist_ok=True, mode=0o700)
            refuse_foreign(folder)
        with contextlib.suppress(FileExistsError), (self.path / ".gitignore").open("x") as file:
            file.write("*\n")
        self._held = Held(claims_at(self.path / "locks"))
        with self._held.alone():
            sweep(self.path / "tmp")
            if is_first:
                begin(self.path)
            self._open_index()

    def _open_to_read(self) -> None:
        with contextlib.suppress(OSError):
            self._held = Held(claims_at(self.path / "locks"))
        self._db = connect_to_read(self._index_path)
        self._inode = inode_of(self._index_path)
        self._warn("can only be read: what it has is taken from it, and nothing more is kept")

    def _open_index(self) -> None:
        try:
            self._db = connect(self._index_path)
        except TROUBLES as error:
            if not is_damage(error):
                raise
            self._replace_index(error)
            self._db = connect(self._index_path)
        self._inode = inode_of(self._index_path)

    def _replace_index(self, error: Exception) -> None:
        aside = move_aside(self._index_path)
        self._warn(f"had a damaged index, which is now {aside}; a new one was begun: {error}")

    # -------------------------------------------------------------------------------- using

    @property
    def is_usable(self) -> bool:
        """Whether this process may use it."""
        return not self.why_not and self._db is not None and self._pid == os.getpid()

    def is_current(self) -> bool:
        """Return whether it can be used, and the directory is still the one that was opened."""
        return self.is_usable and inode_of(self._index_name) == self._inode

    @property
    def stamp(self) -> int:
        """A number that another one follows when this process changes the index."""
        return -1 if self._db is None else self._db.total_changes

    def version(self) -> object:
        """Return what is another one as soon as another process has written."""
        return self._inode, self.query("pragma data_version")

    def query(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a question to the index."""
        rows: list[tuple[Any, ...]] = []
        with self._index() as db:
            if db is not None:
                rows = db.execute(text, values).fetchall()
        return rows

    def execute(self, text: str, values: Sequence[Any] = ()) -> None:
        """Change the index."""
        with self._index(to_write=True) as db:
            if db is not None:
                db.execute(text, values)

    @contextlib.contextmanager
    def _index(self, *, to_write: bool = False) -> Iterator[sqlite3.Connection | None]:
        """Yield the index, for this thread alone; None if it cannot be used.

        What goes wrong with it ends the block, and is dealt with here.
        """
        # Before the lock is taken: a thread may have had it when this process was forked.
        if not self.is_usable or (to_write and not self.is_writable):
            yield None
            return
        with self._guarded():
            yield self._db

    # ------------------------------------------------------------------------------ failing

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Give the directory up, with one warning, if it cannot be read or written."""
        with self._lock:
            try:
                yield
            except TROUBLES as error:
                self._recover(error)

    def _recover(self, error: Exception) -> None:
        if is_damage(error) and self._db is not None and not self._is_renewed:
            self._is_renewed = True  # if that does not help, nothing will
            try:
                self._renew(error)
            except TROUBLES as another:
                error = another
            else:
                return
        self.give_up(f"{type(error).__name__}: {error}")

    def _renew(self, error: Exception) -> None:
        if self._db is None or self._held is None or not self.is_writable:
            raise error
        self._db.close()
        self._db = None
        with here.opening, self._held.alone():
            # Another process may have been here before, and begun a new one.
            if self._inode == inode_of(self._index_path):
                self._replace_index(error)
            self._open_index()
        self._held.free_due()

    def give_up(self, why: str) -> None:
        """Go on without this directory, and say so once."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self.why_not:
                return
            self.why_not = why
            self._release()
        self._warn(f"cannot be used, so nothing more is kept in it or taken from it: {why}")

    def _warn(self, text: str) -> None:
        warnings.warn(f"the cache in {self.path} {text}", FlowparWarning, stacklevel=4)

    # ------------------------------------------------------------------------------ closing

    def _release(self) -> None:
        """Close what is open, and let go of every key."""
        db, self._db = self._db, None
        held, self._held = self._held, None
        if held is not None:
            held.close()
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def abandon(self) -> None:
        """Close the files of a directory that is there no more; what waits is lost."""
        if self._pid == os.getpid():
            with self._lock:
                self._release()

    def disown(self) -> None:
        """Leave everything to the process that this one was forked from."""
        db, self._db, self._held, self._lock = self._db, None, None, threading.RLock()
        if db is not None:
            disown(db)
