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
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from flowpar.common.clients import Client, LocalAsk, RemoteAsk
from flowpar.common.entrance import Entrance
from flowpar.common.holders import Fork, Session
from flowpar.common.mapping import new_name
from flowpar.common.things import Ask, Thing
from flowpar.common.wire import (
    ANSWER,
    ASK,
    CANCEL,
    ERROR,
    HELLO,
    HOLD,
    KEY_BYTES,
    LET_GO,
    NOTHING,
    PIN,
    TAKEN,
    dump_error,
)
from flowpar.errors import PoolError
from flowpar.pools.channel import FrameError
from flowpar.pools.home import before_closing, nearest

_FAREWELL_SECONDS: Final = 2.0

_ENDS: Final = "shared things cannot be used while the program ends"

TIMED_OUT: Final = object()
"""What is returned in place of an answer that did not come in time."""


class Server:
    """Keeps things, and serves them."""

    def __init__(self) -> None:
        self.path = f"{nearest().folders[0]}/{new_name('server')}"
        self.key = secrets.token_bytes(KEY_BYTES)
        self.things: dict[int, Thing] = {}
        """What somebody in this process has, and what is pinned."""
        self.lock = threading.RLock()
        self._holders: dict[object, Session | Fork] = {}
        """Other processes, which have things be they let go of here or not."""
        self._numbers = itertools.count(1)
        self._unsent: set[Client] = set()
        self._forked: deque[Fork] = deque()
        self._parked: set[LocalAsk] = set()
        self._posted: deque[Callable[[], None]] = deque()
        """What the main thread wants done in the server's."""
        self._clients: set[Client] = set()
        self._caller = 0
        """The thread that calls a thing just now, or zero."""
        self._is_closed = False
        self._selector = selectors.DefaultSelector()
        self._entrance = Entrance(self.path, self._selector)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="flowpar-common", daemon=True)
        self._thread.start()

    def add(self, thing: Thing) -> int:
        """Return the number by which a thing can be asked for."""
        number = next(self._numbers)
        self.things[number] = thing
        return number

    def find(self, number: int) -> Thing:
        """Return the thing of that number.

        Raises
        ------
        PoolError
            If it is gone.
        """
        found = self.things.get(number)
        if found is not None:
            return found
        for holder in list(self._holders.values()):
            if number in holder.things:
                return holder.things[number]
        raise PoolError("what is asked for is gone: the process that made it let go of it")

    def pin(self, number: int) -> None:
        """Have a thing stay, though nobody has it any more.

        Raises
        ------
        PoolError
            If it is gone.
        """
        thing = self.find(number)
        thing.is_pinned = True
        self.things[number] = thing

    def ask(self, number: int, method: str, args: tuple[Any, ...], timeout: float | None) -> Any:
        """Ask for a thing of this process.

        Returns
        -------
        object
            The answer, or `TIMED_OUT`.

        Raises
        ------
        PoolError
            If it is gone.
        BaseException
            What the thing raises.
        """
        if threading.current_thread() is threading.main_thread():
            return self._ask_by_thread(number, method, args, timeout)
        ask = LocalAsk()
        with self.lock:
            if self._is_closed:
                raise PoolError(_ENDS)
            thing = self.find(number)
            self._call(thing, method, ask, args)
            if not ask.is_over:
                self._park(ask, thing)
        if ask.done is not None and not self._await(ask, ask.done, thing, timeout):
            return TIMED_OUT
        if ask.error is not None:
            raise ask.error
        return ask.value

    def _ask_by_thread(
        self, number: int, method: str, args: tuple[Any, ...], timeout: float | None
    ) -> Any:
        """Do as `ask` in the server's thread: in the main one a signal handler may raise any time.

        What that would leave half done are answers to others.
        """
        ask = LocalAsk()
        ask.done = threading.Lock()
        ask.done.acquire()
        begin = partial(self._begin_here, ask, number, method, args)
        take_back = partial(self._take_back, ask)  # made now: a handler may raise twice
        try:
            self._post(begin)
            if not ask.done.acquire(timeout=-1 if timeout is None else timeout):
                self._post(partial(self._give_up, ask))
                ask.done.acquire()
        except BaseException:
            self._posted.append(take_back)
            self._wake()
            raise
        if ask.error is not None:
            raise ask.error
        return ask.value

    def _post(self, what: Callable[[], None]) -> None:
        self._posted.append(what)
        if self._is_closed:  # perhaps nobody looks any more
            self._do_posted()
        self._wake()

    def _begin_here(self, ask: LocalAsk, number: int, method: str, args: tuple[Any, ...]) -> None:
        if self._is_closed:
            ask.fail(PoolError(_ENDS))
            return
        try:
            ask.thing = self.find(number)
            self._call(ask.thing, method, ask, args)
        except BaseException as error:  # noqa: BLE001 - for who asked, whatever the user's code raises
            if not ask.is_over:
                ask.fail(error)
        if not ask.is_over:
            self._parked.add(ask)

    def _give_up(self, ask: LocalAsk) -> None:
        """Tell who asked that the time is over, unless it was answered just now."""
        if not ask.is_over:
            self._forget(ask)
            ask.answer(TIMED_OUT)

    def _take_back(self, ask: LocalAsk) -> None:
        """Undo what was asked by who was interrupted."""
        if not ask.is_over:
            self._forget(ask)
        elif ask.undo is not None:
            ask.undo()

    def _forget(self, ask: LocalAsk) -> None:
        self._parked.discard(ask)
        if ask.thing is not None:
            ask.thing.forget(ask)

    def _do_posted(self) -> None:
        with self.lock:
            while self._posted:
                self._posted.popleft()()

    def _call(self, thing: Thing, method: str, ask: Ask, args: tuple[Any, ...]) -> None:
        before, self._caller = self._caller, threading.get_ident()
        try:
            getattr(thing, method)(ask, *args)
        finally:
            self._caller = before

    def refuse_from_within(self) -> None:
        """Raise an error if this thread calls a thing: all would wait for what that waits for.

        Raises
        ------
        PoolError
            If so.
        """
        if self._caller == threading.get_ident():
            raise PoolError(
                "what is called while a shared object is used, such as the key of a sort, cannot "
                "wait for another: take a copy, and use that"
            )

    def _park(self, ask: LocalAsk, thing: Thing) -> None:
        try:
            self.refuse_from_within()
        except PoolError:
            thing.forget(ask)
            raise
        ask.done = threading.Lock()
        ask.done.acquire()
        self._parked.add(ask)

    def _await(
        self, ask: LocalAsk, done: threading.Lock, thing: Thing, timeout: float | None
    ) -> bool:
        try:
            done.acquire(timeout=-1 if timeout is None else timeout)
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

    def _send_later(self, client: Client) -> None:
        """Have the thread send what is left for a client."""
        self._unsent.add(client)
        self._wake()

    def fork(self) -> Fork | None:
        """Return what is needed for a process that is about to be forked; None: nothing."""
        things = dict(self._all())
        if not things:
            return None
        try:
            fork = Fork(things)
        except OSError:  # no descriptors: what is there stays for good
            for number in things:
                self.pin(number)
            return None
        self._holders[fork] = fork
        return fork

    def watch(self, fork: Fork) -> None:
        """Have the thread see when a forked process ends."""
        self._forked.append(fork)
        self._wake()

    def close(self) -> None:
        """End it: who waits for something, here or elsewhere, is told so."""
        self._is_closed = True
        self._wake()
        self._thread.join(_FAREWELL_SECONDS)

    def abandon(self) -> None:
        """Close all that is open; in a forked process too."""
        self._entrance.close()
        for sock in (self._wake_read, self._wake_write):
            sock.close()
        for client in self._clients:
            client.sock.close()
        for holder in list(self._holders.values()):
            if isinstance(holder, Fork):
                holder.close()
        self._selector.close()

    def _all(self) -> Iterator[tuple[int, Thing]]:
        """Give all that can be asked for here, some of it twice."""
        yield from list(self.things.items())
        for holder in list(self._holders.values()):
            yield from list(holder.things.items())

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has been woken often enough, or it has ended
            self._wake_write.send(b"w")

    def _serve(self) -> None:
        try:
            self._listen()
        finally:  # whatever ended it, nobody is to wait for ever
            self._end()

    def _end(self) -> None:
        with self.lock:
            self._is_closed = True
            self._do_posted()
            for ask in self._parked:
                if not ask.is_over:
                    ask.fail(PoolError("shared things are gone: their program ends"))
            self.abandon()

    def _listen(self) -> None:
        while not self._is_closed:
            for key, events in self._selector.select(self._entrance.pause):
                if isinstance(key.data, Client):
                    self._hear(key.data, events)
                elif isinstance(key.data, Fork):
                    self._bury(key.data)
                elif key.fileobj is self._entrance:
                    self._accept()
                else:
                    self._wake_read.recv(4096)
            if self._posted:
                self._do_posted()
            if self._entrance.is_full:
                self._accept()
            if self._unsent:
                self._watch_unsent()
            while self._forked:
                fork = self._forked.popleft()
                self._selector.register(fork.ours, selectors.EVENT_READ, fork)

    def _accept(self) -> None:
        sock = self._entrance.accept()
        if sock is None:
            return
        sock.setblocking(False)
        client = Client(sock, self._send_later)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _bury(self, fork: Fork) -> None:
        self._selector.unregister(fork.ours)
        with self.lock:
            self._holders.pop(fork, None)
        fork.close()

    def _hear(self, client: Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._send(client)
            if events & selectors.EVENT_READ:
                self._read(client)
        except BlockingIOError:
            return
        except Exception:  # noqa: BLE001 - it has gone, or whatever it was: it is its alone
            self._drop(client)

    def _read(self, client: Client) -> None:
        client.reader.fill()
        while (frame := client.reader.take()) is not None:
            with self.lock:
                self._obey(client, *frame)

    def _obey(self, client: Client, kind: int, number: int, payload: bytes | bytearray) -> None:
        if client.session is None:
            if kind != HELLO or not hmac.compare_digest(payload[:KEY_BYTES], self.key):
                raise FrameError("not one of ours")
            client.session = bytes(payload[KEY_BYTES:])
            self._session(client).sockets += 1
            return
        if kind == ASK:
            self._begin(client, number, payload)
        elif kind == TAKEN:
            client.undo = None
        elif kind == LET_GO:
            self._session(client).let_go(number)
        elif kind == CANCEL and client.waiting is not None:
            client.waiting.thing.forget(client.waiting)
            client.say(ANSWER, NOTHING, b"", None)

    def _begin(self, client: Client, number: int, payload: bytes | bytearray) -> None:
        try:
            thing = self.find(number)
        except PoolError as error:
            client.say(ERROR, 0, dump_error(error), None)
            return
        ask = client.waiting = RemoteAsk(client, thing)
        try:
            method, args = pickle.loads(payload)  # noqa: S301 - it knew the key
            if method == PIN:
                self.pin(number)
                ask.answer(None)
            elif method == HOLD:
                self._session(client).hold(number, thing)
                ask.answer(None)
            else:
                self._call(thing, method, ask, args)
        except BaseException as error:  # noqa: BLE001 - for who asked, whatever the user's code raises
            ask.fail(error)

    def _drop(self, client: Client) -> None:
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
            session = self._session(client)
            session.sockets -= 1
            if not session.sockets:
                for thing in set(dict(self._all()).values()):
                    thing.leave(client.session)
                del self._holders[client.session]

    def _session(self, client: Client) -> Session:
        found = self._holders.setdefault(client.session, Session())
        assert isinstance(found, Session)  # noqa: S101 - a session's name is no fork
        return found

    def _watch_unsent(self) -> None:
        with self.lock:
            clients, self._unsent = self._unsent, set()
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        for client in clients & self._clients:
            self._selector.modify(client.sock, both, client)

    def _send(self, client: Client) -> None:
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


def refuse_from_within() -> None:
    """Raise an error if this thread calls a thing that is served here; see `Server`.

    Raises
    ------
    PoolError
        If so.
    """
    if _Here.server is not None:
        _Here.server.refuse_from_within()


def _close() -> None:
    with _Here.lock:
        server, _Here.server = _Here.server, None
    if server is not None:
        server.close()


_forking: Final[dict[int, tuple[Server, Fork]]] = {}
"""What is forked just now, by the thread that does."""


def _before_fork() -> None:
    server = _Here.server
    fork = None if server is None else server.fork()
    if server is not None and fork is not None:
        _forking[threading.get_ident()] = server, fork


def _after_fork_here() -> None:
    server, fork = _forking.pop(threading.get_ident(), (None, None))
    if server is not None and fork is not None:
        fork.begin()
        server.watch(fork)


def _after_fork() -> None:
    _forking.clear()  # its end of the pipe stays open, as long as this process lives
    _Here.lock = threading.Lock()
    server, _Here.server = _Here.server, None
    if server is not None:  # the parent's
        server.abandon()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_here, after_in_child=_after_fork
)
