"""What a notebook shows of our objects: never an error, and soon."""

import html
import subprocess
import sys

import pytest

import flowpar
from flowpar import delayed


def shown(thing):
    return thing._repr_mimebundle_()


def test_a_delayed_value_is_a_picture_and_a_text():
    found = shown(delayed(abs)(-1) + 1)
    assert found["text/plain"] == "<Delayed add(<abs>, 1)>"
    assert found["image/svg+xml"].lstrip().startswith(("<?xml", "<svg"))
    assert ">abs<" in found["image/svg+xml"]


@pytest.mark.parametrize("name", ["lone \udc80", "two\nlines", "\x1b[31mred"])
def test_a_name_that_no_encoding_has_is_escaped(name):
    for thing in (delayed(abs, name=name), delayed(abs, name=name)(-1)):
        text = repr(thing)
        assert text.encode("unicode_escape").decode() == text.replace("\\", "\\\\")
    assert shown(delayed(abs, name=name)(-1))["text/plain"].encode()


def test_a_large_one_is_collapsed_and_a_huge_one_a_text():
    several = delayed(sum)([delayed(abs)(n) for n in range(2000)])
    assert "2,000" in shown(several)["image/svg+xml"]
    huge = delayed(sum)([delayed(abs)(n) for n in range(30_000)])
    assert set(shown(huge)) == {"text/plain"}


def test_a_run_is_a_picture_and_a_table():
    found = shown(flowpar.run(delayed(abs)(-1) + 1, scheduler="sync"))
    assert found["text/plain"].startswith("done: 2 of 2 tasks")
    assert "2 done" in found["image/svg+xml"]


def test_an_error_of_the_picture_leaves_the_text(monkeypatch):
    from flowpar.views.pictures import picture

    def fail(*args, **kwargs):
        raise RuntimeError("no picture today")

    monkeypatch.setattr(picture, "draw", fail)
    assert set(shown(delayed(abs)(-1))) == {"text/plain"}


def test_other_hooks_of_notebooks_do_not_become_tasks():
    value = delayed(abs)(-1)
    for name in ("_repr_html_", "_ipython_display_", "_ipython_canary_method_should_not_exist_"):
        with pytest.raises(AttributeError):
            getattr(value, name)


def test_a_cache_is_a_table(tmp_path):
    cache = flowpar.Cache(tmp_path / "a <b>")
    assert set(shown(cache)) == {"text/plain"}

    @delayed(name="<script>")
    def square(n):
        return n * n

    flowpar.compute([square(n) for n in range(3)], cache=cache, scheduler="sync")
    found = shown(cache)["text/html"]
    assert "3 results" in found
    assert html.escape("<script>") in found
    assert "<script>" not in found
    cache.store().close()


CELLS = [
    """
import os, time, flowpar
from flowpar import delayed

@delayed
def square(n):
    time.sleep(0.02)
    return n * n, os.getpid()

squares = [square(n) for n in range(6)]
os.getpid()
""",
    "[n for n, _ in flowpar.compute(squares, scheduler='processes', workers=2)]",
    "len({pid for _, pid in flowpar.compute(squares, scheduler='processes', workers=2)} - {os.getpid()})",
    "squares[2]",
    "(await squares[3])[0]",
    "flowpar.compute(squares, progress=True, scheduler='threads')[5][0]",
]


EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.stdin, as_version=4)
nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute()
nbformat.write(book, sys.stdout)
"""
"""In a process of its own, because nbclient leaves an event loop open."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each cell shows, from a kernel of its own."""
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE],
        input=nbformat.writes(book),
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path_factory.mktemp("notebook"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [cell.outputs for cell in nbformat.reads(done.stdout, as_version=4).cells]


def results(cell):
    return [each.data for each in cell if each.output_type == "execute_result"]


def test_functions_of_cells_run_in_processes(outputs):
    assert results(outputs[1])[0]["text/plain"] == "[0, 1, 4, 9, 16, 25]"
    assert int(results(outputs[2])[0]["text/plain"]) >= 1


def test_a_cell_shows_the_picture(outputs):
    assert results(outputs[3])[0]["text/plain"] == "<Delayed square(2)>"
    assert "square" in results(outputs[3])[0]["image/svg+xml"]


def test_await_works_in_a_cell(outputs):
    assert results(outputs[4])[0]["text/plain"] == "9"


def test_the_bar_is_in_the_cell(outputs):
    assert results(outputs[5])[0]["text/plain"] == "25"
    said = "".join(each.text for each in outputs[5] if each.output_type == "stream")
    widgets = [each for each in outputs[5] if each.output_type == "display_data"]
    assert "6/6" in said or widgets
