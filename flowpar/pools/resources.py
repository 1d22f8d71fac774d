"""What this process may use: CPUs, and how many threads the libraries of a worker may start."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Final

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
"""Environment variables that libraries with threads of their own read when they are imported."""


def cpu_count() -> int:
    """Return how many CPUs this process may use: by its affinity and the quotas of its cgroups."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on every system
        allowed = os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def thread_limits(workers: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables that divide the CPUs between workers.

    What the user has set stays as it is, and is not among what is returned.

    Examples
    --------
    >>> limits = thread_limits(10_000, {"MKL_NUM_THREADS": "4"})
    >>> limits["OMP_NUM_THREADS"], "MKL_NUM_THREADS" in limits
    ('1', False)
    """
    each = str(max(1, cpu_count() // max(1, workers)))
    return {name: each for name in THREAD_VARIABLES if name not in environ}


def user_limits_threads() -> bool:
    """Return whether the user has said how many threads libraries may start."""
    return any(name in os.environ for name in THREAD_VARIABLES)


def cgroup_quota(
    membership: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup"
) -> float | None:
    """Return the smallest CPU quota of the cgroups that this process is in; None if unlimited.

    Parameters
    ----------
    membership
        File that names the cgroups.
    mount
        Where the cgroup file systems are.

    Notes
    -----
    A container often sees the path of its cgroup as it is outside, and only the end of it inside;
    so every folder from the path up to the mount is asked. Source: cgroups(7), ``cpu.max`` of
    Documentation/admin-guide/cgroup-v2.rst, ``cpu.cfs_quota_us`` of scheduler/sched-bwc.rst.
    """
    text = read_text(membership)
    quotas = [
        quota
        for line in (text or "").splitlines()
        for folder in _folders(line, mount)
        if (quota := _quota(folder)) is not None
    ]
    return min(quotas, default=None)


def _folders(line: str, mount: str) -> Iterator[str]:
    """Yield the folders that may limit the CPU for one line of the membership file."""
    parts = line.split(":", 2)
    if len(parts) != 3:  # noqa: PLR2004 - hierarchy, controllers, path
        return
    _, controllers, path = parts
    if not controllers:
        roots = [mount, posixpath.join(mount, "unified")]
    elif "cpu" in controllers.split(","):
        roots = [posixpath.join(mount, controllers), posixpath.join(mount, "cpu")]
    else:
        return
    for root in roots:
        relative = posixpath.normpath(path).strip("/")
        while relative:
            yield posixpath.join(root, relative)
            relative = posixpath.dirname(relative)
        yield root


def _quota(folder: str) -> float | None:
    second = read_text(posixpath.join(folder, "cpu.max"))
    if second is not None:
        quota, _, period = second.strip().partition(" ")
        return _ratio(quota, period)
    return _ratio(
        read_text(posixpath.join(folder, "cpu.cfs_quota_us")),
        read_text(posixpath.join(folder, "cpu.cfs_period_us")),
    )


def _ratio(quota: str | None, period: str | None) -> float | None:
    try:
        ratio = float(quota or "") / float(period or "")
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return ratio if ratio > 0 else None  # -1 is no limit


def read_text(path: str) -> str | None:
    """Return what a small file of the system says; None if it cannot be read."""
    try:
        # pathlib takes milliseconds to import, which each new pool would wait for.
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return None
