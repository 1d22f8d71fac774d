"""What a run tells those who watch it: frozen events, and who may hear them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

HOOKS: Final = (
    "on_run_start",
    "on_task_start",
    "on_output",
    "on_task_end",
    "on_progress",
    "on_run_end",
)
"""The methods that an observer may have; each is given one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What is known of one task after a run. Times are seconds since the epoch."""

    key: str
    """The task's readable name in this run, such as ``load[3]``."""
    function: str
    status: str
    """waiting, ready, running, done, failed, skipped or cached."""
    reason: str | None
    """Why it ran, failed or did not run; None where that is plain."""
    pool: str | None
    """Where the last attempt ran: inline, threads, processes, async, …"""
    worker: str | None
    """Which thread or process."""
    start: float | None
    end: float | None
    seconds: float | None
    """How long the last attempt took."""
    cpu_seconds: float | None
    """CPU time of its thread; for calls under 0.1 ms, which are not measured, as `seconds`. None:
    not known, as of coroutines, which share a thread, and of what was stopped."""
    bytes: int | None
    """Size of the result as it travelled; None if it did not."""
    attempts: int
    site: str | None
    """The line that built the task."""
    output: str | None = None
    """What it printed and logged, under the option ``capture``."""
    peak_memory: int | None = None
    """The most bytes that its process was seen to have while it ran, under the option ``sample``;
    None: nobody looked meanwhile. In a thread, that is the memory of the whole program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tasks of a run are where."""

    total: int
    done: int = 0
    cached: int = 0
    failed: int = 0
    skipped: int = 0
    running: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            total=self.total + other.total,
            done=self.done + other.done,
            cached=self.cached + other.cached,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
            running=self.running + other.running,
        )

    @property
    def finished(self) -> int:
        """Done, cached, failed and skipped ones together."""
        return self.done + self.cached + self.failed + self.skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The graph is frozen and nothing has run."""

    counts: Counts
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted:
    """A task was handed to a pool."""

    key: str
    function: str
    pool: str
    attempt: int
    """From 1."""
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWrote:
    """What a task printed and logged came, under the option ``capture``."""

    key: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEnded:
    """A task came to its end: done, failed for good, or skipped."""

    record: TaskRecord
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgress:
    """How far a task says that it is that runs now, by `flowpar.progress`."""

    key: str
    done: float
    total: float | None
    """None: nobody knows."""
    desc: str


def _no_facts(most: int | None) -> Any:
    raise LookupError(f"nothing is told of this run, nor of {most} of its tasks")


def _nobody_knows() -> float | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """Where the run stands; given at most ten times a second, and once at the end."""

    counts: Counts
    functions: Callable[[], dict[str, Counts]]
    """The counts of each function by its name, in the order of the graph; made when called."""
    seconds: float
    """Since the run began."""
    facts: Callable[[int | None], Any] = _no_facts
    """All that is to be told of the run so far (`flowpar.views.reports.facts.Facts`), of so
    many of its tasks at most; made when called."""
    steps: Callable[[], list[TaskProgress]] = list
    """How far tasks are that run now and say so; made when called."""
    seconds_left: Callable[[], float | None] = _nobody_knows
    """Until the run ends, about; None: nobody knows. Made when called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """Nothing runs any more."""

    counts: Counts
    seconds: float
    status: str
    """done, failed or interrupted."""
    facts: Callable[[int | None], Any] = _no_facts
    """As of `Progressed`."""


Event = RunStarted | TaskStarted | TaskWrote | TaskEnded | Progressed | RunEnded


class Observers:
    """The observers of one run. One that raises is reported once and not called again.

    Parameters
    ----------
    observers
        Any objects that have at least one of the methods in `HOOKS`.
    report
        Called with a message about an observer that raised.
    """

    def __init__(self, observers: Iterable[object], report: Callable[[str], None]) -> None:
        self._report = report
        self._hooks: dict[str, list[tuple[object, Callable[[Event], object]]]] = {
            hook: [] for hook in HOOKS
        }
        for observer in observers:
            for hook in HOOKS:
                method = getattr(observer, hook, None)
                if method is not None:
                    self._hooks[hook].append((observer, method))

    def hear(self, hook: str) -> bool:
        """Return whether anybody has this method: if not, no event needs to be made."""
        return bool(self._hooks[hook])

    def tell(self, hook: str, event: Event) -> None:
        """Give an event to everybody who has the method."""
        for observer, method in list(self._hooks[hook]):
            try:
                method(event)
            except Exception as error:  # noqa: BLE001 - an observer must not hurt the run
                self._drop(observer)
                self._report(
                    f"{type(observer).__name__}.{hook} raised {type(error).__name__}: {error}; "
                    "it hears no more of this run"
                )

    def _drop(self, observer: object) -> None:
        for hook, hearers in self._hooks.items():
            self._hooks[hook] = [pair for pair in hearers if pair[0] is not observer]
