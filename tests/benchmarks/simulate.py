"""Where the one loop saturates: the real plan, workers that only pretend, and a virtual clock.

The clock goes on by what the plan really takes (measured), and by what pretended tasks would take. So
the share of time in which workers are busy falls where the loop cannot feed them any more.

    python tests/benchmarks/simulate.py [--largest 10000000]
"""

from __future__ import annotations

import argparse
import heapq
import time

from flowpar import delayed
from flowpar.graph import Graph
from flowpar.planner import Plan
from flowpar.pools.transport import Report

SENDING = 0.0001
"""Seconds between the end of a batch and the report of it, measured on pipes of this machine."""


@delayed
def work(number):
    return number


@delayed
def total(numbers):
    return sum(numbers)


class Simulation:
    """One run of many equal tasks on pretended workers.

    Parameters
    ----------
    n_tasks, n_workers
        How many.
    seconds
        How long each task takes.
    """

    def __init__(self, n_tasks, n_workers, seconds):
        targets = [work(number) for number in range(n_tasks)]
        self._plan = Plan(Graph([total(targets)]), lane_of=lambda _: "one")
        self._workers = n_workers
        self._seconds = seconds
        self._now = 0.0
        self._busy = 0.0
        self.loop_seconds = 0.0

    def run(self):
        """Run it; return the share of time in which workers were busy."""
        flying, slots, number = [], 2 * self._workers, 0
        free_at = [0.0] * self._workers
        heapq.heapify(free_at)
        while self._plan.is_active:
            while len(flying) < slots:
                begun = time.perf_counter()
                share = max(1, self._plan.n_ready("one") // (2 * slots))
                batch = self._plan.take("one", share)
                self._spend(begun)
                if not batch:
                    break
                start = max(self._now, heapq.heappop(free_at))
                end = start + SENDING + len(batch) * self._seconds
                self._busy += len(batch) * self._seconds
                heapq.heappush(free_at, end)
                number += 1
                heapq.heappush(flying, (end, number, start, batch))
            end, _, start, batch = heapq.heappop(flying)
            self._now = max(self._now, end)
            values = dict.fromkeys(self._plan.wanted(batch), 0)
            ends = [start + (at + 1) * self._seconds for at in range(len(batch))]
            report = Report(values, {}, {}, [], start, ends, {}, "pretended")
            begun = time.perf_counter()
            self._plan.finish(batch, report, self._now)
            self._spend(begun)
        return self._busy / (self._now * self._workers)

    def _spend(self, begun):
        spent = time.perf_counter() - begun
        self._now += spent
        self.loop_seconds += spent


def busy_shares():
    """Return the share of time in which workers are busy, by their number and the ms a task takes."""
    return {
        (workers, ms): Simulation(max(20_000, 20 * workers), workers, ms / 1e3).run()
        for workers in (1, 4, 16, 64, 256, 1024, 4096)
        for ms in (0.1, 1, 10, 100)
    }


def costs(largest):
    """Return the seconds that the plan takes for a task, by the number of tasks."""
    found, n_tasks = {}, 1000
    while n_tasks <= largest:
        simulation = Simulation(n_tasks, 64, 0.001)
        simulation.run()
        found[n_tasks] = simulation.loop_seconds / n_tasks
        n_tasks *= 10
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=1_000_000)
    largest = parser.parse_args().largest
    for (workers, ms), share in busy_shares().items():
        print(f"{workers} workers, {ms:g} ms a task: {share:.0%} busy", flush=True)
    for n_tasks, seconds in costs(largest).items():
        print(f"{n_tasks:,} tasks: the loop takes {seconds * 1e6:.2f} µs a task")


if __name__ == "__main__":
    main()
