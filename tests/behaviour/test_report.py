"""The report of a run, at once or later: one page that tells all, and asks nobody for more."""

import html
import json
import os
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest

import flowpar
from flowpar import delayed
from flowpar.cli import main
from flowpar.past import facts_of
from flowpar.views.reports import facts as facts_module
from flowpar.views.reports.facts import facts_from

pytest.importorskip("bokeh")

HOSTILE = "</script><script>alert('x')</script>&\"'"


@delayed
def load(n):
    return list(range(n))


@delayed
def check(values, bad=3):
    if len(values) == bad:
        print("looked at", values)
        raise ValueError(f"no {HOSTILE}")
    return values


@delayed
def total(*parts):
    return sum(map(sum, parts))


def graph(bad=3):
    checked = [check(load(n), bad) for n in range(6)]
    return [total(*checked[:3]), total(*checked[3:])]


class Page(HTMLParser):
    """What a browser would load, and the text."""

    def __init__(self, path):
        super().__init__()
        self.asks, self.tags, self.text = [], [], ""
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and found.get("src"):
            self.asks.append(found["src"])
        if tag == "link" and found.get("href"):
            self.asks.append(found["href"])

    def handle_data(self, data):
        self.text += data


def failed_run(**options):
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute(graph(), on_error="continue", scheduler="threads", workers=2, **options)
    return caught.value.run


def test_a_report_tells_it_all_and_loads_nothing(tmp_path):
    run = failed_run(capture="failed")
    path = run.report(tmp_path / "run.html")
    page = Page(path)
    assert page.asks == []
    assert "Content-Security-Policy" in page.source
    for word in ("Graph", "Timeline", "Functions", "Failures", "Critical path", "Environment"):
        assert f"<h2>{word}</h2>" in page.source
    assert "looked at [0, 1, 2]" in page.text
    assert "ValueError: no </script>" in page.text
    assert "test_report.py" in page.text  # the line of the user's that raised it
    assert html.escape(HOSTILE) in page.source


def test_hostile_names_stay_text(tmp_path):
    run = flowpar.run(load.options(name=HOSTILE)(3), scheduler="sync")
    page = Page(run.report(tmp_path / "run.html"))
    plain = Page(flowpar.run(load(3), scheduler="sync").report(tmp_path / "plain.html"))
    assert page.tags.count("script") == plain.tags.count("script")
    assert "alert('x')</script>" not in page.source


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_it_is_written_also_if_the_run_fails(tmp_path, scheduler):
    path = tmp_path / "run.html"
    with pytest.raises(ValueError, match="no "):
        flowpar.compute(graph(), scheduler=scheduler, report=path)
    assert "failed" in Page(path).text
    flowpar.compute(graph(99), scheduler=scheduler, report=str(path))
    assert "✓" in Page(path).text


