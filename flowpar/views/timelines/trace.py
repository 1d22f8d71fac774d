"""A run as a trace in the format of Chrome's, which Perfetto and speedscope open.

Each pool is a process of the trace, each worker a thread of it. What a worker does at the same time
as other things, as an event loop does, is spread over several threads, since on one thread events
may lie within one another and must not overlap in any other way.

Source: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import gzip
import heapq
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from flowpar.events import TaskRecord
from flowpar.sampling import Sample
from flowpar.views.files import checked, draft_of
from flowpar.views.timelines.spans import History, Row, Span, lanes_of

SUFFIXES: Final = (".json", ".json.gz")

_NANO: Final = 1_000_000_000
_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode


class _Event(NamedTuple):
    """Something that took time."""

    start: int
    """In nanoseconds since the run began: whole numbers keep their order."""
    end: int
    pid: int
    tid: int
    what: Span | str
    """A call, or what a batch did meanwhile."""


def write_trace(
    path: str | os.PathLike[str],
    history: History,
    records: Sequence[TaskRecord],
    samples: Sequence[Sample],
) -> Path:
    """Write the trace of a run; see `flowpar.Run.trace`.

    Parameters
    ----------
    path
        Where to.
    history
        Of the run.
    records
        Of its tasks.
    samples
        What its processes used; may be empty.
    """
    file = checked(path, SUFFIXES, "a trace")
    lines = _lines(history, records, samples)
    with draft_of(file) as draft:
        if file.suffix.lower() == ".gz":
            with gzip.open(draft, "wt", compresslevel=5, encoding="utf-8") as text:
                text.writelines(lines)
        else:
            with draft.open("w", encoding="utf-8") as text:
                text.writelines(lines)
    return file


def _lines(
    history: History, records: Sequence[TaskRecord], samples: Sequence[Sample]
) -> Iterator[str]:
    tracks = _Tracks()
    events = [event for row in history.rows for event in _events(row, tracks)]
    events.sort(key=lambda event: event.start)
    counters = list(_counters(samples, tracks, history.began))
    shown = (_shown(event, history, records) for event in events)
    in_order = heapq.merge(counters, shown, key=lambda each: each["ts"])
    about = {"run": history.headline}
    yield f'{{"displayTimeUnit":"ms","otherData":{_ENCODE(about)},"traceEvents":[\n'
    yield ",\n".join(map(_ENCODE, tracks.names))
    for each in in_order:
        yield ",\n" + _ENCODE(each)
    yield "\n]}\n"


class _Tracks:
    """The processes and threads of a trace, numbered from 1, with the events that name them."""

    def __init__(self) -> None:
        self.names: list[dict[str, Any]] = []
        self._pids: dict[str, int] = {}
        self._tids = 0
        self.pid("flowpar")  # so that there is something to show, whatever happened

    def pid(self, name: str) -> int:
        """Return the number of a process, which is named where it is new."""
        if name not in self._pids:
            self._pids[name] = len(self._pids) + 1
            self._name("process_name", self._pids[name], 0, name)
        return self._pids[name]

    def tid(self, pid: int, name: str) -> int:
        """Return the number of a new thread."""
        self._tids += 1
        self._name("thread_name", pid, self._tids, name)
        return self._tids

    def _name(self, what: str, pid: int, tid: int, name: str) -> None:
        # Metadata has no time, but speedscope takes no trace with an event that has none.
        event = {"ph": "M", "ts": 0, "pid": pid, "tid": tid, "name": what, "args": {"name": name}}
        self.names.append(event)


def _events(row: Row, tracks: _Tracks) -> Iterator[_Event]:
    pid = tracks.pid(row.pool)
    yield from _on_threads(pid, row.worker, [(s.start, s.end, s) for s in row.spans], tracks)
    paths: list[tuple[float, float, str]] = []
    paths += [(start, end, "waiting for the worker") for start, end in row.waiting()]
    paths += [(start, end, "on the way") for start, end in row.moving()]
    paths.sort()
    yield from _on_threads(pid, f"{row.worker}: waiting, on the way", paths, tracks)


def _on_threads(
    pid: int, name: str, spans: Sequence[tuple[float, float, Any]], tracks: _Tracks
) -> Iterator[_Event]:
    """Spread what overlaps over several threads."""
    lanes = lanes_of([(start, end) for start, end, _ in spans])
    count = max(lanes, default=-1) + 1
    tids = [tracks.tid(pid, f"{name}, {n + 1}" if n else name) for n in range(count)]
    for (start, end, what), lane in zip(spans, lanes, strict=True):
        yield _Event(round(start * _NANO), round(end * _NANO), pid, tids[lane], what)


def _shown(event: _Event, history: History, records: Sequence[TaskRecord]) -> dict[str, Any]:
    start, end, pid, tid, what = event
    shown: dict[str, Any] = {
        "ph": "X",
        "ts": start / 1000,
        # A nanosecond less: who reads this adds up floats, and what ends where the next begins
        # would overlap by one bit.
        "dur": max(0, end - start - 1) / 1000,
        "pid": pid,
        "tid": tid,
    }
    if isinstance(what, str):
        return {**shown, "name": what, "cat": "batch"}
    return {
        **shown,
        "name": history.functions[what.function],
        "cat": "task",
        "args": _facts(what, records[what.task]),
    }


def _facts(span: Span, record: TaskRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"key": record.key, "status": span.status}
    if span.cpu_seconds is not None:
        facts["cpu_seconds"] = round(span.cpu_seconds, 9)
    if span.status != "repeated":  # what the record says is about the last attempt
        facts |= {"attempts": record.attempts, "bytes": record.bytes, "reason": record.reason}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _counters(samples: Sequence[Sample], tracks: _Tracks, began: float) -> Iterator[dict[str, Any]]:
    if not samples:
        return
    pid = tracks.pid("CPU and memory")
    for sample in samples:
        common = {"ph": "C", "ts": max(0.0, (sample.time - began) * 1e6), "pid": pid, "tid": 0}
        yield {**common, "name": f"CPU of {sample.pid}", "args": {"%": sample.cpu_percent}}
        megabytes = round(sample.memory_bytes / 1e6, 3)
        yield {**common, "name": f"memory of {sample.pid}", "args": {"MB": megabytes}}
