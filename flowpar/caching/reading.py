"""What was read out of a function, be it from its source or from its instructions."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["DYNAMIC", "DYNAMIC_METHODS", "Chain", "Import", "Reading", "codes_in"]

Chain = tuple[str, ...]
"""The attributes that are taken from a name, one of the other."""

DYNAMIC: Final = frozenset({"eval", "exec", "globals", "locals", "vars", "__import__"})
"""Builtins that reach what no analysis can see."""
DYNAMIC_METHODS: Final = frozenset({"import_module", "__subclasses__"})
"""Methods that do."""


@dataclass(frozen=True, slots=True)
class Import:
    """What an import statement inside a function binds a name to."""

    module: str
    attribute: str | None
    level: int


@dataclass(slots=True)
class Reading:
    """What was read out of a function, or a statement.

    Attributes
    ----------
    digest
        Of the text without names.
    names
        In the order in which they were met; global names are to be resolved in this order.
    chains
        The attributes taken from each name.
    imports
        What the names are that import statements bind.
    stored
        The attributes that are bound on each name, as by ``f.count = 1``.
    dynamic
        Calls that may reach anything, as in ``"eval"``.
    """

    digest: bytes = b""
    names: list[str] = field(default_factory=list)
    chains: dict[str, set[Chain]] = field(default_factory=dict)
    imports: dict[str, list[Import]] = field(default_factory=dict)
    stored: dict[str, set[str]] = field(default_factory=dict)
    dynamic: list[str] = field(default_factory=list)


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Give a code object and all in it, always in the same order."""
    stack = [code]
    while stack:
        code = stack.pop()
        yield code
        stack.extend(const for const in code.co_consts if isinstance(const, types.CodeType))
