"""Under "auto", what the first calls of a function show decides where the others are made."""

import collections
import hashlib
import os
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest

import flowpar
from flowpar import delayed, experience
from flowpar.pools import shared


@pytest.fixture(autouse=True)
def _nothing_known():
    experience.forget()
    yield
    experience.forget()


def run(targets, **options):
    return flowpar.run(targets, scheduler="auto", workers=2, **options)


def lanes(done):
    return {name: choice.lane for name, choice in done.placement.items()}


def run_until(expected, targets, tries=5):
    """Run until functions go where they belong: on a machine that is busy, not each look tells."""
    for _ in range(tries):
        done = run(targets)
        if expected(lanes(done)):
            break
        experience.forget()
    assert expected(lanes(done)), done.placement
    return done


def crunch(n):
    total = 0
    for k in range(200_000 + n):
        total += k * k % 7
    return os.getpid()


def wait(n):
    time.sleep(0.02)
    return threading.get_ident()


def pack(n):
    return len(zlib.compress(b"%d" % n * 2_000_000, 6))


def cube(n):
    return n**3


def test_python_that_computes_goes_to_processes():
    done = run_until({"crunch": "processes"}.__eq__, [delayed(crunch)(n) for n in range(60)])
    assert len(set(done.values[0]) - {os.getpid()}) == 2
    assert "holds the GIL" in done.placement["crunch"].why


def test_what_waits_waits_together_in_threads():
    shared.close_all()
    done = run_until({"wait": "waiting"}.__eq__, [delayed(wait)(n) for n in range(200)])
    assert not shared.has_processes(2, "forkserver")
    assert done.seconds < 200 * 0.02  # with two workers it would take half of that


def test_what_lets_others_compute_goes_to_threads():
    done = run_until({"pack": "threads"}.__eq__, [delayed(pack)(n) for n in range(100)])
    assert {task.pool for task in done.tasks if task.function == "pack"} == {"threads"}


def test_no_process_is_started_for_little():
    shared.close_all()
    done = run([delayed(cube)(n) for n in range(1000)])
    assert done.values == ([n**3 for n in range(1000)],)
    assert lanes(done) in ({}, {"cube": "inline"})  # there may be none left to choose for
    done = run([delayed(crunch)(n) for n in range(3)])
    assert done.values == ([os.getpid()] * 3,)
    assert not shared.has_processes(2, "forkserver")


def test_one_graph_uses_all_at_once():
    graph = [
        *(delayed(wait)(n) for n in range(40)),
        *(delayed(crunch)(n) for n in range(60)),
        *(delayed(cube)(n) for n in range(2000)),
    ]
    found = {"wait": "waiting", "crunch": "processes", "cube": "inline"}
    run_until(found.__eq__, graph)


def test_what_cannot_be_sent_computes_here(capsys):
    lock = threading.Lock()

    def guarded(n):
        with lock:
            return crunch(n)

    done = run_until(
        lambda found: found["guarded"] in {"inline", "threads"},
        [delayed(guarded)(n) for n in range(30)],
    )
    assert set(done.values[0]) == {os.getpid()}


def test_what_was_seen_is_remembered():
    run_until({"pack": "threads"}.__eq__, [delayed(pack)(n) for n in range(30)])
    known = experience.recall(delayed(pack)._function)
    assert known.free_share > 0.5
    assert known.calls == 0  # times depend on what it is given
    assert lanes(run([delayed(pack)(n) for n in range(30)])) == {"pack": "threads"}


def test_functions_that_always_fail_fail_as_ever():
    def fails(n):
        raise ValueError(n)

    with pytest.raises(flowpar.RunFailed) as caught:
        run([delayed(fails)(n) for n in range(30)], on_error="continue")
    assert len(caught.value.exceptions) == 30


