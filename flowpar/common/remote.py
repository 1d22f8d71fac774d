"""Things that are served here or elsewhere, as those see them who use them."""

from __future__ import annotations

import os
import pickle
import secrets
import select
import socket
import threading
import time
import weakref
from typing import Any, Final

from flowpar.common.serving import (
    ASK,
    CANCEL,
    ERROR,
    HELLO,
    NOTHING,
    TAKEN,
    TIMED_OUT,
    TO_BE_TAKEN,
    Server,
    server_at,
    server_here,
)
from flowpar.common.things import Thing
from flowpar.errors import PoolError
from flowpar.pickling import keep, refuse_to_be_kept
from flowpar.pools.channel import Frame, FrameReader, FrameWriter
from flowpar.pools.home import before_closing

_SESSION_BYTES: Final = 16


class _Line:
    """One socket to a server."""

    def __init__(self, path: str, hello: bytes) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.connect(path)
        except BaseException:
            self._sock.close()
            raise
        self._reader = FrameReader(self._sock)
        self._writer = FrameWriter(self._sock)
        self.send(HELLO, 0, hello)

    def send(self, kind: int, number: int = 0, payload: bytes = b"") -> None:
        self._writer.put(kind, number, payload)
        self._writer.flush()

    def receive(self, timeout: float | None) -> Frame | None:
        """Return the next frame; None: it did not come in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (frame := self._reader.take()) is None:
            if deadline is not None and not self._can_be_read(deadline):
                return None
            self._reader.fill()
        return frame

    def _can_be_read(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        # At least once, and rounded up: what is there is taken.
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def close(self) -> None:
        self._sock.close()


class _Link:
    """The sockets to a server: those that are free, and one that only says this process lives."""

    def __init__(self, path: str, key: bytes) -> None:
        self._path = path
        self._hello = key + secrets.token_bytes(_SESSION_BYTES)
        self._life = _Line(path, self._hello)
        self._free: list[_Line] = []

    def ask(self, number: int, payload: bytes, timeout: float | None) -> Any:
        try:
            line = self._free.pop()
        except IndexError:
            line = _Line(self._path, self._hello)
        try:
            line.send(ASK, number, payload)
            frame = line.receive(timeout)
            if frame is None:
                line.send(CANCEL)
                frame = line.receive(None)
            assert frame is not None  # noqa: S101 - without a timeout there is one
            if frame.number == TO_BE_TAKEN:
                line.send(TAKEN)
        except BaseException:  # also an interrupt: the server sees the end, and undoes its answer
            line.close()
            raise
        self._free.append(line)
        if frame.number == NOTHING:
            return TIMED_OUT
        found = pickle.loads(frame.payload)  # noqa: S301 - from a process of ours
        if frame.kind == ERROR:
            raise found
        return found

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
        server = server_at(self.path)
        if server is not None:
            return server.ask(self.number, method, args, timeout)
        payload = pickle.dumps((method, args), protocol=5)
        try:
            return _link(self.path, self.key).ask(self.number, payload, timeout)
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            _unlink(self.path)
            raise PoolError(
                "what is asked for is gone: the process that made it has ended"
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        if server_at(self.path) is None or not keep(self, 0):
            self.ask("pin")
        return remote_of, (self.path, self.key, self.number)

    def __del__(self) -> None:
        server = server_at(self.path)
        thing = None if server is None else server.things.get(self.number)
        if server is not None and thing is not None and not thing.is_pinned:
            server.things.pop(self.number, None)


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
