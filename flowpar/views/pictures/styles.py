"""What a status and a time look like: colours, marks beside them, borders, and the legend.

No colour says anything alone: the word stands in the box, with a mark before it.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from flowpar.views.pictures.drawing import Note, Palette, duration

COLOURS: Final = ("auto", "function", "status", "time")


@dataclass(frozen=True, slots=True)
class Style:
    """How a status is shown."""

    colour: str
    mark: str
    word: str
    why: str = ""
    """Said once, in the legend."""


_NOT_YET: Final = "#eeeeee"

STYLES: Final[dict[str, Style]] = {
    "failed": Style("#e34a33", "✗", "failed"),
    "running": Style("#fdae6b", "►", "running"),
    "run": Style("#fdae6b", "►", "would run"),
    "done": Style("#74c476", "✓", "done"),
    "cached": Style("#9ecae1", "↺", "cached"),
    "skipped": Style(_NOT_YET, "-", "skipped"),
    "ready": Style(_NOT_YET, "…", "ready"),
    "waiting": Style(_NOT_YET, "…", "waiting"),
    "unknown": Style(_NOT_YET, "?", "unknown", "until others ran"),
}
"""By status, and in the order in which shares are shown: what people look for comes first."""

LEAST_SHARE: Final = 0.04
"""A stripe is at least so wide: one that failed of thousands is what people look for."""

_COLD, _HOT = (255, 245, 240), (239, 59, 44)
MOST_DECADES: Final = 4
"""Times further below the longest than this all look alike."""


def style_of(status: str) -> Style:
    """Return how a status is shown; unknown ones are grey."""
    return STYLES.get(status) or Style(_NOT_YET, "", status)


def said(status: str | None, more: str = "") -> str | None:
    """Return a status in words, its mark before it.

    Examples
    --------
    >>> said("done")
    '✓ done'
    """
    if status is None:
        return None
    style = style_of(status)
    word = f"{style.mark} {style.word}".strip()
    return f"{word}: {more}" if more else word


def counted(statuses: Iterable[str | None]) -> dict[str, int]:
    """Return how many have each status that any has, in the order of `STYLES`."""
    counts = collections.Counter(status for status in statuses if status is not None)
    order = {status: number for number, status in enumerate(STYLES)}
    return dict(sorted(counts.items(), key=lambda pair: order.get(pair[0], len(order))))


def summed(counts: Mapping[str, int]) -> list[str]:
    """Return counts in words.

    Examples
    --------
    >>> summed({"failed": 1, "done": 1234})
    ['✗ 1 failed', '✓ 1,234 done']
    """
    styles = ((style_of(status), count) for status, count in counts.items())
    return [f"{style.mark} {count:,} {style.word}".strip() for style, count in styles]


class Ink(Protocol):
    """Gives boxes their colours, and says what those mean."""

    def fill(self, function: str, statuses: Sequence[str | None], seconds: float | None) -> str:
        """Return the colour of a box for some tasks of a function."""

    def stripes(self, statuses: Sequence[str | None]) -> tuple[tuple[str, float], ...]:
        """Return the colours that share a box; none, if it has one."""

    def legend(self) -> list[Note]:
        """Return what the colours mean that were used."""


class ByFunction:
    """Each function has a colour of its own."""

    def __init__(self) -> None:
        self._palette = Palette()

    def fill(self, function: str, statuses: Sequence[str | None], seconds: float | None) -> str:
        """Return the colour of the function."""
        del statuses, seconds
        return self._palette.colour(function)

    def stripes(self, statuses: Sequence[str | None]) -> tuple[tuple[str, float], ...]:
        """Return none: it has one."""
        del statuses
        return ()

    def legend(self) -> list[Note]:
        """Return nothing: the names are in the boxes."""
        return []


class ByStatus:
    """Each status has a colour; a box for several shows their shares."""

    def __init__(self) -> None:
        self._seen: collections.Counter[str] = collections.Counter()

    def fill(self, function: str, statuses: Sequence[str | None], seconds: float | None) -> str:
        """Return the colour of the first of the statuses."""
        del function, seconds
        counts = counted(statuses)
        self._seen.update(counts)
        return style_of(next(iter(counts))).colour if counts else "#ffffff"

    def stripes(self, statuses: Sequence[str | None]) -> tuple[tuple[str, float], ...]:
        """Return the share of each colour."""
        counts: collections.Counter[str] = collections.Counter()
        for status, count in counted(statuses).items():
            counts[style_of(status).colour] += count
        wanted = {
            colour: max(count / counts.total(), LEAST_SHARE) for colour, count in counts.items()
        }
        whole = sum(wanted.values())
        shares = tuple((colour, share / whole) for colour, share in wanted.items())
        return shares if len(shares) > 1 else ()

    def legend(self) -> list[Note]:
        """Return a note for each status, with how many tasks have it."""
        counts = counted(self._seen.elements())
        styles = map(style_of, counts)
        return [
            Note(f"{text} {style.why}".strip(), style.colour)
            for text, style in zip(summed(counts), styles, strict=True)
        ]


class ByTime:
    """From white to red: how long it took, on a logarithmic scale.

    Parameters
    ----------
    seconds
        Of all boxes; None of one that did not run.
    """

    def __init__(self, seconds: Iterable[float | None]) -> None:
        found = list(seconds)
        known = [each for each in found if each]
        self._high = max(known, default=1.0)
        least = min(known, default=self._high)
        # At least a factor of ten, or a difference of nothing would look like one of all.
        self._low = min(max(least, self._high / 10**MOST_DECADES), self._high / 10)
        self._has_none = None in found
        self._is_empty = not known

    def fill(self, function: str, statuses: Sequence[str | None], seconds: float | None) -> str:
        """Return the colour of a time."""
        del function, statuses
        return _NOT_YET if seconds is None else self._ramp(seconds)

    def stripes(self, statuses: Sequence[str | None]) -> tuple[tuple[str, float], ...]:
        """Return none: it has one."""
        del statuses
        return ()

    def legend(self) -> list[Note]:
        """Return five times between the shortest and the longest, and what did not run."""
        notes = []
        if not self._is_empty:
            span = self._high / self._low
            times = [self._low * span ** (step / 4) for step in range(5)]
            notes = [Note(duration(each), self._ramp(each)) for each in times]
        if self._has_none:
            notes.append(Note("no time known", _NOT_YET))
        return notes

    def _ramp(self, seconds: float) -> str:
        share = math.log(max(seconds, self._low) / self._low) / math.log(self._high / self._low)
        mixed = (
            round(cold + (hot - cold) * min(share, 1.0))
            for cold, hot in zip(_COLD, _HOT, strict=True)
        )
        return "#" + "".join(f"{part:02x}" for part in mixed)
