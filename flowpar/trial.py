"""Watches the calls of a function that nothing is known of, while a thread makes them.

Who holds the GIL cannot be asked, but it can be seen: while this thread has it, another one that
computes does so without it; one that wants it sleeps. Short looks of this kind, a millisecond
apart, tell code that computes in Python from code that computes elsewhere; and CPU time beside the
time that has passed tells both from code that waits.
"""

from __future__ import annotations

import time
from typing import Final

from flowpar.gil import Watched
from flowpar.pickling import dump_apart, kept_until_loaded
from flowpar.pools.transport import PLAIN, Batch, Report, references
from flowpar.pools.worker import execute
from flowpar.status import Timing
from flowpar.task import Call

LOOK_EVERY: Final = 0.001

LOOKS: Final = 3
"""After so many, a call that has not ended is known well enough."""

LONG_SECONDS: Final = 0.005
"""A call that takes no longer is not looked at alone, but with others of its kind."""

WEIGHED_FROM: Final = 2e-5
"""Seconds; the values of a quicker call are not weighed."""

MOST_WEIGHED: Final = 3
"""Calls of a function that are."""


class Trial:
    """One batch that is watched.

    Attributes
    ----------
    is_known
        Whether what was seen will do, though the batch may not have ended.
    numbers
        Of the functions that are called.
    imports
        Whether a call was seen to import modules: its time says nothing of others, and until it is
        done no other may start, as modules that import each other cannot be imported by two.
    """

    def __init__(self, batch: Batch, timings: dict[int, Timing]) -> None:
        self.is_known = False
        self.numbers = tuple(timings)
        self._batch = batch
        self._timings = timings
        self._position = [-1]
        self._watched: Watched | None = None
        self.imports = False
        self._begun = self._cpu_begun = self._delayed_begun = 0.0
        self._looks = 0

    def run(self, batch: Batch) -> Report:
        """Make the calls of the batch, in a thread."""
        self._begun, self._cpu_begun = time.perf_counter(), time.thread_time()
        self._watched = watched = Watched()
        self._delayed_begun = watched.delayed_seconds()
        try:
            report = execute(batch, self._position)
        finally:
            self._watched = None
            watched.close()
        self._weigh(report)
        return report

    def look(self) -> None:
        """See what the thread does just now."""
        watched, position = self._watched, self._position[0]
        if watched is None or position < 0 or self.is_known:
            return
        cpu = watched.cpu_seconds()
        if watched.is_importing():
            self.imports = True
            self._begun, self._cpu_begun = time.perf_counter(), cpu or 0.0
            self._delayed_begun = watched.delayed_seconds()
            return
        is_free = watched.computes()
        if cpu is None or is_free is None or self._position[0] != position:
            return
        timing = self._timings[self._batch.calls[position][1]]
        timing.looks += 1
        timing.free_looks += is_free
        self._looks += 1
        now = time.perf_counter()
        if self._looks >= LOOKS and now - self._begun > LONG_SECONDS:
            delayed = watched.delayed_seconds() - self._delayed_begun
            self._note(timing, now - self._begun, cpu - self._cpu_begun + delayed)

    def _note(self, timing: Timing, seconds: float, cpu_seconds: float) -> None:
        """Take what was seen of a call that goes on for what is known of its function."""
        self.is_known = True
        if len(self._batch.calls) == 1:
            timing.running_seconds = seconds
            timing.running_cpu = cpu_seconds

    def _weigh(self, report: Report) -> None:
        """Measure what it would cost to move what the calls took and gave."""
        if report.failed or report.unstarted:
            return  # the next batch will tell
        starts = [report.start, *report.ends]
        for call, start, end in zip(self._batch.calls, starts, report.ends, strict=False):
            timing = self._timings[call[1]]
            if end - start >= WEIGHED_FROM and timing.weighed < MOST_WEIGHED:
                self._weigh_one(timing, call, report.values.get(call[0]))

    def _weigh_one(self, timing: Timing, call: Call, result: object) -> None:
        timing.weighed += 1
        inputs = self._batch.inputs
        timing.weighed_bytes += sum(_bytes(inputs.get(need)) for need in references(call))
        if type(result) in PLAIN:
            return
        begun = time.perf_counter()
        try:
            with kept_until_loaded():  # for as long as it takes
                _, buffers = dump_apart(result)
        except Exception:  # noqa: BLE001 - that it cannot be sent shows when it is
            return
        timing.pickle_seconds += time.perf_counter() - begun
        timing.weighed_bytes += sum(buffer.raw().nbytes for buffer in buffers)


def _bytes(value: object) -> int:
    """Return the size of an array, or of what is like one."""
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0
