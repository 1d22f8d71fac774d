"""What a value is that code refers to, where not all that is in it has content.

Only what cannot be taken apart is left out, and not what holds it. Of that, some kinds are known to
change no result; the others are said, for whoever refers to the value to tell it by other means.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Final

from flowpar.caching.digest import NotDigestible, ValueDigester
from flowpar.caching.kinds import is_users, label
from flowpar.caching.nodes import Coder, Node, Opener, Refused

__all__ = ["Taken", "is_harmless", "is_state"]

_STREAMS: Final = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")

_HARMLESS: Final = {
    "_thread.lock": b"lock",
    "_thread.RLock": b"lock",
    "threading._RLock": b"lock",
    "threading.Condition": b"condition",
    "threading.Event": b"event",
    "threading.Semaphore": b"semaphore",
    "threading.Barrier": b"barrier",
    "_thread._local": b"local",
    "_threading_local.local": b"local",
    "logging.Logger": b"logger",
    "logging.LoggerAdapter": b"logger",
    "_contextvars.ContextVar": b"context variable",
    "asyncio.locks.Lock": b"lock",
    "asyncio.locks.Event": b"event",
    "asyncio.locks.Condition": b"condition",
    "asyncio.locks.Semaphore": b"semaphore",
    "multiprocessing.synchronize.SemLock": b"lock",
    "multiprocessing.synchronize.Condition": b"condition",
    "multiprocessing.synchronize.Event": b"event",
    "multiprocessing.synchronize.Barrier": b"barrier",
}
"""Classes whose objects decide when something happens, or what is told of it: never what it gives.
What a thread or a context keeps for itself is the state of a program."""

_STATES: Final = {b"local", b"context variable"}


def _harmless(kind: type) -> bytes | None:
    for base in kind.__mro__:
        found = _HARMLESS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    return None


def is_harmless(value: object) -> bool:
    """Return whether a value is of a kind that changes no result."""
    return _harmless(type(value)) is not None or _is_stream(value)


def is_state(value: object) -> bool:
    """Return whether it matters what has become of a value."""
    return not is_harmless(value) or _harmless(type(value)) in _STATES


def _is_stream(value: object) -> bool:
    return any(value is getattr(sys, name, None) for name in _STREAMS)


class Taken:
    """A value without the code in it, and that code.

    Parameters
    ----------
    value
        Anything.
    path
        What it is called in errors.
    own
        Gives what can be said of a function or class at once; it orders those met in a set.

    Attributes
    ----------
    digest
        Of the value, in which functions and classes are only what `own` says.
    things
        Functions and classes met.
    unknown
        What has no content.
    """

    def __init__(self, value: object, path: str, own: Callable[[object], bytes]) -> None:
        self.unknown: list[NotDigestible] = []
        self._own = own
        self._met: list[tuple[bytes, object]] = []
        try:
            self.digest = ValueDigester(self.meet, self).digest(value, path)
        except NotDigestible as error:  # what stands for it has none
            self._met.clear()
            self.digest = self.leave_out(value, error)
        # In a set the order in which they were met says nothing; elsewhere it decides between
        # those that look alike.
        self._met.sort(key=lambda each: each[0])
        self.things = [thing for _, thing in self._met]

    def meet(self, thing: object) -> bytes:
        """Stand in for the code of what is met in a value; it becomes a node of its own."""
        own = self._own(thing)
        self._met.append((own, thing))
        return own

    def opener(self, kind: type) -> Opener | None:
        """Return what stands for the harmless values of a class."""
        found = _harmless(kind)
        if found is not None:
            is_plain = not is_users(kind)
            return lambda walk, _: Node(b"harmless", (found, None if is_plain else walk.code(kind)))
        # Those in memory have content.
        is_stream = issubclass(kind, io.IOBase) and not issubclass(kind, (io.StringIO, io.BytesIO))
        return _open_stream if is_stream else None

    def leave_out(self, value: object, error: NotDigestible) -> bytes:
        """Return what stands for a value that has no content."""
        self.unknown.append(error)
        kind = type(value)
        self.meet(kind)
        return b"?" + label(kind)

    def is_like(self, other: Taken) -> bool:
        """Return whether another is the same, down to the very same functions."""
        mine, others = ([id(thing) for thing in each.things] for each in (self, other))
        return self.digest == other.digest and mine == others


def _open_stream(_: Coder, value: object) -> Node:
    if _is_stream(value):
        return Node(b"stream", ())
    raise Refused("what it reads, or where it writes, is not known")
