"""One format for values that are kept: a header, a pickle, and the buffers beside it.

::

    magic 8 | pickle length 8 | buffers 8 | digest of all that follows 32 | digest of the front 32
    lengths of the buffers, 8 each | pickle | padding | buffer | padding | buffer ...
    └───────────── front ────────────────┘

Numbers are little-endian; each buffer starts at a multiple of `ALIGNMENT`, so that an array can be
used where it lies: a reader maps a large file copy-on-write and copies nothing.

An object is named by the digest of its header, and all bytes are checked against it before any is
used. Those of more than `CHECKED_UP_TO` bytes are an exception: of them only the header, the front
and the size are checked when they are read, and the buffers by `check` alone. What changes a buffer
of such a file behind our back gives a wrong value; they are flushed to the disk when they are
written, so that a power failure does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pickle
import resource
import stat
import struct
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from blake3 import blake3

from flowpar.errors import FlowparError
from flowpar.pickling import dump_to_keep

MAGIC: Final = b"flowpar1"
"""The format and its version."""

ALIGNMENT: Final = 64
"""Bytes; a cache line, and enough for every dtype and vector instruction."""

CHECKED_UP_TO: Final = 64 << 20
"""Bytes; larger objects are checked in full by `check` only: mapping them reads nothing."""

MAPPED_FROM: Final = 256 << 10
"""Bytes; smaller objects are read: it takes no longer, and needs no descriptor."""

INLINE_UP_TO: Final = 32_768
"""Bytes; smaller objects go into the index with their traces: a file costs more than they do."""

_HEAD: Final = struct.Struct("<8sQQ32s32s")
_SHARE_OF_FILES: Final = 4
"""One in so many of the descriptors of a process may be that of a mapped object."""
_TRIES: Final = 3

_mapped: Final[weakref.WeakSet[mmap.mmap]] = weakref.WeakSet()


class ObjectDamaged(FlowparError):
    """A kept value cannot be read: its file is gone, cut short, or not what was written."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A value in a file of the cache; it travels as the name of that file."""

    path: str
    digest: bytes
    size: int

    def load(self) -> Any:
        """Return the value, its large buffers mapped copy-on-write.

        Raises
        ------
        ObjectDamaged
            If the file is gone, or is not what was written.
        Exception
            Whatever the value's own unpickling raises.
        """
        return read(self.path, self.digest)


@dataclass(frozen=True, slots=True)
class Written:
    """A value as bytes, in pieces that are not joined."""

    digest: bytes
    size: int
    pieces: tuple[Any, ...]


def freeze(value: object) -> Written:
    """Return a value in the format of an object, its large buffers not copied.

    Raises
    ------
    Exception
        Whatever the value's own pickling raises.
    """
    data, buffers = dump_to_keep(value)
    size, body = _body(data, buffers)
    front = _digest(body[:2])
    digest = _digest(body)
    head = _HEAD.pack(MAGIC, len(data), len(buffers), digest, front)
    return Written(blake3(head).digest(), size, (head, *body))


def laid_out(data: bytes, buffers: Sequence[pickle.PickleBuffer]) -> tuple[int, list[Any]]:
    """Return an object without digests, for memory that nobody else writes to.

    Returns
    -------
    int, list
        Its size in bytes, and its pieces; no buffer is copied.
    """
    size, body = _body(data, buffers)
    return size, [_HEAD.pack(MAGIC, len(data), len(buffers), b"", b""), *body]


def _body(data: bytes, buffers: Sequence[pickle.PickleBuffer]) -> tuple[int, list[Any]]:
    """Return the size of an object, and what follows its head: lengths, pickle, buffers."""
    raw = [buffer.raw() for buffer in buffers]
    lengths = struct.pack(f"<{len(raw)}Q", *(view.nbytes for view in raw))
    body: list[Any] = [lengths, data]
    at = _HEAD.size + len(lengths) + len(data)
    for view in raw:
        padding = -at % ALIGNMENT
        body += [bytes(padding), view]
        at += padding + view.nbytes
    return at, body


