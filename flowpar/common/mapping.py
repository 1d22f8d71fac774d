"""Files of shared memory, mapped into processes, and how they travel: as their names.

A file goes when what its maker has mapped of it is gone. Who pickles its name has either promised
that the maker keeps it until that was loaded, as a run keeps the arguments of its tasks; or gives
the file a second name, under which it stays until the maker's program ends.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import functools
import itertools
import os
import secrets
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from flowpar.errors import PoolError
from flowpar.pickling import keep
from flowpar.pools.depot import write_file
from flowpar.pools.home import nearest, warn_of_disk

_PROT_READ: Final = 1
_PROT_WRITE: Final = 2
_MAP_SHARED: Final = 1
_MAP_PRIVATE: Final = 2
_SECOND_NAME: Final = "-kept"

_numbers = itertools.count(1)


class _Token:
    """What tells the files of this process from those of one that had its number before."""

    text = secrets.token_hex(4)


def new_name(what: str) -> str:
    """Return a name for a file that no other process, before or after, makes.

    Parameters
    ----------
    what
        Begins the name; not a number, by which a depot knows what workers return.
    """
    return f"{what}-{os.getpid()}-{_Token.text}-{next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be mapped, as it travels."""

    path: str
    size: int
    is_writable: bool
    """Whether what is written to it is seen by all."""

    def map(self) -> ctypes.Array[ctypes.c_char]:
        """Return its bytes: those that all share, or a copy of one's own, made when written to.

        Raises
        ------
        PoolError
            If the file is gone.
        """
        if not self.is_writable:
            memory = _map(_open(self.path), self.size, _PROT_READ | _PROT_WRITE, _MAP_PRIVATE)
            weakref.finalize(memory, _unmap, ctypes.addressof(memory), self.size).atexit = False
            return memory
        known = _shared.get(self.path)
        found = None if known is None else known()
        if found is not None:
            return found
        memory = _map(_open(self.path), self.size, _PROT_READ | _PROT_WRITE, _MAP_SHARED)
        _note(memory, self, is_owner=False)
        return memory


@dataclass(frozen=True, slots=True)
class _Region:
    """Where a file is mapped in this process."""

    start: int
    source: Source
    owner: int
    """The process that made the file, or zero: another."""
    memory: weakref.ref[ctypes.Array[ctypes.c_char]]

    def reference(self) -> Source | None:
        """Return what may travel in place of its bytes; None: they have to travel themselves."""
        memory = self.memory()
        if self.owner == os.getpid() and memory is not None and keep(memory, self.source.size):
            return self.source
        if self.source.is_writable and _give_second_name(self.source.path):
            return self.source
        return None


_regions: Final[dict[int, _Region]] = {}
_shared: Final[dict[str, weakref.ref[ctypes.Array[ctypes.c_char]]]] = {}


def make(pieces: Iterable[Any], size: int, *, is_writable: bool) -> ctypes.Array[ctypes.c_char]:
    """Write a new file, and return its bytes, mapped; it goes when they do.

    Parameters
    ----------
    pieces
        What is to be in it; gone through more than once.
    size
        In bytes.
    is_writable
        Whether others see what is written to them; if not, nothing may be written to these.

    Raises
    ------
    OSError
        If there is no room for it, neither in memory nor on disk.
    """
    for folder in nearest().folders:
        path = f"{folder}/{new_name('shared')}"
        if write_file(path, pieces):
            break
    else:
        raise OSError(errno.ENOSPC, f"there is no room for {size} bytes of shared data")
    warn_of_disk(path)
    source = Source(path, size, is_writable)
    protection = _PROT_READ | _PROT_WRITE if is_writable else _PROT_READ
    memory = _map(_open(path), size, protection, _MAP_SHARED)
    _note(memory, source, is_owner=True)
    return memory


def region_at(address: int, size: int) -> _Region | None:
    """Return what is mapped where so many bytes lie; None: something else."""
    while True:
        order = _in_order(len(_regions), _Changes.count)
        at = bisect.bisect_right(order, address) - 1
        if at < 0:
            return None
        region = _regions.get(order[at])
        if region is not None:
            break
        _in_order.cache_clear()  # it went while we looked
    return region if address + size <= region.start + region.source.size else None


class _Changes:
    """How often regions came and went."""

    count = 0


@functools.lru_cache(maxsize=1)
def _in_order(_length: int, _count: int) -> list[int]:
    return sorted(list(_regions))  # noqa: C414 - at once, as others may change it meanwhile


def _note(memory: ctypes.Array[ctypes.c_char], source: Source, *, is_owner: bool) -> None:
    start = ctypes.addressof(memory)
    owner = os.getpid() if is_owner else 0
    known = weakref.ref(memory)
    _regions[start] = _Region(start, source, owner, known)
    _Changes.count += 1
    if source.is_writable:
        _shared[source.path] = known
    # What is mapped must not be unmapped at the end of the interpreter, while it is still in use.
    weakref.finalize(memory, _forget, start, source.size, source.path, owner).atexit = False


def _unmap(start: int, size: int) -> None:
    _libc().munmap(start, size)


def _forget(start: int, size: int, path: str, owner: int) -> None:
    _regions.pop(start, None)  # before others can be given the same addresses
    _unmap(start, size)
    _Changes.count += 1
    known = _shared.get(path)
    if known is not None and known() is None:
        del _shared[path]
    if owner == os.getpid():
        with contextlib.suppress(OSError):  # the whole depot is gone
            os.unlink(path)  # noqa: PTH108 - it may be the end of the interpreter


def _give_second_name(path: str) -> bool:
    """Have a file stay until its maker's program ends; return whether it is still there."""
    try:
        os.link(path, path + _SECOND_NAME)
    except FileExistsError:
        return True
    except OSError:  # its maker has let go of it
        return os.path.exists(path + _SECOND_NAME)  # noqa: PTH110 - as its name
    return True


def _open(path: str) -> int:
    for name in (path, path + _SECOND_NAME):
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    raise PoolError(
        "shared data cannot be used any more: the process that made it has ended, or has let go "
        "of it. Keep it in a variable there as long as others need it"
    )


def _map(handle: int, size: int, protection: int, kind: int) -> ctypes.Array[ctypes.c_char]:
    """Map a file, and close it; the caller sees to its end.

    Not by `mmap`, which keeps a descriptor open for each mapping before Python 3.13.
    """
    try:
        address = _libc().mmap(None, size, protection, kind, handle, 0)
        if address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)
    return (ctypes.c_char * size).from_address(address)


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_int
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        number,
        number,
        number,
        ctypes.c_ssize_t,
    )
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return library


def _after_fork() -> None:
    _Token.text = secrets.token_hex(4)


os.register_at_fork(after_in_child=_after_fork)
