"""The parent's end of one worker: its socket, what it was sent, and what it shares."""

from __future__ import annotations

import contextlib
import math
import os
import socket
from typing import Final, NamedTuple

from flowpar.pools import channel, standins
from flowpar.pools.channel import Frame, FrameReader, FrameWriter
from flowpar.pools.parcel import MOST_FUNCTION_BYTES, MOST_FUNCTIONS
from flowpar.pools.slate import BARS, POSITION, SENDING, Claims, Slate
from flowpar.pools.steps import Step
from flowpar.pools.ticket import ProcessTicket

_SOCKET_BYTES: Final = 1 << 20
"""Asked of the system for each direction: fewer, longer steps for large batches."""


class Files(NamedTuple):
    """Descriptors of the worker's end, to be given to it and then closed here."""

    channel: int
    slate: int
    claims: int
    context: int

    def close(self) -> None:
        """Close all."""
        for number in self:
            os.close(number)


class RemoteWorker:
    """One worker, as the transport thread sees it; no other thread touches it.

    Attributes
    ----------
    number
        Names it within its crew; never used twice.
    pid
        Its process id, once known.
    is_ready
        Whether it has said that it is set up.
    is_slow
        Whether a batch was taken back from it; until it ends one, nothing more waits there.
    sent
        Batches that it has and whose reports have not come, by number of the sending, oldest
        first.
    deadline
        When it will be killed, by `time.monotonic`.
    lost_at
        When its socket closed, by `time.monotonic`; None while it lives.
    reason
        Why we kill it, if we do.
    is_heavy
        Whether it holds more memory than a worker may keep.
    is_watched
        Whether it is at a call with a ceiling of memory; nothing waits there meanwhile.
    is_retired
        Whether it was told to end, as it has made enough calls, or is heavy.

    Parameters
    ----------
    number
        As above.
    cpu
        The CPU that it is bound to, if it is to one.
    most_calls
        After how many it gets nothing more; None: never.
    """

    def __init__(self, number: int, cpu: int | None = None, most_calls: int | None = None) -> None:
        self.number = number
        self.cpu = cpu
        self.is_heavy = self.is_watched = self.is_retired = False
        self._calls_left = math.inf if most_calls is None else most_calls
        self.pid = 0
        self.is_ready = False
        self.is_slow = False
        self.sent: dict[int, ProcessTicket] = {}
        self.deadline: float | None = None
        self.lost_at: float | None = None
        self.reason: str | None = None
        self._functions: dict[int, int] = {}  # size in bytes, by key
        self._unclaimed: list[int] = []  # sendings whose tokens are not in the pipe yet
        with contextlib.ExitStack() as undo:  # where the system refuses one of them
            self.sock, self._theirs = socket.socketpair()
            undo.callback(self.sock.close)
            undo.callback(self._theirs.close)
            self._claims = Claims.create()
            undo.callback(self._claims.close)
            self._slate_file = Slate.create()
            undo.callback(self._close_slate_file)
            self.slate = Slate(self._slate_file)
            self.tell_of_bars()
            undo.pop_all()
        for sock in (self.sock, self._theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self.sock.setblocking(False)  # noqa: FBT003 - no keyword there
        self._reader = FrameReader(self.sock)
        self._writer = FrameWriter(self.sock)

    def take_files(self, context: int) -> Files:
        """Return the worker's end; to be called once."""
        slate, self._slate_file = self._slate_file, -1
        return Files(self._theirs.detach(), slate, self._claims.duplicate(), context)

    @property
    def is_alive(self) -> bool:
        """Whether it can be sent anything."""
        return self.lost_at is None

    @property
    def is_idle(self) -> bool:
        """Whether it lives, has nothing to do, and may get something."""
        return self.lost_at is None and not self.sent and not self.is_leaving

    @property
    def is_leaving(self) -> bool:
        """Whether it is to get nothing more."""
        return self._calls_left <= 0 or self.is_heavy

    def has_room(self, most: int) -> bool:
        """Return whether one more batch may wait behind the one that runs, of so many in all."""
        return (
            self.is_alive
            and self.is_ready
            and not self.is_slow
            and self.deadline is None
            and not self.is_watched
            and not self.is_leaving
            and len(self.sent) < most
        )

    @property
    def has_unsent(self) -> bool:
        """Whether the socket must still take something."""
        return not self._writer.is_empty

    def send(self, number: int, ticket: ProcessTicket) -> None:
        """Queue a batch, with those of its functions that the worker has not seen; then `flush`."""
        parcel = ticket.parcel
        assert parcel is not None  # noqa: S101 - it has not ended
        if len(self._functions) > MOST_FUNCTIONS or (
            sum(self._functions.values()) > MOST_FUNCTION_BYTES
        ):
            self._writer.put(channel.FORGET, 0)
            self._functions.clear()
        for function in parcel.functions:
            if function.key not in self._functions:
                self._functions[function.key] = function.size_bytes
                self._writer.put(channel.FUNCTION, function.key, function.data)
        self._unclaimed.append(number)
        self._writer.put(channel.BATCH, number, parcel.body)
        self.sent[number] = ticket
        self._calls_left -= ticket.calls

    def tell_of_bars(self) -> None:
        """Have the worker know whether there are bars on the terminal; any thread may call it."""
        with contextlib.suppress(ValueError):  # closed meanwhile
            self.slate.mark[BARS] = bool(standins.bars.shown)

    def step(self) -> tuple[ProcessTicket | None, Step | None]:
        """Return how far the call is that it makes now, if that says so; any thread may ask."""
        try:
            sending, position, done, total, desc = self.slate.step()
            is_now = position == self.slate.mark[POSITION] and sending == self.slate.mark[SENDING]
        except ValueError:  # closed meanwhile
            return None, None
        if not is_now:
            return None, None
        return self.sent.get(sending), Step(
            position, done, None if math.isnan(total) else total, desc
        )

    def flush(self) -> int:
        """Write what the socket takes, and return how much that was.

        Raises
        ------
        OSError
            If the worker has gone.
        """
        if self._unclaimed:
            # Before the batches: who has one finds its token.
            self._claims.offer(self._unclaimed)
            self._unclaimed.clear()
        return self._writer.flush()

    def read(self) -> list[Frame] | None:
        """Read once, and return the frames that are complete; None if there was nothing.

        Raises
        ------
        EOFError, OSError
            If the worker has gone.
        FrameError
            If what it sent is not ours.
        """
        try:
            self._reader.fill()
        except BlockingIOError:
            return None
        return list(iter(self._reader.take, None))

    def recall(self) -> list[ProcessTicket]:
        """Take back all batches that the worker has not begun; oldest first."""
        return list(iter(self.recall_one, None))

    def recall_one(self) -> ProcessTicket | None:
        """Take back the oldest batch that the worker has not begun."""
        while (number := self._claims.take()) is not None:
            ticket = self.sent.pop(number, None)
            if ticket is not None:
                self._calls_left += ticket.calls
                if not self.sent:
                    self.deadline = None
                return ticket
        return None

    def close(self) -> None:
        """Close everything; may be called twice."""
        self.sock.close()
        self._theirs.close()
        self._claims.close()
        self.slate.close()
        self._close_slate_file()

    def _close_slate_file(self) -> None:
        if self._slate_file >= 0:
            os.close(self._slate_file)
            self._slate_file = -1
