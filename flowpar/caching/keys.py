"""The key of a call: what function it is of, and what each of its parameters gets.

A key is made of names and digests alone, so a call has the same one however it is written:
``f(1, 2)``, ``f(1, b=2)`` and, where 2 is the default of ``b``, ``f(1)``.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flowpar.caching.code import Code, short_text
from flowpar.caching.digest import NotDigestible, hashed
from flowpar.caching.keeping import digester
from flowpar.errors import OptionError

KEY_VERSION: Final = b"flowpar key 1"
"""What keys are made of; another one finds nothing that was kept before."""

SLOW: Final = 0.001
"""Seconds; a literal that takes longer to digest is digested once a run."""

Part = tuple[str, bytes]
"""A parameter's name, and the digest of what it gets."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each parameter's digest comes from, for calls of one shape."""

    order: tuple[tuple[str, int], ...]
    """Name, and place among the digests of the positional and then the keyword arguments."""
    defaults: tuple[Part, ...]
    default_texts: tuple[str, ...]
    ignored: frozenset[int]
    """Places of digests that are not asked for."""


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
        return [*((name, digests[at]) for name, at in layout.order), *layout.defaults]

    def ignored(self, count: int, names: tuple[str, ...]) -> frozenset[int]:
        """Return the places of those of so many arguments that are not part of the key."""
        return self._layout_of(count, names).ignored

    def texts(self, texts: Sequence[str], names: tuple[str, ...]) -> list[str]:
        """Return what people are shown of each part, in the order of `parts`."""
        layout = self._layout_of(len(texts), names)
        return [*(texts[at] for _, at in layout.order), *layout.default_texts]

    def _layout_of(self, count: int, names: tuple[str, ...]) -> Layout:
        layout = self._layouts.get((count, names))
        if layout is None:
            layout = self._layouts[count, names] = self._layout(count - len(names), names)
        return layout

    def _layout(self, count: int, names: tuple[str, ...]) -> Layout:
        order = [(self._positional(at), at) for at in range(count)]
        order += sorted((name, count + at) for at, name in enumerate(names))
        rank = {parameter.name: at for at, parameter in enumerate(self._parameters or ())}
        order.sort(key=lambda found: rank.get(found[0], len(rank)))
        given = {name for name, _ in order}
        defaults = tuple(self._defaults(given))
        counted = tuple((name, at) for name, at in order if self._counts(name))
        return Layout(
            counted,
            tuple((name, digest) for name, digest, _ in defaults),
            tuple(text for _, _, text in defaults),
            frozenset(at for _, at in order).difference(at for _, at in counted),
        )

    def _counts(self, name: str) -> bool:
        return name.partition("[")[0] not in self._ignore

    def _positional(self, at: int) -> str:
        number = at
        for parameter in self._parameters or ():
            if parameter.kind is parameter.VAR_POSITIONAL:
                return f"{parameter.name}[{number}]"
            if not number:
                return parameter.name
            number -= 1
        return f"[{at}]"

    def _defaults(self, given: set[str]) -> Iterator[tuple[str, bytes, str]]:
        for parameter in self._parameters or ():
            if parameter.name in given or parameter.name in self._ignore:
                continue
            if parameter.default is not parameter.empty:
                try:
                    digest = digester().values.digest(parameter.default)
                except NotDigestible:  # it counts as part of the code
                    continue
                yield parameter.name, digest, short_text(parameter.default)


class Literals:
    """Digests the plain arguments of calls, a large one once as long as this lives."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, bytes]] = {}

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


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # many builtins have none
        return None


def _name(call: object) -> str:
    return getattr(call, "__name__", None) or type(call).__name__
