"""Tells those who watch a run what happens in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from flowpar.errors import add_note
from flowpar.events import (
    Observers,
    Progressed,
    RunEnded,
    RunStarted,
    TaskEnded,
    TaskProgress,
    TaskStarted,
    TaskWrote,
)
from flowpar.forecast import seconds_left
from flowpar.lanes import Flight, Lane
from flowpar.ledger import CLOCK_OFFSET
from flowpar.planner import Plan
from flowpar.pools.steps import Step, step_of
from flowpar.pools.transport import Report
from flowpar.record import Run

if TYPE_CHECKING:
    from flowpar.views.reports.facts import Facts

TICK: Final = 0.1
"""Seconds between two looks at the progress."""

MOST_TOLD: Final = 50
"""Lines of what a task wrote that its error tells; the last ones."""


class Teller:
    """Makes the events of one run, each only if somebody hears it.

    Parameters
    ----------
    observers
        Who hears.
    run
        Its record.
    plan
        Its plan.
    lanes
        Its pools, by name, as they are opened.
    clock
        Seconds, as `time.perf_counter`.

    Attributes
    ----------
    is_watched
        Whether somebody wants to know how far it is.
    """

    def __init__(
        self,
        observers: Observers,
        run: Run,
        plan: Plan,
        lanes: Mapping[str, Lane],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._observers = observers
        self._run = run
        self._plan = plan
        self._graph = plan.graph
        self._lanes = lanes
        self._clock = clock
        self._begin = self._last_tick = clock()
        if observers.hear("on_task_end"):
            plan.ended = []
        self.is_watched = observers.hear("on_progress")

    def tell_start(self) -> None:
        """Tell that it begins."""
        if self._observers.hear("on_run_start"):
            event = RunStarted(counts=self._plan.counts(), time=self._begin + CLOCK_OFFSET)
            self._observers.tell("on_run_start", event)

    def tell_task_starts(self, lane: Lane, indices: list[int]) -> None:
        """Tell that tasks are handed to a pool."""
        if not self._observers.hear("on_task_start"):
            return
        now = self._clock() + CLOCK_OFFSET
        for index in indices:
            event = TaskStarted(
                key=self._graph.key(index),
                function=self._graph.function(index).name,
                pool=lane.pool.name,
                attempt=self._plan.attempts[index],
                time=now,
            )
            self._observers.tell("on_task_start", event)

    def take_output(self, report: Report) -> None:
        """Tell what tasks have written; of one that failed its error tells it, too."""
        for index, text in report.output.items():
            if index in report.failed:
                lines = "".join(f"\n  {line}" for line in text.splitlines()[-MOST_TOLD:])
                add_note(report.failed[index].error, f"It wrote:{lines}")
        self.tell_output(report.output)

    def tell_output(self, output: Mapping[int, str]) -> None:
        """Tell what tasks have written, now or when their values were computed."""
        self._run.tasks.output.update(output)
        for index, text in output.items():
            event = TaskWrote(key=self._graph.key(index), text=text)
            self._observers.tell("on_output", event)

    def tell_task_ends(self) -> None:
        """Tell of the tasks that have ended since the last time."""
        if not self._plan.ended:
            return
        ended, self._plan.ended = self._plan.ended, []
        for each in ended:
            record = self._run.tasks.record(each.index)
            error = self._plan.errors.get(each.index)
            self._observers.tell("on_task_end", TaskEnded(record=record, error=error))

    def tick(self, *, is_last: bool = False) -> None:
        """Tell how far it is, if that is due."""
        if not self.is_watched:
            return
        now = self._clock()
        if is_last or now - self._last_tick >= TICK:
            self._last_tick = now
            event = Progressed(
                counts=self._plan.counts(),
                functions=self._plan.counts_by_name,
                seconds=now - self._begin,
                facts=self._facts,
                steps=self._steps,
                seconds_left=self._seconds_left,
            )
            self._observers.tell("on_progress", event)

    def tell_end(self) -> None:
        """Tell that nothing runs any more."""
        run = self._run
        if self._observers.hear("on_run_end"):
            event = RunEnded(
                counts=self._plan.counts(), seconds=run.seconds, status=run.status, facts=run.facts
            )
            self._observers.tell("on_run_end", event)

    # ---------------------------------------------------------------- made when asked for

    def _facts(self, most: int | None) -> Facts:
        self._run.seconds = self._clock() - self._begin
        return self._run.facts(most)

    def _seconds_left(self) -> float | None:
        return seconds_left(self._plan, self._lanes.values(), self._begin, self._clock())

    def _steps(self) -> list[TaskProgress]:
        """Return how far tasks say that they are that run now."""
        found = [pair for lane in self._lanes.values() for pair in _steps_in(lane)]
        return [
            TaskProgress(
                key=self._graph.key(flight.indices[step.position]),
                done=step.done,
                total=step.total,
                desc=step.desc,
            )
            for flight, step in found
            if step.position < len(flight.indices)
        ]


def _steps_in(lane: Lane) -> list[tuple[Flight, Step]]:
    if lane.is_local:
        local = [(flight, step_of(flight.batch)) for flight in list(lane.flights)]
        return [(flight, step) for flight, step in local if step is not None]
    if not hasattr(lane.pool, "steps"):
        return []
    flights = {ticket: flight for flight, ticket in list(lane.flights.items())}
    return [(flights[ticket], step) for ticket, step in lane.pool.steps() if ticket in flights]
