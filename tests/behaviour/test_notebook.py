"""What a notebook shows of our objects: never an error, and soon."""

import html

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


def test_a_large_one_is_collapsed_and_a_huge_one_a_text():
    several = delayed(sum)([delayed(abs)(n) for n in range(2000)])
    assert "2,000" in shown(several)["image/svg+xml"]
    huge = delayed(sum)([delayed(abs)(n) for n in range(30_000)])
    assert set(shown(huge)) == {"text/plain"}


def test_an_error_of_the_picture_leaves_the_text(monkeypatch):
    from flowpar.views import picture

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
