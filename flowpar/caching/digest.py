"""What a value is, in a few bytes: equal content gives equal bytes, in every process and machine.

A value is taken apart from the outside in, on a stack of our own: nesting may be deeper than
Python's own stack. Each part becomes a digest, and a container's encoding is made of the digests
of its parts with their lengths, so that no two values share one. An encoding of up to 32 bytes is
the digest itself; a longer one is hashed.

What belongs to numpy, pandas, polars and pyarrow is known by the names of its classes: where such
a value exists the library has been imported, and nothing here imports it.
"""

from __future__ import annotations

import array as arrays
import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import io
import pathlib
import re
import reprlib
import struct
import sys
import types
import uuid
import weakref
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from blake3 import blake3

__all__ = ["Digest", "NotDigestible", "ValueDigester", "hashed", "register_digest"]

Digest = bytes

_LONGEST: Final = 32
"""Bytes of an encoding that is its own digest."""
_BLOCK: Final = 1 << 22
"""Bytes of an array that are copied at a time, where it does not lie in order."""
_WORTH_KEEPING: Final = 8
"""Parts of a container from which on its digest is remembered, should it be met again."""


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


class _Refused(Exception):
    """Why a value cannot be taken apart; becomes a `NotDigestible` with its path."""


def hashed(*parts: bytes) -> bytes:
    """Return 32 bytes that stand for these parts, in this order and with these borders."""
    hasher = blake3()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.digest()


def _short(encoding: bytes) -> bytes:
    return encoding if len(encoding) <= _LONGEST else b"#" + blake3(encoding).digest()


def _count(number: int) -> bytes:
    # Nearly every count is small, and the shorter an encoding, the less is hashed.
    return bytes((number,)) if number < 255 else b"\xff" + number.to_bytes(8, "little")  # noqa: PLR2004


class _Ready(bytes):
    """A digest among values still to be digested."""

    __slots__ = ()


class _As:
    """The content of a value as that of a base of its class."""

    __slots__ = ("opener", "value")

    def __init__(self, opener: _Opener, value: object) -> None:
        self.opener, self.value = opener, value


class _Node:
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
        if kinds <= _QUICK.keys():
            self.parts = [_QUICK[type(child)](child) for child in children]
            children = ()
        self.rest = iter(children)

    def name(self) -> str:
        """Return what leads from the value to the part that is next."""
        at = len(self.parts)
        if callable(self.names):
            return self.names(at)
        return self.names[min(at, len(self.names) - 1)]

    def digest(self) -> bytes:
        parts = sorted(self.parts) if self.is_set else self.parts
        tag = self.tag
        return _short(
            b"".join(
                (b"(", _count(len(tag)), tag, _count(len(parts)), bytes(map(len, parts)), *parts)
            )
        )


_Opener = Callable[["_Walk", Any], "bytes | _Node"]
"""Gives the encoding of a value, or takes it apart."""


class ValueDigester:
    """Gives values their digests.

    Parameters
    ----------
    code
        Gives the digest of a function, class, method, module or builtin.
    """

    def __init__(self, code: Callable[[object], bytes]) -> None:
        self._code = code

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
        quick = _QUICK.get(type(value))
        return _Walk(self._code, path).digest(value) if quick is None else quick(value)


