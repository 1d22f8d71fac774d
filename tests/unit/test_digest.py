"""Digests: equal exactly where the content is, in every process, and said where there is none."""

# ruff: noqa: DTZ001 - a time without a zone is a value too

from __future__ import annotations

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import math
import multiprocessing
import os
import pathlib
import re
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import typing
import uuid
import weakref
import zoneinfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowpar.caching import digest as module
from flowpar.caching import foreign_openers
from flowpar.caching.digest import NotDigestible, ValueDigester, hashed, register_digest


def code(thing: object) -> bytes:
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or repr(thing)
    return f"{getattr(thing, '__module__', '')}.{name}".encode()


def digest(value: object, path: str = "value") -> bytes:
    return ValueDigester(code).digest(value, path)


class Plain:
    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


class Other(Plain):
    pass


class Slotted:
    __slots__ = ("__hidden", "a")

    def __init__(self, a: object, hidden: object) -> None:
        self.a, self.__hidden = a, hidden


@dataclasses.dataclass
class Data:
    a: object
    b: object = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: object


class Reduced:
    def __init__(self, a: object) -> None:
        self.a = a

    def __reduce__(self):
        return Reduced, (self.a,)


class Own:
    def __init__(self, a: object, b: object) -> None:
        self.a, self.b = a, b

    def __flowpar_digest__(self):
        return self.a


class MyList(list):
    pass


class MyInt(int):
    pass


class MyStr(str):
    __slots__ = ()


class MyDict(dict):
    pass


class Kept(Exception):
    pass


class MyFloat(np.float32):
    pass


class MyText(np.str_):
    pass


def caused(error: Exception, cause: Exception | None) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


def noted(error: Exception, text: str) -> Exception:
    error.__notes__ = [text]
    return error


def spawned(seeded: object, times: int) -> object:
    for _ in range(times):
        seeded.spawn(1)
    return seeded


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Point(typing.NamedTuple):
    x: int
    y: int


class Pixel(typing.NamedTuple):
    x: int
    y: int


def with_attribute(value: object, **fields: object) -> object:
    value.__dict__.update(fields)
    return value


def nan(payload: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000 | payload))[0]


def fields_of(offsets: list[int]) -> np.dtype:
    return np.dtype(
        {"names": ["a", "b"], "formats": ["i1", "i1"], "offsets": offsets, "itemsize": 4}
    )


