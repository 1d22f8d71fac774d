"""What the process pool promises, with real processes and real faults."""

import contextlib
import ctypes
import functools
import gc
import operator
import os
import queue
import random
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
from conftest import is_locked

from flowpar.errors import (
    Cancelled,
    NotPicklable,
    OptionError,
    PoolError,
    TaskError,
    TaskTimeout,
    WorkerDied,
)
from flowpar.pools.home import home
from flowpar.pools.processes import START_METHODS, ProcessPool
from flowpar.pools.resources import THREAD_VARIABLES
from flowpar.pools.transport import Batch, Packed
from flowpar.pools.worker import execute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Under pytest this module has a name that no worker could import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LIMIT = 20.0
"""Seconds after which something hangs."""


# -------------------------------------------------------------------------------- support


def descriptors():
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the folder itself
            found.add(f"{entry.name} -> {entry.readlink()}")
    return found


def children(pid="self"):
    pid = os.getpid() if pid == "self" else pid
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=LIMIT):
    """Wait for something of the system that nothing tells us of."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.005)
    return True


def names_in_shared_memory():
    return {
        path.name
        for path in Path("/dev/shm").iterdir()
        if "flowpar" in path.name and not is_locked(path)
    }


@pytest.fixture(autouse=True)
def nothing_is_left(capfd):
    home()  # this process has one from the first worker to its end
    gc.collect()
    before = (len(descriptors()), threading.active_count(), set(children()))
    shm = names_in_shared_memory()
    yield
    gc.collect()
    assert wait_until(lambda: set(children()) <= before[2], 3), children()
    assert wait_until(lambda: threading.active_count() <= before[1], 3), threading.enumerate()
    assert len(descriptors()) <= before[0], descriptors()
    assert names_in_shared_memory() <= shm


class Heard:
    """One call, and what came of it."""

    def __init__(self, pool, func, args=(), kwds=None):
        self.inbox = queue.SimpleQueue()
        self.times = []
        self.ticket = pool.apply_async(func, args, kwds, self._hear("value"), self._hear("error"))

    def _hear(self, kind):
        def hear(result):
            self.times.append(time.monotonic())
            self.inbox.put((kind, result))

        return hear

    def get(self, limit=LIMIT):
        kind, result = self.inbox.get(timeout=limit)
        assert self.inbox.empty()
        if kind == "error":
            raise result
        return result

    def error(self, limit=LIMIT):
        kind, result = self.inbox.get(timeout=limit)
        assert kind == "error", result
        assert self.inbox.empty()
        assert isinstance(result, BaseException)
        return result


def call(pool, func, *args, **kwargs):
    return Heard(pool, func, args, kwargs)


def run(pool, batch):
    return Heard(pool, execute, (batch,))


def batch_of(func, arguments, number=1000, **options):
    """A batch that calls one function with each of the arguments."""
    calls = [(index, number, 0, (argument,), None) for index, argument in enumerate(arguments)]
    return Batch(calls, {number: func}, {}, frozenset(range(len(calls))), **options)


def values_of(report):
    return {
        index: value.load() if isinstance(value, Packed) else value
        for index, value in report.values.items()
    }


class Bell:
    """A named pipe by which a task says that it has come to a point."""

    def __init__(self, path):
        self.path = str(path)
        os.mkfifo(self.path)
        self.fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self.rest = b""

    def wait(self, limit=LIMIT):
        deadline = time.monotonic() + limit
        while b"\n" not in self.rest:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, "nobody rang"
            self.rest += os.read(self.fd, 4096)
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    def is_silent(self):
        return not self.rest and not select.select([self.fd], [], [], 0)[0]

    def close(self):
        os.close(self.fd)


def ring(path, text=""):
    with Path(path).open("w") as file:
        file.write(f"{text or os.getpid()}\n")


@pytest.fixture
def bell(tmp_path):
    bell = Bell(tmp_path / "bell")
    yield bell
    bell.close()


@pytest.fixture
def pool():
    pool = ProcessPool(2)
    yield pool
    pool.close()


@pytest.fixture(params=START_METHODS)
def any_pool(request):
    pool = ProcessPool(2, start_method=request.param)
    yield pool
    pool.close()


def sleep_after_ring(path, seconds=60):
    ring(path)
    time.sleep(seconds)


# ---------------------------------------------------------------------------------- values


def test_values_of_any_function(any_pool):
    offset = 7
    assert call(any_pool, divmod, 17, 5).get() == (3, 2)
    assert call(any_pool, lambda x, *, y: x + y + offset, 1, y=2).get() == 10
    assert call(any_pool, dict, a=1).get() == {"a": 1}
    assert call(any_pool, os.getpid).get() != os.getpid()


def test_values_of_a_batch_feed_later_calls(any_pool):
    calls = [
        (4, 1, 0, (3,), None),
        (5, 1, 1, (4,), None),
        (6, 2, 1, (4, 5), None),
    ]
    batch = Batch(calls, {1: lambda x: x * x, 2: lambda *x: list(x)}, {}, frozenset({5, 6}))
    report = run(any_pool, batch).get()
    assert values_of(report) == {5: 81, 6: [9, 81]}
    assert len(report.ends) == 3


def test_many_batches(any_pool):
    heard = [run(any_pool, batch_of(lambda x: -x, range(n, n + 50))) for n in range(40)]
    for n, one in enumerate(heard):
        assert values_of(one.get()) == {i: -(n + i) for i in range(50)}


def test_any_thread_may_call(pool):
    answers = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda n=n: answers.put(call(pool, abs, -n).get()), daemon=True)
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(answers.get(timeout=LIMIT) for _ in threads) == list(range(8))


def test_a_function_sees_what_it_captured_when_the_pool_was_idle(pool):
    box = [1]
    peek = lambda: box[0]
    batch = Batch([(0, 5, 0, (), None)], {5: peek}, {}, frozenset({0}))
    assert run(pool, batch).get().values == {0: 1}
    box[0] = 2
    assert run(pool, batch).get().values == {0: 2}


def test_more_functions_than_are_kept(pool):
    one = ProcessPool(1)
    try:
        heard = [
            run(one, batch_of(functools.partial(operator.add, n), [1], number=n + 1))
            for n in range(1100)
        ]
        assert [values_of(each.get())[0] for each in heard] == [n + 1 for n in range(1100)]
    finally:
        one.close()


def test_large_values_both_ways_at_once(any_pool):
    size = 100 << 20
    heard = [call(any_pool, lambda data: data[::-1], b"ab" * (size // 2)) for _ in range(2)]
    heard += [call(any_pool, len, b"x" * size)]
    for one in heard[:2]:
        assert one.get(60) == b"ba" * (size // 2)
    assert heard[2].get(60) == size


def test_a_short_batch_does_not_wait_behind_a_long_one(pool, bell):
    call(pool, sleep_after_ring, bell.path)
    bell.wait()
    assert [call(pool, abs, n).get(5) for n in range(20)] == list(range(20))
    heard = [call(pool, abs, n) for n in range(20)]
    assert [one.get(5) for one in heard] == list(range(20))


# ---------------------------------------------------------------------------------- errors


class TwoArguments(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class HoldsALock(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class EndsWhenLoaded:
    def __reduce__(self):
        return exec, ("raise SystemExit(3)",)


class EndsWhenPickled:
    def __reduce__(self):
        raise SystemExit(3)


def raise_it(error):
    raise error


def test_an_exception_keeps_its_type_and_line(any_pool):
    error = call(any_pool, lambda: {}["missing"]).error()
    assert type(error) is KeyError
    assert error.args == ("missing",)
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    assert trace.tb_frame.f_code.co_filename == __file__


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, BaseException, GeneratorExit], ids=lambda k: k.__name__
)
def test_what_would_end_a_program_is_an_error_of_its_task(pool, kind):
    pid = call(pool, os.getpid).get()
    error = call(pool, raise_it, kind("stop")).error()
    assert type(error) is TaskError
    assert error.type_name == kind.__name__
    assert call(pool, os.getpid).get() == pid


def test_an_exception_that_does_not_travel_arrives_as_text(pool):
    error = call(pool, raise_it_made, TwoArguments, 1, 2).error()
    assert "1 and 2" in str(error)
    error = call(pool, raise_it_made, HoldsALock).error()
    assert isinstance(error, TaskError)
    assert "holds a lock" in str(error)
    assert call(pool, abs, -1).get() == 1


def raise_it_made(kind, *args):
    raise kind(*args)


def test_an_argument_that_does_not_pickle_is_named_at_once(pool):
    error = call(pool, len, [1, {"lock": threading.Lock()}]).error(0)
    assert isinstance(error, NotPicklable)
    assert error.path == "args[0][1]['lock']"
    lock = threading.Lock()
    assert isinstance(call(pool, lambda: lock).error(0), NotPicklable)
    assert isinstance(call(pool, id, EndsWhenPickled()).error(0), NotPicklable)
    assert call(pool, abs, -1).get() == 1


def test_an_interrupt_while_pickling_is_the_callers(pool):
    class Interrupted:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(pool, id, Interrupted())
    assert call(pool, abs, -1).get() == 1


def test_an_argument_that_does_not_load_hurts_its_own_batch_only(any_pool):
    pid = call(any_pool, os.getpid).get()
    error = call(any_pool, id, EndsWhenLoaded()).error()
    assert isinstance(error, NotPicklable)
    assert "could not be loaded in the worker" in str(error)
    assert "SystemExit" in str(error)
    assert call(any_pool, os.getpid).get() == pid


def test_a_result_that_does_not_pickle(pool):
    error = call(pool, threading.Lock).error()
    assert isinstance(error, NotPicklable)
    report = run(pool, batch_of(lambda x: threading.Lock() if x == 1 else x, range(3))).get()
    assert values_of(report) == {0: 0, 2: 2}
    assert isinstance(report.failed[1].error, NotPicklable)
    error = call(pool, EndsWhenPickled).error()
    assert isinstance(error, NotPicklable)


def test_a_result_that_does_not_load(pool):
    error = call(pool, EndsWhenLoaded).error()
    assert isinstance(error, NotPicklable)
    assert call(pool, abs, -1).get() == 1


def test_a_callback_that_raises_is_reported_and_the_pool_goes_on(pool, capfd):
    called = queue.SimpleQueue()

    def complain(value):
        called.put(value)
        raise kinds.pop()("from a callback")

    kinds = [ValueError, SystemExit, KeyboardInterrupt]
    for _ in range(3):
        pool.apply_async(abs, (-1,), None, complain)
    assert [called.get(timeout=LIMIT) for _ in range(3)] == [1, 1, 1]
    assert call(pool, abs, -2).get() == 2  # said after what the others said
    assert capfd.readouterr().err.count("from a callback") == 6  # the line and the message


# ---------------------------------------------------------------------------------- deaths


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "exit_code", "name"),
    [
        (kill_self, -9, "SIGKILL"),
        (lambda: os._exit(1), 1, None),
        (lambda: os._exit(0), 0, None),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -15, "SIGTERM"),
    ],
    ids=["kill", "exit 1", "exit 0", "terminate"],
)
def test_a_death_is_charged_to_the_call_that_ran(any_pool, how, exit_code, name):
    assert call(any_pool, abs, -1).get() == 1
    begun = time.monotonic()
    heard = run(any_pool, batch_of(lambda x: how() if x == 37 else x, range(50)))
    error = heard.error()
    assert heard.times[0] - begun < 1
    assert type(error) is WorkerDied
    assert error.position == 37
    assert (error.exit_code, error.signal) == (exit_code, name)
    assert error.pid
    assert not is_alive(error.pid)
    assert str(error.pid) in str(error)
    assert [call(any_pool, abs, -n).get() for n in range(10)] == list(range(10))


def test_a_segfault_shows_the_stack(any_pool):
    def crash_here(_):
        ctypes.string_at(0)

    error = run(any_pool, batch_of(crash_here, [0])).error()
    assert error.signal == "SIGSEGV"
    assert "crash_here" in str(error)
    assert call(any_pool, abs, -1).get() == 1


def test_a_death_while_loading(pool):
    class Deadly:
        def __reduce__(self):
            return exec, ("import os; os._exit(5)",)

    error = call(pool, id, Deadly()).error()
    assert (type(error), error.exit_code, error.position) == (WorkerDied, 5, 0)
    error = run(pool, batch_of(id, [Deadly(), 1])).error()
    assert error.position is None
    assert "loaded" in str(error)


def test_a_batch_that_was_not_begun_goes_to_another_worker(bell):
    pool = ProcessPool(1)
    try:
        first = call(pool, sleep_after_ring, bell.path)
        pid = int(bell.wait())
        second = call(pool, os.getpid)
        third = call(pool, abs, -1)
        os.kill(pid, signal.SIGKILL)
        assert isinstance(first.error(), WorkerDied)
        assert second.get() != pid
        assert third.get() == 1
    finally:
        pool.close()


def test_a_death_replaces_the_worker_at_once(pool, bell):
    call(pool, sleep_after_ring, bell.path)
    call(pool, sleep_after_ring, bell.path)
    pids = {int(bell.wait()), int(bell.wait())}
    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: len(set(pool.pids()) - {victim}) == 2, 5)


def test_the_death_of_idle_workers_is_nobodys_error(any_pool):
    for _ in range(3):
        heard = [call(any_pool, os.getpid) for _ in range(4)]
        pids = {one.get() for one in heard}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert call(any_pool, abs, -1).get() == 1


def test_the_death_of_the_nanny_is_survived(bell):
    pool = ProcessPool(2)
    try:
        begun = call(pool, sleep_after_ring, bell.path)
        pid = int(bell.wait())
        nanny = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(nanny, signal.SIGKILL)
        assert isinstance(begun.error(), WorkerDied)
        assert wait_until(lambda: not is_alive(pid), 5)
        assert call(pool, abs, -1).get() == 1
    finally:
        pool.close()


def test_a_task_that_closes_every_descriptor(any_pool):
    error = call(any_pool, os.closerange, 0, 4096).error()
    assert isinstance(error, WorkerDied)
    assert call(any_pool, abs, -1).get() == 1


def test_a_task_that_writes_to_every_descriptor(pool):
    def scribble():
        for number in range(3, 300):
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)
                os.write(number, b"rubbish " * 10)

    with contextlib.suppress(TaskError):
        call(pool, scribble).get()
    assert [call(pool, abs, -n).get() for n in range(10)] == list(range(10))


def test_a_child_of_a_task_that_comes_back_is_ended(any_pool, bell):
    def fork_and_return(x):
        if x == 1 and os.fork() == 0:
            return "child"
        ring(bell_path, str(x))
        return x

    bell_path = bell.path
    report = run(any_pool, batch_of(fork_and_return, range(4))).get()
    assert values_of(report) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert [bell.wait() for _ in range(4)] == ["0", "1", "2", "3"]
    assert call(any_pool, abs, -1).get() == 1
    assert bell.is_silent()


def test_births_that_fail_are_not_repeated_for_ever():
    pool = ProcessPool(2, initializer=os._exit, initargs=(9,))
    try:
        error = call(pool, abs, -1).error()
        assert isinstance(error, PoolError)
        assert "code 9" in str(error)
    finally:
        pool.close()


def test_a_stopped_worker_is_announced_and_goes_on(capfd, bell):
    pool = ProcessPool(1)
    try:
        heard = call(pool, ring_and_wait_for_it, bell.path)
        pid = int(bell.wait())
        os.kill(pid, signal.SIGSTOP)
        seen = []
        assert wait_until(lambda: seen.append(capfd.readouterr().err) or "SIGSTOP" in "".join(seen))
        os.kill(pid, signal.SIGCONT)
        ring(bell.path + ".go")
        assert heard.get() == "went on"
    finally:
        pool.close()


def ring_and_wait_for_it(path):
    os.mkfifo(path + ".go")
    ring(path)
    Path(path + ".go").read_text()
    return "went on"


def work_a_little(folder, n, seconds):
    with Path(folder, str(n)).open("a") as file:
        file.write("x")
    time.sleep(seconds)
    return n


def kill_until_it_ends(pool, rng, heard):
    while heard.inbox.empty():
        select.select([], [], [], rng.random() * 0.03)
        pids = pool.pids()
        if pids and heard.inbox.empty():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)


@pytest.mark.parametrize("attempt", range(2))
def test_chaos_loses_nothing_and_runs_nothing_twice(attempt, tmp_path, pool):
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    folder = str(tmp_path)
    heard = [call(pool, work_a_little, folder, n, rng.random() * 0.02) for n in range(60)]
    right = crashed = 0
    for n, one in enumerate(heard):
        kill_until_it_ends(pool, rng, one)
        try:
            assert one.get() == n
            right += 1
        except WorkerDied:
            crashed += 1
    assert right + crashed == 60
    runs = [path.read_text() for path in tmp_path.iterdir()]
    assert set(runs) <= {"", "x"}  # empty: killed before it wrote
    assert runs.count("x") >= right


# -------------------------------------------------------------------------------- timeouts


def test_a_timeout_kills(any_pool, bell):
    assert call(any_pool, abs, -1).get() == 1
    begun = time.monotonic()
    heard = run(any_pool, batch_of(sleep_after_ring, [bell.path], timeout=0.3))
    error = heard.error()
    assert type(error) is TaskTimeout
    assert error.timeout == 0.3
    assert 0.25 < heard.times[0] - begun < 0.9
    pid = int(bell.wait())
    assert wait_until(lambda: not is_alive(pid), 2)
    assert call(any_pool, abs, -1).get() == 1


def ignore_sigterm(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_after_ring(path)


def hold_the_gil(path):
    ring(path)
    sum(range(10**11))


def own_a_subprocess(path):
    child = subprocess.Popen(["sleep", "60"])
    ring(path, f"{os.getpid()} {child.pid}")
    child.wait()


@pytest.mark.parametrize("task", [ignore_sigterm, hold_the_gil, own_a_subprocess])
def test_a_timeout_kills_whatever_runs(pool, bell, task):
    heard = run(pool, batch_of(task, [bell.path], timeout=0.5))
    error = heard.error()
    assert isinstance(error, TaskTimeout)
    for pid in map(int, bell.wait().split()):
        assert wait_until(lambda pid=pid: not is_alive(pid), 2)
    assert call(pool, abs, -1).get() == 1


def test_a_timeout_kills_a_stopped_worker(bell, capfd):
    pool = ProcessPool(1)
    try:
        heard = run(pool, batch_of(sleep_after_ring, [bell.path], timeout=0.5))
        pid = int(bell.wait())
        os.kill(pid, signal.SIGSTOP)
        assert isinstance(heard.error(), TaskTimeout)
        assert wait_until(lambda: not is_alive(pid), 2)
    finally:
        pool.close()


def test_waiting_does_not_count_as_running():
    pool = ProcessPool(1)
    try:
        heard = [run(pool, batch_of(time.sleep, [0.2], timeout=1.0)) for _ in range(8)]
        heard.append(call(pool, abs, -1))
        for one in heard:
            one.get()
    finally:
        pool.close()


# ------------------------------------------------------------------------------- cancelling


def test_cancel_what_waits_what_was_sent_and_what_runs(bell):
    pool = ProcessPool(1)
    try:
        running = call(pool, sleep_after_ring, bell.path)
        pid = int(bell.wait())
        sent, queued, kept = (call(pool, ring, bell.path, text) for text in "sqk")
        pool.cancel(sent.ticket)
        assert isinstance(sent.error(), Cancelled)
        pool.cancel(queued.ticket)
        assert isinstance(queued.error(), Cancelled)
        assert is_alive(pid)
        pool.cancel(running.ticket)
        assert isinstance(running.error(), Cancelled)
        assert wait_until(lambda: not is_alive(pid), 2)
        kept.get()
        assert bell.wait() == "k"
        assert bell.is_silent()
        pool.cancel(kept.ticket)
    finally:
        pool.close()


def test_the_clock_of_a_batch_that_was_taken_back_stops(capfd):
    pool = ProcessPool(1)
    try:
        pid = call(pool, os.getpid).get()
        os.kill(pid, signal.SIGSTOP)
        timed = run(pool, batch_of(abs, [-1], timeout=0.3))
        assert wait_until(lambda: pool._board._line.crew.next_deadline())
        pool.cancel(timed.ticket)
        assert isinstance(timed.error(), Cancelled)
        os.kill(pid, signal.SIGCONT)
        assert call(pool, time.sleep, 0.5).get() is None
        assert call(pool, os.getpid).get() == pid
    finally:
        pool.close()


def test_cancel_many_is_quick(pool, bell):
    heard = [call(pool, sleep_after_ring, bell.path) for _ in range(200)]
    bell.wait()
    begun = time.monotonic()
    pool.cancel_many([one.ticket for one in heard])
    assert all(isinstance(one.error(), Cancelled) for one in heard)
    assert time.monotonic() - begun < 0.5
    assert call(pool, abs, -1).get() == 1


def test_close_ends_everything_at_once(any_pool, bell):
    heard = [call(any_pool, sleep_after_ring, bell.path) for _ in range(5)]
    pids = [int(bell.wait()), int(bell.wait())]
    begun = time.monotonic()
    any_pool.close()
    assert time.monotonic() - begun < 1
    assert all(isinstance(one.error(0.1), Cancelled) for one in heard)
    assert not any(map(is_alive, pids))
    assert any_pool.closed
    any_pool.close()
    with pytest.raises(PoolError, match="closed"):
        any_pool.apply_async(abs, (1,))


def test_close_takes_what_tasks_have_left_behind(pool, bell):
    def leave(path):
        plain = subprocess.Popen(["sleep", "60"])
        apart = subprocess.Popen(["sleep", "60"], start_new_session=True)
        ring(path, f"{plain.pid} {apart.pid}")
        os._exit(0)

    assert isinstance(call(pool, leave, bell.path).error(), WorkerDied)
    plain, apart = map(int, bell.wait().split())
    assert wait_until(lambda: not is_alive(plain), 2)
    pool.close()
    assert wait_until(lambda: not is_alive(apart), 2)


def test_a_pool_that_is_dropped_is_closed():
    pool = ProcessPool(2)
    pid = call(pool, os.getpid).get()
    del pool
    gc.collect()
    assert wait_until(lambda: not is_alive(pid), 3)


def test_thirty_pools_leave_nothing():
    counts = []
    for _ in range(30):
        pool = ProcessPool(2)
        heard = [call(pool, abs, -1) for _ in range(4)]
        assert [one.get() for one in heard] == [1] * 4
        pool.close()
        counts.append((len(descriptors()), threading.active_count(), len(children())))
    assert counts[-1] <= counts[0]


def test_an_idle_pool_ends_its_processes_and_starts_again():
    others = set(children())
    pool = ProcessPool(2, idle_timeout=0.05)
    try:
        first = call(pool, os.getpid).get()
        assert wait_until(lambda: not is_alive(first) and set(children()) <= others, 5)
        assert not pool.pids()
        for _ in range(5):
            assert call(pool, os.getpid).get() != first
            assert wait_until(lambda: set(children()) <= others, 5)
    finally:
        pool.close()


# ----------------------------------------------------------------------------- surroundings


def test_stdin_is_empty(any_pool):
    def read():
        return os.read(0, 10), sys.stdin.read(), str(Path("/proc/self/fd/0").readlink())

    assert call(any_pool, read).get() == (b"", "", "/dev/null")


def test_threads_of_libraries_are_limited(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "11")
    monkeypatch.setenv("MADE_UP", "yes")
    pool = ProcessPool(64)
    try:
        environ = call(pool, lambda: dict(os.environ)).get()
        assert set(THREAD_VARIABLES) <= set(environ)
        assert (environ["OMP_NUM_THREADS"], environ["MKL_NUM_THREADS"]) == ("1", "11")
        assert environ["MADE_UP"] == "yes"
    finally:
        pool.close()


def draw(path, gate):
    import numpy as np

    ring(path)
    with Path(gate).open("rb", buffering=0) as file:
        file.read(1)  # until both workers are here
    return random.random(), np.random.random()  # noqa: NPY002 - the one that forks copy


def test_random_streams_differ(any_pool, bell, tmp_path):
    import numpy as np

    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    heard = [call(any_pool, draw, bell.path, gate) for _ in range(2)]
    bell.wait()
    bell.wait()
    end = os.open(gate, os.O_RDWR)
    try:
        os.write(end, b"go")  # a byte for each
        drawn = [one.get() for one in heard]
    finally:
        os.close(end)
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == 2, drawn


def test_what_a_task_changes_is_put_back(tmp_path):
    def change():
        os.chdir("/")
        os.umask(0)
        os.environ["CHANGED"] = "1"
        os.environ.pop("HOME", None)

    def look():
        mask = os.umask(0)
        os.umask(mask)
        return str(Path.cwd()), mask, dict(os.environ)

    pool = ProcessPool(1)
    try:
        before = call(pool, look).get()
        assert before[0] == str(Path.cwd())
        call(pool, change).get()
        assert call(pool, look).get() == before
    finally:
        pool.close()


def test_the_worker_has_path_and_arguments_of_the_parent(any_pool):
    assert call(any_pool, lambda: (sys.path, sys.argv)).get() == (
        [entry or str(Path.cwd()) for entry in sys.path],
        sys.argv,
    )


def test_a_worker_is_the_first_that_the_kernel_kills(pool):
    mine = int(Path("/proc/self/oom_score_adj").read_text())
    score = call(pool, lambda: int(Path("/proc/self/oom_score_adj").read_text())).get()
    assert score == min(1000, mine + 500)


def test_a_signal_of_the_terminal_does_not_reach_workers(any_pool):
    def groups():
        return os.getpgid(0), os.getsid(0), os.getpid()

    group, session, pid = call(any_pool, groups).get()
    assert group == pid != os.getpgid(0)
    del session


# ------------------------------------------------------------------------------ initializer


def test_the_initializer_runs_once_in_each_worker(bell):
    pool = ProcessPool(1, initializer=ring, initargs=(bell.path,))
    try:
        pid = call(pool, os.getpid).get()
        assert call(pool, os.getpid).get() == pid
        assert int(bell.wait()) == pid
        assert bell.is_silent()
    finally:
        pool.close()


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_initializer_that_raises_fails_every_call(start_method, bell):
    def fail(path):
        ring(path)
        raise LookupError("no such database")

    pool = ProcessPool(2, start_method=start_method, initializer=fail, initargs=(bell.path,))
    try:
        heard = [call(pool, abs, -1) for _ in range(5)]
        for one in heard:
            error = one.error()
            assert isinstance(error, PoolError)
            assert "no such database" in str(error)
            assert isinstance(error.__cause__, LookupError)
        assert isinstance(call(pool, abs, -1).error(), PoolError)
        rings = 0
        while not bell.is_silent():
            bell.wait()
            rings += 1
        assert rings <= 2
    finally:
        pool.close()


def test_options_are_checked():
    with pytest.raises(OptionError):
        ProcessPool(0)
    with pytest.raises(OptionError, match="forkserver"):
        ProcessPool(1, start_method="forkserve")
    with pytest.raises(PoolError, match="pickled"):
        ProcessPool(1, initializer=len, initargs=(threading.Lock(),))


# ------------------------------------------------------------------------------ the parent


def test_a_pool_belongs_to_the_process_that_made_it(any_pool):
    assert call(any_pool, abs, -1).get() == 1
    read, write = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, read)
        pid = os.fork()
        if pid == 0:
            try:
                any_pool.apply_async(abs, (1,))
            except PoolError as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.close(write)
        assert select.select([read], [], [], LIMIT)[0]
        assert "forked" in os.read(read, 1000).decode()
        os.waitpid(pid, 0)
    assert call(any_pool, abs, -1).get() == 1


PREAMBLE = """\
import os, signal, subprocess, sys, threading, time
from flowpar.pools.processes import ProcessPool

