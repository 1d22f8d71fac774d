"""A drawing as SVG, by the engine that is always there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from flowpar.views.pictures.drawing import LEGEND_GAP, Arrow, Box, Drawing, Note, columns
from flowpar.views.pictures.layered import Frame, Layout, lay_out

_FONT_SIZE: Final = 11
_COLUMN: Final = 6.65
"""Pixels that a character takes, in the fixed fonts of common systems."""
_SMALL: Final = 9
_SMALL_COLUMN: Final = 5.5
_LINE: Final = 14

_SHORTEST: Final = 0.5
"""A line is left out if it is shorter: the head of an arrow would point anywhere."""

_LEGEND_LINE: Final = 20
_LEGEND_COLUMN: Final = 6.05
_LEGEND_SIZE: Final = 10

_BORDERS: Final = {
    "failed": 'stroke="#8b0000" stroke-width="3"',
    "running": 'stroke="#d94801" stroke-width="2.5"',
    "cached": 'stroke="#1565c0" stroke-width="1.5" stroke-dasharray="2 2"',
    "skipped": 'stroke="#888" stroke-dasharray="5 3"',
    "waiting": 'stroke="#888" stroke-dasharray="5 3"',
    "ready": 'stroke="#888" stroke-dasharray="5 3"',
    "unknown": 'stroke="#888" stroke-dasharray="5 3"',
}


def to_svg(drawing: Drawing) -> str:
    """Return a drawing as an SVG document."""
    layout = lay_out(drawing, [_size(box) for box in drawing.boxes])
    return "\n".join(_document(drawing, layout))


def _size(box: Box) -> tuple[float, float]:
    small = max(columns(box.detail), columns(box.cluster or ""))
    widest = max(columns(box.label) * _COLUMN, small * _SMALL_COLUMN)
    lines = 1 + bool(box.detail) + bool(box.cluster)
    return widest + 14, _LINE * lines + 8


def legend_width(line: list[Note]) -> float:
    """Return how wide a line of a legend is."""
    return sum(columns(note.text) + len(LEGEND_GAP) for note in line) * _LEGEND_COLUMN


def legend_line(line: list[Note], x: float, y: float) -> str:
    """Return a line of a legend as SVG; at its left, on its base line."""
    parts = []
    for note in line:
        width = columns(note.text) * _LEGEND_COLUMN
        if note.colour is not None:
            parts.append(
                f'<rect class="legend" x="{x:.1f}" y="{y - 9.5:.1f}" width="{width + 8:.1f}" '
                f'height="13" fill="{note.colour}" stroke="#999" stroke-width="0.5"/>'
            )
        # Told how long to be, as other fonts are wider.
        parts.append(
            f'<text class="legend" x="{x + 4:.1f}" y="{y:.1f}" font-size="{_LEGEND_SIZE}" '
            'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" text-anchor="start" '
            f'textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs">{escaped(note.text)}</text>'
        )
        x += width + len(LEGEND_GAP) * _LEGEND_COLUMN
    return "".join(parts)


def _document(drawing: Drawing, layout: Layout) -> Iterator[str]:
    frame, horizontal, routes = layout.frame, layout.is_horizontal, layout.cells.routes
    size = (round(frame.length), round(frame.breadth))
    lines = drawing.legend_lines()
    header = _LEGEND_LINE * len(lines) + 6 if lines else 0
    width, height = size if horizontal else size[::-1]
    width = max([width, *(round(legend_width(line)) + 24 for line in lines)])
    height += header
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-size="{_FONT_SIZE}" text-anchor="middle" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" xml:space="preserve">'
    )
    yield (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0.5 8 4 0 7.5z" fill="#555"/></marker></defs>'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    for number, line in enumerate(lines):
        yield legend_line(line, 14, 20 + number * _LEGEND_LINE)
    yield f'<g transform="translate(0 {header})">'
    yield '<g fill="none" stroke="#777" marker-end="url(#tip)">'
    for arrow, route in zip(drawing.arrows, routes, strict=True):
        yield _arrow(arrow, route, frame, horizontal=horizontal)
    yield "</g>"
    for arrow, route in zip(drawing.arrows, routes, strict=True):
        if arrow.label:
            yield _arrow_label(arrow, route, frame, horizontal=horizontal)
    for cell, box in enumerate(drawing.boxes):
        yield _box(cell, box, frame, horizontal=horizontal)
    yield "</g>"
    yield "</svg>\n"


def _xy(along: float, across: float, *, horizontal: bool) -> str:
    return f"{along:.0f} {across:.0f}" if horizontal else f"{across:.0f} {along:.0f}"


def _arrow(arrow: Arrow, route: list[int] | None, frame: Frame, *, horizontal: bool) -> str:
    dashes = ' stroke-dasharray="4 3"' if arrow.order_only else ""
    dashes += ' stroke="#222" stroke-width="2.5"' if arrow.is_critical else ""
    steps = _loop(arrow.start, frame) if route is None else _steps(route, frame)
    if route is not None and route[0] != arrow.start:
        dashes += ' marker-end="none" marker-start="url(#tip)"'  # one that closes a cycle
    path = " ".join(
        kind + " ".join(_xy(*point, horizontal=horizontal) for point in points)
        for kind, points in steps
    )
    return f'<path d="{path}"{dashes}/>'


_Step = tuple[str, list[tuple[float, float]]]


def _steps(route: list[int], frame: Frame) -> Iterator[_Step]:
    """Yield the path of an arrow: straight through layers, curved between them."""
    first, last = route[0], route[-1]
    middle = (frame.starts[frame.rank[first]] + frame.ends[frame.rank[first]]) / 2
    at = middle + frame.sizes[first][0] / 2
    yield "M", [(at, frame.across[first])]
    for cell, following in itertools.pairwise(route):
        start, here = frame.ends[frame.rank[cell]], frame.across[cell]
        end, there = frame.starts[frame.rank[following]], frame.across[following]
        between = (start + end) / 2
        if start - at > _SHORTEST:
            yield "L", [(start, here)]
        yield "C", [(between, here), (between, there), (end, there)]
        at = end
    middle = (frame.starts[frame.rank[last]] + frame.ends[frame.rank[last]]) / 2
    tip = middle - frame.sizes[last][0] / 2
    if tip - at > _SHORTEST:
        yield "L", [(tip, frame.across[last])]


def _loop(cell: int, frame: Frame) -> Iterator[_Step]:
    """Yield the path of an arrow from a box to itself."""
    rank = frame.rank[cell]
    middle = (frame.starts[rank] + frame.ends[rank]) / 2
    edge = frame.across[cell] + frame.sizes[cell][1] / 2
    yield "M", [(middle + 12, edge)]
    yield "C", [(middle + 20, edge + 14), (middle - 20, edge + 14), (middle - 12, edge)]


def _arrow_label(arrow: Arrow, route: list[int] | None, frame: Frame, *, horizontal: bool) -> str:
    anchor = ""
    if route is None:
        rank = frame.rank[arrow.start]
        along = (frame.starts[rank] + frame.ends[rank]) / 2 + (0 if horizontal else 4)
        across = frame.across[arrow.start] + frame.sizes[arrow.start][1] / 2
        across += 20 if horizontal else 15
        anchor = "" if horizontal else ' text-anchor="start"'
    else:
        cell, following = route[len(route) // 2 - 1], route[len(route) // 2]
        along = (frame.ends[frame.rank[cell]] + frame.starts[frame.rank[following]]) / 2
        across = (frame.across[cell] + frame.across[following]) / 2 - 3
    x, y = _xy(along, across, horizontal=horizontal).split()
    text = f'<text x="{x}" y="{y}"{anchor}'
    # Twice, as not all that shows SVG knows how to paint the stroke first.
    return (
        f'{text} stroke="white" stroke-width="3">{escaped(arrow.label)}</text>'
        f'{text} fill="#222">{escaped(arrow.label)}</text>'
    )


def _box(cell: int, box: Box, frame: Frame, *, horizontal: bool) -> str:
    rank = frame.rank[cell]
    width, height = frame.sizes[cell] if horizontal else frame.sizes[cell][::-1]
    centre = ((frame.starts[rank] + frame.ends[rank]) / 2, frame.across[cell])
    x, y = centre if horizontal else centre[::-1]
    left, top = x - width / 2, y - height / 2
    return (
        f"<g><title>{escaped(box.title)}</title>"
        f"{''.join(_stripes(box, left, top, (width, height)))}"
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'rx="{0 if box.stripes else 4}" fill="{"none" if box.stripes else box.colour}" '
        f"{_border(box)}/>{''.join(_texts(box, x, top))}</g>"
    )


def _border(box: Box) -> str:
    plain = 'stroke="#111" stroke-width="2.5"' if box.is_critical else 'stroke="#555"'
    # What failed is known to be on the path by the arrows.
    is_loud = box.status == "failed" or not box.is_critical
    return _BORDERS.get(box.status or "", plain) if is_loud else plain


def _stripes(box: Box, left: float, top: float, size: tuple[float, float]) -> Iterator[str]:
    for colour, share in box.stripes:
        width = share * size[0]
        yield (
            f'<rect class="stripe" x="{left:.1f}" y="{top:.0f}" '
            f'width="{width:.1f}" height="{size[1]:.0f}" fill="{colour}"/>'
        )
        left += width


def _texts(box: Box, x: float, top: float) -> Iterator[str]:
    small = f'fill="#222" font-size="{_SMALL}"'
    bold = ' font-weight="bold"' if box.is_critical else ""
    base = top + 15
    if box.cluster:
        yield f'<text x="{x:.0f}" y="{base - 1:.0f}" {small}>{escaped(box.cluster)}</text>'
        base += _LINE
    yield f'<text x="{x:.0f}" y="{base:.0f}"{bold}>{escaped(box.label)}</text>'
    if box.detail:
        yield f'<text x="{x:.0f}" y="{base + _LINE:.0f}" {small}>{escaped(box.detail)}</text>'


def escaped(text: str) -> str:
    """Return a text as XML has it between tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
