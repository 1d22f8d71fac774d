"""Who watches a run hears everything once, and can hurt nothing."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from support.fakes import RecordingObserver

import flowpar
from flowpar import FlowparWarning, delayed


def fail():
    raise ValueError("no")


def test_every_task_is_heard_of_once(pool):
    observer = RecordingObserver()
    x = delayed(abs)(-1)
    flowpar.compute(x + 1, delayed(abs)(x), scheduler=pool, observers=observer)
    kinds = [kind for kind, _ in observer.events if kind != "progress"]
    assert kinds[0] == "run_start"
    assert kinds[-1] == "run_end"
    ended = [event.record for event in observer.named("task_end")]
    assert sorted(record.key for record in ended) == ["abs[0]", "abs[1]", "add"]
    assert {record.status for record in ended} == {"done"}
    started = [event.key for event in observer.named("task_start")]
    assert sorted(started) == ["abs[0]", "abs[1]", "add"]
    assert started[0] == "abs[0]"
    assert observer.named("run_start")[0].counts.total == 3
    assert observer.named("run_end")[0].status == "done"
    assert observer.named("run_end")[0].counts.done == 3


def test_records_say_when_where_and_how_often(pool):
    observer = RecordingObserver()
    before = time.time()
    run = flowpar.run(delayed(sorted, retries=1)([2, 1]), scheduler=pool, observers=observer)
    (record,) = run.tasks
    assert observer.named("task_end")[0].record == record
    assert before - 1 < record.start <= record.end < time.time() + 1
    assert record.seconds == pytest.approx(record.end - record.start, abs=1e-6)
    assert record.attempts == 1
    assert record.function == "sorted"
    assert record.worker
    assert record.pool
    assert __file__ in record.site


def test_failures_and_skips_are_heard_of(own):
    observer = RecordingObserver()
    bad = delayed(fail, retries=1)()
    with pytest.raises(flowpar.RunFailed):
        flowpar.compute(delayed(abs)(bad), scheduler=own, observers=[observer], on_error="continue")
    events = {event.record.key: event for event in observer.named("task_end")}
    assert isinstance(events["fail"].error, ValueError)
    assert events["fail"].record.status == "failed"
    assert events["fail"].record.attempts == 2
    assert events["abs"].record.status == "skipped"
    assert events["abs"].error is None
    # What waits for it may have gone along in its batch, and not have been called.
    started = [event.attempt for event in observer.named("task_start") if event.key == "fail"]
    assert started == [1, 2]
    assert observer.named("run_end")[0].status == "failed"


@pytest.mark.parametrize(
    "hook", ["on_run_start", "on_task_start", "on_task_end", "on_progress", "on_run_end"]
)
def test_an_observer_that_raises_is_reported_once_and_the_run_goes_on(own, hook):
    calls = []

    def raises(self, event):
        calls.append(event)
        raise RuntimeError("observer's own fault")

    bad, good = type("Bad", (), {hook: raises})(), RecordingObserver()
    tasks = [delayed(abs)(-i) for i in range(5)]
    with pytest.warns(FlowparWarning, match=f"Bad.{hook} raised RuntimeError") as warned:
        got = flowpar.compute(tasks, scheduler=own, observers=[bad, good])
    assert got == list(range(5))
    assert len(warned) == 1
    assert len(calls) == 1
    assert len(good.named("task_end")) == 5


def test_an_observer_that_changes_nothing_costs_no_values(own):
    class Only:
        def on_run_end(self, event):
            self.status = event.status

    only = Only()
    assert delayed(abs)(-1).compute(scheduler=own, observers=only) == 1
    assert only.status == "done"


def test_an_observer_may_run_something_itself():
    class Nested:
        def on_task_end(self, event):
            self.value = delayed(abs)(-7).compute(scheduler="sync")

    nested = Nested()
    assert delayed(abs)(-1).compute(scheduler="threads", observers=nested) == 1
    assert nested.value == 7


def test_an_interrupted_run_says_so():
    class Interrupts(RecordingObserver):
        def on_task_end(self, event):
            raise KeyboardInterrupt

    observer = Interrupts()
    with pytest.raises(KeyboardInterrupt) as caught:
        flowpar.compute(delayed(abs)(-1), scheduler="sync", observers=observer)
    assert observer.named("run_end")[0].status == "interrupted"
    assert caught.value.run.finished == {"abs": 1}


@pytest.mark.parametrize("how", ["closed", "full", "none"])
def test_where_nobody_can_be_told_the_values_come_all_the_same(how, tmp_path):
    script = """
import sys, io, warnings
import flowpar

class Clumsy:
    def on_task_end(self, event):
        raise ValueError("clumsy")

how = sys.argv[1]
sys.stderr = None if how == "none" else open("/dev/full", "w", buffering=1)
if how == "closed":
    sys.stderr.close()
for action in ("default", "error"):
    warnings.simplefilter(action)
    value = flowpar.delayed(abs)(-1).compute(observers=[Clumsy()], progress=True)
    assert value == 1
sys.stderr = None  # or Python itself complains, at its end
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
