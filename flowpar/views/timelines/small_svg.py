"""A timeline as a plain picture, soon made: for the live page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flowpar.views.pictures.drawing import shown
from flowpar.views.pictures.svg import escaped
from flowpar.views.timelines.bars import OTHERS, lay_out
from flowpar.views.timelines.spans import History
from flowpar.views.timelines.style import (
    FAILED_COLOUR,
    MOVING_COLOUR,
    WAITING_COLOUR,
    colours_of,
    label_of,
    name_of,
    places_of,
    subtitle_of,
)

_ROW: Final = 26
_WIDTH: Final = 1_000


def timeline_svg(history: History) -> str:
    """Return which worker makes which call when, as a plain picture."""
    layout = lay_out(history, columns=500, most=3_000)
    places, colours = places_of(layout), colours_of(history)
    height = sum(place.height for place in places) * _ROW + 22
    scale = _WIDTH / layout.seconds
    top = max((place.bottom + place.height for place in places), default=0.0)

    def rectangle(span: tuple[float, float], low: float, high: float, look: str) -> str:
        left, right = span
        return (
            f'<rect x="{150 + left * scale:.1f}" y="{(top - high) * _ROW:.1f}" '
            f'width="{max(0.3, (right - left) * scale):.1f}" '
            f'height="{(high - low) * _ROW:.1f}" {look}'
        )

    def drawn() -> Iterator[str]:
        for each, place in zip(layout.rows, places, strict=True):
            middle = (top - place.bottom - place.height / 2) * _ROW + 4
            label = escaped(label_of(each).partition("\n")[0])
            yield f'<text x="144" y="{middle:.0f}" text-anchor="end">{label}</text>'
            for strips, colour in ((each.waiting, WAITING_COLOUR), (each.moving, MOVING_COLOUR)):
                for strip in strips:
                    span = (strip.start, strip.end)
                    look = f'fill="{colour}"/>'
                    yield rectangle(span, place.line(0), place.line(strip.share), look)
            for bar in each.bars:
                edge = f' stroke="{FAILED_COLOUR}" stroke-width="2"' if bar.failed else ""
                title = escaped(
                    shown(history.key(bar.span.task), 60)
                    if bar.span is not None
                    else name_of(bar.function, history, layout)
                )
                look = f'fill="{colours[bar.function]}"{edge}><title>{title}</title></rect>'
                yield rectangle(
                    (bar.start, bar.end), place.bar(bar.bottom), place.bar(bar.top), look
                )

    has_others = any(bar.function == OTHERS for each in layout.rows for bar in each.bars)
    names = [*layout.shown, *([OTHERS] if has_others else [])]
    legend = "".join(
        f'<span><b style="background:{colours[number]}"></b>'
        f"{escaped(name_of(number, history, layout))}</span>"
        for number in names
    )
    end = (
        f'<text x="{150 + _WIDTH}" y="{height - 6:.0f}" text-anchor="end">'
        f"{layout.seconds:.2f} s</text>"
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH + 160} {height:.0f}" width="100%" font-size="11" '
        f'font-family="sans-serif">{"".join(drawn())}{end}</svg><p class=legend>{legend}</p>'
        f"<p>{escaped(subtitle_of(history, layout))}</p>"
    )