DIFFER = [
    [
        1,
        True,
        1.0,
        "1",
        b"1",
        [1],
        (1,),
        {1: 1},
        {1},
        frozenset({1}),
        None,
        1 + 0j,
        bytearray(b"1"),
    ],
    [0, False, 0.0, -0.0, "", b"", [], (), {}, set(), frozenset(), 0j, -0j, complex(-0.0, 0.0)],
    [nan(0), nan(1), -nan(0), math.inf, -math.inf],
    [10**20, 10**20 + 1, -(10**20), 2**64, 2**63, -1, 255, -255, 256, 16**30000, 16**30001],
    ["a" * 40, b"a" * 40, "a" * 41, "a" * 31, "a" * 32, b"a" * 31, b"a" * 32, ["a" * 40]],
    ["\ud83d\ude00", "\U0001f600", "\ud83d", "é", "e\u0301"],
    [[1, 2], [2, 1], [[1], 2], [1, [2]], [[1, 2]], [12], (1, 2), [1, 2, None], ["1", "2"], ["12"]],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, {"a": 2, "b": 1}, [("a", 1), ("b", 2)]],
    [{1, 2}, frozenset({1, 2}), {1, 3}, {1}, {(1, 2)}, [1, 2]],
    [Plain(a=1), Other(a=1), Plain(a=2), Plain(b=1), Plain(), {"a": 1}, types.SimpleNamespace(a=1)],
    [Data(1), Data(1, 3), Data("1"), Frozen(1), Frozen(2), Plain(a=1, b=2), Reduced(1), Reduced(2)],
    [Slotted(1, 2), Slotted(1, 3), Slotted(2, 2)],
    [Own(1, 2), Own(2, 2)],
    [MyList([1]), [1], MyList([2]), with_attribute(MyList([1]), a=1)],
    [MyInt(1), 1, MyInt(2), MyStr("1"), "1", MyDict({1: 1}), {1: 1}, MyDict({1: 2})],
    [
        collections.OrderedDict(a=1),
        {"a": 1},
        collections.defaultdict(int, a=1),
        collections.defaultdict(list, a=1),
        collections.Counter(a=1),
        types.MappingProxyType({"a": 1}),
    ],
    [collections.deque([1]), collections.deque([1], 3), collections.deque([1], 4), [1]],
    [Point(1, 2), Pixel(1, 2), (1, 2), Point(2, 1)],
    [range(3), range(0, 3, 2), range(4), [0, 1, 2], slice(3), slice(0, 3), slice(0, 3, 1)],
    [b"ab", bytearray(b"ab"), memoryview(b"ab"), array.array("b", b"ab"), array.array("B", b"ab")],
    [memoryview(b"abcd"), memoryview(b"abcd").cast("B", (2, 2)), memoryview(b"abcd").cast("i")],
    [array.array("i", [1]), array.array("f", [1]), array.array("i", [2]), array.array("i")],
    [..., NotImplemented, None],
    [Color.RED, Color.BLUE, Shade.RED, 1, "RED", Number.ONE, MyInt(1)],
    [Flags.A, Flags.B, Flags.A | Flags.B, Flags(0)],
    [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), "a", pathlib.PurePosixPath("b")],
    [
        dt.datetime(2020, 1, 1),
        dt.date(2020, 1, 1),
        dt.datetime(2020, 1, 1, fold=1),
        dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc),
        dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
        dt.datetime(2020, 1, 1, microsecond=1),
        dt.time(1),
        dt.timedelta(1),
        dt.timedelta(seconds=1),
        dt.timezone(dt.timedelta(hours=1)),
        dt.timezone(dt.timedelta(hours=1), "x"),
        zoneinfo.ZoneInfo("Europe/Paris"),
    ],
    [decimal.Decimal(1), decimal.Decimal("1.0"), fractions.Fraction(1), decimal.Decimal("-0")],
    [fractions.Fraction(1, 2), fractions.Fraction(1, 3), uuid.UUID(int=1), uuid.UUID(int=2), 1],
    [re.compile("a"), re.compile("b"), re.compile("a", re.IGNORECASE), re.compile(b"a")],
    [
        functools.partial(max, 1),
        functools.partial(min, 1),
        functools.partial(max, 2),
        functools.partial(max, 1, key=len),
        max,
    ],
    [ValueError("a"), TypeError("a"), ValueError("a", "b"), with_attribute(ValueError("a"), x=1)],
    [OSError(2, "a"), OSError(2, "a", "file"), OSError(2, "a", "other"), ValueError(2, "a")],
    [
        int | str,
        int | None,
        list[int],
        list[str],
        Plain,
        Other,
        code,
        len,
        max,
        math,
        os,
        "".join,
        Plain.__init__,
        int,
        type,
        1,
    ],
    [
        np.zeros(2),
        np.zeros(2, "f4"),
        np.zeros(2, ">f8"),
        np.zeros((2, 1)),
        np.zeros(3),
        np.array([0.0, -0.0]),
        np.zeros(2, "i8"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "M8[ns]"),
        np.zeros(2, "m8[s]"),
        np.zeros(2, object),
        np.zeros(2, np.longdouble),
        np.zeros(2).view(np.recarray),
        np.ma.array([0.0, 0.0]),
        np.ma.array([0.0, 0.0], mask=[0, 1]),
        np.ma.array([0.0, 0.0], fill_value=7),
        np.zeros(0),
        np.zeros((0, 1)),
        np.zeros(0, "U3"),
        [0.0, 0.0],
    ],
    [np.float64(1), 1.0, np.float32(1), np.array(1.0), np.array([1.0]), np.int64(1), np.bool_(1)],
    [np.str_("a"), "a", np.bytes_(b"a"), b"a", np.array("a")],
    [
        np.datetime64("2020"),
        np.datetime64("2020-01-01"),
        np.timedelta64(1, "s"),
        np.datetime64("NaT", "s"),
    ],
    [np.zeros(2, fields_of([0, 1])), np.zeros(2, fields_of([0, 2])), np.zeros(2, "i1,i1")],
    [np.dtype("i4"), np.dtype(">i4"), np.dtype("f4"), np.dtype([("a", "i4")]), np.dtype(("i4", 2))],
    [np.array([1, "a"], object), np.array(["a", 1], object), np.array([[1, "a"]], object)],
    [np.longdouble(1), np.longdouble(1) + np.finfo(np.longdouble).eps, np.longdouble("inf")],
    [np.random.default_rng(0), np.random.default_rng(1), np.random.RandomState(0)],
    [
        spawned(np.random.default_rng(0), 1),
        spawned(np.random.default_rng(0), 2),
        np.random.default_rng(0),
        np.random.PCG64(0),
        np.random.PCG64(1),
        np.random.MT19937(0),
        np.random.SeedSequence(0),
        np.random.SeedSequence(1),
        spawned(np.random.SeedSequence(0), 1),
        np.random.SeedSequence(0).spawn(1)[0],
        np.random.SeedSequence(0, pool_size=8),
    ],
    [np.add, np.multiply],
    [
        ValueError("a"),
        caused(ValueError("a"), None),
        caused(ValueError("a"), KeyError(1)),
        caused(ValueError("a"), KeyError(2)),
        noted(ValueError("a"), "b"),
        noted(ValueError("a"), "c"),
    ],
    [
        np.float32(1),
        MyFloat(1),
        with_attribute(MyFloat(1), unit="m"),
        with_attribute(MyFloat(1), unit="km"),
        MyText("a"),
        np.str_("a"),
        with_attribute(MyText("a"), unit="m"),
    ],
    [
        np.dtype("f8"),
        np.dtype("f8", metadata={"a": 1}),
        np.dtype("f8", metadata={"a": 2}),
        np.dtype([("x", np.dtype("f8", metadata={"a": 1}))]),
        np.dtype([("x", "f8")]),
        np.zeros(1),
        np.zeros(1, np.dtype("f8", metadata={"a": 1})),
    ],
]
PAIRS = [
    pytest.param(group[i], group[j], id=f"{at}-{i}-{j}")
    for at, group in enumerate(DIFFER)
    for i in range(len(group))
    for j in range(i)
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_what_differs_has_another_digest(first, second):
    assert digest(first) != digest(second)
    assert digest([first]) != digest([second])


@pytest.mark.parametrize("value", [each for group in DIFFER for each in group], ids=lambda _: "")
def test_a_digest_is_short_and_stays(value):
    assert digest(value) == digest(value)
    assert len(digest(value)) <= 33
    assert digest(value)[:1] != b"#" or len(digest(value)) == 33


GRID = np.arange(12.0).reshape(3, 4)
STRUCTS = np.zeros(2, fields_of([0, 2]))
GARBAGE = np.frombuffer(b"\0\1\0\1\0\2\0\2", fields_of([0, 2]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (GRID, np.asfortranarray(GRID)),
        (GRID, np.repeat(GRID, 2, axis=1)[:, ::2]),
        (GRID, GRID[::-1, ::-1].copy()[::-1, ::-1]),
        (GRID.T, GRID.T.copy()),
        (np.zeros((5, 3)), np.broadcast_to(0.0, (5, 3))),
        (np.array([1, "a"], object), np.array([1, 0, "a", 0], object)[::2]),
        (STRUCTS, GARBAGE),
        (np.zeros((2, 2), "M8[s]"), np.zeros((2, 2), "M8[s]", order="F")),
        ({3, 1, 2, "a", "b"}, {"b", "a", 2, 1, 3}),
        ({frozenset("ab"), frozenset("cd")}, {frozenset("dc"), frozenset("ba")}),
        (Plain(a=1, b=2), Plain(b=2, a=1)),
        (Own(1, 2), Own(1, 3)),
        (np.random.default_rng(3), np.random.default_rng(3)),
        (np.ma.array([1, 2], mask=[0, 0]), np.ma.array([1, 2])),
        (memoryview(b"aXbX")[::2], memoryview(b"ab")),
        (dt.timedelta(hours=24), dt.timedelta(1)),
        (re.compile("a"), re.compile("a", re.UNICODE)),
        (np.array([1, 2], np.longdouble), np.array([1, 9, 2], np.longdouble)[::2]),
    ],
)
def test_what_is_equal_has_one_digest(first, second):
    assert digest(first) == digest(second)


def test_a_subclass_has_the_content_of_its_base():
    first, second = MyDict(a=[1]), MyDict(a=[1])
    assert digest(first) == digest(second)
    second["a"].append(2)
    assert digest(first) != digest(second)


def test_large_arrays_in_any_order(monkeypatch):
    monkeypatch.setattr(foreign_openers, "_BLOCK", 1000)
    values = np.arange(24000.0).reshape(10, 20, 120)
    expected = digest(values)
    assert digest(np.asfortranarray(values)) == expected
    assert digest(np.ascontiguousarray(values.transpose(1, 2, 0)).transpose(2, 0, 1)) == expected


def test_a_memmap_is_its_array(tmp_path):
    np.save(tmp_path / "a.npy", GRID)
    assert digest(np.load(tmp_path / "a.npy", mmap_mode="r")) == digest(GRID)


def test_aliasing_is_no_content():
    inner = [1, [2, "x" * 50], {"a": (3, [4])}]
    copy = [1, [2, "x" * 50], {"a": (3, [4])}]
    assert digest([inner, inner]) == digest([inner, copy])
    assert digest(inner) == digest(copy)


def test_what_is_shared_many_times_is_read_once():
    value: object = ["x"]
    for _ in range(200):
        value = [value, value]
    begun = time.perf_counter()
    digest(value)
    assert time.perf_counter() - begun < 1


# Cycles and depth


def ring(size: int, label: object = 0) -> Plain:
    nodes = [Plain(label=label) for _ in range(size)]
    for at, node in enumerate(nodes):
        node.next = nodes[(at + 1) % size]
    return nodes[0]


def test_what_hides_its_function_has_no_digest():
    with pytest.raises(NotDigestible, match="does not show its function"):
        digest(np.frompyfunc(lambda x: x + 1, 1, 1))


def test_cycles():
    first: list[object] = [1]
    first.append(first)
    second: list[object] = [1]
    second.append(second)
    assert digest(first) == digest(second)
    third: list[object] = [2]
    third.append(third)
    assert digest(first) != digest(third)
    assert digest([first, first]) == digest([first, second])


def test_cycles_of_objects():
    assert digest(ring(3)) == digest(ring(3))
    assert len({digest(ring(1)), digest(ring(2)), digest(ring(3)), digest(ring(3, 1))}) == 4
    value = {"a": ring(2), "b": [ring(2)]}
    assert digest(value) == digest({"a": ring(2), "b": [ring(2)]})


def test_a_cycle_through_a_set():
    def made(order: int) -> Plain:
        owner = Plain(name="owner")
        members = [Plain(name=f"m{at}", owner=owner, shared=None) for at in range(20)]
        shared = Plain(name="shared", owner=owner)
        for member in members:
            member.shared = shared
        owner.members = set(members[::order])
        return owner

    assert len({digest(made(1)) for _ in range(5)} | {digest(made(-1)) for _ in range(5)}) == 1


def test_a_dense_graph_of_objects_is_not_walked_along_all_its_ways():
    def made() -> Plain:
        nodes = [Plain(number=at) for at in range(40)]
        for node in nodes:
            node.others = [other for other in nodes if other is not node]
        return nodes[0]

    begun = time.perf_counter()
    assert digest(made()) == digest(made())
    assert time.perf_counter() - begun < 2


def test_deep_nesting():
    def made(inmost: object) -> object:
        for _ in range(100_000):
            inmost = [inmost]
        return inmost

    values = made(1), made(1), made(2)
    digests = [digest(value) for value in values]
    assert digests[0] == digests[1] != digests[2]


# What has no content


LOCK = threading.Lock()


def generator():
    yield 1


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "value"),
        ([1, 2, 3, {"a": LOCK}], "value[3]['a']"),
        (Plain(tokenizer=Plain(_lock=LOCK)), "value.tokenizer._lock"),
        (Data(1, (LOCK,)), "value.b[0]"),
        (Slotted(LOCK, 1), "value.a"),
        (MyDict(a=[LOCK]), "value['a'][0]"),
        (with_attribute(MyList(), a=LOCK), "value.a"),
        (functools.partial(max, LOCK), "value.args[0]"),
        (np.array([[1, LOCK]], object), "value[0, 1]"),
        (types.SimpleNamespace(a=generator()), "value.a"),
        (generator(), "value"),
        (iter([1]), "value"),
        (map(str, [1]), "value"),
        (zip([1]), "value"),
        ({"a": 1}.keys(), "value"),
        (weakref.ref(Plain), "value"),
        (threading.Event(), "value._cond._lock"),
        (collections.defaultdict(list, a=[LOCK]), "value['a'][0]"),
        (collections.deque([1, LOCK]), "value[1]"),
        (sys._getframe(), "value"),
    ],
)
def test_what_has_no_content_is_named(value, path):
    with pytest.raises(NotDigestible) as caught:
        digest(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path} is a {caught.value.type_name} and has no content")
    assert "register_digest" in str(caught.value)


