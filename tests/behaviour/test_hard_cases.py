"""What users do that a library does not expect: each was wrong once."""

from __future__ import annotations

import asyncio
import collections
import importlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from support.fakes import report

import flowpar
from flowpar import delayed
from flowpar.graph import Graph
from flowpar.planner import Plan
from flowpar.pools import shared

LANE = {"lane_of": lambda function: "x"}


def succ(x):
    return x + 1


class Bad(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class BadBase(BaseException):
    def __str__(self):
        raise RuntimeError("no words")


class Unloadable:
    def __reduce__(self):
        return _refuse_to_load, ()


def _refuse_to_load():
    raise SystemExit(3)


class Pair(NamedTuple):
    a: object
    b: object


@dataclass
class Data:
    x: object


def test_workers_live_where_and_as_this_process_does_now(tmp_path, monkeypatch):
    where, value = delayed(os.getcwd)(), delayed(os.environ.get)("FLOWPAR_TEST_VALUE")
    flowpar.compute(where, value, scheduler="processes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWPAR_TEST_VALUE", "new")
    (tmp_path / "a_new_module.py").write_text("def f(): return 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("a_new_module")
    try:
        found = flowpar.compute(where, value, delayed(module.f)(), scheduler="processes")
    finally:
        del sys.modules["a_new_module"]
    assert found == (str(tmp_path), "new", 7)


def test_a_module_that_is_loaded_anew_is_so_in_workers_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "changing_module.py").write_text("def f(): return 1\n")
    module = importlib.import_module("changing_module")
    assert delayed(module.f)().compute(scheduler="processes") == 1
    (tmp_path / "changing_module.py").write_text("def f(): return 22\n")
    try:
        importlib.reload(module)
        assert delayed(module.f)().compute(scheduler="processes") == 22
    finally:
        del sys.modules["changing_module"]


def test_workers_are_kept_where_nothing_changed():
    pid = delayed(os.getpid)
    shared.close_all()
    first = set(flowpar.compute([pid() for _ in range(20)], scheduler="processes", workers=1))
    second = set(flowpar.compute([pid() for _ in range(20)], scheduler="processes", workers=1))
    assert first == second


def test_a_thread_that_a_task_starts_may_compute(own):
    def task(n):
        values = []
        thread = threading.Thread(
            target=lambda: values.extend(
                flowpar.compute([delayed(succ)(n)] * 3, scheduler="threads", workers=2)
            )
        )
        thread.start()
        thread.join()
        return values

    wants = [[n + 1] * 3 for n in range(6)]
    calls = [delayed(task)(n) for n in range(6)]
    assert flowpar.compute(calls, scheduler=own, workers=2) == wants


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration])
def test_a_stop_iteration_ends_neither_a_coroutine_nor_a_loop(error):
    def stop():
        raise error("enough")

    async def wait():
        return await delayed(stop)()

    with pytest.raises(flowpar.TaskError, match=error.__name__):
        asyncio.run(asyncio.wait_for(wait(), 30))
    with pytest.raises(flowpar.TaskError, match=error.__name__):
        list(flowpar.as_completed([delayed(stop)()], scheduler="threads"))
    with pytest.raises(error):
        delayed(stop)().compute(scheduler="sync")


def _hidden():
    class Holder:
        pass

    holder = Holder()
    holder.x = delayed(succ)(1)
    return [delayed(succ)(2), holder]


def _too_much():
    return delayed(succ, limit={"gpu": 3})(1)


def _unloadable_argument():
    return delayed(succ)(Unloadable())