def report(path, *pids):
    with open(path, "a") as file:
        file.write(" ".join(map(str, (os.getpid(), os.getppid(), *pids))) + "\\n")

def idle(path):
    report(path)

def busy(path):
    report(path)
    time.sleep(60)

def gil(path):
    report(path)
    sum(range(10**11))

def child(path):
    plain = subprocess.Popen(["sleep", "60"])
    apart = subprocess.Popen(["sleep", "60"], start_new_session=True)
    report(path, plain.pid, apart.pid)
    time.sleep(60)

pool = ProcessPool(2, start_method=sys.argv[3])
done = threading.Semaphore(0)
"""


def start_script(body, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + body, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("task", ["idle", "busy", "gil", "child"])
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_nothing_outlives_the_parent(tmp_path, bell, task, signal_name, start_method):
    body = """
pool.apply_async(globals()[sys.argv[2]], (sys.argv[1],), None, lambda _: done.release())
if sys.argv[2] == "idle":
    done.acquire()
    print("idle", flush=True)
sys.stdin.read()
"""
    script = start_script(body, bell.path, task, start_method)
    try:
        pids = [int(word) for word in bell.wait().split()]
        if task == "idle":
            script.stdout.readline()
        assert len(pids) == (4 if task == "child" else 2)
        assert all(map(is_alive, pids))
        script.send_signal(getattr(signal, signal_name))
        script.wait(LIMIT)
        assert wait_until(lambda: not any(map(is_alive, pids)), 2), pids
    finally:
        script.kill()
        script.communicate()


def test_workers_end_also_if_a_fork_of_the_parent_holds_its_sockets(bell):
    body = """
