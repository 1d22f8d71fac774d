"""Files whose content is a value.

A content is read once. It is remembered with what the system says of the file, and read again
when that has changed: ctime cannot be set back, as mtime can. A file that was modified less than
`RACY_NS` before it was read may be modified once more without any trace in its times, which have
their ticks; such a content is not remembered.

Every step on what threads share is a single one on a dictionary: there is no lock that a fork
could leave behind.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import reprlib
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MemberDescriptorType, ModuleType
from typing import Final

from blake3 import blake3

from flowpar.caching.digest import NotDigestible, hashed, register_digest
from flowpar.caching.folders import is_cache
from flowpar.caching.watching import unwatched
from flowpar.errors import OptionError

__all__ = [
    "File",
    "FileMissing",
    "facts_learned",
    "is_unchanged",
    "learn_facts",
    "tracking",
    "undeclared",
]

RACY_NS: Final = 2_000_000_000
"""Nanoseconds; no file system that we know of has ticks as long."""

_TRIES: Final = 3
"""How often a file is read that changes meanwhile."""
_BLOCK: Final = 1 << 20
_DEEPEST: Final = 4
"""How far into containers a `File` is looked for."""

_now = time.time_ns

_Facts = tuple[int, ...]

_known: Final[dict[str, tuple[_Facts, bytes]]] = {}
_news: Final[dict[str, tuple[_Facts, bytes]]] = {}
"""Those of `_known` that nobody has asked for yet."""


class FileMissing(NotDigestible, FileNotFoundError):
    """A `File` is not there.

    A `FileNotFoundError` for who catches that; also a `NotDigestible`, as which it gets through
    the digesting of a value that the file is in.
    """

    def __init__(self, path: str) -> None:
        cure = "check the path, or let the task that writes it return the File"
        if path.startswith("~"):
            cure = "~ is not expanded here: use os.path.expanduser"
        self.why = f"flowpar.File finds neither a file nor a directory; {cure}"
        FileNotFoundError.__init__(self, errno.ENOENT, self.why, path)
        self.path, self.type_name = path, f"{__name__}.File"

    def __reduce__(self) -> tuple[object, ...]:
        return FileMissing, (self.path,)


@dataclass(frozen=True, slots=True, repr=False, init=False)
class File(os.PathLike[str]):
    """A file whose content is the value, whatever its name and its times.

    A task that gets a `File` runs again when the content has changed, and only then. It is a
    path, too: `open`, `pathlib.Path` and ``pandas.read_csv`` take it as it is.

    Parameters
    ----------
    path
        A file; a directory, for all that is in it at any depth, where the names in it count too,
        and directories of caches are left out; or a pattern with ``*``, ``?``, ``[...]`` or
        ``**``, for the files and directories that it matches. Names that begin with a dot are as
        others. Links to directories are followed where the path or a pattern names them, but not
        by ``**`` nor inside a directory.

    Raises
    ------
    OptionError
        If it is no path.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, text in {"a.csv": "1,2", "b.csv": "1,2", "c.csv": "1,3"}.items():
    ...     _ = (folder / name).write_text(text)
    >>> File(folder / "a.csv").digest() == File(folder / "b.csv").digest()
    True
    >>> File(folder / "a.csv").digest() == File(folder / "c.csv").digest()
    False
    >>> [pathlib.Path(path).name for path in File(folder / "[ab].*").paths()]
    ['a.csv', 'b.csv']
    >>> with open(File(folder / "c.csv")) as file:
    ...     file.read()
    '1,3'
    """

    path: str
    """As it was given."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            name: object = os.fspath(path)
        except TypeError:
            name = None
        if not isinstance(name, str) or not name or "\0" in name:
            hint = "; see os.fsdecode" if isinstance(name, bytes) else ""
            raise OptionError(f"File takes a path, and not {reprlib.repr(path)}{hint}")
        object.__setattr__(self, "path", str(name))

    def __fspath__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __str__(self) -> str:
        return self.path

    def paths(self) -> list[str]:
        """Return the files that there are now, sorted; a pattern may match none.

        Raises
        ------
        FileNotFoundError
            If there is nothing at the path, or what cannot be read twice, as a pipe.
        """
        return [path for path in _found(self.path)[1] if not path.endswith("/")]

    def digest(self) -> bytes:
        """Return what stands for the content.

        Raises
        ------
        FileNotFoundError
            If there is nothing at the path, or what cannot be read twice, as a pipe.
        OSError
            If something there cannot be read.
        """
        digest = _digest_of(self.path)
        for found, names in _here.trackers:
            if self.path not in names:
                names.add(self.path)
                found.append((self.path, digest))
        return digest


