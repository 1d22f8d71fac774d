"""What a worker and its parent share besides their socket, so that a crash is charged exactly.

The `Slate` is memory in which the worker writes, before each call, which one it is, and where the
interpreter writes its last words. `Claims` decide which of the two may have a batch that was sent
but perhaps not begun.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

NOWHERE: Final = -1
"""The position of a worker that is not in a call."""

POSITION: Final = 0
"""Item of a mark: which call of its batch a worker makes, or `NOWHERE`."""
SENDING: Final = 1
"""Item of a mark: the number of the sending of that batch."""
WANTED: Final = 2
"""Item of a mark: the number of a sending of which the parent wants back what has not begun."""

SPAN: Final = 4
"""Item of a mark: how many calls from its position on a worker may be at, if more than one."""
BARS: Final = 3
"""Item of a mark: whether the parent has bars at the bottom of the terminal."""

_STEP_OFFSET: Final = 64
_STEP: Final = struct.Struct("=qqdd128s")
"""How far a call is: sending, position, done, total (NaN: not known), what it does."""
_TEXT_OFFSET: Final = mmap.PAGESIZE
_SIZE_BYTES: Final = 8 * mmap.PAGESIZE
_TOKEN: Final = struct.Struct("=Q")
_TOKENS_AT_ONCE: Final = 512 // _TOKEN.size  # what POSIX has pipes take whole


def memory_file(data: bytes = b"") -> int:
    """Return the descriptor of a new file without a name that holds the data."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("flowpar", os.MFD_CLOEXEC)
    else:
        import tempfile  # noqa: PLC0415 - slow to import, and few systems come here

        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(data)
    except BaseException:
        os.close(number)
        raise
    return number


class Slate:
    """A few pages of memory that outlive the worker which writes on them.

    Parameters
    ----------
    number
        Descriptor of the file; it may be closed afterwards.

    Attributes
    ----------
    mark
        `POSITION`, `SENDING` and `WANTED`, each with one writer.
    """

    def __init__(self, number: int) -> None:
        self._map = mmap.mmap(number, _SIZE_BYTES)
        self.mark = memoryview(self._map).cast("q")

    @staticmethod
    def create() -> int:
        """Return the descriptor of a file for a new slate."""
        number = memory_file()
        os.truncate(number, _SIZE_BYTES)
        with Slate(number) as slate:
            slate.mark[POSITION] = NOWHERE
        return number

    def step(self) -> tuple[int, int, float, float, str]:
        """Return the sending, the position, … that `write_step` was given last."""
        sending, position, done, total, text = _STEP.unpack_from(self._map, _STEP_OFFSET)
        return sending, position, done, total, text.rstrip(b"\0").decode("utf-8", "ignore")

    def last_words(self) -> str:
        """Return what was written when the worker crashed, if anything was."""
        return self._map[_TEXT_OFFSET:].rstrip(b"\0").decode("utf-8", "replace").strip()

    @staticmethod
    def open_for_words(number: int) -> int:
        """Move the descriptor to where last words belong, and return it."""
        os.lseek(number, _TEXT_OFFSET, os.SEEK_SET)
        return number

    def close(self) -> None:
        """Let go of the memory; may be called twice."""
        self.mark.release()
        self._map.close()

    def __enter__(self) -> Slate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_step(
    mark: memoryview, sending: int, position: int, done: float, total: float | None, text: str
) -> None:
    """Write on the slate that a mark belongs to how far a call is."""
    with mark.cast("B") as view:
        # Nobody is kept from reading it half written: it is written again soon, and only shown.
        known = float("nan") if total is None else total
        _STEP.pack_into(view, _STEP_OFFSET, sending, position, done, known, text.encode()[:128])


class Claims:
    """A pipe with one token for each batch that was sent to a worker and not begun.

    Who takes a token has the batch: the worker, to run it, or the parent, to give it to another.
    The system sees to it that no token is taken twice. Tokens come out in the order of sending.
    """

    def __init__(self, read: int, write: int | None = None) -> None:
        self._read = read
        self._write = write

    @classmethod
    def create(cls) -> Claims:
        """Return the parent's side."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        return cls(read, write)

    def duplicate(self) -> int:
        """Return a descriptor for the worker's side."""
        return os.dup(self._read)

    def offer(self, numbers: Sequence[int]) -> None:
        """Add the tokens of some sendings, in their order."""
        if self._write is not None:
            # A token is never cut in two: so much is written whole, or not at all.
            for at in range(0, len(numbers), _TOKENS_AT_ONCE):
                some = numbers[at : at + _TOKENS_AT_ONCE]
                os.write(self._write, b"".join(map(_TOKEN.pack, some)))

    def take(self) -> int | None:
        """Take the oldest token, if there is any."""
        try:
            data = os.read(self._read, _TOKEN.size)
        except BlockingIOError:
            return None
        return _TOKEN.unpack(data)[0] if len(data) == _TOKEN.size else None

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        for number in (self._read, self._write):
            if number is not None and number >= 0:
                os.close(number)
        self._read, self._write = -1, None
