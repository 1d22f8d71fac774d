"""What is said of a task to people: the call, about as it was written, on one line."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Mapping
from typing import Final

from flowpar.task import TASK_TYPES, Task, Template

_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def describe(task: Task) -> str:
    """Return a call as it was written, its arguments shortened.

    Examples
    --------
    >>> from flowpar import delayed
    >>> describe(delayed(pow)(2, exp=10))
    'pow(2, exp=10)'
    """
    return describe_call(task._function.name, task._args, task._kwargs)


def describe_call(
    name: str, args: tuple[object, ...], kwargs: Mapping[str, object] | None = None
) -> str:
    """Return a call of a function of this name as it would be written, its arguments shortened.

    Examples
    --------
    >>> describe_call("pow", (2,), {"exp": 10})
    'pow(2, exp=10)'
    """
    # Of a million arguments only those that are shown.
    parts = [_short(argument) for argument in args[:9]]
    parts += [
        f"{key}={_short(value)}" for key, value in itertools.islice((kwargs or {}).items(), 9)
    ]
    text = ", ".join(parts[:8]) + (", …" if len(parts) > 8 else "")  # noqa: PLR2004 - a screen line
    return on_one_line(f"{name}({text})")


def on_one_line(text: str) -> str:
    """Escape what a terminal would obey, and what no encoding has: a lone surrogate."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(value: object) -> str:
    if type(value) in TASK_TYPES:
        return f"<{value._function.name}>"  # type: ignore[attr-defined]
    if type(value) is Template:
        return _short_template(value)
    kind = type(value).__name__
    try:
        size = len(value)  # type: ignore[arg-type]
    except (Exception, SystemExit):  # noqa: BLE001 - most values have no length, some raise
        size = 0
    if size > 1000:  # noqa: PLR2004 - its repr may take seconds
        return f"<{kind} of {size}>"
    try:
        text = _REPR.repr(value)
    except (Exception, SystemExit):  # noqa: BLE001 - a __repr__ of the user's
        return f"<{kind}>"
    text = on_one_line(text[:60])
    return text if len(text) < 60 else text[:57] + "…"  # noqa: PLR2004 - a third of a line


def _short_template(template: Template) -> str:
    """Return a container that holds delayed values, about as it was written."""
    name = getattr(template.make, "__name__", None) or type(template.make).__name__.strip("_")
    parts = ", ".join(_short(part) for part in template.parts[:4])
    more = ", …" if len(template.parts) > 4 else ""  # noqa: PLR2004 - a third of a line
    shapes = {"list": f"[{parts}{more}]", "tuple": f"({parts}{more})", "set": f"{{{parts}{more}}}"}
    return shapes.get(name, f"{name}({parts}{more})")
