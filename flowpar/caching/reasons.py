"""Why a call is not the one that was kept: what its nearest earlier trace differs in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from flowpar.caching.code import Code, Component
from flowpar.caching.store import Trace

NEVER_RAN: Final = "never ran"

DEPENDENCY: Final = "@"
"""Begins the text of an argument that another task gives, before the key of that task."""

CONTAINER: Final = "@@"
"""The text of an argument that holds other tasks, which follow as parts of their own."""

Shown = tuple[str, bytes, str]
"""An argument: its name, its digest, and what people are shown of it."""

Components = Sequence[Component]

_CONTAINER_CHANGED: Final = "other values or another order in argument"

_MOST: Final = 3


def nearest(
    parts: Collection[Shown], function: bytes, place: str, earlier: Collection[Trace]
) -> Trace | None:
    """Return the earlier trace that most is alike with; of equal ones the newest.

    Parameters
    ----------
    parts
        Of the call.
    function
        The digest of the function's code.
    place
        The key of the task in its graph.
    earlier
        Traces of functions of the same name, newest first.
    """
    own = {(name, digest) for name, digest, _ in parts}

    def likeness(trace: Trace) -> tuple[int, bool, bool]:
        shared = own.intersection((name, digest) for name, digest, _ in trace.parts)
        return len(shared), trace.place == place, trace.function == function

    found = max(earlier, key=likeness, default=None)
    # Another task's, of which many were called with other arguments, tells nothing.
    return None if found is None or likeness(found)[:2] == (0, False) else found


def difference(
    parts: Collection[Shown],
    code: Code,
    trace: Trace,
    components_of: Callable[[bytes], Components],
) -> list[str]:
    """Return in what a call differs from one that was kept, each in a few words."""
    found: list[str] = []
    if trace.function != code.digest:
        found += _code_difference(trace.name, code.components, components_of(trace.function))
    old = {name: (digest, text) for name, digest, text in trace.parts}
    for name, digest, text in parts:
        if name not in old:
            found.append(f"{_named(name)} is new: {_plain(text)}")
        elif old[name][0] != digest:
            found.append(_argument_difference(name, old[name][1], text))
    new = {name for name, _, _ in parts}
    found += [f"{_named(name)} is gone" for name in old if name not in new]
    inside = [text for text in found if not text.startswith(_CONTAINER_CHANGED)]
    return inside or found


def in_words(found: Sequence[str]) -> str:
    """Return differences as one line."""
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def undeclared_text(name: str, path: str) -> str:
    """Return what people are told of a file that a function read and nobody declared."""
    with contextlib.suppress(ValueError):
        path = str(Path(path).relative_to(Path.cwd()))
    return (
        f"{name} read {path}, which is not among its arguments: when that file changes, what was "
        f"kept is used all the same. Give it flowpar.File({path!r}) as an argument"
    )


def _argument_difference(name: str, old: str, new: str) -> str:
    if new == CONTAINER:
        return f"{_CONTAINER_CHANGED} {name}"
    if old.startswith(DEPENDENCY) and new.startswith(DEPENDENCY):
        return f"dependency {new[1:]} gave another value"
    if old == new:
        return f"{_named(name)} has other content: {_plain(new)}"
    return f"{_named(name)}: {_plain(old)} → {_plain(new)}"


def _named(name: str) -> str:
    if not name.startswith(" "):
        return f"argument {name}"
    return "an element" if "." in name else name.strip()


def _plain(text: str) -> str:
    return text[1:] if text.startswith(DEPENDENCY) else text


def _code_difference(name: str, new: Components, old: Components) -> list[str]:
    if not old:
        return [f"code of {name} changed"]
    found: list[str] = []
    before = _by_name(old)
    after = _by_name(new)
    for key, component in after.items():
        former = before.get(key)
        if former is None:
            if component.kind != "code":  # of another name, or in another place: no change
                found.append(f"code of {name} changed ({_said(component)} is new)")
        elif former.digest != component.digest:
            found.append(_component_difference(name, former, component))
    found += [
        f"code of {name} changed ({_said(gone)} is gone)"
        for key, gone in before.items()
        if key not in after
    ]
    # What was edited first: that other things came or went follows from it.
    found.sort(key=lambda text: text.endswith((" is new)", " is gone)")))
    return found or [f"code of {name} changed"]


def _by_name(components: Components) -> dict[tuple[str, str, int], Component]:
    found: dict[tuple[str, str, int], Component] = {}
    for component in components:
        name = "" if component.kind == "code" else component.name
        number = 0
        while (component.kind, name, number) in found:
            number += 1
        found[component.kind, name, number] = component
    return found


def _component_difference(name: str, old: Component, new: Component) -> str:
    if new.kind == "code":
        return f"code of {name} changed"
    if new.kind in {"helper", "class"} and _where(new.text):
        what = f"{new.kind} {_short(new.name)}{_where(new.text)}"
    elif old.text == new.text:
        what = _said(new)
    else:
        what = f"{_said(new)}: {old.text} → {new.text}"
    return f"code of {name} changed ({what})"


def _said(component: Component) -> str:
    words = {"dep": "dependency", "closure": "captured", "opaque": "statement that binds"}
    return f"{words.get(component.kind, component.kind)} {component.name}"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _where(text: str) -> str:
    found = re.match(r"(.+\.pyw?)(?::\d+)?$", text)
    return f" in {found[1]}" if found else ""