@pytest.mark.parametrize("gives", [_hidden, _too_much])
def test_what_a_task_returns_can_hurt_only_that_task(own, gives):
    calls = [delayed(succ)(i) for i in range(5)]
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute([delayed(gives)(), *calls], scheduler=own, on_error="continue")
    assert len(caught.value.exceptions) == 1
    assert gives.__name__ in str(caught.value.exceptions[0].__notes__)
    assert list(caught.value.run.finished.values()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("gives", [_unloadable_argument, Unloadable])
def test_what_cannot_be_loaded_here_hurts_only_its_task(gives):
    calls = [delayed(succ)(i) for i in range(5)]
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute([delayed(gives)(), *calls], scheduler="processes", on_error="continue")
    assert len(caught.value.exceptions) == 1
    assert gives.__name__ in str(caught.value.exceptions[0].__notes__)
    assert list(caught.value.run.finished.values()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", [Bad, BadBase])
def test_an_exception_without_words_is_an_error_like_any_other(own, kind):
    def boom():
        raise kind

    class Listener:
        def on_task_end(self, event):
            assert event.record.status in {"done", "failed"}

    calls = [delayed(succ)(i) for i in range(5)]
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute(
            [delayed(boom)(), *calls], scheduler=own, on_error="continue", observers=[Listener()]
        )
    run = caught.value.run
    assert run.counts.done == 5
    assert "failed" in run.summary()


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda x: Pair(x, 2), Pair(8, 2)),
        (lambda x: Data([x]), Data([8])),
        (lambda x: collections.OrderedDict(a=x), collections.OrderedDict(a=8)),
        (lambda x: collections.deque([x], maxlen=3), collections.deque([8], maxlen=3)),
        (lambda x: {x: 1}, {8: 1}),
        (lambda x: slice(x), slice(8)),
    ],
)
def test_a_delayed_value_in_whatever_a_task_returns_is_computed(own, make, want):
    def give():
        return make(delayed(succ)(7))

    got = delayed(lambda value: (type(value).__name__, value))(delayed(give)())
    assert got.compute(scheduler=own) == (type(want).__name__, want)


def test_a_generator_that_a_task_returns_is_not_used_up():
    made = delayed(lambda: (i for i in range(3)))().compute(scheduler="threads")
    assert list(made) == [0, 1, 2]


def test_order_alone_moves_no_value():
    first = delayed(threading.Lock, pool="processes")()
    after = delayed(succ).options(after=[first])(delayed(succ)(1))
    assert after.compute(scheduler="processes") == 3
    here = delayed(threading.Lock, pool="threads")()
    after = delayed(succ).options(after=[here])(delayed(succ)(1))
    assert after.compute(scheduler="processes") == 3


def test_a_decorator_without_a_policy_takes_parentheses():
    @delayed()
    def double(x):
        return 2 * x

    assert double(4).compute(scheduler="sync") == 8
    assert delayed(None).compute() is None


def test_what_a_function_carries_does_not_get_in_the_way():
    def f(x):
        return x

    f.options = f._function = "mine"
    assert delayed(f).options(retries=1)(3).compute(scheduler="sync") == 3


def test_higher_priorities_come_first_among_what_is_ready():
    order = []

    def note(name, *_):
        order.append(name)

    high, low = delayed(note, priority=10), delayed(note)
    highs = [high(("high", i)) for i in range(4)]
    lows = [low(("low", i), highs[i]) for i in range(4)]
    for _ in range(2):
        order.clear()
        flowpar.compute(lows, scheduler="sync")
        assert [name for name, _ in order] == ["high"] * 4 + ["low"] * 4


def test_the_note_of_a_failure_does_not_read_a_large_argument():
    def boom(_):
        raise ValueError

    with pytest.raises(ValueError) as caught:
        delayed(boom)([list(range(10**6))] * 5).compute(scheduler="sync")
    assert len(str(caught.value.__notes__)) < 500


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a = a


class Wrapping(Exception):
    def __init__(self, text):
        super().__init__(f"wrapped {text}")


def test_an_exception_that_cannot_be_called_again_keeps_its_type(own):
    def boom():
        raise Odd("this", "that")

    with pytest.raises(Odd) as caught:
        delayed(boom)().compute(scheduler=own)
    assert str(caught.value) == "this and that"
    assert caught.value.a == "this"


def test_an_exception_that_decorates_its_message_does_so_once(own):
    def boom():
        raise Wrapping("x")

    with pytest.raises(Wrapping) as caught:
        delayed(boom)().compute(scheduler=own)
    assert str(caught.value) == "wrapped x"


class Held(Exception):
    def __init__(self):
        super().__init__("held")
        self.lock = threading.Lock()


def test_retries_go_by_the_type_that_was_raised_also_if_it_cannot_travel(own):
    def boom():
        raise Held

    with pytest.raises((Held, flowpar.TaskError)) as caught:
        delayed(boom, retries=2, retry_on=Held)().compute(scheduler=own)
    assert caught.value.run.tasks[0].attempts == 3


class Rude:
    def __len__(self):
        raise SystemExit(4)

    __repr__ = __len__


def test_a_failure_is_told_whatever_its_arguments_do():
    def boom(_):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        delayed(boom)(Rude()).compute(scheduler="sync")


def test_a_task_with_side_effects_is_not_run_again_for_a_later_one(own, tmp_path):
    path = tmp_path / "ran"

    def side():
        with open(path, "a") as file:
            file.write("x")
        return path.stat().st_size

    y = delayed(side, pure=False)()
    first = delayed(succ)(y)
    later = delayed(lambda _, hidden: delayed(succ)(hidden[0]), traverse=False)(first, [y])
    assert later.compute(scheduler=own) == 2
    assert path.read_text() == "x"