def test_files_sockets_and_loggers(tmp_path):
    import logging
    import socket

    with open(tmp_path / "f", "w") as file, socket.socket() as connection:
        for value in (file, connection, logging.getLogger("a")):
            with pytest.raises(NotDigestible) as caught:
                digest({"x": value}, "config")
            assert caught.value.path == "config['x']"


def test_the_type_is_named_and_the_error_travels():
    import pickle

    with pytest.raises(NotDigestible) as caught:
        digest(LOCK)
    assert caught.value.type_name == "_thread.lock"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path) == (str(caught.value), "value")


def test_a_stand_in_that_leads_back_is_refused():
    class Endless:
        def __flowpar_digest__(self):
            return [self]

    with pytest.raises(NotDigestible, match="leads back"):
        digest(Endless())


# Registering


@pytest.fixture
def registry():
    before = dict(module._registered)
    yield
    module._registered.clear()
    module._registered.update(before)


class Connection:
    def __init__(self, address: str) -> None:
        self.address, self.lock = address, threading.Lock()


class Encrypted(Connection):
    pass


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("by_name", [False, True])
def test_register_digest(by_name):
    with pytest.raises(NotDigestible):
        digest(Connection("a"))
    kind = f"{Connection.__module__}.{Connection.__qualname__}" if by_name else Connection
    register_digest(kind, lambda connection: {"address": connection.address})
    assert digest(Connection("a")) == digest(Connection("a")) != digest(Connection("b"))
    assert digest(Connection("a")) != digest({"address": "a"})
    assert digest(Encrypted("a")) == digest(Encrypted("a"))
    with pytest.raises(NotDigestible, match=r"value\[0\]"):
        digest([Connection(LOCK)])


