"""What is known of a key, and how that lies in a row of the index."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

COLUMNS: Final = (
    "key, value, object, size, seconds, created, function, name, place, parts, files, codes, kind"
)
_NUMBER: Final = (float, int)
_TYPES: Final[tuple[Any, ...]] = (
    *(bytes, bytes, (bytes, type(None)), int, _NUMBER, _NUMBER, bytes, str, str),
    *(tuple, tuple, tuple, str),
)


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known of a key: the value that it gave."""

    key: bytes
    value: bytes
    object: bytes | None
    """The digest of the object; None: the value was not kept."""
    size: int
    seconds: float
    created: float
    function: bytes
    """The digest of the function; `Store.components` tells what it was made of."""
    name: str
    place: str
    """The key of the task in its graph, such as ``load[3]``."""
    parts: tuple[tuple[str, bytes, str], ...]
    """Of each argument its name, its digest, and what a person is shown of it."""
    files: tuple[tuple[str, bytes], ...] = ()
    """The files that the value names, each with the digest of its content."""
    codes: tuple[tuple[str, str, bytes], ...] = ()
    """The classes and functions of the user's in the value: module, name, digest of the code."""
    kind: str = "value"
    """Or "expansion": the object is a delayed value, which was returned in place of one."""


def row_of(trace: Trace) -> tuple[Any, ...]:
    """Return the row of a trace."""
    return (
        trace.key,
        trace.value,
        trace.object,
        trace.size,
        trace.seconds,
        trace.created,
        trace.function,
        text_of(trace.name),
        text_of(trace.place),
        _pickled(trace.parts),
        _pickled(trace.files),
        _pickled(trace.codes),
        trace.kind,
    )


def traces_of(rows: Iterable[Sequence[Any]]) -> Iterator[Trace]:
    """Yield the traces of rows; what is none, as its page is damaged, is left out."""
    for row in rows:
        columns = *row[:-4], *map(tuple_of, row[-4:-1]), row[-1]
        if all(map(isinstance, columns, _TYPES)):
            yield Trace(*columns)


def _pickled(values: tuple[Any, ...]) -> bytes:
    return pickle.dumps(values, 4) if values else b""


def tuple_of(data: Any) -> tuple[Any, ...] | None:
    """Return what was pickled; None if it is damaged."""
    if data == b"":
        return ()
    try:
        found = pickle.loads(data)  # noqa: S301 - ours, as the objects are
    except Exception:  # noqa: BLE001 - what is damaged raises anything
        return None
    return found if isinstance(found, tuple) else None


def text_of(text: str) -> str:
    """Return a text that SQLite takes: names of files may have what is no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
