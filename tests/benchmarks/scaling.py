"""How time and memory grow with the number of tasks: each figure from an interpreter of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass

SOURCE = """
import re, sys, time
import flowpar
n, scheduler, workers = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
flowpar.delayed(abs)(1).compute(scheduler="sync")  # parts of flowpar are imported on first use
start = time.perf_counter()
total = flowpar.delayed(sum)(flowpar.map(abs, range(n)))
assert total.compute(scheduler=scheduler, workers=workers) == n * (n - 1) // 2
seconds = time.perf_counter() - start
# Of this program: getrusage also counts what the one that started it had.
status = open("/proc/self/status").read()
print(seconds, re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


@dataclass(frozen=True)
class Curve:
    """A way to run the tasks."""

    name: str
    scheduler: str
    workers: int
    largest: int
    """The most tasks that it is tried with."""


CURVES = (
    Curve("sync", "sync", 1, 10**6),
    Curve("threads, 2 workers", "threads", 2, 10**5),
    Curve("processes, 1 worker", "processes", 1, 10**5),
    Curve("processes, 2 workers", "processes", 2, 10**6),
)


@dataclass(frozen=True)
class Growth:
    """What so many tasks took."""

    curve: Curve
    n_tasks: int
    seconds: float
    """To build and to run, the start of workers included, that of flowpar not; the median."""
    peak_bytes: float
    """The most memory that the program had, without its workers."""


def growth(quick):
    """Yield what 10³ to 10⁶ tasks take on each curve, 10⁵ at most if it must be quick."""
    for curve in CURVES:
        n_tasks = 1000
        while n_tasks <= min(curve.largest, 10**5 if quick else 10**6):
            runs = [_run(curve, n_tasks) for _ in range(1 if quick or n_tasks == 10**6 else 3)]
            seconds, peaks = (statistics.median(figures) for figures in zip(*runs, strict=True))
            yield Growth(curve, n_tasks, seconds, peaks)
            n_tasks *= 10


def _run(curve, n_tasks):
    command = [sys.executable, "-c", SOURCE, str(n_tasks), curve.scheduler, str(curve.workers)]
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return float(out[0]), float(out[1]) * 1024
