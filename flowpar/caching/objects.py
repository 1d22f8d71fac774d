"""One format for values that are kept: a header, a pickle, and the buffers beside it.

::

    magic 8 | pickle length 8 | buffers 8 | digest of all that follows 32 | digest of the pickle 32
    lengths of the buffers, 8 each | pickle | padding | buffer | padding | buffer ...

Numbers are little-endian; each buffer starts at a multiple of `ALIGNMENT`, so that an array can be
used where it lies: a reader maps the file copy-on-write and copies nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from flowpar.errors import FlowparError
from flowpar.pickling import dump_to_keep

MAGIC: Final = b"flowpar1"
"""The format and its version."""

ALIGNMENT: Final = 64
"""Bytes; a cache line, and enough for every dtype and vector instruction."""

CHECKED_UP_TO: Final = 64 << 20
"""Bytes; larger objects are checked in full by ``verify`` only: mapping them reads nothing."""

_HEAD: Final = struct.Struct("<8sQQ32s32s")


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
    raw = [buffer.raw() for buffer in buffers]
    lengths = struct.pack(f"<{len(raw)}Q", *(view.nbytes for view in raw))
    body: list[Any] = [lengths, data]
    at = _HEAD.size + len(lengths) + len(data)
    for view in raw:
        padding = -at % ALIGNMENT
        body += [bytes(padding), view]
        at += padding + view.nbytes
    pickled = blake3(data).digest()
    digest = _digest(body)
    head = _HEAD.pack(MAGIC, len(data), len(raw), digest, pickled)
    return Written(blake3(head).digest(), at, (head, *body))


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
        if path.stat().st_size == written.size:
            return stored  # equal values share one
    path.parent.mkdir(exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=folder.parent / "tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in written.pieces:
                file.write(piece)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return stored


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
    """
    try:
        with Path(path).open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (OSError, ValueError) as error:
        raise ObjectDamaged(f"a kept value cannot be read: {error}") from error
    return thaw(view, digest, in_full=in_full)


def thaw(view: memoryview, digest: bytes, *, in_full: bool = False) -> Any:
    """Return the value of an object from its bytes, which its buffers go on using.

    Raises
    ------
    ObjectDamaged
        If they are not what was written.
    """
    if len(view) < _HEAD.size or blake3(view[: _HEAD.size]).digest() != digest:
        raise ObjectDamaged("a kept value is not what was written: its head is damaged")
    _, length, count, body_digest, pickle_digest = _HEAD.unpack_from(view)
    is_checked = in_full or len(view) <= CHECKED_UP_TO
    if is_checked and blake3(view[_HEAD.size :]).digest() != body_digest:
        raise ObjectDamaged("a kept value is not what was written: its content is damaged")
    start = _HEAD.size + 8 * count
    data = view[start : start + length]
    if blake3(data).digest() != pickle_digest:
        raise ObjectDamaged("a kept value is not what was written: its pickle is damaged")
    lengths = struct.unpack_from(f"<{count}Q", view, _HEAD.size)
    buffers = list(_buffers(view, start + length, lengths))
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - its digest was checked


def _buffers(view: memoryview, at: int, lengths: Iterable[int]) -> Iterator[memoryview]:
    for length in lengths:
        at += -at % ALIGNMENT
        if at + length > len(view):
            raise ObjectDamaged("a kept value is cut short")
        yield view[at : at + length]
        at += length


def _digest(pieces: Iterable[Any]) -> bytes:
    made = blake3()
    for piece in pieces:
        made.update(piece)
    return made.digest()
