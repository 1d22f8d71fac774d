"""The live page: what it shows, whom it serves, and that it costs and leaves nothing."""

import http.client
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest
from support.gates import hold

import flowpar
from flowpar import Dashboard, delayed
from flowpar.events import TaskProgress
from flowpar.views.reports import live

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def page():
    made = Dashboard(keep=True)
    yield made
    made.close()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode(), answer.headers


def state(page, seen=0):
    return json.loads(get(f"{page.url}state?seen={seen}")[0])


def refused(url, **headers):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url, **headers)
    caught.value.close()
    return caught.value.code


def test_a_page_fills_in_while_the_run_goes_on(page, tmp_path):
    gate = str(tmp_path / "gate")
    first = delayed(abs)(-1)
    later = delayed(lambda *_: 1, name=HOSTILE)(first, delayed(hold)(gate))
    run = flowpar.submit(later, scheduler="threads", observers=[page])
    found, number = {}, 0
    while ">1</b>done" not in found.get("head", ""):
        answer = state(page, number)
        found, number = answer["parts"], answer["number"]
        assert not answer["ended"]
    assert "<b>running</b>status" in found["head"]
    assert "abs" in found["functions"]
    (tmp_path / "gate").touch()
    assert run.result(timeout=30) == 1
    last = state(page)["parts"]
    assert "<b>done</b>status" in last["head"]
    assert "<rect" in last["timeline"]
    assert "<svg" in last["graph"]
    assert all(HOSTILE not in part for part in last.values())


def test_only_who_knows_the_address_is_served(page):
    flowpar.compute(delayed(abs)(-1), scheduler="sync", observers=[page])
    text, headers = get(page.url)
    assert "<title>flowpar</title>" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    parts = urllib.parse.urlsplit(page.url)
    assert parts.hostname == "127.0.0.1"
    assert len(parts.path) > 20
    assert refused(f"http://{parts.netloc}/") == 404
    assert refused(f"http://{parts.netloc}/state") == 404
    assert refused(f"{page.url}../etc/passwd") == 404
    assert refused(page.url, Host="example.org") == 403
    assert refused(f"{page.url}state", Host=f"example.org:{parts.port}") == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_can_only_be_read(page, method):
    parts = urllib.parse.urlsplit(page.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request(method, parts.path)
    assert connection.getresponse().status == 501
    connection.close()


def test_many_look_at_once_and_all_see_the_end():
    page = Dashboard()
    ends = []

    def look():
        number, ended = 0, False
        while not ended:
            try:
                answer = state(page, number)
            except urllib.error.URLError:  # it asked again too late: a page says so, too
                break
            number, ended = answer.get("number", 0), answer.get("ended", False)
        ends.append(ended)

    lookers = [threading.Thread(target=look) for _ in range(8)]
    for each in lookers:
        each.start()
    board = page._board
    with board._changed:
        assert board._changed.wait_for(lambda: board._asking == 8, 30)
    flowpar.compute([delayed(abs)(-n) for n in range(50)], scheduler="threads", observers=[page])
    for each in lookers:
        each.join(30)
    assert len(ends) == 8
    assert any(ends)
    for thread in threading.enumerate():
        if thread.name == "flowpar page ends":
            thread.join(30)
    assert "flowpar dashboard" not in [thread.name for thread in threading.enumerate()]


def test_nothing_is_made_while_nobody_looks(monkeypatch):
    made = []
    monkeypatch.setattr(live, "parts_of", lambda *_, **__: made.append(1) or {})
    flowpar.compute(
        [delayed(abs)(-n) for n in range(500)], scheduler="sync", observers=[Dashboard()]
    )
    assert made == []


def test_it_ends_with_the_run_also_if_that_fails(capfd):
    with pytest.raises(TypeError):
        delayed(abs)("x").compute(scheduler="threads", dashboard=True)
    url = capfd.readouterr().err.split()[1]
    with pytest.raises(urllib.error.URLError):
        get(url)
    assert "flowpar dashboard" not in [thread.name for thread in threading.enumerate()]


LOOKED_AT = """
import sys, flowpar
from flowpar.views.reports import live
live.Board.is_looked_at = True
page = flowpar.Dashboard(keep=True)
inc = flowpar.delayed(abs)
inc(inc(-1)).compute(scheduler="sync", observers=[page])
assert b"<svg" in page._board.get(0), "nothing is shown"
page.close()
assert "networkx" not in sys.modules, "a third of a second of the run's time"
"""


def test_what_is_slow_to_import_is_not_needed():
    subprocess.run([sys.executable, "-c", LOOKED_AT], check=True, timeout=60)


def test_making_states_is_limited(page, monkeypatch):
    """However long one takes, all together take their share only."""
    spent = []

    def slow(*_, **__):
        import time

        begun = time.monotonic()
        while time.monotonic() - begun < 0.2:
            pass
        spent.append(0.2)
        return {}

    monkeypatch.setattr(live, "parts_of", slow)
    monkeypatch.setattr(live.Board, "is_looked_at", True)

    @delayed
    def nap(n):
        import time

        time.sleep(0.1)

    flowpar.compute([nap(n) for n in range(60)], scheduler="threads", workers=2, observers=[page])
    assert 1 <= len(spent) <= 2  # one in those three seconds, and the last


def test_who_hangs_up_or_asks_oddly_is_not_spoken_of(capfd):
    page = Dashboard(keep=True)
    port = int(page.url.split(":")[2].split("/")[0])
    try:
        for request in (b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /", b"\0\0\r\n\r\n"):
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    # Closing then sends a reset, and not an end.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.sendall(request)
        answer = urllib.request.urlopen(urllib.request.Request(page.url, method="HEAD"))
        assert (answer.status, answer.read()) == (200, b"")
    finally:
        page.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("port", [99_999, -1, "80", 1.5])
def test_wrong_ports_are_refused(port):
    with pytest.raises(flowpar.OptionError, match="port"):
        Dashboard(port=port)


def test_a_page_that_has_ended_says_so_to_a_second_run():
    page = Dashboard()
    delayed(abs)(-1).compute(scheduler="sync", observers=[page])
    with pytest.warns(flowpar.FlowparWarning, match="keep=True"):
        assert delayed(abs)(-2).compute(scheduler="sync", observers=[page]) == 2


def test_where_nobody_can_be_told_the_address_the_run_goes_on(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    before = threading.active_count()
    assert delayed(abs)(-1).compute(scheduler="sync", dashboard=True) == 1
    assert threading.active_count() == before


def test_tasks_that_say_how_far_they_are_are_shown():
    step = TaskProgress(key="load[<3>]", done=1500, total=2e6, desc="rows & more")
    facts = flowpar.run(delayed(abs)(-1), scheduler="sync").facts()
    bar = live.parts_of(facts, is_running=True, steps=[step])["bar"]
    assert "load[&lt;3&gt;]: 1,500 of 2,000,000 rows &amp; more" in bar
