"""Who holds a lock, a permit or a ticket, and who does not, whatever happened meanwhile."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading

import pytest
from conftest import wait_until

import flowpar
from flowpar import delayed

GENEROUS = 60
LOCKS = [flowpar.Lock, flowpar.RLock]


class Interrupted(Exception):
    """What a signal handler raises."""


def take_at_once(lock):
    return lock.acquire(block=False)


def take_and_free(lock):
    lock.acquire(timeout=GENEROUS)
    lock.release()


def hold(lock, held, go):
    with lock:
        held.set()
        go.wait(GENEROUS)


@pytest.fixture
def held_elsewhere():
    """A lock that another process holds, and what has it let go."""
    lock, held, go = flowpar.Lock(), flowpar.Event(), flowpar.Event()
    holder = flowpar.spawn(hold, lock, held, go)
    assert held.wait(GENEROUS)
    yield lock, go
    go.set()
    holder.result(GENEROUS)


def is_inside_a_lock(thread):
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and "flowpar/common" in frame.f_code.co_filename


# ------------------------------------------------------------------------- held, and by whom


def test_who_waits_does_not_hold(held_elsewhere):
    lock, go = held_elsewhere
    inside, most = [], []

    def enter():
        with lock:
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(2)]
    threads[0].start()
    assert wait_until(lambda: is_inside_a_lock(threads[0]), GENEROUS)
    with pytest.raises(ValueError, match="does not hold"):
        lock.release()
    with pytest.raises(RuntimeError, match="must be held"):
        flowpar.Condition(lock).notify()
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(GENEROUS)
    assert most == [1, 1]
    with pytest.raises(ValueError, match="does not hold"):
        lock.release()


@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_stays_locked_when_its_task_has_ended(make):
    lock = make()
    with flowpar.Pool(1) as pool:
        assert pool.apply(take_at_once, (lock,))
        assert not lock.acquire(timeout=0.01)
        # One thread can take the recursive one again.
        assert pool.apply(take_at_once, (lock,)) is (make is flowpar.RLock)
    assert lock.acquire(timeout=GENEROUS)
    lock.release()


def test_a_lock_that_nobody_can_name_stays_locked():
    data = pickle.dumps(flowpar.Lock())
    assert pickle.loads(data).acquire(block=False)
    assert not pickle.loads(data).acquire(block=False)
    pickle.loads(data).release()
    with pickle.loads(data):
        pass


def test_a_task_that_waited_in_vain_leaves_a_forked_child_no_lock():
    lock = flowpar.Lock()
    data = pickle.dumps(lock)

    def count_threads():
        return len(os.listdir("/proc/self/task"))

    def poll_and_fork():
        assert not pickle.loads(data).acquire(timeout=0.01)
        reader, writer = os.pipe()
        if not os.fork():
            os.close(writer)
            os.read(reader, 1)  # until the worker has ended
            os._exit(0)

    with flowpar.Pool(1) as pool:
        before = pool.apply(count_threads)
        with lock:
            pool.apply(poll_and_fork)
            assert pool.apply(count_threads) == before + 1
        assert wait_until(lambda: pool.apply(count_threads) == before, GENEROUS)
        assert lock.acquire(timeout=5)
        lock.release()


def test_tasks_that_wait_in_vain_share_a_thread_and_a_file():
    lock = flowpar.Lock()

    def poll(lock):
        assert not lock.acquire(timeout=0.001)
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    with lock, flowpar.Pool(1) as pool:
        assert len({pool.apply(poll, (lock,)) for _ in range(20)}) == 1


# ------------------------------------------------------------------------------- interrupted


@pytest.fixture
def interrupt_next(monkeypatch):
    """Has the next use of the kernel's locks that is of some type be interrupted.

    That is when it is done; or, as where there are audit hooks, before.
    """
    real, wanted = fcntl.fcntl, []

    def fake(handle, command, argument=0):
        is_wanted = isinstance(argument, bytes) and wanted and argument[0] == wanted[0]
        if not (is_wanted and wanted[1]):
            done = real(handle, command, argument)
        if is_wanted:
            wanted.clear()
            raise Interrupted
        return done

    monkeypatch.setattr(fcntl, "fcntl", fake)
    return lambda kind, is_before=False: wanted.extend((kind, is_before))


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("timeout", [None, 0, 1])
def test_an_interrupted_acquire_has_locked_nothing(make, timeout, interrupt_next):
    lock = make()
    interrupt_next(fcntl.F_WRLCK)
    with pytest.raises(Interrupted):
        lock.acquire(timeout=timeout)
    flowpar.spawn(take_and_free, lock).result(GENEROUS)
    with lock:
        pass


def test_an_acquire_interrupted_while_a_thread_waits_has_locked_nothing(held_elsewhere):
    lock, go = held_elsewhere

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        # The first asks with a timeout: then a thread waits, which the second goes on with.
        for timeout in (GENEROUS, None):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(Interrupted):
                lock.acquire(timeout=timeout)
    finally:
        signal.signal(signal.SIGALRM, before)
    go.set()
    flowpar.spawn(take_and_free, lock).result(GENEROUS)
    with lock:
        pass


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("is_before", [False, True])
def test_an_interrupted_release_has_unlocked(make, is_before, interrupt_next):
    lock = make()
    lock.acquire()
    interrupt_next(fcntl.F_UNLCK, is_before)
    with pytest.raises(Interrupted):
        lock.release()
    flowpar.spawn(take_and_free, lock).result(GENEROUS)
    with lock:
        pass


@pytest.mark.parametrize("make", LOCKS)
def test_interrupts_at_any_time_leave_the_lock_held_or_free(make):
    lock, is_armed, hits = make(), False, 0

    def interrupt(*_):
        if is_armed:
            raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with flowpar.Pool(1) as pool:
            pool.apply(take_and_free, (lock,))
            while hits < 100:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 6e-5))
                    is_armed = True
                    for _ in range(20):
                        lock.acquire()
                        lock.release()
                    is_armed = False
                except Interrupted:
                    is_armed = False
                    hits += 1
                    try:
                        lock.release()
                    except (ValueError, AssertionError):
                        pass
                    pool.apply(take_and_free, (lock,))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wakes_one(change):
    """Return whether one notification wakes who waits."""
    waiting, woken = threading.Event(), []

    def wait():
        with change:
            waiting.set()
            woken.append(change.wait(10))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(GENEROUS)
    with change:
        change.notify()
    thread.join(GENEROUS)
    return woken == [True]


@pytest.mark.parametrize("make", LOCKS)
@pytest.mark.parametrize("kind", [fcntl.F_WRLCK, fcntl.F_UNLCK])
def test_an_interrupted_wait_takes_no_notification(make, kind, interrupt_next):
    change = flowpar.Condition(make())

    def wait():
        with change:
            interrupt_next(kind)
            change.wait(0.01)

    # Not an error of the lock's, which is not held if taking it again was interrupted.
    with pytest.raises(Interrupted):
        wait()
    assert wakes_one(change)


def test_a_wait_that_is_interrupted_while_it_waits_takes_no_notification():
    change = flowpar.Condition()

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted), change:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            change.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert wakes_one(change)


# ----------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (math.nan, ValueError)])
def test_a_bad_timeout_is_told_before_anything_is_done(timeout, error):
    change = flowpar.Condition()

    def wait():
        with change:
            change.wait(timeout)

    with pytest.raises(error, match="a timeout is None or a number of seconds"):
        wait()
    assert wakes_one(change)
    calls = [
        lambda: flowpar.Lock().acquire(timeout=timeout),
        lambda: flowpar.Semaphore().acquire(timeout=timeout),
        lambda: flowpar.Event().wait(timeout),
        lambda: flowpar.Barrier(2).wait(timeout),
        lambda: flowpar.Barrier(2, timeout=timeout),
        lambda: change.wait_for(lambda: True, timeout),
    ]
    for call in calls:
        with pytest.raises(error, match="a timeout is None or a number of seconds"):
            call()


@pytest.mark.parametrize("timeout", [10**400, math.inf, threading.TIMEOUT_MAX * 2])
def test_a_long_timeout_is_as_long_as_there_is(timeout):
    lock, event = flowpar.Lock(), flowpar.Event()
    event.set()
    assert lock.acquire(timeout=timeout)
    lock.release()
    assert event.wait(timeout)
    assert flowpar.Semaphore().acquire(timeout=timeout)


@pytest.mark.parametrize("count", [1.5, math.nan, "2"])
@pytest.mark.parametrize(
    "make", [flowpar.Semaphore, flowpar.BoundedSemaphore, flowpar.Barrier], ids=lambda m: m.__name__
)
def test_what_is_counted_is_whole(make, count):
    with pytest.raises(TypeError, match="integer"):
        make(count)


def test_a_negative_number_of_notifications_wakes_nobody():
    change = flowpar.Condition()
    waiting, woken = threading.Semaphore(0), []

    def wait():
        with change:
            waiting.release()
            woken.append(change.wait(0.2))

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert all(waiting.acquire(timeout=GENEROUS) for _ in threads)
    with change:
        change.notify(-1)
    for thread in threads:
        thread.join(GENEROUS)
    assert woken == [False, False]


@pytest.mark.parametrize(
    "make", [threading.Lock, threading.RLock, flowpar.Semaphore, multiprocessing.Lock]
)
def test_a_condition_names_the_locks_that_it_can_use(make):
    with pytest.raises(TypeError, match=r"pass a flowpar\.Lock\(\)"):
        flowpar.Condition(make())


# ------------------------------------------------------------------------------------- permits


def take(semaphore):
    return semaphore.acquire(timeout=GENEROUS)


def in_a_pool(semaphore):
    with flowpar.Pool(1) as pool:
        assert pool.apply(take, (semaphore,))


def in_workers_of_one_task(semaphore):
    with flowpar.options(max_tasks_per_worker=1):
        delayed(take)(semaphore).compute(scheduler="processes", workers=1)


def in_a_process_of_its_own(semaphore):
    spawned = flowpar.spawn(take, semaphore)
    assert spawned.result(GENEROUS)
    spawned.join()


def in_a_process_of_multiprocessing(semaphore):
    process = multiprocessing.get_context("fork").Process(target=take, args=(semaphore,))
    process.start()
    process.join(GENEROUS)
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    "way",
    [
        in_a_pool,
        in_workers_of_one_task,
        in_a_process_of_its_own,
        in_a_process_of_multiprocessing,
    ],
)
def test_what_an_ended_call_keeps_of_a_semaphore_stays_taken(way):
    signals = flowpar.Semaphore(0)
    for _ in range(3):
        signals.release()
    way(signals)
    # A session that has ended is taken back in the order in which the server hears of it.
    dead = flowpar.spawn(lambda: (take(signals), os.kill(os.getpid(), signal.SIGKILL)))
    with pytest.raises(flowpar.WorkerDied):
        dead.result(GENEROUS)
    assert wait_until(lambda: signals.get_value() == 2, GENEROUS)


def test_who_dies_gives_back_what_that_call_took_and_no_other():
    limit = flowpar.Semaphore(5)

    def take_and_die(limit):
        limit.acquire()
        limit.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    with flowpar.Pool(1) as pool:
        assert pool.apply(take, (limit,))
        with pytest.raises(flowpar.WorkerDied):
            pool.apply(take_and_die, (limit,))
    assert wait_until(lambda: limit.get_value() == 4, GENEROUS)


def test_a_permit_that_an_ended_call_kept_can_be_released_by_others():
    limit = flowpar.Semaphore(2)

    def take_and_tell(limit, taken, go):
        limit.acquire()
        taken.set()
        go.wait(GENEROUS)
        os.kill(os.getpid(), signal.SIGKILL)

    taken, go = flowpar.Event(), flowpar.Event()
    dead = flowpar.spawn(take_and_tell, limit, taken, go)
    assert taken.wait(GENEROUS)
    with flowpar.Pool(1) as pool:
        assert pool.apply(take, (limit,))
        limit.release()  # what the call in the pool has left
        assert limit.get_value() == 1
        go.set()
        with pytest.raises(flowpar.WorkerDied):
            dead.result(GENEROUS)
        assert wait_until(lambda: limit.get_value() == 2, GENEROUS)


@pytest.mark.parametrize("kind", ["Queue", "Semaphore"])
def test_an_interrupt_at_any_time_costs_nobody_an_answer(run_script, kind):
    done = run_script(
        """
import flowpar, random, signal, sys, time

class Hit(Exception):
    pass

is_armed = False

def handler(*_):
    if is_armed:
        raise Hit

signal.signal(signal.SIGALRM, handler)
queue, semaphore = flowpar.Queue(), flowpar.Semaphore(0)
if sys.argv[1] == "Queue":
    give, take = lambda: queue.put(7), lambda seconds: queue.get(timeout=seconds)
else:
    give, take = semaphore.release, lambda seconds: semaphore.acquire(timeout=seconds)
hits, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 2e-4))
        is_armed = True
        take(0.0003)  # there is nothing
        is_armed = False
    except Hit:
        hits += 1
    except Exception:
        pass
    is_armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    give()
    assert take(10), "somebody who has gone got it"
assert hits > 100, hits
print("all right")
""",
        kind,
    )
    assert done.stdout.strip() == "all right", done.stderr
