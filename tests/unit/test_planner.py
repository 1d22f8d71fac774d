"""The plan alone: no thread, no clock, no pool; the tests are the scheduler."""

from __future__ import annotations

import random
import types

import pytest
from support.fakes import report

from flowpar import CycleError, InternalError, OptionError, WorkerDied, delayed
from flowpar.errors import NotPicklable
from flowpar.graph import Graph
from flowpar.planner import Plan
from flowpar.status import MOVES, Status


def call(*args):
    return args


def plan_of(*targets, lane="x", **options):
    return Plan(Graph(targets), lane_of=lambda function: lane, **options)


def task(name, *needs, **policy):
    # Code of its own: what is known of one task's time says nothing about another's.
    own = types.FunctionType(call.__code__.replace(co_name=name), globals())
    return delayed(own, name=name, **policy)(*needs)


def keys(plan, batch):
    return [plan.graph.key(index) for index in batch]


def finish(plan, batch, now=0.0, **how):
    return plan.finish(batch, report(batch, wanted=plan.wanted(batch), **how), now)


def learn(plan, index, seconds):
    """Let the plan know how long calls of a function take."""
    state = plan.state(index)
    state.timing.calls, state.timing.seconds = 1, seconds


def drain(plan, lane="x"):
    """Run to the end; return the keys in the order of their starts."""
    order = []
    while plan.is_active:
        batch = plan.take(lane)
        order += keys(plan, batch)
        finish(plan, batch)
    return order


# ---------------------------------------------------------------------------------- order


def test_a_task_is_ready_when_all_that_it_waits_for_is_done():
    a, b = task("a"), task("b")
    plan = plan_of(task("c", a, b))
    first, second = plan.take("x"), plan.take("x")
    assert plan.take("x") == []
    finish(plan, first)
    assert plan.take("x") == []
    finish(plan, second)
    assert keys(plan, plan.take("x")) == ["c"]


def test_higher_priority_goes_first_and_the_order_of_the_graph_decides_the_rest():
    plan = plan_of(
        task("a"), task("b", priority=1), task("c"), task("d", priority=2), task("e", priority=-1)
    )
    assert drain(plan) == ["d", "b", "a", "c", "e"]


def test_depth_first_so_that_results_are_freed_early():
    plan = plan_of(task("z", *[task(f"b{i}", task(f"a{i}")) for i in range(3)]))
    assert drain(plan) == ["a0", "b0", "a1", "b1", "a2", "b2", "z"]


def test_values_are_let_go_of_when_nothing_needs_them():
    a = task("a")
    plan = plan_of(task("c", task("b", a), a))
    finish(plan, plan.take("x"))
    assert set(plan.values) == {0}
    finish(plan, plan.take("x"))
    assert set(plan.values) == {0, 1}
    finish(plan, plan.take("x"))
    assert plan.values == {2: 2}
    assert not plan.is_active


def test_counts_follow():
    a = task("a")
    plan = plan_of(task("b", a))
    assert (plan.counts().total, plan.counts().done) == (2, 0)
    batch = plan.take("x")
    assert plan.counts().running == 1
    finish(plan, batch)
    assert (plan.counts().done, plan.counts().running) == (1, 0)
    assert plan.counts_by_name()["a"].done == 1


# -------------------------------------------------------------------------------- batches


def test_a_batch_goes_on_to_dependents_whose_needs_are_all_inside():
    a = task("a")
    b, c = task("b", a), task("c", a)
    plan = plan_of(task("d", b, c))
    for index in range(4):
        learn(plan, index, 1e-6)
    batch = plan.take("x")
    assert sorted(keys(plan, batch)) == ["a", "b", "c", "d"]
    assert plan.wanted(batch) == {plan.graph.targets[0]}
    finish(plan, batch)
    assert not plan.is_active


def test_a_batch_does_not_take_what_waits_for_something_outside():
    a, other = task("a"), task("other")
    plan = plan_of(task("d", a, other))
    for index in range(3):
        learn(plan, index, 1e-3)
    assert keys(plan, plan.take("x")) == ["a"]


def test_a_batch_takes_its_share_of_independent_tasks_and_no_more():
    call_ = delayed(call, name="f")
    plan = plan_of(*[call_(i) for i in range(10)])
    learn(plan, 0, 1e-3)
    assert len(plan.take("x", share=3)) == 3
    assert len(plan.take("x", share=100)) == 5  # more would take too long
    assert len(plan.take("x", share=100)) == 2


def test_what_takes_no_time_is_not_spread():
    call_ = delayed(call, name="f")
    plan = plan_of(*[call_(i) for i in range(10)])
    learn(plan, 0, 1e-8)
    assert len(plan.take("x", share=1)) == 10


