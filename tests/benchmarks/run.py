"""Races flowpar against its peers, side by side in one process, and writes ``docs/benchmarks.md``.

Each row runs the two in turn, A B A B …, so that a machine whose speed drifts slows both. The figure
is the median of the ratios, pair by pair, with the smallest and the largest.

    uv run --group peers python tests/benchmarks/run.py [--quick] [--only WORD] [--write]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import gc
import itertools
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import works

import flowpar
from flowpar import delayed
from flowpar.pools import shared

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
TASKS = 20_000


def inc(x):
    return x + 1


def add(a, b):
    return a + b


def spin(seconds):
    """Use a CPU, and hold the GIL, for about so long; the work is the same every time."""
    total = 0
    for number in range(int(seconds * SPINS_PER_SECOND)):
        total += number
    return total


def _calibrate():
    start = time.perf_counter()
    for number in range(2_000_000):
        _ = number + 1
    return 2_000_000 / (time.perf_counter() - start) * 0.7


SPINS_PER_SECOND = _calibrate()

flow_inc, flow_add, flow_spin = delayed(inc), delayed(add), delayed(spin)


def tree(leaf, join, n=TASKS // 2):
    level = [leaf(i) for i in range(n)]
    while len(level) > 1:
        pairs = [join(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


TREE = sum(range(1, TASKS // 2 + 1))
FLAT = list(range(1, TASKS + 1))


@dataclass(frozen=True)
class Row:
    """One race. Each side does all its work when called, and checks what came of it."""

    work: str
    ours: Callable[[], object]
    peer: str
    theirs: Callable[[], object]
    budget: float | None
    """What theirs / ours should be at least."""
    tasks: int = TASKS
    """By how many the times are divided, to be shown in µs a task; 1: shown in ms."""
    rounds: int = 7


def rows(quick):
    import dask
    import joblib

    dask_inc, dask_add = dask.delayed(inc), dask.delayed(add)
    dask_tree = tree(dask_inc, dask_add)
    flow_tree = tree(flow_inc, flow_add)
    flow_flat = [flow_inc(i) for i in range(TASKS)]
    pool = multiprocessing.Pool(2)
    executor = concurrent.futures.ProcessPoolExecutor(2)
    threads = concurrent.futures.ThreadPoolExecutor(2)
    loky = joblib.Parallel(n_jobs=2)

    def check(value, want):
        assert value == want, "a wrong value"

    def ours(target, want, scheduler):
        return lambda: check(flowpar.compute(target, scheduler=scheduler, workers=2), want)

    def dasks(scheduler, n=1):
        return lambda: check(dask_tree.compute(scheduler=scheduler, num_workers=2), TREE)

    yield Row(
        "build a delayed call",
        lambda: [flow_inc(i) for i in range(TASKS)],
        "dask.delayed",
        lambda: [dask_inc(i) for i in range(TASKS)],
        20,
    )
    few = 3 if quick else 7
    yield Row(
        "tree of 20,000, sync", ours(flow_tree, TREE, "sync"), "dask", dasks("sync"), 20, rounds=few
    )
    yield Row(
        "tree of 20,000, threads",
        ours(flow_tree, TREE, "threads"),
        "dask",
        dasks("threads"),
        15,
        rounds=few,
    )
    yield Row(
        "tree of 20,000, processes",
        ours(flow_tree, TREE, "processes"),
        "dask",
        dasks("processes"),
        50,
        rounds=3,
    )
    yield Row(
        "flat 20,000, threads",
        ours(flow_flat, FLAT, "threads"),
        "ThreadPoolExecutor.submit",
        lambda: check([f.result() for f in [threads.submit(inc, i) for i in range(TASKS)]], FLAT),
        None,
    )
    yield Row(
        "flat 20,000, processes",
        ours(flow_flat, FLAT, "processes"),
        "joblib (loky)",
        lambda: check(loky(joblib.delayed(inc)(i) for i in range(TASKS)), FLAT),
        1,
    )
    yield Row(
        "flat 20,000, processes",
        ours(flow_flat, FLAT, "processes"),
        "Pool.apply_async",
        lambda: check([r.get() for r in [pool.apply_async(inc, (i,)) for i in range(TASKS)]], FLAT),
        4,
        rounds=few,
    )
    yield Row(
        "flat 20,000, processes",
        ours(flow_flat, FLAT, "processes"),
        "ProcessPoolExecutor.submit",
        lambda: check([f.result() for f in [executor.submit(inc, i) for i in range(TASKS)]], FLAT),
        None,
        rounds=3,
    )
    spins = [flow_spin(0.1) for _ in range(40)]
    yield Row(
        "40 × 100 ms of Python, two processes",
        lambda: flowpar.compute(spins, scheduler="processes", workers=2),
        "the for loop",
        lambda: [spin(0.1) for _ in range(40)],
        1.9,
        tasks=1,
        rounds=3,
    )
    yield Row(
        "40 × 100 ms of Python, two processes",
        lambda: flowpar.compute(spins, scheduler="processes", workers=2),
        "Pool.map, chunks of one",
        lambda: pool.map(spin, [0.1] * 40, chunksize=1),
        None,
        tasks=1,
        rounds=3,
    )
    yield Row("two workers ready", start_ours, "loky", start_loky, 4, tasks=1, rounds=few)
    yield Row(
        "import flowpar",
        importing("flowpar"),
        "import dask",
        importing("dask"),
        3,
        tasks=1,
    )
    yield Row(
        "from flowpar import delayed",
        importing("flowpar; flowpar.delayed"),
        "import dask.delayed",
        importing("dask; dask.delayed"),
        3,
        tasks=1,
    )
    pool.terminate()
    executor.shutdown()
    threads.shutdown()


def picture(number):
    """Return 8 kB that are others for each number."""
    import numpy as np

    return np.full(1000, number)


def film(number):
    """Return 8 MB that are others for each number."""
    import numpy as np

    return np.full(1_000_000, number)


def cached_rows(quick):
    import joblib

    n, few = 1000, 3 if quick else 7
    home = Path(tempfile.mkdtemp())
    memory = joblib.Memory(home / "joblib", verbose=0)
    numbers = itertools.count()

    def calls(function, count):
        return lambda: [function(number) for number in range(count)]

    def news(function, count):
        return lambda: [function(next(numbers)) for _ in range(count)]

    for function, count, what, cold, hit in (
        (inc, n, "an int", 5, 8),
        (picture, n, "8 kB", 5, 8),
        (film, 20, "8 MB", None, None),
    ):
        ours, theirs = flowpar.cached(function, cache=home / "flowpar"), memory.cache(function)
        for work, sides, budget in (("new", news, cold), ("known", calls, hit)):
            yield Row(
                f"cached: {what}, {work}",
                sides(ours, count),
                "joblib.Memory",
                sides(theirs, count),
                budget,
                count,
                few,
            )
    targets = [flow_inc(i) for i in range(10 * n)]
    theirs = memory.cache(inc)
    yield Row(
        "graph of 10,000, up to date",
        lambda: flowpar.compute(targets, cache=home / "flowpar", scheduler="sync"),
        "joblib.Memory, a loop",
        calls(theirs, 10 * n),
        None,
        10 * n,
        3,
    )
    shutil.rmtree(home)


def auto_rows(quick):
    """Race "auto" against the best of the fixed choices, whichever that is here."""
    server, few = works.Server(), 3 if quick else 7
    for name, graph in works.graphs(server.url).items():

        def run(scheduler, graph=graph):
            return flowpar.compute(graph, scheduler=scheduler)

        times = {}
        for scheduler in ("sync", "threads", "processes"):
            run(scheduler)
            start = time.perf_counter()
            run(scheduler)
            times[scheduler] = time.perf_counter() - start
        best = min(times, key=times.get)
        yield Row(
            f"auto: {name}",
            functools.partial(run, "auto"),
            best,
            functools.partial(run, best),
            round(1 / 1.15, 2),
            1,
            few,
        )
    server.close()
    yield Row(
        "auto: 1,000 cubes",
        lambda: flowpar.compute(works.calls(works.cube, 1000)),
        "1.2 × the for loop + 5 ms",
        cubes_and_a_pause,
        1,
        1,
        few,
    )


def cubes_and_a_pause():
    start = time.perf_counter()
    assert [works.cube(number) for number in range(1000)]
    until = start + 1.2 * (time.perf_counter() - start) + 0.005
    while time.perf_counter() < until:
        pass


def array_rows(quick):
    """Race large arrays: made in one task, scaled in another."""
    import dask

    few = 3 if quick else 7
    ours, pool = works.chains(), multiprocessing.Pool(2)
    make, scale = dask.delayed(works.make), dask.delayed(works.scale)
    theirs = [scale(make(number)) for number in range(8)]

    def run(scheduler):
        return lambda: flowpar.compute(ours, scheduler=scheduler, workers=2)

    what = "8 × (make 64 MB, scale it)"
    for peer, side, budget, rounds in (
        ("dask", lambda: dask.compute(*theirs, scheduler="processes", num_workers=2), 8, 2),
        ("Pool.map twice", lambda: pool.map(works.scale, pool.map(works.make, range(8))), 3.5, few),
        ("the for loop", lambda: [works.scale(works.make(n)) for n in range(8)], 1, few),
    ):
        yield Row(f"{what}, processes", run("processes"), peer, side, budget, 1, rounds)
    yield Row(
        f"{what}, auto",
        run("auto"),
        "the for loop",
        lambda: [works.scale(works.make(n)) for n in range(8)],
        1,
        1,
        few,
    )
    pool.terminate()


def start_ours():
    from flowpar.pools.processes import ProcessPool

    pool = ProcessPool(2)
    both = flowpar.compute([flow_inc(1), flow_inc(2)], scheduler=pool)
    assert both == [2, 3]
    pool.close()


def start_loky():
    import loky

    executor = loky.ProcessPoolExecutor(2)
    assert list(executor.map(inc, [1, 2])) == [2, 3]
    executor.shutdown(kill_workers=True)


def importing(names):
    command = [sys.executable, "-c", f"import {names}"]
    return lambda: subprocess.run(command, check=True)


@dataclass(frozen=True)
class Result:
    """How a race went: seconds of each round."""

    row: Row
    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self):
        return sorted(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    def line(self):
        low, middle, high = self.ratios[0], statistics.median(self.ratios), self.ratios[-1]
        scale, unit = (1e6 / self.row.tasks, "µs") if self.row.tasks > 1 else (1e3, "ms")
        mine, other = (statistics.median(t) * scale for t in (self.ours, self.theirs))
        budget = "" if self.row.budget is None else f"{self.row.budget:g} ×"
        verdict = (
            ""
            if self.row.budget is None
            else ("met" if middle >= self.row.budget else "**missed**")
        )
        return (
            f"| {self.row.work} | {self.row.peer} | {mine:.3g} {unit} | {other:.3g} {unit} "
            f"| **{middle:.3g} ×** ({low:.3g} to {high:.3g}) | {budget} | {verdict} |"
        )


def race(row):
    for _ in range(2):  # not counted; the first round of a peer may change what ours starts from
        row.ours()
        row.theirs()
    ours, theirs = [], []
    for _ in range(row.rounds):
        for side, times in ((row.ours, ours), (row.theirs, theirs)):
            gc.collect()
            start = time.perf_counter()
            side()
            times.append(time.perf_counter() - start)
    return Result(row, ours, theirs)


def growth():
    """Return lines about 10⁵ and 10⁶ tasks: µs a task, and memory, each in a new interpreter."""
    lines = []
    for n in (10**5, 10**6):
        source = (
            "import flowpar, re, time\n"
            f"start = time.perf_counter(); n = {n}\n"
            "calls = flowpar.map(abs, range(n))\n"
            "total = flowpar.delayed(sum)(calls)\n"
            "assert total.compute(scheduler='sync') == n * (n - 1) // 2\n"
            # Of this program: getrusage also counts what the one that started it had.
            "status = open('/proc/self/status').read()\n"
            "print(time.perf_counter() - start, re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, check=True, text=True
        )
        seconds, kilobytes = map(float, out.stdout.split())
        lines.append((n, seconds, kilobytes / 1e3))
    return lines


def machine():
    names = ["dask", "joblib", "loky"]
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if "model name" in line), "?")
    peers = ", ".join(f"{name} {version(name)}" for name in names if _has(name))
    return f"{os.cpu_count()} CPUs ({model}), Python {platform.python_version()}, {peers}"


def _has(name):
    try:
        version(name)
    except Exception:
        return False
    return True


def write(results, grown):
    head = (
        DOCUMENT.read_text().partition("<!-- figures -->")[0]
        if DOCUMENT.exists()
        else "# Benchmarks\n"
    )
    lines = [
        head.rstrip(),
        "",
        "<!-- figures -->",
        "",
        f"Measured on {machine()}, {time.strftime('%Y-%m-%d')}.",
        "",
        "| work | peer | flowpar | peer | how many times faster | budget | |",
        "|---|---|---|---|---|---|---|",
        *(result.line() for result in results),
        "",
        "| tasks, one fan, sync | build and run | a task | peak memory |",
        "|---|---|---|---|",
        *(f"| {n:,} | {s:.2f} s | {s / n * 1e6:.2f} µs | {mb:.0f} MB |" for n, s, mb in grown),
        "",
    ]
    DOCUMENT.write_text("\n".join(lines))


GROUPS = (rows, cached_rows, array_rows, auto_rows)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", default="", help="rows with this word")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    options = parser.parse_args()
    results = []
    for row in itertools.chain(*(each(options.quick) for each in GROUPS)):
        if options.only in f"{row.work} {row.peer}":
            results.append(race(row))
            print(results[-1].line(), flush=True)
    grown = growth() if not options.only else []
    for n, seconds, megabytes in grown:
        print(f"{n:,} tasks: {seconds:.2f} s, {megabytes:.0f} MB")
    if options.write:
        write(results, grown)
    shared.close_all()


if __name__ == "__main__":
    main()
