"""Why a call is not the one that was kept: what its nearest earlier trace differs in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
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

_EDITED: Final = {"code", "helper", "class"}
"""Kinds of components that are code."""

_CONTAINER_CHANGED: Final = "other values or another order in argument"

_GAVE_ANOTHER: Final = "dependency {} gave another value"

_MOST: Final = 3

_MOST_ALIKE: Final = 64
"""Earlier calls with one argument in common, all of which are compared."""
_FEW_ALIKE: Final = 8
"""How many are if there are more."""


class Earlier:
    """The traces of functions of one name, looked through for one that a call is like.

    Parameters
    ----------
    traces
        Newest first.
    """

    def __init__(self, traces: Sequence[Trace]) -> None:
        self._traces = traces
        self._parts = [
            frozenset((name, digest) for name, digest, _ in trace.parts) for trace in traces
        ]
        self._at: dict[str, list[int]] = {}
        self._with: dict[tuple[str, bytes], list[int]] = {}
        for number, trace in enumerate(traces):
            self._at.setdefault(trace.place, []).append(number)
            for part in self._parts[number]:
                self._with.setdefault(part, []).append(number)

    def nearest(
        self, parts: Collection[Shown], function: bytes, place: str, taken: Collection[bytes] = ()
    ) -> Trace | None:
        """Return the trace that most is alike with; of equal ones the newest.

        Parameters
        ----------
        parts
            Of the call.
        function
            The digest of the function's code.
        place
            The key of the task in its graph.
        taken
            Keys of traces that are not meant, as other tasks have them now.
        """
        own = {(name, digest) for name, digest, _ in parts}

        def likeness(number: int) -> tuple[int, bool, bool, int]:
            trace, shared = self._traces[number], len(own & self._parts[number])
            return shared, trace.place == place, trace.function == function, -number

        found = max(self._candidates(own, place, taken), key=likeness, default=None)
        # Another task's, of which many were called with other arguments, tells nothing.
        if found is None or likeness(found)[:2] == (0, False):
            return None
        return self._traces[found]

    def _candidates(
        self, own: Iterable[tuple[str, bytes]], place: str, taken: Collection[bytes]
    ) -> set[int]:
        """Return those of the place, and those that share an argument.

        An argument that most calls share says little of each: of those some are enough, or all
        tasks of a large graph would be compared with all.
        """
        groups = [self._at.get(place, ()), *(self._with.get(part, ()) for part in own)]
        found: set[int] = set()
        for group in groups:
            free = [each for each in group[:_MOST_ALIKE] if self._traces[each].key not in taken]
            found.update(free if len(group) <= _MOST_ALIKE else free[:_FEW_ALIKE])
        return found


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
    new = [name for name, _, _ in parts]
    found += [f"{_named(name)} is gone" for name in old if name not in new]
    if not found and list(old) != new:
        turned = (", ".join(name for name in names if name[0] != " ") for names in (old, new))
        found.append("order of the keyword arguments: {} → {}".format(*turned))
    inside = [text for text in found if not text.startswith(_CONTAINER_CHANGED)]
    return inside or found


def in_words(found: Sequence[str]) -> str:
    """Return differences as one line."""
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "; ".join(found[:_MOST]) + more


def changed_dependency(text: str) -> tuple[str, int] | None:
    """Return the key of the first dependency that a reason names, and where that ends in it."""
    found = re.search(_GAVE_ANOTHER.format("(.+?)"), text)
    return None if found is None else (found[1], found.end())


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
        return _GAVE_ANOTHER.format(new[1:])
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
    before, after = _by_name(old), _by_name(new)
    both = [key for key in after if key in before]
    changed = [key for key in both if before[key].digest != after[key].digest]
    found = [_component_difference(name, before[key], after[key]) for key in changed]
    # What comes or goes with an edit follows from it.
    if not any(kind in _EDITED for kind, _, _ in changed):
        found += _comings_and_goings(
            name,
            [each for key, each in after.items() if key not in before],
            [each for key, each in before.items() if key not in after],
        )
    return list(dict.fromkeys(found)) or [f"code of {name} changed"]


def _comings_and_goings(name: str, new: Components, gone: Components) -> list[str]:
    """Return what is new, what is gone, and what is the same under another name."""
    found: list[str] = []
    left = list(gone)
    for each in new:
        same = [old for old in left if (old.kind, old.digest) == (each.kind, each.digest)]
        if same:
            left.remove(same[0])
            if same[0].name != each.name:
                found.append(f"code of {name} changed ({_said(same[0])} is now {each.name})")
        elif each.kind != "code":  # of another name, or in another place: no change
            found.append(f"code of {name} changed ({_said(each)} is new)")
    return found + [f"code of {name} changed ({_said(old)} is gone)" for old in left]


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
