"""Workers that end when they have worked enough, ceilings of memory, niceness, and initializers."""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings

import cloudpickle
import pytest
from conftest import wait_until
from support.gates import hold, mark, marks

import flowpar
from flowpar import MemoryExceeded, OptionError, PoolError, RunFailed, TaskTimeout, delayed
from flowpar.pools import ceilings, usage
from flowpar.pools.processes import START_METHODS, ProcessPool
from flowpar.pools.transport import Batch, Packed
from flowpar.pools.worker import execute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Under pytest this module has a name that no worker could import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LIMIT = 30.0
"""Seconds after which something hangs."""
MB = 1_000_000


class Heard:
    """One call, and what came of it."""

    def __init__(self, pool, func, *args):
        self.inbox = queue.SimpleQueue()
        self.ticket = pool.apply_async(
            func,
            args,
            None,
            lambda value: self.inbox.put((True, value)),
            lambda error: self.inbox.put((False, error)),
        )

    def get(self):
        is_value, result = self.inbox.get(timeout=LIMIT)
        assert self.inbox.empty()
        if not is_value:
            raise result
        return result

    def error(self):
        with pytest.raises(BaseException) as caught:
            self.get()
        return caught.value


@contextlib.contextmanager
def pool_of(workers, **options):
    pool = ProcessPool(workers, **options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield pool
    finally:
        pool.close()


def batch_of(func, arguments, **options):
    calls = [(index, 1000, 0, (argument,), None) for index, argument in enumerate(arguments)]
    return Batch(calls, {1000: func}, {}, frozenset(range(len(calls))), **options)


def values_of(report):
    return [
        value.load() if isinstance(value, Packed) else value
        for _, value in sorted(report.values.items())
    ]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def who(_=None):
    return os.getpid()


def hold_and_say_who(gate):
    hold(gate)
    return os.getpid()


# ------------------------------------------------------------------- enough calls are enough


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("workers", [1, 2])
def test_every_call_has_a_fresh_process(start_method, workers):
    with pool_of(workers, start_method=start_method, max_tasks_per_worker=1) as pool:
        heard = [Heard(pool, who) for _ in range(12)]
        pids = [each.get() for each in heard]
        assert len(set(pids)) == 12
        assert wait_until(lambda: not any(map(is_alive, pids)), LIMIT)
        assert (pool.retired.tasks, pool.retired.memory) == (12, 0)


@pytest.mark.parametrize("most", [2, 3, 7])
def test_a_worker_makes_so_many_calls_and_no_more(most):
    with pool_of(2, max_tasks_per_worker=most) as pool:
        pids = [each.get() for each in [Heard(pool, who) for _ in range(60)]]
        assert max(map(pids.count, pids)) <= most
    with pool_of(1, max_tasks_per_worker=most) as pool:
        pids = [Heard(pool, who).get() for _ in range(2 * most)]
        assert [pids.count(pid) for pid in pids] == [most] * (2 * most)


def test_a_worker_that_may_make_one_call_has_no_other_waiting(tmp_path):
    gate = str(tmp_path / "gate")
    with pool_of(2, max_tasks_per_worker=1) as pool:
        long = Heard(pool, hold_and_say_who, gate)
        pids = [each.get() for each in [Heard(pool, who) for _ in range(10)]]
        (tmp_path / "gate").touch()
        assert len({long.get(), *pids}) == 11


def test_a_batch_is_not_cut_and_counts_as_its_calls():
    with pool_of(1, max_tasks_per_worker=5) as pool:
        batches = [Heard(pool, execute, batch_of(who, range(n))) for n in (3, 4, 9, 2)]
        pids = [set(values_of(each.get())) for each in batches]
        assert [len(each) for each in pids] == [1, 1, 1, 1]
        assert pids[0] == pids[1] != pids[2]
        assert pids[2] != pids[3]


def test_a_batch_of_which_some_came_back_counts_and_its_worker_retires(tmp_path):
    gate = str(tmp_path / "gate")

    def wait(number):
        mark(str(tmp_path / "begun"))
        hold(gate)
        return os.getpid()

    with pool_of(2, max_tasks_per_worker=8) as pool:
        Heard(pool, who).get()
        first = Heard(pool, execute, batch_of(wait, range(8)))
        assert wait_until(lambda: marks(str(tmp_path / "begun")), LIMIT)
        assert Heard(pool, who).get()
        time_of_idleness = Heard(pool, who).get()
        (tmp_path / "gate").touch()
        report = first.get()
        assert len(report.values) + len(report.unstarted) == 8
        rest = [Heard(pool, who).get() for _ in range(12)]
        assert not set(values_of(report)) & set(rest)
        assert time_of_idleness


def test_a_worker_killed_while_it_retires_is_nobodys_error():
    with pool_of(2, max_tasks_per_worker=1) as pool:
        for _ in range(30):
            pid = Heard(pool, who).get()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert Heard(pool, abs, -1).get() == 1


def test_a_worker_that_cannot_end_is_killed():
    with pool_of(1, max_tasks_per_worker=2) as pool:
        pid = Heard(pool, who).get()
        os.kill(pid, signal.SIGSTOP)
        late = Heard(pool, who)  # it waits in a process that was stopped
        assert late.inbox.empty()
        os.kill(pid, signal.SIGCONT)
        assert late.get() == pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        assert Heard(pool, who).get() != pid
        assert wait_until(lambda: not is_alive(pid), LIMIT)


def test_death_and_retirement_are_told_apart():
    def die_or_not(number):
        if number % 3 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    with pool_of(2, max_tasks_per_worker=1) as pool:
        heard = [Heard(pool, die_or_not, number) for number in range(30)]
        ends = [type(each.error()) if n % 3 == 0 else each.get() for n, each in enumerate(heard)]
        assert ends[::3] == [flowpar.WorkerDied] * 10
        assert len({end for end in ends if isinstance(end, int)}) == 20
        assert pool.retired.tasks == 20


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_pool_closed_while_workers_retire_does_not_hang(start_method):
    for _ in range(5):
        pool = ProcessPool(2, start_method=start_method, max_tasks_per_worker=1)
        heard = [Heard(pool, who) for _ in range(40)]
        pid = heard[3].get()
        begin = time.monotonic()
        pool.close()
        assert time.monotonic() - begin < 5
        assert wait_until(lambda: not is_alive(pid), LIMIT)
        ends = [each.inbox.get(timeout=LIMIT) for each in heard if each is not heard[3]]
        assert all(is_value or type(end) is flowpar.Cancelled for is_value, end in ends)


def test_calls_that_are_cancelled_while_workers_retire(tmp_path):
    gate = str(tmp_path / "gate")
    with pool_of(2, max_tasks_per_worker=1) as pool:
        for _ in range(10):
            heard = [Heard(pool, hold, gate) for _ in range(4)] + [Heard(pool, who)]
            pool.cancel_many([each.ticket for each in heard[:4]])
            assert all(type(each.error()) is flowpar.Cancelled for each in heard[:4])
            assert heard[4].get()


def test_the_nanny_may_die_while_workers_retire():
    with pool_of(1, max_tasks_per_worker=1) as pool:
        nanny = Heard(pool, os.getppid).get()
        os.kill(nanny, signal.SIGKILL)
        assert wait_until(lambda: not is_alive(nanny), LIMIT)
        assert Heard(pool, abs, -1).get() == 1


def test_a_run_whose_tasks_have_a_process_each():
    tasks = [delayed(who)(n) for n in range(10)]
    total = delayed(lambda *pids: (os.getpid(), *pids))(*tasks)
    pids = total.compute(scheduler="processes", workers=2, max_tasks_per_worker=1)
    assert len(set(pids)) == 11
    with pool_of(2, max_tasks_per_worker=1) as pool:
        assert len(set(flowpar.compute(*tasks, scheduler=pool))) == 10


def test_what_a_retired_worker_gave_stays():
    def large(n):
        return bytes([n]) * 500_000

    tasks = [delayed(large)(n) for n in range(6)]
    sizes = delayed(lambda *data: [(len(each), each[0]) for each in data])(*tasks)
    found = sizes.compute(scheduler="processes", workers=2, max_tasks_per_worker=1)
    assert found == [(500_000, n) for n in range(6)]


# --------------------------------------------------------------------- too large to be kept


def keep(megabytes):
    # In a module of the worker's: what this one has is sent anew with each call.
    vars(sys).setdefault("kept", []).append(b"x" * (megabytes * MB))
    return os.getpid()


def test_a_worker_that_has_grown_is_replaced_after_its_task():
    with pool_of(1, max_worker_memory="150 MB") as pool:
        first = Heard(pool, keep, 0).get()
        assert Heard(pool, keep, 0).get() == first
        assert Heard(pool, keep, 200).get() == first
        second = Heard(pool, keep, 0).get()
        assert second != first
        assert Heard(pool, keep, 0).get() == second
        assert (pool.retired.tasks, pool.retired.memory) == (0, 1)


def test_what_waits_at_a_worker_that_has_grown_goes_to_another():
    with pool_of(1, max_worker_memory=150 * MB) as pool:
        Heard(pool, keep, 0).get()
        heard = [Heard(pool, keep, 200) for _ in range(4)]
        pids = [each.get() for each in heard]
        assert max(map(pids.count, pids)) <= 2  # it may have begun the next when it is weighed
        assert pool.retired.memory >= 2


def test_a_limit_below_any_workers_size_still_gets_all_done():
    with pool_of(2, max_worker_memory=1) as pool:
        assert [each.get() for each in [Heard(pool, abs, -n) for n in range(20)]] == list(range(20))


# ------------------------------------------------------------------- ceilings for one task


def take(megabytes, gate=None):
    data = b"x" * (megabytes * MB)
    if gate is not None:
        hold(gate)
    return len(data)


@pytest.fixture
def gate(tmp_path):
    yield str(tmp_path / "gate")
    (tmp_path / "gate").touch()


@pytest.mark.parametrize("scheduler", ["auto", "processes", "threads"])
def test_a_task_over_its_ceiling_fails_and_is_named(scheduler, gate):
    greedy = delayed(take, memory="100 MB", name="greedy")(300, gate)
    with pytest.raises(MemoryExceeded, match=r"held .* MB.* allows memory=100 MB") as caught:
        greedy.compute(scheduler=scheduler, workers=2)
    error = caught.value
    assert error.memory == 100 * MB
    assert error.seen > 100 * MB
    assert isinstance(error, MemoryError)
    assert "task greedy = greedy(300" in error.__notes__[0]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_task_within_its_ceiling_is_not_touched(start_method):
    task = delayed(take, memory="300 MB")(50)
    assert task.compute(workers=1, start_method=start_method) == 50 * MB


def test_what_a_worker_held_before_does_not_count():
    with pool_of(1) as pool:
        first = Heard(pool, keep, 300).get()
        batch = batch_of(lambda _: take_slowly(20), [0], memory=100 * MB)
        assert values_of(Heard(pool, execute, batch).get()) == [20 * MB]
        assert Heard(pool, who).get() == first


def take_slowly(megabytes, seconds=0.3):
    data = b"x" * (megabytes * MB)
    time.sleep(seconds)  # so that it is looked at
    return len(data)


def test_the_next_task_of_the_worker_is_not_watched():
    with pool_of(1) as pool:
        batch = batch_of(lambda _: take_slowly(1, 0.01), [0], memory=50 * MB)
        assert values_of(Heard(pool, execute, batch).get()) == [MB]
        assert Heard(pool, take_slowly, 200).get() == 200 * MB


def test_a_ceiling_goes_with_a_call_that_was_cancelled_before_it_began():
    with pool_of(1) as pool:
        pid = Heard(pool, who).get()
        os.kill(pid, signal.SIGSTOP)
        cancelled = Heard(pool, execute, batch_of(who, [0], memory=50 * MB))
        pool.cancel(cancelled.ticket)
        assert type(cancelled.error()) is flowpar.Cancelled
        other = Heard(pool, take_slowly, 200)
        os.kill(pid, signal.SIGCONT)
        assert other.get() == 200 * MB


def test_two_workers_over_the_ceiling_of_one_call_end_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr(ceilings, "LOOK_SECONDS", 0.5)  # so that one look finds both
    begun, go, never = (str(tmp_path / name) for name in ("begun", "go", "never"))

    def grow(_):
        mark(begun)
        hold(go)
        return take(300, never)

    with pool_of(3) as pool:
        held = [Heard(pool, hold, go) for _ in range(3)]
        assert wait_until(lambda: len(pool.pids()) == 3, LIMIT)
        before = set(pool.pids())
        (tmp_path / "go").touch()
        assert [each.get() for each in held] == [None] * 3
        (tmp_path / "go").unlink()
        heard = Heard(pool, execute, batch_of(grow, [0], memory=100 * MB))
        assert wait_until(lambda: marks(begun), LIMIT)

        def is_begun_twice():
            pool.repeat(heard.ticket)
            return len(marks(begun)) == 2

        assert wait_until(is_begun_twice, LIMIT)
        (tmp_path / "go").touch()
        assert type(heard.error()) is MemoryExceeded
        assert [Heard(pool, abs, -n).get() for n in range(5)] == list(range(5))
        assert len(before & set(pool.pids())) == 1  # who had nothing to do with it
        assert heard.inbox.empty()


def test_the_others_go_on_and_are_not_charged(gate, tmp_path):
    calls = str(tmp_path / "calls")

    def once(number):
        mark(calls)
        return number

    greedy = delayed(take, memory="100 MB")(300, gate)
    others = [delayed(once)(number) for number in range(50)]
    with pytest.raises(RunFailed) as caught:
        flowpar.compute(greedy, *others, scheduler="processes", workers=2, on_error="continue")
    assert [type(each) for each in caught.value.exceptions] == [MemoryExceeded]
    assert len(caught.value.run.finished) == 50
    assert len(marks(calls)) == 50


def test_another_attempt_may_need_less(gate, tmp_path):
    calls = str(tmp_path / "calls")

    def greedy_at_first():
        mark(calls)
        return take(300, gate) if len(marks(calls)) == 1 else "enough"

    task = delayed(greedy_at_first, memory="100 MB", retries=1)
    assert task().compute(workers=2) == "enough"
    with pytest.raises(MemoryExceeded):
        delayed(take, memory="100 MB", retries=3, retry_on=ValueError)(300, gate).compute(workers=2)


def test_what_its_children_hold_counts(gate):
    def in_a_child(gate):
        code = f"data = b'x' * (300 * {MB}); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
            mark(gate + ".pid", str(child.pid))
            child.wait()

    with pytest.raises(MemoryExceeded):
        delayed(in_a_child, memory="150 MB")(gate).compute(workers=1)
    (pid,) = marks(gate + ".pid")
    assert wait_until(lambda: not is_alive(int(pid)), LIMIT)


def test_what_a_forked_child_has_from_its_parent_counts_once():
    def fork_and_wait():
        data = b"x" * (100 * MB)
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                mine = b"y" * MB  # so that it is not the same as its parent
                time.sleep(0.4)
                os._exit(len(mine) % 2)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        return len(data)

    assert delayed(fork_and_wait, memory="200 MB")().compute(workers=1) == 100 * MB


def test_memory_that_others_share_does_not_count(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"x" * (200 * MB))

    def read(path):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            n = sum(data[i] == 120 for i in range(0, len(data), 4096))
            time.sleep(0.2)  # so that it is looked at
        return n

    assert delayed(read, memory="100 MB")(str(path)).compute(workers=1) == -(-200 * MB // 4096)


def test_a_timeout_and_a_ceiling_hold_beside_each_other(gate):
    with pytest.raises(TaskTimeout):
        delayed(take, memory="200 MB", timeout=0.3)(1, gate).compute(workers=1)
    with pytest.raises(MemoryExceeded):
        delayed(take, memory="100 MB", timeout=60)(300, gate).compute(workers=1)


def test_a_coroutine_with_a_ceiling_runs_in_a_process():
    @delayed(memory="200 MB")
    async def where():
        return os.getpid()

    assert where().compute(workers=1) != os.getpid()


@pytest.mark.parametrize("pool", ["threads", "inline", "async"])
def test_a_ceiling_that_cannot_be_held_is_refused(pool):
    with pytest.raises(OptionError, match="memory= needs a process"):
        delayed(take, memory="1 GB", pool=pool)
    with pytest.raises(OptionError, match="memory= needs a process"):
        delayed(take, pool=pool).options(memory="1 GB")
    with pytest.raises(OptionError, match="memory"):
        delayed(take, memory="plenty")


def test_a_ceiling_in_a_pool_of_the_users_is_refused():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor, pytest.raises(PoolError, match="cannot be held"):
        delayed(take, memory="1 GB")(1).compute(scheduler=executor)


def test_where_nobody_tells_who_holds_what_it_is_one_error(monkeypatch):
    monkeypatch.setattr(usage, "is_known", lambda: False)
    with pytest.raises(PoolError, match="max_worker_memory= needs a system"):
        ProcessPool(1, max_worker_memory="1 GB")
    with pytest.raises(PoolError, match="memory= needs a system"):
        delayed(take, memory="1 GB")(1).compute(workers=1)


def test_nobody_is_looked_at_where_nobody_asked(monkeypatch):
    def refuse(*_):
        raise AssertionError("looked")

    for name in ("members", "own_bytes", "resident_bytes"):
        monkeypatch.setattr(usage, name, refuse)
    assert delayed(take)(1).compute(scheduler="processes", workers=1) == MB


# ----------------------------------------------------------------------------- nice and pin


def niceness(_=None):
    return os.nice(0)


@pytest.mark.parametrize("start_method", START_METHODS)
def test_workers_are_as_nice_as_they_are_told(start_method):
    here = os.nice(0)
    with pool_of(1, start_method=start_method, nice=3) as pool:
        assert Heard(pool, niceness).get() == here + 3
    task = delayed(niceness)()
    assert task.compute(scheduler="processes", workers=1, nice=2) == here + 2
    assert task.compute(scheduler="processes", workers=1) == here
    assert os.nice(0) == here


def cpus_after_gate(gate):
    mark(gate + ".begun")
    hold(gate)
    return os.sched_getaffinity(0)


@pytest.mark.parametrize("start_method", START_METHODS)
def test_each_worker_has_a_cpu_of_its_own(start_method, gate, tmp_path):
    mine = os.sched_getaffinity(0)
    width = min(len(mine), 2)
    with pool_of(width, start_method=start_method, pin=True) as pool:
        heard = [Heard(pool, cpus_after_gate, gate) for _ in range(width)]
        assert wait_until(lambda: len(marks(gate + ".begun")) == width, LIMIT)
        (tmp_path / "gate").touch()
        found = [each.get() for each in heard]
        assert [len(cpus) for cpus in found] == [1] * width
        assert len(set().union(*found)) == width
        assert set().union(*found) <= mine
    assert os.sched_getaffinity(0) == mine


def test_a_replacement_takes_the_cpu_that_is_free(gate, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    with pool_of(2, pin=True, max_tasks_per_worker=1) as pool:
        held = Heard(pool, cpus_after_gate, gate)
        assert wait_until(lambda: marks(gate + ".begun"), LIMIT)
        others = [Heard(pool, os.sched_getaffinity, 0).get() for _ in range(5)]
        (tmp_path / "gate").touch()
        taken = held.get()
        assert all(len(cpus) == 1 and not cpus & taken for cpus in others)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nice": -1},
        {"nice": 20},
        {"nice": True},
        {"pin": 1},
        {"max_tasks_per_worker": 0},
        {"max_tasks_per_worker": 1.5},
        {"max_worker_memory": "much"},
        {"max_worker_memory": 0},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        ProcessPool(1, **wrong)
    with pytest.raises(OptionError, match=next(iter(wrong))):
        delayed(abs)(-1).compute(**wrong)


# ----------------------------------------------------------------------------- initializers


class Unprintable(BaseException):
    def __str__(self):
        raise ValueError("no text")


def fail_with(kind):
    raise kind


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize(
    "kind",
    [LookupError("x"), SystemExit(3), KeyboardInterrupt(), BaseException("x"), Unprintable()],
    ids=lambda kind: type(kind).__name__,
)
def test_whatever_an_initializer_raises_ends_every_call(start_method, kind):
    options = {"start_method": start_method, "max_tasks_per_worker": 1}
    with pool_of(2, initializer=fail_with, initargs=(kind,), **options) as pool:
        for _ in range(2):
            heard = [Heard(pool, abs, -1) for _ in range(3)]
            for each in heard:
                error = each.error()
                assert isinstance(error, PoolError)
                assert type(kind).__name__ in str(error)


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("code", [0, 9])
def test_an_initializer_that_ends_its_process_ends_every_call(start_method, code):
    with pool_of(2, start_method=start_method, initializer=os._exit, initargs=(code,)) as pool:
        heard = [Heard(pool, abs, -1) for _ in range(3)]
        assert all(f"code {code}" in str(each.error()) for each in heard)


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_pool_is_closed_while_its_initializer_hangs(start_method, gate):
    def hang(gate):
        mark(gate + ".begun", str(os.getpid()))
        hold(gate)

    pool = ProcessPool(1, start_method=start_method, initializer=hang, initargs=(gate,))
    heard = [Heard(pool, abs, -1) for _ in range(3)]
    assert wait_until(lambda: marks(gate + ".begun"), LIMIT)
    pool.close()
    assert all(type(each.error()) is flowpar.Cancelled for each in heard)
    (pid,) = marks(gate + ".begun")
    assert wait_until(lambda: not is_alive(int(pid)), LIMIT)


def test_the_initializer_runs_in_each_replacement(tmp_path):
    calls = str(tmp_path / "calls")
    with pool_of(1, initializer=mark, initargs=(calls,), max_tasks_per_worker=1) as pool:
        assert [Heard(pool, abs, -n).get() for n in range(4)] == [0, 1, 2, 3]
        assert len(marks(calls)) == 4


def test_threads_that_end_leave_no_retired_worker_behind():
    before = threading.active_count()
    with pool_of(2, max_tasks_per_worker=1, idle_timeout=0.05) as pool:
        pids = [each.get() for each in [Heard(pool, who) for _ in range(6)]]
        assert wait_until(lambda: threading.active_count() <= before, LIMIT)
        assert not any(map(is_alive, pids))
        assert Heard(pool, abs, -1).get() == 1
        assert pool.retired.tasks >= 6
