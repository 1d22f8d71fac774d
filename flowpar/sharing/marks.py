"""Marks of values: whose change it would be if a value, or something in it, were changed.

A parameter ``a`` has the mark ``"a"``, and what is in it ``"a*"``; what comes from outside of a
function has `OUTER`. What a call, a literal or arithmetic makes is new, and has no marks.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from flowpar.sharing.belongings import UNKNOWN, Unloaded, is_a
from flowpar.sharing.codetrees import FunctionNode
from flowpar.sharing.mutators import PLAIN_TYPES

__all__ = [
    "NEW",
    "NO_MARKS",
    "OUTER",
    "OUTSIDE",
    "Call",
    "Marks",
    "Nested",
    "Survey",
    "Value",
    "bound_to",
    "given_to",
    "is_code",
    "is_equal",
    "is_module",
    "item_of",
    "joined",
    "merged",
]

Marks = frozenset[str]

OUTER: Final = "<outside>"
"""The mark of what a function was not given."""

OUTSIDE: Final[Marks] = frozenset({OUTER})

NO_MARKS: Final[Marks] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """What is known of a value.

    Attributes
    ----------
    own
        Marks of itself.
    inside
        Marks of what is in it.
    thing
        The object, if it is there already.
    kind
        Its class, if that is known.
    nested
        A function that the code makes.
    bound
        What a method was taken of.
    is_computed
        Whether taking it calls `thing`, as a property does.
    """

    own: Marks = NO_MARKS
    inside: Marks = NO_MARKS
    thing: Any = UNKNOWN
    kind: type | None = None
    nested: Nested | None = None
    bound: Value | None = None
    is_computed: bool = False

    @property
    def all(self) -> Marks:
        """Its marks, and those of what is in it."""
        return self.own | self.inside


NEW: Final = Value()


@dataclass(frozen=True, slots=True, eq=False)
class Nested:
    """A function that code makes, and the walk in whose names it was made."""

    node: FunctionNode
    flow: Any


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call as it is written, with its values."""

    positional: tuple[Value, ...] = ()
    keywords: dict[str, Value] = field(default_factory=dict)
    starred: Marks = NO_MARKS

    def values(self) -> Iterator[Value]:
        """Give all that is passed."""
        yield from self.positional
        yield from self.keywords.values()
        yield Value(self.starred, self.starred)


class Survey(Protocol):
    """Knows what names from outside stand for, and what other functions do."""

    def spend(self) -> None:
        """Count one more function; raise if there are too many."""

    def attribute(self, value: Value, name: str) -> Value:
        """Return what a value has by a name."""

    def call(self, callee: Value, call: Call) -> tuple[Marks, Value] | None:
        """Return what a function changes and returns; None if nobody knows."""

    def mention(self, value: Value) -> None:
        """Take note of something that the code names."""


def joined(values: Iterable[Value]) -> Value:
    """Return what may be any of some values."""
    first, *others = [*values] or [NEW]
    for each in others:
        if each is not first:
            first = replace(
                first if first.nested or first.thing is not UNKNOWN or first.kind else each,
                own=first.own | each.own,
                inside=first.inside | each.inside,
            )
    return first


def item_of(value: Value) -> Value:
    """Return an item of a value, or a part of it of which no more is known."""
    return Value(value.all, value.inside or value.own)


def given_to(node: FunctionNode) -> dict[str, Value]:
    """Return the parameters of a function as values."""
    spec = node.args
    given = {}
    for each in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs):
        is_plain = isinstance(each.annotation, ast.Name) and each.annotation.id in PLAIN_TYPES
        marks = Value(frozenset({each.arg}), frozenset({f"{each.arg}*"}))
        given[each.arg] = NEW if is_plain else marks
    for several in filter(None, (spec.vararg, spec.kwarg)):
        given[several.arg] = Value(NO_MARKS, frozenset({f"{several.arg}*"}))
    return given


def bound_to(node: FunctionNode, call: Call) -> dict[str, Value]:
    """Return what the parameters of a function stand for in a call."""
    spec = node.args
    anything = Value(call.starred, call.starred)
    names = [each.arg for each in (*spec.posonlyargs, *spec.args)]
    given = dict.fromkeys([*names, *(each.arg for each in spec.kwonlyargs)], anything)
    given.update(zip(names, call.positional, strict=False))
    given.update({name: value for name, value in call.keywords.items() if name in given})
    rest = [each.all for each in call.positional[len(names) :]]
    rest += [value.all for name, value in call.keywords.items() if name not in given]
    for several in filter(None, (spec.vararg, spec.kwarg)):
        given[several.arg] = Value(NO_MARKS, call.starred.union(*rest))
    return given


def merged(several: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Return what names may stand for after one of several branches."""
    found = dict(several[0])
    for names in several[1:]:
        for name, value in names.items():
            found[name] = joined([found[name], value]) if name in found else value
    return found


def is_equal(one: dict[str, Value], other: dict[str, Value]) -> bool:
    """Return whether names have the same marks."""
    return one.keys() == other.keys() and all(
        value.own == other[name].own and value.inside == other[name].inside
        for name, value in one.items()
    )


def is_module(thing: Any) -> bool:
    """Return whether a thing is a module, or in one that is not loaded."""
    return is_a(thing, types.ModuleType, Unloaded)


def is_code(thing: Any) -> bool:
    """Return whether a thing is a function or a class."""
    return is_a(thing, type, types.FunctionType, types.BuiltinFunctionType)