class _Walk:
    """The way through one value.

    A value that was digested and leads nowhere outside itself is in ``_memo``: met again, its
    digest is the same. One that leads back to a value still open is in ``_seen`` as long as that
    is open: met again it is named by how long ago that was, else the ways through a graph of
    objects would be counted, and they grow exponentially.
    """

    def __init__(self, code: Callable[[object], bytes], path: str) -> None:
        self._code = code
        self._path = path
        self._codes: dict[int, tuple[object, _Ready]] = {}
        self._openers: dict[type, _Opener] = {}
        self._stack: list[_Node] = []
        self._active: dict[int, int] = {}
        self._memo: dict[int, tuple[object, bytes]] = {}
        self._seen: dict[int, _Node] = {}
        self._log: list[int] = []
        self._opened = 0

    def digest(self, value: object) -> bytes:
        stack = self._stack
        done = self._enter(value)
        while stack:
            node = stack[-1]
            parts = node.parts
            for child in node.rest:
                quick = _QUICK.get(type(child))
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

    def code(self, thing: object) -> _Ready:
        """Return the digest of the code of a function, class or module."""
        found = self._codes.get(id(thing))
        if found is None:
            # With the thing, whose id would else be given to another.
            found = thing, _Ready(_short(b"C" + self._code(thing)))
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
            return _short(opened)
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

    def _leave(self, node: _Node) -> bytes:
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

    def _open(self, value: object) -> bytes | _Node:
        kind = type(value)
        opener = self._openers.get(kind)
        if opener is None:
            opener = self._openers[kind] = _opener_of(kind)
        try:
            return opener(self, value)
        except (NotDigestible, MemoryError):
            raise
        except _Refused as refused:
            raise self._error(value, str(refused)) from None
        except Exception as error:
            raise self._error(value, f"{type(error).__name__}: {error}") from error

    def _error(self, value: object, why: str) -> NotDigestible:
        path = self._path + "".join(node.name() for node in self._stack)
        return NotDigestible(path, _name_of(type(value)), *([why] if why else []))


def _is_flat(node: _Node) -> bool:
    """Return whether no part can be a container: all have one-letter tags that say so."""
    return all(part[0] not in b"(#^~" for part in node.parts)


# Scalars ------------------------------------------------------------------------------------------

_pack_float: Final = struct.Struct("<d").pack
_pack_complex: Final = struct.Struct("<dd").pack


def _int(value: int) -> bytes:
    # Not in tens: those of large numbers are refused, and take long.
    return _short(b"i%x" % value)


def _str(value: str) -> bytes:
    return _short(b"s" + value.encode("utf-8", "surrogatepass"))


def _float(value: float) -> bytes:
    return b"f" + _pack_float(value)


def _bytes(value: bytes) -> bytes:
    if len(value) < _LONGEST:
        return b"b" + value
    hasher = blake3(b"b")
    hasher.update(value)
    return b"#" + hasher.digest()


def _complex(value: complex) -> bytes:
    return b"c" + _pack_complex(value.real, value.imag)


_QUICK: Final[dict[type, Callable[[Any], bytes]]] = {
    int: _int,
    str: _str,
    float: _float,
    bool: lambda value: b"T" if value else b"F",
    type(None): lambda _: b"N",
    bytes: _bytes,
    complex: _complex,
    type(...): lambda _: b"E",
    type(NotImplemented): lambda _: b"I",
    _Ready: lambda value: value,
}


def _data(*buffers: Any) -> _Ready:
    """Return a digest of raw bytes that are not copied."""
    hasher = blake3()
    for buffer in buffers:
        hasher.update(buffer)
    return _Ready(b"#" + hasher.digest())


# Containers and what the standard library has -----------------------------------------------------


def _at(number: int) -> str:
    return f"[{number}]"


def _items(tag: bytes, content: Any, *, before: tuple[object, ...] = ()) -> _Node:
    """Take a mapping apart, as it is in ``dict``: a subclass may show it otherwise."""
    of = dict if isinstance(content, dict) else type(content)
    pairs = list(of.items(content))
    children = [*before, *(each for pair in pairs for each in pair)]

    def name(number: int) -> str:
        at, is_value = divmod(number - len(before), 2)
        if at < 0:
            return ".default_factory"
        key = reprlib.repr(pairs[at][0])
        return f"[{key}]" if is_value else f".<key {key}>"

    return _Node(tag, children, name)


def _list(_: _Walk, value: list[object]) -> _Node:
    return _Node(b"l", list.__getitem__(value, slice(None)), _at)


def _tuple(_: _Walk, value: tuple[object, ...]) -> _Node:
    return _Node(b"t", tuple.__getitem__(value, slice(None)), _at)


def _set(_: _Walk, value: set[object]) -> _Node:
    return _Node(b"e", list(set.__iter__(value)), ("{...}",), is_set=True)


def _frozenset(_: _Walk, value: frozenset[object]) -> _Node:
    return _Node(b"z", list(frozenset.__iter__(value)), ("{...}",), is_set=True)


def _dict(_: _Walk, value: dict[object, object]) -> _Node:
    return _items(b"d", value)


def _ordered_dict(_: _Walk, value: collections.OrderedDict[object, object]) -> _Node:
    # dict.items knows nothing of move_to_end.
    pairs = list(collections.OrderedDict.items(value))
    return _items(b"OrderedDict", dict(pairs))


