"""The directory of a cache: an index in SQLite, and a file for each large object.

::

    .flowpar/            0700; who it belongs to alone may write here: objects are pickles
        FORMAT           the version of this layout
        index.sqlite     traces, small objects, components of functions, runs
        objects/ab/cd…   large objects, by digest, never changed once there
        tmp/             what is being written; swept when its writer is gone
        locks            byte ranges of it are locked by who computes a key

Nothing in here raises into a run: a directory that cannot be used is given up with one warning.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import pickle
import shutil
import sqlite3
import stat
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowpar.caching.objects import Stored, path_of
from flowpar.errors import FlowparError, FlowparWarning

LAYOUT: Final = 1
"""The version of the layout; one of a newer version is left alone."""

COMMIT_SECONDS: Final = 0.2
"""How long a trace may wait to be written together with others."""

COMMIT_ROWS: Final = 2_000
"""How many traces may."""

USED_SECONDS: Final = 3600.0
"""How old the note of the last use may be before it is written anew."""

_CHUNK: Final = 500

_TRACES: Final = (
    "select key, value, object, size, seconds, created, function, name, place, parts, files, kind "
    "from trace"
)

_SCHEMA: Final = """
create table if not exists trace (
    key blob primary key, value blob, object blob, size integer, seconds real, created real,
    function blob, name text, place text, parts blob, files blob, kind text, run integer
) without rowid;
create index if not exists trace_name on trace (name, created);
create table if not exists object (digest blob primary key, size integer, used real, data blob);
create table if not exists function (digest blob primary key, components blob) without rowid;
create table if not exists run (
    id integer primary key, started real, seconds real, status text, program text, counts text);
