"""The transport thread of a process pool: where other threads leave tickets, and hear nothing back.

Other threads only ever put something in the inbox and wake the thread; all else is its own. So
an interrupt in the middle of a call of the user's thread breaks nothing.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from flowpar.errors import Cancelled, PoolError
from flowpar.pools.crew import Crew
from flowpar.pools.nursery import Settings
from flowpar.pools.retiring import Retired
from flowpar.pools.steps import Step
from flowpar.pools.ticket import Ending, ProcessTicket
from flowpar.pools.transport import discard_report

_JOIN_SECONDS = 5.0
_MOST_PAUSE = 86_400.0
"""Seconds; a day."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tickets that are no longer wanted."""

    tickets: tuple[ProcessTicket, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A ticket that a second worker is to begin."""

    ticket: ProcessTicket


class Switchboard:
    """Runs a crew in a daemon thread, from the first ticket until there was no work for a while."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # A finalizer may close the pool in the midst of any call of the same thread.
        self._lock = threading.RLock()
        self._inbox: deque[ProcessTicket | Cancel | Repeat] = deque()
        self._open: dict[ProcessTicket, None] = {}
        self._thread: threading.Thread | None = None
        self._line: _Line | None = None
        self._gatherer: int | None = None
        self.retired = Retired()
        self.is_closed = False
        self.is_abandoned = False
        """Whether this is a process that was forked from the one which made it."""
        _boards.add(self)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        line = self._line
        return line is None or (not self._inbox and line.crew.is_idle)

    def start(self) -> None:
        """Have the thread running."""
        with self._lock:
            if self.is_closed:
                raise PoolError("the process pool is closed")
            # Without an ident it never ran: Ctrl-C came, or the system refused a thread.
            if self._thread is None or self._thread.ident is None:
                self._line = line = _Line(self._settings, self.retired)
                self._thread = threading.Thread(
                    target=self._run, args=(line,), name="flowpar-processes", daemon=True
                )
                self._thread.start()

    def post(self, message: ProcessTicket | Cancel | Repeat) -> None:
        """Leave something for the thread.

        Raises
        ------
        PoolError
            If the pool is closed.
        """
        with self._lock:
            self.start()
            if isinstance(message, ProcessTicket):
                self._open[message] = None
            self._inbox.append(message)
            line = self._line
        if line is not None and threading.get_ident() != self._gatherer:
            line.wake()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """Wake the thread once for all that this one posts meanwhile; one thread at a time."""
        self._gatherer = threading.get_ident()
        try:
            yield
        finally:
            self._gatherer = None
            line = self._line
            if line is not None:
                line.wake()

    def pids(self) -> list[int]:
        """Return the process ids of live workers."""
        line = self._line
        return [] if line is None else line.crew.pids()

    def steps(self) -> list[tuple[ProcessTicket, Step]]:
        """Return how far calls say that they are."""
        line = self._line
        return [] if line is None else line.crew.steps()

    def close(self) -> None:
        """End all tickets, all processes and the thread."""
        if self.is_abandoned:
            return
        with self._lock:
            self.is_closed = True
            self._inbox.append(Cancel(()))  # so that the thread does not begin to listen
            thread, line = self._thread, self._line
        if line is not None:
            line.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_SECONDS)

    def abandon(self) -> None:
        """Close every descriptor, in a process forked from this one."""
        self.is_abandoned = True
        if self._line is not None:
            self._line.abandon()

    # ------------------------------------------------------------------ in the thread

    def _run(self, line: _Line) -> None:
        reason: BaseException = Cancelled("the pool was closed before the task ended")
        try:
            line.crew.prepare()
            self._serve(line)
        except BaseException as error:  # noqa: BLE001 - nobody may wait for ever for our fault
            reason = PoolError(f"the transport thread of the pool failed: {error!r}", error=error)
            reason.__cause__ = error
        finally:
            rest = self._leave(line)
            try:
                line.close(reason)
            finally:
                self._deliver(line.crew)
                for ticket in rest:
                    self._end(ticket, reason)

    def _serve(self, line: _Line) -> None:
        crew = line.crew
        idle_since = time.monotonic()
        while not self.is_closed:
            self._take_messages(crew)
            crew.dispatch()
            self._deliver(crew)
            now = time.monotonic()
            if not crew.is_idle:
                idle_since = now
            elif self._is_tired(now - idle_since) and self._may_leave():
                return
            line.listen(self._inbox, self._pause(crew, now, idle_since))

    def _take_messages(self, crew: Crew) -> None:
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, Cancel):
                crew.cancel(message.tickets, "the task was cancelled")
            elif isinstance(message, Repeat):
                crew.repeat(message.ticket)
            else:
                crew.submit(message)

    def _pause(self, crew: Crew, now: float, idle_since: float) -> float | None:
        times = [crew.next_deadline()]
        if self._settings.idle_timeout is not None and crew.is_idle:
            times.append(idle_since + self._settings.idle_timeout)
        pauses = [max(0.0, moment - now) for moment in times if moment is not None]
        return min(pauses, default=None)

    def _is_tired(self, idle_seconds: float) -> bool:
        limit = self._settings.idle_timeout
        return limit is not None and idle_seconds >= limit

    def _may_leave(self) -> bool:
        """Return whether nothing has come; from then on, a message starts another thread."""
        with self._lock:
            if self._inbox:
                return False
            self._thread = None
            self._line = None
            return True

    def _leave(self, line: _Line) -> list[ProcessTicket]:
        """Make room for another thread; return the tickets that it must not be left."""
        with self._lock:
            if self._line is not line:
                return []
            self._thread = None
            self._line = None
            self._inbox.clear()
            return list(self._open)

    def _deliver(self, crew: Crew) -> None:
        for ticket, ending in crew.take_endings():
            self._end(ticket, ending)

    def _end(self, ticket: ProcessTicket, ending: Ending) -> None:
        # Who takes it out of those that are open tells it, so it is told once.
        if ticket in self._open:
            del self._open[ticket]
            ticket.tell(ending)
        elif not isinstance(ending, BaseException):
            discard_report(ending)


