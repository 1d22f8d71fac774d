"""Serves things to other processes, in one thread of the process that made them.

Each client has a socket of its own, in the private folder of the program, and says first the key
that came with the thing. It asks one question at a time; an answer that can be undone is undone if
the client goes before it has said that it has it. The sockets of a process share a session; when
the last of them ends, the process has.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import os
import pickle
import secrets
import selectors
import socket
import threading
from collections import Counter
from typing import Any, Final

from flowpar.common.mapping import new_name
from flowpar.common.things import Ask, Thing, Undo
from flowpar.errors import PoolError
from flowpar.pools.channel import FrameError, FrameReader, FrameWriter
from flowpar.pools.home import before_closing, nearest

# What a client says; these are the numbers of frames, which know seven.
ASK: Final = 1
"""A pickled (method, arguments); the number is that of the thing."""
CANCEL: Final = 2
"""The answer is no longer waited for, unless it is on its way."""
TAKEN: Final = 3
"""The answer has arrived."""
HELLO: Final = 4
"""The key, and the session."""

# What the server says.
ANSWER: Final = 5
"""A pickled value; the number is `NOTHING` if it was cancelled, `TO_BE_TAKEN` if it can be undone,
else zero."""
ERROR: Final = 6
"""A pickled exception."""

NOTHING: Final = 1
TO_BE_TAKEN: Final = 2

KEY_BYTES: Final = 16
_FAREWELL_SECONDS: Final = 2.0

TIMED_OUT: Final = object()
"""What is returned in place of an answer that did not come in time."""


class _RemoteAsk(Ask):
    """A request that came by a socket."""

    __slots__ = ("client", "thing")

    def __init__(self, client: _Client, thing: Thing) -> None:
        self.client = client
        self.thing = thing
        self.session = client.session

    def answer(self, value: object, undo: Undo | None = None) -> None:
        """See `Ask`."""
        number = 0 if undo is None else TO_BE_TAKEN
        self.client.say(ANSWER, number, pickle.dumps(value, protocol=5), undo)

    def fail(self, error: Exception) -> None:
        """See `Ask`."""
        self.client.say(ERROR, 0, _dump_error(error), None)


def _dump_error(error: Exception) -> bytes:
    try:
        data = pickle.dumps(error, protocol=5)
        pickle.loads(data)  # noqa: S301 - our own: some exceptions only pickle one way
    except Exception:  # noqa: BLE001 - an exception class of the user's may do anything
        return pickle.dumps(PoolError(f"{type(error).__name__}: {error}"), protocol=5)
    return data


class _Client:
    """One socket of a client."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.session: bytes | None = None
        self.waiting: _RemoteAsk | None = None
        self.undo: Undo | None = None
        self.reader = FrameReader(sock)
        self.writer = FrameWriter(sock)

    def say(self, kind: int, number: int, payload: bytes, undo: Undo | None) -> None:
        """Send what the socket takes now; the server's thread sends the rest."""
        self.waiting, self.undo = None, undo
        self.writer.put(kind, number, payload)
        try:
            self.writer.flush()
        except OSError:  # it has gone: its end of file is on its way
            self.undo_answer()
            return
        if not self.writer.is_empty:
            self.server.send_later(self)

    def undo_answer(self) -> None:
        """Undo what was answered last, if it was perhaps not heard."""
        undo, self.undo = self.undo, None
        if undo is not None:
            undo()


class LocalAsk(Ask):
    """A request of the process that serves."""

    __slots__ = ("done", "error", "is_over", "undo", "value")

    def __init__(self) -> None:
        self.session = None
        self.is_over = False
        self.value: object = None
        self.error: Exception | None = None
        self.undo: Undo | None = None
        self.done: threading.Lock | None = None

    def answer(self, value: object, undo: Undo | None = None) -> None:
        """See `Ask`."""
        self.value, self.undo = value, undo
        self._end()

    def fail(self, error: Exception) -> None:
        """See `Ask`."""
        self.error = error
        self._end()

    def _end(self) -> None:
        self.is_over = True
        if self.done is not None:
            self.done.release()


