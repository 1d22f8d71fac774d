"""Races flowpar against ray, which is started once, on loopback only, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import tempfile

import works
from race import Row
from trivial import inc

import flowpar
from flowpar import delayed

TASKS, THEIR_TASKS = 20_000, 2_000

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray takes 127.0.0.1 for the address by which others reach this machine, and listens there,
    # unless it must not be a cluster; only then it stays on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Also without usage reports it asks the network in which cloud it runs. Nobody listens at the
    # port "discard", so that the question goes nowhere.
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "127.0.0.1,localhost",
}


@contextlib.contextmanager
def started_ray():
    """Import ray and start it with two CPUs; end all its processes in the end.

    Raises
    ------
    ImportError
        If ray is not installed.
    """
    before = dict(os.environ)
    os.environ.update(QUIET)  # some of it is read when ray is imported
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            import ray

            ray.init(
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
        finally:
            os.environ.clear()
            os.environ.update(before)
        try:
            yield ray
        finally:
            ray.shutdown()


def rows(ray, n):
    """Yield the rows against ray.

    Parameters
    ----------
    ray
        The module, started.
    n
        How many arrays.
    """
    ray_inc, make, scale = (ray.remote(function) for function in (inc, works.make, works.scale))
    flat, chains = [delayed(inc)(number) for number in range(TASKS)], works.chains(n)

    def theirs():
        values = ray.get([ray_inc.remote(number) for number in range(THEIR_TASKS)])
        assert values == list(range(1, THEIR_TASKS + 1)), "a wrong value"

    yield Row(
        f"flat {TASKS:,}, processes",
        lambda: flowpar.compute(flat, scheduler="processes", workers=2),
        f"ray, {THEIR_TASKS:,} of them",
        theirs,
        tasks=TASKS,
        their_tasks=THEIR_TASKS,
    )
    yield Row(
        f"{n} × (make 64 MB, scale it), processes",
        lambda: flowpar.compute(chains, scheduler="processes", workers=2),
        "ray",
        lambda: ray.get([scale.remote(make.remote(number)) for number in range(n)]),
        1,
    )
