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
        bottoms.add(lines[-1][:8] if lines else "")


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_what_tasks_write_stays_whole(tmp_path, start_method):
    (tmp_path / "talk.py").write_text(textwrap.dedent(SCRIPT))
    child = pexpect.spawn(
        sys.executable,
        ["-W", "ignore", str(tmp_path / "talk.py"), start_method],
        encoding="utf-8",
        dimensions=(50, 90),
        timeout=60,
    )
    bottoms, lines = shown(child)
    child.close()
    assert child.exitstatus == 0, lines
    assert any(bottom.strip().startswith("talk") for bottom in bottoms), bottoms
    assert lines[-2:] == ["[0, 1, 0, 1]", "after"]
    expected = [f"{pool} {n} part {part}" for pool in POOLS for n in (0, 1) for part in range(3)]
    expected += ["LOG threads 0", "LOG threads 1", *["no end 0", "no end 1"] * 2]
    assert sorted(line for line in lines if line in expected) == sorted(expected), lines
    assert not [line for line in lines if "%|" in line], "bars were left"
