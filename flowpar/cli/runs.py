"""``flowpar log``, ``show``, ``report`` and ``trace``: the runs that a cache remembers."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from flowpar.caching.store import PastRun, Store
from flowpar.cli.caches import opened
from flowpar.cli.output import DONE, WrongUsage, place_to_write, refusing, show
from flowpar.past import facts_of
from flowpar.views.reports.facts import Facts

_LATEST: Final = 1e11
"""Seconds since the epoch that still have a date, in the year 5138."""


def add_commands(commands: Any) -> None:
    """Add the commands to those of the parser."""
    _add(commands, "log", _log, "the runs that the cache remembers, newest first")
    _add_of_run(commands, "show", _show, "how a run went: its tasks, and why they ran")
    report = _add_of_run(commands, "report", _report, "write the report of a run")
    report.add_argument("-o", "--output", default="run.html", help="file (run.html)")
    trace = _add_of_run(
        commands, "trace", _trace, "write what ran when, for Perfetto or speedscope"
    )
    trace.add_argument("-o", "--output", default="trace.json", help="file (trace.json)")


def _add(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(do=do)
    parser.add_argument("--cache", default=".flowpar", help="its directory (.flowpar)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    return parser


def _add_of_run(
    commands: Any, name: str, do: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = _add(commands, name, do, text)
    parser.add_argument(
        "run", nargs="?", type=int, help="its number, as log tells; the last in which a task ran"
    )
    return parser


def _log(given: argparse.Namespace) -> int:
    runs = [_mended(run) for run in opened(given.cache).store().runs()]
    plain = [{**run._asdict(), "counts": _counts(run)} for run in runs]
    lines = [f"{'run':>5}  {'started':<19} {'seconds':>9}  {'status':<11} {'tasks':<34} program"]
    lines += [
        f"{run.number:>5}  {_when(run.started)} {run.seconds:>9.2f}  {run.status:<11} "
        f"{_in_words(_counts(run)):<34} {run.program}"
        for run in runs
    ]
    show(given, plain, "\n".join(lines) if runs else "no run is remembered")
    return DONE


def _mended(run: PastRun) -> PastRun:
    """Return a run whose row is damaged so that it can be shown among the others."""
    return run._replace(
        started=_number(run.started),
        seconds=_number(run.seconds),
        status=str(run.status),
        program=str(run.program),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < _LATEST else 0.0


def _show(given: argparse.Namespace) -> int:
    facts = _facts(given)
    plain = {
        "program": facts.program,
        "started": facts.started,
        "seconds": facts.seconds,
        "status": facts.status,
        "counts": asdict(facts.counts),
        "placement": facts.placement,
        "environment": facts.environment,
        "tasks": [asdict(record) for record in facts.records],
        "failures": {facts.records[at].key: text for at, text in facts.failures.items()},
        "left_out": facts.left_out,
    }
    show(given, plain, "\n".join(_lines(facts)))
    return DONE


def _lines(facts: Facts) -> list[str]:
    counts = {name: count for name, count in asdict(facts.counts).items() if count}
    lines = [
        f"{facts.program}: {facts.status} in {facts.seconds:.2f} s, {_in_words(counts)}",
        f"{'task':<32} {'status':<8} {'seconds':>9}  {'where':<24} why",
    ]
    lines += [
        f"{record.key[:32]:<32} {record.status:<8} "
        f"{'-' if record.seconds is None else f'{record.seconds:.4f}':>9}  "
        f"{(record.worker or '-')[:24]:<24} {record.reason or ''}".rstrip()
        for record in facts.records
    ]
    if facts.left_out:
        lines.append(f"and {facts.left_out:,} tasks that were not called, or were too many to keep")
    return lines


def _report(given: argparse.Namespace) -> int:
    from flowpar.views.reports.report import write_report  # noqa: PLC0415 - brings bokeh

    file = place_to_write(given.output, [".html"], "a report")
    with refusing():
        write_report(_facts(given), file)
    return _written(given)


def _trace(given: argparse.Namespace) -> int:
    from flowpar.views.timelines.trace import SUFFIXES, write_trace  # noqa: PLC0415 - few write one

    file = place_to_write(given.output, SUFFIXES, "a trace")
    facts = _facts(given)
    with refusing():
        write_trace(file, facts.history, facts.records, facts.samples)
    return _written(given)


def _written(given: argparse.Namespace) -> int:
    show(given, {"path": given.output}, given.output)
    return DONE


def _facts(given: argparse.Namespace) -> Facts:
    store = opened(given.cache).store()
    number = given.run if given.run is not None else _last(store)
    try:
        facts = facts_of(store, number)
    except ValueError as error:
        raise WrongUsage(f"run {number}: {error}") from None
    if facts is None:
        known = {run.number for run in store.runs()}
        raise WrongUsage(
            f"in run {number} no task ran: all was up to date"
            if number in known
            else f"there is no run {number}: `flowpar log` tells which there are"
        )
    return facts


def _last(store: Store) -> int:
    for run in store.runs():
        if _counts(run).keys() & {"done", "failed", "skipped"}:
            return run.number
    raise WrongUsage("no run is remembered in which a task ran")


def _counts(run: PastRun) -> dict[str, int]:
    try:
        found = json.loads(run.counts)
    except (TypeError, ValueError):  # the row is damaged
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: count for name, count in found.items() if type(count) is int}


def _in_words(counts: dict[str, int]) -> str:
    total = counts.get("total", 0)
    parts = [f"{count:,} {name}" for name, count in counts.items() if name != "total" and count]
    return f"{total:,}: {', '.join(parts)}" if parts else f"{total:,}"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
