"""What the live page costs a run: with one page open that asks as a browser does, and without any.

A page of its own process reads what it gets, as a browser would; its reading is not the run's cost,
but takes place on the same CPUs.

    python tests/benchmarks/watched.py
"""

from __future__ import annotations

import subprocess
import sys
import time

from page import line
from race import Row, race
from trivial import inc, spin, spins_in

import flowpar
from flowpar import delayed

ASKS = """
import http.client, json, sys, time, urllib.parse
for line in sys.stdin:
    parts = urllib.parse.urlsplit(line.strip())
    number, asked = 0, 0
    try:
        while True:
            page = http.client.HTTPConnection(parts.netloc, timeout=30)
            page.request("GET", f"{parts.path}state?seen={number}")
            state = json.loads(page.getresponse().read())
            page.close()
            asked += "parts" in state
            if state.get("ended"):
                break
            number = state.get("number", 0)
            time.sleep(0.1)
    except (OSError, http.client.HTTPException):
        pass
    print(asked, flush=True)
"""
"""As the script of the page does it, for each address that is written to it."""


class Looker:
    """Somebody with a page open: a process that asks for each newer state."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", ASKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def look_at(self, url):
        """Open a page; it ends by itself with the run."""
        self._process.stdin.write(url + "\n")
        self._process.stdin.flush()

    def states(self):
        """Wait until a page has ended, and return how many states it got."""
        return int(self._process.stdout.readline())

    def close(self):
        """End the process, and check that each page got a state at least."""
        counts, _ = self._process.communicate()
        assert "0" not in counts.split(), "nobody saw a run"


def works(part):
    """Return by name: what is run, and its options; of what takes long, a half for ``part=2``."""
    count = spins_in(0.005)
    flow_inc, flow_spin, flow_nap = delayed(inc), delayed(spin), delayed(nap)
    two = {"workers": 2}
    return {
        "60,000 trivial calls, auto": ([flow_inc(i) for i in range(60_000)], {}),
        f"{2_000 // part:,} × 5 ms of Python, processes": (
            [flow_spin(count) for _ in range(2_000 // part)],
            {"scheduler": "processes", **two},
        ),
        f"{400 // part} × 50 ms of sleep, threads": (
            [flow_nap(i) for i in range(400 // part)],
            {"scheduler": "threads", **two},
        ),
    }


def nap(number):
    time.sleep(0.05)
    return number


def watched_rows(part):
    """Yield races of runs that an open page shows against the same without: 1 is no cost at all.

    The first takes a fifth of a second, so there it is seen what a server costs to start.
    """
    looker = Looker()
    for work, (targets, options) in works(part).items():

        def ours(targets=targets, options=options):
            page = flowpar.Dashboard()
            looker.look_at(page.url)
            flowpar.compute(targets, observers=[page], **options)

        def theirs(targets=targets, options=options):
            flowpar.compute(targets, **options)

        budget = None if "trivial" in work else 0.98
        yield Row(f"{work}, a live page open", ours, "no page", theirs, budget)
    looker.close()


def main():
    """Measure seven pairs of each."""
    for row in watched_rows(1):
        print(line(race(row, 1_000).cells()), flush=True)


if __name__ == "__main__":
    main()