register_digest(File, lambda file: file.digest())


def is_unchanged(path: str, digest: bytes) -> bool:
    """Return whether ``File(path)`` has this digest still; one that is gone has none."""
    try:
        return _digest_of(path) == digest
    except OSError:
        return False


def _digest_of(path: str) -> bytes:
    try:
        base, paths = _found(path)
        contents = [b"" if each.endswith("/") else _content(each) for each in paths]
    except FileNotFoundError:  # also one that went between the two
        raise FileMissing(path) from None
    if base is None:
        return hashed(b"file", *contents)
    names = (os.fsencode(each[len(base) :].lstrip("/")) for each in paths)
    return hashed(b"files", *itertools.chain.from_iterable(zip(names, contents, strict=True)))


def _found(path: str) -> tuple[str | None, list[str]]:
    """Return what the names start with, which is no content, and files and empty directories.

    The latter end with a slash.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        parts = Path(path).parts
        literal = list(itertools.takewhile(lambda part: not _is_pattern(part), parts))
        if len(literal) == len(parts):
            raise FileMissing(path) from None
        return _matches(Path(*literal), parts[len(literal) :])
    if stat.S_ISDIR(mode):
        return path, sorted(set(_found_in(path)) - {_as_folder(path)})
    if not stat.S_ISREG(mode):
        raise FileMissing(path)
    return None, [path]


def _is_pattern(part: str) -> bool:
    return re.search(r"[*?[]", part) is not None


def _matches(base: Path, parts: Iterable[str]) -> tuple[str, list[str]]:
    # As part of a name, ** is *, here as in the glob module. That one would follow links to
    # directories in circles, though.
    pattern = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts]
    found = set[str]()
    is_kept = _Caches(base)
    for path in base.glob("/".join(pattern)):
        if is_kept.has(path):
            continue
        if path.is_file():
            found.add(str(path))
        elif path.is_dir() and not ("**" in pattern and path.is_symlink()):
            found.update(_found_in(str(path)))
    return "" if base == Path() else str(base), sorted(found)


def _found_in(folder: str) -> Iterator[str]:
    """Yield the files in a folder at any depth, and the folders with nothing in them.

    The folder of a cache is as nothing: it changes with each run.
    """

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        inner = os.path.join(place, "")  # noqa: PTH118 - there may be 100,000
        folders[:] = [each for each in folders if not is_cache(inner + each)]
        if not folders and not names:
            yield _as_folder(place)
        for name in names:
            if os.path.isfile(inner + name):  # noqa: PTH113
                yield inner + name


def _as_folder(path: str) -> str:
    return path.rstrip("/") + "/"


class _Caches:
    """Tells what lies in the directories of caches, below one directory or anywhere."""

    def __init__(self, below: Path | None = None) -> None:
        self._below = below
        self._known: dict[Path, bool] = {}

    def has(self, path: Path) -> bool:
        """Return whether a path is that of a cache, or lies in one."""
        known = self._known.get(path)
        if known is None:
            known = path not in {self._below, path.parent} and (
                self.has(path.parent) or is_cache(path)
            )
            self._known[path] = known
        return known


# Contents -----------------------------------------------------------------------------------------


def facts_learned() -> list[tuple[str, tuple[int, ...], bytes]]:
    """Return the contents that were read since this was last called.

    Returns
    -------
    list
        Of absolute paths, what the system said of each file, and the digests of their contents.
    """
    rows = []
    while _news:
        with contextlib.suppress(KeyError):  # another thread took it
            path, (facts, content) = _news.popitem()
            rows.append((path, facts, content))
    return rows


def learn_facts(rows: Iterable[tuple[str, tuple[int, ...], bytes]]) -> None:
    """Remember what `facts_learned` returned, in this process or an earlier one."""
    for path, facts, content in rows:
        _known.setdefault(path, (tuple(facts), content))


def _content(path: str, tries: int = _TRIES) -> bytes:
    """Return the digest of what is in one file."""
    path = os.path.abspath(path)  # noqa: PTH100 - Path.absolute leaves the dots in
    known = _known.get(path)
    if known is not None and known[0] == _facts(os.stat(path)):  # noqa: PTH116 - there are many
        return known[1]
    started = _now()
    facts, content = _read(path)
    if facts is None:
        return _content(path, tries - 1) if tries > 1 else content
    if max(facts[:2]) + RACY_NS < started:
        _known[path] = _news[path] = facts, content
    return content


def _facts(of: os.stat_result) -> _Facts:
    return of.st_mtime_ns, of.st_ctime_ns, of.st_size, of.st_ino, of.st_dev


def _read(path: str) -> tuple[_Facts | None, bytes]:
    """Return what the system says of a file, unless that changed meanwhile, and its content."""
    # In blocks, and not mapped: a file that is cut short meanwhile would end the process.
    hasher = blake3()
    with unwatched(), Path(path).open("rb", buffering=0) as file:
        before = _facts(os.fstat(file.fileno()))
        while block := file.read(_BLOCK):
            hasher.update(block)
        after = _facts(os.fstat(file.fileno()))
    return before if before == after else None, hasher.digest()


# What a thread does -------------------------------------------------------------------------------


class _Here(threading.local):
    """What this thread collects.

    Attributes
    ----------
    trackers
        For each block of `tracking`, what it has found, and the names in that.
    """

    def __init__(self) -> None:
        self.trackers: list[tuple[list[tuple[str, bytes]], set[str]]] = []


_here: Final = _Here()


@contextlib.contextmanager
def tracking() -> Iterator[list[tuple[str, bytes]]]:
    """Collect the path and the digest of each `File` that this thread digests in this block."""
    found: list[tuple[str, bytes]] = []
    tracker = found, set[str]()
    _here.trackers = [*_here.trackers, tracker]
    try:
        yield found
    finally:
        _here.trackers = [each for each in _here.trackers if each is not tracker]


def undeclared(paths: Iterable[str], declared: Iterable[object]) -> list[str]:
    """Return those of the paths that no `File` stands for, and that are in no cache.

    Parameters
    ----------
    paths
        Files, as `flowpar.caching.watching` gives them.
    declared
        Values; a `File` may lie a few levels deep in containers and attributes.

    Examples
    --------
    >>> import sys
    >>> undeclared([sys.executable, "/data/b.csv"], [{"python": File(sys.executable)}, 1])
    ['/data/b.csv']
    """
    paths = list(paths)
    if not paths:
        return []
    covered = set[str]()
    for file in {file for value in declared for file in _files_in(value)}:
        with contextlib.suppress(OSError):  # one that is gone stands for nothing
            covered.update(map(os.path.realpath, file.paths()))
    left = [path for path in paths if os.path.realpath(path) not in covered]
    is_kept = _Caches()
    return [path for path in left if not is_kept.has(Path(path))]


def _files_in(value: object, depth: int = _DEEPEST) -> Iterator[File]:
    if isinstance(value, File):
        yield value
    elif depth:
        for child in _children(value):
            yield from _files_in(child, depth - 1)


def _children(value: object) -> Iterable[object]:
    """Return what is in a container, or the attributes of an object."""
    if isinstance(value, dict):
        return itertools.chain(value, value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    kind = type(value)
    if kind.__module__ == "builtins" or isinstance(value, (type, ModuleType)):
        return ()
    # Not by getattr, which may run the user's code.
    slots = [each for base in kind.__mro__ for each in vars(base).values()]
    members = [each for each in slots if isinstance(each, MemberDescriptorType)]
    found: list[object] = []
    with contextlib.suppress(AttributeError):
        found += object.__getattribute__(value, "__dict__").values()
    for member in members:
        with contextlib.suppress(AttributeError):  # it was never set
            found.append(member.__get__(value, kind))
    return found
