"""`flowpar.progress` in a task moves a bar of its own, wherever the task runs."""

import asyncio
import time

import pytest

import flowpar
from flowpar import delayed


class Watcher:
    """Keeps what is told of how far tasks are."""

    def __init__(self, enough=None):
        self.seen = []
        self._enough = enough

    def on_progress(self, event):
        self.seen += event.steps()
        if self._enough is not None and self.seen:
            self._enough.touch()

    def keys(self):
        return {step.key for step in self.seen}


def waits_until_seen(path, *, limit=30.0):
    """Go through items until somebody has seen how far it is."""
    end = time.monotonic() + limit
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return path.exists()


def slow(path, total=8):
    with flowpar.progress(total=total, desc="rows") as steps:
        steps.update(3)
        return waits_until_seen(path)


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_what_a_task_says_is_seen_while_it_runs(pool, tmp_path):
    watcher = Watcher(tmp_path / "seen")
    assert delayed(slow)(tmp_path / "seen").compute(scheduler=pool, observers=[watcher])
    assert set(watcher.seen) == {
        flowpar.events.TaskProgress(key="slow", done=3, total=8, desc="rows")
    }


def test_coroutines_are_told_apart(tmp_path):
    @delayed
    async def wait(n):
        flowpar.progress(range(n), desc=f"of {n}")
        assert await asyncio.to_thread(waits_until_seen, tmp_path / "seen")

    class Both(Watcher):
        def on_progress(self, event):
            super().on_progress(event)
            if {step.desc for step in self.seen} == {"of 5", "of 7"}:
                (tmp_path / "seen").touch()

    watcher = Both()
    flowpar.compute([wait(5), wait(7)], observers=[watcher])
    assert {(step.key, step.total) for step in watcher.seen} == {("wait[0]", 5), ("wait[1]", 7)}


def test_each_call_of_a_batch_has_its_own(tmp_path):
    @delayed
    def quick(n):
        return sum(flowpar.progress(range(n)))

    @delayed
    def late(sums, path):
        flowpar.progress(total=1)
        waits_until_seen(path)
        return sum(sums)

    watcher = Watcher(tmp_path / "seen")
    total = late([quick(n) for n in range(200)], tmp_path / "seen")
    assert total.compute(scheduler="processes", observers=[watcher]) == sum(
        n * (n - 1) // 2 for n in range(200)
    )
    assert watcher.seen[-1].key == "late"


def test_nothing_is_left_when_tasks_end(tmp_path):
    from flowpar.pools import steps

    flowpar.compute([delayed(slow)(tmp_path) for _ in range(4)], scheduler="threads")
    assert not steps._here


def test_a_thread_that_outlives_its_task_writes_nothing(tmp_path):
    import threading

    from flowpar.pools import steps

    go, left = threading.Event(), []

    @delayed
    def leave():
        bar = flowpar.progress(total=10)

        def later():
            go.wait(10)
            for _ in range(5):
                bar.update()
                bar._due = 0.0

        left.append(threading.Thread(target=later))
        left[0].start()

    leave().compute(scheduler="threads")
    go.set()
    left[0].join()
    assert not steps._here


@pytest.mark.parametrize("pool", ["threads", "processes", "sync"])
def test_values_and_errors_are_as_without(pool):
    def gathers(items):
        return list(flowpar.progress(items, desc="items"))

    def fails(items):
        for item in flowpar.progress(items):
            raise ValueError(item)

    assert delayed(gathers)([1, 2]).compute(scheduler=pool) == [1, 2]
    with pytest.raises(ValueError, match="7"):
        delayed(fails)([7]).compute(scheduler=pool)


def test_a_run_inside_of_a_task_does_not_spoil_what_the_task_says(tmp_path):
    def outer(path):
        flowpar.progress(total=2, desc="outer")
        delayed(lambda: flowpar.progress(range(9), desc="inner"))().compute()
        return waits_until_seen(path)

    watcher = Watcher(tmp_path / "seen")
    assert delayed(outer)(tmp_path / "seen").compute(scheduler="processes", observers=[watcher])
    assert {step.desc for step in watcher.seen} == {"outer"}


def test_outside_of_tasks_it_counts():
    steps = flowpar.progress(iter("abc"))
    assert (list(steps), steps.n, steps.total) == (["a", "b", "c"], 3, None)
    assert len(flowpar.progress([1, 2])) == 2


def test_odd_texts_and_numbers_do_no_harm(tmp_path):
    def odd(path):
        steps = flowpar.progress(total=float("inf"), desc="ü\x1b[2J\n" * 500)
        steps.update(-3)
        return waits_until_seen(path)

    watcher = Watcher(tmp_path / "seen")
    assert delayed(odd)(tmp_path / "seen").compute(scheduler="processes", observers=[watcher])
    assert watcher.seen[0].done in {0, -3}
