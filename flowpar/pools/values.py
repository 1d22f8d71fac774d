"""The values that the calls of one batch take, and what keeps one call from spoiling another's.

In a process, and wherever a cache keeps values, each task gets a copy of its own of what another
task returned, so it may write to it: what it does then does not depend on which tasks share a
batch, and nothing is kept that was made of what another has changed. A value that is wanted
elsewhere, or by more than one call, is sealed as soon as it is there, and loaded anew for each who
takes it. What lies in a file is mapped, and not copied.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from flowpar.caching.keeping import Kept, Small
from flowpar.caching.objects import Stored
from flowpar.errors import TaskError
from flowpar.pools.depot import Deposit, Depot
from flowpar.pools.transport import KEPT, SEALED, Batch, Report, pack, references
from flowpar.task import Call


class NotComputed(LookupError):
    """A value that is not there, because its call failed, was expanded or was not made."""


class Values(dict[int, Any]):
    """Values by index; one that is sealed is loaded anew for each call that takes it.

    Who makes the calls clears `loaded` before each.

    Raises
    ------
    NotComputed
        If a value is missing.
    TaskError
        If one cannot be loaded.
    """

    __slots__ = ("damaged", "loaded", "sealed")

    def __init__(self, inputs: Mapping[int, Any]) -> None:
        self.damaged: list[int] = []
        """Values that were kept, and cannot be read any more."""
        self.loaded: dict[int, Any] = {}
        """What one call has taken so far: who takes a value twice gets one object."""
        self.sealed = {i: value for i, value in inputs.items() if type(value) in SEALED}
        super().__init__(
            {i: value for i, value in inputs.items() if i not in self.sealed}
            if self.sealed
            else inputs
        )

    def __missing__(self, index: int) -> Any:
        if index in self.loaded:
            return self.loaded[index]
        sealed = self.sealed.get(index)
        if sealed is None:
            raise NotComputed(index)
        try:
            found = self.loaded[index] = sealed.load()
        except (Exception, SystemExit) as error:
            if type(sealed) in KEPT:  # it can be made again
                del self.sealed[index]
                self.damaged.append(index)
                raise NotComputed(index) from error
            raise TaskError(
                f"a value that this task needs could not be loaded: {type(error).__name__}: {error}"
            ) from error
        return found


class Reading(dict[int, Any]):
    """The values for calls that only read: items and attributes. They share one copy of each."""

    __slots__ = ("_values",)

    def __init__(self, values: Values) -> None:
        self._values = values

    def __missing__(self, index: int) -> Any:
        found = self._values[index]
        if index in self._values.sealed:
            self[index] = found
        return found


def sealed_by(kept: Kept | None) -> Stored | Small | None:
    """Return what stands for a value that the cache has; None if it has not."""
    if kept is None:
        return None
    if kept.data is not None and kept.object_digest is not None:
        return Small(kept.data, kept.object_digest)
    return kept.stored


class Isolation:
    """Seals the values of one batch of which several calls, or others, take one.

    Parameters
    ----------
    batch
        Which.
    depot, mark
        As for `pack`.
    """

    def __init__(self, batch: Batch, depot: Depot | None, mark: int) -> None:
        self._batch = batch
        self._depot = depot
        self._mark = mark
        self._uses: collections.Counter[int] | None = None
        self._deposits: dict[int, Deposit] = {}

    def seal(self, at: int, value: object, values: Values, kept: Kept | None) -> object | None:
        """Return what stands for a value from now on; None: the value itself may.

        Parameters
        ----------
        at
            Position in the batch of the call that returned it.
        value
            What it returned.
        values
            What there was before it.
        kept
            What the cache has of it.
        """
        call = self._batch.calls[at]
        if call[0] in self._batch.wanted and kept is not None and kept.stored is not None:
            return kept.stored
        if self._uses_of(call[0]) < 2 and not self._is_part(call, values):  # noqa: PLR2004 - two
            return None
        known = sealed_by(kept)
        if known is not None:
            return known
        try:
            sealed = pack(value, self._depot, self._mark)
        except Exception:  # noqa: BLE001 - who sends it says so; here it can be used as it is
            return None
        if isinstance(sealed, Deposit):
            self._deposits[call[0]] = sealed
        return sealed

    def close(self, report: Report) -> None:
        """Take away what the report names not."""
        for index, deposit in self._deposits.items():
            if report.values.get(index) is not deposit:
                deposit.remove()

    def _is_part(self, call: Call, values: Values) -> bool:
        """Return whether the value of a call may share memory with what others read."""
        return call[1] in self._batch.readers and any(
            need in values.sealed for need in references(call)
        )

    def _uses_of(self, index: int) -> int:
        if self._uses is None:
            batch = self._batch
            self._uses = collections.Counter((*batch.wanted, *batch.lent))
            self._uses.update(need for call in batch.calls for need in references(call))
        return self._uses[index]