def _default_dict(_: _Walk, value: collections.defaultdict[object, object]) -> _Node:
    return _items(b"defaultdict", value, before=(value.default_factory,))


def _deque(_: _Walk, value: collections.deque[object]) -> _Node:
    children = [value.maxlen, *collections.deque.__iter__(value)]
    return _Node(b"deque", children, lambda number: _at(number - 1))


def _memoryview(_: _Walk, value: memoryview) -> _Node:
    plain = value if value.c_contiguous else memoryview(value.tobytes())
    # A view of several dimensions, some of them empty, cannot be cast.
    raw: object = plain.cast("B") if value.nbytes else b""
    return _Node(b"memoryview", (value.format, value.shape, _data(raw)))


def _array(_: _Walk, value: arrays.array[Any]) -> _Node:
    if sys.byteorder == "big":
        value = value[:]
        value.byteswap()
    raw: object = memoryview(value).cast("B") if len(value) else b""
    return _Node(b"array", (value.typecode, value.itemsize, _data(raw)))


def _datetime(_: _Walk, value: dt.datetime) -> _Node:
    fields = (value.year, value.month, value.day, value.hour, value.minute, value.second)
    children = (*fields, value.microsecond, value.fold, value.tzinfo)
    return _Node(b"datetime", children, (*[""] * 8, ".tzinfo"))


def _time(_: _Walk, value: dt.time) -> _Node:
    fields = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return _Node(b"time", (*fields, value.tzinfo), (*[""] * 5, ".tzinfo"))


def _zone(_: _Walk, value: zoneinfo.ZoneInfo) -> _Node:
    if value.key is None:
        raise _Refused("a ZoneInfo made from a file has no key")
    return _Node(b"ZoneInfo", (value.key,))


def _path(walk: _Walk, value: pathlib.PurePath) -> _Node:
    kind = type(value)
    is_own = kind.__module__.partition(".")[0] == "pathlib"
    flavour: object = kind.__name__ if is_own else walk.code(kind)
    # Their slots are what was already worked out, which says nothing.
    return _Node(b"path", (flavour, str(value), _attributes(getattr(value, "__dict__", {}))))


def _enum(walk: _Walk, value: enum.Enum) -> _Node:
    # A combination of flags has a name in some Python versions only.
    name = value._name_ if value._name_ in type(value).__members__ else None
    return _Node(b"enum", (walk.code(type(value)), name, value._value_), ("", "", ".value"))


def _partial(_: _Walk, value: functools.partial[object]) -> _Node:
    children = (value.func, value.args, value.keywords, _attributes(vars(value)))
    return _Node(b"partial", children, (".func", ".args", ".keywords", ""))


def _exception(walk: _Walk, value: BaseException) -> _Node:
    facts = {}
    if isinstance(value, (OSError, ImportError)):  # these keep some of what they were given apart
        for name in ("filename", "filename2", "name", "path"):
            facts[name] = getattr(value, name, None)
    children = (walk.code(type(value)), value.args, facts, _attributes(vars(value)))
    return _Node(b"exception", children, ("", ".args", "", ""))


def _codelike(walk: _Walk, value: object) -> _Node:
    return _Node(b"code", (walk.code(value),))


def _refuse(_: _Walk, value: object) -> _Node:  # noqa: ARG001 - an opener
    raise _Refused


def _fields(tag: bytes, *names: str) -> _Opener:
    """Return what takes an object apart that is all in a few attributes."""

    def opener(_: _Walk, value: object) -> _Node:
        children = [getattr(value, name) for name in names]
        return _Node(tag, children, tuple(f".{name}" for name in names))

    return opener


def _leaf(encode: Callable[[Any], bytes]) -> _Opener:
    return lambda _, value: encode(value)


# Objects ------------------------------------------------------------------------------------------


class _Attributes:
    """Attributes by name, in no order: which was set first is not content."""

    __slots__ = ("named",)

    def __init__(self, named: dict[str, object]) -> None:
        self.named = named


def _attributes(named: Any) -> object:
    return _Attributes(dict(named)) if named else None


