"""Process groups, one for each worker and what its tasks have started: how they are ended."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from flowpar.pools import usage
from flowpar.pools.resources import read_text

TRACKER: Final = "-c\0from multiprocessing.resource_tracker import main;main("
"""In the command line of a process of Python's own that frees the shared memory and semaphores of
the one that started it, as soon as that has ended. It ends by itself then."""


_ENDED: Final = frozenset({"Z", "X", None})


def kill_group(pid: int) -> None:
    """Kill a process and its process group, but for what frees their shared memory."""
    has_tracker = any(map(is_tracker, children_of(pid)))
    # One that has ended has no children any more; those are in its group. It may just have ended,
    # so that is asked last.
    if has_tracker or _state_of(pid) in _ENDED:
        _kill_all_but_trackers(pid)
    else:
        with contextlib.suppress(OSError):  # it does not lead a group
            os.killpg(pid, signal.SIGKILL)
    _kill(pid)


def kill_rest_of_group(pid: int) -> None:
    """Kill what a worker that was reaped has left; its id is not given again while that lives."""
    with contextlib.suppress(OSError):  # nothing was left
        os.killpg(pid, 0)
        _kill_all_but_trackers(pid)


def is_tracker(pid: int) -> bool:
    """Return whether a process is the one that frees the shared memory of another."""
    return TRACKER in (read_text(f"/proc/{pid}/cmdline") or "")


def children_of(pid: int) -> list[int]:
    """Return the process ids of what the main thread of a process started, or has adopted."""
    words = read_text(f"/proc/{pid}/task/{pid}/children")
    if words is None:  # not Linux, or built without it
        return _children_by_search(pid)
    return [int(word) for word in words.split()]


def _kill_all_but_trackers(group: int) -> None:
    if not os.path.isdir("/proc/self"):  # noqa: PTH112 - pathlib takes ten times as long
        os.killpg(group, signal.SIGKILL)
        return
    killed: set[int] = set()
    # More than once: what was about to start others has done so meanwhile.
    while left := set(usage.members({group})[group]) - killed:
        for pid in left:
            if not is_tracker(pid):
                _kill(pid)
        killed |= left


def _kill(pid: int) -> None:
    with contextlib.suppress(OSError):  # it is gone
        os.kill(pid, signal.SIGKILL)


def _children_by_search(pid: int) -> list[int]:
    try:
        with os.scandir("/proc") as entries:
            others = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    except OSError:
        return []
    return [other for other in others if _parent_of(other) == pid]


def _parent_of(pid: int) -> int | None:
    fields = _stat_of(pid)
    return int(fields[1]) if len(fields) > 1 else None


def _state_of(pid: int) -> str | None:
    fields = _stat_of(pid)
    return fields[0] if fields else None


def _stat_of(pid: int) -> list[str]:
    # The second field is the command in parentheses, which may hold anything.
    return (read_text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
