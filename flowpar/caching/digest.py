"""What a value is, in a few bytes: equal content gives equal bytes, in every process and machine.

A value is taken apart from the outside in, on a stack of our own: nesting may be deeper than
Python's own stack. Each part becomes a digest, and a container's encoding is made of the digests
of its parts with their lengths, so that no two values share one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, Protocol

from flowpar.caching.foreign_openers import NAMED_EXACT, NAMED_FOREIGN
from flowpar.caching.nodes import (
    QUICK,
    Digest,
    Node,
    NotDigestible,
    Opener,
    Ready,
    Refused,
    hashed,
    short,
)
from flowpar.caching.openers import (
    EXACT,
    FAMILIES,
    NAMED_FAMILIES,
    open_enum,
    open_object,
    open_own_digest,
    subclass,
)

__all__ = ["Digest", "NotDigestible", "ValueDigester", "hashed", "register_digest"]

_WORTH_KEEPING: Final = 8
"""Parts of a container from which on its digest is remembered, should it be met again."""

_NAMED: Final = NAMED_FAMILIES | NAMED_FOREIGN


class Leaves(Protocol):
    """Says what stands for values that are not to be taken apart, or cannot be."""

    def opener(self, kind: type) -> Opener | None:
        """Return what stands for those of a class, in place of what is known of it."""

    def leave_out(self, value: object, error: NotDigestible) -> bytes:
        """Return what stands for one that has no content."""


class ValueDigester:
    """Gives values their digests.

    Parameters
    ----------
    code
        Gives the digest of a function, class, method, module or builtin.
    leaves
        Stands in for what has no digest; None: that is an error.
    """

    def __init__(self, code: Callable[[object], bytes], leaves: Leaves | None = None) -> None:
        self._code = code
        self._leaves = leaves

    def digest(self, value: object, path: str = "value") -> bytes:
        """Return the digest of a value.

        Parameters
        ----------
        value
            Anything.
        path
            What the value is called in errors.

        Raises
        ------
        NotDigestible
            If something in it has no content: a lock, a file, a generator.
        """
        quick = QUICK.get(type(value))
        return (
            _Walk(self._code, path, self._leaves).digest(value) if quick is None else quick(value)
        )


class _Walk:
    """The way through one value.

    A value that was digested and leads nowhere outside itself is in ``_memo``: met again, its
    digest is the same. One that leads back to a value still open is in ``_seen`` as long as that
    is open: met again it is named by how long ago that was, else the ways through a graph of
    objects would be counted, and they grow exponentially.
    """

    def __init__(
        self, code: Callable[[object], bytes], path: str, leaves: Leaves | None = None
    ) -> None:
        self._code = code
        self._path = path
        self._leaves = leaves
        self._codes: dict[int, tuple[object, Ready]] = {}
        self._openers: dict[type, Opener] = {}
        self._stack: list[Node] = []
        self._active: dict[int, int] = {}
        self._memo: dict[int, tuple[object, bytes]] = {}
        self._seen: dict[int, Node] = {}
        self._log: list[int] = []
        self._opened = 0

    def digest(self, value: object) -> bytes:
        stack = self._stack
        done = self._enter(value)
        while stack:
            node = stack[-1]
            parts = node.parts
            for child in node.rest:
                quick = QUICK.get(type(child))
                part = self._enter(child) if quick is None else quick(child)
                if part is None:
                    break
                parts.append(part)
            else:
                done = self._leave(node)
                if stack:
                    stack[-1].parts.append(done)
        assert done is not None  # noqa: S101 - for mypy: nothing was opened, or all is closed
        return done

    def code(self, thing: object) -> Ready:
        """Return the digest of the code of a function, class or module."""
        found = self._codes.get(id(thing))
        if found is None:
            # With the thing, whose id would else be given to another.
            found = thing, Ready(short(b"C" + self._code(thing)))
            self._codes[id(thing)] = found
        return found[1]

    def _enter(self, value: object) -> bytes | None:
        """Return the digest of a value, or None if it was opened."""
        known = id(value)
        if known in self._active or known in self._seen:
            return self._again(known, value)
        memo = self._memo.get(known)
        if memo is not None:
            self._opened += 1
            self._forget_order()
            return memo[1]
        opened = self._open(value)
        if isinstance(opened, bytes):
            return short(opened)
        opened.value, opened.number, opened.mark = value, self._opened, len(self._log)
        opened.low = self._active[known] = len(self._stack)
        self._opened += 1
        self._stack.append(opened)
        return None

    def _again(self, known: int, value: object) -> bytes:
        top = self._stack[-1]
        depth = self._active.get(known)
        if depth is None:
            seen = self._seen[known]
            top.low = min(top.low, seen.low)
            return b"~%x" % (self._opened - seen.number)
        if self._stack[depth].is_stand_in:
            raise self._error(value, "what stands for it leads back to it")
        top.low = min(top.low, depth)
        return b"^%x" % (len(self._stack) - depth)

    def _leave(self, node: Node) -> bytes:
        self._stack.pop()
        depth, known = len(self._stack), id(node.value)
        del self._active[known]
        done = node.digest()
        if node.low >= depth:
            # The same wherever it is, so what is in it must not show in how much was opened.
            self._forget(node.mark)
            self._opened = node.number + 1
            if len(node.parts) > _WORTH_KEEPING or not _is_flat(node):
                self._memo[known] = node.value, done
        else:
            self._stack[-1].low = min(self._stack[-1].low, node.low)
            node.parts = []
            self._seen[known] = node
            self._log.append(known)
        self._forget_order()
        return done

    def _forget(self, mark: int) -> None:
        for known in self._log[mark:]:
            del self._seen[known]
        del self._log[mark:]

    def _forget_order(self) -> None:
        """In a set, no element must know which came before it."""
        if self._stack and self._stack[-1].is_set:
            self._forget(self._stack[-1].mark)
            self._opened = self._stack[-1].number + 1

    def _open(self, value: object) -> bytes | Node:
        kind = type(value)
        opener = self._openers.get(kind)
        if opener is None:
            own = None if self._leaves is None else self._leaves.opener(kind)
            opener = self._openers[kind] = own or _opener_of(kind)
        try:
            return opener(self, value)
        except (NotDigestible, MemoryError):
            raise
        except Refused as refused:
            return self._leave_out(value, str(refused))
        except Exception as error:  # noqa: BLE001 - it becomes one that names the path
            return self._leave_out(value, f"{type(error).__name__}: {error}", error)

    def _leave_out(self, value: object, why: str, cause: Exception | None = None) -> bytes:
        error = self._error(value, why)
        if self._leaves is None:
            raise error from cause
        return self._leaves.leave_out(value, error)

    def _error(self, value: object, why: str) -> NotDigestible:
        path = self._path + "".join(node.name() for node in self._stack)
        return NotDigestible(path, _name_of(type(value)), *([why] if why else []))


def _is_flat(node: Node) -> bool:
    """Return whether no part can be a container: all have one-letter tags that say so."""
    return all(part[0] not in b"(#^~" for part in node.parts)


_registered: Final[dict[str, Callable[[Any], object]]] = {}


def register_digest(kind: type | str, function: Callable[[Any], object]) -> None:
    """Say what the content of a class is, where flowpar cannot tell or finds too much.

    It holds for subclasses too, unless one of theirs was registered.

    Parameters
    ----------
    kind
        A class, or its qualified name, as in ``"package.module.Class"``: it need not be imported.
    function
        Gets a value and returns anything that stands for it: two values count as equal where
        what stands for them is equal.

    Raises
    ------
    ValueError
        If `kind` is a builtin such as `int` or `list`.

    Examples
    --------
    >>> class Connection:
    ...     def __init__(self, address):
    ...         self.address = address
    ...         self.socket = open
    >>> register_digest(Connection, lambda connection: connection.address)
    >>> digester = ValueDigester(code=lambda thing: thing.__name__.encode())
    >>> first, second = Connection("db:1"), Connection("db:2")
    >>> digester.digest(first) == digester.digest(Connection("db:1"))
    True
    >>> digester.digest(first) == digester.digest(second)
    False
    """
    name = kind if isinstance(kind, str) else _name_of(kind)
    if name in _BUILTINS:
        raise ValueError(f"the digest of {name} is fixed: wrap such values in a class of your own")
    _registered[name] = function


_BUILTINS: Final = {
    f"{kind.__module__}.{kind.__qualname__}"
    for kind in (*QUICK, *EXACT)
    if kind.__module__ == "builtins"
}


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _stand_in(name: str, function: Callable[[Any], object]) -> Opener:
    return lambda _, value: Node(b"registered", (name, function(value)), is_stand_in=True)


def _opener_of(kind: type) -> Opener:
    """Return what takes values of a class apart: of the nearest base that is known."""
    for base in kind.__mro__:
        found = _opener_at(kind, base)
        if found is not None:
            return found
    return open_object


def _opener_at(kind: type, base: type) -> Opener | None:
    name = _name_of(base)
    if name in _registered:
        return _stand_in(name, _registered[name])
    if vars(base).get("__flowpar_digest__") is not None:
        return open_own_digest
    family = FAMILIES.get(base) or _NAMED.get(name)
    if family is not None:
        return family
    exact = EXACT.get(base) or NAMED_EXACT.get(name)
    if exact is None:
        return None
    if issubclass(kind, enum.Enum):  # of an IntEnum, int comes first
        return open_enum
    return exact if base is kind or base is object else subclass(base, exact)
