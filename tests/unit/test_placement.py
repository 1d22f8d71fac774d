"""Where calls are made, decided from figures alone."""

import os
import random
import types

import pytest

from flowpar import delayed
from flowpar.placement import TRIAL, WAITING, Placement
from flowpar.sharing.shareable import shares_badly
from flowpar.status import FunctionState, Timing


def named(x):
    return x


def state_of(function=named, **figures):
    task = delayed(function, **figures.pop("policy", {}))(1)
    return FunctionState(
        task._function,
        TRIAL,
        alone=False,
        joins=True,
        priority=0,
        rides=False,
        keeps=False,
        limited=False,
        timing=Timing(**figures),
    )


def choose(state, left=1000, other_seconds=0.0, start_seconds=0.1, workers=2):
    placement = Placement("auto", workers=workers)
    return placement.choose(
        state, left=left, other_seconds=other_seconds, start_seconds=start_seconds
    )


PYTHON = {"looks": 5}
FREE = {"looks": 5, "free_looks": 5}


def test_nothing_is_said_of_what_nobody_has_seen():
    assert choose(state_of()) is None
    assert choose(state_of(calls=1, seconds=0.001)) is None  # one quick call, not looked at


def test_what_is_over_at_once_stays_here():
    assert choose(state_of(calls=100, seconds=1e-4)).lane == "inline"


def test_what_waits_goes_to_many_threads():
    assert (
        choose(state_of(calls=1, seconds=0.1, cpu_seconds=0.001, clocked_seconds=0.1)).lane
        == WAITING
    )
    running = state_of(running_seconds=0.01, running_cpu=0.0001, looks=3)
    assert choose(running).lane == WAITING


def test_what_lets_others_compute_goes_to_threads():
    assert choose(state_of(calls=1, seconds=0.01, **FREE)).lane == "threads"


def test_python_goes_to_processes_if_that_pays():
    assert choose(state_of(calls=1, seconds=0.01, **PYTHON)).lane == "processes"
    few = choose(state_of(calls=1, seconds=0.01, **PYTHON), left=5)
    assert few.lane == "inline"
    assert "too little to start processes for" in few.why
    assert (
        choose(state_of(calls=1, seconds=0.01, **PYTHON), left=100, start_seconds=0).lane
        == "processes"
    )
    assert (
        choose(state_of(calls=1, seconds=0.01, **PYTHON), left=5, other_seconds=10).lane
        == "processes"
    )
    assert choose(state_of(calls=1, seconds=0.01, **PYTHON), workers=1).lane == "inline"


def test_long_calls_leave_the_loop_alone():
    assert choose(state_of(calls=1, seconds=0.09, **PYTHON), left=1).lane == "threads"


def test_what_costs_more_to_move_than_to_make_stays():
    heavy = {"weighed": 1, "pickle_seconds": 0.01, "weighed_bytes": 0}
    choice = choose(state_of(calls=1, seconds=0.002, **PYTHON, **heavy), start_seconds=0)
    assert choice.lane == "inline"
    assert "moving" in choice.why


def test_what_cannot_be_sent_stays():
    import threading

    lock = threading.Lock()
    choice = choose(state_of(lambda x: lock, calls=1, seconds=0.01, **PYTHON))
    assert choice.lane == "inline"
    assert "cannot be sent" in choice.why


@pytest.mark.parametrize(
    ("scheduler", "policy", "lane"),
    [
        ("auto", {}, TRIAL),
        ("auto", {"pool": "threads"}, "threads"),
        ("auto", {"timeout": 1}, "processes"),
        ("auto", {"memory": 1e9}, "processes"),
        ("threads", {"memory": 1e9}, "processes"),
        ("given", {"memory": 1e9}, "given"),
        ("sync", {"memory": 1e9}, "inline"),
        ("sync", {"pool": "threads"}, "inline"),
        ("threads", {}, "threads"),
        ("processes", {"timeout": 1}, "processes"),
    ],
)
def test_lanes_at_first(scheduler, policy, lane):
    assert Placement(scheduler).lane_of(state_of(policy=policy).function) == lane


def shows(path):
    import matplotlib.pyplot as plt

    plt.savefig(path)


def seeds(n):
    random.seed(n)
    return random.random()


def seeds_by_a_helper(n):
    return [seeds(k) for k in range(n)]


def ends(n):
    os._exit(n)


@pytest.mark.parametrize("function", [shows, seeds, seeds_by_a_helper, ends])
def test_what_belongs_to_the_whole_process_gets_one_of_its_own(function):
    assert Placement("auto").lane_of(state_of(function).function) == "processes"


def with_column(frame, k=2):
    frame["b"] = frame["a"] * k
    return frame


def scaled(values, by=2):
    values *= by
    return values


def grown(values):
    values.append(1)
    return values


def cell(table):
    table.rows[0].name = "x"


def filled(frame):
    return frame.fillna(0, inplace=True)


def local_only(values):
    found = {}
    for value in values:
        found[value] = 1
        found.setdefault(value, 2)
    total = 0
    total += len(found)
    return total


@pytest.mark.parametrize("function", [with_column, scaled, grown, cell, filled])
def test_what_writes_to_its_arguments_gets_copies_of_them(function):
    assert shares_badly(function)
    assert Placement("auto").lane_of(state_of(function).function) == "processes"


def test_what_writes_to_its_own_things_does_not():
    assert not shares_badly(local_only)
    assert not shares_badly(len)
    assert not shares_badly(lambda values: sorted(values))


def test_names_count_by_what_they_stand_for():
    module = types.ModuleType("scipy.signal")
    names = {"signal": module}
    exec("def filters(values): return signal.filtered(values)", names)
    function = names["filters"]
    assert shares_badly(function) == ""
    module.__name__ = "signal"
    assert shares_badly(function) == "it names signal"


def test_where_random_numbers_are_seeded_nothing_is_tried_in_threads():
    assert Placement("auto", is_seeded=True).lane_of(state_of().function) == "processes"
