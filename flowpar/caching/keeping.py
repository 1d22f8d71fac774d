"""Keeps values where they are made: in the worker, right after the call that returned them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowpar.caching.objects import INLINE_UP_TO, Stored, Written, freeze, thaw, write

if TYPE_CHECKING:
    from flowpar.caching.code import FunctionDigester


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
    files: tuple[tuple[str, bytes], ...] = ()
    """The files that the value names, each with the digest of its content."""
    opened: tuple[str, ...] = ()
    """Files that the call read and nobody declared."""


@dataclass(frozen=True, slots=True)
class Small:
    """A value as the bytes of a small object, which travel as they are."""

    data: bytes
    digest: bytes

    def load(self) -> Any:
        """Return the value.

        Raises
        ------
        ObjectDamaged
            If the bytes are not what was written.
        """
        return thaw(memoryview(bytearray(self.data)), self.digest)


@dataclass(frozen=True, slots=True)
class Keeper:
    """Digests the values of a batch and writes some of them.

    Attributes
    ----------
    folder
        Of the objects.
    digests
        Calls of whose values the digest is wanted.
    keeps
        Those of them whose values are written.
    """

    folder: str
    digests: frozenset[int]
    keeps: frozenset[int]

    def keep(self, index: int, value: object, seconds: float) -> Kept:
        """Return what the cache is to know of a value, now that nobody has changed it."""
        from flowpar.caching.digest import NotDigestible  # noqa: PLC0415 - runs without a cache
        from flowpar.caching.files import tracking  # noqa: PLC0415 - as above

        try:
            with tracking() as found:
                digest = digester().values.digest(value, "result")
        except NotDigestible as error:
            return Kept(None, trouble=str(error), seconds=seconds)
        kept = self._written(index, value, digest, seconds)
        return replace(kept, files=tuple(found)) if found else kept

    def _written(self, index: int, value: object, digest: bytes, seconds: float) -> Kept:
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


def keep_expansion(folder: str, task: object) -> Kept:
    """Keep the delayed value that a task returned in place of one."""
    keeper = Keeper(folder, frozenset(), frozenset())
    try:
        return keeper._write(b"", freeze(task), 0.0)
    except OSError as error:
        return Kept(None, trouble=f"{type(error).__name__}: {error}", is_broken=True)
    except Exception as error:  # noqa: BLE001 - pickling runs the user's code
        return Kept(None, trouble=f"{type(error).__name__}: {error}")


class Keeping:
    """Keeps the values of one batch, made by this thread, and watches what its calls read.

    Parameters
    ----------
    keeper
        What is kept.
    """

    def __init__(self, keeper: Keeper) -> None:
        from flowpar.caching.watching import Watch  # noqa: PLC0415 - as above

        self.kept: dict[int, Kept] = {}
        self._keeper = keeper
        self._watch = Watch() if keeper.keeps else None

    def begin(self) -> None:
        """Forget what the last call read."""
        if self._watch is not None:
            self._watch.take()

    def keep(self, index: int, value: object, since: float, declared: Iterable[object]) -> None:
        """Keep the value of a call that began at `since`, and was given what is `declared`."""
        keeper = self._keeper
        if index not in keeper.digests:
            return
        opened = self._watch.take() if self._watch is not None else []
        kept = keeper.keep(index, value, time.perf_counter() - since)
        if opened:
            kept = replace(kept, opened=self._undeclared(opened, declared))
        self.kept[index] = kept

    def _undeclared(self, opened: list[str], declared: Iterable[object]) -> tuple[str, ...]:
        from flowpar.caching.files import undeclared  # noqa: PLC0415 - as above

        own = str(Path(self._keeper.folder).parent) + os.sep
        opened = [path for path in opened if not path.startswith(own)]
        return tuple(undeclared(opened, declared))

    def close(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.close()
