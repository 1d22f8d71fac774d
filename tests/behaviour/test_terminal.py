"""Bars on a real terminal: what tasks and loggers write meanwhile stays whole, above them."""

import sys
import textwrap

import pexpect
import pyte
import pytest

SCRIPT = """
import logging, sys, time
import flowpar
from flowpar import delayed

logging.basicConfig(format="LOG %(message)s")

@delayed
def talk(n, where):
    stream = sys.stdout if n else sys.stderr
    for part in range(3):
        print(where, n, end=" ", file=stream)
        time.sleep(0.12)
        print("part", part, file=stream)
    if where == "threads":
        logging.getLogger("talk").warning("%s %s", where, n)
    print("no end", n, end="")
    return n

POOLS = ["threads", "processes"]
talks = [talk.options(pool=pool)(n, pool) for pool in POOLS for n in range(2)]
print(flowpar.compute(talks, progress=True, workers=2, start_method=sys.argv[1]))
print("after")
"""
POOLS = ["threads", "processes"]


def shown(child, rows=50):
    """Return what was ever at the bottom of the screen, and what stays on it."""
    screen = pyte.Screen(90, rows)
    stream = pyte.Stream(screen)
    bottoms = set()
    while True:
        try:
            stream.feed(child.read_nonblocking(1024, timeout=60))
        except pexpect.EOF:
            return bottoms, [line.rstrip() for line in screen.display if line.strip()]
        lines = [line.rstrip() for line in screen.display if line.strip()]
        bottoms.add(lines[-1] if lines else "")


def spawned(path, *args):
    return pexpect.spawn(
        sys.executable,
        ["-W", "ignore", str(path), *args],
        encoding="utf-8",
        dimensions=(50, 90),
        timeout=60,
    )


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_what_tasks_write_stays_whole(tmp_path, start_method):
    (tmp_path / "talk.py").write_text(textwrap.dedent(SCRIPT))
    child = spawned(tmp_path / "talk.py", start_method)
    bottoms, lines = shown(child)
    child.close()
    assert child.exitstatus == 0, lines
    assert any("%|" in bottom for bottom in bottoms), bottoms
    assert lines[-2:] == ["[0, 1, 0, 1]", "after"]
    expected = [f"{pool} {n} part {part}" for pool in POOLS for n in (0, 1) for part in range(3)]
    expected += ["LOG threads 0", "LOG threads 1", *["no end 0", "no end 1"] * 2]
    assert sorted(line for line in lines if line in expected) == sorted(expected), lines
    assert not [line for line in lines if "%|" in line], "bars were left"


SEVERAL = """
import sys, threading, time
import flowpar

def nap(n):
    time.sleep(0.1)
    sys.stdout.write(f"nap {n}\\n")
    return n

def go(size):
    naps = [flowpar.delayed(nap, pool="threads")(n) for n in range(size)]
    capture = None if sys.argv[1] == "none" else sys.argv[1]
    flowpar.compute(naps, workers=1, progress=True, capture=capture)

runs = [threading.Thread(target=go, args=(size,)) for size in (3, 6, 9)]
for run in runs:
    run.start()
for run in runs:
    run.join()
print("after")
"""


@pytest.mark.parametrize("capture", ["none", "all"])
def test_of_several_runs_one_has_bars_and_all_leave_a_line(tmp_path, capture):
    (tmp_path / "several.py").write_text(SEVERAL)
    child = spawned(tmp_path / "several.py", capture)
    bottoms, lines = shown(child)
    child.close()
    assert child.exitstatus == 0, lines
    assert any("%|" in bottom for bottom in bottoms), bottoms
    said = [f"[nap[{n}]] nap {n}" if capture == "all" else f"nap {n}" for n in range(9)]
    expected = [*said[:3] * 3, *said[3:6] * 2, *said[6:]]
    assert sorted(line for line in lines if "nap" in line) == sorted(expected), lines
    last = [line.partition(" tasks")[0] for line in lines if line.startswith("flowpar")]
    assert last == [f"flowpar: done, {n}/{n}" for n in (3, 6, 9)]
    assert lines[-1] == "after"