@pytest.mark.usefixtures("registry")
def test_the_nearest_registration_holds():
    register_digest(Connection, lambda connection: connection.address)
    register_digest(Encrypted, lambda _: "encrypted")
    assert digest(Encrypted("a")) == digest(Encrypted("b")) != digest(Connection("a"))


def test_builtins_cannot_be_registered():
    for kind in (int, list, "builtins.dict", object):
        with pytest.raises(ValueError, match="is fixed"):
            register_digest(kind, str)


# The same everywhere


SCRIPT = """
import sys, collections, datetime, decimal, enum, pathlib
from flowpar.caching.digest import ValueDigester
import numpy as np
class A:
    def __init__(self, **fields): self.__dict__.update(fields)
value = [{"a", "b", "c", "d", 1, None}, frozenset("xyz"), {"k": {"p", "q"}}, A(s={"m", "n"}, t=1.5),
    np.arange(5), np.array(["a", {"u", "v"}], object), datetime.date(2020, 1, 1), 10**50,
    decimal.Decimal("1.1"), pathlib.PurePosixPath("a/b"), collections.deque("ab", 4), KeyError("a"),
    {A(s={"1", "2"}), A(s={"3"})}]
code = lambda thing: f"{thing.__module__}.{thing.__qualname__}".encode()
print(ValueDigester(code).digest(value).hex())
"""


