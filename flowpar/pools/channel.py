"""Frames: how a process and its workers talk over a socket; used by both sides.

A frame is a header (magic, kind, number, length) and a payload. Each worker has a socket of its
own, so half a frame of one that died, or rubbish from one whose task wrote to a file descriptor
that was not its own, hurts no other.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

# What a parent says.
FUNCTION: Final = 1
"""A pickled function; the number is its key."""
BATCH: Final = 2
"""A pickled batch; the number is that of this sending."""
FORGET: Final = 3
"""Forget all functions."""

# What a worker says.
READY: Final = 4
"""The worker is set up."""
REPORT: Final = 5
"""How a batch ended; the number is that of its sending."""
REFUSED: Final = 6
"""A batch could not be loaded, or its report not be sent: a pickled `PackedError`."""
BROKEN: Final = 7
"""The initializer raised: a pickled `PackedError`."""

_MAGIC: Final = b"flp1"
_HEADER: Final = struct.Struct("!4sBQQ")
_BUFFER_BYTES: Final = 1 << 17
_MOST_BYTES: Final = 1 << 42
_MOST_PARTS: Final = 64
"""Of one system call; the system's limit is 1024."""


class Frame(NamedTuple):
    """One message."""

    kind: int
    number: int
    payload: bytes | bytearray


class FrameError(Exception):
    """What arrived is no frame: somebody else wrote to the socket."""


class FrameReader:
    """Takes frames out of a socket, be it blocking or not; one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        # A payload that does not fit the buffer is read to where it will stay.
        self._large: bytearray | None = None
        self._large_frame = (0, 0)
        self._got = 0

    def receive(self) -> Frame:
        """Wait for a frame on a blocking socket.

        Raises
        ------
        EOFError
            If the other side is gone.
        """
        while (frame := self.take()) is None:
            self.fill()
        return frame

    def fill(self) -> None:
        """Read once what there is.

        Raises
        ------
        EOFError
            If the other side is gone.
        """
        if self._large is not None:
            with memoryview(self._large) as view:
                count = self._sock.recv_into(view[self._got :])
            self._got += count
        else:
            self._make_room()
            count = self._sock.recv_into(self._view[self._end :])
            self._end += count
        if not count:
            raise EOFError

    def take(self) -> Frame | None:
        """Return the next frame if the whole of it was read.

        Raises
        ------
        FrameError
            If this is not a frame.
        """
        if self._large is not None:
            return self._take_large(self._large)
        there = self._end - self._start - _HEADER.size
        if there < 0:
            return None
        magic, kind, number, length = _HEADER.unpack_from(self._view, self._start)
        if magic != _MAGIC or not FUNCTION <= kind <= BROKEN or length > _MOST_BYTES:
            raise FrameError(bytes(self._view[self._start : self._start + _HEADER.size]))
        begin = self._start + _HEADER.size
        if length <= there:
            self._start = begin + length
            return Frame(kind, number, bytes(self._view[begin : begin + length]))
        if _HEADER.size + length > len(self._view):
            self._large = bytearray(length)
            self._large_frame = (kind, number)
            self._large[:there] = self._view[begin : self._end]
            self._got = there
            self._start = self._end = 0
        return None

    def _take_large(self, payload: bytearray) -> Frame | None:
        if self._got < len(payload):
            return None
        self._large = None
        return Frame(*self._large_frame, payload)

    def _make_room(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._view):
            rest = bytes(self._view[self._start : self._end])
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)


class FrameWriter:
    """Puts frames into a socket, be it blocking or not; one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._parts: deque[memoryview] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether all frames have left."""
        return not self._parts

    def put(self, kind: int, number: int, payload: bytes | bytearray = b"") -> None:
        """Queue a frame; the payload is not copied, so it must stay as it is."""
        self._parts.append(memoryview(_HEADER.pack(_MAGIC, kind, number, len(payload))))
        if payload:
            self._parts.append(memoryview(payload))

    def flush(self) -> int:
        """Write what the socket takes, which is all of it if the socket blocks; return how much."""
        total = 0
        while self._parts:
            try:
                count = self._sock.sendmsg(_first(self._parts, _MOST_PARTS))
            except BlockingIOError:
                break
            total += count
            self._drop(count)
        return total

    def _drop(self, count: int) -> None:
        while count:
            part = self._parts[0]
            if count < len(part):
                self._parts[0] = part[count:]
                return
            count -= len(part)
            self._parts.popleft()


def _first(parts: Iterable[memoryview], most: int) -> list[memoryview]:
    return [part for part, _ in zip(parts, range(most), strict=False)]
