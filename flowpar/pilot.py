"""Moves the functions of a run to where their calls are made best, as that becomes known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from flowpar.experience import recall, remember, remember_times
from flowpar.placement import START_SECONDS, TRIAL, WAITING, Choice, Placement
from flowpar.planner import Plan
from flowpar.pools.transport import Batch
from flowpar.status import FunctionState, Timing
from flowpar.task import Function
from flowpar.trial import Trial

_PLACES: Final = {"inline": "the thread that runs the graph", WAITING: "many threads"}
"""Lanes, as people are told of them."""


class Pilot:
    """Watches trials, and changes lanes; for the thread that runs the scheduler.

    Parameters
    ----------
    plan
        Of the run.
    placement
        Decides.
    has_processes
        Returns whether there are worker processes already.

    Attributes
    ----------
    choices
        By name of a function: where its calls are made, and why.
    """

    def __init__(self, plan: Plan, placement: Placement, has_processes: Callable[[], bool]) -> None:
        self.choices: dict[str, Choice] = {}
        self._plan = plan
        self._placement = placement
        self._has_processes = has_processes
        self._trials: list[Trial] = []
        self._next_look: dict[int, int] = {}
        self._misled: set[int] = set()
        """Functions, by number, whose last call took the time of its imports."""

    @property
    def is_watching(self) -> bool:
        """Whether there is a trial that is not known well enough."""
        return bool(self._trials)

    def begin(self, batch: Batch) -> Trial:
        """Return what watches a batch of the trial lane while it runs."""
        timings = {number: self._plan.functions[number].timing for number in batch.functions}
        trial = Trial(batch, timings)
        self._trials.append(trial)
        return trial

    def end(self, trial: Trial) -> None:
        """Watch a trial no more; its report comes next."""
        if trial in self._trials:
            self._trials.remove(trial)
        if trial.imports:
            self._misled.update(trial.numbers)

    def watch(self) -> list[Trial]:
        """Look at what is tried; return what has become known that still runs."""
        for trial in self._trials:
            trial.look()
        known = [trial for trial in self._trials if trial.is_known]
        for trial in known:
            self._trials.remove(trial)
            for number in trial.numbers:
                self._choose(self._plan.functions[number], is_running=True)
        return known

    def consider(self, indices: Iterable[int], *, is_surprised: bool = False) -> None:
        """Look at the functions of some tasks again; at each the less often the more is known.

        Parameters
        ----------
        indices
            The tasks.
        is_surprised
            Whether their calls took longer than was known of them: then that is forgotten.
        """
        for state in {id(state): state for state in map(self._plan.state, indices)}.values():
            number = state.function.number
            if is_surprised:
                state.timing.forget_times()
                self._next_look[number] = 1
            if number in self._misled:
                self._misled.discard(number)
                state.timing.forget_times()
            if state.timing.calls >= self._next_look.get(number, 1):
                self._next_look[number] = 2 * state.timing.calls
                self._choose(state)

    def close(self, tell: Callable[[Function, Timing], None] | None) -> None:
        """Remember what this run has shown, and tell who remembers it for longer."""
        for state in self._plan.functions.values():
            if self._placement.is_free(state.function):
                remember(state.function, state.timing)
                if tell is not None:
                    tell(state.function, state.timing.habits())
            elif state.timing.calls:
                remember_times(state.function, state.timing)
                if tell is not None:
                    tell(state.function, recall(state.function))

    def _choose(self, state: FunctionState, *, is_running: bool = False) -> None:
        if not self._placement.is_free(state.function):
            return
        choice = self._placement.choose(
            state,
            left=state.left,
            other_seconds=sum(
                other.left * (other.timing.mean_seconds or 0.0)
                for other in self._plan.functions.values()
                if other is not state and other.lane in {TRIAL, "inline", "processes"}
            ),
            start_seconds=0.0 if self._has_processes() else START_SECONDS,
        )
        # Inline it would run beside the call that is tried, where Python code had better be alone.
        if choice is None or (is_running and choice.lane == "inline"):
            return
        self.choices[state.function.name] = choice
        state.timing.placed = f"{_PLACES.get(choice.lane, choice.lane)}: {choice.why}"
        if choice.lane != state.lane:
            self._plan.change_lane(state.function, choice.lane)
