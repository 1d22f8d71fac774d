"""Events are frozen; an observer that raises hurts nobody."""

from __future__ import annotations

import dataclasses

import pytest

from flowpar import events
from flowpar.events import Counts, Observers, RunEnded, RunStarted

EVENT = RunStarted(counts=Counts(total=1), time=0.0)


class Keeps:
    def __init__(self):
        self.seen = []

    def on_run_start(self, event):
        self.seen.append(event)

    def on_run_end(self, event):
        self.seen.append(event)


class Raises(Keeps):
    def on_run_start(self, event):
        self.seen.append(event)
        raise ValueError("no")


def test_only_the_methods_that_an_observer_has_are_called():
    observers = Observers([Keeps()], print)
    assert observers.hear("on_run_start")
    assert not observers.hear("on_task_end")
    assert not Observers([], print).hear("on_run_start")


def test_an_observer_that_raises_is_reported_once_and_hears_no_more():
    messages, bad, good = [], Raises(), Keeps()
    observers = Observers([bad, good], messages.append)
    observers.tell("on_run_start", EVENT)
    observers.tell("on_run_start", EVENT)
    observers.tell("on_run_end", RunEnded(counts=Counts(total=1), seconds=0.0, status="done"))
    assert len(messages) == 1
    assert "Raises.on_run_start raised ValueError: no" in messages[0]
    assert len(bad.seen) == 1
    assert len(good.seen) == 3
    assert observers.hear("on_run_end")


def test_nobody_is_asked_for_when_the_only_one_was_dropped():
    observers = Observers([Raises()], lambda message: None)
    observers.tell("on_run_start", EVENT)
    assert not observers.hear("on_run_start")
    assert not observers.hear("on_run_end")


def test_an_interrupt_passes_through_an_observer():
    class Interrupts:
        def on_run_start(self, event):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers([Interrupts()], print).tell("on_run_start", EVENT)


def test_a_hook_that_is_none_is_no_hook():
    class Half(Keeps):
        on_run_end = None

    assert not Observers([Half()], print).hear("on_run_end")


@pytest.mark.parametrize(
    "kind",
    ["TaskRecord", "Counts", "RunStarted", "TaskStarted", "TaskEnded", "Progressed", "RunEnded"],
)
def test_every_event_is_frozen(kind):
    assert getattr(events, kind).__dataclass_params__.frozen


def test_counts_know_what_is_finished():
    counts = Counts(total=10, done=1, cached=2, failed=3, skipped=1, running=2)
    assert counts.finished == 7
    assert dataclasses.asdict(counts)["total"] == 10