pool.apply_async(busy, (sys.argv[1],))
sys.stdin.readline()
import ctypes
if ctypes.CDLL(None).fork() == 0:  # a fork that Python knows nothing of
    time.sleep(60)
    os._exit(0)
print("forked", flush=True)
sys.stdin.read()
"""
    script = start_script(body, bell.path, "busy", "forkserver", start_new_session=True)
    try:
        pids = [int(word) for word in bell.wait().split()]
        script.stdin.write("go\n")
        script.stdin.flush()
        assert script.stdout.readline() == "forked\n"
        os.kill(script.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(map(is_alive, pids)), 2), pids
    finally:
        os.killpg(script.pid, signal.SIGKILL)
        script.communicate()


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_program_ends_at_once_with_work_pending(bell, start_method):
    body = """
for _ in range(9):
    pool.apply_async(busy, (sys.argv[1],))
sys.stdin.readline()
"""
    script = start_script(body, bell.path, "busy", start_method)
    pids = [int(word) for word in bell.wait().split()][:1]
    begun = time.monotonic()
    out, err = script.communicate("go\n", timeout=LIMIT)
    assert time.monotonic() - begun < 1
    assert (script.returncode, out, err) == (0, "", "")
    assert wait_until(lambda: not any(map(is_alive, pids)), 2)


def test_an_interrupt_of_the_terminal_ends_the_program_at_once(bell):
    body = """
