"""What a picture of a graph shows: boxes and arrows, before anybody has placed them."""

from __future__ import annotations

import colorsys
import unicodedata
from dataclasses import dataclass
from typing import Final

LONGEST_LABEL: Final = 200
LONGEST_TITLE: Final = 2_000
"""Graphviz 2.42 fails on strings of about 16,000 characters, and escapes make them longer."""

TIMES: Final = "\N{MULTIPLICATION SIGN}"
MICRO: Final = "\N{MICRO SIGN}"

LEGEND_COLUMNS: Final = 90
"""How long a line of the legend gets at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One task, or all those of one function. Its texts can be shown anywhere as they are."""

    label: str
    detail: str
    """Status, pool and seconds, as far as they are known; may be empty."""
    title: str
    """The label, not cut, and why."""
    colour: str
    """As ``#rrggbb``."""
    status: str | None
    stripes: tuple[tuple[str, float], ...] = ()
    """Colours, and the shares of the box that they fill; empty: it has one colour."""
    cluster: str | None = None
    """Module or group that it belongs to, if those are shown."""
    is_critical: bool = False
    """Whether it is on the critical path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """One edge, or all those between two functions; from a dependency to a dependent."""

    start: int
    """Place in `Drawing.boxes`."""
    end: int
    label: str
    """How many edges it stands for; empty if that is one."""
    order_only: bool
    """Whether no value passes: the dependent runs after, and that is all."""
    is_critical: bool = False
    """Whether it is on the critical path."""


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the legend: what a colour means, or something of the whole picture."""

    text: str
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes in the order of the graph, and arrows between them by their places."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    legend: tuple[Note, ...] = ()
    rankdir: str | None = None
    """"LR": arrows from left to right; "TB": downwards; None: as there is room."""

    def legend_lines(self) -> list[list[Note]]:
        """Return the legend in lines that are not too long."""
        lines: list[list[Note]] = []
        width = 0
        for note in self.legend:
            wanted = columns(note.text) + len(LEGEND_GAP)
            if not lines or width + wanted > LEGEND_COLUMNS:
                lines.append([])
                width = 0
            lines[-1].append(note)
            width += wanted
        return lines


LEGEND_GAP: Final = "   "
"""Between two notes of a line."""


class Palette:
    """Gives every function a colour of its own.

    Parameters
    ----------
    lights
        How light the colours are, in turn: pale ones where text stands on them.
    saturation
        How colourful.
    """

    def __init__(self, lights: tuple[float, ...] = (0.86,), saturation: float = 0.65) -> None:
        self._lights = lights
        self._saturation = saturation
        self._colours: dict[str, str] = {}

    def colour(self, function: str) -> str:
        """Return the colour of a function, as ``#rrggbb``."""
        known = self._colours.get(function)
        if known is None:
            # Steps of the golden ratio keep any number of hues apart.
            number = len(self._colours)
            hue = (0.58 + 0.618034 * number) % 1
            light = self._lights[number % len(self._lights)]
            red, green, blue = colorsys.hls_to_rgb(hue, light, self._saturation)
            known = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
            self._colours[function] = known
        return known


def joined(*parts: str | None) -> str:
    """Return what is known of some parts in one line."""
    return " · ".join(shown(part, LONGEST_LABEL) for part in parts if part)


def duration(seconds: float) -> str:
    """Return a time for people.

    Examples
    --------
    >>> duration(0.25), duration(2.5)
    ('250 ms', '2.5 s')
    """
    if seconds < 1e-3:  # noqa: PLR2004 - a unit
        return f"{seconds * 1e6:.0f} {MICRO}s"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:,.0f} s"  # noqa: PLR2004 - enough digits


def shown(text: str, longest: int) -> str:
    r"""Return a text with visible escapes for what XML cannot hold, cut to a length.

    Examples
    --------
    >>> print(shown("tab\tbell\x07", 200))
    tab\tbell\x07
    >>> shown("abcdef", 4)
    'abc…'
    """
    cut = text[: longest + 1]
    safe = cut if cut.isprintable() else "".join(map(_visible, cut))
    return safe if len(safe) <= longest else safe[: longest - 1] + "…"


def _visible(char: str) -> str:
    # Control characters and lone surrogates, and the two that Unicode has declared to be none.
    hidden = unicodedata.category(char) in {"Cc", "Cs"} or char in "\ufffe\uffff"
    return char.encode("unicode_escape").decode("ascii") if hidden else char


def columns(text: str) -> int:
    """Return how many columns a text takes in a font of fixed width."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
