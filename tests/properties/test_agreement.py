"""What must be true of any graph, on any pool, in any order of events."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.graphs import POOLS, Log, build, graphs, naive, used_needs
from support.wrong_plans import WRONG

import flowpar
from flowpar.graph import Graph
from flowpar.planner import Plan
from flowpar.scheduler import Scheduler
from flowpar.settings import resolve
from flowpar.status import Status

relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)


def check_against_naive(nodes, targets, run, log):
    """Values agree; a needed task ran failures + 1 times, an unneeded one never; order holds."""
    want = naive(nodes)
    needed = closure(nodes, targets)
    first, last = {}, {}
    for position, name in enumerate(log.calls):
        first.setdefault(name, position)
        last[name] = position
    for number, node in enumerate(nodes):
        ran = log.calls.count(number)
        if number not in needed:
            assert ran == 0
        elif want[number] is not None:
            assert ran == node.fails + 1
        elif all(want[i] is not None for i in used_needs(node)):
            assert ran == node.retries + 1
        else:
            assert ran == 0
        for need in used_needs(node):
            if number in first:
                assert last[need] < first[number]
    finished = run.finished
    for number in targets:
        if want[number] is not None:
            assert finished[f"t{number}"] == want[number]
        else:
            assert f"t{number}" not in finished


def closure(nodes, targets):
    found, stack = set(), list(targets)
    while stack:
        number = stack.pop()
        if number not in found:
            found.add(number)
            stack.extend(used_needs(nodes[number]))
    return found


def run_and_catch(targets, **options):
    try:
        return flowpar.run(*targets, on_error="continue", **options)
    except flowpar.RunFailed as error:
        return error.run


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@relaxed
@given(data=st.data(), nodes=graphs(pools=POOLS))
def test_values_equal_naive_evaluation(scheduler, data, nodes):
    targets = data.draw(st.lists(st.sampled_from(range(len(nodes))), min_size=1, unique=True))
    workers = data.draw(st.integers(1, 4))
    log = Log()
    tasks = build(nodes, log)
    run = run_and_catch([tasks[i] for i in targets], scheduler=scheduler, workers=workers)
    check_against_naive(nodes, targets, run, log)


@settings(relaxed, max_examples=60)
@given(
    nodes=graphs(pools=("inline", "threads", "processes", "async", None), stateless=True),
    scheduler=st.sampled_from(["processes", "auto"]),
    workers=st.integers(1, 3),
)
def test_values_are_the_same_on_processes_and_mixed_pools(nodes, scheduler, workers):
    run = run_and_catch(build(nodes), scheduler=scheduler, workers=workers)
    want = {f"t{i}": value for i, value in enumerate(naive(nodes)) if value is not None}
    assert run.finished == want
    for number, node in enumerate(nodes):
        record = next(task for task in run.tasks if task.key == f"t{number}")
        expected = "done"
        if f"t{number}" not in want:
            needs = [f"t{i}" in want for i in used_needs(node)]
            expected = "failed" if all(needs) else "skipped"
        assert record.status == expected
        if expected == "failed":
            assert record.attempts == node.retries + 1


@relaxed
@given(nodes=graphs(dynamic=False), seed=st.integers(0, 2**32))
def test_a_plan_alone_ends_whatever_the_order_of_outcomes(nodes, seed):
    drive(Plan, nodes, random.Random(seed))


ENDS = {Status.DONE, Status.FAILED}


def drive(kind, nodes, rng):
    """Take and finish at random; check order, moves and the end."""
    from support.fakes import report

    tasks = build(nodes)
    graph = Graph(rng.sample(tasks, rng.randint(1, len(tasks))))
    plan = kind(graph, lane_of=lambda function: "x")
    for state in plan.functions.values():
        state.timing.calls = rng.choice([0, 1, 1])  # functions known to be quick share batches
    flying, now, failing = [], 0.0, rng.choice([0.1, 0.6])
    while plan.is_active:
        plan.wake(now)
        while batch := plan.take("x", share=rng.choice([1, 1, 3, 100])):
            for position, index in enumerate(batch):
                for need in graph.dependencies[index]:
                    assert plan.status[need] == Status.DONE or need in batch[:position]
            flying.append((batch, plan.wanted(batch)))
        assert flying or plan.next_retry() is not None, "stuck"
        if not flying:
            now = plan.next_retry()
            continue
        batch, wanted = flying.pop(rng.randrange(len(flying)))
        if rng.random() < 0.1:
            guilty = rng.choice([None, *batch])
            plan.lose(batch, guilty)
            if guilty is not None:
                plan.fail(guilty, ValueError(guilty), now)
            continue
        failed = {i for i in batch if rng.random() < failing}
        unstarted = set()
        for i in batch:
            if any(need in failed or need in unstarted for need in graph.dependencies[i]):
                failed.discard(i)
                unstarted.add(i)
        kept = {need for i in failed | unstarted for need in graph.dependencies[i]}
        plan.finish(
            batch, report(batch, failed=failed, unstarted=unstarted, wanted=wanted | kept), now
        )
        for target in graph.targets:
            assert (plan.status[target] == Status.DONE) == (target in plan.values)
    assert set(plan.status) <= {Status.DONE, Status.FAILED, Status.SKIPPED}
    for index in range(len(graph)):
        failed_needs = [
            n
            for n in graph.dependencies[index]
            if plan.status[n] in {Status.FAILED, Status.SKIPPED}
        ]
        # One that failed may have lost, with its worker, the value of another that fails since.
        assert plan.status[index] in ({Status.SKIPPED, Status.FAILED} if failed_needs else ENDS)
        if plan.status[index] == Status.FAILED:
            policy = graph.function(index).policy
            assert plan.attempts[index] == policy.retries + 1
    assert set(plan.values) <= set(graph.targets), "a value was kept that nobody needs"


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_plan_is_found_out(wrong):
    """The properties above can fail."""

    @settings(deadline=None, max_examples=200, database=None, derandomize=True)
    @given(nodes=graphs(dynamic=False), seed=st.integers(0, 2**32))
    def attempt(nodes, seed):
        drive(wrong, nodes, random.Random(seed))

    with pytest.raises(BaseException) as caught:
        attempt()
    assert not isinstance(caught.value, KeyboardInterrupt)


@relaxed
@given(nodes=graphs())
def test_a_serial_run_tells_the_same_story_twice(nodes):
    def story():
        from support.fakes import RecordingObserver

        observer = RecordingObserver()
        run_and_catch(build(nodes, Log()), scheduler="sync", observers=[observer])
        told = [(e.key, e.attempt) for e in observer.named("task_start")]
        ended = [
            (e.record.key, e.record.status, e.record.attempts) for e in observer.named("task_end")
        ]
        return told, ended

    assert story() == story()


@relaxed
@given(nodes=graphs(dynamic=False), seed=st.integers(0, 2**32))
def test_outcomes_in_any_order_give_the_same_values(nodes, seed):
    from support.fakes import RandomOrderPool

    pool = RandomOrderPool(random.Random(seed))
    log = Log()
    tasks = build(nodes, log)
    run = run_and_catch(tasks, scheduler=pool)
    check_against_naive(nodes, range(len(nodes)), run, log)


def test_two_runs_of_one_graph_at_the_same_time_do_not_meet():
    import threading

    tasks = build(tuple_of_chain(200))
    results = [None, None]

    def work(place):
        results[place] = flowpar.compute(*tasks, scheduler="threads")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results[0] == results[1] == tuple(naive(tuple_of_chain(200)))


def tuple_of_chain(length):
    from support.graphs import Node

    return tuple(
        Node((i - 1,) if i else (), "after" if i % 7 else "flat", 0, 0, None, False)
        for i in range(length)
    )


def test_order_and_keys_do_not_change_with_the_hash_seed(run_script):
    source = """
        import flowpar
        from flowpar.graph import Graph
        @flowpar.delayed
        def f(*a, **k): return 1
        xs = [f(i) for i in range(5)]
        y = f({"b": xs[3], "a": xs[1]}, k={xs[0], xs[2]}, z=[xs[4]])
        graph = Graph([y, *xs])
        print([graph.key(i) for i in range(len(graph))], graph.dependencies[-1:])
    """
    assert len({run_script(source, PYTHONHASHSEED=str(seed)).stdout for seed in range(3)}) == 1


def test_the_scheduler_needs_no_pool_for_an_empty_run():
    scheduler = Scheduler(Graph([]), resolve({"scheduler": "processes"}))
    assert scheduler.run().values == ()