def test_hash_seeds_do_not_show():
    found = set()
    for seed in ("0", "1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=env,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(run.stdout)
    assert len(found) == 1


CARRIED = [{"a": {"x", "y"}, "b": GRID}, 10**30, "text" * 20, dt.date(2020, 1, 1)]


def test_a_spawned_process_gives_the_same():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(ValueDigester(repr).digest, (CARRIED,)).get(60)
    assert found == ValueDigester(repr).digest(CARRIED)


def test_known_digests():
    """These must never change without a new version of what is kept."""
    assert digest(1) == b"i1"
    assert digest("a") == b"sa"
    assert digest([1, None]) == b"(\x01l\x02\x02\x01i1N"
    assert digest("a" * 100)[:1] == b"#"


def test_hashed_keeps_its_parts_apart():
    assert len(hashed()) == 32
    assert (
        len({hashed(b"ab"), hashed(b"a", b"b"), hashed(b"", b"ab"), hashed(b"ab", b""), hashed()})
        == 5
    )


# Nested builtins


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.binary(max_size=40),
)
hashables = st.recursive(
    scalars, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner)), max_leaves=5
)
nested = st.recursive(
    st.one_of(hashables, st.sampled_from([0, 1, 1.0, True, "1", b"1", -0.0, 0.0])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.dictionaries(hashables, inner, max_size=3),
        st.sets(hashables, max_size=3),
    ),
    max_leaves=12,
)


