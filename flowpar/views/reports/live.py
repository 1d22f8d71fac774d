"""A page that shows a run while it goes on: served to this computer only, and read-only.

The run's own thread makes what is shown, only while somebody looks, and only as often as takes one
hundredth of its time; the threads of the server hand it out::

    on_progress ──facts──> fragments of HTML ──> Board <── waits ── GET /TOKEN/state?seen=3
"""

from __future__ import annotations

import contextlib
import html
import http.server
import json
import secrets
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

from flowpar.errors import FlowparError, OptionError
from flowpar.events import Progressed, RunEnded, RunStarted, TaskProgress
from flowpar.policy import check_count
from flowpar.views.pictures.contents import Wanted, drawing_of
from flowpar.views.pictures.nodes import Nodes
from flowpar.views.pictures.svg import to_svg
from flowpar.views.reports.facts import Facts
from flowpar.views.reports.report import add_nodes, failures_of, functions_of, head_of
from flowpar.views.timelines.small_svg import timeline_svg

REFRESH_SECONDS: Final = 0.5
"""Between two states at least."""

COST_SHARE: Final = 0.01
"""Of the run's time that making states may take; that they are asked for costs something, too."""

FIRST_SECONDS: Final = 0.005
"""What the first state is taken to cost, before anybody knows."""

LOOKED_SECONDS: Final = 5.0
"""After so many without a request nobody looks."""

MOST_TASKS: Final = 1_000
"""Tasks that a state tells of; of a larger run the first that were called."""

_WAIT_SECONDS: Final = 20.0
_LAST_SECONDS: Final = 1.0
"""How long the end of a run waits for pages to hear of it."""
_QUIET_SECONDS: Final = 0.2
_MOST_DIGITS: Final = 10
_MOST_PORT: Final = 65_535
_MOST_BOXES: Final = 100