def write(written: Written, folder: Path) -> Stored:
    """Put an object into a folder of objects, whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind then.
    """
    path = path_of(folder, written.digest)
    stored = Stored(str(path), written.digest, written.size)
    with contextlib.suppress(OSError):
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode) and facts.st_size == written.size:
            return stored  # equal values share one
    with _new_file(folder.parent / "tmp") as (file, name):
        for piece in written.pieces:
            file.write(piece)
        file.flush()
        if written.size > CHECKED_UP_TO:
            os.fdatasync(file.fileno())
        _move(name, path)
    return stored


@contextlib.contextmanager
def _new_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a new file, which is gone at the end unless it was moved away."""
    handle, name = _locked_file(folder)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - it is a descriptor
            yield file, name
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def _locked_file(folder: Path) -> tuple[int, Path]:
    """Make a file that is locked as long as it is open, so that `sweep` leaves it alone.

    The number of this process is in its name for people only: it may be another's by now, and in
    another container it is.
    """
    for _ in range(_TRIES):
        handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=folder)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # it was swept before it was locked
    raise OSError(f"whatever is made in {folder} is gone at once")


def _move(name: Path, path: Path) -> None:
    for last in (False, True):
        path.parent.mkdir(exist_ok=True, mode=0o700)
        try:
            name.replace(path)
        except FileNotFoundError:  # the folder was cleared in between
            if last:
                raise
        else:
            return


def sweep(folder: Path) -> None:
    """Take away what writers left in a folder for new files that were killed."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # it is locked: its writer lives; or it is no file
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def path_of(folder: Path, digest: bytes) -> Path:
    """Return where in a folder of objects one lies."""
    name = digest.hex()
    return folder / name[:2] / name[2:]


def read(path: str, digest: bytes, *, in_full: bool = False) -> Any:
    """Return the value of an object.

    Parameters
    ----------
    path
        Its file.
    digest
        What `write` named it by.
    in_full
        Whether to check every byte, however large it is.

    Raises
    ------
    ObjectDamaged
        If the file is gone, or is not what was written.
    Exception
        Whatever the value's own unpickling raises.
    """
    return thaw(_content(path), digest, in_full=in_full)


def check(path: str, digest: bytes) -> None:
    """Check every byte of an object; nothing in it is run.

    Raises
    ------
    ObjectDamaged
        If the file is gone, or is not what was written.
    """
    _checked(_content(path), digest, in_full=True)


def check_data(data: bytes, digest: bytes) -> None:
    """Check every byte of an object that lies in memory; nothing in it is run.

    Raises
    ------
    ObjectDamaged
        If they are not what was written.
    """
    _checked(memoryview(data), digest, in_full=True)


def thaw(view: memoryview | bytes, digest: bytes, *, in_full: bool = False) -> Any:
    """Return the value of an object from its bytes, which its buffers go on using.

    Bytes that must not be written to are copied if the value has buffers: an array that was
    computed can be written to, so can one that was kept.

    Raises
    ------
    ObjectDamaged
        If they are not what was written.
    Exception
        Whatever the value's own unpickling raises.
    """
    view = memoryview(view)
    return _thawed(view, *_checked(view, digest, in_full=in_full))


def thaw_again(data: bytes) -> Any:
    """Return the value of an object from bytes that `thaw` has checked before."""
    return _thawed_unchecked(memoryview(data))


def read_unchecked(path: str) -> Any:
    """Return the value of an object that `laid_out` made.

    Raises
    ------
    ObjectDamaged
        If the file cannot be read.
    Exception
        Whatever the value's own unpickling raises.
    """
    return _thawed_unchecked(_content(path))


def digest_of_file(path: str) -> bytes | None:
    """Return the digest of all that is in a file; None: it is gone."""
    try:
        return digest_of([_content(path)])
    except ObjectDamaged:
        return None


def digest_of(pieces: Iterable[Any]) -> bytes:
    """Return the digest of some pieces, one after another."""
    found = blake3()
    for piece in pieces:
        found.update(piece)
    return found.digest()