def canonical(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, (set, frozenset)):
        return f"{kind}<{','.join(sorted(map(canonical, value)))}>"
    if isinstance(value, (list, tuple)):
        return f"{kind}<{','.join(map(canonical, value))}>"
    if isinstance(value, dict):
        return f"dict<{','.join(f'{canonical(k)}:{canonical(v)}' for k, v in value.items())}>"
    return f"{kind} {value!r}"


@settings(deadline=None, max_examples=300)
@given(nested, nested)
def test_equal_digests_exactly_for_equal_content(first, second):
    assert (digest(first) == digest(second)) == (canonical(first) == canonical(second))


@settings(deadline=None, max_examples=100)
@given(nested)
def test_a_copy_has_the_same_digest(value):
    import pickle

    assert digest(pickle.loads(pickle.dumps(value))) == digest(value)


# Cost


def test_a_large_array_is_not_copied():
    values = np.zeros(64 * 2**20 // 8)
    wide = np.zeros((2048, 4096), order="F")
    tracemalloc.start()
    try:
        digest(values)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        digest(wide)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_no_library_is_imported():
    check = (
        "import sys, flowpar.caching.digest as d; d.ValueDigester(repr).digest([1, {2}]);"
        "assert not {'numpy', 'pandas', 'polars', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


# Tables


def test_pandas_frames_by_content():
    pd = pytest.importorskip("pandas")
    whole = pd.DataFrame({"a": [1, 2], "b": [3, 4], "c": [1.0, 2.0]})
    grown = pd.DataFrame({"a": [1, 2]})
    grown["b"] = [3, 4]
    grown["c"] = [1.0, 2.0]
    assert digest(whole) == digest(grown) == digest(whole.copy())
    turned = pd.DataFrame(np.asfortranarray(np.arange(6).reshape(2, 3)), columns=list("abc"))
    assert digest(turned) == digest(pd.DataFrame(np.arange(6).reshape(2, 3), columns=list("abc")))
    doubled = pd.DataFrame([[1, 2]], columns=["a", "a"])
    other = pd.DataFrame([[2, 1]], columns=["a", "a"])
    assert digest(doubled) != digest(other)


def test_pandas_differences():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2]})
    noted = frame.copy()
    noted.attrs["unit"] = "m"
    level = pd.MultiIndex.from_product([[1, 2], list("ab")])
    days = pd.date_range("2020", periods=2)
    values = [
        frame,
        noted,
        frame.rename(columns={"a": "b"}),
        frame.astype("int32"),
        frame.astype("Int64"),
        frame.set_index(pd.Index([5, 6])),
        frame.set_index(pd.Index([5, 6], name="n")),
        frame["a"],
        frame["a"].rename("b"),
        frame["a"].to_numpy(),
        pd.Index([0, 1]),
        pd.RangeIndex(2),
        pd.Series([1, None], dtype="Int64"),
        pd.Series([1, 0], dtype="Int64"),
        pd.Series(["a", "b"], dtype="category"),
        pd.Series(pd.Categorical(["a", "b"], ordered=True)),
        pd.Series(pd.Categorical(["a", "b"], categories=["b", "a"])),
        pd.Series(["a", "b"], dtype=object),
        pd.Series(["a", "b"], dtype="string"),
        pd.Series(["a", None], dtype="string"),
        pd.Series(days),
        pd.Series(days.tz_localize("UTC")),
        days,
        level,
        level[:3],
        pd.Series([True, None], dtype="boolean"),
        pd.Series([True, False], dtype="boolean"),
        pd.Series(pd.interval_range(0, 2)),
        pd.Series(pd.period_range("2020", periods=2, freq="D")),
        pd.Series(pd.arrays.SparseArray([0, 1])),
        pd.array([1, 2]),
        pd.Timestamp("2020"),
        pd.Timestamp("2020", tz="UTC"),
        pd.Timestamp("2021"),
        pd.Timedelta(1),
        pd.Timedelta(2),
        pd.NaT,
        pd.NA,
        pd.Period("2020"),
        pd.Interval(0, 1),
    ]
    assert len({digest(value) for value in values}) == len(values)


