"""Which worker has which batch, who is late, who died, and what is to be done.

::

    submit ──► queue ──► a worker that is idle ──► sent ──► report ──► endings
                 ▲       or has one batch only      │
                 └──── recalled, or never begun ◄───┘ died, killed, or too slow

All of it belongs to the transport thread. Nothing here waits.
"""

from __future__ import annotations

import itertools
import pickle
import selectors
import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from flowpar.errors import Cancelled, PoolError
from flowpar.pools import channel, nanny
from flowpar.pools.ceilings import Ceilings
from flowpar.pools.channel import Frame, FrameError
from flowpar.pools.failures import initializer_failed, unpack_error
from flowpar.pools.home import home
from flowpar.pools.nursery import Notice, NurseryGoneError, Settings
from flowpar.pools.obituary import Death, MemoryWatch, signal_name, worker_died
from flowpar.pools.remote import RemoteWorker
from flowpar.pools.retiring import Retired, Retiring
from flowpar.pools.roster import Roster
from flowpar.pools.slate import POSITION, SENDING, SPAN, WANTED
from flowpar.pools.steps import Step
from flowpar.pools.ticket import Ending, ProcessTicket, announce
from flowpar.pools.transport import discard_report
from flowpar.pools.worker import timed_out

MOST_FAILED_BIRTHS: Final = 5
"""Workers in a row that die before they are ready, after which we give up."""
GROW_SECONDS: Final = 1.0
"""How long a pool that has some workers does without those that the system refuses."""
IDLE_SECONDS: Final = 0.02
"""How long a worker is idle until another gives back what it has not begun. Batches are shorter,
but for those whose calls take longer than calls used to."""


