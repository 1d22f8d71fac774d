"""Takes apart what Python itself and its standard library have."""

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
import sys
import types
import uuid
import weakref
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from flowpar.caching.nodes import (
    As,
    Coder,
    Node,
    Opener,
    Refused,
    data,
    encode_bytes,
    encode_complex,
    encode_float,
    encode_int,
    encode_str,
)

# Containers and what the standard library has -----------------------------------------------------


def _at(number: int) -> str:
    return f"[{number}]"


def _items(tag: bytes, content: Any, *, before: tuple[object, ...] = ()) -> Node:
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

    return Node(tag, children, name)


def _list(_: Coder, value: list[object]) -> Node:
    return Node(b"l", list.__getitem__(value, slice(None)), _at)


def _tuple(_: Coder, value: tuple[object, ...]) -> Node:
    return Node(b"t", tuple.__getitem__(value, slice(None)), _at)


def _set(_: Coder, value: set[object]) -> Node:
    return Node(b"e", list(set.__iter__(value)), ("{...}",), is_set=True)


def _frozenset(_: Coder, value: frozenset[object]) -> Node:
    return Node(b"z", list(frozenset.__iter__(value)), ("{...}",), is_set=True)


def _dict(_: Coder, value: dict[object, object]) -> Node:
    return _items(b"d", value)


def _ordered_dict(_: Coder, value: collections.OrderedDict[object, object]) -> Node:
    # dict.items knows nothing of move_to_end.
    pairs = list(collections.OrderedDict.items(value))
    return _items(b"OrderedDict", dict(pairs))


def _default_dict(_: Coder, value: collections.defaultdict[object, object]) -> Node:
    return _items(b"defaultdict", value, before=(value.default_factory,))


def _deque(_: Coder, value: collections.deque[object]) -> Node:
    children = [value.maxlen, *collections.deque.__iter__(value)]
    return Node(b"deque", children, lambda number: _at(number - 1))


def _memoryview(_: Coder, value: memoryview) -> Node:
    plain = value if value.c_contiguous else memoryview(value.tobytes())
    # A view of several dimensions, some of them empty, cannot be cast.
    raw: object = plain.cast("B") if value.nbytes else b""
    return Node(b"memoryview", (value.format, value.shape, data(raw)))


def _array(_: Coder, value: arrays.array[Any]) -> Node:
    if sys.byteorder == "big":
        value = value[:]
        value.byteswap()
    raw: object = memoryview(value).cast("B") if len(value) else b""
    return Node(b"array", (value.typecode, value.itemsize, data(raw)))


def _datetime(_: Coder, value: dt.datetime) -> Node:
    fields = (value.year, value.month, value.day, value.hour, value.minute, value.second)
    children = (*fields, value.microsecond, value.fold, value.tzinfo)
    return Node(b"datetime", children, (*[""] * 8, ".tzinfo"))


def _time(_: Coder, value: dt.time) -> Node:
    fields = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return Node(b"time", (*fields, value.tzinfo), (*[""] * 5, ".tzinfo"))


def _zone(_: Coder, value: zoneinfo.ZoneInfo) -> Node:
    if value.key is None:
        raise Refused("a ZoneInfo made from a file has no key")
    return Node(b"ZoneInfo", (value.key,))


def _path(walk: Coder, value: pathlib.PurePath) -> Node:
    kind = type(value)
    is_own = kind.__module__.partition(".")[0] == "pathlib"
    flavour: object = kind.__name__ if is_own else walk.code(kind)
    # Their slots are what was already worked out, which says nothing.
    return Node(b"path", (flavour, str(value), attributes(getattr(value, "__dict__", {}))))


def open_enum(walk: Coder, value: enum.Enum) -> Node:
    """Take a member of an enumeration apart."""
    # A combination of flags has a name in some Python versions only.
    name = value._name_ if value._name_ in type(value).__members__ else None
    return Node(b"enum", (walk.code(type(value)), name, value._value_), ("", "", ".value"))


def _partial(_: Coder, value: functools.partial[object]) -> Node:
    children = (value.func, value.args, value.keywords, attributes(vars(value)))
    return Node(b"partial", children, (".func", ".args", ".keywords", ""))


def _exception(walk: Coder, value: BaseException) -> Node:
    facts = {}
    if isinstance(value, (OSError, ImportError)):  # these keep some of what they were given apart
        for name in ("filename", "filename2", "name", "path"):
            facts[name] = getattr(value, name, None)
    own = own_attributes(value, BaseException)
    cause = (value.__cause__, value.__suppress_context__)
    children = (walk.code(type(value)), value.args, facts, own, *cause)
    return Node(b"exception", children, ("", ".args", "", "", ".__cause__", ""))


def codelike(walk: Coder, value: object) -> Node:
    """Take what is known by its code apart."""
    return Node(b"code", (walk.code(value),))


def refuse(_: Coder, value: object) -> Node:  # noqa: ARG001 - an opener
    """Take nothing apart: it has only an identity."""
    raise Refused


def _fields(tag: bytes, *names: str) -> Opener:
    """Return what takes an object apart that is all in a few attributes."""

    def opener(_: Coder, value: object) -> Node:
        children = [getattr(value, name) for name in names]
        return Node(tag, children, tuple(f".{name}" for name in names))

    return opener


def _leaf(encode: Callable[[Any], bytes]) -> Opener:
    return lambda _, value: encode(value)


# Objects ------------------------------------------------------------------------------------------


def attributes(named: Any) -> object:
    """Return what stands for attributes by name, if there are any."""
    return As(_open_attributes, dict(named)) if named else None


