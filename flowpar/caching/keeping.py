"""Keeps values where they are made: in the worker, right after the call that returned them."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowpar.caching.objects import Stored, Written, freeze, write

if TYPE_CHECKING:
    from flowpar.caching.code import FunctionDigester

INLINE_UP_TO: Final = 4096
"""Bytes; smaller objects go into the index with their traces: a file costs more than they do."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the cache is told of a value."""

    digest: bytes | None
    """The digest of the value; None if it has none."""
    stored: Stored | None = None
    """Where it lies; None: it was not kept, or is `data`."""
    data: bytes | None = None
    """A small object itself."""
    object_digest: bytes | None = None
    size: int = 0
    trouble: str = ""
    """Why it was not kept."""
    is_broken: bool = False
    """Whether that is the fault of the disk, and not of the value."""
    seconds: float = 0.0
    """How long the call took, without the keeping."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Digests the values of a batch and writes some of them.

    Attributes
    ----------
    folder
        Of the objects.
    keeps
        Calls whose values are written; of the others only the digest is wanted.
    """

    folder: str
    keeps: frozenset[int]

    def keep(self, index: int, value: object, seconds: float) -> Kept:
        """Return what the cache is to know of a value, now that nobody has changed it."""
        from flowpar.caching.digest import NotDigestible  # noqa: PLC0415 - runs without a cache

        try:
            digest = digester().values.digest(value, "result")
        except NotDigestible as error:
            return Kept(None, trouble=str(error), seconds=seconds)
        if index not in self.keeps:
            return Kept(digest, seconds=seconds)
        try:
            return self._write(digest, freeze(value), seconds)
        except OSError as error:
            why = f"{type(error).__name__}: {error}"
            return Kept(digest, trouble=why, is_broken=True, seconds=seconds)
        except Exception as error:  # noqa: BLE001 - pickling runs the user's code
            return Kept(digest, trouble=f"{type(error).__name__}: {error}", seconds=seconds)

    def _write(self, digest: bytes, written: Written, seconds: float) -> Kept:
        if written.size <= INLINE_UP_TO:
            data = b"".join(written.pieces)
            return Kept(
                digest,
                data=data,
                object_digest=written.digest,
                size=written.size,
                seconds=seconds,
            )
        stored = write(written, Path(self.folder))
        return Kept(
            digest, stored, object_digest=written.digest, size=written.size, seconds=seconds
        )


@functools.cache
def digester() -> FunctionDigester:
    """Return the one of this process, which remembers the functions that it has seen."""
    from flowpar.caching.code import FunctionDigester  # noqa: PLC0415 - as above

    return FunctionDigester()


def kept_by(keeper: Keeper, index: int, value: Any, since: float) -> Kept:
    """Return what the cache is told of the value of a call that began at `since`."""
    return keeper.keep(index, value, time.perf_counter() - since)