def test_the_culprit_among_many_is_found_soon():
    many = [object() for _ in range(20_000)]
    many[12_345] = threading.Lock()
    with pytest.raises(flowpar.NotPicklable, match=r"args\[0\]\[12345\]"):
        delayed(len)(many).compute(scheduler="processes")


def quick(i):
    """Take a moment, so that batches of two runs queue at one worker."""
    until = time.perf_counter() + 0.002
    while time.perf_counter() < until:
        pass
    return i


def test_a_run_that_is_cancelled_takes_nothing_from_another():
    """Both have batches at the same workers; what had finished must be heard of."""

    def work(values):
        for _ in range(12):
            values.append(sum(flowpar.compute([delayed(quick)(i) for i in range(40)], **how)))

    how = {"scheduler": "processes", "workers": 2}
    values = []
    thread = threading.Thread(target=lambda: work(values))
    thread.start()
    while thread.is_alive():
        future = delayed(sum)([delayed(quick)(i) for i in range(100)]).submit(**how)
        thread.join(0.03)
        future.cancel()
    assert values == [sum(range(40))] * 12


def test_a_program_ends_that_leaves_a_stream_of_values_open(run_script, own):
    done = run_script(f"""
        import time, flowpar
        tasks = flowpar.map(time.sleep, [0.1] * 50)
        values = flowpar.as_completed(tasks, scheduler={own!r})
        next(values)
        print("bye")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


def test_the_wait_before_a_retry_is_kept_after_a_crash_in_a_batch():
    plan_waits = Plan(Graph([delayed(succ, retries=2, retry_delay=10.0)(delayed(succ)(1))]), **LANE)
    for state in plan_waits.functions.values():
        state.timing.calls = 1
    batch = plan_waits.take("x", 9)
    assert batch == [0, 1]
    plan_waits.lose(batch, guilty=1)
    assert plan_waits.fail(1, ValueError(), now=0.0)
    again = plan_waits.take("x", 9)
    assert again == [0]
    plan_waits.finish(again, report(again), now=0.1)
    assert not plan_waits.take("x", 9)
    due = plan_waits.next_retry()
    assert due > 7
    plan_waits.wake(due)
    assert plan_waits.take("x", 9) == [1]


def test_a_mock_is_a_function_like_any_other():
    from unittest import mock

    assert delayed(mock.MagicMock(return_value=3))().compute(scheduler="sync") == 3


@pytest.mark.parametrize("values", [(1,), (1, 2, 3)])
def test_what_is_unpacked_must_be_as_many_as_said(own, values):
    a, b = delayed(lambda: values, nout=2)()
    with pytest.raises(ValueError, match=f"2 values, and there are {len(values)}"):
        flowpar.compute(a, b, scheduler=own)


def test_what_says_it_is_something_else_is_taken_for_what_it_is():
    class Unbound:
        __class__ = property(lambda self: (_ for _ in ()).throw(RuntimeError("unbound")))

    odd = type("Odd", (), {})
    odd.__module__ = None
    assert delayed(lambda *args: len(args))(Unbound(), odd()).compute(scheduler="sync") == 2


def test_what_comes_after_a_failure_in_one_batch_does_not_run(own, tmp_path):
    path = tmp_path / "ran"

    def note(fails):
        if fails:
            raise ValueError
        with open(path, "a") as file:
            file.write("x")

    call = delayed(note)
    flowpar.compute([call(False) for _ in range(200)], scheduler=own)  # it is known to be quick
    path.unlink()
    pairs = [call.options(after=[call(True)])(False) for _ in range(20)]
    warm = [call(False) for _ in range(100)]
    with pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute([*warm, *pairs], scheduler=own, on_error="continue")
    assert len(caught.value.exceptions) == 20
    assert path.read_text() == "x" * 100


@dataclass
class Doubles:
    x: object

    def __post_init__(self):
        self.x = self.x * 2


@dataclass
class Converts:
    x: object

    def __post_init__(self):
        if isinstance(self.x, int):
            self.x = str(self.x)


def test_a_dataclass_that_computes_its_fields_is_right_or_refused(own):
    with pytest.raises(flowpar.ArgumentError, match="__post_init__ computes x"):
        delayed(str)(Doubles(delayed(succ)(1)))
    held = delayed(lambda thing: thing.x)(Converts(delayed(succ)(1)))
    assert held.compute(scheduler=own) == "2"