for _ in range(9):
    pool.apply_async(busy, (sys.argv[1],))
sys.stdin.readline()
"""
    script = start_script(body, bell.path, "busy", "forkserver", start_new_session=True)
    pids = [int(word) for _ in range(2) for word in bell.wait().split()]
    begun = time.monotonic()
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    _, err = script.communicate(timeout=LIMIT)
    assert time.monotonic() - begun < 1
    assert script.returncode == -signal.SIGINT
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1
    assert wait_until(lambda: not any(map(is_alive, pids)), 2)


SCRIPT = """
import queue
from flowpar.pools.processes import ProcessPool
print("once")
class Thing:
    def __init__(self, x): self.x = x
def double(thing): return Thing(helper(thing.x))
def helper(x): return 2 * x
pool = ProcessPool(2, start_method={method!r})
answers = queue.SimpleQueue()
pool.apply_async(double, (Thing(21),), None, answers.put, answers.put)
print(answers.get(timeout=20).x)
"""


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("way", ["file", "stdin", "command"])
def test_no_main_guard_is_needed(tmp_path, start_method, way):
    text = SCRIPT.format(method=start_method)
    script = tmp_path / "script.py"
    script.write_text(text)
    (tmp_path / "random.py").write_text("raise RuntimeError('the wrong random')")
    arguments = {"file": [str(script)], "stdin": ["-"], "command": ["-c", text]}[way]
    if way == "file":
        (tmp_path / "random.py").unlink()
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text if way == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=tmp_path if way == "file" else Path.cwd(),
    )
    assert (done.stdout, done.stderr) == ("once\n42\n", "")


def test_a_module_in_the_current_directory_is_not_taken_by_the_nanny(tmp_path, monkeypatch):
    for name in ("random", "select", "struct", "pickle", "mmap"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')")
    monkeypatch.chdir(tmp_path)
    pool = ProcessPool(1)
    try:
        assert call(pool, abs, -1).get() == 1
    finally:
        pool.close()


def test_a_worker_that_is_there_goes_on_where_no_other_can_be_started(run_script):
    done = run_script("""