class Server:
    """Keeps things, and serves them."""

    def __init__(self) -> None:
        self.path = f"{nearest().folders[0]}/{new_name('server')}"
        self.key = secrets.token_bytes(KEY_BYTES)
        self.things: dict[int, Thing] = {}
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._sessions: Counter[bytes | None] = Counter()
        self._unsent: set[_Client] = set()
        self._parked: set[LocalAsk] = set()
        self._clients: set[_Client] = set()
        self._is_closed = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="flowpar-common", daemon=True)
        self._thread.start()

    def add(self, thing: Thing) -> int:
        """Return the number by which a thing can be asked for."""
        number = next(self._numbers)
        self.things[number] = thing
        return number

    def ask(self, number: int, method: str, args: tuple[Any, ...], timeout: float | None) -> Any:
        """Ask for a thing of this process.

        Returns
        -------
        object
            The answer, or `TIMED_OUT`.

        Raises
        ------
        Exception
            What the thing raises.
        """
        ask = LocalAsk()
        with self.lock:
            if self._is_closed:
                raise PoolError("shared things cannot be used while the program ends")
            thing = self.things[number]
            getattr(thing, method)(ask, *args)
            if not ask.is_over:
                ask.done = threading.Lock()
                ask.done.acquire()
                self._parked.add(ask)
        if ask.done is not None and not self._await(ask, ask.done, thing, timeout):
            return TIMED_OUT
        if ask.error is not None:
            raise ask.error
        return ask.value

    def _await(
        self, ask: LocalAsk, done: threading.Lock, thing: Thing, timeout: float | None
    ) -> bool:
        try:
            done.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        except BaseException:
            with self.lock:
                self._parked.discard(ask)
                if not ask.is_over:
                    thing.forget(ask)
                elif ask.undo is not None:
                    ask.undo()
            raise
        with self.lock:
            self._parked.discard(ask)
            if not ask.is_over:
                thing.forget(ask)
            return ask.is_over

    def send_later(self, client: _Client) -> None:
        """Have the thread send what is left for a client."""
        self._unsent.add(client)
        self._wake()

    def close(self) -> None:
        """End it: who waits for something, here or elsewhere, is told so."""
        self._is_closed = True
        self._wake()
        self._thread.join(_FAREWELL_SECONDS)

    def abandon(self) -> None:
        """Close all that is open; in a forked process too."""
        for sock in (self._listener, self._wake_read, self._wake_write):
            sock.close()
        for client in self._clients:
            client.sock.close()
        self._selector.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            self._wake_write.send(b"w")

    def _serve(self) -> None:
        try:
            self._listen()
        finally:  # whatever ended it, nobody is to wait for ever
            self._end()

    def _end(self) -> None:
        with self.lock:
            self._is_closed = True
            for ask in self._parked:
                if not ask.is_over:
                    ask.fail(PoolError("shared things are gone: their program ends"))
            self.abandon()

    def _listen(self) -> None:
        while not self._is_closed:
            for key, events in self._selector.select():
                if isinstance(key.data, _Client):
                    self._hear(key.data, events)
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    self._wake_read.recv(4096)
            if self._unsent:
                self._watch_unsent()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again; or there are no descriptors, and it will come again
            return
        sock.setblocking(False)
        client = _Client(self, sock)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _hear(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._send(client)
            if events & selectors.EVENT_READ:
                self._read(client)
        except BlockingIOError:
            return
        except (OSError, EOFError, FrameError):
            self._drop(client)

    def _read(self, client: _Client) -> None:
        client.reader.fill()
        while (frame := client.reader.take()) is not None:
            with self.lock:
                self._obey(client, *frame)

    def _obey(self, client: _Client, kind: int, number: int, payload: bytes | bytearray) -> None:
        if client.session is None:
            if kind != HELLO or not hmac.compare_digest(payload[:KEY_BYTES], self.key):
                raise FrameError("not one of ours")
            client.session = bytes(payload[KEY_BYTES:])
            self._sessions[client.session] += 1
            return
        if kind == ASK:
            self._begin(client, number, payload)
        elif kind == TAKEN:
            client.undo = None
        elif kind == CANCEL and client.waiting is not None:
            client.waiting.thing.forget(client.waiting)
            client.say(ANSWER, NOTHING, b"", None)

    def _begin(self, client: _Client, number: int, payload: bytes | bytearray) -> None:
        thing = self.things.get(number)
        if thing is None:
            error = PoolError("what is asked for is gone: the process that made it let go of it")
            client.say(ERROR, 0, _dump_error(error), None)
            return
        ask = client.waiting = _RemoteAsk(client, thing)
        try:
            method, args = pickle.loads(payload)  # noqa: S301 - it knew the key
            getattr(thing, method)(ask, *args)
        except Exception as error:  # noqa: BLE001 - for who asked
            ask.fail(error)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.sock)
        client.sock.close()
        self._clients.discard(client)
        self._unsent.discard(client)
        with self.lock:
            if client.waiting is not None:
                client.waiting.thing.forget(client.waiting)
            client.undo_answer()
            if client.session is None:
                return
            self._sessions[client.session] -= 1
            if not self._sessions[client.session]:
                del self._sessions[client.session]
                for thing in list(self.things.values()):
                    thing.leave(client.session)

    def _watch_unsent(self) -> None:
        with self.lock:
            clients, self._unsent = self._unsent, set()
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        for client in clients & self._clients:
            self._selector.modify(client.sock, both, client)

    def _send(self, client: _Client) -> None:
        with self.lock:
            client.writer.flush()
            if client.writer.is_empty:
                self._selector.modify(client.sock, selectors.EVENT_READ, client)


class _Here:
    """The server of this process."""

    server: Server | None = None
    lock = threading.Lock()


def server_here() -> Server:
    """Return the server of this process, started when it is first needed."""
    with _Here.lock:
        if _Here.server is None:
            _Here.server = Server()
            before_closing(_close)
        return _Here.server


def server_at(path: str) -> Server | None:
    """Return the server of this process if that is the one at a path."""
    server = _Here.server
    return server if server is not None and server.path == path else None


def _close() -> None:
    with _Here.lock:
        server, _Here.server = _Here.server, None
    if server is not None:
        server.close()


def _after_fork() -> None:
    _Here.lock = threading.Lock()
    server, _Here.server = _Here.server, None
    if server is not None:  # the parent's
        server.abandon()


os.register_at_fork(after_in_child=_after_fork)