def test_slow_or_unknown_tasks_travel_alone():
    call_ = delayed(call, name="f")
    plan = plan_of(*[call_(i) for i in range(3)])
    assert len(plan.take("x", share=100)) == 1
    learn(plan, 0, 1.0)
    assert len(plan.take("x", share=100)) == 1


@pytest.mark.parametrize(
    "policy", [{"pure": False}, {"timeout": 5}, {"memory": 5}, {"limit": "gpu"}]
)
def test_tasks_that_must_be_alone_are(policy):
    call_ = delayed(call, name="f", **policy)
    plan = plan_of(*[call_(i) for i in range(3)], limits={"gpu": 3})
    learn(plan, 0, 1e-6)
    assert len(plan.take("x", share=100)) == 1


def test_tasks_that_were_parted_are_alone():
    call_ = delayed(call, name="f")
    plan = plan_of(*[call_(call_(i)[0]) for i in range(3)])
    plan.part_all()
    for index in range(len(plan.graph)):
        learn(plan, index, 1e-6)
    while indices := plan.take("x", share=100):
        assert len(indices) == 1


def test_a_batch_keeps_to_its_lane():
    a = task("a")
    graph = Graph([task("b", a)])
    plan = Plan(graph, lane_of=lambda function: function.name)
    learn(plan, 0, 1e-6)
    assert keys(plan, plan.take("a")) == ["a"]
    assert plan.lanes() == []


def chain_plan(seconds, bytes_moved):
    plan = plan_of(task("end", task("then", task("first"))))
    for index in (0, 1):
        learn(plan, index, seconds)
    timing = plan.state(0).timing
    timing.moves, timing.moved_bytes = 1, bytes_moved
    return plan


def test_what_follows_on_a_large_value_follows_at_once():
    assert len(chain_plan(0.1, 1 << 26).take("x")) == 2
    assert len(chain_plan(10, 1 << 26).take("x")) == 1  # it would hold up what is done
    assert len(chain_plan(0.1, 1 << 17).take("x")) == 1


def test_not_if_others_wait_for_that_value_too():
    first = task("first")
    plan = plan_of(task("then", first), task("else", first))
    for index in (0, 1, 2):
        learn(plan, index, 0.1)
    timing = plan.state(0).timing
    timing.moves, timing.moved_bytes = 1, 1 << 26
    assert len(plan.take("x")) == 1


def test_what_was_not_begun_is_ready_again_uncharged():
    a = task("a")
    plan = plan_of(task("b", a))
    for index in range(2):
        learn(plan, index, 1e-6)
    batch = plan.take("x")
    assert len(batch) == 2
    finish(plan, batch, failed=[0], unstarted=[1])
    assert plan.attempts[1] == 0
    assert Status(plan.status[1]) is Status.SKIPPED


# --------------------------------------------------------------------------------- limits


def test_a_limit_holds_tasks_back_until_it_is_free():
    call_ = delayed(call, name="f", limit="gpu")
    plan = plan_of(*[call_(i) for i in range(3)])
    first = plan.take("x")
    assert plan.take("x") == []
    assert plan.take("x") == []
    finish(plan, first)
    second = plan.take("x")
    assert len(second) == 1
    assert plan.take("x") == []
    finish(plan, second, failed=second)
    assert len(plan.take("x")) == 1


def test_amounts_add_up_and_fractions_too():
    call_ = delayed(call, name="f", limit={"disk": 0.1})
    plan = plan_of(*[call_(i) for i in range(20)])
    flying = [plan.take("x") for _ in range(11)]
    assert [len(batch) for batch in flying] == [1] * 10 + [0]
    for batch in flying[:10]:
        finish(plan, batch)
    assert sum(bool(plan.take("x")) for _ in range(11)) == 10


def test_several_resources_are_held_together():
    both = task("both", limit={"a": 1, "b": 1})
    one = task("one", limit="a")
    other = task("other", limit="b")
    plan = plan_of(one, both, other)
    batch = plan.take("x")
    assert keys(plan, batch) == ["one"]
    rest = plan.take("x")
    assert keys(plan, rest) == ["other"]
    finish(plan, batch)
    assert plan.take("x") == []
    finish(plan, rest)
    assert keys(plan, plan.take("x")) == ["both"]


def test_a_waiting_task_does_not_hold_back_those_that_need_nothing():
    limited = delayed(call, name="f", limit="gpu")
    plan = plan_of(limited(1), limited(2), task("free"))
    plan.take("x")
    assert keys(plan, plan.take("x")) == ["free"]