def _open_attributes(_: _Walk, value: _Attributes) -> _Node:
    names = sorted(value.named)
    children = [each for name in names for each in (name, value.named[name])]

    def segment(number: int) -> str:
        name = names[number // 2]
        return "" if name == "__dict__" else f".{name}"

    return _Node(b"attributes", children, segment)


def _own_attributes(value: object, base: type) -> object:
    """Return what a value has that one of its base class has not."""
    named: dict[str, object] = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__[: type(value).__mro__.index(base)]:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{kind.__name__.lstrip('_')}{slot}" if private else slot
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                named[name] = getattr(value, name)
    return _attributes(named)


def _subclass(base: type, opener: _Opener) -> _Opener:
    def open_subclass(walk: _Walk, value: object) -> _Node:
        attributes = _own_attributes(value, base)
        return _Node(b"subclass", (walk.code(type(value)), _As(opener, value), attributes))

    return open_subclass


def _state(state: object) -> object:
    """Return a state without what only pickle needs to know."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # noqa: PLR2004
        plain, slots = state
        if plain is None or isinstance(plain, dict):
            state = {**(plain or {}), **slots}
    if type(state) is dict and all(type(name) is str for name in state):
        if type(state.get("__dict__")) is dict:  # as pydantic has it, beside its own
            state = {**state, "__dict__": _attributes(state["__dict__"])}
        return _attributes(state)
    return state


def _object(walk: _Walk, value: Any) -> _Node:
    kind = type(value)
    if isinstance(value, Iterator) and not isinstance(kind.__next__, types.FunctionType):
        raise _Refused("what an iterator has yet to give is not known")
    reduced = value.__reduce_ex__(4)
    code = walk.code(kind)
    if isinstance(reduced, str):
        return _Node(b"global", (code, reduced))
    call, args, state, items, pairs = (*reduced, None, None, None)[:5]
    if getattr(call, "__module__", None) == "copyreg" and args and args[0] is kind:
        made = args[1:]  # the class is known
    else:
        made = (call, args)
    content = (_listed(items), _listed(pairs))
    setter = reduced[5] if len(reduced) > 5 else None  # noqa: PLR2004 - the sixth, since pickle 5
    return _Node(b"object", (code, made, _state(state), *content, setter))


def _listed(items: Iterable[object] | None) -> list[object] | None:
    return (None if items is None else list(items)) or None


def _own_digest(walk: _Walk, value: Any) -> _Node:
    stand_in = value.__flowpar_digest__()
    return _Node(b"own", (walk.code(type(value)), stand_in), is_stand_in=True)


# numpy --------------------------------------------------------------------------------------------


def _dtype(dtype: Any) -> tuple[object, ...]:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return "sub", _dtype(base), shape
    if dtype.fields is None:
        # Types that others added all say "V" of themselves.
        return dtype.str, dtype.name if dtype.kind == "V" else None
    fields = []
    for name in dtype.names:
        kind, offset, *title = dtype.fields[name]
        fields.append((name, offset, _dtype(kind), tuple(title)))
    return "fields", dtype.itemsize, tuple(fields), dtype.type.__name__


def _is_dense(dtype: Any) -> bool:
    """Return whether each byte of an element is content."""
    if dtype.subdtype is not None:
        return _is_dense(dtype.subdtype[0])
    if dtype.fields is None:
        return not _is_padded(dtype) and not _is_indirect(dtype)
    kinds = [dtype.fields[name][0] for name in dtype.names]
    return sum(kind.itemsize for kind in kinds) == dtype.itemsize and all(map(_is_dense, kinds))


def _is_padded(dtype: Any) -> bool:
    """Return whether it is a long double, of which 10 of 16 bytes are used, the others left."""
    return (dtype.kind, dtype.itemsize) in {("f", 16), ("c", 32), ("f", 12), ("c", 24)}


def _is_indirect(dtype: Any) -> bool:
    return bool(dtype.hasobject) or dtype.kind == "T"


def _ndarray(_: _Walk, value: Any) -> _Node:
    plain = sys.modules["numpy"].asarray(value)
    children = (_dtype(plain.dtype), plain.shape, *_array_content(plain))
    if plain.dtype.fields is not None or not _is_indirect(plain.dtype):
        return _Node(b"ndarray", children)
    return _Node(b"ndarray", children, lambda number: _position(number - 2, plain.shape))


def _position(number: int, shape: tuple[int, ...]) -> str:
    at: list[int] = []
    for size in reversed(shape):
        number, rest = divmod(number, size)
        at.insert(0, rest)
    return f"[{', '.join(map(str, at))}]"


def _array_content(array: Any) -> list[object]:
    """Return the values of an array, or digests of its bytes."""
    dtype = array.dtype
    if _is_dense(dtype):
        hasher = blake3()
        _feed(hasher, array)
        return [_Ready(b"#" + hasher.digest())]
    if dtype.fields is not None:
        return [part for name in dtype.names for part in _array_content(array[name])]
    if _is_padded(dtype):
        return [_Ready(b"#" + _long_doubles(array))]
    if dtype.kind == "T":
        missing = getattr(dtype, "na_object", None)
        return [None if each is missing else each for each in array.astype("O").flat]
    return list(array.flat)


def _long_doubles(array: Any) -> bytes:
    """Return a hash of exact parts: mantissa and exponent."""
    numpy = sys.modules["numpy"]
    hasher = blake3()
    parts = (array.real, array.imag) if array.dtype.kind == "c" else (array,)
    for part in parts:
        for start in range(0, part.size, _BLOCK // 16):
            block = part.flat[start : start + _BLOCK // 16]
            scaled, exponent = numpy.frexp(block)
            high = scaled.astype("<f8")
            low = numpy.zeros_like(scaled)
            numpy.subtract(scaled, high, out=low, where=numpy.isfinite(block))
            finite = numpy.where(numpy.isfinite(block), exponent, 0)
            for each in (high, low.astype("<f8"), finite.astype("<i8")):
                _feed(hasher, each)
    return hasher.digest()


def _feed(hasher: Any, array: Any) -> None:
    """Hash an array's bytes in the order of its indices, without a copy of it all."""
    if not array.nbytes:
        return
    if array.flags.c_contiguous:
        hasher.update(memoryview(array.reshape(-1).view("u1")))
        return
    row = array.nbytes // len(array)
    if row > _BLOCK:
        for each in array:
            _feed(hasher, each)
        return
    step = max(1, _BLOCK // row)
    for start in range(0, len(array), step):
        _feed(hasher, array[start : start + step].copy("C"))


def _masked(_: _Walk, value: Any) -> _Node:
    numpy = sys.modules["numpy"]
    mask = numpy.ma.getmaskarray(value)
    children = (numpy.asarray(value.data), mask, numpy.asarray(value.fill_value), value.hardmask)
    return _Node(b"masked", children, (".data", ".mask", ".fill_value", ""))


def _scalar(walk: _Walk, value: Any) -> _Node:
    kind = type(value)
    foreign = None if kind.__module__ == "numpy" else walk.code(kind)
    return _Node(b"scalar", (foreign, sys.modules["numpy"].asarray(value)))


def _generator(_: _Walk, value: Any) -> _Node:
    return _Node(b"Generator", (value.bit_generator.state,))


def _random_state(_: _Walk, value: Any) -> _Node:
    return _Node(b"RandomState", (value.get_state(legacy=False),))


# pandas -------------------------------------------------------------------------------------------


class _Column:
    """The values of one column or index, without names."""

    __slots__ = ("values",)

    def __init__(self, values: Any) -> None:
        self.values = values


def _open_column(_: _Walk, value: _Column) -> _Node:
    return _Node(b"column", _column(value.values), ("",))


def _column(values: Any) -> tuple[object, ...]:
    """Return the parts of an array of pandas."""
    dtype, kind = values.dtype, type(values).__name__
    bases = {base.__name__ for base in type(values).__mro__}
    if kind == "ndarray":
        return (values,)
    if kind in {"NumpyExtensionArray", "PandasArray"}:
        return (values.to_numpy(),)
    if "Categorical" in bases:
        return "categorical", values.codes, values.categories, values.ordered
    if "DatetimeLikeArrayMixin" in bases or hasattr(values, "asi8"):
        return str(dtype), values.asi8
    return _nullable(values, str(dtype), bases)


def _nullable(values: Any, dtype: str, bases: set[str]) -> tuple[object, ...]:
    if "StringDtype" in {base.__name__ for base in type(values.dtype).__mro__}:
        # Where it is kept, in Python or by pyarrow, depends on what is installed.
        return dtype, values.to_numpy(dtype=object, na_value=None)
    if "BaseMaskedArray" in bases:
        # What is kept where a value is missing is whatever was there before.
        plain = values.to_numpy(dtype=values.dtype.numpy_dtype, na_value=0)
        return dtype, plain, values.isna()
    if "IntervalArray" in bases:
        return dtype, values.closed, values.left, values.right
    if "ArrowExtensionArray" in bases:
        return dtype, values.__arrow_array__()
    if "SparseArray" in bases:
        return dtype, len(values), values.sp_values, values.sp_index.indices, values.fill_value
    own = type(values).__module__.startswith("pandas.")
    return (dtype if own else values.dtype), values.astype(object)


def _pandas_kind(walk: _Walk, value: object) -> object:
    kind = type(value)
    is_own = kind.__module__.partition(".")[0] == "pandas"
    return kind.__name__ if is_own else walk.code(kind)


def _frame(walk: _Walk, value: Any) -> _Node:
    labels = list(value.columns)
    head = (_pandas_kind(walk, value), value.columns, value.index, value.attrs)
    flags = value.flags.allows_duplicate_labels
    columns = [_Column(value.iloc[:, at].array) for at in range(len(labels))]
    names = ("", ".columns", ".index", ".attrs", "", *(f"[{label!r}]" for label in labels), "")
    return _Node(b"DataFrame", (*head, flags, *columns), names)


def _series(walk: _Walk, value: Any) -> _Node:
    head = (_pandas_kind(walk, value), value.name, value.index, value.attrs)
    flags = value.flags.allows_duplicate_labels
    names = ("", ".name", ".index", ".attrs", "", "")
    return _Node(b"Series", (*head, flags, _Column(value.array)), names)


def _index(walk: _Walk, value: Any) -> _Node:
    kind = _pandas_kind(walk, value)
    names = tuple(value.names)
    if hasattr(value, "levels"):
        # By its values: a level may keep some that are no longer used.
        levels = [value.get_level_values(at) for at in range(value.nlevels)]
        return _Node(b"MultiIndex", (kind, names, *levels))
    if type(value).__name__ == "RangeIndex":
        return _Node(b"RangeIndex", (kind, names, value.start, value.stop, value.step))
    freq = getattr(value, "freqstr", None)
    return _Node(b"Index", (kind, names, freq, _Column(value.array)))


def _pandas_time(_: _Walk, value: Any) -> _Node:
    zone, fold = getattr(value, "tzinfo", None), getattr(value, "fold", 0)
    children = (type(value).__name__, value.asm8, fold, zone)
    return _Node(b"pandas", children, ("", "", "", ".tzinfo"))


def _pandas_array(walk: _Walk, value: Any) -> _Node:
    return _Node(b"array of pandas", (_pandas_kind(walk, value), _Column(value)))


# polars and pyarrow -------------------------------------------------------------------------------


def _polars_frame(_: _Walk, value: Any) -> _Node:
    columns = value.get_columns()
    names = ("", *(f"[{name!r}]" for name in value.columns), "")
    return _Node(b"polars.DataFrame", (value.shape, *columns), names)


def _polars_series(_: _Walk, value: Any) -> _Node:
    dtype = value.dtype
    head = (value.name, repr(dtype), len(value))
    # Only times ask polars' engine: a process that has started its threads is bad to fork.
    if dtype.is_temporal():
        value = value.cast(sys.modules["polars"].Int64)
    plain = value.dtype.is_numeric() and not value.dtype.is_decimal()
    if value.null_count() or not plain or value.dtype.base_type() in _wide():
        return _Node(b"polars.Series", (*head, value.to_list()))
    return _Node(b"polars.Series", (*head, value.to_numpy()))


def _wide() -> tuple[object, ...]:
    """Return the numbers that numpy has not."""
    polars = sys.modules["polars"]
    names = ("Int128", "UInt128", "Float16")
    return tuple(getattr(polars, name) for name in names if hasattr(polars, name))


def _schema(schema: Any) -> tuple[object, ...]:
    fields = tuple((f.name, str(f.type), f.nullable, _metadata(f.metadata)) for f in schema)
    return fields, _metadata(schema.metadata)


def _metadata(metadata: Any) -> object:
    return sorted(metadata.items()) if metadata else None


def _table(_: _Walk, value: Any) -> _Node:
    kind = type(value).__name__
    columns = [_as_array(column) for column in value.columns]
    names = ("", "", "", *(f"[{name!r}]" for name in value.schema.names), "")
    return _Node(b"pyarrow", (kind, _schema(value.schema), value.num_rows, *columns), names)


def _as_array(column: Any) -> Any:
    """Return an array of arrow's in one piece; how it was cut is not content."""
    if type(column).__name__ != "ChunkedArray":
        return column
    made = column.combine_chunks()
    if type(made).__name__ != "ChunkedArray":  # of 2 GB of text it stays one
        return made
    return column.to_pylist()


def _chunked(_: _Walk, value: Any) -> _Node:
    return _Node(b"pyarrow", ("ChunkedArray", str(value.type), _as_array(value)))


def _arrow_array(_: _Walk, value: Any) -> _Node:
    arrow = sys.modules["pyarrow"]
    kind, of = value.type, arrow.types
    head = ("Array", str(kind), len(value))
    if hasattr(value, "storage"):
        return _Node(b"pyarrow", (*head, value.storage))
    if of.is_temporal(kind) and not of.is_interval(kind):
        value = value.view(arrow.int64() if kind.bit_width == 64 else arrow.int32())  # noqa: PLR2004
    if of.is_integer(value.type) or of.is_float32(kind) or of.is_float64(kind):
        # What is kept where a value is missing is whatever was there before.
        missing = value.is_null().to_numpy(zero_copy_only=False)
        plain = value.fill_null(0).to_numpy(zero_copy_only=False)
        return _Node(b"pyarrow", (*head, plain, missing))
    return _Node(b"pyarrow", (*head, value.to_pylist()))


def _arrow_scalar(_: _Walk, value: Any) -> _Node:
    return _Node(b"pyarrow", ("Scalar", str(value.type), value.as_py()))


# Which is which -----------------------------------------------------------------------------------

_EXACT: Final[dict[type, _Opener]] = {
    int: _leaf(_int),
    str: _leaf(_str),
    float: _leaf(_float),
    bytes: _leaf(_bytes),
    complex: _leaf(_complex),
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    bytearray: lambda _, value: _Node(b"bytearray", (_data(value),)),
    memoryview: _memoryview,
    range: _fields(b"range", "start", "stop", "step"),
    slice: _fields(b"slice", "start", "stop", "step"),
    arrays.array: _array,
    collections.OrderedDict: _ordered_dict,
    collections.defaultdict: _default_dict,
    collections.deque: _deque,
    types.SimpleNamespace: lambda _, value: _Node(b"namespace", (_attributes(vars(value)),)),
    types.MappingProxyType: lambda _, value: _items(b"mappingproxy", dict(value)),
    dt.datetime: _datetime,
    dt.date: _fields(b"date", "year", "month", "day"),
    dt.time: _time,
    dt.timedelta: _fields(b"timedelta", "days", "seconds", "microseconds"),
    dt.timezone: lambda _, value: _Node(b"timezone", (value.utcoffset(None), value.tzname(None))),
    zoneinfo.ZoneInfo: _zone,
    decimal.Decimal: lambda _, value: _Node(b"Decimal", (decimal.Decimal.__str__(value),)),
    fractions.Fraction: _fields(b"Fraction", "numerator", "denominator"),
    uuid.UUID: _fields(b"UUID", "int"),
    re.Pattern: _fields(b"Pattern", "pattern", "flags"),
    functools.partial: _partial,
    types.UnionType: _fields(b"union", "__args__"),
    io.BytesIO: _object,
    io.StringIO: _object,
    _As: lambda walk, value: value.opener(walk, value.value),
    _Attributes: _open_attributes,
    _Column: _open_column,
    object: _object,
}
"""Subclasses of these are their class, such a value, and attributes."""

_FAMILIES: Final[dict[type, _Opener]] = {
    enum.Enum: _enum,
    pathlib.PurePath: _path,
    BaseException: _exception,
    io.IOBase: _refuse,
    weakref.ReferenceType: _refuse,
    weakref.ProxyType: _refuse,
    weakref.CallableProxyType: _refuse,
    types.FunctionType: _codelike,
    types.BuiltinFunctionType: _codelike,
    types.MethodType: _codelike,
    types.MethodWrapperType: _codelike,
    types.MethodDescriptorType: _codelike,
    types.WrapperDescriptorType: _codelike,
    types.ClassMethodDescriptorType: _codelike,
    types.GetSetDescriptorType: _codelike,
    types.MemberDescriptorType: _codelike,
    type(functools.lru_cache(maxsize=1)(len)): _codelike,
    staticmethod: _codelike,
    classmethod: _codelike,
    type: _codelike,
    types.ModuleType: _codelike,
}
"""What takes these apart sees to the class itself."""

_NAMED_EXACT: Final[dict[str, _Opener]] = {
    "numpy.ndarray": _ndarray,
    "numpy.ma.MaskedArray": _masked,
    "numpy.ma.core.MaskedArray": _masked,
}

_NAMED_FAMILIES: Final[dict[str, _Opener]] = {
    "logging.Logger": _refuse,
    "logging.LoggerAdapter": _refuse,
    "socket.socket": _refuse,
    "numpy.memmap": _ndarray,
    "numpy.core.memmap.memmap": _ndarray,
    "numpy._core.memmap.memmap": _ndarray,
    "numpy.generic": _scalar,
    "numpy.str_": lambda _, value: _Node(b"numpy.str_", (str(value),)),
    "numpy.bytes_": lambda _, value: _Node(b"numpy.bytes_", (bytes(value),)),
    "numpy.dtype": lambda _, value: _Node(b"dtype", _dtype(value)),
    "numpy.ufunc": _codelike,
    "numpy.random._generator.Generator": _generator,
    "numpy.random.mtrand.RandomState": _random_state,
    "pandas.DataFrame": _frame,
    "pandas.core.frame.DataFrame": _frame,
    "pandas.Series": _series,
    "pandas.core.series.Series": _series,
    "pandas.Index": _index,
    "pandas.core.indexes.base.Index": _index,
    "pandas.Timestamp": _pandas_time,
    "pandas._libs.tslibs.timestamps.Timestamp": _pandas_time,
    "pandas.Timedelta": _pandas_time,
    "pandas._libs.tslibs.timedeltas.Timedelta": _pandas_time,
    "pandas.NaT": lambda _, __: b"pandas.NaT",
    "pandas._libs.tslibs.nattype.NaTType": lambda _, __: b"pandas.NaT",
    "pandas.api.typing.NaTType": lambda _, __: b"pandas.NaT",
    "pandas.api.extensions.ExtensionArray": _pandas_array,
    "pandas.core.arrays.base.ExtensionArray": _pandas_array,
    "polars.dataframe.frame.DataFrame": _polars_frame,
    "polars.series.series.Series": _polars_series,
    "pyarrow.lib.Table": _table,
    "pyarrow.lib.RecordBatch": _table,
    "pyarrow.lib.ChunkedArray": _chunked,
    "pyarrow.lib.Array": _arrow_array,
    "pyarrow.lib.Scalar": _arrow_scalar,
}

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
    for kind in (*_QUICK, *_EXACT)
    if kind.__module__ == "builtins"
}


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _stand_in(name: str, function: Callable[[Any], object]) -> _Opener:
    return lambda _, value: _Node(b"registered", (name, function(value)), is_stand_in=True)


def _opener_of(kind: type) -> _Opener:
    """Return what takes values of a class apart: of the nearest base that is known."""
    for base in kind.__mro__:
        found = _opener_at(kind, base)
        if found is not None:
            return found
    return _object


def _opener_at(kind: type, base: type) -> _Opener | None:
    name = _name_of(base)
    if name in _registered:
        return _stand_in(name, _registered[name])
    if vars(base).get("__flowpar_digest__") is not None:
        return _own_digest
    family = _FAMILIES.get(base) or _NAMED_FAMILIES.get(name)
    if family is not None:
        return family
    exact = _EXACT.get(base) or _NAMED_EXACT.get(name)
    if exact is None:
        return None
    if issubclass(kind, enum.Enum):  # of an IntEnum, int comes first
        return _enum
    return exact if base is kind or base is object else _subclass(base, exact)