import flowpar, os, resource
with flowpar.Pool(2) as pool:
    pool.apply(abs, (-1,))
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, 4096))
    given = pool.map_async(abs, range(-40, 0), chunksize=1)
    print(sum(given.get(30)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    together = flowpar.Barrier(2)
    print(len(pool.map(together.wait, [30, 30], chunksize=1)))  # there are two again
""")
    assert done.stdout.split() == ["820", "2"], done.stderr


@pytest.mark.parametrize(
    ("victim", "method"),
    # Under "fork" nobody outlives a program that is killed: the next one sweeps after it.
    [*(("task", method) for method in START_METHODS), ("program", "forkserver")],
)
def test_what_a_killed_task_has_in_shared_memory_of_its_own_is_freed(victim, method, run_script):
    done = run_script(f"""
import flowpar, os, signal, time

def hold():
    from multiprocessing import shared_memory
    block = shared_memory.SharedMemory(create=True, size=1_000_000)
    print(block.name, flush=True)
    os.kill(os.getpid() if {victim!r} == "task" else program, signal.SIGKILL)
    time.sleep(60)

program = os.getpid()
if __name__ == "__main__":
    with flowpar.Executor(1, start_method={method!r}) as executor:
        executor.submit(hold).exception()
""")
    assert done.returncode == (0 if victim == "task" else -signal.SIGKILL), done.stderr
    assert wait_until(lambda: not Path("/dev/shm", done.stdout.strip()).exists())


def test_a_pool_makes_do_with_the_workers_that_can_be_started(run_script):
    done = run_script("""
import flowpar, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 4096))
with flowpar.Pool(16) as pool:
    print(sum(pool.map(abs, range(-40, 0), chunksize=1)))
""")
    assert done.stdout.strip() == "820", done.stderr