def test_more_than_there_is_is_refused_with_the_cure():
    with pytest.raises(OptionError, match=r"limits=\{'gpu': 3\}"):
        plan_of(task("f", limit={"gpu": 3}), limits={"gpu": 2})


def test_a_retry_and_a_lost_batch_give_the_resource_back():
    call_ = delayed(call, name="f", limit="gpu", retries=1)
    plan = plan_of(call_(1), call_(2))
    batch = plan.take("x")
    finish(plan, batch, failed=batch, now=0.0)
    batch = plan.take("x")
    assert len(batch) == 1
    plan.lose(batch)
    assert len(plan.take("x")) == 1


def test_a_task_that_gives_a_delayed_value_gives_the_resource_back():
    call_ = delayed(call, name="f", limit="gpu")
    plan = plan_of(call_(1), call_(2))
    batch = plan.take("x")
    finish(plan, batch, expanded=batch)
    plan.expand(batch[0], plan.graph.grow([call_(3)])[0])
    seen = 0
    while batch := plan.take("x"):
        finish(plan, batch)
        seen += 1
    assert seen == 2
    assert not plan.is_active


# -------------------------------------------------------------------------------- retries


class Middle:
    """No jitter."""

    def uniform(self, low, high):
        return (low + high) / 2


def test_the_delay_doubles_with_each_attempt():
    plan = plan_of(task("f", retries=4, retry_delay=2.0), rng=Middle())
    now, pauses = 0.0, []
    while plan.is_active:
        plan.wake(now)
        batch = plan.take("x")
        finish(plan, batch, now=now, failed=batch)
        if plan.next_retry() is not None:
            pauses.append(plan.next_retry() - now)
            now = plan.next_retry()
    assert pauses == [2.0, 4.0, 8.0, 16.0]
    assert Status(plan.status[0]) is Status.FAILED
    assert plan.attempts[0] == 5


def test_jitter_spreads_the_retries_around_the_delay():
    call_ = delayed(call, name="f", retries=1, retry_delay=1.0)
    plan = plan_of(*[call_(i) for i in range(200)], rng=random.Random(1))
    while batch := plan.take("x"):
        finish(plan, batch, failed=batch)
    due = []
    while plan.next_retry() is not None:
        due.append(plan.next_retry())
        plan.wake(due[-1])
    assert 0.5 <= min(due) < 0.9
    assert 1.1 < max(due) <= 1.5
    assert len(set(due)) > 150


def test_a_retry_is_not_ready_before_its_time():
    plan = plan_of(task("f", retries=1, retry_delay=10.0), rng=Middle())
    batch = plan.take("x")
    finish(plan, batch, failed=batch, now=5.0)
    assert plan.next_retry() == 15.0
    plan.wake(14.9)
    assert plan.take("x") == []
    plan.wake(15.0)
    assert len(plan.take("x")) == 1


def test_only_the_named_exceptions_are_retried():
    plan = plan_of(task("f", retries=3, retry_on=KeyError))
    batch = plan.take("x")
    finish(plan, batch, failed=batch)  # a ValueError
    assert Status(plan.status[0]) is Status.FAILED


def test_what_another_attempt_cannot_cure_is_final():
    plan = plan_of(task("f", retries=3))
    batch = plan.take("x")
    plan.lose(batch, batch[0])
    assert plan.fail(batch[0], NotPicklable("no"), 0.0) is False


def test_failure_skips_dependents_and_nothing_else():
    a, b = task("a"), task("b")
    c = task("c", a)
    plan = plan_of(task("d", c), b, task("e", b))
    batch = plan.take("x")
    finish(plan, batch, failed=batch)
    assert {plan.graph.key(i): plan.reasons[i] for i in plan.reasons} == {
        "c": "a failed",
        "d": "a failed",
    }
    assert drain(plan) == ["b", "e"]


# --------------------------------------------------------------------------- lost, changed


def test_a_lost_batch_charges_the_guilty_and_frees_the_rest():
    call_ = delayed(call, name="f", retries=1)
    plan = plan_of(*[call_(i) for i in range(3)])
    learn(plan, 0, 1e-6)
    batch = plan.take("x", share=3)
    assert batch == [0, 1, 2]
    plan.lose(batch, 1)
    plan.fail(1, WorkerDied("gone"), 0.0)
    assert list(plan.attempts) == [0, 1, 0]
    plan.wake(10.0)
    alone = [plan.take("x", share=3) for _ in range(3)]
    assert sorted(alone) == [[0], [1], [2]]


