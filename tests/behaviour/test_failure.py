"""A failure keeps its type, says where it came from, and takes nothing else with it."""

from __future__ import annotations

import os
import threading
import time
import traceback

import pytest
from support.gates import mark, marks

import flowpar
from flowpar import NotPicklable, RunFailed, TaskError, delayed


class Custom(Exception):
    def __init__(self, code, *, why):
        super().__init__(f"code {code}")
        self.code, self.why = code, why

    def __reduce__(self):
        return _custom, (self.code, self.why)


def _custom(code, why):
    return Custom(code, why=why)


class TwoArguments(Exception):
    """Cannot be loaded: its args are not those of its __init__."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class HoldsALock(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def divide(a, b):
    return a / b  # the user's line


def test_the_type_and_the_line_are_the_users(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        delayed(divide)(1, 0).compute(scheduler=pool)
    shown = "".join(traceback.format_exception(None, caught.value, caught.tb))
    assert "return a / b  # the user's line" in shown


def test_a_note_names_task_arguments_key_attempt_pool_and_line(pool):
    a = delayed(divide)(4, 2)
    b = delayed(divide, name="halve", retries=1)(a, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        b.compute(scheduler=pool)
    (note,) = caught.value.__notes__
    assert "task halve = halve(<divide>, 0)" in note
    assert "attempt 2 of 2" in note
    assert f"{__file__}:{b._site.line}" in note
    assert len(note.splitlines()) == 1


def test_facts_causes_and_notes_of_an_exception_arrive(pool):
    @delayed
    def f():
        try:
            raise KeyError("inner")
        except KeyError as error:
            made = Custom(7, why="because")
            made.__notes__ = ["the user's note"]
            raise made from error

    with pytest.raises(Custom) as caught:
        f().compute(scheduler=pool)
    assert (caught.value.code, caught.value.why) == (7, "because")
    assert isinstance(caught.value.__cause__, KeyError)
    assert "the user's note" in caught.value.__notes__
    assert sum("flowpar: task f" in note for note in caught.value.__notes__) == 1


@pytest.mark.parametrize("kind", [HoldsALock, TwoArguments, BadText])
def test_an_exception_that_does_not_travel_arrives_with_text_and_line(pool, kind):
    arguments = {HoldsALock: ("locked",), TwoArguments: ("one", "two"), BadText: ()}[kind]

    @delayed
    def f():
        raise kind(*arguments)  # the user's line

    with pytest.raises((kind, TaskError)) as caught:
        f().compute(scheduler=pool)
    shown = "".join(traceback.format_exception(None, caught.value, caught.tb))
    assert "# the user's line" in shown
    if isinstance(caught.value, TaskError):
        assert kind.__name__ in caught.value.type_name
        assert all(word in caught.value.text for word in arguments)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, StopIteration, StopAsyncIteration])
def test_what_would_end_a_worker_is_an_ordinary_failure(pool, kind):
    @delayed
    def f():
        raise kind("out")

    with pytest.raises((TaskError, kind)) as caught:
        f().compute(scheduler=pool)
    assert isinstance(caught.value, Exception)
    assert "out" in str(caught.value)
    assert delayed(abs)(-1).compute(scheduler=pool) == 1


def test_the_first_failure_ends_the_run_and_what_is_done_is_reachable(own):
    good = delayed(abs)(-3)
    bad = delayed(divide).options(after=[good])(1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        flowpar.compute(good, bad, delayed(abs)(bad), scheduler=own)
    run = caught.value.run
    assert run.status == "failed"
    assert run.finished["abs[0]"] == 3
    assert [type(e) for e in run.errors] == [ZeroDivisionError]
    assert {t.key: t.status for t in run.tasks}["divide"] == "failed"
    with pytest.raises(flowpar.FlowparError, match="failed"):
        _ = run.values


def test_continue_finishes_the_rest_and_raises_one_group(pool):
    good = [delayed(divide, name="good")(i, 1) for i in range(3)]
    bad = [delayed(divide, name="bad")(1, 0), delayed(int, name="text")("x")]
    after = delayed(sum)([good[0], bad[0]])
    with pytest.raises(RunFailed) as caught:
        flowpar.compute(*good, *bad, after, scheduler=pool, on_error="continue")
    group = caught.value
    assert {type(e) for e in group.exceptions} == {ZeroDivisionError, ValueError}
    assert {k: v for k, v in group.run.finished.items() if k.startswith("good")} == {
        "good[0]": 0.0,
        "good[1]": 1.0,
        "good[2]": 2.0,
    }
    records = {task.key: task for task in group.run.tasks}
    assert records["sum"].status == "skipped"
    assert records["sum"].reason == "bad failed"
    assert records["bad"].reason.startswith("ZeroDivisionError")
    assert records["sum"].attempts == 0


def test_what_depends_on_a_failure_never_runs(pool, tmp_path):
    bad = delayed(divide)(1, 0)
    seen = tmp_path / "seen"
    chain = delayed(mark)(str(seen), bad)
    with pytest.raises(RunFailed):
        flowpar.compute(delayed(mark)(str(seen), chain), scheduler=pool, on_error="continue")
    assert marks(seen) == []


def test_a_failure_behind_a_returned_delayed_value_is_its_own(pool):
    @delayed
    def outer():
        return delayed(divide)(1, 0)

    with pytest.raises(ZeroDivisionError) as caught:
        delayed(abs)(outer()).compute(scheduler=pool)
    assert "task divide" in caught.value.__notes__[0]


def test_exceptions_that_lead_to_one_another_many_ways_arrive_soon(own):
    @delayed
    def f():
        errors = [ValueError(i) for i in range(30)]
        for i, error in enumerate(errors):
            error.__cause__ = errors[(i + 1) % 30]
            error.__context__ = errors[(i + 2) % 30]
        raise errors[0]

    begin = time.monotonic()
    with pytest.raises(ValueError, match="0") as caught:
        f().compute(scheduler=own)
    assert caught.value.__cause__.args == (1,)
    assert time.monotonic() - begin < 5


def test_an_exception_with_much_in_it_says_so_in_a_few_lines(own):
    @delayed
    def f(x):
        raise ValueError("x" * 100_000)

    with pytest.raises(ValueError) as caught:
        f(["y" * 1000] * 50).compute(scheduler=own)
    (note,) = caught.value.__notes__
    assert len(note) < 1000
    assert len(caught.value.run.tasks[0].reason) <= 200


def test_an_argument_that_does_not_pickle_is_named():
    box = {"model": [threading.Lock()]}
    with pytest.raises(NotPicklable, match=r"pool=.threads") as caught:
        delayed(len)(box).compute(scheduler="processes")
    assert caught.value.path == "args[0]['model'][0]"
    assert "task len" in caught.value.__notes__[0]


def test_a_keyword_argument_that_does_not_pickle_is_named():
    def f(*, thing):
        return 1

    with pytest.raises(NotPicklable) as caught:
        delayed(f)(thing=threading.Lock()).compute(scheduler="processes")
    assert "thing" in caught.value.path


def test_an_argument_that_does_not_pickle_is_no_matter_where_threads_will_do():
    lock = threading.Lock()
    assert delayed(lambda x: x is lock)(lock).compute(scheduler="auto")
    assert delayed(lambda x: x is lock)(lock).compute(scheduler="threads")


def test_a_result_that_does_not_pickle_is_named():
    @delayed
    def f():
        return [1, {"lock": threading.Lock()}]

    with pytest.raises(NotPicklable) as caught:
        f().compute(scheduler="processes")
    assert caught.value.path == "result[1]['lock']"
    assert "task f" in caught.value.__notes__[0]


def test_what_raises_while_pickled_or_loaded_hurts_only_its_own_task():
    class Bomb:
        def __init__(self, when):
            self.when = when

        def __reduce__(self):
            if self.when == "dump":
                raise SystemExit("in dump")
            return os._exit if self.when == "exit" else _boom, (3,)

    for when in ("dump", "load"):
        tasks = [delayed(abs)(-1), delayed(repr)(Bomb(when)), delayed(abs)(-2)]
        with pytest.raises(RunFailed) as caught:
            flowpar.compute(*tasks, scheduler="processes", on_error="continue")
        assert caught.value.run.finished == {"abs[0]": 1, "abs[1]": 2}
        assert len(caught.value.exceptions) == 1


def _boom(code):
    raise SystemExit(code)


def test_failures_do_not_stop_later_runs(pool):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            delayed(divide)(1, 0).compute(scheduler=pool)
    assert delayed(divide)(4, 2).compute(scheduler=pool) == 2


def test_a_thousand_failures_are_all_told(own):
    tasks = [delayed(divide)(i, 0) for i in range(1000)]
    with pytest.raises(RunFailed) as caught:
        flowpar.compute(tasks, scheduler=own, on_error="continue")
    assert len(caught.value.exceptions) == 1000
    assert len(caught.value.run.errors) == 1000
    assert "1000 of 1000" in str(caught.value)