class Crew:
    """The tickets that were given to the workers of a pool.

    Parameters
    ----------
    settings
        How the workers are to be.
    selector
        Where the sockets of the workers are registered, with what `hear` is to be given.
    retired
        Where it is counted who was retired.
    """

    def __init__(
        self, settings: Settings, selector: selectors.BaseSelector, retired: Retired
    ) -> None:
        self._settings = settings
        self._roster = Roster(settings, selector)
        self._retiring = Retiring(settings, self._roster, retired)
        self._ceilings = Ceilings()
        self._queue: deque[ProcessTicket] = deque()
        self._endings: list[tuple[ProcessTicket, Ending]] = []
        self._sendings = itertools.count(1)
        self._failed_births = 0
        self._grows_again: float | None = None
        """When it is tried to start more workers, after that was refused to who has some."""
        self._broken: PoolError | None = None
        self._memory = MemoryWatch()
        self._idle_since: float | None = None
        self._unreported: dict[int, list[int]] = {}
        """What workers had that we had killed, by the worker's number."""

    # ------------------------------------------------------------------ what is asked of it

    def prepare(self) -> None:
        """Start what starts workers, so that it is there when the first batch has been pickled."""
        try:
            self._roster.prepare()
        except (OSError, PoolError):
            return  # it is tried again, and spoken of, when there is a ticket

    def submit(self, ticket: ProcessTicket) -> None:
        """Take a ticket."""
        if self._broken is not None:
            self._end(ticket, self._broken)
        else:
            self._queue.append(ticket)

    def cancel(self, tickets: Collection[ProcessTicket], reason: str) -> None:
        """End tickets, killing workers where there is no other way."""
        for ticket in tickets:
            self._end(ticket, Cancelled(reason))
        self._stop_what_has_ended()

    def repeat(self, ticket: ProcessTicket) -> None:
        """Have an idle worker begin what another is at; the first report counts."""
        if ticket.has_ended or ticket.is_repeated or not self._is_begun(ticket):
            return
        for worker in self._roster:
            if worker.is_idle and worker.is_ready and worker.pid:
                ticket.is_repeated = True
                self._send(worker, ticket)
                self._write(worker)
                return

    def _is_begun(self, ticket: ProcessTicket) -> bool:
        for worker in self._roster:
            for number, sent in worker.sent.items():
                if sent is ticket:
                    return worker.slate.mark[SENDING] == number
        return False

    def _stop_what_has_ended(self) -> None:
        """Kill the workers that are at something whose end is known."""
        for worker in self._roster:
            if any(ticket.has_ended for ticket in worker.sent.values()):
                self._requeue(worker.recall())
                # All that is left was begun, one after another: the last is what it runs, and the
                # reports of those before it are all there, read or not.
                self._read_rest(worker)
                left = list(worker.sent.values())
                if worker.is_alive and left and left[-1].has_ended:
                    self._kill(worker)
        self._queue = deque(ticket for ticket in self._queue if not ticket.has_ended)

    def pids(self) -> list[int]:
        """Return the process ids of live workers; any thread may ask."""
        return [worker.pid for worker in self._roster if worker.pid and worker.is_alive]

    def steps(self) -> list[tuple[ProcessTicket, Step]]:
        """Return how far calls say that they are; any thread may ask."""
        found = []
        for worker in self._roster:
            ticket, step = worker.step()
            if ticket is not None and step is not None:
                found.append((ticket, step))
        return found

    def tell_of_bars(self) -> None:
        """Have the workers know whether there are bars on the terminal; any thread may call it."""
        for worker in self._roster:
            worker.tell_of_bars()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do; any thread may ask."""
        return not self._queue and not any(worker.sent for worker in self._roster)

    def take_endings(self) -> list[tuple[ProcessTicket, Ending]]:
        """Return how tickets ended since the last time."""
        endings, self._endings = self._endings, []
        return endings

    def close(self, reason: BaseException) -> None:
        """End all tickets and all workers."""
        for worker in self._roster:
            for ticket in worker.sent.values():
                self._end(ticket, reason)
        self._end_queue(reason)
        self._roster.close()

    def abandon(self) -> None:
        """Close every descriptor, in a process forked from this one."""
        self._roster.abandon()

    # ------------------------------------------------------------------ what it hears

    def hear(self, source: object, events: int) -> None:
        """Attend to a socket that can be read or written."""
        if not isinstance(source, RemoteWorker):
            self._hear_nursery(source)
            return
        if events & selectors.EVENT_READ and self._is_here(source):
            self._read(source)
        if events & selectors.EVENT_WRITE and self._is_here(source):
            self._write(source)

    def _is_here(self, worker: RemoteWorker) -> bool:
        return worker.is_alive and worker in self._roster

    def _read(self, worker: RemoteWorker) -> bool:
        """Read once; return whether there may be more."""
        try:
            frames = worker.read()
            for frame in frames or ():
                self._hear_frame(worker, frame)
        except FrameError:
            worker.reason = "was killed because something that is not ours came from its channel"
            self._lose(worker)
            self._roster.kill(worker)
        except (EOFError, OSError):
            self._lose(worker)
        else:
            return frames is not None
        return False

    def _read_rest(self, worker: RemoteWorker) -> None:
        """Read what a worker that has ended still managed to say."""
        while worker.is_alive and self._read(worker):
            pass

    def _hear_frame(self, worker: RemoteWorker, frame: Frame) -> None:
        if frame.kind == channel.READY:
            worker.is_ready = True
            self._failed_births, self._grows_again = 0, None
        elif frame.kind == channel.BROKEN:
            self._break(_load_error(frame))
        elif frame.kind in {channel.REPORT, channel.REFUSED} and frame.number in worker.sent:
            worker.is_slow, worker.deadline = False, None
            self._ceilings.release(worker)
            is_report = frame.kind == channel.REPORT
            ticket = worker.sent.pop(frame.number)
            self._end(ticket, frame.payload if is_report else _load_error(frame))
            self._retiring.weigh(worker)
            if ticket.is_repeated:
                self._stop_what_has_ended()
        else:
            raise FrameError

    def _hear_nursery(self, nursery: object) -> None:
        try:
            notices = self._roster.notices(nursery)
        except NurseryGoneError:
            self._lose_nursery()
            return
        for notice in notices:
            worker = self._roster.find(notice.number)
            if worker is not None:  # else we had it killed, and have forgotten it
                self._hear_notice(worker, notice)
            elif notice.what == nanny.EXITED:
                home().sweep(notice.pid, self._unreported.pop(notice.number, ()))

    def _hear_notice(self, worker: RemoteWorker, notice: Notice) -> None:
        if notice.what == nanny.STARTED:
            worker.pid = notice.pid
        elif notice.what == nanny.EXITED:
            self._read_rest(worker)
            self._bury(worker, notice.value)
        elif notice.what == nanny.STOPPED:
            announce(
                f"worker {notice.pid} was stopped by {signal_name(notice.value)}; what it has "
                f"waits until it is continued (kill -CONT {notice.pid})"
            )
        elif notice.what == nanny.FAILED:
            self._requeue(worker.recall())
            self._roster.forget(worker)
            self._miss_birth(f"the system refused a process (errno {notice.value})")

    # ------------------------------------------------------------------ handing out

    def dispatch(self) -> None:
        """Hand out what waits, as far as there are workers for it."""
        try:
            self._retire()
            self._grow()
            self._assign()
            while not self._queue and self._share_out():
                self._assign()
        except NurseryGoneError:
            self._lose_nursery()
            self.dispatch()  # not for ever: a few such losses in a row end the queue
        except (OSError, PoolError) as error:
            self._give_up(error)

    def _retire(self) -> None:
        """Let go of workers that are to get nothing more, when what they have begun has ended."""
        for worker in self._retiring.leaving():
            if worker.is_heavy:
                self._requeue(worker.recall())
            if not worker.sent:
                self._retiring.let_go(worker)

    def _grow(self) -> None:
        """Start workers while there is more to do than there are."""
        was_refused = self._grows_again is not None
        if self._is_stunted or not (self._queue or was_refused):
            return
        self._grows_again = None
        alive = self._roster.alive
        # What waits at a worker counts if that is for want of another.
        busy = sum(len(each.sent) if was_refused else bool(each.sent) for each in alive)
        needed = busy + len(self._queue)
        try:
            for _ in range(min(self._settings.width, needed) - len(alive)):
                self._roster.start_worker()
        except (OSError, PoolError) as error:
            self._give_up(error)  # those that are there go on

    @property
    def _is_stunted(self) -> bool:
        """Whether no more workers can be started, as it seems, and there are some."""
        if self._grows_again is None or not self._roster.alive:
            return False
        return time.monotonic() < self._grows_again

    def _assign(self) -> None:
        written: dict[RemoteWorker, None] = {}
        while self._queue and (worker := self._worker_for(self._queue[0])) is not None:
            self._send(worker, self._queue.popleft())
            written[worker] = None
        for worker in written:
            self._write(worker)

    def _send(self, worker: RemoteWorker, ticket: ProcessTicket) -> None:
        worker.send(next(self._sendings), ticket)
        if ticket.timeout is not None:
            worker.deadline = time.monotonic() + ticket.timeout
        self._ceilings.release(worker)  # from a call that was taken back before it began
        if ticket.memory is not None:
            self._ceilings.watch(worker, ticket.memory)

    def _worker_for(self, ticket: ProcessTicket) -> RemoteWorker | None:
        """Return the best worker for a ticket that can take it now, if there is any."""
        starting = crowded = None
        for worker in self._roster:
            if worker.is_idle:
                if worker.is_ready and (worker.pid or ticket.memory is None):
                    return worker
                starting = starting or worker
            elif worker.has_room(ticket.room):
                crowded = crowded or worker
        if ticket.memory is not None:
            return None  # what a worker holds before it is ready is not held by the call
        # The clock of a batch with a timeout runs, so it goes where it starts at once.
        return None if ticket.timeout is not None else starting or crowded

    def _write(self, worker: RemoteWorker) -> None:
        sent_bytes = self._roster.flush(worker)
        if worker.deadline is not None and sent_bytes:
            # The clock starts when the last of the batch has left, but a worker that does not
            # take any more of it is late too.
            timeout = max(ticket.timeout or 0.0 for ticket in worker.sent.values())
            worker.deadline = time.monotonic() + timeout

    def _share_out(self) -> bool:
        """Take a batch back from a worker that is busy, for one that is idle."""
        if not any(worker.is_idle and worker.is_ready for worker in self._roster):
            return False
        for worker in self._roster:
            ticket = worker.recall_one() if worker.is_alive and len(worker.sent) > 1 else None
            if ticket is not None:
                worker.is_slow = True
                self._queue.append(ticket)
                return True
        return False

    # ------------------------------------------------------------------ lateness and death

    def next_deadline(self) -> float | None:
        """Return when `check_deadlines` is due, by `time.monotonic`."""
        times = [
            self._roster.next_deadline(),
            self._next_giving_back(),
            self._ceilings.next_look(),
            None if self.is_idle else self._grows_again,
        ]
        return min((due for due in times if due is not None), default=None)

    def _next_giving_back(self) -> float | None:
        """Return when those that have long batches are to share them; None while nobody is idle."""
        is_short = not self._queue and any(each.is_idle and each.is_ready for each in self._roster)
        if not is_short or not self._long_ones():
            self._idle_since = None
            return None
        if self._idle_since is None:
            self._idle_since = time.monotonic()
        return self._idle_since + IDLE_SECONDS

    def _long_ones(self) -> list[RemoteWorker]:
        """Return the workers whose only batch has calls left, and was not asked for yet."""
        found = []
        for worker in self._roster:
            if worker.is_alive and len(worker.sent) == 1:
                ((number, ticket),) = worker.sent.items()
                mark = worker.slate.mark
                if mark[SENDING] == number != mark[WANTED] and mark[POSITION] < ticket.calls - 1:
                    found.append(worker)
        return found

    def _ask_back(self) -> None:
        """Have idle workers get their share of long batches, once what runs in those has ended."""
        due = self._next_giving_back()
        if due is not None and due <= time.monotonic():
            self._idle_since = None
            for worker in self._long_ones():
                worker.slate.mark[WANTED] = worker.slate.mark[SENDING]

    def check_deadlines(self) -> None:
        """Kill who is late or large, bury who is gone, and share long batches with who is idle."""
        self._ask_back()
        for worker, error in self._ceilings.exceeded():
            self._end_call(worker, error)
        for worker in self._roster.late():
            if worker.is_alive:
                timeout = max((each.timeout or 0.0 for each in worker.sent.values()), default=0.0)
                self._end_call(worker, timed_out(timeout, f"its process ({worker.pid}) was killed"))
            elif worker.is_retired:
                self._kill(worker)  # it was told to end, and has not
            elif worker.reason is None:
                worker.reason = "was killed because it had lost its channel (did a task close it?)"
                self._roster.kill(worker)
            else:
                self._bury(worker, None)

    def _end_call(self, worker: RemoteWorker, error: BaseException) -> None:
        """End what a worker is at by killing it."""
        if worker not in self._roster:  # another was late, or large, with the same call
            return
        for ticket in worker.sent.values():
            self._end(ticket, error)
        self._kill(worker)
        self._stop_what_has_ended()  # what it shared with another

    def _kill(self, worker: RemoteWorker) -> None:
        """Kill a worker and forget it; all that it was sent has ended."""
        for ticket in worker.sent.values():
            self._end(ticket, PoolError("this task's worker was killed for another's sake"))
        self._ceilings.release(worker)
        self._unreported[worker.number] = list(worker.sent)
        self._roster.kill(worker)
        self._roster.forget(worker)

    def _lose(self, worker: RemoteWorker) -> None:
        self._roster.lose(worker)
        self._take_back(worker)

    def _take_back(self, worker: RemoteWorker) -> None:
        """Put what a dead worker had not begun back into the queue."""
        tickets = worker.recall()
        if tickets and not worker.sent:
            tickets[0].misses += 1
            if (
                tickets[0].misses >= self._settings.most_misses
            ):  # perhaps it is too large for any worker
                worker.sent[0] = tickets.pop(0)
        self._requeue(tickets)

    def _bury(self, worker: RemoteWorker, exit_code: int | None) -> None:
        """Forget a worker that has ended; replace it if a task ended it."""
        was_busy = self._charge(worker, death := self._death(worker, exit_code))
        if not worker.is_ready:
            self._miss_birth(death.describe("before it was ready"))
        elif was_busy:
            self._replace()

    def _charge(self, worker: RemoteWorker, death: Death) -> bool:
        """Forget a worker; end the batch that it was running, and return whether there was one."""
        self._take_back(worker)
        position, charged = worker.slate.mark[POSITION], list(worker.sent.values())
        span = max(1, worker.slate.mark[SPAN])
        home().sweep(worker.pid, worker.sent)
        self._ceilings.release(worker)
        self._roster.forget(worker)
        for ticket in charged:
            if not self._is_elsewhere(ticket):
                self._end(ticket, worker_died(death, position, ticket.calls, span))
        return bool(charged)

    def _death(self, worker: RemoteWorker, exit_code: int | None) -> Death:
        return Death(
            pid=worker.pid,
            exit_code=exit_code,
            reason=worker.reason,
            last_words=worker.slate.last_words(),
            is_memory_short=self._memory.has_grown(),
        )

    def _replace(self) -> None:
        """Start a worker in place of one that a task has ended: there will be work for it."""
        try:
            if len(self._roster.alive) < self._settings.width:
                self._roster.start_worker()
        except (OSError, PoolError, NurseryGoneError):
            return  # `dispatch` meets the same, and says so

    def _lose_nursery(self) -> None:
        """Start afresh after the nanny's death, with which all workers die."""
        if not self._roster.drop_nursery():
            return
        for worker in self._roster:
            self._read_rest(worker)
            worker.reason = "ended with the process that watches over the workers, which died,"
            self._charge(worker, self._death(worker, None))
        self._miss_birth("the process that starts workers died")

    def _miss_birth(self, what: str) -> None:
        self._failed_births += 1
        if self._failed_births < MOST_FAILED_BIRTHS:
            return
        self._failed_births = 0
        self._refuse(
            PoolError(
                f"{MOST_FAILED_BIRTHS} worker processes in a row ended before they were ready; "
                f"the last: {what}"
            )
        )

    def _give_up(self, error: BaseException) -> None:
        if self._roster.alive:  # those that are there, if only about to be, have to do
            self._grows_again = time.monotonic() + GROW_SECONDS
            return
        failure = PoolError(f"no worker process could be started: {error}", error=error)
        failure.__cause__ = error
        self._refuse(failure)

    def _refuse(self, error: PoolError) -> None:
        """End what waits, as there can be no more workers, unless there is one at all."""
        if self._roster.can_serve:
            self._grows_again = time.monotonic() + GROW_SECONDS
            return
        for worker in self._roster:
            self._requeue(worker.recall())
        self._end_queue(error)

    def _break(self, error: BaseException) -> None:
        """Refuse everything from here on: the initializer raised."""
        self._broken = initializer_failed(error)
        for worker in self._roster:
            self._requeue(worker.recall())
        self._end_queue(self._broken)

    # ------------------------------------------------------------------ tickets

    def _end(self, ticket: ProcessTicket, ending: Ending) -> None:
        if not ticket.has_ended:
            ticket.has_ended = True
            ticket.parcel = None
            self._endings.append((ticket, ending))
        elif not isinstance(ending, BaseException):
            discard_report(ending)

    def _is_elsewhere(self, ticket: ProcessTicket) -> bool:
        """Return whether another worker is at it, which then decides how it ends."""
        return ticket.is_repeated and any(
            ticket in worker.sent.values() for worker in self._roster if worker.is_alive
        )

    def _end_queue(self, error: BaseException) -> None:
        while self._queue:
            self._end(self._queue.popleft(), error)

    def _requeue(self, tickets: Iterable[ProcessTicket]) -> None:
        """Put tickets that were not begun at the head of the queue, in their order."""
        open_tickets = [
            ticket for ticket in tickets if not ticket.has_ended and not self._is_elsewhere(ticket)
        ]
        if self._broken is None:
            self._queue.extendleft(reversed(open_tickets))
        else:
            for ticket in open_tickets:
                self._end(ticket, self._broken)


def _load_error(frame: Frame) -> BaseException:
    try:
        return unpack_error(pickle.loads(frame.payload))  # noqa: S301 - made by our own worker
    except BaseException as error:  # noqa: BLE001 - loading an exception runs the user's code
        return PoolError(f"an error of a worker could not be loaded: {error}")
