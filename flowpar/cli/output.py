"""What commands print: text for people, JSON for programs, warnings as one line."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final

from flowpar.errors import FlowparError, FlowparWarning

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130


class WrongUsage(FlowparError):
    """The command line asks for what is not there."""


def show(given: argparse.Namespace, plain: object, text: str) -> None:
    """Print data or text, whichever is asked for."""
    print(json.dumps(plain, indent=1) if given.json else text)


def readable(size: float) -> str:
    """Return a number of bytes as people write it.

    Examples
    --------
    >>> readable(12), readable(1_234_567)
    ('12 B', '1.23 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


@contextlib.contextmanager
def short_warnings() -> Iterator[None]:
    """Show our warnings as one line, without the line of ours that gave them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any) -> None:
            if issubclass(category, FlowparWarning):
                print(f"flowpar: {message}", file=sys.stderr)
            else:
                shown(message, category, *more)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