def test_what_subclasses_of_pandas_pass_on_is_content():
    pd = pytest.importorskip("pandas")
    frame = type("Frame", (pd.DataFrame,), {"_metadata": ["unit"]})
    series = type("Row", (pd.Series,), {"_metadata": ["_name", "unit"]})

    def made(kind, unit):
        found = kind([1, 2])
        if unit:
            found.unit = unit
        return found

    for kind in (frame, series):
        values = [made(kind, unit) for unit in ("m", "km", None)]
        assert len({digest(value) for value in values}) == 3
        assert digest(made(kind, "m")) == digest(made(kind, "m"))


def test_an_accessor_that_pandas_remembers_is_no_content():
    pd = pytest.importorskip("pandas")
    words = pd.Series(["a", "b"])
    before = digest(words)
    words.str.upper()
    assert digest(words) == before


def test_pandas_hides_what_is_under_a_mask():
    pd = pytest.importorskip("pandas")
    mask = np.array([False, True])
    first = pd.arrays.IntegerArray(np.array([1, 2]), mask)
    second = pd.arrays.IntegerArray(np.array([1, 9]), mask)
    assert digest(pd.Series(first)) == digest(pd.Series(second))
    level = pd.MultiIndex.from_product([[1, 2], list("ab")])
    assert digest(level[:2]) == digest(level[:2].remove_unused_levels())
    with pytest.raises(NotDigestible) as caught:
        digest(pd.DataFrame({"a": [1], "b": pd.Series([LOCK], dtype=object)}))
    assert caught.value.path == "value['b'][0]"


POLARS = """
import datetime as dt, decimal
import polars as pl
from flowpar.caching.digest import ValueDigester
def digest(value):
    return ValueDigester(lambda thing: repr(thing).encode()).digest(value)
frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
assert digest(frame) == digest(frame[:1].vstack(frame[1:]))
day, other = dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)
values = [
    frame, frame.rename({"a": "c"}), frame.with_columns(pl.col("a").cast(pl.Int32)),
    pl.Series("a", [1, 2]), pl.Series("a", [1, None]), pl.Series("a", [1, 0]),
    pl.Series("b", [1, 2]), pl.Series([[1], [2]]), pl.Series(["a"]),
    pl.Series(["a"], dtype=pl.Categorical), pl.Series([True, None]),
    pl.Series([decimal.Decimal("1.5")]), pl.Series([day]), pl.Series([other]),
    pl.Series([day.date()]), pl.Series([day.time()]), pl.Series([day], dtype=pl.Datetime("ns")),
    pl.Series([day, None]), pl.Series([day - other]),
]
assert len({digest(value) for value in values}) == len(values)
def nested(number, kind):
    whole, time = pl.Series([number]), getattr(pl, kind)
    time = time("ns") if kind != "Time" else time
    structs = pl.DataFrame({"a": [number]}).select(pl.struct(pl.col("a").cast(time)))
    lists = pl.Series([[number], None]).cast(pl.List(time))
    arrays = pl.Series([[[number], [2]]], dtype=pl.Array(pl.Int64, (2, 1)))
    both = pl.Series([[{"t": number}]]).cast(pl.List(pl.Struct({"t": time})))
    return [whole.cast(time), structs, structs.to_series(), lists, both, arrays]
for kind in ("Datetime", "Duration", "Time"):
    values = nested(1, kind) + nested(2, kind)
    assert len({digest(value) for value in values}) == len(values)
    assert [digest(value) for value in nested(1, kind)] == [*map(digest, values[:6])]
"""


