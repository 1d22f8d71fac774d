"""Keeps values where they are made: in the worker, right after the call that returned them."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from flowpar.caching.objects import INLINE_UP_TO, Stored, Written, freeze, thaw, write

if TYPE_CHECKING:
    from flowpar.caching.code import Code, FunctionDigester


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
    codes: tuple[tuple[str, str, bytes], ...] = ()
    """The user's classes and functions in the value: module, name, digest of the code."""
    opened: tuple[str, ...] = ()
    """Files that the call read and nobody declared."""
    is_foreign: bool = False
    """Whether other code made it than its key is of."""


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
class Expected:
    """The code that a key was made of, to be compared where it runs.

    A process that has imported a module after it was edited, or before it was reloaded elsewhere,
    has other code, and what that gives must not be kept.
    """

    digest: bytes
    imported: frozenset[tuple[str, str, bytes]] | None
    """Kind, name and digest of what workers import; None: all of it, since its name is sent."""

    def is_that_of(self, function: Callable[..., object]) -> bool:
        """Return whether a function has this code here."""
        from flowpar.caching.digest import NotDigestible  # noqa: PLC0415 - runs without a cache

        try:
            code = digester().code(function)
        except NotDigestible:  # something here is not what it is in the parent
            return False
        if code.digest == self.digest:
            return True
        # What travels by value is that of the parent. Without its file it has another digest.
        return self.imported is not None and self.imported <= imported_of(code)


_COMPARED: Final = frozenset({"helper", "class", "global", "default", "closure", "opaque"})


def imported_of(code: Code) -> frozenset[tuple[str, str, bytes]]:
    """Return what a function uses that does not come with it: what imported modules hold.

    What the main module holds travels by value, be it a function, a class or a constant.
    """
    from flowpar.caching.origins import is_main  # noqa: PLC0415 - runs without a cache

    found = (
        (each.kind, each.name, each.digest)
        for each in code.components
        if each.kind == "package" or (each.kind in _COMPARED and not is_main(each.home))
    )
    return frozenset(found)


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
    codes
        By number of a function, where it runs in another process: what its code should be there.
    """

    folder: str
    digests: frozenset[int]
    keeps: frozenset[int]
    codes: Mapping[int, Expected] = field(default_factory=dict)

    def keep(self, index: int, value: object, seconds: float) -> Kept:
        """Return what the cache is to know of a value, now that nobody has changed it."""
        from flowpar.caching.digest import NotDigestible  # noqa: PLC0415 - runs without a cache
        from flowpar.caching.files import tracking  # noqa: PLC0415 - as above

        try:
            with tracking() as found, digester().noting() as codes:
                digest = digester().values.digest(value, "result")
        except NotDigestible as error:
            return Kept(None, trouble=str(error), seconds=seconds)
        kept = self._written(index, value, digest, seconds)
        if found or codes:
            named = tuple((*place, code) for place, code in codes.items())
            kept = replace(kept, files=tuple(found), codes=named)
        return kept

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


_compared: dict[tuple[int, Expected], bool] = {}


def _is_as_expected(expected: Expected, number: int, function: Any) -> bool:
    known = _compared.get((number, expected))
    if known is None:
        function = getattr(function, "function", function)  # of a coroutine that runs alone
        known = _compared[number, expected] = expected.is_that_of(function)
    return known


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

    def __init__(
        self, keeper: Keeper, functions: Mapping[int, Callable[..., object]] = MappingProxyType({})
    ) -> None:
        from flowpar.caching.watching import Watch  # noqa: PLC0415 - as above

        self.kept: dict[int, Kept] = {}
        self._keeper = keeper
        self._others = {
            number
            for number, expected in keeper.codes.items()
            if not _is_as_expected(expected, number, functions[number])
        }
        self._watch = Watch() if keeper.keeps else None

    def begin(self) -> None:
        """Forget what the last call read."""
        if self._watch is not None:
            self._watch.take()

    def keep(
        self, call: tuple[int, int], value: object, since: float, declared: Iterable[object]
    ) -> None:
        """Keep the value of a call that began at `since`, and was given what is `declared`.

        The call is named by its index and the number of its function.
        """
        keeper, (index, number) = self._keeper, call
        if index not in keeper.digests:
            return
        opened = self._watch.take() if self._watch is not None else []
        if number in self._others:
            # Its digest is right all the same: it is that of the value.
            keeper = Keeper(keeper.folder, keeper.digests, frozenset())
        kept = keeper.keep(index, value, time.perf_counter() - since)
        if number in self._others:
            kept = replace(kept, is_foreign=True)
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
