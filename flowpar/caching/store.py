"""The directory of a cache: an index in SQLite, and a file for each large object.

::

    .flowpar/            0700; who it belongs to alone may write here: objects are pickles
        FORMAT           the version of this layout
        index.sqlite     traces, small objects, components of functions, files, runs
        objects/ab/cd…   large objects, by digest, never changed once there
        tmp/             what is being written; swept when its writer is gone
        locks            byte ranges of it are locked by who computes a key

Nothing in here raises into a run: a directory that cannot be used is given up with one warning. The
index tells nothing that cannot be made again: a damaged one is moved aside. A directory that can
only be read gives what it has.

Any process may be killed at any time, and any may delete any object: a trace whose object is not
there is no more than a value to be computed, and each object is checked when it is read. So nobody
counts who uses what.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import math
import os
import pickle
import shutil
import sqlite3
import stat
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from flowpar.caching.objects import (
    INLINE_UP_TO,
    ObjectDamaged,
    Stored,
    check,
    check_data,
    path_of,
    sweep,
)
from flowpar.errors import FlowparError, FlowparWarning

LAYOUT: Final = 1
"""The version of the layout; one of a newer version is left alone."""

COMMIT_SECONDS: Final = 0.2
"""How long a trace may wait to be written together with others."""

COMMIT_ROWS: Final = 2_000
"""How many traces may."""

USED_SECONDS: Final = 3600.0
"""How old the note of the last use may be before it is written anew."""

BUSY_SECONDS: Final = 30.0
"""How long to wait for a process that writes to the index."""

_T = TypeVar("_T")

_CHUNK: Final = 500
_OPENING: Final = 1 << 62
"""The byte of the locks that is locked by who opens the directory; those of keys are before it."""
_OPENING_TRIES: Final = 1000
_OPENING_PAUSE: Final = 0.01

_COLUMNS: Final = (
    "key, value, object, size, seconds, created, function, name, place, parts, files, kind"
)
_TRACES: Final = f"select {_COLUMNS} from trace"  # noqa: S608 - constants
_NUMBER: Final = (float, int)
_TYPES: Final[tuple[Any, ...]] = (
    *(bytes, bytes, (bytes, type(None)), int, _NUMBER, _NUMBER, bytes, str, str),
    *(tuple, tuple, str),
)
_TABLES: Final = {
    "trace": f"""({_COLUMNS.replace("key", "key blob primary key", 1)}) without rowid""",
    "object": "(digest blob primary key, size integer, used real, data blob)",
    "function": "(digest blob primary key, components blob) without rowid",
    "run": """(id integer primary key, started real, seconds real, status text, program text,
        counts text)""",
    "file": "(path text primary key, facts blob, digest blob) without rowid",
    "event": "(at real, text text)",
}
_INDEX: Final = "create index if not exists trace_name on trace (name, created)"

_PUT_OBJECT: Final = (
    "insert into object values (?, ?, ?, ?) on conflict (digest) do update set "
    "size = excluded.size, used = excluded.used, data = coalesce(excluded.data, data)"
)
"""Equal values share an object: who has it in a file must not wipe what another put in the row."""
_PUT_TRACE: Final = "insert or replace into trace values ({})".format(",".join("?" * len(_TYPES)))  # noqa: S608 - constants


_TROUBLES: Final = (sqlite3.Error, OSError, MemoryError, UnicodeDecodeError)
"""What a directory can do to us; the last is Python's on SQLite's telling of a damaged name."""


class CacheRefused(FlowparError):
    """A directory must not be used as a cache."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of a key: the value that it gave."""

    key: bytes
    value: bytes
    object: bytes | None
    """The digest of the object; None: the value was not kept."""
    size: int
    seconds: float
    created: float
    function: bytes
    """The digest of the function; `Store.components` tells what it was made of."""
    name: str
    place: str
    """The key of the task in its graph, such as ``load[3]``."""
    parts: tuple[tuple[str, bytes, str], ...]
    """Of each argument its name, its digest, and what a person is shown of it."""
    files: tuple[tuple[str, bytes], ...] = ()
    """The files that the value names, each with the digest of its content."""
    kind: str = "value"
    """Or "expansion": the object is a delayed value, which was returned in place of one."""


