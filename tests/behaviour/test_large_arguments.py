"""A large literal argument goes into shared memory once, and each task gets a copy of its own."""

import array
import gc
import threading
from pathlib import Path

import numpy as np
import pytest

import flowpar
from flowpar import delayed, literals
from flowpar.pools import home
from flowpar.task import LITERAL, Ref

LARGE = 200_000
"""Numbers in an array that is worth a file."""


def files():
    return [path for folder in home.home().folders for path in Path(folder).iterdir()]


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    gc.collect()
    assert files() == []


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
