"""The key of a call: what function it is of, and what each of its parameters gets.

A key is made of names and digests alone, so a call has the same one however it is written:
``f(1, 2)``, ``f(1, b=2)`` and, where 2 is the default of ``b``, ``f(1)``. Calls that a function can
tell apart have another: it sees the order of the keywords that its ``**kwargs`` collects, and a
keyword of theirs may be called as a positional-only parameter is.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flowpar.caching.code import Code, FunctionDigester, short_text
from flowpar.caching.digest import NotDigestible, hashed
from flowpar.caching.files import File, tracking, undeclared
from flowpar.caching.keeping import digester
from flowpar.errors import OptionError

KEY_VERSION: Final = b"flowpar key 2"
"""What keys are made of; another one finds nothing that was kept before."""

SLOW: Final = 0.001
"""Seconds; a literal that takes longer to digest is digested once a run."""

_BY_PLACE: Final = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
}
_BY_KEYWORD: Final = {
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
}

Part = tuple[str, bytes]
"""A parameter's name, and the digest of what it gets."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each parameter's digest comes from, for calls of one shape."""

    entries: tuple[Entry, ...]
    ignored: frozenset[int]
    """Places of digests that are not asked for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one part of a key is made of: an argument, or the default of a parameter."""

    name: str
    """Unlike that of any other part that a call of the function can have."""
    at: int
    """Place among the positional and then the keyword arguments; of a default -1."""
    digest: bytes = b""
    text: str = ""


class KeyMaker:
    """Makes the keys of the calls of one function.

    Parameters
    ----------
    call
        The function.
    version
        A string of the user's that is part of the key.
    ignore
        Parameters that are not.
    deps
        What else the function depends on, that its code does not show.

    Attributes
    ----------
    code
        The digest of the function and what it is made of; None where there is none.
    trouble
        Why no call of it has a key; empty where they have.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        *,
        version: str | None = None,
        ignore: Sequence[str] = (),
        deps: Sequence[object] = (),
    ) -> None:
        self.trouble = ""
        self.code: Code | None = None
        self._ignore = frozenset(ignore)
        self._parameters = _parameters(call)
        self._call = call
        self._deps = deps
        self._declared: list[File] | None = None
        self._layouts: dict[tuple[int, tuple[str, ...]], Layout] = {}
        self._check_ignored(call)
        try:
            self.code = digester().code(call, deps)
        except NotDigestible as error:
            self.trouble = str(error)
            return
        self._start = hashed(KEY_VERSION, self.code.digest, (version or "").encode())

    def _check_ignored(self, call: Callable[..., Any]) -> None:
        kinds = {parameter.kind for parameter in self._parameters or ()}
        if self._parameters is None or inspect.Parameter.VAR_KEYWORD in kinds:
            return
        names = [parameter.name for parameter in self._parameters]
        for name in sorted(self._ignore.difference(names)):
            raise OptionError(
                f"ignore names {name!r}, which is no parameter of {_name(call)}: there are "
                f"{', '.join(names) or 'none'}"
            )

    def key(self, parts: Iterable[Part], seed: int | None = None) -> bytes:
        """Return the key of a call with these parts."""
        pieces = [self._start]
        for name, digest in parts:
            pieces += (name.encode(), digest)
        if seed is not None:
            pieces.append(b"seed %d" % seed)
        return hashed(*pieces)

    def parts(self, digests: Sequence[bytes], names: tuple[str, ...]) -> list[Part]:
        """Return what each parameter gets, in the order of the signature.

        Parameters
        ----------
        digests
            Of the positional arguments, then of the keyword arguments.
        names
            Of the keyword arguments.
        """
        layout = self._layout_of(len(digests), names)
        return [
            (each.name, each.digest if each.at < 0 else digests[each.at]) for each in layout.entries
        ]

    def ignored(self, count: int, names: tuple[str, ...]) -> frozenset[int]:
        """Return the places of those of so many arguments that are not part of the key."""
        return self._layout_of(count, names).ignored

    def undeclared(self, paths: Sequence[str]) -> list[str]:
        """Return those of some files that a call has read which no `File` in the code stands for.

        That may be a default, a global or captured value, or an attribute of one.
        """
        if not paths:
            return []
        if self._declared is None:
            # By a digester that remembers nothing, or those digested before would not be seen.
            with tracking() as found, contextlib.suppress(NotDigestible):
                FunctionDigester().code(self._call, self._deps)
            self._declared = [File(path) for path, _ in found]
        return undeclared(paths, self._declared)

    def texts(self, texts: Sequence[str], names: tuple[str, ...]) -> list[str]:
        """Return what people are shown of each part, in the order of `parts`."""
        layout = self._layout_of(len(texts), names)
        return [each.text if each.at < 0 else texts[each.at] for each in layout.entries]

    def _layout_of(self, count: int, names: tuple[str, ...]) -> Layout:
        layout = self._layouts.get((count, names))
        if layout is None:
            layout = self._layouts[count, names] = self._layout(count - len(names), names)
        return layout

    def _layout(self, count: int, names: tuple[str, ...]) -> Layout:
        found = [*map(self._of_place, range(count)), *map(self._of_keyword, names)]
        rank = {parameter.name: at for at, parameter in enumerate(self._parameters or ())}
        ignored = {at for at, (_, meant_by) in enumerate(found) if meant_by & self._ignore}
        entries: dict[str, Entry] = {}
        for at, (name, _) in enumerate(found):
            if at not in ignored:
                # One that is given twice makes a call that fails, and is like no other.
                name = name if name not in entries else f"**{name!r}"  # noqa: PLW2901
                entries[name] = Entry(name, at)
        entries.update(self._defaults({name for name, _ in found}))
        # The others are seen in the order in which they were given, be it by place or by keyword.
        order = sorted(entries, key=lambda name: rank.get(name, len(rank)))
        return Layout(tuple(entries[name] for name in order), frozenset(ignored))

    def _of_place(self, at: int) -> tuple[str, set[str]]:
        """Return the name of a positional argument's part, and what `ignore` may call it."""
        number = at
        for parameter in self._parameters or ():
            if parameter.kind is parameter.VAR_POSITIONAL:
                return f"{parameter.name}[{number}]", {parameter.name}
            if parameter.kind not in _BY_PLACE:
                break
            if not number:
                return parameter.name, {parameter.name}
            number -= 1
        return f"[{at}]", set()

    def _of_keyword(self, name: str) -> tuple[str, set[str]]:
        """Return the name of a keyword argument's part, and what `ignore` may call it."""
        kinds = {parameter.name: parameter.kind for parameter in self._parameters or ()}
        if kinds.get(name) in _BY_KEYWORD:
            return name, {name}
        collecting = {each for each, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD}
        # As it is called, where no parameter nor an element of *args is called so.
        is_plain = name.isidentifier() and name not in kinds
        return name if is_plain else f"**{name!r}", {name, *collecting}

    def _defaults(self, given: Collection[str]) -> Iterator[tuple[str, Entry]]:
        for parameter in self._parameters or ():
            if parameter.name in given or parameter.name in self._ignore:
                continue
            if parameter.default is not parameter.empty:
                try:
                    digest = digester().values.digest(parameter.default)
                except NotDigestible:  # it counts as part of the code
                    continue
                text = short_text(parameter.default)
                yield parameter.name, Entry(parameter.name, -1, digest, text)


class Literals:
    """Digests the plain arguments of calls, a large one once as long as this lives."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, bytes]] = {}

    def is_large(self, value: object) -> bool:
        """Return whether an argument was digested for good, as that takes long."""
        return id(value) in self._known

    def changed(self) -> list[int]:
        """Return the ids of the large arguments that are not any more what they were."""
        return [name for name, (value, known) in self._known.items() if _digest(value) != known]

    def digest(self, value: object, path: str) -> bytes:
        """Return the digest of an argument, which `path` names.

        Raises
        ------
        NotDigestible
            If it has none.
        """
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        begin = time.perf_counter()
        found = digester().values.digest(value, path)
        if time.perf_counter() - begin > SLOW:
            # With the value, whose address would else be given to another.
            self._known[id(value)] = value, found
        return found


def _digest(value: object) -> bytes | None:
    try:
        return digester().values.digest(value)
    except NotDigestible:
        return None


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # many builtins have none
        return None


def _name(call: object) -> str:
    return getattr(call, "__name__", None) or type(call).__name__
