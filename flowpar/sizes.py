"""How much memory values take, about."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any, Final

from flowpar.pools.depot import Held
from flowpar.pools.transport import KEPT, TINY_TYPES, Packed

_DEPTH: Final = 4
_SAMPLE: Final = 8
"""Parts of a container that are weighed, for all of them."""


def size_of(value: object, *, deep: bool = False) -> int:
    """Return how many bytes a value takes, about; 0 for what is on disk.

    Parameters
    ----------
    value
        Anything.
    deep
        Whether what is inside containers and objects counts; a sample of it is looked at.

    Examples
    --------
    >>> size_of(["flowpar" * 1000] * 10) < 200, size_of(["flowpar" * 1000] * 10, deep=True) > 70_000
    (True, True)
    """
    kind = type(value)
    if kind is Held:
        return value.size  # type: ignore[attr-defined,no-any-return]
    if kind is Packed:
        return len(value.data)  # type: ignore[attr-defined]
    if kind in KEPT:
        return 0
    return _about(value, _DEPTH if deep else 0)


def _about(value: object, depth: int) -> int:
    try:
        size = getattr(value, "nbytes", None)
        if isinstance(size, int):
            return size
        own = sys.getsizeof(value, 0)
    except Exception:  # noqa: BLE001 - attributes of the user's may do anything
        return 0
    count, parts = _parts(value) if depth else (0, iter(()))
    sample = [_about(part, depth - 1) for part in itertools.islice(parts, _SAMPLE)]
    return own + (sum(sample) * count // len(sample) if sample else 0)


def _members(kind: type) -> set[str]:
    return {name for each in kind.__mro__[:-1] for name in vars(each)}


def _parts(value: Any) -> tuple[int, Iterator[object]]:
    """Return how many parts a value has, and those."""
    kind = type(value)
    if kind in TINY_TYPES or kind in {str, bytes, bytearray}:
        return 0, iter(())
    if isinstance(value, dict):
        return len(value), iter(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return len(value), iter(value)
    fields = getattr(value, "__dict__", None)
    # Not of a table: it has weighed its columns itself.
    if isinstance(fields, dict) and "__sizeof__" not in _members(kind):
        return len(fields), iter(fields.values())
    return 0, iter(())
