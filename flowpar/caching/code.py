"""What the result of a function depends on besides its arguments: its code and all that it uses.

Each thing met on the way is a node of a graph: a function, a class, a global constant, a package.
`things` makes them, `names` follows the names in code, and `codegraph` gives them their digests.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence

from flowpar.caching.codegraph import Code, Component, Node, components_of
from flowpar.caching.digest import NotDigestible, ValueDigester, hashed
from flowpar.caching.kinds import is_users, short_text, untracked
from flowpar.caching.names import Place
from flowpar.caching.things import Things

__all__ = ["Code", "Component", "FunctionDigester", "short_text", "untracked"]


class FunctionDigester:
    """Gives functions the digests of their code, and remembers them.

    All methods may be called from any thread.

    Attributes
    ----------
    values
        Digests values in which functions and classes count by their code.
    """

    def __init__(self) -> None:
        self.values = ValueDigester(code=self.part)
        self._things = Things()
        self._codes: dict[tuple[int, ...], tuple[object, Code | NotDigestible]] = {}
        self._open_methods: set[int] = set()
        self._is_verified = True
        self._noted = threading.local()
        self._lock = threading.RLock()

    def new_epoch(self) -> None:
        """Say that globals may have changed since; the next call looks for that."""
        self._is_verified = False

    def code(self, function: Callable[..., object], deps: Sequence[object] = ()) -> Code:
        """Return what a function's result depends on besides its arguments.

        Parameters
        ----------
        function
            Anything callable.
        deps
            More that it depends on and that no analysis can see: functions, values, modules.

        Raises
        ------
        NotDigestible
            If it refers to something that has no content, and nothing says how that was made.
        """
        key = (id(function), *map(id, deps))
        with self._lock:
            self._verify()
            known = self._codes.get(key)
            if known is None:
                # With what was asked for, whose ids would else be given to others.
                known = (function, *deps), self._code(function, deps)
                self._codes[key] = known
            if isinstance(known[1], NotDigestible):
                raise known[1].with_traceback(None)
            return known[1]

    def part(self, thing: object) -> bytes:
        """Return the digest of a function, class, method, module or builtin met as a value.

        Raises
        ------
        NotDigestible
            As for `code`.
        """
        with self._lock:
            self._verify()
            if isinstance(thing, types.MethodType):
                return self._method_part(thing)
            node = self._finished(lambda: [self._things.node(thing)])[0]
            if node.trouble is not None:
                raise node.trouble.with_traceback(None)
            digest = hashed(node.digest, self._things.named(thing))
        for met in getattr(self._noted, "met", ()):
            if is_users(thing) and (place := _place_of(thing)) is not None:
                met[place] = digest
        return digest

    @contextlib.contextmanager
    def noting(self) -> Iterator[dict[tuple[str, str], bytes]]:
        """Collect the user's classes and functions that this thread meets in values in this block.

        Yields
        ------
        dict
            By module and qualified name, of those that have one that leads to them: the digest.
        """
        found: dict[tuple[str, str], bytes] = {}
        self._noted.met = [*getattr(self._noted, "met", ()), found]
        try:
            yield found
        finally:
            self._noted.met = [each for each in self._noted.met if each is not found]

    def part_at(self, module: str, name: str) -> bytes | None:
        """Return the digest of what has this name now; None if nothing has, or it has no digest."""
        try:
            thing: object = sys.modules.get(module) or importlib.import_module(module)
            for each in name.split("."):
                thing = getattr(thing, each)
            return self.part(thing)
        except Exception:  # noqa: BLE001 - importing runs the user's code
            return None

    def _method_part(self, method: types.MethodType) -> bytes:
        # Not remembered: its object may change, and every access to it makes a method anew.
        known = id(method)
        if known in self._open_methods:
            return b"this method"
        self._open_methods.add(known)
        try:
            return hashed(
                b"method", self.part(method.__func__), self.values.digest(method.__self__)
            )
        finally:
            self._open_methods.discard(known)

    def _verify(self) -> None:
        """Forget everything if anything that was read has changed."""
        if self._is_verified:
            return
        self._is_verified = True
        if not self._things.are_unchanged():
            self._forget()

    def _forget(self) -> None:
        self._things.forget()
        self._codes.clear()

    def _finished(self, begin: Callable[[], list[Node]]) -> list[Node]:
        try:
            nodes = begin()
            for node in nodes:
                self._things.finish(node)
        except BaseException:
            # Nodes that were begun are of no use to anybody.
            self._forget()
            raise
        return nodes

    def _code(self, function: object, deps: Sequence[object]) -> Code | NotDigestible:
        name = getattr(function, "__name__", None) or type(function).__name__
        labels = [getattr(each, "__name__", None) or f"deps[{at}]" for at, each in enumerate(deps)]

        def begin() -> list[Node]:
            places = [Place("dep", label, name) for label in labels]
            root = self._things.referred(function, Place("code", name))
            return [root, *map(self._things.referred, deps, places)]

        root, *more = nodes = self._finished(begin)
        for node in nodes:
            if node.trouble is not None:
                return node.trouble
        digest = hashed(root.digest, *(node.digest for node in more)) if deps else root.digest
        first = Component("code", name, root.local, root.text, root.home)
        found = {("code", name, root.local): first}
        for label, node in zip(labels, more, strict=True):
            found["dep", label, node.local] = Component(
                "dep", label, node.local, node.text, node.home
            )
        for each in components_of(*nodes):
            found.setdefault((each.kind, each.name, each.digest), each)
        return Code(digest, tuple(found.values()))


def _place_of(thing: object) -> tuple[str, str] | None:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    return module, name
