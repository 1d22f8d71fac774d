"""Calls that cost nothing, or as much as is wanted, in a module that costs workers nothing to import."""

from __future__ import annotations

import time


def inc(x):
    return x + 1


def add(a, b):
    return a + b


def spin(count):
    """Use a CPU, and hold the GIL; the work is the same every time."""
    total = 0
    for number in range(count):
        total += number
    return total


def spins_in(seconds):
    """Return how many rounds `spin` makes in so many seconds on this machine, undisturbed."""
    count, best = 1_000_000, float("inf")
    for _ in range(3):
        start = time.perf_counter()
        spin(count)
        best = min(best, time.perf_counter() - start)
    return int(count * seconds / best)
