"""The directory of a cache: an index in SQLite, and a file for each large object.

::

    .flowpar/            0700; who it belongs to alone may write here: objects are pickles
        FORMAT           the version of this layout
        index.sqlite     traces, small objects, components of functions, files, runs
        objects/ab/cd…   large objects, by digest, never changed once there
        tmp/             what is being written; swept when its writer is gone
        locks            byte ranges of it are locked by who computes a key

Any process may be killed at any time, and any may delete any object: a trace whose object is not
there is no more than a value to be computed, and each object is checked when it is read. So nobody
counts who uses what.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import pickle
import shutil
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from flowpar.caching.claims import here
from flowpar.caching.directory import Directory
from flowpar.caching.folders import CacheRefused, entries
from flowpar.caching.index import (
    CHUNK,
    PUT_OBJECT,
    PUT_TRACE,
    TABLES,
    TRACES,
    TRACES_OF_PLACES,
    chunks,
    marks,
    transaction,
)
from flowpar.caching.objects import (
    INLINE_UP_TO,
    ObjectDamaged,
    Stored,
    check,
    check_data,
    path_of,
)
from flowpar.caching.traces import COLUMNS, Trace, row_of, text_of, traces_of, tuple_of

__all__ = ["CacheRefused", "Store", "Trace", "close_all", "store_at"]

COMMIT_SECONDS: Final = 0.2
"""How long a trace may wait to be written together with others."""

COMMIT_ROWS: Final = 500
"""How many traces may; locking a key takes the longer, the more are locked until then."""

MOST_RUNS: Final = 100
"""How many runs are remembered."""

MOST_EARLIER: Final = 1000
"""How many traces of a function are looked through for one that a call is like."""

MOST_SHARED: Final = 50
"""How many arguments of a call are looked for, and how many calls that share some are returned."""

MOST_OF_PLACE: Final = 4
"""How many of each place are, however old."""

USED_SECONDS: Final = 3600.0
"""How old the note of the last use may be before it is written anew."""


class PastRun(NamedTuple):
    """A run that is remembered."""

    number: int
    started: float
    """Seconds since the epoch."""
    seconds: float
    status: str
    program: str
    counts: str
    """How many tasks ended how, as JSON."""


class Store(Directory):
    """One directory, as one process uses it; safe for its threads, and beside other processes.

    Parameters
    ----------
    path
        The directory.
    makes
        Whether it is made if it is not there; if not, it is as if nothing was ever kept in it.

    Attributes
    ----------
    n_put
        How many traces this process has put here.

    Raises
    ------
    CacheRefused
        If it belongs to another user, or if others may write to it.
    """

    def __init__(self, path: Path, *, makes: bool = True) -> None:
        super().__init__(path, makes=makes)
        self.n_put = 0
        self._waiting: dict[bytes, tuple[Trace, bytes | None]] = {}
        self._functions: dict[bytes, bytes] = {}
        self._output: dict[bytes, tuple[float, str]] = {}
        self._traces: dict[bytes, Trace] = {}
        self._small: dict[bytes, bytes] = {}
        self._used: set[bytes] = set()
        self._lost: set[bytes] = set()
        self._last_commit = time.monotonic()
        _here.everyone.add(self)
        self._open()

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
            for chunk in chunks(left):
                rows = db.execute(f"{TRACES} where key in ({marks(chunk)})", chunk)
                found.update((trace.key, trace) for trace in traces_of(rows))
        return found

    def fetch(self, digest: bytes, size: int) -> Stored | bytes | None:
        """Return where an object lies, or a small one itself; None if it is not there."""
        if self._pid != os.getpid() or digest in self._lost:
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
            left = [each for each in digests if each not in found and each not in self._lost]
            for chunk in chunks(left):
                rows = db.execute(
                    f"select digest, data from object where digest in ({marks(chunk)})",  # noqa: S608 - question marks
                    chunk,
                )
                found.update((each, data) for each, data in rows if isinstance(data, bytes))
            self._used.update(found)
        return found

    def components(self, function: bytes) -> tuple[Any, ...]:
        """Return what a function was made of, as `put_function` was given it."""
        data = self._functions.get(function)
        if data is None:
            rows = self.query("select components from function where digest = ?", (function,))
            data = rows[0][0] if rows else b""
        return tuple_of(data) or ()

    def outputs(self, traces: Sequence[Trace]) -> dict[bytes, str]:
        """Return by key what tasks wrote when these traces of them were made."""
        with self._lock:
            found = dict(self._output)
        left = [trace.key for trace in traces if trace.key not in found]
        for chunk in chunks(left):
            rows = self.query(
                f"select key, created, text from output where key in ({marks(chunk)})",  # noqa: S608 - question marks
                chunk,
            )
            found.update((key, (created, text)) for key, created, text in rows)
        return {
            trace.key: found[trace.key][1]
            for trace in traces
            if trace.key in found and found[trace.key][0] == trace.created
        }

    def earlier(
        self,
        name: str,
        *,
        before: float | None = None,
        limit: int = MOST_EARLIER,
        places: Collection[str] = (),
    ) -> list[Trace]:
        """Return the newest traces of functions of this name, newest first.

        Those of the places that are asked for are among them, however many are newer.

        Parameters
        ----------
        name
            As in the traces.
        before
            A time: those that were made then or later are left out.
        limit
            How many of any place.
        places
            As in the traces.
        """
        wanted = (text_of(name), math.inf if before is None else before)
        rows = self.query(
            f"{TRACES} where name = ? and created < ? order by created desc limit ?",
            (*wanted, limit),
        )
        found = {trace.key: trace for trace in traces_of(rows)}
        if len(rows) == limit:  # else these are all that there are
            for chunk in chunks(list(map(text_of, places))):
                rows = self.query(
                    TRACES_OF_PLACES.format(marks(chunk)), (*wanted, *chunk, MOST_OF_PLACE)
                )
                found.update((trace.key, trace) for trace in traces_of(rows))
        return sorted(found.values(), key=lambda trace: trace.created, reverse=True)

    def sharing(
        self, name: str, digests: Sequence[bytes], *, before: float | None = None
    ) -> list[Trace]:
        """Return the traces of functions of this name that share most arguments, newest first.

        All that there are are looked through, which takes some microseconds for each.

        Parameters
        ----------
        name
            As in the traces.
        digests
            Of the arguments of a call.
        before
            A time: those that were made then or later are left out.
        """
        # As they stand in the pickles; those that are longer do not occur.
        wanted = [b"C%c%b" % (len(each), each) for each in digests[:MOST_SHARED]]
        if not wanted:
            return []
        shared = " + ".join(["(instr(parts, ?) > 0)"] * len(wanted))
        values = (*wanted, text_of(name), math.inf if before is None else before, MOST_SHARED)
        rows = self.query(
            f"select {COLUMNS} from (select *, {shared} as shared from trace "  # noqa: S608 - question marks
            "where name = ? and created < ?) where shared > 0 "
            "order by shared desc, created desc limit ?",
            values,
        )
        return sorted(traces_of(rows), key=lambda trace: trace.created, reverse=True)

    # ------------------------------------------------------------------------------ writing

    def put(self, trace: Trace, data: bytes | None) -> None:
        """Remember a trace, and a small object with it, until the next `commit`."""
        if not self.is_usable or not self.is_writable:
            return
        with self._lock:
            if self._db is None:
                return  # another thread has given it up
            self.n_put += 1
            self._traces[trace.key] = trace
            if trace.object is not None:
                self._lost.discard(trace.object)
                if data is not None:
                    self._small[trace.object] = data
            self._waiting[trace.key] = (trace, data)
            is_due = time.monotonic() - self._last_commit > COMMIT_SECONDS
            if is_due or len(self._waiting) >= COMMIT_ROWS:
                self.commit()

    def put_output(self, trace: Trace, text: str) -> None:
        """Remember what a task wrote whose trace was put, until the next `commit`."""
        if self.is_usable and self.is_writable:
            with self._lock:
                self._output[trace.key] = (trace.created, text_of(text))

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
            with transaction(db):
                self._write(db, time.time())
            self._forget_waiting()
            self._last_commit = time.monotonic()
            self._free_due()

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._functions.clear()
        self._output.clear()
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
            PUT_OBJECT,
            [
                (trace.object, trace.size, now, data)
                for trace, data in waiting
                if trace.object is not None
            ],
        )
        db.executemany(PUT_TRACE, [row_of(trace) for trace, _ in waiting])
        db.executemany(
            "insert or replace into output values (?, ?, ?)",
            [(key, *written) for key, written in self._output.items()],
        )
        for chunk in chunks(list(self._used)):
            db.execute(
                f"update object set used = ? where digest in ({marks(chunk)}) and used < ?",  # noqa: S608 - question marks
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
        self._small.pop(digest, None)
        self._lost.add(digest)  # where nothing can be deleted, it would be found again for ever
        with self._index(to_write=True) as db:
            if db is None:
                return
            db.execute("delete from object where digest = ?", (digest,))
            path_of(self.objects, digest).unlink(missing_ok=True)
            self._lost.discard(digest)

    def forget_call(self, key: bytes) -> None:
        """Forget what is known of a key, as if the call had never been made."""
        self._forget("key", key)

    def forget_function(self, digest: bytes) -> None:
        """Forget all calls of a function, as its code was when it had this digest."""
        self._forget("function", digest)

    def _forget(self, column: str, value: bytes) -> None:
        self.commit()  # what waits, too
        self.execute(f"delete from trace where {column} = ?", (value,))  # noqa: S608 - as above

    def file_facts(self) -> list[tuple[str, tuple[int, ...], bytes]]:
        """Return what is remembered of files: path, what the system said of it, digest."""
        rows = self.query("select path, facts, digest from file")
        known = [(os.fsdecode(path), tuple_of(facts), digest) for path, facts, digest in rows]
        return [(path, facts, digest) for path, facts, digest in known if facts is not None]

    def put_file_facts(self, rows: Iterable[tuple[str, tuple[int, ...], bytes]]) -> None:
        """Remember what the system says of files, and their digests."""
        made = [(_path(path), pickle.dumps(facts, 4), digest) for path, facts, digest in rows]
        with self._index(to_write=True) as db:
            if db is not None and made:
                with transaction(db):
                    db.executemany("insert or replace into file values (?, ?, ?)", made)

    def habits(self) -> dict[bytes, tuple[float | str, ...]]:
        """Return what is remembered of how functions use a CPU, by the digest of their code."""
        known = {key: tuple_of(data) for key, data in self.query("select * from habit")}
        return {key: habits for key, habits in known.items() if habits is not None}

    def put_habits(self, habits: Mapping[bytes, tuple[float | str, ...]]) -> None:
        """Remember how functions use a CPU."""
        rows = [(key, pickle.dumps(numbers, 4)) for key, numbers in habits.items()]
        with self._index(to_write=True) as db:
            if db is not None and rows:
                with transaction(db):
                    db.executemany("insert or replace into habit values (?, ?)", rows)

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
        held = self._held
        if held is None:
            return True
        return held.take(key, threading.get_ident() if owner is None else owner, wait=wait)

    def free(self, name: bytes, *, after: bytes | None = None) -> None:
        """Let others have what was claimed: at once, or once what was put for a key is written."""
        if not self.is_usable:
            return
        with self._lock:
            if self._held is None:
                return
            if after is not None and after in self._waiting:
                self._held.free_later(name)
            else:
                self._held.free(name)

    def _free_due(self) -> None:
        if self._held is not None:
            self._held.free_due()

    # ----------------------------------------------------------------------------- the house

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
            with transaction(db):
                for chunk in chunks(dropped):
                    db.execute(f"delete from object where digest in ({marks(chunk)})", chunk)  # noqa: S608 - question marks
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
        wanted = "where (:age is null or created < :age) and (:name is null or name = :name)"
        values = {"age": older_than, "name": None if name is None else text_of(name)}
        deleted = 0
        with self._index(to_write=True) as db:
            if db is not None:
                with transaction(db):
                    deleted = db.execute(f"delete from trace {wanted}", values).rowcount  # noqa: S608 - as it stands there
                    db.execute(
                        "delete from function where digest not in (select function from trace)"
                    )
                    db.execute("delete from output where key not in (select key from trace)")
        return deleted

    def verify(self) -> Iterator[tuple[str, str]]:
        """Check all objects, every byte; yield the digest and the trouble of each damaged one."""
        self.commit()
        last = -1
        while rows := self.query(
            "select rowid, digest, data from object where rowid > ? and typeof(digest) = 'blob' "
            "order by rowid limit ?",
            (last, CHUNK),
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
        for folder in entries(self.objects):
            if folder.is_symlink() or not folder.is_dir():
                yield folder
                continue
            for chunk in chunks(entries(folder)):
                digests = [_digest_of(path) for path in chunk]
                rows = self.query(
                    f"select digest from object where digest in ({marks(digests)})",  # noqa: S608 - question marks
                    digests,
                )
                known = {digest for (digest,) in rows}
                yield from (
                    path
                    for path, digest in zip(chunk, digests, strict=True)
                    if self.is_usable and digest not in known
                )

    def note_event(self, text: str) -> None:
        """Remember what people should be told of this cache, with the time."""
        self.execute("insert into event values (?, ?)", (time.time(), text_of(text)))

    def put_run(self, run: PastRun, facts: bytes = b"") -> None:
        """Remember a run, with all that is to be told of it; the oldest of many are forgotten.

        Its number is given here.
        """
        _, started, seconds, status, program, counts = run
        self.execute(
            "insert into history (started, seconds, status, program, counts, facts) "
            "values (?, ?, ?, ?, ?, ?)",
            (started, seconds, text_of(status), text_of(program), text_of(counts), facts),
        )
        self.execute(
            "delete from history where id <= (select max(id) from history) - ?", (MOST_RUNS,)
        )

    def runs(self, limit: int = MOST_RUNS) -> list[PastRun]:
        """Return the last runs, newest first."""
        rows = self.query(
            "select id, started, seconds, status, program, counts from history "
            "order by id desc limit ?",
            (limit,),
        )
        return [PastRun(*row) for row in rows]

    def run_facts(self, number: int) -> bytes | None:
        """Return what `put_run` was given to be told of a run; None: there is no such run."""
        rows = self.query("select facts from history where id = ?", (number,))
        return rows[0][0] if rows else None

    def clear(self) -> None:
        """Forget everything, and delete the objects."""
        with self._index(to_write=True) as db:
            if db is None:
                return
            self._forget_waiting()
            self._free_due()
            with transaction(db):
                for table in TABLES:
                    db.execute(f"delete from {table}")  # noqa: S608 - names of ours
            for path in entries(self.objects):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            with contextlib.suppress(sqlite3.OperationalError):  # another process is reading
                db.execute("vacuum")

    # ------------------------------------------------------------------------------ closing

    def _release(self) -> None:
        self._waiting.clear()
        super()._release()

    def close(self) -> None:
        """Write what waits, and close the files."""
        self.commit()
        self.abandon()


def _path(path: str) -> str | bytes:
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _digest_of(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.parent.name + path.name)
    except ValueError:  # a name that is none of ours
        return b""


class _Process:
    """The stores of this process."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Have none so far."""
        self.stores: dict[str, Store] = {}
        self.everyone: weakref.WeakSet[Store] = weakref.WeakSet()

    def begin_anew(self) -> None:
        """Leave all that there are to the process that this one was forked from."""
        stores = list(self.everyone)
        self.begin()
        for store in stores:
            store.disown()


_here: Final = _Process()
os.register_at_fork(after_in_child=_here.begin_anew)


def store_at(path: Path, *, makes: bool = True) -> Store:
    """Return the store of a directory: one for each process, as there is one writer.

    Parameters
    ----------
    path
        The directory.
    makes
        Whether it is made if it is not there.
    """
    full = os.path.realpath(path)
    with here.opening:
        known = _here.stores.get(full)
        if known is not None and known.is_current():
            return known
        made = Store(Path(full), makes=makes)
        if makes or made.is_usable:
            _here.stores[full] = made
    if known is not None:
        known.abandon()
    return made


def close_all() -> None:
    """Close every store of this process that `store_at` returned."""
    with here.opening:
        stores, _here.stores = list(_here.stores.values()), {}
    for store in stores:
        store.close()


atexit.register(close_all)
