"""What is raced of pools, executors and Parallel: the same calls through each library's own."""

from __future__ import annotations

import concurrent.futures
import multiprocessing

from race import Row
from trivial import inc

import flowpar

CALLS = 200_000
MESSAGES = 2_000


def compat_rows():
    """Yield races of calls that cost nothing, and of a large argument."""
    import joblib

    many, few = range(CALLS), range(MESSAGES)
    wanted = sum(range(1, CALLS + 1))
    with flowpar.Pool(2) as ours, multiprocessing.Pool(2) as theirs:
        yield Row(
            f"Pool.map, {CALLS:,} calls",
            checked(lambda: ours.map(inc, many), wanted),
            "multiprocessing",
            checked(lambda: theirs.map(inc, many), wanted),
            round(1 / 1.5, 2),
        )
        wanted = sum(range(1, MESSAGES + 1))
        for name, calls in {
            "imap": lambda pool: pool.imap(inc, few),
            "imap_unordered": lambda pool: pool.imap_unordered(inc, few),
            "map, chunksize=1": lambda pool: pool.map(inc, few, chunksize=1),
            "apply_async": lambda pool: [
                result.get() for result in [pool.apply_async(inc, (n,)) for n in few]
            ],
            "apply": lambda pool: [pool.apply(inc, (n,)) for n in few],
        }.items():
            yield Row(
                f"Pool.{name}, {MESSAGES:,} calls",
                checked(lambda calls=calls: calls(ours), wanted),
                "multiprocessing",
                checked(lambda calls=calls: calls(theirs), wanted),
                None,
            )
    with flowpar.Executor(2) as ours, concurrent.futures.ProcessPoolExecutor(2) as theirs:
        yield Row(
            f"Executor.submit, {MESSAGES:,} calls",
            checked(lambda: results(ours.submit, few), wanted),
            "ProcessPoolExecutor",
            checked(lambda: results(theirs.submit, few), wanted),
            None,
        )
    wanted = sum(range(1, 20_001))
    yield Row(
        "Parallel, 20,000 calls",
        checked(
            lambda: flowpar.Parallel(n_jobs=2)(flowpar.delayed(inc)(n) for n in range(20_000)),
            wanted,
        ),
        "joblib (loky)",
        checked(
            lambda: joblib.Parallel(n_jobs=2)(joblib.delayed(inc)(n) for n in range(20_000)),
            wanted,
        ),
        None,
    )


def results(submit, numbers):
    """Return the results of calls that are submitted all at once."""
    return [future.result() for future in [submit(inc, number) for number in numbers]]


def checked(calls, wanted):
    """Return what makes calls, and looks whether their sum is right."""

    def side():
        assert sum(calls()) == wanted

    return side