class Store:
    """One directory, as one process uses it; safe for its threads, and beside other processes.

    In a forked child it does nothing: a connection to the index must not cross a fork.

    Parameters
    ----------
    path
        The directory; made if it is not there.

    Attributes
    ----------
    why_not
        Why this directory is not used any more; empty while it is.
    is_writable
        Whether anything can be kept in it; if not, it may still be read.

    Raises
    ------
    CacheRefused
        If it belongs to another user, if others may write to it, or if a newer flowpar made it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.objects = self.path / "objects"
        self.why_not = ""
        self.is_writable = True
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._pid = os.getpid()
        self._waiting: dict[bytes, tuple[Trace, bytes | None]] = {}
        self._functions: dict[bytes, bytes] = {}
        self._traces: dict[bytes, Trace] = {}
        self._small: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()
        self._claims: _Claims | None = None
        self._mine: dict[int, int] = {}
        self._to_free: list[bytes] = []
        self._version: object = None
        self._is_renewed = False
        self._last_commit = time.monotonic()
        _here.everyone.add(self)
        with _here.opening, self._guarded():
            self._open()

    # ------------------------------------------------------------------------------ opening

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700, parents=True)
        _refuse_foreign(self.path)
        is_new = self._is_new()
        self.is_writable = os.access(self.path, os.W_OK, effective_ids=True)
        try:
            if self.is_writable:
                self._open_to_write(is_new=is_new)
            else:
                self._open_to_read()
        except BaseException:
            self._release()
            raise

    def _open_to_write(self, *, is_new: bool) -> None:
        for folder in (self.objects, self.path / "tmp"):
            folder.mkdir(exist_ok=True, mode=0o700)
            _refuse_foreign(folder)
        with contextlib.suppress(FileExistsError), (self.path / ".gitignore").open("x") as file:
            file.write("*\n")
        self._claims = _claims_at(self.path / "locks")
        with self._claims.alone():
            sweep(self.path / "tmp")
            if is_new:
                # Whole or not at all: half a note would have the directory refused for ever.
                new = self.path / "tmp" / f"{os.getpid()}-FORMAT"
                new.write_text(f"flowpar {LAYOUT}\n")
                new.replace(self.path / "FORMAT")
            self._open_index()

    def _open_to_read(self) -> None:
        with contextlib.suppress(OSError):
            self._claims = _claims_at(self.path / "locks")
        path = self.path / "index.sqlite"
        self._db = _connect_to_read(path)
        self._inode = _inode(path)
        self._warn("can only be read: what it has is taken from it, and nothing more is kept")

    def _is_new(self) -> bool:
        """Return whether nobody has used the directory so far; refuse what is not ours."""
        note = self.path / "FORMAT"
        made_by = note.read_text(errors="replace").strip() if _is_file(note) else ""
        if made_by and made_by != f"flowpar {LAYOUT}":
            raise CacheRefused(
                f"{self.path} has the layout {made_by!r}, and this flowpar knows "
                f"'flowpar {LAYOUT}': use another directory, or delete this one"
            )
        if not made_by and any(self.path.glob("*.pkl")):
            raise CacheRefused(f"{self.path} holds files that are not flowpar's")
        return not made_by

    def _open_index(self) -> None:
        path = self.path / "index.sqlite"
        try:
            self._db = _connect(path)
        except _TROUBLES as error:
            if not _is_damage(error):
                raise
            self._move_aside(error)
            self._db = _connect(path)
        self._inode = _inode(path)
        self._version = self._db.execute("pragma data_version").fetchone()

    def _move_aside(self, error: Exception) -> None:
        number = 1
        while (aside := self.path / f"index.sqlite.damaged-{number}").exists():
            number += 1
        # The index last: a new one must not find the log of the old one and take it for its own.
        for end in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                (self.path / f"index.sqlite{end}").replace(f"{aside}{end}")
        self._warn(f"had a damaged index, which is now {aside.name}; a new one was begun: {error}")

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Give the directory up, with one warning, if it cannot be read or written."""
        with self._lock:
            try:
                yield
            except _TROUBLES as error:
                self._recover(error)

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

    def _recover(self, error: Exception) -> None:
        if _is_damage(error) and self._db is not None and not self._is_renewed:
            self._is_renewed = True  # if that does not help, nothing will
            try:
                self._renew(error)
            except _TROUBLES as another:
                error = another
            else:
                self._free_all()
                return
        self.give_up(f"{type(error).__name__}: {error}")

    def _renew(self, error: Exception) -> None:
        if self._db is None or self._claims is None or not self.is_writable:
            raise error
        self._db.close()
        self._db = None
        with _here.opening, self._claims.alone():
            # Another process may have been here before, and begun a new one.
            if self._inode == _inode(self.path / "index.sqlite"):
                self._move_aside(error)
            self._open_index()

    def give_up(self, why: str) -> None:
        """Go on without this directory, and say so once."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self.why_not:
                return
            self.why_not = why
            self._waiting.clear()
            self._release()
        self._warn(
            f"cannot be used, so nothing more is kept in it or taken from it: {why}",
        )

    def _warn(self, text: str) -> None:
        warnings.warn(f"the cache in {self.path} {text}", FlowparWarning, stacklevel=4)

    def _release(self) -> None:
        """Close what is open, and let go of every key."""
        self._to_free.clear()
        db, self._db = self._db, None
        claims, self._claims = self._claims, None
        mine, self._mine = self._mine, {}
        if claims is not None:
            for at, times in mine.items():
                for _ in range(times):
                    claims.free(at)
            claims.leave()
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
        db, self._db, self._claims, self._lock = self._db, None, None, threading.RLock()
        if db is not None:
            import ctypes  # noqa: PLC0415 - in forked children only

            # Closing it, be it at exit, might delete the log that other processes write to.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))

    @property
    def is_usable(self) -> bool:
        """Whether this process may use it."""
        return not self.why_not and self._db is not None and self._pid == os.getpid()

    def is_current(self) -> bool:
        """Return whether it can be used, and the directory is still the one that was opened."""
        return self.is_usable and _inode(self.path / "index.sqlite") == self._inode

    # ------------------------------------------------------------------------------ looking

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Trace]:
        """Return what is known of these keys; those of which nothing is are left out."""
        if self._pid != os.getpid():
            return {}
        with self._lock:
            found = {key: self._traces[key] for key in keys if key in self._traces}
        with self._index() as db:
            left = [key for key in keys if key not in found]
            if db is None:
                return found
            for chunk in _chunks(left):
                rows = db.execute(f"{_TRACES} where key in ({_marks(chunk)})", chunk)
                found.update((trace.key, trace) for trace in _traces_of(rows))
        return found

    def fetch(self, digest: bytes, size: int) -> Stored | bytes | None:
        """Return where an object lies, or a small one itself; None if it is not there."""
        if self._pid != os.getpid():
            return None
        if size <= INLINE_UP_TO:
            return self.small([digest]).get(digest)
        path = path_of(self.objects, digest)
        try:
            facts = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != size:
            return None
        with self._lock:
            self._used.add(digest)
        return Stored(str(path), digest, size)

    def small(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return those of some small objects that are there."""
        if self._pid != os.getpid():
            return {}
        with self._lock:
            found = {each: self._small[each] for each in digests if each in self._small}
        with self._index() as db:
            if db is None:
                return found
            for chunk in _chunks([each for each in digests if each not in found]):
                rows = db.execute(
                    f"select digest, data from object where digest in ({_marks(chunk)})",  # noqa: S608 - question marks
                    chunk,
                )
                found.update((each, data) for each, data in rows if isinstance(data, bytes))
            self._used.update(found)
        return found

    def is_changed(self) -> bool:
        """Return whether another process has written since this was asked last."""
        is_changed = False
        with self._index() as db:
            if db is not None:
                before = self._version
                self._version = db.execute("pragma data_version").fetchone()
                is_changed = before != self._version
        return is_changed

    def components(self, function: bytes) -> tuple[Any, ...]:
        """Return what a function was made of, as `put_function` was given it."""
        data = self._functions.get(function)
        if data is None:
            rows = self.query("select components from function where digest = ?", (function,))
            data = rows[0][0] if rows else b""
        return _tuple(data) or ()

    def earlier(self, name: str, *, before: float | None = None, limit: int = 200) -> list[Trace]:
        """Return the newest traces of functions of this name, newest first.

        Parameters
        ----------
        name
            As in the traces.
        before
            A time: those that were made then or later are left out.
        limit
            How many to return at most.
        """
        rows = self.query(
            f"{_TRACES} where name = ? and created < ? order by created desc limit ?",
            (_text(name), math.inf if before is None else before, limit),
        )
        return list(_traces_of(rows))

    # ------------------------------------------------------------------------------ writing

    def put(self, trace: Trace, data: bytes | None) -> None:
        """Remember a trace, and a small object with it, until the next `commit`."""
        if not self.is_usable or not self.is_writable:
            return
        with self._lock:
            if self._db is None:
                return  # another thread has given it up
            self._traces[trace.key] = trace
            if data is not None and trace.object is not None:
                self._small[trace.object] = data
            self._waiting[trace.key] = (trace, data)
            is_due = time.monotonic() - self._last_commit > COMMIT_SECONDS
            if is_due or len(self._waiting) >= COMMIT_ROWS:
                self.commit()

    def put_function(self, digest: bytes, components: tuple[Any, ...]) -> None:
        """Remember what a function is made of, until the next `commit`."""
        if not self.is_usable or not self.is_writable:
            return
        try:
            data = pickle.dumps(components, 4)
        except Exception:  # noqa: BLE001 - of values of the user's; they are only shown
            return
        with self._lock:
            self._functions[digest] = data

    def commit(self) -> None:
        """Write what waits, in one transaction; then others may see it."""
        for _ in range(2):  # again if the index was damaged, and a new one was begun
            with self._index(to_write=True) as db:
                if db is not None:
                    self._flush(db)
                return

    def _flush(self, db: sqlite3.Connection) -> None:
        if self._waiting or self._functions or self._used:
            with _transaction(db):
                self._write(db, time.time())
            self._forget_waiting()
            self._last_commit = time.monotonic()
            self._free_all()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._functions.clear()
        self._used.clear()
        self._traces.clear()
        self._small.clear()

    def _write(self, db: sqlite3.Connection, now: float) -> None:
        waiting = self._waiting.values()
        # What a trace points to before the trace.
        db.executemany(
            "insert or ignore into function values (?, ?)",
            self._functions.items(),
        )
        db.executemany(
            _PUT_OBJECT,
            [
                (trace.object, trace.size, now, data)
                for trace, data in waiting
                if trace.object is not None
            ],
        )
        db.executemany(_PUT_TRACE, [_row(trace) for trace, _ in waiting])
        for chunk in _chunks(list(self._used)):
            db.execute(
                f"update object set used = ? where digest in ({_marks(chunk)}) and used < ?",  # noqa: S608 - question marks
                (now, *chunk, now - USED_SECONDS),
            )

    def tend(self) -> float | None:
        """Commit what has waited long enough; return in how many seconds the rest is due."""
        if not self.is_usable:
            return None
        with self._lock:
            if not self._waiting:
                return None
            left = self._last_commit + COMMIT_SECONDS - time.monotonic()
        if left <= 0:
            self.commit()
            return None
        return left

    def forget_object(self, digest: bytes) -> None:
        """Take an object away that is not what was written."""
        with self._index(to_write=True) as db:
            if db is None:
                return
            self._small.pop(digest, None)
            db.execute("delete from object where digest = ?", (digest,))
            path_of(self.objects, digest).unlink(missing_ok=True)

    def file_facts(self) -> list[tuple[str, tuple[int, ...], bytes]]:
        """Return what is remembered of files: path, what the system said of it, digest."""
        rows = self.query("select path, facts, digest from file")
        known = [(os.fsdecode(path), _tuple(facts), digest) for path, facts, digest in rows]
        return [(path, facts, digest) for path, facts, digest in known if facts is not None]

    def put_file_facts(self, rows: Iterable[tuple[str, tuple[int, ...], bytes]]) -> None:
        """Remember what the system says of files, and their digests."""
        made = [(_path(path), pickle.dumps(facts, 4), digest) for path, facts, digest in rows]
        with self._index(to_write=True) as db:
            if db is not None and made:
                with _transaction(db):
                    db.executemany("insert or replace into file values (?, ?, ?)", made)

    # ------------------------------------------------------------------------------- claims

    def claim(
        self,
        key: bytes,
        wait: bool = False,  # noqa: FBT001, FBT002 - `claim(key, True)`
        owner: int | None = None,
    ) -> bool:
        """Take a key to compute; return False while another that lives is at it.

        A claim is a lock on a byte of a file: the system frees it when its owner dies, whatever
        it died of. Two keys in 2**62 share a byte; then one waits for the other.

        Parameters
        ----------
        key
            Of what is computed.
        wait
            Whether to wait for the other, be it a thread of this process or another process. It
            returns True also when waiting would never end, as when each of two threads has what
            the other waits for, or when there are no locks: computing twice is only slow.
        owner
            Who has it then; None: this thread. Of coroutines on one thread each is one.
        """
        if not self.is_usable:
            return True
        with self._lock:
            claims = self._claims
            if claims is None:
                return True
            claims.enter()  # it stays open as long as this thread waits
        try:
            me = threading.get_ident() if owner is None else owner
            return self._take(claims, _offset(key), me, wait=wait)
        finally:
            claims.leave()

    def _take(self, claims: _Claims, at: int, me: int, *, wait: bool) -> bool:
        if not claims.take(at, me, wait=wait):
            return False
        with self._lock:
            if self._claims is claims:
                self._mine[at] = self._mine.get(at, 0) + 1
            else:  # closed in the meantime
                claims.free(at)
        return True

    def free(self, key: bytes, *, at_once: bool = True) -> None:
        """Let others have a key; unless at once, when what was put is written."""
        if not self.is_usable:
            return
        with self._lock:
            if not at_once and key in self._waiting:
                self._to_free.append(key)
            else:
                self._free(key)

    def _free_all(self) -> None:
        keys, self._to_free = self._to_free, []
        for key in keys:
            self._free(key)

    def _free(self, key: bytes) -> None:
        at = _offset(key)
        if self._claims is not None and self._mine.get(at):
            self._mine[at] -= 1
            if not self._mine[at]:
                del self._mine[at]
            self._claims.free(at)

    # ----------------------------------------------------------------------------- the house

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

    def sizes(self) -> tuple[int, int, int]:
        """Return how many traces and objects there are, and the bytes of the objects."""
        traces = self.query("select count(*) from trace")
        objects = self.query("select count(*), coalesce(sum(size), 0) from object")
        return (traces[0][0], *objects[0]) if traces and objects else (0, 0, 0)

    def objects_by_use(self) -> Iterator[tuple[bytes, int, float]]:
        """Return the digest, the size and the last use of each object; unused for longest first.

        The last use is exact to `USED_SECONDS`.
        """
        self.commit()
        return iter(self.query("select digest, size, used from object order by used"))

    def drop_objects(self, digests: Iterable[bytes]) -> None:
        """Delete objects; their traces stay, and with them the digests of the values.

        Who has one open keeps it; who comes later computes it again.
        """
        dropped = list(digests)
        with self._index(to_write=True) as db:
            if db is None:
                return
            with _transaction(db):
                for chunk in _chunks(dropped):
                    db.execute(f"delete from object where digest in ({_marks(chunk)})", chunk)  # noqa: S608 - question marks
            for digest in dropped:
                self._small.pop(digest, None)
                path_of(self.objects, digest).unlink(missing_ok=True)

    def delete_traces(self, older_than: float | None = None, name: str | None = None) -> int:
        """Forget traces, and functions that none is left of; return how many traces it were.

        Parameters
        ----------
        older_than
            A time: only traces that were made before.
        name
            Only traces of functions of this name.
        """
        self.commit()
        wanted = "where (?1 is null or created < ?1) and (?2 is null or name = ?2)"
        values = older_than, None if name is None else _text(name)
        deleted = 0
        with self._index(to_write=True) as db:
            if db is not None:
                with _transaction(db):
                    deleted = db.execute(f"delete from trace {wanted}", values).rowcount  # noqa: S608 - as it stands there
                    db.execute(
                        "delete from function where digest not in (select function from trace)"
                    )
        return deleted

    def verify(self) -> Iterator[tuple[str, str]]:
        """Check all objects, every byte; yield the digest and the trouble of each damaged one."""
        self.commit()
        last = -1
        while rows := self.query(
            "select rowid, digest, data from object where rowid > ? and typeof(digest) = 'blob' "
            "order by rowid limit ?",
            (last, _CHUNK),
        ):
            last = rows[-1][0]
            for _, digest, data in rows:
                trouble = self._trouble(digest, data)
                if trouble and self.query("select 1 from object where digest = ?", (digest,)):
                    yield digest.hex(), trouble

    def _trouble(self, digest: bytes, data: object) -> str:
        path = path_of(self.objects, digest)
        if not isinstance(data, (bytes, type(None))):
            return "its row is damaged"
        try:
            if data is not None:
                check_data(data, digest)
            if data is None or os.path.lexists(path):
                check(str(path), digest)
        except ObjectDamaged as error:
            return str(error)
        return ""

    def orphans(self) -> Iterator[Path]:
        """Yield what lies among the objects and is in no row of the index.

        That of a writer that was killed; but also that of one that has still to put its trace, so
        who deletes them should spare the young.
        """
        self.commit()
        for folder in _entries(self.objects):
            if folder.is_symlink() or not folder.is_dir():
                yield folder
                continue
            for chunk in _chunks(_entries(folder)):
                digests = [_digest_of(path) for path in chunk]
                rows = self.query(
                    f"select digest from object where digest in ({_marks(digests)})",  # noqa: S608 - question marks
                    digests,
                )
                known = {digest for (digest,) in rows}
                yield from (
                    path
                    for path, digest in zip(chunk, digests, strict=True)
                    if self.is_usable and digest not in known
                )

    def put_run(  # noqa: PLR0917 - the columns
        self, started: float, seconds: float, status: str, program: str, counts_json: str
    ) -> None:
        """Remember a run."""
        self.execute(
            "insert into run (started, seconds, status, program, counts) values (?, ?, ?, ?, ?)",
            (started, seconds, _text(status), _text(program), _text(counts_json)),
        )

    def runs(self, limit: int = 100) -> list[tuple[float, float, str, str, str]]:
        """Return the last runs as `put_run` was given them, newest first."""
        return self.query(
            "select started, seconds, status, program, counts from run order by id desc limit ?",
            (limit,),
        )

    def clear(self) -> None:
        """Forget everything, and delete the objects."""
        with self._index(to_write=True) as db:
            if db is None:
                return
            self._forget_waiting()
            self._free_all()
            with _transaction(db):
                for table in _TABLES:
                    db.execute(f"delete from {table}")  # noqa: S608 - names of ours
            for path in _entries(self.objects):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            with contextlib.suppress(sqlite3.OperationalError):  # another process is reading
                db.execute("vacuum")

    def close(self) -> None:
        """Write what waits, and close the files."""
        self.commit()
        self.abandon()