def test_changing_the_lane_moves_what_is_ready_and_what_will_be():
    call_ = delayed(call, name="f")
    plan = plan_of(call_(1), call_(2), call_(call_(3)), task("g"))
    plan.change_lane(plan.graph.function(0), "y")
    assert plan.n_ready("y") == 3
    assert plan.n_ready("x") == 1
    while batch := plan.take("y"):
        finish(plan, batch)
    assert plan.counts().done == 4
    assert plan.lanes() == ["x"]


def test_a_limited_task_that_is_parked_moves_lanes_too():
    call_ = delayed(call, name="f", limit="gpu")
    plan = plan_of(call_(1), call_(2))
    first = plan.take("x")
    assert plan.take("x") == []
    plan.change_lane(plan.graph.function(0), "y")
    finish(plan, first)
    assert plan.lanes() == ["y"]


# ------------------------------------------------------------------------------ expanding


def test_a_task_has_the_value_of_what_it_gave():
    plan = plan_of(task("b", task("a")))
    batch = plan.take("x")
    assert finish(plan, batch, expanded=batch) == batch
    inner = task("inner")
    plan.expand(batch[0], plan.graph.grow([inner])[0])
    inner_batch = plan.take("x")
    assert keys(plan, inner_batch) == ["inner"]
    finish(plan, inner_batch)
    assert plan.values[batch[0]] == inner_batch[0]
    assert keys(plan, plan.take("x")) == ["b"]


@pytest.mark.parametrize("state", ["done", "running", "waiting", "failed", "freed"])
def test_what_a_task_gave_may_be_in_any_state(state):
    shared = task("shared", task("base"))
    target = task("end", task("giver", priority=-1), task("user", shared, priority=9))
    targets = [target] if state == "freed" else [target, shared]
    plan = plan_of(*targets)
    shared_at = plan.graph.index(shared)
    held = []

    def step(name, **how):
        batch = plan.take("x")
        assert keys(plan, batch) == [name]
        if how.pop("hold", False):
            held.append(batch)
        else:
            finish(plan, batch, **how)
        return batch

    if state != "waiting":
        step("base")
        failed = {"failed": [shared_at]} if state == "failed" else {}
        step("shared", hold=state == "running", **failed)
        if state in {"done", "freed"}:
            step("user")
    elif plan.take("x") != [plan.graph.index(shared) - 1]:
        raise AssertionError
    giver = plan.take("x")
    assert keys(plan, giver) == ["giver"]
    finish(plan, giver, expanded=giver)
    plan.expand(giver[0], plan.graph.grow([shared])[0])
    for batch in held:
        finish(plan, batch)
    if state == "waiting":
        finish(plan, [plan.graph.index(shared) - 1])
    while batch := plan.take("x"):
        finish(plan, batch)
    assert not plan.is_active
    assert (Status(plan.status[giver[0]]) is Status.DONE) == (state != "failed")


def test_a_task_that_gives_itself_is_stuck_and_not_lost():
    plan = plan_of(task("a"))
    batch = plan.take("x")
    finish(plan, batch, expanded=batch)
    plan.expand(batch[0], batch[0])
    assert plan.is_stuck
    assert list(plan.waiting()) == batch


def test_giving_delayed_values_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("flowpar.planner.DEEPEST_EXPANSION", 10)
    plan = plan_of(task("a"))
    with pytest.raises(CycleError, match="never to end"):
        for _ in range(12):
            batch = plan.take("x")
            finish(plan, batch, expanded=batch)
            plan.expand(batch[0], plan.graph.grow([task("a")])[0])


# ---------------------------------------------------------------------------------- moves


def test_every_move_that_is_not_in_the_table_is_our_fault():
    for here in Status:
        for there in Status:
            plan = plan_of(task("a"))
            plan.status[0] = here
            if (here, there) in MOVES:
                plan._move(0, there)
            else:
                with pytest.raises(InternalError, match=f"from {here.name.lower()}"):
                    plan._move(0, there)


def test_finishing_twice_is_our_fault():
    plan = plan_of(task("a"), task("b"))
    batch = plan.take("x")
    finish(plan, batch)
    with pytest.raises(InternalError):
        finish(plan, batch)


def test_constants_are_done_before_anything_starts():
    plan = plan_of(task("a", delayed(5)))
    assert plan.counts().total == 1
    assert 5 in plan.values.values()


def test_what_ended_is_told_once():
    plan = plan_of(task("b", task("a")), task("c"))
    plan.ended = []
    batch = plan.take("x")
    finish(plan, batch, failed=batch)
    told = [(plan.graph.key(e.index), e.status) for e in plan.ended]
    assert told == [("a", Status.FAILED), ("b", Status.SKIPPED)]
