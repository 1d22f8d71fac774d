"""The keys of a run's tasks: of what each calls, and of the digests of what it gets."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from flowpar.caching.digest import NotDigestible, hashed
from flowpar.caching.files import FileMissing
from flowpar.caching.keeping import Expected, digester, imported_of
from flowpar.caching.keys import KeyMaker, Literals, Part
from flowpar.caching.origins import is_main
from flowpar.graph import Graph
from flowpar.pools.transport import PLAIN
from flowpar.task import ALL_REFS, Function, Ref, Template, value

_IMMUTABLE: Final = PLAIN | {Ref}


@dataclass(frozen=True, slots=True)
class Kind:
    """What the cache does with the tasks of one function."""

    maker: KeyMaker
    passes: bool
    """Whether its values are not kept, and what needs one goes by its key."""
    is_pure: bool
    keeps: bool
    """Whether its values are worth a place; items of others are made again as fast."""
    expires: float | None
    expected: Expected | None
    """The code that processes should have of it; None: nothing can be said of that."""


class TaskKeys:
    """The keys of the tasks of one run, and the digests of the values that are known.

    Parameters
    ----------
    graph
        What runs.
    seed_of
        Gives the seed of a task; None: the run has none.
    say
        Called with what something is about, and a text that people should read once.

    Attributes
    ----------
    became
        By index: the task whose value a task has, of those that were expanded; of the plan.
    whys
        By index: why a task runs, where that is not what its last trace differs in.
    parts
        By index: what each parameter gets, of the tasks that have a key.
    """

    def __init__(
        self,
        graph: Graph,
        seed_of: Callable[[int], int] | None,
        say: Callable[[str, str], None],
    ) -> None:
        self.seed_of = seed_of
        self.became: Mapping[int, int] = {}
        self.whys: dict[int, str] = {}
        self.parts: dict[int, list[Part]] = {}
        self._graph = graph
        self._say = say
        self._kinds: dict[int, Kind] = {}
        self._literals = Literals()
        self._digests: dict[int, bytes | None] = {}
        self._keys: dict[int, bytes | None] = {}
        self._users: dict[int, set[int]] = collections.defaultdict(set)

    def kind(self, index: int) -> Kind:
        """Return what the cache does with a task."""
        return self.kind_of(self._graph.tasks[index]._function)

    def kind_of(self, function: Function) -> Kind:
        """Return what the cache does with the tasks of a function."""
        kind = self._kinds.get(function.number)
        if kind is None:
            kind = self._kinds[function.number] = _kind_of(function)
        return kind

    def is_made(self, index: int) -> bool:
        """Return whether it was asked what key a task has."""
        return index in self._keys

    def get(self, index: int) -> bytes | None:
        """Return the key that was made for a task; None if it has none."""
        return self._keys.get(index)

    def make(self, index: int) -> bytes | None:
        """Return the key of a task all of whose dependencies are known; None if it has none."""
        maker = self.kind(index).maker
        key = None
        if maker.trouble:
            self.say_uncacheable(index, maker.trouble)
        else:
            try:
                digests, names = self._argument_digests(index)
            except FileMissing as error:  # the task itself will say so
                self.whys[index] = str(error)
            except NotDigestible as error:
                self.say_uncacheable(index, str(error))
            else:
                if digests is not None:
                    self.parts[index] = parts = maker.parts(digests, names)
                    seed = None if self.seed_of is None else self.seed_of(index)
                    key = maker.key(parts, seed)
        self._keys[index] = key
        return key

    def are_as_before(self, index: int) -> bool:
        """Return whether the arguments of a task are still those that its key was made of.

        Files may have been written to while it ran, and lists by another thread of the program.
        What takes long to digest is asked of `changed_meanwhile`, once at the end.
        """
        _, _, shape, args, kwargs = self._graph.call(index)
        if shape == ALL_REFS or _IMMUTABLE.issuperset(map(type, (*args, *(kwargs or {}).values()))):
            return True
        try:
            digests, names = self._argument_digests(index)
        except (FileMissing, NotDigestible):
            return False
        parts = None if digests is None else self.kind(index).maker.parts(digests, names)
        return parts == self.parts[index]

    def changed_meanwhile(self) -> list[int]:
        """Return the tasks that were given something large that has changed since."""
        return [index for value in self._literals.changed() for index in self._users[value]]

    def say_uncacheable(self, index: int, why: str) -> None:
        """Have people told why the value of a task is not kept."""
        self.whys[index] = f"it cannot be kept: {why}"
        name = self._graph.tasks[index]._function.name
        self._say(name, f"what {name} returns is not kept, and it always runs: {why}")

    # ------------------------------------------------------------------------------- digests

    def know(self, index: int, digest: bytes | None) -> None:
        """Take in the digest of the value of a task; None: it has none."""
        self._digests[index] = digest

    def pass_on(self, index: int) -> bool:
        """Have the key of a task stand for its value; False if it has none."""
        key = self._keys.get(index)
        if key is None:
            return False
        self._digests[index] = hashed(b"passed", key)
        return True

    def digest_of(self, index: int) -> bytes | None:
        """Return the digest of the value of a task that is known; None if it has none."""
        became = self.became
        while index in became and not self.kind(index).passes:
            index = became[index]
        if index not in self._digests:
            task = self._graph.tasks[index]
            if task._function.call is not value:
                return None
            try:
                self._digests[index] = self._literals.digest(task._args[0], "a delayed value")
            except NotDigestible as error:
                self._say(task._function.name, str(error))
                self._digests[index] = None
        return self._digests[index]

    def _argument_digests(self, index: int) -> tuple[list[bytes] | None, tuple[str, ...]]:
        """Return the digests of the arguments of a call, and the names of the last of them."""
        _, _, shape, args, kwargs = self._graph.call(index)
        names = tuple(kwargs or ())
        given = (*args, *kwargs.values()) if kwargs else args
        ignored = self.kind(index).maker.ignored(len(given), names)
        if shape == ALL_REFS:
            found = [b"" if at in ignored else self.digest_of(n) for at, n in enumerate(given)]
        else:
            name = self._graph.tasks[index]._function.name
            paths = [f"{name}: argument {each}" for each in (*range(len(args)), *names)]
            found = [
                b"" if at in ignored else self._argument(argument, index, paths[at])
                for at, argument in enumerate(given)
            ]
        for digest in found:
            if digest is None:
                self.whys[index] = "what it depends on has no digest, so it always runs"
                return None, names
        return found, names  # type: ignore[return-value]

    def _literal(self, argument: object, path: str, index: int) -> bytes:
        digest = self._literals.digest(argument, path)
        if self._literals.is_large(argument):
            self._users[id(argument)].add(index)
        return digest

    def _argument(self, argument: object, index: int, path: str) -> bytes | None:
        if type(argument) is Ref:
            return self.digest_of(argument.index)
        if type(argument) is not Template:
            return self._literal(argument, path, index)
        pieces = [b"container", self._literals.digest(argument.make, path)]
        for part in argument.parts:
            digest = self._argument(part, index, path)
            if digest is None:
                return None
            pieces.append(digest)
        return hashed(*pieces)


def _kind_of(function: Function) -> Kind:
    policy = function.policy
    is_gathering = function.is_cheap and function.name == "gathered"
    return Kind(
        maker=KeyMaker(
            function.call, version=policy.version, ignore=policy.ignore, deps=policy.deps
        ),
        passes=policy.pure and (policy.cache is False or is_gathering),
        is_pure=policy.pure,
        keeps=policy.cache is not False and not function.is_cheap,
        expires=policy.expires,
        expected=_expected_of(function),
    )


def _expected_of(function: Function) -> Expected | None:
    try:
        code = digester().code(function.call)
    except NotDigestible:
        return None
    travels = is_main(getattr(function.call, "__module__", "__main__"))
    return Expected(code.digest, imported_of(code) if travels else None)
