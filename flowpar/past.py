"""Runs that a cache remembers: which there were, and all that is to be told of each."""

from __future__ import annotations

import json
from dataclasses import asdict

from flowpar.caching.store import PastRun, Store
from flowpar.record import Run
from flowpar.views.reports import facts
from flowpar.views.reports.facts import Facts, facts_from, program


def remember(store: Store, run: Run) -> None:
    """Keep what is to be told of a run; if nothing was called in it, only that there was one."""
    counts = run.counts
    was_called = counts.done + counts.failed + counts.skipped > 0
    told = run.facts(facts.MOST_KEPT).to_bytes() if was_called else b""
    past = PastRun(
        number=0,
        started=run.began,
        seconds=run.seconds,
        status=run.status,
        program=program(),
        counts=json.dumps({name: count for name, count in asdict(counts).items() if count}),
    )
    store.put_run(past, told)
    store.commit()


def facts_of(store: Store, number: int) -> Facts | None:
    """Return what is to be told of a run; None: there is no such run, or nothing was called in it.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    data = store.run_facts(number)
    return facts_from(data) if data else None
