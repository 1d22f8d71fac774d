"""Things that are served here or elsewhere, as those see them who use them."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import select
import socket
import threading
import time
import weakref
from typing import Any, Final

from flowpar.common.serving import TIMED_OUT, Server, refuse_from_within, server_at, server_here
from flowpar.common.things import Thing
from flowpar.common.wire import (
    ASK,
    CANCEL,
    ERROR,
    HELLO,
    HOLD,
    LET_GO,
    NOTHING,
    PIN,
    REFUSED,
    TAKEN,
    TO_BE_TAKEN,
    address_of,
)
from flowpar.errors import PoolError
from flowpar.pickling import keep, refuse_to_be_kept
from flowpar.pools.channel import Frame, FrameReader, FrameWriter
from flowpar.pools.home import before_closing

_SESSION_BYTES: Final = 16
_MOST_FREE: Final = 4
"""So many sockets are kept for the next who ask; each takes a descriptor at both ends."""
_LONGEST_POLL: Final = 86_400.0
"""Seconds; the system takes 24 days."""
_LAST_WORDS_SECONDS: Final = 1.0
"""For so long the sockets of a process that ends may close one after the other."""


class _Line:
    """One socket to a server."""

    def __init__(self, path: str, hello: bytes) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with address_of(path) as address:
                self._sock.connect(address)
        except BaseException:
            self._sock.close()
            raise
        self._reader = FrameReader(self._sock)
        self._writer = FrameWriter(self._sock)
        self._send(HELLO, 0, hello)

    def ask(self, number: int, payload: bytes, timeout: float | None) -> Frame:
        """Return the answer, or what is said in its place if that did not come in time."""
        self._send(ASK, number, payload)
        frame = self._receive(timeout)
        if frame is None:
            self._send(CANCEL)
            frame = self._receive(None)
        assert frame is not None  # noqa: S101 - without a timeout there is one
        if frame.number == TO_BE_TAKEN:
            self._send(TAKEN)
        return frame

    def say(self, kind: int, number: int) -> None:
        """Send a frame without a payload, from any thread, and from one that does just that."""
        # Not by the writer of the others: each frame is a system call of its own.
        writer = FrameWriter(self._sock)
        writer.put(kind, number)
        writer.flush()

    def _send(self, kind: int, number: int = 0, payload: bytes = b"") -> None:
        self._writer.put(kind, number, payload)
        try:
            self._writer.flush()
        except (BrokenPipeError, ConnectionResetError):
            return  # a server that has closed it has perhaps said why

    def _receive(self, timeout: float | None) -> Frame | None:
        """Return the next frame; None: it did not come in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (frame := self._reader.take()) is None:
            if deadline is not None and not self._can_be_read(deadline):
                return None
            self._reader.fill()
        return frame

    def _can_be_read(self, deadline: float) -> bool:
        while True:
            rest = max(0.0, deadline - time.monotonic())
            # At least once: what is there is taken.
            if self.has_news(min(rest, _LONGEST_POLL)):
                return True
            if rest <= _LONGEST_POLL:
                return False

    def has_news(self, timeout: float) -> bool:
        """Return whether there is something to be read, or its end, after so many seconds."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def close(self) -> None:
        self._sock.close()


class _Link:
    """The sockets to a server: those that are free, and one that only says this process lives."""

    def __init__(self, path: str, key: bytes) -> None:
        self._path = path
        self._hello = key + secrets.token_bytes(_SESSION_BYTES)
        self._life = _Line(path, self._hello)
        self._free: list[_Line] = []

    def ask(self, number: int, payload: bytes, timeout: float | None) -> Frame:
        """Return what the server says."""
        try:
            line = self._free.pop()
        except IndexError:
            line = _Line(self._path, self._hello)
        try:
            frame = line.ask(number, payload, timeout)
        except BaseException:  # also an interrupt: the server sees the end, and undoes its answer
            line.close()
            raise
        if len(self._free) < _MOST_FREE and not (frame.kind == ERROR and frame.number == REFUSED):
            self._free.append(line)
        else:
            line.close()
        return frame

    def let_go(self, number: int) -> None:
        """Tell the server that this process has a thing no more."""
        with contextlib.suppress(OSError):  # it has ended
            self._life.say(LET_GO, number)

    def is_over(self, timeout: float) -> bool:
        """Return whether the server has ended, or does so in so many seconds."""
        return self._life.has_news(timeout)  # which is its end: there is nothing to be said to it

    def close(self) -> None:
        for line in (self._life, *self._free):
            line.close()
        self._free.clear()


class _Links:
    """The servers that this process knows, by path."""

    known: Final[dict[str, _Link]] = {}
    lock = threading.Lock()


def _link(path: str, key: bytes) -> _Link:
    found = _Links.known.get(path)
    if found is None:
        with _Links.lock:
            found = _Links.known.get(path)
            if found is None:
                found = _Links.known[path] = _Link(path, key)
                before_closing(_unlink_all)
    return found


def _unlink(path: str) -> None:
    with _Links.lock:
        link = _Links.known.pop(path, None)
    if link is not None:
        link.close()


def _unlink_if_over(path: str, timeout: float) -> bool:
    """Forget a server that has ended, or does so in so many seconds; return whether it has."""
    link = _Links.known.get(path)
    is_over = link is None or link.is_over(timeout)
    if is_over:
        _unlink(path)
    return is_over


def _unlink_all() -> None:
    for path in list(_Links.known):
        _unlink(path)


class Remote:
    """A thing, by its name.

    Parameters
    ----------
    path, key
        Of its server.
    number
        Its own.
    """

    def __init__(self, path: str, key: bytes, number: int) -> None:
        self.path = path
        self.key = key
        self.number = number
        self._is_pinned = False
        self._is_held = False
        self._is_captured = False

    def ask(self, method: str, *args: object, timeout: float | None = None) -> Any:
        """Return the answer, or `TIMED_OUT`.

        Parameters
        ----------
        method
            Of the thing.
        *args
            For it; they pickle.
        timeout
            Seconds to wait for; None: as long as it takes.

        Raises
        ------
        PoolError
            If the process that serves it has ended.
        Exception
            What the thing raises.
        """
        limit = _checked(timeout)
        server = server_at(self.path)
        if server is not None:
            return server.ask(self.number, method, args, limit)
        refuse_from_within()
        frame = self._ask_there(pickle.dumps((method, args), protocol=5), limit)
        if frame.kind == ERROR:
            raise pickle.loads(frame.payload)  # noqa: S301 - from a process of ours
        if frame.number == NOTHING:
            return TIMED_OUT
        return pickle.loads(frame.payload)  # noqa: S301 - as above

    def _ask_there(self, payload: bytes, timeout: float | None) -> Frame:
        try:
            frame = _link(self.path, self.key).ask(self.number, payload, timeout)
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            raise PoolError(_lost(self.path)) from error
        if frame.kind == ERROR and frame.number == REFUSED:
            _unlink_if_over(self.path, 0.0)
        return frame

    def hold(self) -> None:
        """Have it stay as long as this process has it, be it elsewhere."""
        is_known = self._is_pinned or self._is_held or self._is_captured
        if is_known or server_at(self.path) is not None:
            return
        self._is_held = True
        with contextlib.suppress(PoolError, OSError):  # it is gone, as who uses it is told
            self.ask(HOLD)

    def note_captured(self) -> None:
        """Have it not be held: it came with a function."""
        self._is_captured = True

    def __reduce__(self) -> tuple[object, ...]:
        server = server_at(self.path)
        if not self._is_pinned and (server is None or not keep(self, 0)):
            if server is None:
                self.ask(PIN)
            else:
                server.pin(self.number)
            self._is_pinned = True
        return remote_of, (self.path, self.key, self.number)

    def __del__(self) -> None:
        server = server_at(self.path)
        if server is None:
            link = _Links.known.get(self.path) if self._is_held else None
            if link is not None:
                link.let_go(self.number)
            return
        thing = server.things.get(self.number)
        if thing is not None and not thing.is_pinned:
            server.things.pop(self.number, None)


def _checked(timeout: float | None) -> float | None:
    """Return for how many seconds to wait, as all that waits here can."""
    if timeout is None:
        return None
    if timeout != timeout:  # noqa: PLR0124 - NaN, of whatever type
        raise ValueError("a timeout is a number of seconds, and not NaN")
    return min(max(timeout, 0), threading.TIMEOUT_MAX)


def _lost(path: str) -> str:
    """Say what has become of a server that did not answer."""
    if _unlink_if_over(path, _LAST_WORDS_SECONDS):
        return "what is asked for is gone: the process that made it has ended"
    return "the process that made what is asked for has closed the connection"


_remotes: Final[weakref.WeakValueDictionary[tuple[str, int], Remote]] = (
    weakref.WeakValueDictionary()
)


def serve(thing: Thing) -> Remote:
    """Have this process serve a thing, as long as it has what is returned."""
    server: Server = server_here()
    return remote_of(server.path, server.key, server.add(thing))


def remote_of(path: str, key: bytes, number: int) -> Remote:
    """Return a thing by its name; the same each time."""
    found = _remotes.get((path, number))
    if found is None:
        with _Links.lock:
            found = _remotes.get((path, number))
            if found is None:
                found = _remotes[path, number] = Remote(path, key, number)
    return found


def known() -> frozenset[tuple[str, int]]:
    """Return the names of what this process has."""
    return frozenset(list(_remotes))


def note_captured(before: frozenset[tuple[str, int]]) -> None:
    """Take what this process has since then for the part of a function.

    A worker keeps functions for the next call, which nobody can make when the function is gone
    where it came from: so they hold nothing.
    """
    for name, remote in list(_remotes.items()):
        if name not in before:
            remote.note_captured()


def hold_all() -> None:
    """Have all stay that this process has of others, as long as it has it.

    A worker calls it before it says that a batch is done: who has sent it that may let go then.
    """
    for remote in list(_remotes.values()):
        remote.hold()


class Shared:
    """What users have of a thing."""

    _remote: Remote

    def _ask(self, method: str, *args: object, timeout: float | None = None) -> Any:
        return self._remote.ask(method, *args, timeout=timeout)

    def __reduce__(self) -> tuple[object, ...]:
        refuse_to_be_kept(type(self).__name__)
        return _revive, (type(self), self.__dict__)

    def __flowpar_digest__(self) -> object:
        raise TypeError("what it holds changes while tasks run")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._remote.number}>"


def _revive(kind: Any, state: dict[str, object]) -> object:
    found = kind.__new__(kind)
    found.__dict__.update(state)
    return found


def _after_fork() -> None:
    _Links.lock = threading.Lock()
    for link in _Links.known.values():
        link.close()
    _Links.known.clear()


os.register_at_fork(after_in_child=_after_fork)