def _open_attributes(_: Coder, value: dict[str, object]) -> Node:
    # In no order: which was set first is not content.
    names = sorted(value)
    children = [each for name in names for each in (name, value[name])]

    def segment(number: int) -> str:
        name = names[number // 2]
        return "" if name == "__dict__" else f".{name}"

    return Node(b"attributes", children, segment)


def own_attributes(value: object, base: type) -> object:
    """Return what a value has that one of its base class has not."""
    named: dict[str, object] = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__[: type(value).__mro__.index(base)]:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{kind.__name__.lstrip('_')}{slot}" if private else slot
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                named[name] = getattr(value, name)
    return attributes(named)


def subclass(base: type, opener: Opener) -> Opener:
    """Return what takes a value of a subclass apart: one of the base, and what it has besides."""

    def open_subclass(walk: Coder, value: object) -> Node:
        attributes = own_attributes(value, base)
        return Node(b"subclass", (walk.code(type(value)), As(opener, value), attributes))

    return open_subclass


def _state(state: object) -> object:
    """Return a state without what only pickle needs to know."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # noqa: PLR2004
        plain, slots = state
        if plain is None or isinstance(plain, dict):
            state = {**(plain or {}), **slots}
    if type(state) is dict and all(type(name) is str for name in state):
        if type(state.get("__dict__")) is dict:  # as pydantic has it, beside its own
            state = {**state, "__dict__": attributes(state["__dict__"])}
        return attributes(state)
    return state


def open_object(walk: Coder, value: Any) -> Node:
    """Take any object apart, as pickle would."""
    kind = type(value)
    if isinstance(value, Iterator) and not isinstance(kind.__next__, types.FunctionType):
        raise Refused("what an iterator has yet to give is not known")
    reduced = value.__reduce_ex__(4)
    code = walk.code(kind)
    if isinstance(reduced, str):
        return Node(b"global", (code, reduced))
    call, args, state, items, pairs = (*reduced, None, None, None)[:5]
    if getattr(call, "__module__", None) == "copyreg" and args and args[0] is kind:
        made = args[1:]  # the class is known
    else:
        made = (call, args)
    content = (_listed(items), _listed(pairs))
    setter = reduced[5] if len(reduced) > 5 else None  # noqa: PLR2004 - the sixth, since pickle 5
    return Node(b"object", (code, made, _state(state), *content, setter))


def _listed(items: Iterable[object] | None) -> list[object] | None:
    return (None if items is None else list(items)) or None


def open_own_digest(walk: Coder, value: Any) -> Node:
    """Take what says itself what stands for it apart."""
    stand_in = value.__flowpar_digest__()
    return Node(b"own", (walk.code(type(value)), stand_in), is_stand_in=True)


# Which is which -----------------------------------------------------------------------------------

EXACT: Final[dict[type, Opener]] = {
    int: _leaf(encode_int),
    str: _leaf(encode_str),
    float: _leaf(encode_float),
    bytes: _leaf(encode_bytes),
    complex: _leaf(encode_complex),
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    bytearray: lambda _, value: Node(b"bytearray", (data(value),)),
    memoryview: _memoryview,
    range: _fields(b"range", "start", "stop", "step"),
    slice: _fields(b"slice", "start", "stop", "step"),
    arrays.array: _array,
    collections.OrderedDict: _ordered_dict,
    collections.defaultdict: _default_dict,
    collections.deque: _deque,
    types.SimpleNamespace: lambda _, value: Node(b"namespace", (attributes(vars(value)),)),
    types.MappingProxyType: lambda _, value: _items(b"mappingproxy", dict(value)),
    dt.datetime: _datetime,
    dt.date: _fields(b"date", "year", "month", "day"),
    dt.time: _time,
    dt.timedelta: _fields(b"timedelta", "days", "seconds", "microseconds"),
    dt.timezone: lambda _, value: Node(b"timezone", (value.utcoffset(None), value.tzname(None))),
    zoneinfo.ZoneInfo: _zone,
    decimal.Decimal: lambda _, value: Node(b"Decimal", (decimal.Decimal.__str__(value),)),
    fractions.Fraction: _fields(b"Fraction", "numerator", "denominator"),
    uuid.UUID: _fields(b"UUID", "int"),
    re.Pattern: _fields(b"Pattern", "pattern", "flags"),
    functools.partial: _partial,
    types.UnionType: _fields(b"union", "__args__"),
    io.BytesIO: open_object,
    io.StringIO: open_object,
    As: lambda walk, value: value.opener(walk, value.value),
    object: open_object,
}
"""Subclasses of these are their class, such a value, and attributes."""

FAMILIES: Final[dict[type, Opener]] = {
    enum.Enum: open_enum,
    pathlib.PurePath: _path,
    BaseException: _exception,
    io.IOBase: refuse,
    weakref.ReferenceType: refuse,
    weakref.ProxyType: refuse,
    weakref.CallableProxyType: refuse,
    types.FunctionType: codelike,
    types.BuiltinFunctionType: codelike,
    types.MethodType: codelike,
    types.MethodWrapperType: codelike,
    types.MethodDescriptorType: codelike,
    types.WrapperDescriptorType: codelike,
    types.ClassMethodDescriptorType: codelike,
    types.GetSetDescriptorType: codelike,
    types.MemberDescriptorType: codelike,
    type(functools.lru_cache(maxsize=1)(len)): codelike,
    staticmethod: codelike,
    classmethod: codelike,
    type: codelike,
    types.ModuleType: codelike,
}
"""What takes these apart sees to the class itself."""

NAMED_FAMILIES: Final[dict[str, Opener]] = {
    "logging.Logger": refuse,
    "logging.LoggerAdapter": refuse,
    "socket.socket": refuse,
}