def _thawed_unchecked(view: memoryview) -> Any:
    return _thawed(view, *_parts(view))


def _parts(view: memoryview) -> tuple[Sequence[int], int, int]:
    """Return the lengths of the buffers, and where the pickle starts and ends, unchecked."""
    _, length, count, _, _ = _HEAD.unpack_from(view)
    start = _HEAD.size + 8 * count
    return struct.unpack_from(f"<{count}Q", view, _HEAD.size), start, start + length


def load_in_place(view: memoryview) -> Any:
    """Return the value of an object that `laid_out` made, and that lies in memory.

    Its buffers stay where they are, and are not to be written to if the view is not.

    Raises
    ------
    Exception
        Whatever the value's own unpickling raises.
    """
    lengths, start, end = _parts(view)
    return pickle.loads(view[start:end], buffers=_buffers(view, end, lengths))  # noqa: S301 - ours


def _thawed(view: memoryview, lengths: Sequence[int], start: int, end: int) -> Any:
    if lengths and view.readonly:
        view = memoryview(bytearray(view))
    return pickle.loads(view[start:end], buffers=_buffers(view, end, lengths))  # noqa: S301 - its digest was checked


def _content(path: str) -> memoryview:
    """Return what is in a file, to be written to without changing it."""
    try:
        # Not to wait for ever, should it be a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError("not a file")
            return _mapping(handle, facts.st_size) or _copy(handle, facts.st_size)
        finally:
            os.close(handle)
    except (OSError, ValueError, MemoryError) as error:
        raise ObjectDamaged(f"a kept value cannot be read: {error}") from error


def _mapping(handle: int, size: int) -> memoryview | None:
    if size < MAPPED_FROM:
        return None
    if sys.version_info >= (3, 13):
        return memoryview(mmap.mmap(handle, size, access=mmap.ACCESS_COPY, trackfd=False))
    # Each mapping keeps a descriptor there: a thousand arrays must not take all of them.
    if len(_mapped) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE_OF_FILES:
        return None
    mapping = mmap.mmap(handle, size, access=mmap.ACCESS_COPY)
    _mapped.add(mapping)
    return memoryview(mapping)


def _copy(handle: int, size: int) -> memoryview:
    memory = memoryview(bytearray(size))
    at = 0
    while at < size:
        count = os.preadv(handle, [memory[at:]], at)
        if not count:
            return memory[:at]
        at += count
    return memory


def _checked(view: memoryview, digest: bytes, *, in_full: bool) -> tuple[Sequence[int], int, int]:
    """Return the lengths of the buffers, and where the pickle starts and ends."""
    if len(view) < _HEAD.size or blake3(view[: _HEAD.size]).digest() != digest:
        raise _damaged("its head is damaged")
    magic, length, count, body, front = _HEAD.unpack_from(view)
    start = _HEAD.size + 8 * count
    end = start + length
    if magic != MAGIC:
        raise _damaged("it is of another format")
    # The one digest includes what the other is of.
    if in_full or len(view) <= CHECKED_UP_TO:
        if blake3(view[_HEAD.size :]).digest() != body:
            raise _damaged("its content is damaged")
    elif blake3(view[_HEAD.size : end]).digest() != front:
        raise _damaged("its pickle is damaged")
    lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    if len(view) != _end(end, lengths):
        raise _damaged("it is cut short, or something was added")
    return lengths, start, end


def _damaged(why: str) -> ObjectDamaged:
    return ObjectDamaged(f"a kept value is not what was written: {why}")


def _end(at: int, lengths: Iterable[int]) -> int:
    for length in lengths:
        at += -at % ALIGNMENT + length
    return at


def _buffers(view: memoryview, at: int, lengths: Iterable[int]) -> Iterator[memoryview]:
    for length in lengths:
        at += -at % ALIGNMENT
        yield view[at : at + length]
        at += length


def _digest(pieces: Iterable[Any]) -> bytes:
    made = blake3()
    for piece in pieces:
        made.update(piece)
    return made.digest()
