"""What a value is taken apart into, and how the parts are put into a digest.

An encoding of up to `LONGEST` bytes is the digest itself; a longer one is hashed. A container's is
made of the digests of its parts with their lengths, so that no two values share one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from blake3 import blake3

Digest = bytes

LONGEST: Final = 32
"""Bytes of an encoding that is its own digest."""


class NotDigestible(TypeError):
    """A value, or something in it, has no content that can be compared.

    Attributes
    ----------
    path
        Where it is, as in ``model.tokenizer._lock``.
    type_name
        The qualified name of its class.
    """

    def __init__(self, path: str, type_name: str, why: str = "it has only an identity") -> None:
        super().__init__(
            f"{path} is a {type_name} and has no content that can be compared: {why}; "
            f"pass something simpler, or call flowpar.register_digest({type_name!r}, ...)"
        )
        self.path, self.type_name, self.why = path, type_name, why

    def __reduce__(self) -> tuple[object, ...]:
        return NotDigestible, (self.path, self.type_name, self.why)


class Refused(Exception):
    """Why a value cannot be taken apart; becomes a `NotDigestible` with its path."""


def hashed(*parts: bytes) -> bytes:
    """Return 32 bytes that stand for these parts, in this order and with these borders."""
    hasher = blake3()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def short(encoding: bytes) -> bytes:
    """Return an encoding that is short, or a hash of it."""
    return encoding if len(encoding) <= LONGEST else b"#" + blake3(encoding).digest()


def _count(number: int) -> bytes:
    # Nearly every count is small, and the shorter an encoding, the less is hashed.
    return bytes((number,)) if number < 255 else b"\xff" + number.to_bytes(8, "little")  # noqa: PLR2004


class Ready(bytes):
    """A digest among values still to be digested."""

    __slots__ = ()


class As:
    """The content of a value as that of a base of its class."""

    __slots__ = ("opener", "value")

    def __init__(self, opener: Opener, value: object) -> None:
        self.opener, self.value = opener, value


class Node:
    """A value that was taken apart, and the digests of its parts so far.

    Attributes
    ----------
    names
        What leads from the value to each part in a path; the last one serves for all further.
    low
        The outermost place on the stack that a part leads back to.
    number
        How many values were opened before, since the outermost one that this may lead back to.
    mark
        How many values were waiting to be met again when this was opened.
    """

    __slots__ = (
        "is_set",
        "is_stand_in",
        "low",
        "mark",
        "names",
        "number",
        "parts",
        "rest",
        "tag",
        "value",
    )

    def __init__(
        self,
        tag: bytes,
        children: Iterable[object],
        names: Callable[[int], str] | tuple[str, ...] = ("",),
        *,
        is_set: bool = False,
        is_stand_in: bool = False,
    ) -> None:
        self.tag = tag
        self.names = names
        self.is_set = is_set
        self.is_stand_in = is_stand_in
        self.low = self.number = self.mark = 0
        self.value: object = None
        self.parts: list[bytes] = []
        kinds = set(map(type, children))
        if kinds <= QUICK.keys():
            self.parts = [QUICK[type(child)](child) for child in children]
            children = ()
        self.rest = iter(children)

    def name(self) -> str:
        """Return what leads from the value to the part that is next."""
        at = len(self.parts)
        if callable(self.names):
            return self.names(at)
        return self.names[min(at, len(self.names) - 1)]

    def digest(self) -> bytes:
        """Return the digest of the value, once all parts have theirs."""
        parts = sorted(self.parts) if self.is_set else self.parts
        tag = self.tag
        return short(
            b"".join(
                (b"(", _count(len(tag)), tag, _count(len(parts)), bytes(map(len, parts)), *parts)
            )
        )


class Coder(Protocol):
    """Knows the code of things; what an opener is called by."""

    def code(self, thing: object) -> Ready:
        """Return the digest of the code of a function, class or module."""


Opener = Callable[[Coder, Any], "bytes | Node"]
"""Gives the encoding of a value, or takes it apart."""


# Scalars ------------------------------------------------------------------------------------------

_pack_float: Final = struct.Struct("<d").pack
_pack_complex: Final = struct.Struct("<dd").pack


def encode_int(value: int) -> bytes:
    """Return the digest of a whole number."""
    # Not in tens: those of large numbers are refused, and take long.
    return short(b"i%x" % value)


def encode_str(value: str) -> bytes:
    """Return the digest of a text."""
    return short(b"s" + value.encode("utf-8", "surrogatepass"))


def encode_float(value: float) -> bytes:
    """Return the digest of a number, of which -0.0 and each NaN are others."""
    return b"f" + _pack_float(value)


def encode_bytes(value: bytes) -> bytes:
    """Return the digest of bytes, which are not copied."""
    if len(value) < LONGEST:
        return b"b" + value
    hasher = blake3(b"b")
    hasher.update(value)
    return b"#" + hasher.digest()


def encode_complex(value: complex) -> bytes:
    """Return the digest of a complex number."""
    return b"c" + _pack_complex(value.real, value.imag)


QUICK: Final[dict[type, Callable[[Any], bytes]]] = {
    int: encode_int,
    str: encode_str,
    float: encode_float,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda _: b"N",
    bytes: encode_bytes,
    complex: encode_complex,
    type(...): lambda _: b"E",
    type(NotImplemented): lambda _: b"I",
    Ready: lambda value: value,
}


def data(*buffers: Any) -> Ready:
    """Return a digest of raw bytes that are not copied."""
    hasher = blake3()
    for buffer in buffers:
        hasher.update(buffer)
    return Ready(b"#" + hasher.digest())
