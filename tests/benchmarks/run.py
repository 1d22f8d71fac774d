"""Races flowpar against its peers, side by side in one process, and writes ``docs/benchmarks.md``.

The figure of a row is the median of the ratios, pair by pair, with the smallest and the largest.

    uv run --group peers --group ray python tests/benchmarks/run.py [--quick] [--only WORD] [--write]
"""

from __future__ import annotations

import argparse

import memory
import page
import plots
import ray_rows
import rows
import scaling
import simulate
from race import race

from flowpar.pools import shared


def main():
    """Measure, show, and write if asked to."""
    options = parse()
    results = list(races(rows.all_rows(options.quick), options))
    results_of_ray, absent = races_with_ray(options)
    shared.close_all()
    if options.only:
        return
    figures = page.Figures(
        results=results + results_of_ray,
        growth=list(scaling.growth(options.quick)),
        shares=simulate.busy_shares(),
        costs=simulate.costs(10**5 if options.quick else 10**6),
        held=list(memory.held()),
        quick=options.quick,
        absent=absent,
    )
    print(page.below(figures))
    if options.write:
        page.write(figures)
        plots.draw(figures, page.IMAGES)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tasks")
    parser.add_argument("--only", default="", metavar="WORD", help="only rows with this word")
    parser.add_argument("--write", action="store_true", help="write the page and its pictures")
    options = parser.parse_args()
    if options.only and options.write:
        parser.error("a page of some rows only would lose the others: not --only with --write")
    return options


def races(some, options):
    """Yield the results of those rows that are asked for."""
    for row in some:
        if options.only in f"{row.work} {row.peer}":
            result = race(row, 1 if options.quick else 20)
            print(page.line(result.cells()), flush=True)
            yield result


def races_with_ray(options):
    """Return the results of the rows against ray, or none, and why not."""
    if options.only not in {"", "ray"}:
        return [], "not asked for"
    try:
        with ray_rows.started_ray() as ray:
            return list(races(ray_rows.rows(ray, 4 if options.quick else 8), options)), ""
    except Exception as error:  # whatever ray has against this machine, the other rows stay
        return [], f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
