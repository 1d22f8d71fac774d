"""Our pages in a real browser, where chromium is installed; `.ci/run` does that if it may."""

import shutil

import pytest

import flowpar
from flowpar import Dashboard, delayed

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("bokeh")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

pytestmark = pytest.mark.browser

HOSTILE = "<script>document.title = 'taken over'</script>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def tab(browser):
    """A page, with what it complains of and whom it asks."""
    made = browser.new_page()
    made.complaints, made.asked = [], set()
    made.on(
        "console",
        lambda m: made.complaints.append(m.text) if m.type in {"error", "warning"} else None,
    )
    made.on("pageerror", lambda error: made.complaints.append(str(error)))
    made.on("request", lambda request: made.asked.add(request.url.split("/")[2]))
    yield made
    made.close()


@delayed(name=HOSTILE)
def odd(n):
    if n == 3:
        raise ValueError(HOSTILE)
    return n


def test_a_report_works_offline(tab, tmp_path):
    with pytest.raises(flowpar.RunFailed):
        flowpar.compute(
            [odd(n) for n in range(30)],
            scheduler="threads",
            on_error="continue",
            report=tmp_path / "run.html",
        )
    tab.context.set_offline(True)
    tab.goto(f"file://{tmp_path}/run.html")
    tab.locator(".bk-Figure").first.wait_for(timeout=60_000)
    tab.locator(".slick-row").first.wait_for(timeout=60_000)
    assert HOSTILE in tab.locator("pre").first.inner_text()
    assert tab.title() != "taken over"
    assert (tab.complaints, tab.asked) == ([], {""})
    tab.context.set_offline(False)


def test_calls_that_are_added_up_part_when_one_zooms_in(tab, tmp_path):
    run = flowpar.run([delayed(abs)(n) for n in range(5_000)], scheduler="sync")
    tab.goto(f"file://{run.timeline(tmp_path / 'run.html')}")
    tab.wait_for_function("() => window.Bokeh?.documents[0]?.is_idle")
    plot = "Bokeh.documents[0].roots()[0]"

    def seen():
        kinds = tab.evaluate(
            f"() => {plot}.renderers.filter(r => r.view.indices.count)"
            ".map(r => 'seconds' in r.data_source.data ? 'each' : 'many')"
        )
        return set(kinds)

    assert seen() == {"many"}
    tab.evaluate(f"() => {{ {plot}.x_range.end = {run.seconds / 50} }}")
    assert "each" in seen()
    tab.evaluate(f"() => {{ {plot}.x_range.end = {run.seconds} }}")
    assert seen() == {"many"}
    assert tab.complaints == []


def test_a_live_page_fills_in(tab, tmp_path):
    page = Dashboard(keep=True)
    try:
        tab.goto(page.url)
        tab.get_by_text("waiting for the run").wait_for()
        run = flowpar.submit([odd(n) for n in range(3)], scheduler="threads", observers=[page])
        assert run.result(timeout=60) == [0, 1, 2]
        tab.locator("#timeline rect").first.wait_for(state="attached", timeout=60_000)
        tab.locator(".tile.done").wait_for(timeout=60_000)
        assert HOSTILE in tab.locator("#functions").inner_text()
        assert tab.title() == "flowpar"
        assert tab.complaints == []
        assert {host.split(":")[0] for host in tab.asked} == {"127.0.0.1"}
    finally:
        page.close()