class _Line:
    """A crew, and a socket by which the thread that serves it can be woken."""

    def __init__(self, settings: Settings, retired: Retired) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)  # noqa: FBT003 - no keyword there
        self._write.setblocking(False)  # noqa: FBT003 - no keyword there
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read, selectors.EVENT_READ, self)
        self._is_listening = False
        self.crew = Crew(settings, self._selector, retired)

    def wake(self) -> None:
        """Wake the thread, if it listens; from any thread."""
        if self._is_listening:
            try:
                self._write.send(b"!")
            except OSError:  # full: it is being woken already; or closed: nobody listens
                return

    def listen(self, inbox: deque[ProcessTicket | Cancel | Repeat], pause: float | None) -> None:
        """Wait for something to happen, and have the crew hear of it."""
        # First said, then looked: who puts something in after our look sees that we listen.
        self._is_listening = True
        # The system counts milliseconds in 32 bits; a deadline in some weeks is looked at again.
        limited = pause if pause is None else min(pause, _MOST_PAUSE)
        events = self._selector.select(0 if inbox else limited)
        self._is_listening = False
        for key, mask in events:
            if key.data is self:
                self._hear_wake()
            else:
                self.crew.hear(key.data, mask)
        self.crew.check_deadlines()

    def close(self, reason: BaseException) -> None:
        """End the crew, and close all."""
        try:
            self.crew.close(reason)
        finally:
            self._selector.close()
            self._read.close()
            self._write.close()

    def abandon(self) -> None:
        """Close every descriptor, in a process forked from this one."""
        self.crew.abandon()
        # Not unregistered: the parent has the same epoll object.
        self._selector.close()
        self._read.close()
        self._write.close()

    def _hear_wake(self) -> None:
        try:
            self._read.recv(4096)
        except BlockingIOError:
            return


_boards: weakref.WeakSet[Switchboard] = weakref.WeakSet()


def tell_of_bars() -> None:
    """Have all workers know whether there are bars on the terminal; any thread may call it."""
    for board in list(_boards):
        line = board._line
        if line is not None:
            line.crew.tell_of_bars()


def _abandon_all() -> None:
    for board in list(_boards):
        board.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
