"""Which files a call opens: what it reads and nobody declared, no key knows of."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final


class _Here(threading.local):
    """What watches this thread: for each, whether a path was first opened to be written."""

    def __init__(self) -> None:
        self.watches: list[dict[str, bool]] = []


_here: Final = _Here()


class Watch:
    """Collects the files that this thread opens, from its making to `close`.

    Only what goes through Python's `open` and `os.open` is seen, as numpy and the readers of
    pandas for text do: not what C, C++ or Rust open by themselves (SQLite, HDF5, pyarrow, polars).
    Of coroutines that take turns on a thread, each is taken to have opened the files of all.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        watch()
        self._seen: dict[str, bool] = {}
        _here.watches = [*_here.watches, self._seen]

    def take(self) -> list[str]:
        """Return what was opened for reading since the last call, and begin anew.

        Returns
        -------
        list
            Absolute paths, in the order in which they were first opened. Left out are files that
            were written first, those that are gone again, and those of Python, its packages and
            the system.
        """
        if not self._seen:
            return []
        first: dict[str, bool] = {}
        for name, is_write in self._seen.items():
            first.setdefault(os.path.normpath(name), is_write)
        self._seen.clear()
        return [name for name, is_write in first.items() if not is_write and _is_data(name)]

    def close(self) -> None:
        """End it."""
        _here.watches = [each for each in _here.watches if each is not self._seen]


@contextlib.contextmanager
def opened() -> Iterator[list[str]]:
    """Collect the files that this thread opens for reading in this block, as `Watch` does.

    Yields
    ------
    list
        Filled when the block has ended.
    """
    found: list[str] = []
    here = Watch()
    try:
        yield found
    finally:
        here.close()
        found += here.take()


@contextlib.contextmanager
def unwatched() -> Iterator[None]:
    """Leave out what this thread opens in this block."""
    watches, _here.watches = _here.watches, []
    try:
        yield
    finally:
        _here.watches = watches


@functools.cache
def watch() -> None:
    """Have Python tell this process of every file that it opens, from now to its end."""
    sys.addaudithook(_hook)


# What it needs it keeps: at the very end of a process the names of a module are gone.
def _hook(event: str, args: tuple[object, ...], here: _Here = _here) -> None:
    if event != "open":
        return
    try:
        if here.watches:
            _note(here.watches, *args)
    except Exception:  # noqa: BLE001 - whatever it is, it must not show in the user's open()
        return


def _note(
    watches: list[dict[str, bool]], path: object, mode: object = None, flags: object = 0
) -> None:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return  # a number: what was opened before
    name = os.fsdecode(path)
    if not name.startswith("/"):
        name = f"{os.getcwd()}/{name}"  # noqa: PTH109 - later it may be another
    is_write = _is_write(mode, flags)
    for seen in watches:
        seen.setdefault(name, is_write)


def _is_write(mode: object, flags: object) -> bool:
    if isinstance(mode, str) and not set("wax").isdisjoint(mode):
        return True
    if not isinstance(flags, int):
        return False
    # What is opened for both, and is neither made nor emptied, is read.
    is_made = flags & os.O_RDWR and flags & (os.O_CREAT | os.O_TRUNC)
    return bool(flags & os.O_WRONLY or is_made)


_NOT_DATA: Final = tuple(
    f"{folder}/"
    for folder in {
        *(sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix),
        str(Path(os.__file__).parent),
        *("/usr/lib", "/usr/share", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"),
    }
    if folder != "/"
)
"""What paths of Python's own files, and of the system's, start with."""


def _is_data(path: str) -> bool:
    if path.startswith(_NOT_DATA) or path.endswith((".py", ".pyc", ".so")):
        return False
    if "/site-packages/" in path or "/dist-packages/" in path:
        return False
    return os.path.isfile(path)  # noqa: PTH113 - Path's raises where a name has a 0 in it
