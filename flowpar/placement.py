"""Which pool a function belongs on: measured, not asked.

The first calls of a function are made by a thread and watched, as `trial` says. What they show
decides where the others are made::

    it waits (for a disk, the net, a lock)              ──> many threads
    it computes, and lets other threads compute         ──> threads, as many as CPUs
    it computes, and nobody else can meanwhile          ──> processes, if that pays
    it is over before a process would hear of it, or ───┐
    processes would start for longer than it all takes ─┴─> inline, in the thread that waits
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowpar.pickling import dumps, kept_until_loaded
from flowpar.pools.resources import cpu_count
from flowpar.status import FunctionState
from flowpar.task import Function

TRIAL: Final = "trial"
"""The lane of functions that nothing is known of yet."""

WAITING: Final = "waiting"
"""The lane of functions that wait more than they compute."""

THREADED: Final[dict[str, int | None]] = {"threads": None, WAITING: 32, TRIAL: 32}
"""Lanes of threads, with how many there are if the user does not say; None: as many as CPUs."""

TINY_SECONDS: Final = 5e-6
"""A call that takes less costs more to hand to a thread than to make."""

INLINE_SECONDS: Final = 0.05
"""A longer call would keep the thread that runs everything from its other work."""

KNOWN_AFTER_SECONDS: Final = 0.02
"""What a function was watched for until we believe what we saw."""

WAITS_BELOW: Final = 0.5
"""Share of CPU time in a call's time, below which it waits more than it computes."""

FREE_ABOVE: Final = 0.5
"""Share of its CPU time in which a function lets others compute, above which threads will do."""

START_SECONDS: Final = 0.1
"""Until the first two processes are ready."""

SENDING_SECONDS: Final = 4e-6
"""What a call in a process costs the thread that sends it."""

LEAST_GAIN: Final = 1.1
"""How many times faster processes must promise to be."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the calls of a function go, and why."""

    lane: str
    why: str


class Placement:
    """Names a lane for each function, at first and when something is known of it.

    Lanes are "inline", "trial", "threads", "waiting", "processes", "async" and "given".

    Parameters
    ----------
    scheduler
        "auto", "sync", "threads" or "processes"; or "given", for a pool of the user's.
    workers
        How many processes, or threads, there may be; None: as many as CPUs.
    is_seeded
        Whether tasks have random generators of their own, which threads share.

    Notes
    -----
    A ``pool=`` policy decides, except under "sync", where everything runs inline. Coroutines go to
    the event loop, items and attributes are taken inline. What has a ceiling of memory goes to
    processes, which alone have memory of their own. Under "auto" so does what has a timeout, as
    processes can be stopped, and what plainly touches something that threads share, or if it
    cannot be sent, runs inline; all else is tried.
    """

    def __init__(
        self, scheduler: str, *, workers: int | None = None, is_seeded: bool = False
    ) -> None:
        self.scheduler = scheduler
        self._workers = workers or cpu_count()
        self._is_seeded = is_seeded
        self._travels: dict[int, bool] = {}
        self._shares: dict[int, bool] = {}

    def lane_of(self, function: Function) -> str:
        """Return the lane that a function's tasks are in at first."""
        if self.scheduler == "sync":
            return "inline"
        pool = function.policy.pool
        if pool is None and function.policy.memory is not None and self.scheduler != "given":
            pool = "processes"
        if pool is not None:
            return pool
        if function.is_coroutine or function.is_cheap:
            return "async" if function.is_coroutine else "inline"
        if self.is_free(function):
            return TRIAL
        if self.scheduler != "auto":
            return self.scheduler
        return self._lane_of_choosy(function)

    def _lane_of_choosy(self, function: Function) -> str:
        """Return the lane, under "auto", of what is not to be tried in a thread."""
        if self.travels(function):
            return "processes"
        return "inline" if self._shares_badly(function) else "threads"

    def is_free(self, function: Function) -> bool:
        """Return whether flowpar chose the lane, and may choose another."""
        return (
            self.scheduler == "auto"
            and function.policy.pool is None
            and function.policy.timeout is None
            and function.policy.memory is None
            and not self._is_seeded
            and not function.is_coroutine
            and not function.is_cheap
            and not self._shares_badly(function)
        )

    def _shares_badly(self, function: Function) -> bool:
        found = self._shares.get(function.number)
        if found is None:
            # It reads code, which takes much of the standard library.
            from flowpar.sharing.shareable import shares_badly  # noqa: PLC0415

            found = self._shares[function.number] = bool(shares_badly(function.call))
        return found

    def travels(self, function: Function) -> bool:
        """Return whether a function can be sent to a process."""
        travels = self._travels.get(function.number)
        if travels is None:
            travels = self._travels[function.number] = _travels(function)
        return travels

    def stay(self, function: Function) -> None:
        """Take in that what a function gets, or gives, cannot be sent to a process."""
        self._travels[function.number] = False

    def choose(
        self, state: FunctionState, *, left: int, other_seconds: float, start_seconds: float
    ) -> Choice | None:
        """Return where a function's calls should be made from now on; None: too little is known.

        Parameters
        ----------
        state
            What is known of the function.
        left
            How many of its calls have not been made.
        other_seconds
            How long calls of other functions will take that compute and let nobody else.
        start_seconds
            How long it takes until there are processes.
        """
        timing = state.timing
        each = timing.mean_seconds
        if each is None or not left:
            return None
        if each < TINY_SECONDS and timing.calls > 1:
            return Choice("inline", f"{_time(each)} a call: less than sending it")
        if not (timing.is_looked_at or timing.seconds >= KNOWN_AFTER_SECONDS or left == 1):
            return None
        if timing.free_share > FREE_ABOVE:
            share = f"without the GIL for {timing.free_share:.0%} of {_time(each)} a call"
            return Choice("threads", f"it computes {share}")
        if timing.cpu_share < WAITS_BELOW:
            share = f"{timing.cpu_share:.0%} CPU in {_time(each)} a call"
            return Choice(WAITING, f"it waits: {share}")
        why = self._why_not_processes(state, left * each, other_seconds, start_seconds)
        return self._for_python(each, why)

    @staticmethod
    def _for_python(each: float, why_not_processes: str) -> Choice:
        """Return where calls go that compute, and let nobody else meanwhile."""
        text = f"it holds the GIL in {_time(each)} a call"
        if not why_not_processes:
            return Choice("processes", text)
        lane = "inline" if each < INLINE_SECONDS else "threads"
        return Choice(lane, f"{text}{why_not_processes}")

    def _why_not_processes(
        self, state: FunctionState, here: float, other_seconds: float, start_seconds: float
    ) -> str:
        """Return why processes would not be faster for what takes so long here; empty: they are."""
        each, moving = state.timing.mean_seconds or 0.0, state.timing.moving_seconds
        there = here / each * max(SENDING_SECONDS, (each + moving) / self._workers)
        if here <= LEAST_GAIN * there:
            return f", and moving what it takes and gives {_time(SENDING_SECONDS + moving)}"
        # Others share the cost of the start.
        spared = other_seconds * (1 - 1 / self._workers)
        if here + spared <= LEAST_GAIN * (there + start_seconds):
            return f": {_time(here)} are left, too little to start processes for"
        return "" if self.travels(state.function) else ", and cannot be sent to a process"


def _travels(function: Function) -> bool:
    try:
        with kept_until_loaded():  # for as long as it takes
            dumps(function.as_sent())
    except Exception:  # noqa: BLE001 - pickling runs the user's code; whatever it raises means no
        return False
    return True


def _time(seconds: float) -> str:
    """Return a duration as people write it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError
