"""How long the rest of a run will take, as its observers are told."""

import subprocess
import sys
import textwrap
import time

import pytest

import flowpar
from flowpar import delayed


class Watcher:
    """Keeps how long was left, and when."""

    def __init__(self):
        self.told = []

    def on_progress(self, event):
        self.told.append((event.seconds, event.counts, event.seconds_left()))

    def on_run_end(self, event):
        self.seconds = event.seconds

    def guesses(self):
        """How long the run was thought to take, each time that somebody knew."""
        return [now + left for now, _, left in self.told[:-1] if left is not None]


def nap(n, seconds):
    time.sleep(seconds)
    return n


@pytest.mark.parametrize("pool", ["sync", "threads", "processes"])
def test_it_is_about_right_while_a_long_task_runs(pool):
    watcher = Watcher()
    naps = [delayed(nap)(n, 0.6) for n in range(4)]
    flowpar.compute(naps, scheduler=pool, workers=2, observers=[watcher])
    # The inline thread tells nothing while it computes.
    guesses = [guess for guess in watcher.guesses() if guess]
    assert guesses
    assert 0.3 * watcher.seconds < guesses[-1] < 3 * watcher.seconds
    assert watcher.told[-1][-1] == 0


def test_nobody_knows_before_anything_is_known():
    watcher = Watcher()

    def unknown():
        time.sleep(0.5)

    delayed(unknown)().compute(scheduler="threads", observers=[watcher])
    assert [left for _, counts, left in watcher.told if not counts.finished] == [None] * (
        len(watcher.told) - 1
    )


SCRIPT = """
import sys, time
import flowpar

@flowpar.delayed(version=sys.argv[2], pool=sys.argv[3])
def nap(n):
    time.sleep(0.8)
    return n

class Watcher:
    first = None
    def on_progress(self, event):
        if self.first is None and not event.counts.finished:
            self.first = event.seconds_left()

watcher = Watcher()
flowpar.compute([nap(n) for n in range(4)], workers=2, cache=sys.argv[1], observers=[watcher])
print(watcher.first)
"""


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_what_the_cache_remembers_is_told_at_once(tmp_path, pool):
    (tmp_path / "naps.py").write_text(textwrap.dedent(SCRIPT))

    def first_guess(version):
        command = [sys.executable, "naps.py", "cache", version, pool]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert first_guess("1") == "None"
    assert 0.8 < float(first_guess("2")) < 30