create table if not exists file (path text primary key, facts blob, digest blob) without rowid;
create table if not exists event (at real, text text);
"""


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

    Parameters
    ----------
    path
        The directory; made if it is not there.

    Raises
    ------
    CacheRefused
        If it belongs to another user, if others may write to it, or if a newer flowpar made it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = path / "objects"
        self.why_not = ""
        """Why this directory is not used any more; empty while it is."""
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._waiting: dict[bytes, tuple[Any, ...]] = {}
        self._traces: dict[bytes, Trace] = {}
        self._small: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()
        self._claimed: set[bytes] = set()
        self._to_free: list[bytes] = []
        self._locks = -1
        self._version: object = None
        self._last_commit = time.monotonic()
        with self._guarded():
            self._open()

    # ------------------------------------------------------------------------------ opening

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700, parents=True)
        self._refuse_foreign()
        for folder in (self.objects, self.path / "tmp"):
            folder.mkdir(exist_ok=True, mode=0o700)
        self._check_layout()
        ignore = self.path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        self._locks = os.open(self.path / "locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._db = _connect(self.path / "index.sqlite")
        self._sweep()

    def _refuse_foreign(self) -> None:
        facts = self.path.stat()
        if facts.st_uid != os.geteuid():
            raise CacheRefused(
                f"{self.path} belongs to another user, and what a cache holds is run when it is "
                "read: use a directory of your own"
            )
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise CacheRefused(
                f"others may write to {self.path}, and what a cache holds is run when it is read: "
                f"chmod go-w {self.path}"
            )

    def _check_layout(self) -> None:
        note = self.path / "FORMAT"
        if note.exists():
            made_by = note.read_text().strip()
            if made_by != f"flowpar {LAYOUT}":
                raise CacheRefused(
                    f"{self.path} has the layout {made_by!r}, and this flowpar knows "
                    f"'flowpar {LAYOUT}': use another directory, or delete this one"
                )
            return
        if any(self.path.glob("*.pkl")):
            raise CacheRefused(f"{self.path} holds files that are not flowpar's")
        note.write_text(f"flowpar {LAYOUT}\n")

    def _sweep(self) -> None:
        """Take away what writers left that were killed."""
        for path in (self.path / "tmp").iterdir():
            pid = path.name.partition("-")[0]
            if pid.isdecimal() and not _is_alive(int(pid)):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Give the directory up, with one warning, if it cannot be read or written."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError) as error:
                self.give_up(f"{type(error).__name__}: {error}")

    def give_up(self, why: str) -> None:
        """Go on without this directory, and say so once."""
        with self._lock:
            if self.why_not:
                return
            self.why_not = why
            self._waiting.clear()
            self._free_all()
        warnings.warn(
            f"the cache in {self.path} cannot be used, so nothing more is kept in it or taken "
            f"from it: {why}",
            FlowparWarning,
            stacklevel=3,
        )

    @property
    def is_usable(self) -> bool:
        """Whether this process may use it."""
        return not self.why_not and self._pid == os.getpid()

    # ------------------------------------------------------------------------------ looking

    def lookup(self, keys: Sequence[bytes]) -> dict[bytes, Trace]:
        """Return what is known of these keys; those of which nothing is are left out."""
        found = {key: self._traces[key] for key in keys if key in self._traces}
        left = [key for key in keys if key not in found]
        with self._guarded():
            if self._db is None or self.why_not:
                return found
            for chunk in _chunks(left):
                for row in self._db.execute(
                    f"{_TRACES} where key in ({_marks(chunk)})",
                    chunk,
                ):
                    found[row[0]] = _trace(row)
        return found

    def fetch(self, digest: bytes, size: int) -> Stored | bytes | None:
        """Return where an object lies, or a small one itself; None if it is not there."""
        data = self._small.get(digest)
        if data is not None:
            return data
        path = path_of(self.objects, digest)
        try:
            if path.stat().st_size == size:
                self._used.add(digest)
                return Stored(str(path), digest, size)
        except OSError:
            pass
        with self._guarded():
            if self._db is None or self.why_not:
                return None
            row = self._db.execute(
                "select data from object where digest = ? and data is not null", (digest,)
            ).fetchone()
            if row is not None:
                self._used.add(digest)
                return bytes(row[0])
        return None

    def is_changed(self) -> bool:
        """Return whether another process has written since this was asked last."""
        with self._guarded():
            if self._db is not None and not self.why_not:
                old, self._version = (
                    self._version,
                    self._db.execute("pragma data_version").fetchone(),
                )
                return old != self._version
        return False

    def components(self, function: bytes) -> tuple[Any, ...]:
        """Return what a function was made of, as `put_function` was given it."""
        with self._guarded():
            if self._db is None or self.why_not:
                return ()
            row = self._db.execute(
                "select components from function where digest = ?", (function,)
            ).fetchone()
            if row is not None:
                return tuple(pickle.loads(row[0]))  # noqa: S301 - ours, as the objects are
        return ()

    def earlier(self, name: str, *, before: float | None = None, limit: int = 200) -> list[Trace]:
        """Return the newest traces of functions of this name, newest first."""
        with self._guarded():
            if self._db is None or self.why_not:
                return []
            rows = self._db.execute(
                f"{_TRACES} where name = ? and created < ? order by created desc limit ?",
                (name, math.inf if before is None else before, limit),
            )
            return [_trace(row) for row in rows]
        return []  # type: ignore[unreachable]  # the guard swallows errors of the index

    # ------------------------------------------------------------------------------ writing

    def put(self, trace: Trace, data: bytes | None) -> None:
        """Remember a trace, and a small object with it, until the next `commit`."""
        with self._lock:
            if not self.is_usable:
                return
            self._traces[trace.key] = trace
            if data is not None and trace.object is not None:
                self._small[trace.object] = data
            self._waiting[trace.key] = (trace, data)
            is_due = time.monotonic() - self._last_commit > COMMIT_SECONDS
            if is_due or len(self._waiting) >= COMMIT_ROWS:
                self.commit()

    def put_function(self, digest: bytes, components: tuple[Any, ...]) -> None:
        """Remember what a function is made of."""
        with self._guarded():
            if self._db is not None and self.is_usable:
                self._db.execute(
                    "insert or ignore into function values (?, ?)",
                    (digest, pickle.dumps(components, 4)),
                )

    def commit(self) -> None:
        """Write what waits, in one transaction; then others may see it."""
        with self._guarded():
            if self._db is None or not self.is_usable:
                return
            waiting, self._waiting = self._waiting, {}
            now = time.time()
            self._db.execute("begin immediate")
            try:
                self._write(self._db, waiting.values(), now)
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")
            self._traces.clear()
            self._small.clear()
            self._last_commit = time.monotonic()
            self._free_all()

    def _write(
        self, db: sqlite3.Connection, waiting: Iterable[tuple[Trace, bytes | None]], now: float
    ) -> None:
        objects, traces = [], []
        for trace, data in waiting:
            if trace.object is not None:
                objects.append((trace.object, trace.size, now, data))
            traces.append(
                (
                    trace.key,
                    trace.value,
                    trace.object,
                    trace.size,
                    trace.seconds,
                    trace.created,
                    trace.function,
                    trace.name,
                    trace.place,
                    pickle.dumps(trace.parts, 4),
                    pickle.dumps(trace.files, 4),
                    trace.kind,
                    None,
                )
            )
        db.executemany("insert or replace into object values (?, ?, ?, ?)", objects)
        db.executemany(
            "insert or replace into trace values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", traces
        )
        used, self._used = self._used, set()
        db.executemany(
            "update object set used = ? where digest = ? and used < ?",
            [(now, digest, now - USED_SECONDS) for digest in used],
        )

    def tend(self) -> float | None:
        """Commit what has waited long enough; return in how many seconds the rest is due."""
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
        with self._guarded():
            self._small.pop(digest, None)
            path_of(self.objects, digest).unlink(missing_ok=True)
            if self._db is not None and self.is_usable:
                self._db.execute("delete from object where digest = ?", (digest,))

    def file_facts(self) -> list[tuple[str, tuple[int, ...], bytes]]:
        """Return what is remembered of files: path, what the system said of it, digest."""
        rows = self.query("select path, facts, digest from file")
        return [(path, pickle.loads(facts), digest) for path, facts, digest in rows]  # noqa: S301

    def put_file_facts(self, rows: Iterable[tuple[str, tuple[int, ...], bytes]]) -> None:
        """Remember what the system says of files, and their digests."""
        with self._guarded():
            if self._db is not None and self.is_usable:
                self._db.executemany(
                    "insert or replace into file values (?, ?, ?)",
                    [(path, pickle.dumps(facts, 4), digest) for path, facts, digest in rows],
                )

    # ------------------------------------------------------------------------------- claims

    def claim(self, key: bytes) -> bool:
        """Take a key to compute; return False while another that lives is at it.

        A claim is a lock on a byte of a file: the system frees it when its owner dies, whatever
        it died of.
        """
        with self._lock:
            if key in self._claimed:
                return False
            if self.is_usable and self._locks >= 0:
                try:
                    fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
                except (BlockingIOError, PermissionError):
                    return False
                except OSError:  # a file system without locks: then a key may be computed twice
                    pass
            self._claimed.add(key)
            return True

    def free(self, key: bytes, *, at_once: bool = True) -> None:
        """Let others have a key; unless at once, when what was put is written."""
        with self._lock:
            if not at_once and key in self._waiting:
                self._to_free.append(key)
                return
            self._free([key])

    def _free_all(self) -> None:
        keys, self._to_free = self._to_free, []
        self._free(keys)

    def _free(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._claimed.discard(key)
            if self._locks >= 0 and self._pid == os.getpid():
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _offset(key))

    # ----------------------------------------------------------------------------- the house

    def query(self, text: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a question to the index."""
        with self._guarded():
            if self._db is not None and not self.why_not:
                return self._db.execute(text, values).fetchall()
        return []

    def execute(self, text: str, values: Sequence[Any] = ()) -> None:
        """Change the index."""
        with self._guarded():
            if self._db is not None and self.is_usable:
                self._db.execute(text, values)

    def clear(self) -> None:
        """Forget everything, and delete the objects."""
        with self._guarded():
            if self._db is None or not self.is_usable:
                return
            self._waiting.clear()
            self._traces.clear()
            self._small.clear()
            for table in ("trace", "object", "function", "run", "event"):
                self._db.execute(f"delete from {table}")  # noqa: S608 - names of ours
            for folder in self.objects.iterdir():
                shutil.rmtree(folder, ignore_errors=True)
            self._db.execute("vacuum")

    def close(self) -> None:
        """Write what waits, and close the files."""
        self.commit()
        with self._lock:
            if self._pid != os.getpid():
                return
            if self._db is not None:
                self._db.close()
                self._db = None
            if self._locks >= 0:
                os.close(self._locks)
                self._locks = -1


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")
        db.execute("begin immediate")
        for statement in _SCHEMA.split(";"):
            if statement.strip():
                db.execute(statement)
        db.execute("commit")
    except BaseException:
        db.close()
        raise
    path.chmod(0o600)
    return db


def _trace(row: Sequence[Any]) -> Trace:
    columns = list(row)
    columns[-3:-1] = map(pickle.loads, columns[-3:-1])  # noqa: S301 - ours, as the objects are
    return Trace(*columns)


def _offset(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") & ((1 << 62) - 1)


def _chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def _marks(chunk: Sequence[bytes]) -> str:
    return ",".join("?" * len(chunk))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_stores: dict[tuple[int, str], Store] = {}
_opening = threading.Lock()


def store_at(path: Path) -> Store:
    """Return the store of a directory: one for each process, as there is one writer."""
    full = os.path.realpath(path)
    with _opening:
        known = _stores.get((os.getpid(), full))
        if known is None or known.why_not or not Path(full, "FORMAT").exists():
            if known is not None:
                known.close()
            known = _stores[os.getpid(), full] = Store(Path(full))
        return known


Opener = Callable[[Path], Store]
