"""``flowpar run``: a script as Python runs it, or one of the delayed values in it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from flowpar import running
from flowpar.arguments import holds_task
from flowpar.cli.output import (
    DONE,
    WrongUsage,
    data_apart,
    place_to_write,
    refusing,
    show,
)
from flowpar.cli.scripts import (
    Place,
    ScriptFailed,
    add_script,
    as_script,
    check_delayed,
    execute,
    found_of,
    own_cache,
    place_of,
)
from flowpar.events import Counts, RunEnded
from flowpar.pools.failures import text_of
from flowpar.settings import SCHEDULERS, options
from flowpar.views.reports import facts
from flowpar.views.reports.report import check_report


def add_command(commands: Any) -> None:
    """Add the command to those of the parser."""
    text = "run a script, or compute one of its delayed values"
    run = add_script(commands, "run", _run, text)
    run.add_argument("-j", "--workers", type=int, help="how many processes or threads")
    run.add_argument("--scheduler", choices=SCHEDULERS, help="where tasks run")
    run.add_argument("--keep-going", action="store_true", help="finish what does not depend on it")
    run.add_argument("--dashboard", action="store_true", help="show it on a page meanwhile")
    run.add_argument("--report", metavar="FILE", help="write all that there is to tell, as .html")
    run.add_argument("--no-progress", action="store_true", help="no bar")


def _run(given: argparse.Namespace) -> int:
    place = place_of(given.script)
    if place.name is None and given.set:
        raise WrongUsage("--set is for a function that is named, as in FILE.py:NAME")
    ended = _Ended(keeps=given.json)
    with _options_of(given), data_apart(given), _watched(place, ended):
        try:
            text = _compute(given, place, ended)
        except BaseException as error:
            if given.json and not isinstance(error, WrongUsage):
                show(given, ended.of(place, error), "")
            raise
        if given.json or text is not None:
            show(given, ended.of(place), text or "")
    return DONE


def _compute(given: argparse.Namespace, place: Place, ended: _Ended) -> str | None:
    """Run the script, and what is named in it; return what there is to say of that."""
    names = execute(place, given.of_script)
    if place.name is None:
        return None
    earlier = ended.number
    found = found_of(place, names, given.set)
    if ended.number > earlier and not holds_task(found):
        return None  # the function of that name has computed what there is to compute
    check_delayed(place, found)
    with as_script():
        return running.run(found).summary()


@contextlib.contextmanager
def _options_of(given: argparse.Namespace) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with refusing():
            stack.enter_context(options(**own_cache(given), **_given_options(given)))
        yield


def _given_options(given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given.workers is not None:
        found["workers"] = given.workers
    if given.scheduler is not None:
        found["scheduler"] = given.scheduler
    if given.keep_going:
        found["on_error"] = "continue"
    if given.report is not None:
        found["report"] = place_to_write(given.report, [".html"], "a report")
        check_report(found["report"])
    if given.dashboard:
        found["dashboard"] = True
    if given.no_progress:
        found["progress"] = False
    return found


# -------------------------------------------------------------------------- the runs of a script


@contextlib.contextmanager
def _watched(place: Place, ended: _Ended) -> Iterator[None]:
    """Hear of the runs of a script, which are its own in the history, and not the command's."""
    running.watching.append(ended)
    facts.named.append(str(place))
    try:
        yield
    finally:
        running.watching.remove(ended)
        facts.named.pop()


class _Ended:
    """The runs that a script has made, as data; an observer.

    Parameters
    ----------
    keeps
        Whether that is wanted; otherwise they are counted only.
    """

    def __init__(self, *, keeps: bool) -> None:
        self.number = 0
        self._keeps = keeps
        self._runs: list[dict[str, Any]] = []

    def on_run_end(self, event: RunEnded) -> None:
        """Take a run down."""
        self.number += 1
        if not self._keeps:
            return
        known = event.facts(None)
        self._runs.append(
            {
                "status": event.status,
                "seconds": event.seconds,
                "counts": asdict(event.counts),
                "tasks": [asdict(record) for record in known.records],
                "failures": {known.records[at].key: text for at, text in known.failures.items()},
            }
        )

    def of(self, place: Place, error: BaseException | None = None) -> object:
        """Return all of them; if a name was asked for, the last, and the error if it failed."""
        if place.name is None:
            return self._runs
        nothing = {"seconds": 0.0, "counts": asdict(Counts(total=0)), "tasks": [], "failures": {}}
        last = self._runs[-1] if self._runs else {"status": "done", **nothing}
        if error is None:
            return {**last, "error": None}
        cause = error.error if isinstance(error, ScriptFailed) else error
        status = "failed" if last["status"] == "done" else last["status"]
        said = f"{type(cause).__name__}: {text_of(cause)}"
        return {**last, "status": status, "error": said}
