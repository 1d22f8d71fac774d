"""The page docs/benchmarks.md: what people wrote above its mark stays, all below it is made here."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from race import Result
from scaling import Growth

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
IMAGES = DOCUMENT.parent / "images"
MARK = "<!-- figures -->"

BELOW = """\
{mark}

<!-- All below is written by tests/benchmarks/run.py --write -->

## Against its peers

Measured on {machine}, {date}.{remarks}

![Bars of how many times faster flowpar is than each peer, on a logarithmic axis, with a tick where the
budget is; those that miss it are hatched](images/ratios.svg)

{results}

## As tasks grow in number

So many calls of `abs`, and one task that adds up what they return: the time to build and to run it, the
start of the workers included, and the most memory that the program had, without its workers. Each figure
comes from an interpreter of its own, after flowpar's imports.

![Curves of the time a task takes over the number of tasks, one for each scheduler](images/scaling.svg)

{growth}

## Where the one loop saturates

The real plan, workers that only pretend, and a virtual clock that goes on by what the plan really takes
(`python tests/benchmarks/simulate.py`). The share of time in which workers are busy:

![Curves of the share of time in which workers are busy over their number, one for each length of
task](images/busy.svg)

{shares}

What the plan takes for a task: {costs} tasks. Pickling and calling are not in it.

## Memory

How many values a serial run holds at most, in flowpar's order and in that of `dask.order`, on graphs made by
dask's own collections (`python tests/benchmarks/memory.py`):

{held}
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All that the page shows."""

    results: list[Result]
    growth: list[Growth]
    shares: dict[tuple[int, float], float]
    """The share of time in which workers are busy, by their number and the ms a task takes."""
    costs: dict[int, float]
    """Seconds that the plan takes for a task, by the number of tasks."""
    held: list[list[object]]
    """The lines of memory's table."""
    quick: bool
    absent: str
    """Why there are no rows of ray; empty if there are."""


def table(head, lines):
    """Return a table in Markdown; the head's cells are parted by bars, as in ``"work | peer"``."""
    rule = "|---" * (head.count("|") + 1) + "|"
    return "\n".join([f"| {head} |", rule, *map(line, lines)])


def line(cells):
    """Return a line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def write(figures):
    """Write what is below the mark anew."""
    above = DOCUMENT.read_text().partition(MARK)[0]
    DOCUMENT.write_text(above + below(figures))


def below(figures):
    """Return the page from its mark on."""
    remarks = []
    if figures.quick:
        remarks.append(
            "Made with `--quick`: fewer tasks, and in slow rows one round, which proves little."
        )
    if figures.absent:
        remarks.append(f"ray has no rows: {figures.absent}.")
    return BELOW.format(
        mark=MARK,
        machine=machine(),
        date=time.strftime("%Y-%m-%d"),
        remarks="".join(f"\n{remark}" for remark in remarks),
        results=table(
            "work | peer | flowpar | peer | how many times faster | rounds | budget | ",
            (result.cells() for result in figures.results),
        ),
        growth=growth_table(figures.growth),
        shares=shares_table(figures.shares),
        costs=", ".join(f"{s * 1e6:.2f} µs with {n:,}" for n, s in figures.costs.items()),
        held=table("graph | tasks | held at most, flowpar | dask.order", figures.held),
    )


def growth_table(growth):
    """Return µs a task by the number of tasks, and each curve's peak memory at its largest."""
    counts = sorted({each.n_tasks for each in growth})
    curves = list(dict.fromkeys(each.curve for each in growth))
    found = {(each.curve, each.n_tasks): each for each in growth}

    def cells(curve):
        largest = max(n for n in counts if (curve, n) in found)
        times = (
            f"{found[curve, n].seconds / n * 1e6:.3g} µs" if (curve, n) in found else ""
            for n in counts
        )
        peak = found[curve, largest].peak_bytes / 1e6
        return [curve.name, *times, f"{peak:.0f} MB at {largest:,}"]

    head = " | ".join(["a task of", *(f"{n:,}" for n in counts), "peak memory"])
    return table(head, map(cells, curves))


def shares_table(shares):
    """Return the busy share, a line for each number of workers, a column for each length."""
    lengths = list(dict.fromkeys(ms for _, ms in shares))
    return table(
        " | ".join(["workers", *(f"{ms:g} ms a task" for ms in lengths)]),
        (
            [f"{n:,}", *(f"{shares[n, ms]:.0%}" for ms in lengths)]
            for n in dict.fromkeys(n for n, _ in shares)
        ),
    )


def machine():
    """Return what was measured with, as words."""
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if "model name" in line), "?")
    peers = ", ".join(filter(None, map(_named, ("dask", "joblib", "loky", "ray"))))
    return f"{os.cpu_count()} CPUs ({model}), Python {platform.python_version()}, {peers}"


def _named(name):
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""
