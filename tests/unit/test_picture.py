"""Pictures: what stands in them, with and without Graphviz, and what happens when it fails."""

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

from flowpar.errors import FlowparError, FlowparWarning, MissingExtra, OptionError
from flowpar.views import picture
from flowpar.views.drawing import TIMES, drawing_of
from flowpar.views.layered import _spread, to_svg
from flowpar.views.picture import draw

DOT = shutil.which("dot")
needs_dot = pytest.mark.skipif(DOT is None, reason="needs the program dot of Graphviz")
SVG = "{http://www.w3.org/2000/svg}"

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
    monkeypatch.setattr(picture.shutil, "which", lambda name: None)


@pytest.fixture(params=["built in", pytest.param("dot", marks=needs_dot)])
def engine(request, monkeypatch):
    """Run a test with each engine."""
    if request.param == "built in":
        monkeypatch.setattr(picture.shutil, "which", lambda name: None)
    return request.param


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
    # dot writes spaces as no-break ones.
    return [text.replace("\xa0", " ") for text in texts(svg)]


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
        (label,) = texts(to_svg(drawing_of(graph_of(key), None, collapse=False)))
        assert label.count("\n") == 0
        if key.isprintable():
            assert label == key

    @needs_dot
    @pytest.mark.slow
    @given(keys=st.lists(st.text(max_size=30), max_size=20))
    def test_dot_shows_what_the_built_in_engine_shows(self, keys):
        drawing = drawing_of(graph_of(*keys), None, collapse=False)
        by_dot = picture._svg(drawing, DOT, 30.0)
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
        words = shown_texts(draw(graph, statuses={1: "failed"}).svg)
        assert "done · threads · 250 ms" in words
        assert "failed · threads · 250 ms" in words
        assert "#c62828" in draw(graph, statuses={1: "failed"}).svg

    def test_order_without_data_is_dashed(self, engine):
        graph = graph_of("a", "b", edges=[(0, 1)])
        assert "dasharray" not in draw(graph).svg
        graph.edges[0, 1]["order_only"] = True
        assert "dasharray" in draw(graph).svg

    def test_functions_have_colours_of_their_own(self):
        drawing = drawing_of(graph_of("a[0]", "b[0]", "a[1]"), None, collapse=False)
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
            ["source", f"work0 {TIMES}300", "sink", f"{TIMES}300", f"{TIMES}300"]
        )

    def test_many_edges_count_too(self):
        graph = graph_of(*(f"f[{i}]" for i in range(50)))
        graph.add_edges_from((u, v) for u in range(50) for v in range(u))
        assert len(drawing_of(graph, None, collapse="auto").boxes) == 1

    def test_as_asked(self, no_dot):
        assert len(texts(draw(fan(400), collapse=False).svg)) == 402
        assert f"work0 {TIMES}3" in texts(draw(fan(3), collapse=True).svg)

    def test_a_tree_of_one_function_points_at_itself(self, engine):
        graph = graph_of("add[0]", "add[1]", "add[2]", edges=[(0, 2), (1, 2)])
        assert sorted(texts(draw(graph, collapse=True).svg)) == [f"add {TIMES}3", f"{TIMES}2"]

    def test_an_arrow_to_its_own_box_has_room(self, no_dot):
        edges = [(0, 1), (0, 2), (1, 1), (2, 2)]
        svg = draw(graph_of("source", "left", "right", edges=edges), collapse=False).svg
        root = ET.fromstring(svg)
        loops = [p for p in root.iter(f"{SVG}path") if "L" not in p.get("d") and "C" in p.get("d")]
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
        assert words == [f"f {TIMES}3", "2 done, 1 failed · processes · 6.0 s"]

    def test_other_words_are_refused(self):
        with pytest.raises(OptionError, match="collapse takes True, False or 'auto'"):
            draw(fan(3), collapse="maybe")


class TestFiles:
    @pytest.mark.parametrize("suffix", [".svg", ".dot", ".SVG"])
    def test_never_need_dot(self, tmp_path, no_dot, suffix):
        file = tmp_path / f"graph{suffix}"
        drawn = draw(fan(5), file)
        assert "work0[3]" in file.read_text()
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

    @pytest.mark.parametrize("name", ["graph", "graph.txt", "graph.svgz"])
    def test_other_suffixes_are_refused_before_drawing(self, tmp_path, name):
        with pytest.raises(OptionError, match=r"one of \.svg, \.png, \.pdf, \.dot"):
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
        monkeypatch.setattr(picture, "DOT_TIMEOUT", 0.5)
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
        svg = to_svg(drawing_of(graph, None, collapse=False))
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
        boxes = boxes_of(to_svg(drawing_of(graph, None, collapse=False)))
        to_the_right = all(boxes[str(u)][2] < boxes[str(v)][0] for u, v in edges)
        downwards = all(boxes[str(u)][3] < boxes[str(v)][1] for u, v in edges)
        assert to_the_right or downwards

    def test_tree_has_no_crossings(self):
        edges = [((i - 1) // 2, i) for i in range(1, 31)]
        boxes = boxes_of(
            to_svg(drawing_of(graph_of(*map(str, range(31)), edges=edges), None, collapse=False))
        )
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
        to_svg(drawing_of(graph, None, collapse=False))
        assert time.monotonic() - start < 10

    def test_graph_that_would_need_too_many_waypoints(self):
        graph = nx.path_graph(1_000, create_using=nx.DiGraph)
        graph.add_edges_from((u, 999) for u in range(998))
        for node in graph:
            graph.nodes[node].update(key=f"task[{node}]", function="task", status=None)
        svg = to_svg(drawing_of(graph, None, collapse=False))
        assert len(boxes_of(svg)) == 1_000


def test_loads_nothing_before_it_is_needed():
    code = (
        "import sys, flowpar.views.picture, flowpar.views.progress; "
        "print(sorted({'networkx', 'graphviz', 'numpy', 'tqdm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_draws_without_numpy(tmp_path):
    code = (
        "import sys; sys.modules['numpy'] = None; import networkx as nx; "
        "from flowpar.views.picture import draw; graph = nx.DiGraph(); "
        "graph.add_node(0, key='one', function='f'); graph.add_node(1, key='two', function='f'); "
        "graph.add_edge(0, 1); draw(graph, sys.argv[1]); print('drawn')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "graph.svg")]
    env = {**os.environ, "PATH": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.stdout == "drawn\n", result.stderr