class Board:
    """The newest state, and those who wait for a newer one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._state = b"{}"
        self._has_ended = False
        self._looked_at = 0.0
        self._asking = 0

    @property
    def is_looked_at(self) -> bool:
        """Whether somebody has asked lately."""
        return time.monotonic() - self._looked_at < LOOKED_SECONDS

    def put(self, parts: dict[str, str], *, has_ended: bool = False) -> None:
        """Give all who wait a newer state."""
        with self._changed:
            self._number += 1
            self._has_ended = has_ended
            state = {"number": self._number, "ended": has_ended, "parts": parts}
            self._state = json.dumps(state).encode()
            self._changed.notify_all()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Count somebody as asking, until the block has ended."""
        with self._changed:
            self._asking += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Wait until everybody who looks has the last state, but not for long."""
        until = time.monotonic() + _LAST_SECONDS
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
            while self.is_looked_at and time.monotonic() < until:
                self._changed.wait_for(lambda: not self._asking, _LAST_SECONDS)
                # A page that has just had an answer asks again a moment later.
                if not self._changed.wait_for(lambda: bool(self._asking), _QUIET_SECONDS):
                    return
            self._changed.wait_for(lambda: not self._asking, _LAST_SECONDS)

    def get(self, seen: int) -> bytes:
        """Return a state that is newer than the one that was seen, once there is one."""
        self._looked_at = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._number > seen or self._has_ended, _WAIT_SECONDS)
            self._looked_at = time.monotonic()
            return self._state


class Dashboard:
    """Shows runs on a page while they go on; an observer.

    Parameters
    ----------
    keep
        Whether the page stays when a run has ended, until `close`, or the program ends.
    port
        Of this computer; 0: any that is free.

    Attributes
    ----------
    url
        Where the page is. Who does not know its random part is not served.

    Examples
    --------
    >>> import flowpar, urllib.request
    >>> page = Dashboard(keep=True)
    >>> flowpar.delayed(abs)(-3).compute(scheduler="sync", observers=[page])
    3
    >>> b"<title>flowpar</title>" in urllib.request.urlopen(page.url).read()
    True
    >>> page.close()
    """

    def __init__(self, *, keep: bool = False, port: int = 0) -> None:
        check_count("port", port, least=0)
        if port > _MOST_PORT:
            raise OptionError(f"port={port}: there are ports up to {_MOST_PORT}")
        self._board = Board()
        self._keep = keep
        self._next = self._spent = 0.0
        self._expected = FIRST_SECONDS
        self._server = _Server(self._board, port)
        self.url = self._server.url

    @classmethod
    def announced(cls) -> Dashboard:
        """Return one whose address people are told of."""
        made = cls()
        # Where standard error is closed or full nobody is told, and the run goes on.
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                print(f"flowpar: {made.url}", file=sys.stderr, flush=True)  # noqa: T201 - that is it
        return made

    def on_run_start(self, event: RunStarted) -> None:
        """Begin anew."""
        del event
        if self._server.is_closed:
            raise FlowparError(
                "this page has ended with its run: make another, or one with keep=True"
            )
        self._next = self._spent = 0.0

    def on_progress(self, event: Progressed) -> None:
        """Make a new state, if somebody looks and it is time."""
        begun = time.monotonic()
        may_begin = self._spent + self._expected <= COST_SHARE * event.seconds
        if begun >= self._next and may_begin and self._board.is_looked_at:
            parts = parts_of(event.facts(MOST_TASKS), is_running=True, steps=event.steps())
            self._board.put(parts)
            self._next = begun + REFRESH_SECONDS
            self._expected = time.monotonic() - begun
            self._spent += self._expected

    def on_run_end(self, event: RunEnded) -> None:
        """Make the last state, and end the server unless it is to stay."""
        if self._keep:
            self._board.put(parts_of(event.facts(MOST_TASKS), is_running=False))
        elif self._board.is_looked_at:
            # Who waits for the values does not wait for those who look; the program's end does.
            facts = event.facts(MOST_TASKS)
            threading.Thread(target=self._end, args=(facts,), name="flowpar page ends").start()
        else:
            self.close()

    def _end(self, facts: Facts) -> None:
        try:
            self._board.put(parts_of(facts, is_running=False), has_ended=True)
        finally:
            self.close()

    def close(self) -> None:
        """End the server; who waits gets the newest state first."""
        self._board.end()
        self._server.close()


# ---------------------------------------------------------------------------------- what is shown


def parts_of(
    facts: Facts, *, is_running: bool, steps: Iterable[TaskProgress] = ()
) -> dict[str, str]:
    """Return the parts of the page as HTML, by the ids of their places."""
    return {
        "head": head_of(facts, status="running" if is_running else facts.status),
        "bar": _bar(facts) + "".join(map(_step, steps)),
        "functions": functions_of(facts),
        "timeline": timeline_svg(facts.history),
        "graph": _graph(facts),
        "failures": failures_of(facts),
        "resources": _resources(facts),
    }


def _bar(facts: Facts) -> str:
    counts = facts.counts
    total = counts.total or 1
    colours = {"cached": "#9ecae1", "done": "#74c476", "failed": "#e34a33", "skipped": "#bbb"}
    parts = "".join(
        f'<i style="width:{100 * getattr(counts, name) / total:.2f}%;background:{colour}"></i>'
        for name, colour in colours.items()
    )
    return f'<div class=progress title="{counts.finished:,} of {counts.total:,}">{parts}</div>'


def _step(step: TaskProgress) -> str:
    """Return how far a task is that says so."""
    of = "" if step.total is None else f" of {step.total:,.12g}"
    return f"<p>{html.escape(step.key)}: {step.done:,.12g}{of} {html.escape(step.desc)}</p>"


def _graph(facts: Facts) -> str:
    """Return the picture by the engine that is always there, and soonest done."""
    many = len(facts.records) > _MOST_BOXES
    nodes = Nodes()  # and not networkx's, which takes a third of a second to import
    add_nodes(nodes, facts)
    svg = to_svg(drawing_of(nodes, Wanted(collapse=many)))
    return f"<div class=wide>{svg}</div>" if facts.records else ""


def _resources(facts: Facts) -> str:
    newest = {sample.pid: sample for sample in facts.samples}
    return "".join(
        f"<p>process {pid}: {sample.cpu_percent:.0f} % CPU, {sample.memory_bytes / 1e6:,.0f} MB</p>"
        for pid, sample in newest.items()
    )


# ----------------------------------------------------------------------------------------- server


class _Server:
    """Serves a board in threads of its own."""

    def __init__(self, board: Board, port: int) -> None:
        token = secrets.token_urlsafe(16)

        class Answerer(_Answerer):
            pass

        Answerer.board, Answerer.home = board, f"/{token}/"
        self.is_closed = False
        self._server = _QuietServer(("127.0.0.1", port), Answerer)
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}/{token}/"
        Answerer.hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="flowpar dashboard", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self.is_closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(http.server.ThreadingHTTPServer):
    """Says nothing of those who hang up: the terminal is the run's."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing."""


