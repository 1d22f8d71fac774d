"""What may lie in the directory of a cache, and whose it may be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from flowpar.errors import FlowparError

LAYOUT: Final = 1
"""The version of the layout; one of a newer version is left alone."""


class CacheRefused(FlowparError):
    """A directory must not be used as a cache."""


def refuse_foreign(folder: Path) -> None:
    """See that nobody else may write to a folder.

    Raises
    ------
    CacheRefused
        If it belongs to another user, or others may write to it.
    """
    facts = folder.stat()
    if facts.st_uid != os.geteuid():
        raise CacheRefused(
            f"{folder} belongs to another user, and what a cache holds is run when it is "
            "read: use a directory of your own"
        )
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheRefused(
            f"others may write to {folder}, and what a cache holds is run when it is read: "
            f"chmod go-w {folder}"
        )


def is_new(folder: Path) -> bool:
    """Return whether nobody has used a directory so far.

    Raises
    ------
    CacheRefused
        If something else has, or a newer flowpar.
    """
    note = folder / "FORMAT"
    made_by = note.read_text(errors="replace").strip() if is_file(note) else ""
    if made_by and made_by != f"flowpar {LAYOUT}":
        raise CacheRefused(
            f"{folder} has the layout {made_by!r}, and this flowpar knows "
            f"'flowpar {LAYOUT}': use another directory, or delete this one"
        )
    if not made_by and any(folder.glob("*.pkl")):
        raise CacheRefused(f"{folder} holds files that are not flowpar's")
    return not made_by


def begin(folder: Path) -> None:
    """Note that a directory is ours now."""
    # Whole or not at all: half a note would have the directory refused for ever.
    new = folder / "tmp" / f"{os.getpid()}-FORMAT"
    new.write_text(f"flowpar {LAYOUT}\n")
    new.replace(folder / "FORMAT")


def is_file(path: Path) -> bool:
    """Return whether a file is there.

    Raises
    ------
    OSError
        If something else is: opening a pipe would wait for ever.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it should be a file", str(path))
    return True


def inode_of(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file from one that has taken its place; None if there is none."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - a fifth of what Path's costs, for each cached call
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, as far as can be seen."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