def test_polars():
    pytest.importorskip("polars")
    # In a process of its own: polars' engine keeps threads and files.
    subprocess.run([sys.executable, "-c", POLARS], check=True, timeout=60)


def test_pyarrow():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    cut = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert digest(table) == digest(cut)
    assert digest(pa.array([9, 1, 2]).slice(1)) == digest(pa.array([1, 2]))
    assert digest(pa.chunked_array([[1], [2]])) == digest(pa.chunked_array([[1, 2]]))
    values = [
        table,
        table.rename_columns(["a", "c"]),
        table.replace_schema_metadata({"k": "v"}),
        table.to_batches()[0],
        pa.array([1, 2]),
        pa.array([1, None]),
        pa.array([1, 0]),
        pa.array([1, 2], pa.int32()),
        pa.array([1, 2], pa.timestamp("ns")),
        pa.array([1, 2], pa.date32()),
        pa.array([1.0, 2.0]),
        pa.array(["a"]),
        pa.array(["a"]).dictionary_encode(),
        pa.array([[1], [2]]),
        pa.array([True]),
        pa.chunked_array([[1, 2]]),
        pa.scalar(1),
        pa.schema([("a", pa.int32())]),
        pa.int32(),
        pa.schema([("a", pa.int16())]),
        pa.schema([("b", pa.int32())]),
        pa.schema([("a", pa.int32())], metadata={"k": "v"}),
        pa.schema([pa.field("a", pa.struct([pa.field("b", pa.int8(), metadata={"k": "v"})]))]),
        pa.schema([pa.field("a", pa.struct([pa.field("b", pa.int8())]))]),
        pa.field("a", pa.int32()),
        pa.field("a", pa.int32(), nullable=False),
        pa.field("a", pa.int32(), metadata={"k": "v"}),
        pa.py_buffer(b"a"),
        pa.py_buffer(b"b"),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["b", "a"]).dictionary_encode(),
        pa.array(["b", None]).dictionary_encode(),
        pa.scalar("a"),
        pa.scalar(None),
        pa.scalar([1]),
        pa.scalar({"a": 1}),
    ]
    assert len({digest(value) for value in values}) == len(values)
    again = pa.schema([pa.field("a", pa.int32())])
    assert digest(again) == digest(values[17])
    assert digest(pa.py_buffer(b"xa").slice(1)) == digest(pa.py_buffer(b"a"))


@pytest.mark.parametrize("name", ["time64", "timestamp", "duration"])
def test_pyarrow_counts_nanoseconds_however_deep(name):
    pa = pytest.importorskip("pyarrow")
    time = getattr(pa, name)("ns")

    def made(number):
        return [
            pa.array([number], time),
            pa.array([number, None], time),
            pa.array([[number], None], pa.list_(time)),
            pa.array([[number]], pa.large_list(time)),
            pa.array([[number]], pa.list_(time, 1)),
            pa.array([{"a": number}], pa.struct([("a", time)])),
            pa.array([[{"a": number}]], pa.list_(pa.struct([("a", time)]))),
            pa.array([[("k", number)]], pa.map_(pa.string(), time)),
            pa.array([number], time).dictionary_encode(),
            pa.scalar(number, time),
            pa.scalar([number], pa.list_(time)),
            pa.table({"a": pa.array([[number]], pa.list_(time))}),
            pa.chunked_array([pa.array([[number]], pa.list_(time))]),
        ]

    values = [*made(1), *made(2)]
    assert len({digest(value) for value in values}) == len(values)
    assert [digest(value) for value in made(1)] == [digest(value) for value in values[:13]]


def test_pydantic():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", a=(object, ...), b=(int, 2))
    assert digest(model(a=1)) == digest(model(a=1)) != digest(model(a=2))
    with pytest.raises(NotDigestible) as caught:
        digest(model(a=LOCK))
    assert caught.value.path == "value.a"


def test_attrs():
    attrs = pytest.importorskip("attrs")
    kind = attrs.make_class("Kind", ["a", "b"], slots=True)
    assert digest(kind(1, 2)) == digest(kind(1, 2)) != digest(kind(2, 1))
    plain = attrs.make_class("Kind", ["a", "b"], slots=False, frozen=True)
    with pytest.raises(NotDigestible, match=r"value\.b"):
        digest(plain(1, LOCK))