class _Answerer(http.server.BaseHTTPRequestHandler):
    """Answers those who know the token, and nobody whom another site has sent."""

    board: Board
    home: str
    hosts: frozenset[str]
    timeout: ClassVar[float | None] = 30.0
    server_version = "flowpar"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page, or with a state that is newer than the one that was seen."""
        with self.board.answering():
            self._get()

    def do_HEAD(self) -> None:
        """Answer as if it was asked for, without what."""
        self.do_GET()

    def _get(self) -> None:
        try:
            url = urllib.parse.urlsplit(self.path)
        except ValueError:
            self._answer(400, "text/plain", b"this is no address\n")
            return
        if self.headers.get("Host") not in self.hosts:
            self._answer(403, "text/plain", b"this page is for this computer only\n")
        elif url.path == self.home:
            self._answer(200, "text/html; charset=utf-8", _PAGE.encode())
        elif url.path == f"{self.home}state":
            seen = urllib.parse.parse_qs(url.query).get("seen", ["0"])[0]
            number = int(seen) if seen.isdecimal() and len(seen) < _MOST_DIGITS else 0
            self._answer(200, "application/json", self.board.get(number))
        else:
            self._answer(404, "text/plain", b"there is nothing here\n")

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", _POLICY)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base's
        """Say nothing: the terminal is the run's."""


_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'"
)

_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>flowpar</title><style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1400px; padding: 1em 2em;
  color: #222; background: #fff }
h1 { font-size: 1.4em; margin: .2em 0 } h2 { font-size: 1.1em; border-bottom: 1px solid #ddd }
.tiles { display: flex; flex-wrap: wrap; gap: .6em; margin: 1em 0 }
.tile { border: 1px solid #ddd; border-radius: 6px; padding: .4em .9em; color: #555 }
.tile b { display: block; font-size: 1.25em; color: #222 }
.progress { height: 18px; background: #eee; border-radius: 4px; overflow: hidden; display: flex }
.progress i { display: block; height: 100% }
.legend span { margin-right: 1.2em } .legend b { display: inline-block; width: .9em; height: .9em;
  margin-right: .3em; vertical-align: -.1em }
table { border-collapse: collapse } th, td { text-align: left; padding: .2em .8em .2em 0;
  border-bottom: 1px solid #eee } td.n { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f6f6f6; padding: .6em; overflow: auto; max-height: 20em; font-size: 12px }
.wide { overflow: auto; max-height: 500px; border: 1px solid #eee } .wide svg { max-width: none }
section:has(> div:empty) { display: none } #said { color: #777 }
</style></head><body>
<div id="head"></div><div id="bar"></div><p id="said">waiting for the run …</p>
<section><h2>Functions</h2><div id="functions"></div></section>
<section><h2>Timeline</h2><div id="timeline"></div></section>
<section><h2>Graph</h2><div id="graph"></div></section>
<section><h2>Failures</h2><div id="failures"></div></section>
<section><h2>CPU and memory</h2><div id="resources"></div></section>
<script>
"use strict";
const said = document.getElementById("said"), shown = {};
async function look(seen) {
  let state;
  try {
    state = await (await fetch("state?seen=" + seen, {cache: "no-store"})).json();
  } catch (error) {
    said.textContent = "the run has ended, or its program has";
    return;
  }
  // All that comes is escaped where it is made; nothing in it is code.
  for (const [id, html] of Object.entries(state.parts || {}))
    if (shown[id] !== html) document.getElementById(id).innerHTML = shown[id] = html;
  if (state.number) said.textContent = state.ended ? "the run has ended" : "";
  if (!state.ended) setTimeout(() => look(state.number || 0), 100);
}
look(0);
</script></body></html>
"""
