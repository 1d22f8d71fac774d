"""Worker processes: a crash costs one task, a timeout kills, and nothing is left over."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from flowpar.errors import PoolError
from flowpar.pickling import dump
from flowpar.policy import (
    check_bool,
    check_bytes,
    check_choice,
    check_count,
    check_nice,
    check_number,
)
from flowpar.pools import usage
from flowpar.pools.base import Callback
from flowpar.pools.nursery import MOST_MISSES, Settings
from flowpar.pools.parcel import Packer, one_call
from flowpar.pools.resources import cpu_count
from flowpar.pools.retiring import Retired
from flowpar.pools.steps import Step
from flowpar.pools.switchboard import Cancel, Repeat, Switchboard
from flowpar.pools.ticket import ProcessTicket
from flowpar.pools.transport import Batch, not_picklable
from flowpar.pools.worker import execute

START_METHODS: Final = ("forkserver", "spawn", "fork")

__all__ = ["START_METHODS", "ProcessPool", "ProcessTicket"]


class ProcessPool:
    """Runs batches in worker processes, which it starts when they are needed.

    Any thread may use it. Callbacks come from a thread of the pool's, one after another.

    Parameters
    ----------
    workers
        How many processes; as many as there are CPUs for this process if None.
    start_method
        "forkserver": a small process of its own, which never imports the user's script, forks the
        workers. "spawn": each is a fresh interpreter. "fork": each is forked from this process,
        with all its memory, and with each lock that one of its threads holds at that moment.
    initializer, initargs
        Called first in each worker. If it raises, every call ends with `PoolError`.
    idle_timeout
        Seconds without work after which all processes are ended, until there is work again; None
        keeps them.
    max_tasks_per_worker
        Calls after which a worker ends, and is replaced when there is work; None: it stays. A batch
        counts as all its calls, and is never cut for this, so a worker ends with the batch of its
        last call. With 1, every call by itself has a fresh process.
    max_worker_memory
        Bytes, or a text such as "2 GB": a worker whose resident memory is above that when it has
        reported ends, and is replaced when there is work; None: it stays. What waited there goes to
        another. Linux only.
    nice
        Added to the niceness of the workers, 0 to 19, so that other programs go first.
    pin
        Whether each worker is bound to one CPU of those that this process may use: the one that the
        fewest others are bound to.
    shares_globals
        Whether functions of ``__main__`` share what they set there, the initializer too, as those
        of other modules do; else each has globals of its own, as the parent has them.
    is_single
        Whether a call ends with its worker even before it has begun; else another has it then.

    Attributes
    ----------
    name
        "processes".
    width
        How many calls run at the same time.
    slots
        How many calls are worth handing over at once: one runs and one waits at each worker.
    max_tasks_per_worker
        As given; a run then sends its tasks one by one.
    retired
        How many workers have ended for `max_tasks_per_worker`, and for `max_worker_memory`.

    Raises
    ------
    OptionError
        If an argument is not legal.
    PoolError
        If the system is one where this cannot work, or the initializer cannot be pickled.
    """

    name = "processes"

    def __init__(  # noqa: PLR0913 - all but one by name
        self,
        workers: int | None = None,
        *,
        start_method: str = "forkserver",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        idle_timeout: float | None = 60.0,
        max_tasks_per_worker: int | None = None,
        max_worker_memory: float | str | None = None,
        nice: int = 0,
        pin: bool = False,
        shares_globals: bool = False,
        is_single: bool = False,
    ) -> None:
        if os.name != "posix":
            raise PoolError('process pools need a POSIX system; use scheduler="threads"')
        self.width = cpu_count() if workers is None else check_count("workers", workers, least=1)
        self.slots = 2 * self.width
        if idle_timeout is not None:
            idle_timeout = check_number("idle_timeout", idle_timeout)
        settings = Settings(
            width=self.width,
            start_method=check_choice("start_method", start_method, START_METHODS),
            initializer=_pack_initializer(initializer, tuple(initargs)),
            idle_timeout=idle_timeout,
            max_tasks_per_worker=_checked_tasks(max_tasks_per_worker),
            max_worker_memory=_checked_memory(max_worker_memory),
            nice=check_nice("nice", nice),
            pin=_checked_pin(pin),
            shares_globals=shares_globals,
            most_misses=1 if is_single else MOST_MISSES,
        )
        self.max_tasks_per_worker = settings.max_tasks_per_worker
        self._packer = Packer()
        self._board = Switchboard(settings)
        # Also called at exit, when all threads but the pool's have ended.
        self._finalizer = weakref.finalize(self, self._board.close)

    @property
    def retired(self) -> Retired:
        """How many workers were retired; it goes on counting."""
        return self._board.retired

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._board.is_closed

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> ProcessTicket:
        """Start a call and return a ticket for it.

        Parameters
        ----------
        func
            Any function; for `execute` with one `Batch`, the callback is given the `Report`.
        args, kwds
            Its arguments. They are pickled at once, in the caller's thread.
        callback, error_callback
            Exactly one of them is called, once, with the value or the exception. If the
            arguments cannot be pickled that is here, else in the pool's thread.

        Raises
        ------
        PoolError
            If the pool is closed, or belongs to the process that this one was forked from; or if
            a batch has a ceiling of memory, and this system does not tell who holds how much.
        """
        self._check_owner()
        # What is captured by functions may have changed while nothing ran.
        if self._board.is_idle:
            self._packer.renew()
        # Processes start while we pickle.
        self._board.start()
        batch = args[0] if func is execute else one_call(func, tuple(args), kwds)
        if batch.memory is not None:
            _check_usage("memory=")
        ticket = ProcessTicket(
            callback=callback,
            error_callback=error_callback,
            calls=len(batch.calls),
            timeout=batch.timeout,
            memory=batch.memory,
            wants_report=func is execute,
            room=batch.room,
        )
        error = self._pack(ticket, batch)
        if error is None:
            self._board.post(ticket)
        else:
            ticket.has_ended = True
            ticket.tell(error)
        return ticket

    def gathering(self) -> contextlib.AbstractContextManager[None]:
        """Begin what this thread hands over meanwhile together, at the end of the context.

        That costs less where many calls are quick. One thread at a time.
        """
        return self._board.gathering()

    def renew_functions(self, number: int | None = None) -> None:
        """Pickle functions anew from here on, as what they capture may have changed.

        This happens by itself when a call comes while the pool has nothing to do.

        Parameters
        ----------
        number
            Of the function; None: all.
        """
        if number is None:
            self._packer.renew()
        else:
            self._packer.renew_one(number)

    def forget_function(self, number: int) -> None:
        """Keep the function with this number no more."""
        self._packer.forget(number)

    def cancel(self, ticket: ProcessTicket) -> None:
        """End a call with `Cancelled`; if it runs, its worker is killed."""
        self.cancel_many((ticket,))

    def cancel_many(self, tickets: Iterable[ProcessTicket]) -> None:
        """End many calls at once."""
        self._check_owner()
        open_tickets = tuple(ticket for ticket in tickets if not ticket.has_ended)
        if open_tickets:
            with contextlib.suppress(PoolError):  # closed: they have ended
                self._board.post(Cancel(open_tickets))

    def repeat(self, ticket: ProcessTicket) -> None:
        """Start a call that runs once more, in a worker that is idle; the first to end counts.

        If there is none, or two have it already, nothing happens.
        """
        self._check_owner()
        if not ticket.has_ended and not ticket.is_repeated:
            with contextlib.suppress(PoolError):  # closed: it has ended
                self._board.post(Repeat(ticket))

    def close(self) -> None:
        """End all calls that have not ended with `Cancelled`, and all processes."""
        self._finalizer()

    def pids(self) -> list[int]:
        """Return the process ids of the workers that live."""
        self._check_owner()
        return self._board.pids()

    def steps(self) -> list[tuple[ProcessTicket, Step]]:
        """Return how far calls that run say that they are."""
        return self._board.steps()

    def _pack(self, ticket: ProcessTicket, batch: Batch) -> BaseException | None:
        try:
            ticket.parcel = self._packer.pack(batch)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - pickling runs the user's code
            refusal = not_picklable(batch, error)
            refusal.__cause__ = error
            return refusal
        return None

    def _check_owner(self) -> None:
        if self._board.is_abandoned:
            raise PoolError(
                "this process pool belongs to the process that this one was forked from; "
                "make one here"
            )

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._board.pids())} alive"
        return f"<ProcessPool of {self.width} workers, {state}>"


def _checked_tasks(value: int | None) -> int | None:
    return None if value is None else check_count("max_tasks_per_worker", value, least=1)


def _checked_memory(value: float | str | None) -> float | None:
    if value is None:
        return None
    _check_usage("max_worker_memory=")
    return check_bytes("max_worker_memory", value)


def _check_usage(what: str) -> None:
    if not usage.is_known():
        raise PoolError(
            f"{what} needs a system that tells in /proc how much memory a process holds, which "
            "Linux does, and this one does not"
        )


def _checked_pin(value: bool) -> bool:  # noqa: FBT001 - it is checked here
    if check_bool("pin", value) and not hasattr(os, "sched_setaffinity"):
        raise PoolError("pin=True needs a system that binds processes to CPUs, which Linux does")
    return value


def _pack_initializer(
    initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> bytes | None:
    if initializer is None:
        return None
    try:
        return dump((initializer, args))
    except Exception as error:
        raise PoolError(
            f"the initializer, or its arguments, cannot be pickled: {error}", error=error
        ) from error
