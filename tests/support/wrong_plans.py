"""Plans with a fault each: every one must break a property."""

from __future__ import annotations

from flowpar.planner import Plan
from flowpar.status import READY, WAITING, Status


class StartsTooEarly(Plan):
    """Hands out a task as soon as one of its dependencies is done."""

    def _done(self, indices):
        indices = list(indices)
        super()._done(indices)
        for index in indices:
            for dependent in self.graph.dependents[index]:
                if self.status[dependent] == WAITING and dependent not in self._alias:
                    self._make_ready(dependent)


class ForgetsToSkip(Plan):
    """Lets what depends on a failure wait for ever."""

    def _skip_dependents(self, culprit):
        pass


class KeepsEverything(Plan):
    """Never lets go of a value."""

    def finish(self, batch, report, now):
        held = dict(self.values)
        expanded = super().finish(batch, report, now)
        self.values.update(held)
        return expanded


class RetriesOnceTooOften(Plan):
    """Allows an attempt more than the policy."""

    def fail(self, index, error, now):
        self.attempts[index] -= 1
        again = super().fail(index, error, now)
        self.attempts[index] += 1
        return again


class LosesTasks(Plan):
    """Forgets a task whose worker died."""

    def lose(self, batch, guilty=None):
        super().lose(batch[1:] or batch, guilty)


class RunsTwice(Plan):
    """Hands out a task again that was handed out before."""

    def take(self, lane, share=1):
        batch = super().take(lane, share)
        if batch and self.attempts[batch[-1]] == 1:
            self.status[batch[-1]] = WAITING
            self._make_ready(batch[-1])
        return batch


WRONG = [StartsTooEarly, ForgetsToSkip, KeepsEverything, RetriesOnceTooOften, LosesTasks, RunsTwice]

__all__ = ["READY", "WRONG", "Status"]
