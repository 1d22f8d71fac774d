"""Options: where each comes from, what each takes, and how a wrong one is named."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import threading

import pytest

import flowpar
from flowpar import OptionError
from flowpar.settings import Options, check, resolve


class Watcher:
    def on_task_end(self, event):
        pass


class MinimalPool:
    def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
        pass


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("sheduler", "scheduler"),
        ("worker", "workers"),
        ("n_workers", "workers"),
        ("onerror", "on_error"),
        ("observer", "observers"),
        ("progres", "progress"),
        ("start_methode", "start_method"),
        ("limit", "limits"),
        ("sed", "seed"),
        ("maxtasksperchild", "max_tasks_per_worker"),
        ("max_tasks_per_child", "max_tasks_per_worker"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong, right):
    with pytest.raises(OptionError, match=f"'{wrong}' is not an option.*did you mean '{right}'"):
        flowpar.compute(1, **{wrong: 1})


def test_a_name_like_none_is_answered_with_all():
    with pytest.raises(OptionError) as caught:
        flowpar.compute(1, zzz=1)
    for field in dataclasses.fields(Options):
        assert field.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("scheduler", "procesess"),
        ("scheduler", ""),
        ("scheduler", 5),
        ("scheduler", None),
        ("scheduler", object()),
        ("workers", 0),
        ("workers", -1),
        ("workers", 1.5),
        ("workers", True),
        ("workers", "2"),
        ("progress", 1),
        ("progress", "yes"),
        ("on_error", "ignore"),
        ("on_error", None),
        ("limits", {"a": 0}),
        ("limits", {"a": -1}),
        ("limits", {"a": math.nan}),
        ("limits", {"a": "1"}),
        ("limits", {1: 1}),
        ("limits", "gpu"),
        ("limits", ["gpu"]),
        ("observers", object()),
        ("observers", [Watcher(), 5]),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", "x"),
        ("start_method", "forkserve"),
        ("start_method", 5),
        ("max_tasks_per_worker", 0),
        ("max_tasks_per_worker", True),
        ("max_worker_memory", "2 stones"),
        ("max_worker_memory", 0),
        ("nice", -1),
        ("nice", 20),
        ("pin", 1),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(name, bad):
    ran = []
    with pytest.raises(OptionError) as caught:
        flowpar.delayed(ran.append)(1).compute(**{name: bad})
    assert name in str(caught.value)
    assert isinstance(caught.value, (TypeError, ValueError))
    assert not ran
    with pytest.raises(OptionError), flowpar.options(**{name: bad}):
        ran.append(1)
    assert not ran


def test_a_wrong_choice_is_answered_with_the_nearest():
    with pytest.raises(OptionError, match="did you mean 'processes'"):
        resolve({"scheduler": "process"})
    with pytest.raises(OptionError, match="did you mean 'continue'"):
        resolve({"on_error": "continu"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheduler", "auto"),
        ("scheduler", MinimalPool()),
        ("workers", 1),
        ("workers", None),
        ("progress", None),
        ("progress", False),
        ("on_error", "continue"),
        ("limits", {"gpu": 2, "disk": 0.5}),
        ("seed", 0),
        ("seed", None),
        ("start_method", "spawn"),
        ("max_tasks_per_worker", 1),
        ("max_worker_memory", 2e9),
        ("nice", 19),
        ("pin", True),
    ],
)
def test_every_legal_value_is_taken(name, value):
    assert getattr(resolve({name: value}), name) == value


def test_an_executor_is_a_scheduler():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert resolve({"scheduler": executor}).scheduler is executor


def test_one_observer_or_several():
    watcher = Watcher()
    assert resolve({"observers": watcher}).observers == (watcher,)
    assert resolve({"observers": [watcher, watcher]}).observers == (watcher, watcher)
    assert resolve({"observers": []}).observers == ()


def test_options_are_frozen():
    options = resolve({"limits": {"a": 1}})
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.workers = 3
    with pytest.raises(TypeError):
        options.limits["a"] = 2


def test_the_call_wins_over_the_inner_block_over_the_outer_over_the_environment(monkeypatch):
    monkeypatch.setenv("FLOWPAR_WORKERS", "1")
    monkeypatch.setenv("FLOWPAR_SCHEDULER", "sync")
    assert (resolve({}).workers, resolve({}).scheduler) == (1, "sync")
    with flowpar.options(workers=2, seed=5):
        assert resolve({}).workers == 2
        with flowpar.options(workers=3):
            assert (resolve({}).workers, resolve({}).seed) == (3, 5)
            assert resolve({"workers": 4}).workers == 4
            assert resolve({"workers": None}).workers is None
        assert resolve({}).workers == 2
    assert resolve({}).workers == 1


def test_a_block_ends_with_an_error_too():
    with pytest.raises(ValueError), flowpar.options(workers=2):
        raise ValueError
    assert resolve({}).workers is None


def test_a_block_holds_for_its_own_thread_only():
    seen = []
    with flowpar.options(workers=7):
        thread = threading.Thread(target=lambda: seen.append(resolve({}).workers))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_block_holds_for_runs_that_it_starts_in_the_background():
    with flowpar.options(scheduler="sync"):
        future = flowpar.submit(flowpar.delayed(threading.current_thread)())
    assert future.result(30).name == "flowpar-run"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOWPAR_WORKERS", "0"),
        ("FLOWPAR_WORKERS", "-1"),
        ("FLOWPAR_WORKERS", "two"),
        ("FLOWPAR_WORKERS", "1.5"),
        ("FLOWPAR_SCHEDULER", "thread"),
    ],
)
def test_a_wrong_environment_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=name):
        flowpar.compute(1)


def test_an_empty_environment_variable_is_none(monkeypatch):
    monkeypatch.setenv("FLOWPAR_WORKERS", "")
    monkeypatch.setenv("FLOWPAR_SCHEDULER", "")
    assert resolve({}) == Options()


def test_check_names_the_resource():
    with pytest.raises(OptionError, match=r"limits\['gpu'\]"):
        check({"limits": {"gpu": 0}})


@pytest.mark.parametrize(
    ("given", "number"),
    [(1000, 1000), ("500", 500), ("2k", 2000), ("1.5 MB", 1.5e6), ("2GiB", 2**31), ("1 TB", 1e12)],
)
def test_sizes_are_numbers_or_texts(given, number):
    assert resolve({"memory_limit": given}).memory_limit == number


@pytest.mark.parametrize("given", [0, -1, "much", "1.2.3 GB", "GB", "-5M", True, "0 MB", [1]])
def test_other_sizes_are_refused(given):
    with pytest.raises(OptionError, match="memory_limit"):
        resolve({"memory_limit": given})
