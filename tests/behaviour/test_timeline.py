"""Timelines and traces of real runs: files, axes, and what becomes of odd runs."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ET

import pytest

import flowpar
from flowpar import delayed

pytest.importorskip("matplotlib")
pytest.importorskip("bokeh")


def nap(x, seconds=0.001):
    time.sleep(seconds)
    return x


def fail():
    raise ValueError("as it should")


async def wait(x):
    await asyncio.sleep(0.05)
    return x


def finished(*targets, **options):
    """Return the record of a run, however it ended."""
    try:
        return flowpar.run(*targets, on_error="continue", **options)
    except flowpar.RunFailed as error:
        return error.run


def mixed():
    naps = [delayed(nap, pool="threads")(n) for n in range(6)]
    cubes = [delayed(pow, pool="processes")(n, 3) for n in naps]
    return finished(cubes, [delayed(wait)(n) for n in range(30)], delayed(fail, retries=1)())


@pytest.fixture(scope="module")
def run():
    return mixed()


def trace_of(run, path):
    return json.loads(run.trace(path / "trace.json").read_text())["traceEvents"]


# ------------------------------------------------------------------------------------ files

MAGIC = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".html": b"<!DOCTYPE html>"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_says_what_is_written(run, tmp_path, suffix):
    path = tmp_path / f"timeline{suffix}"
    assert run.timeline(path) == path
    assert path.read_bytes().lstrip().startswith(MAGIC[suffix])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_another_suffix_is_an_error_that_names_those_there_are(run, tmp_path):
    with pytest.raises(flowpar.OptionError, match=r"\.svg, \.png, \.pdf, \.html"):
        run.timeline(tmp_path / "timeline.jpeg")
    with pytest.raises(flowpar.OptionError, match=r"\.json, \.json\.gz"):
        run.trace(tmp_path / "trace.gz")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(run, tmp_path):
    for write in (run.timeline, run.trace):
        suffix = ".svg" if write == run.timeline else ".json"
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            write(tmp_path / "nowhere" / f"file{suffix}")


def test_a_file_that_is_there_stays_whole_when_drawing_fails(run, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "timeline.svg"
    path.write_text("as it was")
    monkeypatch.setattr(Figure, "savefig", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.timeline(path)
    assert path.read_text() == "as it was"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_svg_says_in_words_what_it_shows(run, tmp_path):
    text = run.timeline(tmp_path / "t.svg").read_text()
    ET.fromstring(text)
    for word in ("nap", "pow", "wait", "failed", "tried again later", "seconds since the run"):
        assert word in text


def test_a_page_needs_no_network(run, tmp_path):
    text = run.timeline(tmp_path / "t.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=", text)
    assert "nap[3]" in text
    assert '"output_backend":"webgl"' not in text


@pytest.mark.parametrize(("library", "suffix", "extra"), [
    ("matplotlib", ".svg", "plot"), ("bokeh", ".html", "report"),
])  # fmt: skip
def test_without_the_library_the_error_says_what_to_install(
    run, tmp_path, monkeypatch, library, suffix, extra
):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(flowpar.MissingExtra, match=rf'pip install "flowpar\[{extra}\]"') as caught:
        run.timeline(tmp_path / f"t{suffix}")
    assert caught.value.extra == extra
    if library == "matplotlib":
        with pytest.raises(flowpar.MissingExtra, match="plot"):
            run.timeline()


# ------------------------------------------------------------------------------------- axes


def test_axes_are_made_or_taken(run):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    before = plt.get_fignums()
    ax = run.timeline()
    assert len(plt.get_fignums()) == len(before) + 1
    plt.close(ax.figure)
    mine = Figure().add_subplot()
    assert run.timeline(ax=mine) is mine
    assert plt.get_fignums() == before
    assert [text.get_text() for text in mine.get_legend().get_texts()][:2] == ["nap", "pow"]
    assert len(mine.get_yticks()) == len(run._history().rows)


def test_a_path_touches_nothing_of_pyplots(run, tmp_path):
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    run.timeline(tmp_path / "t.png")
    assert plt.get_fignums() == before


def test_a_path_and_axes_together_are_an_error(run, tmp_path):
    from matplotlib.figure import Figure

    with pytest.raises(flowpar.OptionError, match="give `path` or `ax`"):
        run.timeline(tmp_path / "t.png", ax=Figure().add_subplot())


# --------------------------------------------------------------------------------- odd runs


def assert_all_views(run, path):
    for suffix in MAGIC:
        run.timeline(path / f"t{suffix}")
    events = trace_of(run, path)
    assert events
    return events


def test_a_run_of_nothing(tmp_path):
    assert_all_views(flowpar.run(), tmp_path)


def test_a_run_in_which_all_is_cached(tmp_path):
    targets = [delayed(nap)(n) for n in range(3)]
    flowpar.run(targets, cache=tmp_path / "cache")
    run = flowpar.run(targets, cache=tmp_path / "cache")
    assert run.counts.cached == 3
    events = assert_all_views(run, tmp_path)
    assert {event["ph"] for event in events} == {"M"}


def test_a_run_in_which_all_fails(tmp_path):
    run = finished([delayed(fail)() for _ in range(3)], scheduler="sync")
    events = assert_all_views(run, tmp_path)
    failed = [event["args"] for event in events if event.get("cat") == "task"]
    assert [each["reason"] for each in failed] == ["ValueError: as it should"] * 3


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_what_was_running_at_an_interrupt_is_seen(tmp_path, scheduler):
    targets = [delayed(nap)(1), delayed(nap)(2, 4)]  # no longer: a thread cannot be stopped
    main = threading.main_thread().ident
    threading.Timer(1.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as caught:
        flowpar.run(targets, scheduler=scheduler, workers=2)
    events = assert_all_views(caught.value.run, tmp_path)
    cut = [event for event in events if event.get("args", {}).get("status") == "running"]
    # If both were sent in one batch, the first stands for it.
    assert {event["args"]["key"] for event in cut} & {"nap[0]", "nap[1]"}


def test_a_worker_that_dies_and_a_call_that_is_too_late(tmp_path):
    target = delayed(os._exit, retries=1)(3)
    late = delayed(nap, timeout=0.2, pool="processes")(1, 30)
    events = assert_all_views(finished(target, late, scheduler="processes", workers=2), tmp_path)
    statuses = sorted(event["args"]["status"] for event in events if event.get("cat") == "task")
    assert statuses == ["failed", "failed", "repeated"]


@pytest.mark.limit(120)
def test_thousands_at_once_on_one_event_loop(tmp_path):
    run = flowpar.run([delayed(wait)(n) for n in range(2_000)])
    assert_all_views(run, tmp_path)
    (row,) = run._history().rows
    assert len(row.spans) == 2_000
    assert "areas: how many at once" in (tmp_path / "t.svg").read_text()


def test_nested_and_dynamic_runs(tmp_path):
    @delayed
    def countdown(n):
        return n if n == 0 else countdown(n - 1)

    inner = delayed(lambda: flowpar.compute([delayed(nap)(n) for n in range(3)]))
    run = flowpar.run(countdown(20), inner(), scheduler="threads")
    events = assert_all_views(run, tmp_path)
    assert sum(event.get("cat") == "task" for event in events) == 22


def test_names_that_mean_something_to_somebody_else(tmp_path):
    names = ["_hidden", "$x^", "</script><b>&", "\x07 bell", "x" * 500, "图"]
    run = flowpar.run([delayed(nap, name=name)(1) for name in names], scheduler="sync")
    assert_all_views(run, tmp_path)
    text = (tmp_path / "t.svg").read_text()
    assert "_hidden" in text
    assert "$x^" in text
    assert "</script><b>" not in (tmp_path / "t.html").read_text()


def test_many_functions_share_the_last_colour(tmp_path):
    run = flowpar.run([delayed(nap, name=f"f{n}")(n) for n in range(30)], scheduler="sync")
    assert "18 other functions" in run.timeline(tmp_path / "t.svg").read_text()


@pytest.mark.limit(120)
def test_a_large_run_makes_files_of_a_size_to_be_opened(tmp_path):
    parts = [delayed(abs)(n) for n in range(40_000)]
    run = flowpar.run(delayed(len)(parts), scheduler="threads", workers=4)
    assert run.timeline(tmp_path / "t.svg").stat().st_size < 2e6
    assert run.timeline(tmp_path / "t.html").stat().st_size < 3e6
    assert sum(event.get("cat") == "task" for event in trace_of(run, tmp_path)) == 40_001


@pytest.mark.parametrize(("most", "which"), [(60_000, "each"), (100, "the 100 that took longest")])
def test_a_page_says_from_where_on_calls_are_seen_one_by_one(tmp_path, monkeypatch, most, which):
    from flowpar.views.timelines import detail as timeline_detail

    monkeypatch.setattr(timeline_detail, "MOST_CALLS", most)
    run = flowpar.run([delayed(abs)(n) for n in range(5_000)], scheduler="sync")
    text = run.timeline(tmp_path / "t.html").read_text()
    assert re.search(rf"are added up, [^\"]*; zoom in to [^\"]* to see {which}\"", text)


# ----------------------------------------------------------------------------------- traces


def test_a_trace_has_the_form_that_its_readers_ask_for(run, tmp_path):
    events = trace_of(run, tmp_path)
    for event in events:
        assert {"ph", "ts", "pid", "tid", "name"} <= event.keys()
        assert event["ph"] in {"M", "X", "C"}
        assert event["ts"] >= 0
        assert event["ph"] != "X" or event["dur"] >= 0
    timed = [event["ts"] for event in events if event["ph"] != "M"]
    assert timed == sorted(timed)
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    pids = {e["pid"] for e in events if e["name"] == "process_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= named
    assert {e["pid"] for e in events if e["ph"] == "X"} <= pids


def test_on_one_thread_of_a_trace_events_do_not_overlap(run, tmp_path):
    ends = {}
    for event in trace_of(run, tmp_path):
        if event["ph"] == "X":
            track = (event["pid"], event["tid"])
            # As readers add it up, in floats.
            assert event["ts"] > ends.get(track, -1.0) or event["dur"] == 0
            ends[track] = event["ts"] + event["dur"]


def test_a_trace_says_of_each_call_what_the_record_says(run, tmp_path):
    events = [event for event in trace_of(run, tmp_path) if event.get("cat") == "task"]
    last = {e["args"]["key"]: e for e in events if e["args"]["status"] != "repeated"}
    assert set(last) == {record.key for record in run.tasks}
    for record in run.tasks:
        event = last[record.key]
        assert event["name"] == record.function
        assert event["args"]["status"] == record.status
        assert event["args"]["attempts"] == record.attempts
        assert event["args"].get("reason") == record.reason
        assert event["dur"] == pytest.approx(1e6 * record.seconds, abs=1)


def test_a_trace_may_be_packed(run, tmp_path):
    plain = run.trace(tmp_path / "trace.json").read_text()
    assert gzip.decompress(run.trace(tmp_path / "trace.json.gz").read_bytes()).decode() == plain


def test_samples_become_counters(tmp_path):
    pytest.importorskip("psutil")
    run = flowpar.run(delayed(nap)(1, 0.3), scheduler="threads", sample=0.05)
    counters = [event for event in trace_of(run, tmp_path) if event["ph"] == "C"]
    assert len(counters) == 2 * len(run.samples) > 0
    assert {key for event in counters for key in event["args"]} == {"%", "MB"}