def test_it_is_written_if_the_run_is_interrupted(tmp_path):
    @delayed(pool="inline")
    def interrupt(value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt(load(2)).compute(report=tmp_path / "run.html")
    assert "interrupted" in Page(tmp_path / "run.html").text


@pytest.mark.parametrize("wrong", ["run.txt", 3, "run", "nowhere/run.html"])
def test_what_cannot_be_a_report_is_refused_before_anything_runs(tmp_path, wrong):
    ran = []
    with pytest.raises(flowpar.OptionError):
        delayed(ran.append)(1).compute(scheduler="sync", report=wrong)
    assert ran == []


def test_a_report_that_cannot_be_written_costs_neither_the_values_nor_the_history(cache, tmp_path):
    folder = tmp_path / "going"
    folder.mkdir()

    @delayed
    def spoil(path):
        path.rmdir()
        return 1

    target = spoil(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = target.compute(scheduler="sync", report=folder / "run.html", cache=cache)
    assert value == 1
    assert [run.status for run in cache.store().runs()] == ["done"]


def test_without_bokeh_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bokeh", None)
    with pytest.raises(flowpar.MissingExtra, match=r"flowpar\[report\]"):
        load(1).compute(scheduler="sync", report=tmp_path / "run.html")


def test_odd_runs_have_a_report_too(tmp_path):
    nothing = flowpar.run([], scheduler="sync")
    assert "<h2>Timeline</h2>" in Page(nothing.report(tmp_path / "nothing.html")).source
    cache = flowpar.Cache(tmp_path / "cache")
    for _ in range(2):
        run = flowpar.run(graph(99), scheduler="sync", cache=cache)
    assert run.counts.cached == run.counts.total
    assert "cached" in Page(run.report(tmp_path / "cached.html")).text
    cache.store().close()


# --------------------------------------------------------------------------------------- later


@pytest.fixture
def cache(tmp_path):
    found = flowpar.Cache(tmp_path / "cache")
    yield found
    found.store().close()


def cli(capsys, *arguments):
    capsys.readouterr()  # what tasks have printed
    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_runs_are_remembered_and_told_later(tmp_path, cache, capsys):
    run = failed_run(cache=cache)
    flowpar.compute(load(3), scheduler="sync", cache=cache)  # up to date
    code, out, _ = cli(capsys, "log", "--cache", cache.path, "--json")
    past = json.loads(out)
    assert code == 0
    assert [each["status"] for each in past] == ["done", "failed"]
    assert past[1]["counts"]["failed"] == run.counts.failed == 1
    assert "failed" in cli(capsys, "log", "--cache", cache.path)[1]
    number = past[1]["number"]
    code, out, _ = cli(capsys, "show", number, "--cache", cache.path, "--json")
    shown = json.loads(out)
    assert [task["key"] for task in shown["tasks"]] == [task.key for task in run.tasks]
    assert "ValueError" in shown["failures"]["check[3]"]
    assert "check[3]" in cli(capsys, "show", "--cache", cache.path)[1]  # the last that ran anything
    code, out, _ = cli(capsys, "report", number, "--cache", cache.path, "-o", tmp_path / "r.html")
    assert (code, out.strip()) == (0, str(tmp_path / "r.html"))
    assert "ValueError: no </script>" in Page(tmp_path / "r.html").text
    assert cli(capsys, "trace", "--cache", cache.path, "-o", tmp_path / "t.json")[0] == 0
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} >= {"load", "check"}


def test_what_is_not_there_is_said(tmp_path, cache, capsys):
    flowpar.compute(load(3), scheduler="sync", cache=cache)
    flowpar.compute(load(3), scheduler="sync", cache=cache)
    assert cli(capsys, "show", 99, "--cache", cache.path)[0] == 2
    code, _, err = cli(capsys, "show", 2, "--cache", cache.path)
    assert (code, "up to date" in err) == (2, True)
    assert cli(capsys, "log", "--cache", tmp_path / "none")[0] == 2
    cache.store().execute("update history set facts = ?", (b"rubbish",))
    code, _, err = cli(capsys, "show", 1, "--cache", cache.path)
    assert (code, "cannot be read" in err) == (2, True)


def test_of_a_large_run_what_was_called_is_kept(cache, monkeypatch):
    monkeypatch.setattr(facts_module, "MOST_KEPT", 5)
    flowpar.compute(graph(99)[0], scheduler="sync", cache=cache)
    run = flowpar.run(graph(99), scheduler="sync", cache=cache)
    assert run.counts.cached == 7
    kept = facts_of(cache.store(), cache.store().runs()[0].number)
    called = [task.key for task in run.tasks if task.attempts]
    assert [record.key for record in kept.records] == called[:5]
    assert kept.left_out == 9
    assert kept.counts == run.counts
    assert {kept.records[at].key for at in kept.critical_path()} <= set(called)
    assert {kept.history.key(s.task) for row in kept.history.rows for s in row.spans} == set(
        called[:5]
    )


def test_facts_survive_being_kept():
    run = failed_run()
    whole = run.facts()
    again = facts_from(whole.to_bytes())
    assert again.records == whole.records
    assert again.history.key(0) == whole.history.key(0)
    assert again.critical_path() == whole.critical_path()
    path = [whole.records[at].key for at in whole.critical_path()]
    assert path == [record.key for record in run.critical_path()]


def test_a_nested_run_is_not_remembered(cache):
    @delayed(cache=False)
    def outer():
        return load(3).compute(cache=str(cache.path))

    flowpar.compute(outer(), scheduler="sync")
    assert cache.store().runs() == []


def test_ten_pages_of_one_run_are_alike(tmp_path):
    run = flowpar.run(graph(99), scheduler="sync")
    sizes = {os.path.getsize(run.report(tmp_path / f"{n}.html")) for n in range(3)}
    assert max(sizes) - min(sizes) < 2000
    assert not re.search(
        r"https?://(?!www\.w3\.org)[^\s\"'<]*\.(js|css)\"",
        Page(tmp_path / "0.html").source[:20_000],
    )
