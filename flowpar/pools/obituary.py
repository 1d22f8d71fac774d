"""What is said of a worker that died: how, in which call, and perhaps why."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from flowpar.errors import WorkerDied
from flowpar.pools.resources import read_text
from flowpar.pools.slate import NOWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The facts."""

    pid: int
    exit_code: int | None
    """Below zero: the signal. None if nobody knows."""
    reason: str | None = None
    """What made us kill it, if we did."""
    last_words: str = ""
    """The stacks that the interpreter wrote."""
    is_memory_short: bool = False
    """Whether the kernel killed something for want of memory meanwhile."""

    @property
    def signal(self) -> str | None:
        """The name of the signal that killed it."""
        return signal_name(-self.exit_code) if self.exit_code and self.exit_code < 0 else None

    def describe(self, where: str) -> str:
        """Return a sentence, and what else is known below it."""
        if self.reason is not None:
            how = self.reason
        elif self.signal is not None:
            how = f"was killed by {self.signal}"
        elif self.exit_code is not None:
            how = f"exited with code {self.exit_code}"
        else:
            how = "ended in a way that nobody saw"
        text = f"worker {self.pid} {how} {where}"
        if self.is_memory_short:
            text += (
                ". Memory probably ran out: the kernel's count of processes killed for that grew"
            )
        return f"{text}\n{self.last_words}" if self.last_words else text


def worker_died(death: Death, position: int, calls: int, span: int = 1) -> WorkerDied:
    """Return the error of the batch that a worker was running.

    Parameters
    ----------
    death
        The facts.
    position
        Of the call that was being made, or `NOWHERE` while the batch was being loaded.
    calls
        How many calls the batch has.
    span
        How many calls from `position` on it may have been in.
    """
    if position == NOWHERE:
        where = "while it loaded the function and the arguments"
    else:
        where = "while it ran a task" if calls == 1 else f"in call {position + 1} of {calls}"
        if span > 1:
            where = f"in one of the calls {position + 1} to {position + span} of {calls}"
    guilty = 0 if calls == 1 else None if position == NOWHERE else position
    return WorkerDied(
        death.describe(where),
        pid=death.pid,
        exit_code=death.exit_code,
        signal=death.signal,
        position=guilty,
        span=span,
    )


def signal_name(number: int) -> str:
    """Return the name of a signal.

    Examples
    --------
    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'signal 40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


class MemoryWatch:
    """Tells whether the kernel has killed processes for want of memory since it was last asked."""

    def __init__(self) -> None:
        self._count = _oom_kills()

    def has_grown(self) -> bool:
        """Return whether the count grew."""
        before, self._count = self._count, _oom_kills()
        return self._count > before


def _oom_kills() -> int:
    """Return the count of the whole system plus that of our cgroup, where each can be read."""
    return sum(_count(path) for path in ("/proc/vmstat", *_memory_events()))


def _memory_events() -> list[str]:
    # Under cgroup v2 the third field is the path; inside a container it is often just "/".
    lines = (read_text("/proc/self/cgroup") or "").splitlines()
    paths = [line[3:] for line in lines if line.startswith("0::")]
    return [f"/sys/fs/cgroup{path.rstrip('/')}/memory.events" for path in paths]


def _count(path: str) -> int:
    lines = (read_text(path) or "").splitlines()
    words = [line.split() for line in lines if line.startswith("oom_kill ")]
    return sum(int(count) for _, count in words if count.isdecimal())