# ------------------------------------------------------------------------------------ the index


def _connect(path: Path) -> sqlite3.Connection:
    if not _is_file(path):
        # By us, so that nobody else may read it; what SQLite puts beside it is as it is.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    db = _connection(str(path))
    try:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")
        with _transaction(db):
            for name, columns in _TABLES.items():
                db.execute(f"create table if not exists {name} {columns}")
            db.execute(_INDEX)
        _probe(db)
    except BaseException:
        db.close()
        raise
    return db


def _connect_to_read(path: Path) -> sqlite3.Connection:
    if not _is_file(path):
        raise OSError(errno.EROFS, "there is nothing in it, and it cannot be written to")
    try:
        return _connect_as(path, "mode=ro")
    except sqlite3.OperationalError:
        # SQLite cannot share memory with writers there; if nothing is left in the log, it need not.
        log = Path(f"{path}-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _connect_as(path, "mode=ro&immutable=1")


def _connect_as(path: Path, how: str) -> sqlite3.Connection:
    db = _connection(f"{path.as_uri()}?{how}", uri=True)
    try:
        _probe(db)
    except BaseException:
        db.close()
        raise
    return db


def _connection(name: str, *, uri: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(
        name, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri
    )
    db.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
    return db


def _probe(db: sqlite3.Connection) -> None:
    """Raise if these are not the tables that we know."""
    try:
        db.execute(f"{_TRACES} limit 0")
        db.execute("select digest, size, used, data from object limit 0")
    except sqlite3.OperationalError as error:
        if str(error).startswith("no such"):
            raise sqlite3.DatabaseError(str(error)) from error
        raise


def _is_damage(error: Exception) -> bool:
    """Return whether an error says that the index is no database, or a broken one.

    Python 3.10 keeps SQLite's codes to itself, and has subclasses for all others that there are.
    """
    return type(error) is sqlite3.DatabaseError or isinstance(error, UnicodeDecodeError)


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    try:
        db.execute("begin immediate")
        yield
        db.execute("commit")
    except BaseException:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("rollback")
        raise


def _row(trace: Trace) -> tuple[Any, ...]:
    return (
        trace.key,
        trace.value,
        trace.object,
        trace.size,
        trace.seconds,
        trace.created,
        trace.function,
        _text(trace.name),
        _text(trace.place),
        _pickled(trace.parts),
        _pickled(trace.files),
        trace.kind,
    )


def _traces_of(rows: Iterable[Sequence[Any]]) -> Iterator[Trace]:
    """Yield the traces of rows; what is none, as its page is damaged, is left out."""
    for row in rows:
        columns = *row[:-3], _tuple(row[-3]), _tuple(row[-2]), row[-1]
        if all(map(isinstance, columns, _TYPES)):
            yield Trace(*columns)


def _pickled(values: tuple[Any, ...]) -> bytes:
    return pickle.dumps(values, 4) if values else b""


def _tuple(data: Any) -> tuple[Any, ...] | None:
    """Return what was pickled; None if it is damaged."""
    if data == b"":
        return ()
    try:
        found = pickle.loads(data)  # noqa: S301 - ours, as the objects are
    except Exception:  # noqa: BLE001 - what is damaged raises anything
        return None
    return found if isinstance(found, tuple) else None


def _text(text: str) -> str:
    """Return a text that SQLite takes: names of files may have what is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _path(path: str) -> str | bytes:
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _chunks(keys: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _marks(chunk: Sequence[object]) -> str:
    return ",".join("?" * len(chunk))


# ------------------------------------------------------------------------------------ the files


def _refuse_foreign(folder: Path) -> None:
    facts = folder.stat()
    if facts.st_uid != os.geteuid():
        raise CacheRefused(
            f"{folder} belongs to another user, and what a cache holds is run when it is "
            "read: use a directory of your own"
        )
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheRefused(
            f"others may write to {folder}, and what a cache holds is run when it is read: "
            f"chmod go-w {folder}"
        )


def _is_file(path: Path) -> bool:
    """Return whether a file is there.

    Raises
    ------
    OSError
        If something else is: opening a pipe would wait for ever.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it should be a file", str(path))
    return True


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _digest_of(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.parent.name + path.name)
    except ValueError:  # a name that is none of ours
        return b""


# ------------------------------------------------------------------------------------ the claims


def _offset(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") & (_OPENING - 1)


class _Claims:
    """The bytes of one file of locks that this process has, for all its stores of the directory.

    The system has one owner of locks for all threads of a process, so between them a table of ours
    decides. And closing any descriptor of a file takes away all locks that the process has there,
    so there is one, which stays open as long as anybody uses it.
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
        with _here.opening, self._changed:
            # It may have been entered again by now, and even left and closed.
            if _here.claims.get(self.inode) is self and self._users < 1:
                del _here.claims[self.inode]
                os.close(self._handle)

    def take(self, at: int, me: int, *, wait: bool) -> bool:
        """Lock a byte; return whether it is the caller's now, who is called `me`."""
        has_locked = self._reserve(at, me, wait=wait)
        if has_locked is None or has_locked:
            return has_locked is not None
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, at)
        except OSError as error:
            # Else there are no locks in this file system, or each would wait for the other.
            if not wait and isinstance(error, (BlockingIOError, PermissionError)):
                self.free(at)
                return False
        except BaseException:
            self.free(at)
            raise
        return True

    def _reserve(self, at: int, me: int, *, wait: bool) -> bool | None:
        """Take a byte among the threads of this process.

        Returns
        -------
        bool | None
            Whether this process has the lock already; None: another thread has the byte.
        """
        with self._changed:
            while at in self._owners:
                if not wait:
                    return None
                if self._waits_for(at, me):
                    self._owners[at].append(me)
                    return True
                self._wanted[me] = at
                try:
                    self._changed.wait()
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

    def free(self, at: int) -> None:
        """Let another have a byte."""
        me = threading.get_ident()
        with self._changed:
            owners = self._owners[at]
            owners.remove(me if me in owners else owners[0])
            if owners:
                return
            del self._owners[at]
            with contextlib.suppress(OSError):
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, at)
            self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that opens the directory; or go on after a while, if one hangs."""
        for _ in range(_OPENING_TRIES):
            try:
                fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _OPENING)
            except (BlockingIOError, PermissionError):
                time.sleep(_OPENING_PAUSE)
            except OSError:  # a file system without locks
                break
            else:
                break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._handle, fcntl.LOCK_UN, 1, _OPENING)

    def disown(self) -> None:
        """Close the copy of a forked child, which has none of the locks."""
        os.close(self._handle)


def _claims_at(path: Path) -> _Claims:
    if _is_file(path):
        known = _here.claims.get(_inode(path) or (0, 0))
        if known is not None:
            known.enter()
            return known
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    facts = os.fstat(handle)
    made = _Claims(handle, (facts.st_dev, facts.st_ino))
    _here.claims[made.inode] = made
    return made


# ----------------------------------------------------------------------------------- the process


class _Process:
    """What the stores of this process share."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Share nothing so far."""
        self.opening = threading.RLock()
        """Held while a directory is opened; who has it takes no lock of another store."""
        self.stores: dict[str, Store] = {}
        self.claims: dict[tuple[int, int], _Claims] = {}
        self.everyone: weakref.WeakSet[Store] = weakref.WeakSet()

    def begin_anew(self) -> None:
        """Leave all that there is to the process that this one was forked from."""
        stores, claims = list(self.everyone), list(self.claims.values())
        self.begin()
        for store in stores:
            store.disown()
        for each in claims:
            each.disown()


_here: Final = _Process()
os.register_at_fork(after_in_child=_here.begin_anew)


def store_at(path: Path) -> Store:
    """Return the store of a directory: one for each process, as there is one writer."""
    full = os.path.realpath(path)
    with _here.opening:
        known = _here.stores.get(full)
        if known is not None and known.is_current():
            return known
        made = _here.stores[full] = Store(Path(full))
    if known is not None:
        known.abandon()
    return made


def close_all() -> None:
    """Close every store of this process that `store_at` returned."""
    with _here.opening:
        stores, _here.stores = list(_here.stores.values()), {}
    for store in stores:
        store.close()


atexit.register(close_all)
