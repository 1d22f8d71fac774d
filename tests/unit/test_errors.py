"""Every error says what it knows as attributes, and travels with them."""

from __future__ import annotations

import copy
import pickle
import sys

import pytest

import flowpar
from flowpar import errors
from flowpar.errors import RunFailed, TaskTimeout, add_note

FACTS = {
    "CycleError": {"cycle": ("a", "b", "a")},
    "ArgumentError": {"path": "args[0].x"},
    "TaskError": {"type_name": "m.E", "text": "why", "is_final": True},
    "TaskTimeout": {"timeout": 2.5},
    "MemoryExceeded": {"memory": 2e9, "seen": 2_500_000_000},
    "WorkerDied": {"pid": 12, "exit_code": -9, "signal": "SIGKILL", "position": 3},
    "NotPicklable": {"path": "result.lock"},
    "MissingExtra": {"extra": "ray"},
}
PLAIN = sorted(
    name for name in errors.__all__ if name not in {"RunFailed", "FlowparWarning", "add_note"}
)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("how", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_keeps_message_facts_and_notes_on_its_way(name, how):
    error = getattr(errors, name)("what happened", **FACTS.get(name, {}))
    add_note(error, "a note")
    back = how(error)
    assert type(back) is type(error)
    assert str(back) == "what happened"
    assert back.args == error.args
    assert {k: getattr(back, k) for k in FACTS.get(name, {})} == FACTS.get(name, {})
    assert back.__notes__ == ["a note"]


@pytest.mark.parametrize("name", PLAIN)
def test_every_error_can_be_caught_as_flowpars_and_has_its_facts_by_default(name):
    error = getattr(errors, name)()
    assert isinstance(error, flowpar.FlowparError)
    assert str(error) == ""
    for fact in FACTS.get(name, {}):
        assert hasattr(error, fact)
    assert getattr(flowpar, name) is getattr(errors, name)


def test_errors_are_also_what_python_calls_them():
    kinds = [
        ("CycleError", ValueError),
        ("ArgumentError", TypeError),
        ("TaskTimeout", TimeoutError),
        ("NotPicklable", TypeError),
        ("OptionError", TypeError),
        ("OptionError", ValueError),
        ("MissingExtra", ImportError),
    ]
    for name, kind in kinds:
        with pytest.raises(kind):
            raise getattr(errors, name)("x")
    assert issubclass(errors.FlowparWarning, UserWarning)


def group():
    return RunFailed(
        "3 of 9 tasks failed",
        [ValueError("a"), TaskTimeout("b", timeout=1.0), KeyError("c")],
        run="the run",
    )


def test_a_group_travels_without_its_run():
    add = group()
    add_note(add, "a note")
    back = pickle.loads(pickle.dumps(add))
    assert type(back) is RunFailed
    assert [type(e) for e in back.exceptions] == [ValueError, TaskTimeout, KeyError]
    assert back.exceptions[1].timeout == 1.0
    assert back.run is None
    assert back.__notes__ == ["a note"]
    assert str(back) == str(add)


def test_a_group_shows_how_many_failed():
    assert "3 of 9 tasks failed" in str(group())
    assert isinstance(group(), flowpar.FlowparError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_split_and_subgroup_keep_the_run():
    times, rest = group().split(TaskTimeout)
    assert isinstance(times, RunFailed)
    assert isinstance(rest, RunFailed)
    assert len(times.exceptions) == 1
    assert len(rest.exceptions) == 2
    assert times.run == rest.run == "the run"
    assert group().subgroup(lambda e: isinstance(e, KeyError)).run == "the run"
    assert group().derive([ValueError()]).run == "the run"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_except_star_picks_the_timeouts():
    names = {"RunFailed": RunFailed, "TimeoutError": TimeoutError, "group": group, "seen": {}}
    exec(
        "try:\n"
        "    raise group()\n"
        "except* TimeoutError as some:\n"
        "    seen['times'] = some\n"
        "except* Exception as others:\n"
        "    seen['rest'] = others\n",
        names,
    )
    assert [type(e) for e in names["seen"]["times"].exceptions] == [TaskTimeout]
    assert names["seen"]["times"].run == "the run"
    assert len(names["seen"]["rest"].exceptions) == 2


def test_a_note_is_added_once():
    error = ValueError()
    add_note(error, "n")
    add_note(error, "n")
    assert error.__notes__ == ["n"]


def test_a_note_to_an_exception_that_refuses_it_is_lost_quietly():
    class Closed(Exception):
        def add_note(self, note):
            raise RuntimeError("no")

    add_note(Closed(), "n")
