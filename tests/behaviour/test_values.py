"""Whatever a function returns arrives, unchanged, wherever it ran."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import pathlib
import time
import typing

import numpy as np
import pytest

import flowpar
from flowpar import delayed


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Thing:
    x: object


class Pair(typing.NamedTuple):
    left: object
    right: object


VALUES = [
    None,
    0,
    -0.0,
    False,
    True,
    "",
    "ü\0\ud800",
    b"",
    [],
    (),
    {},
    set(),
    frozenset({1}),
    [None, [0, {"": ()}]],
    10**400,
    1e308,
    math.inf,
    1 + 2j,
    range(3),
    slice(1, None),
    Ellipsis,
    NotImplemented,
    int,
    len,
    Colour.RED,
    Thing([1]),
    Pair(1, None),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    decimal.Decimal("0.1"),
    fractions.Fraction(1, 3),
    pathlib.Path("a"),
    ValueError("a value, not raised"),
    np.float32(1.5),
]


def same(x):
    return x


def equal(a, b):
    return a == b or repr(a) == repr(b)


def test_values_of_every_kind_come_back_as_arguments_results_and_items(pool):
    call = delayed(same)
    got = flowpar.compute([call(value) for value in VALUES], scheduler=pool)
    for want, back in zip(VALUES, got, strict=True):
        assert type(back).__name__ == type(want).__name__
        assert equal(back, want), (want, back)
    again = flowpar.compute([call(call(value)) for value in VALUES], scheduler=pool)
    assert all(equal(a, b) for a, b in zip(again, VALUES, strict=True))


def test_minus_zero_and_nan_stay_what_they_are(pool):
    zero, nan = flowpar.compute(delayed(same)(-0.0), delayed(same)(math.nan), scheduler=pool)
    assert math.copysign(1, zero) == -1
    assert math.isnan(nan)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.zeros((0, 3)),
        np.array(5.0),
        np.array(["a", "bc"]),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(20)[::2],
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([None, [1]], dtype=object),
    ],
)
def test_arrays_come_back_with_kind_and_shape(pool, array):
    back = delayed(same)(delayed(same)(array)).compute(scheduler=pool)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array)


def test_large_values_pass_from_task_to_task(pool):
    array = delayed(np.arange)(2_000_000)
    doubled = array * 2
    total = (doubled - array).sum()
    assert total.compute(scheduler=pool) == 1_999_999_000_000
    text = delayed("x".__mul__)(5_000_000)
    assert delayed(len)(text).compute(scheduler=pool) == 5_000_000


def test_one_value_used_by_many(pool):
    big = delayed(np.ones)(200_000)
    sums = [(big * i).sum() for i in range(10)]
    assert flowpar.compute(*sums, scheduler=pool) == tuple(200_000 * i for i in range(10))


def test_an_array_of_a_result_can_be_written_to(pool):
    array = delayed(np.zeros)(100_000).compute(scheduler=pool)
    array[0] = 5
    assert array[0] == 5


def append(items):
    items.append(len(items))
    return list(items)


@pytest.mark.parametrize("scheduler", ["processes", "mp"])
def test_a_task_in_a_process_changes_only_its_own_copy_of_an_argument(scheduler, request):
    items = [0]
    if scheduler == "mp":
        import multiprocessing

        with multiprocessing.get_context("spawn").Pool(1) as pool:
            got = delayed(append)(items).compute(scheduler=pool)
            pool.close()
            pool.join()
    else:
        got = delayed(append)(items).compute(scheduler=scheduler)
    assert got == [0, 1]
    assert items == [0]


def test_a_container_with_delayed_values_is_the_tasks_own(pool):
    items = [delayed(same)(1)]
    first, second = (delayed(append)(items) for _ in range(2))
    assert flowpar.compute(first, second, scheduler=pool) == ([1, 1], [1, 1])
    assert len(items) == 1


def test_targets_keep_their_order_and_their_shapes(pool):
    a, b = delayed(same)(1), delayed(same)(2)
    assert flowpar.compute(b, a, b, scheduler=pool) == (2, 1, 2)
    assert flowpar.compute({"x": [b, (a, 5)], "y": 3}, [a], 7, scheduler=pool) == (
        {"x": [2, (1, 5)], "y": 3},
        [1],
        7,
    )
    assert flowpar.compute([], scheduler=pool) == []
    assert flowpar.compute(scheduler=pool) == ()


def test_the_values_of_a_run_can_be_read_again(pool):
    run = flowpar.run(delayed(same)([1, 2]), delayed(same)("x"), scheduler=pool)
    assert run.value == run.values == ([1, 2], "x")
    assert run.status == "done"
    assert run.errors == []
    assert "done: 2 of 2 tasks" in run.summary()


def test_lambdas_closures_and_local_classes_travel(pool):
    factor = 3

    class Local:
        def __init__(self, x):
            self.x = x * factor

    x = delayed(Local)(delayed(lambda y: y + factor)(1)).x
    assert x.compute(scheduler=pool) == 12


def test_tasks_that_return_delayed_values_have_their_values(pool):
    @delayed
    def count(n):
        return delayed(same)(0) if not n else count(n - 1) + 1

    @delayed
    def several(n):
        return {"list": [delayed(same)(i) for i in range(n)], "n": n}

    assert count(20).compute(scheduler=pool) == 20
    assert several(3).compute(scheduler=pool) == {"list": [0, 1, 2], "n": 3}
    assert delayed(len)(several(3)["list"]).compute(scheduler=pool) == 3


def test_thousands_of_levels_of_returned_delayed_values(own):
    levels = 500 if own in {"processes", "auto"} else 5000

    @delayed
    def down(n):
        return down(n - 1) if n else "ground"

    assert down(levels).compute(scheduler=own) == "ground"


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_returned_delayed_value_may_be_one_of_the_running_graph(scheduler):
    calls = []
    shared = delayed(lambda: calls.append(1) or len(calls))()
    giver = delayed(lambda: shared)()
    late = delayed(lambda _: shared)(shared)
    both = flowpar.compute(shared, giver, late, scheduler=scheduler)
    assert both == (1, 1, 1)
    assert calls == [1]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_task_that_returns_itself_is_a_cycle_and_no_hang(scheduler):
    box = []
    box.append(delayed(lambda: box[0])())
    with pytest.raises(flowpar.CycleError):
        box[0].compute(scheduler=scheduler)
    box[:] = [delayed(lambda: box[0] + 1)()]
    with pytest.raises(flowpar.CycleError):
        box[0].compute(scheduler=scheduler)


@pytest.mark.slow
def test_a_fan_of_100_000_on_every_own_scheduler(own):
    total = delayed(sum)([delayed(same)(i) for i in range(100_000)])
    assert total.compute(scheduler=own) == sum(range(100_000))


def test_a_chain_of_10_000_on_every_own_scheduler(own):
    x = delayed(0)
    for _ in range(10_000):
        x = x + 1
    assert x.compute(scheduler=own) == 10_000


def test_a_function_made_delayed_at_each_call_is_still_one_function():
    class Counts:
        def __init__(self):
            self.batches = 0

        def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
            self.batches += 1
            callback(func(*args))

    once, each = Counts(), Counts()
    call = delayed(same)
    flowpar.compute([call(i) for i in range(1000)], scheduler=once)
    flowpar.compute([delayed(same)(i) for i in range(1000)], scheduler=each)
    assert each.batches < 3 * once.batches + 10


def lengths(one, other):
    one.append(1)
    return len(other)


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes", "auto"])
def test_a_value_that_is_taken_twice_is_one_object(scheduler):
    made = delayed(list)()
    small = []
    calls = [delayed(lengths)(made, made), delayed(lambda xs: len({*map(id, xs)}))([made] * 50)]
    calls += [delayed(lengths)(each := list(small), each)]
    assert flowpar.compute(calls, scheduler=scheduler) == [1, 1, 1]


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes", "auto"])
def test_a_large_delayed_value_that_is_returned_is_computed(scheduler, tmp_path):
    outer = delayed(lambda n: [delayed(len)(b"x" * n), 1])
    for options in ({}, {"cache": tmp_path}):
        assert outer(200_000).compute(scheduler=scheduler, **options) == [200_000, 1]


def test_flowpar_may_be_imported_by_a_task_first():
    def outer(n):
        from flowpar import delayed

        return delayed(abs)(n)

    from flowpar.pools.processes import ProcessPool

    pool = ProcessPool(1)  # whose worker has never built a delayed value
    try:
        calls = [delayed(outer)(-n) for n in range(3)]
        assert flowpar.compute(calls, scheduler=pool) == [0, 1, 2]
    finally:
        pool.close()


@pytest.mark.parametrize("scheduler", ["sync", "threads", "auto"])
def test_the_context_of_the_caller_holds_for_calls_in_this_process(scheduler):
    def third(n):
        return str(decimal.Decimal(1) / 3)

    def slow_third(n):
        time.sleep(0.01)
        return third(n)

    async def async_third(n):
        return third(n)

    with decimal.localcontext() as context:
        context.prec = 6
        calls = [delayed(f)(n) for f in (third, slow_third, async_third) for n in range(20)]
        calls.append(delayed(third, timeout=30, pool="inline")(0))
        assert set(flowpar.compute(calls, scheduler=scheduler)) == {"0.333333"}
