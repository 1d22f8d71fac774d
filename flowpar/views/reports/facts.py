"""All that is to be told of a run, as plain data: to be shown at once, or kept and shown later."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pickle
import platform
import sys
import traceback
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from flowpar.events import Counts, TaskRecord
from flowpar.pools.resources import cpu_count
from flowpar.sampling import Sample
from flowpar.views.reports.totals import Total
from flowpar.views.timelines.spans import History

MOST_KEPT: Final = 1_000
"""Tasks that are kept of a run; of a larger one the first of those that were called."""

_PACKAGES: Final = ("flowpar", "cloudpickle", "networkx", "numpy", "pandas", "polars")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a run when it has ended."""

    program: str
    """What ran it."""
    seconds: float
    status: str
    """done, failed or interrupted."""
    counts: Counts
    records: list[TaskRecord]
    edges: list[tuple[int, int, bool]]
    """From a dependency to a dependent, by their places in `records`, and whether only the order
    matters."""
    history: History
    samples: list[Sample]
    failures: dict[int, str]
    """By place in `records`: the traceback of its error, as text."""
    placement: dict[str, tuple[str, str]]
    """By function: where flowpar put its calls, and why."""
    held_bytes: int
    """The most that its values took together."""
    totals: list[Total]
    """Of each function, of all tasks."""
    environment: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Tasks that are not among the records, as there were too many to keep."""

    @property
    def started(self) -> float:
        """When the run began, in seconds since the epoch."""
        return self.history.began

    def critical_path(self) -> list[int]:
        """Return the chain of tasks that took longest, by their places in `records`."""
        import networkx as nx  # noqa: PLC0415 - slow to import, and only reports need it

        graph = nx.DiGraph()
        end = len(self.records)
        for place, record in enumerate(self.records):
            graph.add_edge(place, end, weight=record.seconds or 0.0)
        for need, dependent, _ in self.edges:
            graph.add_edge(need, dependent, weight=self.records[need].seconds or 0.0)
        return list(nx.dag_longest_path(graph))[:-1] if self.records else []

    def to_bytes(self) -> bytes:
        """Return it in a form that can be kept."""
        keys = [record.key for record in self.records]
        plain = replace(self, history=replace(self.history, key=keys.__getitem__))
        return zlib.compress(pickle.dumps(plain, protocol=5), 1)


def facts_from(data: bytes) -> Facts:
    """Return what `Facts.to_bytes` made.

    Raises
    ------
    ValueError
        If it was made by another version, or is damaged.
    """
    try:
        found = pickle.loads(zlib.decompress(data))  # noqa: S301 - from our own cache
    except Exception as error:
        raise ValueError(f"what was kept of the run cannot be read: {error}") from error
    if not isinstance(found, Facts) or not hasattr(found, "totals"):
        raise ValueError("what was kept of the run is of another version")
    return found


def part_of(history: History, places: Mapping[int, int], total: int) -> History:
    """Return what a history has of some tasks of so many, which are then named by their places.

    For how long the workers were busy stays as it was.
    """
    rows = [
        replace(
            row,
            spans=[s._replace(task=places[s.task]) for s in row.spans if s.task in places],
            trips=row.trips if len(row.trips) <= MOST_KEPT else [],
            busy=row.busy_seconds(),
        )
        for row in history.rows
    ]
    indices = list(places)
    headline = history.headline
    if len(places) < total:
        headline += f"; {len(places):,} of them are told of"
    return replace(
        history, rows=rows, key=lambda place: history.key(indices[place]), headline=headline
    )


def failures_of(errors: Mapping[int, BaseException]) -> dict[int, str]:
    """Return the tracebacks of errors, as text."""
    return {
        index: "".join(traceback.format_exception(type(error), error, error.__traceback__))
        for index, error in errors.items()
    }


def environment() -> dict[str, str]:
    """Return on what a run runs: versions, system, CPUs."""
    found = {
        "Python": platform.python_version(),
        "system": platform.platform(),
        "CPUs": f"{cpu_count()} of {os.cpu_count()}",
        "folder": os.getcwd(),  # noqa: PTH109 - a text
    }
    for name in _PACKAGES:
        if name in sys.modules or name == "flowpar":
            version = _version(name)
            found |= {name: version} if version else {}
    return found


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


named: list[str] = []
"""What is run by the program that runs, if that is there to run others; the last counts."""


def program() -> str:
    """Return what people call the program that runs: its file and arguments."""
    if named:
        return " ".join([named[-1], *sys.argv[1:]])[:200]
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None:
        return "a notebook" if "ipykernel" in sys.modules else "python"
    return " ".join([os.path.basename(file), *sys.argv[1:]])[:200]  # noqa: PTH119 - any text
