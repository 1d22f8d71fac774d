"""What is raced: overhead of tasks, cached calls, large arrays, and what "auto" chooses."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import works
from compat_rows import compat_rows
from race import Row
from trivial import add, inc, spin, spins_in
from watched import watched_rows

import flowpar
from flowpar import delayed

TASKS = 20_000
FLAT = list(range(1, TASKS + 1))

flow_inc, flow_add, flow_spin = delayed(inc), delayed(add), delayed(spin)


def all_rows(quick):
    """Yield every row; what it needs is made when it is asked for, and closed after the last.

    Parameters
    ----------
    quick
        Whether the slowest are made smaller, as their names then say.
    """
    yield from overhead_rows(TASKS // 4 if quick else TASKS)
    yield from spinning_rows(20 if quick else 40)
    yield from start_rows()
    yield from cached_rows(200 if quick else 1000)
    yield from array_rows(4 if quick else 8)
    yield from argument_rows(20 if quick else 100)
    yield from compat_rows()
    yield from auto_rows()
    yield from watched_rows(2)


def overhead_rows(in_tree):
    """Yield races of work that costs nothing, so many tasks in a tree and 20,000 side by side."""
    import dask
    import joblib

    dask_inc, dask_add = dask.delayed(inc), dask.delayed(add)
    dask_tree, flow_tree = tree(dask_inc, dask_add, in_tree), tree(flow_inc, flow_add, in_tree)
    root = sum(range(1, in_tree // 2 + 1))
    flow_flat = [flow_inc(i) for i in range(TASKS)]
    pool = multiprocessing.Pool(2)
    executor = concurrent.futures.ProcessPoolExecutor(2)
    threads = concurrent.futures.ThreadPoolExecutor(2)
    loky = joblib.Parallel(n_jobs=2)

    yield Row(
        "build a delayed call",
        lambda: [flow_inc(i) for i in range(TASKS)],
        "dask.delayed",
        lambda: [dask_inc(i) for i in range(TASKS)],
        20,
        TASKS,
    )
    for scheduler, budget in (("sync", 20), ("threads", 15), ("processes", 50)):
        yield Row(
            f"tree of {in_tree:,}, {scheduler}",
            ours(flow_tree, scheduler, root),
            "dask",
            checked(functools.partial(dask_tree.compute, scheduler=scheduler, num_workers=2), root),
            budget,
            in_tree,
        )
    for scheduler, peer, theirs, budget in (
        (
            "threads",
            "ThreadPoolExecutor.submit",
            lambda: [f.result() for f in [threads.submit(inc, i) for i in range(TASKS)]],
            None,
        ),
        (
            "processes",
            "joblib (loky)",
            lambda: loky(joblib.delayed(inc)(i) for i in range(TASKS)),
            1,
        ),
        (
            "processes",
            "Pool.apply_async",
            lambda: [r.get() for r in [pool.apply_async(inc, (i,)) for i in range(TASKS)]],
            4,
        ),
        (
            "processes",
            "ProcessPoolExecutor.submit",
            lambda: [f.result() for f in [executor.submit(inc, i) for i in range(TASKS)]],
            None,
        ),
    ):
        yield Row(
            f"flat 20,000, {scheduler}",
            ours(flow_flat, scheduler, FLAT),
            peer,
            checked(theirs, FLAT),
            budget,
            TASKS,
        )
    pool.terminate()
    executor.shutdown()
    threads.shutdown()


def spinning_rows(n):
    """Yield races of n calls that keep two CPUs busy."""
    pool = multiprocessing.Pool(2)
    count = spins_in(0.1)
    spins = ours([flow_spin(count) for _ in range(n)], "processes")
    for peer, theirs, budget in (
        ("the for loop", lambda: [spin(count) for _ in range(n)], 1.9),
        ("Pool.map, chunks of one", lambda: pool.map(spin, [count] * n, chunksize=1), None),
    ):
        yield Row(f"{n} × 100 ms of Python, two processes", spins, peer, theirs, budget)
    pool.terminate()


def tree(leaf, join, n_tasks):
    """Return leaves, half of the tasks, joined two by two, down to one."""
    level = [leaf(i) for i in range(n_tasks // 2)]
    while len(level) > 1:
        pairs = [join(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def ours(target, scheduler, want=None):
    """Return a function that computes the target, and checks it if there is something to want."""
    run = functools.partial(flowpar.compute, target, scheduler=scheduler, workers=2)
    return run if want is None else checked(run, want)


def checked(run, want):
    """Return a function that runs, and checks what comes of it."""

    def side():
        assert run() == want, "a wrong value"

    return side


def start_rows():
    """Yield races from nothing to something that can be used."""
    yield Row("two workers ready", start_ours, "loky", start_loky, 4)
    yield Row("import flowpar", importing("flowpar"), "import dask", importing("dask"), 3)
    yield Row(
        "from flowpar import delayed",
        importing("flowpar; flowpar.delayed"),
        "import dask.delayed",
        importing("dask; dask.delayed"),
        3,
    )


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


def picture(number):
    """Return 8 kB that are others for each number."""
    import numpy as np

    return np.full(1000, number)


def film(number):
    """Return 8 MB that are others for each number."""
    import numpy as np

    return np.full(1_000_000, number)


def cached_rows(n):
    """Yield races of n calls that a cache has not seen, and of n calls that it knows."""
    import joblib

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
        mine, theirs = flowpar.cached(function, cache=home / "flowpar"), memory.cache(function)
        for work, sides, budget in (("new", news, cold), ("known", calls, hit)):
            yield Row(
                f"cached: {what}, {work}",
                sides(mine, count),
                "joblib.Memory",
                sides(theirs, count),
                budget,
                count,
            )
    targets = [flow_inc(i) for i in range(10 * n)]
    yield Row(
        f"graph of {10 * n:,}, up to date",
        lambda: flowpar.compute(targets, cache=home / "flowpar", scheduler="sync"),
        "joblib.Memory, a loop",
        calls(memory.cache(inc), 10 * n),
        None,
        10 * n,
    )
    shutil.rmtree(home)


def array_rows(n):
    """Yield races of n large arrays: made in one task, scaled in another."""
    import dask

    pool = multiprocessing.Pool(2)
    chains = works.chains(n)
    make, scale = dask.delayed(works.make), dask.delayed(works.scale)
    dasks = [scale(make(number)) for number in range(n)]

    def loop():
        return [works.scale(works.make(number)) for number in range(n)]

    for scheduler, peer, theirs, budget in (
        (
            "processes",
            "dask",
            lambda: dask.compute(*dasks, scheduler="processes", num_workers=2),
            8,
        ),
        (
            "processes",
            "Pool.map twice",
            lambda: pool.map(works.scale, pool.map(works.make, range(n))),
            3.5,
        ),
        ("processes", "the for loop", loop, 1),
        ("auto", "the for loop", loop, 1),
    ):
        work = f"{n} × (make 64 MB, scale it), {scheduler}"
        yield Row(work, ours(chains, scheduler), peer, theirs, budget)
    pool.terminate()


def argument_rows(n):
    """Yield races of n calls that take the same 32 MB."""
    import joblib
    import numpy as np

    table = np.arange(4_000_000.0)
    want = [float(number) for number in range(n)]
    pool = multiprocessing.Pool(2)
    item = delayed(works.item)
    calls = [item(table, number) for number in range(n)]

    def loky():
        # A new one each time: joblib 1.6 mixes up the files of two runs of the same, now and then.
        return joblib.Parallel(n_jobs=2)(joblib.delayed(works.item)(table, k) for k in range(n))

    for peer, theirs in (
        ("joblib (loky)", loky),
        ("Pool.starmap", lambda: pool.starmap(works.item, ((table, k) for k in range(n)))),
    ):
        work = f"{n} calls that take the same 32 MB"
        yield Row(work, ours(calls, "processes", want), peer, checked(theirs, want), None)
    pool.terminate()


def auto_rows():
    """Yield races of "auto" against the best of the fixed choices, whichever that is here."""
    server = works.Server()
    for name, graph in works.graphs(server.url).items():
        runs = {
            scheduler: functools.partial(flowpar.compute, graph, scheduler=scheduler)
            for scheduler in ("sync", "threads", "processes")
        }
        best = min(runs, key=lambda scheduler: fastest(runs[scheduler]))
        auto = functools.partial(flowpar.compute, graph, scheduler="auto")
        yield Row(f"auto: {name}", auto, best, runs[best], round(1 / 1.15, 2))
    server.close()
    yield Row(
        "auto: 1,000 cubes",
        lambda: flowpar.compute(works.calls(works.cube, 1000)),
        "1.2 × the for loop + 5 ms",
        cubes_and_a_pause,
        1,
    )


def fastest(run):
    """Return the seconds of the better of two runs: a short one may be spent on starting workers."""
    times = []
    while len(times) < 2 and sum(times) < 0.5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def cubes_and_a_pause():
    start = time.perf_counter()
    assert [works.cube(number) for number in range(1000)]
    until = start + 1.2 * (time.perf_counter() - start) + 0.005
    while time.perf_counter() < until:
        pass
