"""A large literal argument goes into shared memory once, and each task gets a copy of its own."""

import array
import gc
import itertools
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_until
from support.calls import outcomes
from support.depots import files

import flowpar
from flowpar import delayed, literals
from flowpar.pools import home
from flowpar.task import LITERAL, Ref

LARGE = 200_000
"""Numbers in an array that is worth a file."""


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    assert wait_until(lambda: gc.collect() >= 0 and files() == [])


@pytest.fixture
def sealed(monkeypatch):
    """What was put into files, or found too small for one."""
    seen = []

    def seal(value):
        seen.append(type(value))
        return home.seal(value)

    monkeypatch.setattr(literals, "seal", seal)
    return seen


def run(targets, **options):
    return flowpar.compute(targets, scheduler="processes", workers=2, **options)


@delayed
def take(values, at):
    found = values[at]
    if not isinstance(values, (str, bytes)):
        values[at] = 99  # in a copy of its own
    return found


@pytest.mark.parametrize(
    "value",
    [
        np.arange(LARGE),
        "flowpar " * LARGE,
        b"flowpar " * LARGE,
        bytearray(b"flowpar " * LARGE),
        array.array("d", [1.5]) * LARGE,
        list(range(LARGE)),
        {n: str(n) for n in range(LARGE)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_task_has_its_own_copy_of_what_is_written_once(value, sealed):
    places = list(range(5)) * 20
    assert run([take(value, at) for at in places]) == [value[at] for at in places]
    assert sealed in ([type(value)], [type(value)] * 2)


def test_by_name_too_and_beside_the_values_of_tasks(sealed):
    values, at = np.arange(LARGE), delayed(abs)(-7)
    calls = [take(values=values, at=3), take(values, at=at), take(at=at, values=values)]
    assert run(calls * 5) == [3, 7, 7] * 5
    assert sealed in ([np.ndarray], [np.ndarray] * 2)  # the first batch may have ended by then


@delayed
def same(one, other):
    return one is other


def test_what_is_given_twice_to_one_call_is_one_object_there():
    values = np.arange(LARGE)
    assert run([same(values, values), same(values, values.copy())]) == [True, False]


def test_what_a_task_of_this_process_changed_is_written_anew():
    values = np.zeros(LARGE)

    @delayed(pool="inline")
    def fill(target, number):
        target[:] = number

    seen = [take(values, 5)]
    for number in (1, 2):
        filled = fill.options(after=seen[-1:])(values, number)
        seen.append(take.options(after=[filled])(values, 5))
    assert run(seen) == [0, 1, 2]


WAYS = {
    "itself": lambda values, fill: (fill, values),
    "in a list": lambda values, fill: (lambda box, n: fill(box[0], n), [values]),
    "a view of it": lambda values, fill: (fill, values[:]),
    "captured": lambda values, fill: (lambda _, n: fill(values, n), None),
}
"""How a call may come by an array, and write to it."""


def fill_with(values, number):
    values[:] = number


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", ["inline", "threads"])
def test_whatever_way_a_task_of_this_process_writes_to_it(pool, way):
    values = np.zeros(LARGE)
    function, given = WAYS[way](values, fill_with)
    seen = [take(values, 5)]
    for number in (1, 2):
        filled = delayed(function, pool=pool).options(after=seen[-1:])(given, number)
        seen.append(take.options(after=[filled])(values, 5))
    assert run(seen) == [0, 1, 2]


@pytest.mark.parametrize("pool", ["inline", "threads"])
def test_a_small_one_that_was_written_to_is_pickled_anew(pool):
    box = [0]
    seen = [take(box, 0), take(box, 0)]
    for number in (1, 2):
        filled = delayed(lambda boxes, n: fill_with(boxes[0], [n]), pool=pool)
        filled = filled.options(after=seen[-1:])([box], number)
        seen.append(take.options(after=[filled])(box, 0))
    assert run(seen) == [0, 0, 1, 2]


def test_what_cannot_be_sent_is_named():
    with pytest.raises(flowpar.NotPicklable, match=r"args\[0\]\[0\]"):
        values = [threading.Lock()]
        run([take.options(pool="processes")(values, at) for at in range(4)])


def test_also_of_small_ones_each_task_has_its_own(sealed):
    small = [1, 2, 3]
    assert run([take(small, 1) for _ in range(500)]) == [2] * 500
    assert sealed == [list]


def test_those_that_come_once_go_with_their_batch(monkeypatch):
    monkeypatch.setattr(literals, "MOST_KEPT", 3 * 8 * LARGE)
    lender = literals.Literals()
    arrays = [np.full(LARGE, n) for n in range(10)]

    def lend(value):
        inputs = {}
        ((_, _, _, (ref, _), _),) = lender.lend([(0, 1, LITERAL, (value, 0), None)], inputs)
        assert type(ref) is Ref
        return inputs[ref.index]

    for value in arrays:
        assert lend(value).load()[0] == value[0]
    assert files() == []
    for value in arrays:
        lend(value)
    assert len(files()) == 2  # what came again is kept, up to the limit
    held = lend(arrays[-1])
    assert lend(arrays[-1]) is held


def test_arguments_that_have_ended_are_forgotten_before_they_are_too_many(monkeypatch):
    monkeypatch.setattr(literals, "MOST_KNOWN", 10)
    values = np.arange(LARGE)
    others = [[n] for n in range(100)]
    calls = [take(each, 0) for each in others for _ in "ab"] + [take(values, 2)] * 5
    assert run(calls)[-5:] == [2] * 5


def test_a_dying_worker_does_not_take_them_along():
    values = np.arange(LARGE)

    @delayed(retries=1)
    def die_once(values, at, mark):
        import os

        if not Path(mark).exists():
            Path(mark).touch()
            os._exit(3)
        return values[at]

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        calls = [die_once(values, at, f"{folder}/{at}") for at in range(4)]
        assert run(calls) == [0, 1, 2, 3]


# ---------------------------------------------------------------- without a graph

GIVEN = {
    "array": lambda: np.zeros(LARGE),
    "bytearray": lambda: bytearray(LARGE),
    "small array": lambda: np.zeros(3),
    "list": lambda: [0, 0],
}
"""What may be used again with other content."""


def first(values):
    return int(values[0])


@pytest.mark.parametrize("kind", GIVEN)
def test_what_was_changed_between_two_calls_is_sent_anew(kind):
    values = GIVEN[kind]()
    seen = []
    with flowpar.Pool(2) as pool, flowpar.Executor(2) as executor:
        gate = flowpar.Event()
        others = pool.apply_async(gate.wait), executor.submit(gate.wait)  # neither is idle
        for number in (1, 2, 3):
            values[0] = number
            seen += [pool.apply(first, (values,)), executor.submit(first, values).result()]
        gate.set()
        assert others[0].get()
        assert others[1].result()
    assert seen == [1, 1, 2, 2, 3, 3]


def used_again(values):
    """Give one object with other content each time, as who reads into a buffer does."""
    for number in range(40):
        values[0] = number
        yield values


READERS = {
    "Pool.imap": lambda items: _by_pool(items, 1),
    "Pool.imap, in chunks": lambda items: _by_pool(items, 7),
    "imap": lambda items: flowpar.imap(first, items, window=5),
    "stream": lambda items: flowpar.stream(items).map(first, pool="processes"),
    "Executor.map": lambda items: _by_executor(items),
    "Parallel": lambda items: flowpar.Parallel(2)(delayed(first)(each) for each in items),
    "Parallel, by name": lambda items: flowpar.Parallel(2, batch_size=4)(
        (first, (), {"values": each}) for each in items
    ),
}


def _by_pool(items, chunksize):
    with flowpar.Pool(2) as pool:
        return list(pool.imap(first, items, chunksize))


def _by_executor(items):
    with flowpar.Executor(2) as executor:
        return list(executor.map(first, items, buffersize=8))


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("reader", READERS)
def test_items_are_what_they_were_when_they_were_read(reader, kind):
    assert list(READERS[reader](used_again(GIVEN[kind]()))) == list(range(40))


def is_same(one, other):
    return one is other


def has_first(box, value):
    return box[0] is value


def test_what_an_item_has_twice_is_one_object_there():
    arrays, lists = [np.zeros(LARGE)] * 4, [[]] * 4
    with flowpar.Executor(2) as executor:
        assert all(executor.map(is_same, arrays, arrays, buffersize=2))
        assert all(executor.map(is_same, lists, lists, buffersize=2))
        boxes = [[arrays[0], 1]] * 4
        assert all(executor.map(is_same, boxes, boxes, buffersize=2))
        assert all(executor.map(has_first, boxes, arrays, buffersize=2))


def put_99(values):
    found, values[0] = values[0], 99
    return found


def test_calls_in_one_message_have_arguments_of_their_own():
    with flowpar.Pool(2) as pool:
        assert list(pool.imap(put_99, itertools.repeat([0], 50), chunksize=50)) == [0] * 50
        values = np.zeros(LARGE)
        assert list(pool.imap(put_99, itertools.repeat(values, 8), chunksize=8)) == [0] * 8


def test_items_that_do_not_pickle_are_named():
    found = flowpar.imap(first, iter([[1], [threading.Lock()], [3]]))
    assert next(found) == 1
    with pytest.raises(flowpar.NotPicklable, match=r"args\[0\]\[0\]"):
        next(found)
    assert next(found) == 3


def test_the_error_of_a_call_shows_what_it_was_given():
    with flowpar.Pool(1) as pool, pytest.raises(IndexError) as caught:
        next(pool.imap(lambda values: values[7], iter([["seen"]])))
    assert "['seen']" in caught.value.__notes__[0]


def test_it_shows_what_the_item_was_when_it_was_read():
    def failing(values):
        raise ValueError(values[0])

    errors = []
    found = flowpar.imap(failing, used_again([0, 0]), chunksize=3)
    while len(errors) < 40:
        with pytest.raises(ValueError) as caught:
            next(found)
        errors.append(caught.value)
    assert [int(str(error)) for error in errors] == list(range(40))
    assert all(f"failing([{n}, 0])" in error.__notes__[0] for n, error in enumerate(errors))


def refuse():
    raise RuntimeError("not here")


class Unloadable:
    def __reduce__(self):
        return refuse, ()


@pytest.mark.parametrize("chunksize", [1, 3])
def test_items_that_cannot_be_loaded_are_errors_of_their_own(chunksize):
    given = [[1], Unloadable(), [3], [Unloadable()], [5], "x" * LARGE]
    found = flowpar.imap(first_or_none, iter(given), chunksize=chunksize)
    assert outcomes(found) == [1, "NotPicklable", 3, "NotPicklable", 5, None]


def first_or_none(values):
    return None if isinstance(values, str) else first(values)


def test_items_that_kill_while_they_are_loaded_are_errors_of_their_own():
    class Killer:
        def __reduce__(self):
            return signal.raise_signal, (signal.SIGKILL,)

    found = flowpar.imap(first, iter([[1], [2], Killer(), [4]]), chunksize=4)
    assert outcomes(found) == [1, 2, "WorkerDied", 4]


def test_nothing_that_is_sent_is_loaded_here():
    loaded_here = []

    def note(pid):
        if os.getpid() == pid:
            loaded_here.append(pid)
        return [7]

    class Noting:
        def __reduce__(self):
            return note, (os.getpid(),)

    lock = threading.Lock()
    given = [Noting(), [lock], Noting()]
    assert outcomes(flowpar.imap(first, iter(given), chunksize=3)) == [7, "NotPicklable", 7]
    assert outcomes(flowpar.imap(lambda _: lock, iter(given), chunksize=3)) == ["NotPicklable"] * 3
    assert loaded_here == []


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_items_of_classes_of_the_script(run_script, how):
    done = run_script(
        """
import collections, dataclasses, enum, flowpar

class Base:
    scale = 2

@dataclasses.dataclass
class Point(Base):
    x: int
    def scaled(self):
        return self.x * self.scale

class Colour(enum.Enum):
    RED, BLUE = 1, 2

Pair = collections.namedtuple("Pair", "left right")

class Slotted:
    __slots__ = ("n",)
    def __init__(self, n):
        self.n = n

def local_class():
    class Local(Point):
        def __eq__(self, other):
            return type(self) is type(other)
    return Local

Local = local_class()

def tell(item):
    if isinstance(item, Point):
        return type(item) is Point, item.scaled(), isinstance(item, Base), Point(item.x) == item
    if isinstance(item, Colour):
        return item is Colour.RED, item is Colour.BLUE
    if isinstance(item, Pair):
        return item.left + item.right
    return item.n if isinstance(item, Slotted) else item()

items = [Point(3), Colour.RED, Colour.BLUE, Pair(1, 2), Slotted(7), Local(4), lambda: Point(1).scaled()]
expected = [tell(item) for item in items]
with flowpar.Pool(2) as pool:
    for chunksize in (1, 3):
        assert list(pool.imap(tell, iter(items * 3), chunksize)) == expected * 3
    point = Point(5)
    def used_again():
        for point.x in range(20):
            yield point
    assert [each[1] for each in pool.imap(tell, used_again(), 4)] == [2 * x for x in range(20)]
    Base.scale = 10  # the next call's
    assert [each[1] for each in pool.imap(tell, [Point(1)])] == [10]
    assert list(pool.imap(lambda point: point, [Point(9)])) == [Point(9)]
assert list(flowpar.Parallel(2)((tell, (item,)) for item in items[:-1])) == [*map(tell, items[:-1])]
print("all right")
""",
        how=how,
    )
    assert done.stdout.strip() == "all right", done.stderr


def test_classes_of_the_script_are_what_they_are_for_each_item(run_script):
    done = run_script("""
import enum, flowpar

class Scaled:
    scale, seen = 1, []
    def __init__(self, n):
        self.n = n
    def value(self):
        return self.n * self.scale, len(self.seen)

def changing():
    for Scaled.scale in (1, 2, 1, 3, 1, 1):
        Scaled.seen.append(Scaled.scale)
        yield Scaled(10)

class Same(type):
    def __eq__(self, other):
        return isinstance(other, Same)
    def __hash__(self):
        return 1

class A(metaclass=Same):
    name = "A"

class B(metaclass=Same):
    name = "B"

expected = [(10, 1), (20, 2), (10, 3), (30, 4), (10, 5), (10, 6)]
with flowpar.Pool(1) as pool:
    for chunksize in (1, 2, 6):
        Scaled.seen.clear()
        assert list(pool.imap(Scaled.value, changing(), chunksize)) == expected
    del Scaled.seen
    for Scaled.scale in (5, 6, 5):
        assert list(pool.imap(lambda each: each.scale, iter([Scaled(1)] * 3), 2)) == [Scaled.scale] * 3
        pool.apply(lambda: setattr(Scaled, "scale", 99))
        assert list(pool.imap(lambda each: each.scale, iter([Scaled(1)]))) == [Scaled.scale]
    assert list(pool.imap(lambda each: each.name, iter([A(), B(), A()]), 3)) == ["A", "B", "A"]
    many = (type(f"C{n}", (Scaled,), {"n": n, "__init__": lambda self: None})() for n in range(1100))
    assert list(pool.imap(lambda each: each.n, many, 50)) == list(range(1100))
print("all right")
""")
    assert done.stdout.strip() == "all right", done.stderr
