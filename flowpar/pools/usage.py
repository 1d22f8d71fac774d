"""How much memory processes hold, as Linux tells it; elsewhere nobody knows."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable

from flowpar.pools.resources import read_text

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def is_known() -> bool:
    """Return whether this system tells how much memory a process holds."""
    return resident_bytes(os.getpid()) is not None


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process, shared or not; None if it cannot be read.

    Examples
    --------
    >>> resident_bytes(-1) is None
    True
    """
    pages = _pages(pid)
    return None if pages is None else pages[1] * _PAGE_BYTES


def members(groups: Collection[int]) -> dict[int, list[int]]:
    """Return the ids of the processes in each of some process groups."""
    found = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes ten times as long
        if name.isdecimal():
            try:
                group = os.getpgid(int(name))
            except OSError:  # it has ended meanwhile
                continue
            if group in groups:
                found[group].append(int(name))
    return found


def own_bytes(pids: Iterable[int], leader: int) -> int:
    """Return the resident memory that the processes of a group do not share with files.

    Parameters
    ----------
    pids
        The group.
    leader
        The one that started the others. What has the very memory of this one is about to become
        another program, or was forked a moment ago, and is not counted.

    Notes
    -----
    Copies that a fork has not made yet count in each process: see `distinct_bytes`.
    """
    first = _pages(leader)
    others = [_pages(pid) for pid in pids if pid != leader]
    known = [pages for pages in (first, *(each for each in others if each != first)) if pages]
    return sum(resident - shared for _, resident, shared in known) * _PAGE_BYTES


def distinct_bytes(pids: Collection[int], leader: int) -> int:
    """Return the same, with what several of them hold together counted once; it takes longer."""
    held = own_bytes(pids, leader)
    if len(pids) == 1:
        return held
    counted = [_proportional_bytes(pid) for pid in pids]
    return held if None in counted else min(held, sum(filter(None, counted)))


def _proportional_bytes(pid: int) -> int | None:
    for line in (read_text(f"/proc/{pid}/smaps_rollup") or "").splitlines():
        name, _, size = line.partition(":")
        if name == "Pss_Anon":
            return int(size.split()[0]) * 1024
    pages = _pages(pid)
    has_ended = pages is None or not pages[1]
    return 0 if has_ended else None  # or the kernel is old


def _pages(pid: int) -> tuple[int, int, int] | None:
    """Return how many pages a process has: in all, resident, and resident but of files."""
    words = (read_text(f"/proc/{pid}/statm") or "").split()
    return (int(words[0]), int(words[1]), int(words[2])) if words else None