def test_values_do_not_depend_on_where_they_were_made():
    digest = delayed(lambda n: hashlib.sha256(b"%d" % n * 100_000).hexdigest())
    column = delayed(lambda n: np.arange(n, n + 50_000) * 2)
    total = delayed(lambda a: int(a.sum()))
    graph = [f for n in range(60) for f in (digest(n), total(column(n)))]
    assert run(graph).values == flowpar.run(graph, scheduler="sync").values


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_calls_end_well(count):
    assert run([delayed(cube)(n) for n in range(count)]).values == ([n**3 for n in range(count)],)


def test_a_cache_remembers_it_for_other_programs(tmp_path):
    def options():
        return {"cache": flowpar.Cache(tmp_path)}

    for n in range(5):
        run([delayed(pack)(100 * n + k) for k in range(30)], **options())
        experience.forget()
        habits = flowpar.Cache(tmp_path).store().habits()
        if habits:
            break
    assert len(habits) == 1
    run([delayed(pack)(1000 + n) for n in range(2)], **options())
    assert experience.recall(delayed(pack)._function).looks >= next(iter(habits.values()))[6]
    flowpar.Cache(tmp_path).store().close()


def test_an_explanation_says_where_calls_were_made_and_why(tmp_path):
    targets = [delayed(crunch)(n) for n in range(40)]
    done = run(targets, cache=tmp_path)
    placed = flowpar.explain(targets[3], cache=tmp_path).placed
    choice = done.placement["crunch"]
    assert placed.endswith(choice.why)
    assert choice.lane != "processes" or placed.startswith("processes: it holds the GIL")
    assert placed in str(flowpar.explain(targets[3], cache=tmp_path))
    flowpar.Cache(tmp_path).store().close()


def test_what_computes_does_not_seem_to_wait_on_a_busy_machine():
    hogs = [
        subprocess.Popen([sys.executable, "-c", "import os\nwhile os.getppid() != 1: pass"])
        for _ in range(2 * os.cpu_count())
    ]
    try:
        found = []
        for _ in range(5):
            experience.forget()
            found += lanes(run([delayed(crunch)(n) for n in range(20)])).values()
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert found
    # A look may fail to tell; that it did not want a CPU cannot be seen, as it did.
    assert found.count("waiting") <= 1, found


def test_sizes_of_batches_are_remembered():
    targets = [delayed(cube)(n) for n in range(2000)]

    class Batches:
        def __init__(self):
            self.seen = []

        def on_task_start(self, event):
            self.seen.append(event.time)

    def first_batch():
        observer = Batches()
        flowpar.compute(targets, scheduler="processes", workers=2, observers=[observer])
        return observer.seen.count(observer.seen[0])

    assert first_batch() == 1
    assert first_batch() > 10


def test_a_batch_that_takes_longer_than_calls_used_to_is_shared():
    def work(n):
        if n >= 400:
            time.sleep(0.01)  # ten thousand times what the others taught
        return n, os.getpid()

    call = flowpar.delayed(work)
    done = flowpar.run([call(n) for n in range(480)], scheduler="processes", workers=2)
    (values,) = done.values
    assert [n for n, _ in values] == list(range(480))
    assert all(task.attempts <= 2 for task in done.tasks)
    slow = collections.Counter(pid for _, pid in values[400:])
    assert len(slow) == 2
    assert min(slow.values()) >= 15


def test_what_writes_to_its_argument_spoils_nobodys():
    def grown(values):
        values.append(1)
        return len(values)

    made = delayed(lambda n: list(range(n)))(5)
    targets = [delayed(grown)(made) for _ in range(20)] + [delayed(len)(made)]
    assert run(targets).values == ([6] * 20 + [5],)


def test_calls_that_were_quick_and_are_slow_move():
    def grow_slow(n):
        total = 0
        for k in range(400_000 if n >= 20 else 1):
            total += k
        return total

    calls = [delayed(grow_slow)(n) for n in range(80)]
    done = run_until({"grow_slow": "processes"}.__eq__, calls)
    assert {task.pool for task in list(done.tasks)[:5]} <= {"inline", "threads"}
    assert sum(task.pool == "processes" for task in done.tasks) > 40
