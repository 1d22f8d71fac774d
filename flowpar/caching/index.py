"""The index of a cache: its tables in SQLite, how it is opened, and how damage to it shows."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from flowpar.caching.folders import is_file
from flowpar.caching.traces import COLUMNS

BUSY_SECONDS: Final = 30.0
"""How long to wait for a process that writes to the index."""

CHUNK: Final = 500
"""How many keys go into one question."""

TABLES: Final = {
    "trace": f"""({COLUMNS.replace("key", "key blob primary key", 1)}) without rowid""",
    "object": "(digest blob primary key, size integer, used real, data blob)",
    "function": "(digest blob primary key, components blob) without rowid",
    "history": """(id integer primary key, started real, seconds real, status text, program text,
        counts text, facts blob)""",
    "file": "(path text primary key, facts blob, digest blob) without rowid",
    "output": "(key blob primary key, created real, text text)",
    "event": "(at real, text text)",
    "habit": "(function blob primary key, habits blob) without rowid",
}
_INDEXES: Final = (
    "create index if not exists trace_name on trace (name, created)",
    "create index if not exists trace_place on trace (name, place, created)",
)

TRACES: Final = f"select {COLUMNS} from trace"  # noqa: S608 - constants
TRACES_OF_PLACES: Final = (
    f"{TRACES} where key in (select key from (select key, row_number() over "  # noqa: S608 - as above
    "(partition by place order by created desc) as nth from trace "
    "where name = ? and created < ? and place in ({})) where nth <= ?)"
)
"""The newest of each place; from the narrow index alone, which of them it is."""
PUT_TRACE: Final = "insert or replace into trace values ({})".format(  # noqa: S608 - constants
    ",".join("?" * len(COLUMNS.split(",")))
)
PUT_OBJECT: Final = (
    "insert into object values (?, ?, ?, ?) on conflict (digest) do update set "
    "size = excluded.size, used = excluded.used, data = coalesce(excluded.data, data)"
)
"""Equal values share an object: who has it in a file must not wipe what another put in the row."""

TROUBLES: Final = (sqlite3.Error, OSError, MemoryError, UnicodeDecodeError)
"""What a directory can do to us; the last is Python's on SQLite's telling of a damaged name."""

_T = TypeVar("_T")


def connect(path: Path) -> sqlite3.Connection:
    """Open an index, which is made if there is none."""
    if not is_file(path):
        # By us, so that nobody else may read it; what SQLite puts beside it is as it is.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    db = _connection(str(path))
    try:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")
        with transaction(db):
            for name, columns in TABLES.items():
                db.execute(f"create table if not exists {name} {columns}")
            _probe(db)
            for index in _INDEXES:
                db.execute(index)
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open an index that cannot be written to."""
    if not is_file(path):
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
        db.execute(f"{TRACES} limit 0")
        db.execute("select digest, size, used, data from object limit 0")
    except sqlite3.OperationalError as error:
        if str(error).startswith("no such"):
            raise sqlite3.DatabaseError(str(error)) from error
        raise


def is_damage(error: Exception) -> bool:
    """Return whether an error says that the index is no database, or a broken one.

    Python 3.10 keeps SQLite's codes to itself, and has subclasses for all others that there are.
    """
    return type(error) is sqlite3.DatabaseError or isinstance(error, UnicodeDecodeError)


def move_aside(path: Path) -> str:
    """Give a damaged index another name, and return that."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    # The index last: a new one must not find the log of the old one and take it for its own.
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{end}").replace(f"{aside}{end}")
    return aside.name


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Write all that is written within, or nothing."""
    try:
        db.execute("begin immediate")
        yield
        db.execute("commit")
    except BaseException:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("rollback")
        raise


def disown(db: sqlite3.Connection) -> None:
    """Never close a connection, be it at exit: it is that of the process we were forked from."""
    import ctypes  # noqa: PLC0415 - in forked children only

    # Closing it might delete the log that other processes write to.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))


def chunks(keys: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield as many keys at a time as go into one question."""
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]


def marks(chunk: Sequence[object]) -> str:
    """Return a question mark for each."""
    return ",".join("?" * len(chunk))
