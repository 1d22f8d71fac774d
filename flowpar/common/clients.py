"""Those who ask a server: processes elsewhere, by their sockets, and the one that it is in."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable

from flowpar.common.things import Ask, Thing, Undo
from flowpar.common.wire import ANSWER, ERROR, TO_BE_TAKEN, dump_error
from flowpar.pools.channel import FrameReader, FrameWriter


class RemoteAsk(Ask):
    """A request that came by a socket."""

    __slots__ = ("client", "thing")

    def __init__(self, client: Client, thing: Thing) -> None:
        self.client = client
        self.thing = thing
        self.session = client.session

    def answer(self, value: object, undo: Undo | None = None) -> None:
        """See `Ask`."""
        number = 0 if undo is None else TO_BE_TAKEN
        self.client.say(ANSWER, number, pickle.dumps(value, protocol=5), undo)

    def fail(self, error: BaseException) -> None:
        """See `Ask`."""
        self.client.say(ERROR, 0, dump_error(error), None)


class Client:
    """One socket of a client."""

    def __init__(self, sock: socket.socket, send_later: Callable[[Client], None]) -> None:
        self.send_later = send_later
        self.sock = sock
        self.session: bytes | None = None
        self.waiting: RemoteAsk | None = None
        self.undo: Undo | None = None
        self.reader = FrameReader(sock)
        self.writer = FrameWriter(sock)

    def say(self, kind: int, number: int, payload: bytes, undo: Undo | None) -> None:
        """Send what the socket takes now; the server's thread sends the rest."""
        self.waiting, self.undo = None, undo
        self.writer.put(kind, number, payload)
        try:
            self.writer.flush()
        except OSError:
            # It has gone: its end of file is on its way, and with that the answer is undone. Not
            # now: the next who is answered has perhaps gone too, and so on through hundreds.
            return
        if not self.writer.is_empty:
            self.send_later(self)

    def undo_answer(self) -> None:
        """Undo what was answered last, if it was perhaps not heard."""
        undo, self.undo = self.undo, None
        if undo is not None:
            undo()


class LocalAsk(Ask):
    """A request of the process that serves."""

    __slots__ = ("done", "error", "is_over", "thing", "undo", "value")

    def __init__(self) -> None:
        self.session = None
        self.is_over = False
        self.value: object = None
        self.error: BaseException | None = None
        self.undo: Undo | None = None
        self.done: threading.Lock | None = None
        self.thing: Thing | None = None

    def answer(self, value: object, undo: Undo | None = None) -> None:
        """See `Ask`."""
        self.value, self.undo = value, undo
        self._end()

    def fail(self, error: BaseException) -> None:
        """See `Ask`."""
        self.error = error
        self._end()

    def _end(self) -> None:
        self.is_over = True
        if self.done is not None:
            self.done.release()
