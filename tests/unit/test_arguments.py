"""What is found among arguments, how containers are made anew, and what is refused."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import io
import itertools
import pickle
import time
import types
import typing

import numpy as np
import pytest

import flowpar
from flowpar import ArgumentError, delayed
from flowpar.arguments import search
from flowpar.task import Task, Template

one, two = delayed(1), delayed(abs)(-2)


def given(argument, **policy):
    """Return what a function gets in place of the argument."""
    got = []
    flowpar.compute(delayed(got.append, **policy)(argument), scheduler="sync")
    return got[0]


Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024 - the old way too


class Typed(typing.NamedTuple):
    left: object
    right: object = 5


class Names(list):
    def __init__(self, *args, owner="nobody"):
        super().__init__(*args)
        self.owner = owner


class Strict(dict):
    """Has an __init__ that takes none of what dict takes."""

    def __init__(self, *, kind):
        super().__init__()
        self.kind = kind


class Triple(tuple):
    __slots__ = ()


# ----------------------------------------------------------------------------- containers


@pytest.mark.parametrize(
    ("container", "want"),
    [
        ([one, "x", two], [1, "x", 2]),
        ((one, "x", two), (1, "x", 2)),
        ((), ()),
        ({one, two, 5}, {1, 2, 5}),
        (frozenset({one, two}), frozenset({1, 2})),
        ({"a": one, two: "b", 3: [two]}, {"a": 1, 2: "b", 3: [2]}),
        ({(one, two): {one}}, {(1, 2): {1}}),
        (collections.deque([one, two, 3], maxlen=3), collections.deque([1, 2, 3], maxlen=3)),
        (collections.OrderedDict([("b", one), ("a", two)]), {"b": 1, "a": 2}),
        (collections.defaultdict(list, {"a": one}), {"a": 1}),
        (collections.Counter({"a": two}), {"a": 2}),
        (types.MappingProxyType({"a": one}), {"a": 1}),
        (collections.UserDict(a=one), {"a": 1}),
        (collections.UserList([one, two]), [1, 2]),
        (Pair(one, [two]), Pair(1, [2])),
        (Typed(one), Typed(1, 5)),
        (Triple([one, two]), Triple([1, 2])),
        (slice(one, two, None), slice(1, 2, None)),
        ([[[[[one]]]], {"a": {"b": (two,)}}], [[[[[1]]]], {"a": {"b": (2,)}}]),
    ],
)
def test_a_container_arrives_as_the_same_kind_with_values_in_it(container, want):
    got = given(container)
    assert got == want
    assert type(got) is type(container)


def test_subclasses_keep_what_they_know():
    got = given(Names([one, 2], owner="me"))
    assert (got, type(got), got.owner) == ([1, 2], Names, "me")
    strict = Strict(kind="k")
    strict["a"] = one
    got = given(strict)
    assert (got, type(got), got.kind) == ({"a": 1}, Strict, "k")
    assert strict["a"] is one
    got = given(collections.defaultdict(list, {"a": one}))
    assert got["missing"] == []
    assert given(collections.deque([one, two], maxlen=2)).maxlen == 2
    assert list(given(collections.OrderedDict([("b", one), ("a", 0)]))) == ["b", "a"]


def test_a_partial_arrives_as_a_partial():
    got = given(functools.partial(pow, two, mod=one))
    assert isinstance(got, functools.partial)
    assert (got.func, got.args, got.keywords) == (pow, (2,), {"mod": 1})
    chosen = delayed(lambda: max)()
    assert given(functools.partial(chosen, 1, two))() == 2


@pytest.mark.parametrize(
    ("iterator", "want"),
    [
        (lambda: iter([one, 2]), [1, 2]),
        (lambda: (x for x in (one, two)), [1, 2]),
        (lambda: (i for i in range(3)), [0, 1, 2]),
        (lambda: map(abs, [one, two]), [1, 2]),
        (lambda: zip([one], [two], strict=True), [(1, 2)]),
        (lambda: itertools.chain([one], [two]), [1, 2]),
        (lambda: reversed([one, two]), [2, 1]),
        (lambda: enumerate([two]), [(0, 2)]),
    ],
)
def test_iterators_and_generators_are_searched_and_arrive_as_iterators(iterator, want):
    got = given(iterator())
    assert next(iter(got)) is not None
    assert [want[0], *got] == want
    assert list(given([iterator()])[0]) == want


def test_an_iterator_starts_anew_at_each_attempt():
    seen = []

    @delayed(retries=2)
    def f(items):
        seen.append(list(items))
        if len(seen) < 3:
            raise ValueError

    f(x for x in (one, two)).compute(scheduler="sync")
    assert seen == [[1, 2]] * 3


def test_dict_views_arrive_as_lists():
    mapping = {"a": one, "b": two}
    assert given(mapping.values()) == [1, 2]
    assert given(mapping.items()) == [("a", 1), ("b", 2)]
    assert list(given({one: 0}.keys())) == [1]


def test_keyword_arguments_are_searched_too():
    assert delayed(dict)(a=[one], b={"c": two}).compute(scheduler="sync") == {
        "a": [1],
        "b": {"c": 2},
    }


# ----------------------------------------------------------------------------- dataclasses


@dataclasses.dataclass
class Plain:
    x: object
    y: object = 5


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: object


@dataclasses.dataclass(slots=True)
class Slotted:
    x: object
    y: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(kw_only=True, frozen=True, slots=True)
class Keyword:
    y: object
    x: object


@dataclasses.dataclass
class Area:
    width: object
    height: object
    area: object = dataclasses.field(init=False)

    def __post_init__(self):
        self.area = self.width * self.height


@dataclasses.dataclass(frozen=True)
class Late:
    x: int = 1
    set_later: object = dataclasses.field(init=False, default=None)


@dataclasses.dataclass
class Child(Plain):
    z: object = None


@pytest.mark.parametrize(
    ("thing", "want"),
    [
        (Plain(one), Plain(1)),
        (Plain([one, {"a": two}], two), Plain([1, {"a": 2}], 2)),
        (Frozen(two), Frozen(2)),
        (Slotted(one, [two]), Slotted(1, [2])),
        (Keyword(x=one, y=two), Keyword(x=1, y=2)),
        (Child(1, 2, one), Child(1, 2, 1)),
        (Area(two, 4), Area(2, 4)),
        (Plain(Frozen(Slotted(one))), Plain(Frozen(Slotted(1)))),
    ],
)
def test_a_dataclass_is_made_anew(thing, want):
    got = given(thing)
    assert got == want
    assert type(got) is type(want)


def test_a_field_that_no_init_takes_is_kept():
    thing = Late()
    object.__setattr__(thing, "set_later", [one])
    assert given(thing).set_later == [1]


def test_a_dataclass_without_a_delayed_value_is_handed_on_as_it_is():
    for thing in (Plain(1), Frozen([1]), Slotted({})):
        assert given(thing) is thing


@dataclasses.dataclass
class WithInitVar:
    x: object
    scale: dataclasses.InitVar[int] = 1


@dataclasses.dataclass
class OwnInit:
    x: object

    def __init__(self, somewhere_else):
        self.x = somewhere_else


class PlainChildWithInit(Plain):
    def __init__(self, everything):
        super().__init__(everything, everything)


@dataclasses.dataclass(init=False)
class NoInit:
    x: object


def _no_init():
    made = NoInit()
    made.x = one
    return made


@dataclasses.dataclass
class Unset:
    x: object
    y: object = dataclasses.field(init=False)


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (lambda: WithInitVar(one), "InitVar"),
        (lambda: OwnInit(one), "__init__ of its own"),
        (lambda: PlainChildWithInit(one), "__init__ of its own"),
        (_no_init, "NoInit"),
        (lambda: Unset(one), "y"),
    ],
)
def test_a_dataclass_that_cannot_be_made_anew_is_refused_where_it_is_passed(thing, why):
    with pytest.raises(ArgumentError, match=why) as caught:
        delayed(repr)([0, thing()])
    assert caught.value.path == "args[0][1]"


# ------------------------------------------------------------------------------- refusals


class Box:
    def __init__(self, content):
        self.content = content

    def method(self):
        return self.content


class SlotBox:
    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content


class SlotChild(SlotBox):
    pass


def _object_array(*items):
    # Assigning would ask a delayed value for its array.
    return np.frompyfunc(items.__getitem__, 1, 1)(np.arange(len(items)))


HIDDEN = {
    "attribute": lambda: Box(one),
    "slot": lambda: SlotBox(one),
    "slot of a parent": lambda: SlotChild(one),
    "namespace": lambda: types.SimpleNamespace(a=one),
    "list in an attribute": lambda: Box([0, one]),
    "dict in an attribute": lambda: Box({"a": [one]}),
    "key in an attribute": lambda: Box({one: 1}),
    "object in an object": lambda: Box(SlotBox(Box(one))),
    "late in a long list": lambda: Box([[], *[[i] for i in range(500)], one]),
    "chain map": lambda: collections.ChainMap({"a": one}),
    "object array": lambda: _object_array(0, one),
    "object array in an attribute": lambda: Box(_object_array(0, one)),
    "bound method": lambda: Box(one).method,
    "dataclass in an attribute": lambda: Box(Plain(one)),
    "set in an attribute": lambda: Box({one}),
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"k": (x,)}])
def test_a_delayed_value_that_cannot_be_replaced_is_refused(kind, wrap):
    with pytest.raises(ArgumentError, match="argument of its own") as caught:
        delayed(repr)(wrap(HIDDEN[kind]()))
    assert caught.value.path.startswith("args[0]")
    assert len(str(caught.value).splitlines()) < 10
    with pytest.raises(ArgumentError, match="argument thing"):
        delayed(lambda thing: 0)(thing=HIDDEN[kind]())


def test_objects_are_searched_in_bounded_time():
    class Node:
        def __init__(self, children):
            self.children = children

    tree = Node([Node([Node([]) for _ in range(300)]) for _ in range(300)])
    tree.itself = tree
    begin = time.process_time()
    delayed(repr)(tree)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    "endless",
    [
        itertools.count,
        lambda: itertools.cycle([1]),
        lambda: itertools.repeat(1),
        lambda: (x for x in itertools.count()),
        lambda: [itertools.count()],
    ],
)
def test_an_endless_iterator_is_refused(endless):
    with pytest.raises(ArgumentError, match=r"without an end.*traverse=False"):
        delayed(repr)(endless())


def _cyclic_list():
    made = [one]
    made.append(made)
    return made


def _cyclic_dict():
    made = {"x": one}
    made["me"] = {"more": made}
    return made


def _deep(levels):
    made = one
    for _ in range(levels):
        made = [made]
    return made


def _cyclic_dataclass():
    made = Plain(one)
    made.y = made
    return made


@pytest.mark.parametrize(
    "thing", [_cyclic_list, _cyclic_dict, _cyclic_dataclass, lambda: _deep(5000)]
)
def test_what_is_too_deep_or_holds_itself_is_refused_in_a_few_lines(thing):
    with pytest.raises(ArgumentError) as caught:
        delayed(repr)(thing())
    text = str(caught.value)
    assert text.startswith("args[0]")
    assert len(text) < 500
    assert len(text.splitlines()) < 10


def test_a_container_that_holds_itself_and_nothing_delayed_is_handed_on():
    cyclic = [1]
    cyclic.append(cyclic)
    assert given(cyclic) is cyclic
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert given(deep) is deep
    while deep:  # freed level by level, since lists free themselves with a stack
        deep = deep[0]


def test_99_levels_are_not_too_deep():
    got = given(_deep(99))
    for _ in range(99):
        (got,) = got
    assert got == 1


def test_a_part_that_appears_many_times_costs_once_and_stays_one():
    shared = [one]
    for _ in range(40):  # 2**40 paths
        shared = [shared, shared]
    got = given(shared)
    for _ in range(40):
        assert got[0] is got[1]
        got = got[0]
    assert got == [1]


# ------------------------------------------------------------------------------ left alone


@pytest.mark.parametrize(
    "thing",
    [
        [1, [2, {"a": (3,)}]],
        {"a": {1, 2}},
        np.arange(5),
        Box(5),
        Box([Box({})]),
        io.StringIO("text"),
        enum.Enum("Colour", "red").red,
        int,
        len,
        range(5),
        lambda: one,
        pytest,
        object(),
        memoryview(b"x"),
        NotImplemented,
        slice(1, 2),
        functools.partial(pow, 2),
        Pair(1, 2),
    ],
)
def test_what_holds_no_delayed_value_is_handed_on_as_it_is(thing):
    assert given(thing) is thing


def test_an_open_file_is_not_read():
    file = io.StringIO("a\nb\n")
    assert given(file).read() == "a\nb\n"


def test_delayed_functions_runs_and_errors_may_be_arguments():
    call = delayed(abs).options(after=[one])
    assert given(call) is call
    run = flowpar.run(two, scheduler="sync")
    assert given(run) is run
    error = ValueError("x")
    error.run = run
    assert given([error])[0] is error


def test_traverse_false_hands_containers_on_and_computes_direct_arguments():
    inside = [two]
    got = given(inside, traverse=False)
    assert got is inside
    assert got[0] is two
    assert given(two, traverse=False) == 2
    endless = itertools.count()
    assert given(endless, traverse=False) is endless
    box = Box(one)
    assert given(box, traverse=False) is box


def test_changing_a_container_after_the_call_changes_nothing():
    items, mapping = [one, two], {"a": one}
    call = delayed(lambda a, b: (a, b))(items, mapping)
    items.clear()
    mapping["a"] = mapping["b"] = 7
    assert call.compute(scheduler="sync") == ([1, 2], {"a": 1})


def test_a_task_gets_containers_of_its_own():
    items = [one]
    first, second = given(items), given(items)
    first.append(5)
    assert second == [1]
    assert items == [one]


def test_a_million_numbers_are_searched_quickly():
    numbers = list(range(1_000_000))
    begin = time.process_time()
    assert search(numbers, "args[0]") is numbers
    assert time.process_time() - begin < 0.5


def test_what_is_searched_pickles():
    things = [
        [one],
        {"a": one},
        Pair(one, 2),
        Plain(one),
        collections.deque([one], maxlen=1),
        functools.partial(pow, one),
        slice(one),
        iter([one]),
        types.MappingProxyType({"a": one}),
    ]
    for thing in things:
        made = search(thing, "args[0]")
        assert type(made) is Template
        assert all(isinstance(task, Task) for task in made.tasks())
        assert type(pickle.loads(pickle.dumps(made))) is Template


def test_numpy_arrays_may_lie_beside_delayed_values():
    array = np.arange(3)
    got = given([array, one, {"k": array}])
    assert got[0] is array
    assert got[2]["k"] is array
