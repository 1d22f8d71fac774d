"""What may lie in the directory of a cache, and whose it may be."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from flowpar.caching.watching import unwatched
from flowpar.errors import FlowparError

LAYOUT: Final = 1
"""The version of the layout; one of a newer version is left alone."""


_LONGEST: Final = 40
"""Characters of a strange note of the layout that people are shown."""


class CacheRefused(FlowparError):
    """A directory must not be used as a cache."""


class NotOurs(CacheRefused):
    """A directory holds what this flowpar does not know; a run goes on without it."""


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
    NotOurs
        If something else has, or a newer flowpar.
    """
    made_by = _made_by(folder)
    if made_by and made_by != f"flowpar {LAYOUT}":
        plain = re.sub(r"[^ -~]+", "?", made_by)
        shown = repr(plain[:_LONGEST]) + ("…" if plain[_LONGEST:] else "")
        raise NotOurs(
            f"its FORMAT is {shown}, and this flowpar knows 'flowpar {LAYOUT}': use another "
            "directory, or delete this one"
        )
    if not made_by and any(folder.glob("*.pkl")):
        raise NotOurs("it holds files that are not flowpar's")
    return not made_by


def is_cache(folder: str | Path) -> bool:
    """Return whether a directory is that of a cache, of this flowpar or another."""
    # Of 100,000 folders hardly one has such a file.
    if not os.path.lexists(f"{folder}/FORMAT"):
        return False
    try:
        return _made_by(Path(folder)).startswith("flowpar ")
    except OSError:
        return False


def _made_by(folder: Path) -> str:
    note = folder / "FORMAT"
    if not is_file(note):
        return ""
    with unwatched(), note.open("rb") as file:  # whatever that is, its beginning says it
        return file.read(200).decode("utf-8", "replace").strip()


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
