"""Stand-ins for what the scheduler talks to; none needs a process or a clock."""

from __future__ import annotations

import threading

from flowpar.pools.transport import Failure, Report


class RecordingObserver:
    """Keeps every event."""

    def __init__(self):
        self.events = []

    def on_run_start(self, event):
        self.events.append(("run_start", event))

    def on_task_start(self, event):
        self.events.append(("task_start", event))

    def on_task_end(self, event):
        self.events.append(("task_end", event))

    def on_progress(self, event):
        self.events.append(("progress", event))

    def on_run_end(self, event):
        self.events.append(("run_end", event))

    def named(self, name):
        return [event for kind, event in self.events if kind == name]


class RandomOrderPool:
    """Runs calls inline, but tells how they ended in an order of its own choice.

    It tells one when it is full, and all that it still holds a moment after the last call came.
    """

    name = "random"

    def __init__(self, rng, slots=4):
        self.rng = rng
        self.width = self.slots = slots
        self.held = []
        self.lock = threading.Lock()

    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        with self.lock:
            self.held.append((func, args, callback))
            full = len(self.held) == self.slots
        threading.Timer(0.0 if full else 0.001, self.tell_one).start()
        return object()

    def tell_one(self):
        with self.lock:
            func, args, callback = self.held.pop(self.rng.randrange(len(self.held)))
        callback(func(*args))

    def cancel(self, ticket):
        pass

    def close(self):
        pass


def report(batch, *, failed=(), unstarted=(), expanded=(), wanted=None):
    """Return a report in which every task gave its own index, except those named."""
    gone = {*failed, *unstarted, *expanded}
    made = [i for i in batch if i not in unstarted]
    return Report(
        values={i: i for i in batch if i not in gone and (wanted is None or i in wanted)},
        failed={i: Failure(ValueError(i)) for i in failed},
        expanded=dict.fromkeys(expanded),
        unstarted=list(unstarted),
        start=0.0,
        ends=[0.0 for _ in made],
        cpu_seconds={},
        worker="fake",
    )
