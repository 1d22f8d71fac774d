"""Locks, counters and queues that tasks share, and what becomes of them when somebody dies."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import pickle
import queue
import signal
import threading

import numpy as np
import pytest
from conftest import fork, wait_until

import flowpar
from flowpar import delayed
from flowpar.pools.home import home

GENEROUS = 60
PROCESSES = {"scheduler": "processes", "workers": 2}


ARENA = multiprocessing.Value("i")
"""Has multiprocessing open the memory for all of its values, which it never closes."""


def is_alive(pid):
    return os.path.exists(f"/proc/{pid}")


@delayed
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


# ---------------------------------------------------------------------------------------- all


MAKERS = {
    "Lock": flowpar.Lock,
    "RLock": flowpar.RLock,
    "Semaphore": lambda: flowpar.Semaphore(1),
    "BoundedSemaphore": lambda: flowpar.BoundedSemaphore(1),
    "Event": flowpar.Event,
    "Condition": flowpar.Condition,
    "Barrier": lambda: flowpar.Barrier(2),
    "Value": lambda: flowpar.Value("i", 1),
    "Array": lambda: flowpar.Array("d", 3),
    "Queue": flowpar.Queue,
    "dict": lambda: flowpar.Manager().dict(),
    "list": lambda: flowpar.Manager().list(),
    "Namespace": lambda: flowpar.Manager().Namespace(),
}


@pytest.mark.parametrize("name", MAKERS)
def test_each_travels_every_way_and_is_the_same_thing(name, own):
    thing = MAKERS[name]()

    def kind(each):
        return type(each).__name__

    calls = [delayed(kind)(thing), delayed(kind)(each=thing)]
    calls += [
        delayed(lambda box: kind(box["a"][0]))({"a": [thing]}),
        delayed(lambda: kind(thing))(),
    ]
    assert set(flowpar.compute(calls, scheduler=own)) == {type(thing).__name__}


@pytest.mark.parametrize("name", MAKERS)
def test_each_travels_by_plain_pickles(name):
    thing = MAKERS[name]()
    assert type(pickle.loads(pickle.dumps(thing))) is type(thing)


@pytest.mark.parametrize("name", MAKERS)
def test_each_can_be_made_in_a_task(name):
    made = delayed(lambda: MAKERS[name]())().compute(scheduler="processes")
    assert name.lower() in type(made).__name__.lower()


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_each_start_method_will_do(start_method):
    lock, total, items = flowpar.Lock(), flowpar.Value("i", 0), flowpar.Queue()

    @delayed
    def add(n):
        with lock:
            total.value += n
        items.put(n)

    flowpar.compute([add(n) for n in range(10)], **PROCESSES, start_method=start_method)
    assert total.value == 45
    assert sorted(items.get_nowait() for _ in range(10)) == list(range(10))


def test_foreign_pools_will_do(pool):
    total, items = flowpar.Value("i", 0), flowpar.Queue()

    @delayed
    def add(total, items, n):
        with total:
            total.value += n
        items.put(lambda: n)

    flowpar.compute([add(total, items, n) for n in range(10)], scheduler=pool)
    assert total.value == 45
    assert sorted(items.get()() for _ in range(10)) == list(range(10))


# ---------------------------------------------------------------------------------- Lock and RLock


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_eight_workers_count_exactly(scheduler):
    total = flowpar.Value("i", 0)

    @delayed
    def count(total):
        for _ in range(1000):
            with total.get_lock():
                total.value += 1

    flowpar.compute([count(total) for _ in range(8)], scheduler=scheduler, workers=8)
    assert total.value == 8000


@pytest.mark.parametrize("make", [flowpar.Lock, flowpar.RLock])
def test_a_lock_of_a_dead_holder_is_free(make):
    lock = make()

    @delayed
    def hold():
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(flowpar.WorkerDied):
        hold().compute(**PROCESSES)
    assert lock.acquire(timeout=GENEROUS)
    lock.release()


@pytest.mark.parametrize("make", [flowpar.Lock, flowpar.RLock])
def test_who_waits_gets_the_lock_of_one_who_dies_meanwhile(make):
    lock, held = make(), flowpar.Event()

    @delayed
    def hold():
        lock.acquire()
        held.set()
        threading.Event().wait()

    hold = hold.options(timeout=2)
    future = hold().submit(**PROCESSES)
    assert held.wait(GENEROUS)
    assert not lock.acquire(timeout=0.01)
    assert lock.acquire(timeout=GENEROUS)
    lock.release()
    with pytest.raises(flowpar.TaskTimeout):
        future.result(GENEROUS)


def test_a_lock_is_held_against_all_others():
    lock = flowpar.Lock()
    tries = delayed(lambda: (lock.acquire(block=False), lock.acquire(timeout=0.01)))
    with lock:
        assert tries().compute(**PROCESSES) == (False, False)
        assert tries().compute(scheduler="threads") == (False, False)
        assert not lock.acquire(blocking=False)
    # Those who have waited in vain may have it for a moment.
    assert lock.acquire(timeout=GENEROUS)
    lock.release()


def test_a_lock_waits_in_vain_without_leaving_threads():
    lock = flowpar.Lock()

    @delayed
    def poll():
        before = len(os.listdir("/proc/self/task"))
        tries = [lock.acquire(timeout=0.01) for _ in range(20)]
        return any(tries), len(os.listdir("/proc/self/task")) - before

    with lock:
        assert poll().compute(**PROCESSES) == (False, 1)
    again = delayed(lambda: (lock.acquire(timeout=GENEROUS), lock.release()))
    assert flowpar.compute([again() for _ in range(4)], **PROCESSES) == [(True, None)] * 4


def test_timed_and_untimed_waits_mix():
    lock, total = flowpar.Lock(), flowpar.Value("i", 0, lock=False)

    @delayed
    def count(seed):
        done = 0
        while done < 200:
            timeout = None if (seed + done) % 3 else 0.0005
            if lock.acquire(timeout=timeout):
                total.value += 1
                done += 1
                lock.release()

    flowpar.compute([count(n) for n in range(4)], scheduler="processes", workers=4)
    flowpar.compute([count(n) for n in range(4)], scheduler="threads", workers=4)
    assert total.value == 1600


def test_who_does_not_hold_a_lock_cannot_release_it():
    with pytest.raises(ValueError, match="does not hold"):
        flowpar.Lock().release()
    with pytest.raises(AssertionError, match="does not own"):
        flowpar.RLock().release()
    lock = flowpar.Lock()
    with lock, pytest.raises(ValueError, match="does not hold"):
        delayed(lock.release)().compute(**PROCESSES)


def test_a_recursive_lock_is_free_when_released_as_often():
    lock = flowpar.RLock()
    free = delayed(lambda: lock.acquire(block=False) and not lock.release())
    with lock:
        with lock:
            assert not free().compute(**PROCESSES)
        assert not free().compute(**PROCESSES)
    assert free().compute(**PROCESSES)


def test_a_fork_in_a_task_has_no_part_in_the_lock_of_its_parent():
    lock, items = flowpar.Lock(), flowpar.Queue()

    @delayed
    def fork():
        items.put("parent")
        with lock:
            child = os.fork()
            if not child:
                items.put("child")
                os._exit(lock.acquire(block=False))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code

    assert fork().compute(**PROCESSES) == 0
    assert [items.get(timeout=GENEROUS) for _ in range(2)] == ["parent", "child"]
    assert lock.acquire(timeout=GENEROUS)
    lock.release()


def test_a_forked_child_that_outlives_the_holder_does_not_keep_its_lock():
    lock, go = flowpar.Lock(), flowpar.Event()
    lock.acquire()
    child = fork()
    if not child:
        go.wait(GENEROUS)
        os._exit(lock.acquire(timeout=GENEROUS) is not True)
    lock.release()
    with lock:
        pass
    go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_thousand_locks_cost_next_to_nothing():
    before = len(os.listdir("/proc/self/fd"))
    locks = [flowpar.Lock() for _ in range(1000)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    with locks[3]:
        free = delayed(lambda: [n for n, lock in enumerate(locks) if lock.acquire(block=False)])
        assert free().compute(**PROCESSES) == [n for n in range(1000) if n != 3]


# --------------------------------------------------------------------------------- Value and Array


def test_values_are_of_all_types():
    class Point(ctypes.Structure):
        _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_int)]

    assert flowpar.Value("d", 2.5).value == 2.5
    assert flowpar.Value(ctypes.c_bool, True).value is True
    point = flowpar.Value(Point, 1.5, 2)
    point.y += 3
    assert (point.x, point.y) == (1.5, 5)
    with pytest.raises(AttributeError, match="'z'"):
        _ = point.z
    with pytest.raises(ValueError, match="none of the letters"):
        flowpar.Value("?")
    with pytest.raises(AttributeError, match="lock=False"):
        flowpar.Value("i", lock=False).get_lock()


def test_arrays_have_items_slices_and_bytes():
    numbers = flowpar.Array("i", range(10))

    @delayed
    def change(numbers):
        numbers[2:5] = [20, 30, 40]
        numbers[-1] += 1

    change(numbers).compute(**PROCESSES)
    assert (numbers[:], len(numbers)) == ([0, 1, 20, 30, 40, 5, 6, 7, 8, 10], 10)
    assert list(numbers) == numbers[:]
    text = flowpar.Array("c", b"hello")
    text.value = b"hi"
    assert (text.value, text.raw) == (b"hi", b"hi\0lo")
    assert flowpar.Array("d", 3)[:] == [0.0, 0.0, 0.0]
    assert flowpar.Array("d", 0)[:] == []
    with pytest.raises(IndexError):
        numbers[10] = 1


def test_numpy_sees_the_memory_of_an_array():
    numbers = flowpar.Array("d", 1000)

    @delayed
    def fill(numbers, start):
        np.frombuffer(numbers.get_obj())[start : start + 500] = start

    flowpar.compute([fill(numbers, 0), fill(numbers, 500)], **PROCESSES)
    assert np.frombuffer(numbers.get_obj()).sum() == 250_000


def test_several_values_can_have_one_lock():
    lock = flowpar.Lock()
    pair = flowpar.Value("i", 1, lock=lock), flowpar.Value("i", 2, lock=lock)
    assert pair[0].get_lock() is lock
    with lock:
        busy = delayed(lambda pair: [each.get_lock().acquire(False) for each in pair])
        assert busy(pair).compute(**PROCESSES) == [False, False]


# -------------------------------------------------------------------------------------- Semaphore


def test_a_semaphore_lets_so_many_in():
    limit, inside, most = flowpar.Semaphore(2), flowpar.Value("i", 0), flowpar.Value("i", 0)

    @delayed
    def enter():
        for _ in range(50):
            with limit:
                with inside:
                    inside.value += 1
                    most.value = max(most.value, inside.value)
                with inside:
                    inside.value -= 1

    flowpar.compute([enter() for _ in range(4)], scheduler="processes", workers=4)
    assert 1 <= most.value <= 2
    assert limit.get_value() == 2


@pytest.mark.parametrize("make", [flowpar.Semaphore, flowpar.BoundedSemaphore])
def test_what_a_dead_process_holds_of_a_semaphore_is_given_back(make):
    limit = make(2)

    @delayed
    def hold():
        limit.acquire()
        limit.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(flowpar.WorkerDied):
        hold().compute(**PROCESSES)
    assert all(limit.acquire(timeout=GENEROUS) for _ in range(2))
    assert not limit.acquire(block=False)
    limit.release()
    assert limit.get_value() == 1


def test_a_semaphore_that_others_release_is_not_given_back_twice():
    turn = flowpar.Semaphore(0)

    @delayed
    def take_and_die():
        turn.acquire()
        turn.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    turn.release()
    turn.release()
    with pytest.raises(flowpar.WorkerDied):
        take_and_die().compute(**PROCESSES)
    assert wait_until(lambda: turn.get_value() == 2, GENEROUS)


def test_a_bounded_semaphore_is_bounded_everywhere():
    limit = flowpar.BoundedSemaphore(1)
    with pytest.raises(ValueError, match="too many times"):
        delayed(limit.release)().compute(**PROCESSES)


def test_a_semaphore_is_waited_for_no_longer_than_said():
    limit = flowpar.Semaphore(0)
    tries = delayed(lambda: (limit.acquire(timeout=0.01), limit.acquire(False)))
    assert tries().compute(**PROCESSES) == (False, False)
    assert tries().compute(scheduler="threads") == (False, False)
    limit.release()
    assert limit.get_value() == 1


# ------------------------------------------------------------------------------------------ Event


def test_an_event_wakes_all_and_outlives_those_who_died_waiting():
    event, waiting = flowpar.Event(), flowpar.Semaphore(0)

    @delayed
    def wait():
        waiting.release()
        return event.wait(GENEROUS)

    @delayed(timeout=0.5)
    def die():
        waiting.release()
        event.wait()

    futures = [wait().submit(scheduler="processes", workers=4) for _ in range(2)]
    late = die().submit(scheduler="processes", workers=4)
    assert all(waiting.acquire(timeout=GENEROUS) for _ in range(3))
    with pytest.raises(flowpar.TaskTimeout):
        late.result(GENEROUS)
    assert not event.is_set()
    event.set()
    assert [future.result(GENEROUS) for future in futures] == [True, True]
    event.clear()
    assert delayed(event.wait)(0.01).compute(**PROCESSES) is False


# -------------------------------------------------------------------------------------- Condition


@pytest.mark.parametrize("make", [flowpar.Lock, flowpar.RLock])
def test_a_condition_is_waited_for_and_notified(make):
    change, state = flowpar.Condition(make()), flowpar.Value("i", 0)

    @delayed
    def step(number):
        with change:
            found = change.wait_for(lambda: state.value == number, timeout=GENEROUS)
            state.value += 1
            change.notify_all()
        return found

    found = flowpar.compute([step(n) for n in (3, 2, 1, 0)], scheduler="processes", workers=4)
    assert (found, state.value) == ([True] * 4, 4)


def test_a_notification_is_not_lost_on_the_dead():
    change, waiting = flowpar.Condition(), flowpar.Semaphore(0)

    @delayed(timeout=1)
    def die():
        with change:
            waiting.release()
            change.wait()

    @delayed
    def wait():
        with change:
            waiting.release()
            return change.wait(GENEROUS)

    dead = die().submit(scheduler="processes", workers=3)
    assert waiting.acquire(timeout=GENEROUS)
    alive = wait().submit(scheduler="processes", workers=3)
    assert waiting.acquire(timeout=GENEROUS)
    with pytest.raises(flowpar.TaskTimeout):
        dead.result(GENEROUS)
    while not alive.done():  # until the server has seen the end of the dead
        with change:
            change.notify()
    assert alive.result(GENEROUS) is True


def test_a_condition_needs_its_lock():
    change = flowpar.Condition()
    for call in (change.wait, change.notify, change.notify_all):
        with pytest.raises(RuntimeError, match="must be held"):
            call()
    with change, change:
        assert change.wait(0.01) is False
        assert not delayed(change.acquire)(False).compute(**PROCESSES)


# ---------------------------------------------------------------------------------------- Barrier


def test_a_barrier_lets_all_go_together():
    acted = flowpar.Value("i", 0)

    def act():
        acted.value += 1

    barrier = flowpar.Barrier(3, action=act)

    @delayed
    def meet():
        return [(barrier.wait(GENEROUS), acted.value) for _ in range(20)]

    found = flowpar.compute([meet() for _ in range(3)], scheduler="processes", workers=3)
    for turn in range(20):
        assert sorted(each[turn][0] for each in found) == [0, 1, 2]
        # The others may be a round further when one looks; never a round behind.
        assert min(each[turn][1] for each in found) == turn + 1
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)


def test_a_barrier_breaks_when_a_party_dies():
    barrier, there = flowpar.Barrier(3), flowpar.Semaphore(0)

    @delayed
    def meet():
        there.release()
        try:
            barrier.wait(GENEROUS)
        except threading.BrokenBarrierError as error:
            return str(error)

    @delayed(timeout=0.5)
    def die():
        there.release()
        barrier.wait()

    alive = meet().submit(scheduler="processes", workers=3)
    dead = die().submit(scheduler="processes", workers=3)
    with pytest.raises(flowpar.TaskTimeout):
        dead.result(GENEROUS)
    assert "somebody left it" in alive.result(GENEROUS)
    assert barrier.broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken


def test_a_barrier_breaks_when_its_action_fails_or_time_is_up():
    barrier = flowpar.Barrier(2, action=lambda: 1 / 0)

    @delayed
    def meet():
        try:
            barrier.wait(GENEROUS)
        except (ZeroDivisionError, threading.BrokenBarrierError) as error:
            return type(error).__name__

    found = flowpar.compute([meet(), meet()], **PROCESSES)
    assert sorted(found) == ["BrokenBarrierError", "ZeroDivisionError"]
    alone = flowpar.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError, match="in time"):
        delayed(alone.wait)().compute(**PROCESSES)
    assert alone.broken


# ------------------------------------------------------------------------------------------ Queue


def test_every_item_arrives_once():
    items, number = flowpar.Queue(), 25_000

    @delayed
    def produce(which):
        for n in range(number):
            items.put((which, n))

    @delayed
    def consume():
        return list(iter(items.get, None))

    consumers = [consume().submit(scheduler="processes", workers=6) for _ in range(2)]
    flowpar.compute([produce(which) for which in range(4)], scheduler="processes", workers=6)
    items.put(None)
    items.put(None)
    found = [future.result(GENEROUS) for future in consumers]
    assert len(found[0]) + len(found[1]) == 4 * number
    assert len({*found[0], *found[1]}) == 4 * number
    for each in found:  # what one producer puts arrives in its order
        assert [n for which, n in each if which == 0] == sorted(n for w, n in each if w == 0)


def test_a_waiter_that_dies_takes_no_item():
    items, waiting = flowpar.Queue(), flowpar.Queue()

    @delayed(timeout=0.5)
    def wait():
        waiting.put(os.getpid())
        items.get()

    futures = [wait().submit(**PROCESSES) for _ in range(2)]
    workers = [waiting.get(timeout=GENEROUS) for _ in range(2)]
    for future in futures:
        with pytest.raises(flowpar.TaskTimeout):
            future.result(GENEROUS)
    assert wait_until(lambda: not any(map(is_alive, workers)), GENEROUS)
    for n in range(10):
        items.put(n)
    assert [items.get(timeout=GENEROUS) for _ in range(10)] == list(range(10))


@pytest.mark.slow
def test_killed_consumers_lose_at_most_what_they_have_got():
    items, got = flowpar.Queue(), flowpar.Queue()
    for n in range(2000):
        items.put(n)

    @delayed(timeout=0.3)
    def consume():
        while True:
            item = items.get()
            got.put(item)

    for _ in range(4):
        with pytest.raises(flowpar.TaskTimeout):
            consume().compute(scheduler="processes", workers=1)
    rest = [items.get() for _ in range(items.qsize())]
    done = [got.get() for _ in range(got.qsize())]
    # Of each that was killed, one item may lie between the two queues; none is there twice.
    assert len(set(rest + done)) == len(rest + done) >= 1996


def test_a_queue_is_bounded_and_says_so():
    items = flowpar.Queue(2)
    items.put(1)
    items.put_nowait(2)
    assert (items.full(), items.qsize(), items.maxsize) == (True, 2, 2)
    with pytest.raises(queue.Full):
        items.put_nowait(3)
    with pytest.raises(queue.Full):
        delayed(items.put)(3, timeout=0.01).compute(**PROCESSES)
    future = delayed(items.put)(3).submit(**PROCESSES)
    assert [items.get(timeout=GENEROUS) for _ in range(3)] == [1, 2, 3]
    future.result(GENEROUS)
    assert items.empty()
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(queue.Empty):
        delayed(items.get)(timeout=0.01).compute(**PROCESSES)
    items.close()
    items.join_thread()


def test_large_items_and_functions_pass(own):
    items = flowpar.Queue()
    large = np.arange(1_000_000)

    @delayed
    def echo(items):
        function, array = items.get(timeout=GENEROUS)
        items.put((function(2), array + 1))

    items.put((lambda x: x + 40, large))
    echo(items).compute(scheduler=own)
    number, array = items.get(timeout=GENEROUS)
    assert number == 42
    np.testing.assert_array_equal(array, large + 1)


def test_an_item_that_does_not_pickle_is_refused_where_it_is_put():
    items = flowpar.Queue()
    with pytest.raises(TypeError, match="lock"):
        items.put(threading.Lock())
    assert items.empty()


def test_a_queue_of_a_dead_process_is_an_error_and_no_hang():
    made = delayed(flowpar.Queue)().compute(scheduler="processes", workers=1)
    made.put(1)
    with pytest.raises(flowpar.WorkerDied):
        kill().compute(scheduler="processes", workers=1)
    with pytest.raises(flowpar.PoolError, match="has ended"):
        made.get()


def test_things_that_nobody_has_are_let_go_of():
    first = flowpar.Queue()
    things = __import__("flowpar.common.serving", fromlist=["x"]).server_here().things
    before = len(things)
    for _ in range(100):
        items = flowpar.Queue()
        delayed(items.put)(1).compute(**PROCESSES)
    del items
    gc.collect()
    assert wait_until(lambda: len(things) <= before + 1)
    assert first.empty()


# ---------------------------------------------------------------------------------------- Manager


def test_a_shared_dictionary_is_used_like_one():
    with flowpar.Manager() as manager:
        found = manager.dict({"a": 1}, b=2)

        @delayed
        def change(found):
            found["c"] = lambda: 3
            found.update(d=4)
            return found.pop("a"), found.get("z", 0), "b" in found, len(found), sorted(found)

        assert change(found).compute(**PROCESSES) == (1, 0, True, 3, ["b", "c", "d"])
        assert found["c"]() == 3
        del found["c"]
        assert (found.items(), found.copy()) == ([("b", 2), ("d", 4)], {"b": 2, "d": 4})
        with pytest.raises(KeyError):
            delayed(lambda: found["nothing"])().compute(**PROCESSES)


def test_a_shared_list_is_used_like_one():
    found = flowpar.Manager().list([3, 1])

    @delayed
    def change(found):
        found.append(2)
        found.sort()
        found += [9]
        found[0] = "first"

    change(found).compute(**PROCESSES)
    assert (list(found), len(found), found[1:3]) == (["first", 2, 3, 9], 4, [2, 3])


def test_a_namespace_and_things_in_things():
    manager = flowpar.Manager()
    space, inner = manager.Namespace(x=1), manager.list()
    space.inner = inner

    @delayed
    def change(space):
        space.x += 1
        space.inner.append(space.x)

    change(space).compute(**PROCESSES)
    assert (space.x, list(inner)) == (2, [2])
    del space.x
    with pytest.raises(AttributeError):
        _ = space.x


def test_what_is_put_into_a_shared_list_is_a_copy(own):
    found, item = flowpar.Manager().list(), [1]
    delayed(found.append)(item).compute(scheduler=own)
    item.append(2)
    found[0].append(3)
    assert found[0] == [1]


def test_all_of_a_manager_can_be_made():
    manager = flowpar.Manager()
    made = [manager.Queue(), manager.Lock(), manager.RLock(), manager.Semaphore(2), manager.Event()]
    made += [manager.BoundedSemaphore(), manager.Condition(), manager.Barrier(2)]
    made += [manager.Value("i", 3), manager.Array("i", [1])]
    assert delayed(len)(made).compute(**PROCESSES) == len(made)


# ------------------------------------------------------------------------- those that cannot travel


FOREIGN = {
    "Lock": [threading.Lock, multiprocessing.Lock],
    "RLock": [threading.RLock, multiprocessing.RLock],
    "Semaphore": [threading.Semaphore, multiprocessing.Semaphore],
    "BoundedSemaphore": [threading.BoundedSemaphore, multiprocessing.BoundedSemaphore],
    "Event": [threading.Event, multiprocessing.Event],
    "Condition": [threading.Condition, multiprocessing.Condition],
    "Barrier": [lambda: threading.Barrier(2), lambda: multiprocessing.Barrier(2)],
    "Queue": [
        queue.Queue,
        queue.LifoQueue,
        queue.SimpleQueue,
        multiprocessing.Queue,
        multiprocessing.JoinableQueue,
        multiprocessing.SimpleQueue,
    ],
    "Value": [lambda: multiprocessing.Value("i")],
    "Array": [lambda: multiprocessing.Array("i", 2), lambda: multiprocessing.Array("c", 2)],
}


@pytest.mark.parametrize(
    ("ours", "make"), [(ours, make) for ours, makes in FOREIGN.items() for make in makes]
)
@pytest.mark.parametrize("way", ["argument", "container", "captured"])
def test_what_cannot_travel_names_what_can(ours, make, way):
    theirs = make()
    task = {
        "argument": lambda: delayed(id)(theirs),
        "container": lambda: delayed(id)({"a": [1, theirs]}),
        "captured": lambda: delayed(lambda: id(theirs))(),
    }[way]()
    with pytest.raises(flowpar.NotPicklable, match=rf"pass a flowpar\.{ours}\(\) instead"):
        task.compute(scheduler="processes")
    if hasattr(theirs, "join_thread"):
        theirs.close()
        theirs.join_thread()


# ------------------------------------------------------------------------------------- with a cache


def test_a_lock_does_not_show_in_a_cache(tmp_path):
    lock = flowpar.Lock()
    task = delayed(lambda lock, x: x + 1)
    assert flowpar.run(task(lock, 1), cache=tmp_path).counts.done == 1
    assert flowpar.run(task(flowpar.Lock(), 1), cache=tmp_path).counts.cached == 1


@pytest.mark.parametrize("name", ["Lock", "Semaphore", "Queue", "Value", "Condition"])
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.filterwarnings("ignore::flowpar.FlowparWarning")
def test_what_ends_with_its_program_is_not_kept(name, scheduler, tmp_path):
    make = MAKERS[name]
    for _ in range(2):
        run = flowpar.run(delayed(make)(), cache=tmp_path, scheduler=scheduler)
        assert (run.counts.done, type(run.value)) == (1, type(make()))


def test_a_task_that_gets_a_queue_runs_each_time(tmp_path):
    items = flowpar.Queue()
    task, captured = delayed(lambda items, n: items.put(n)), delayed(lambda n: items.put(n))
    for number in range(1, 4):
        with pytest.warns(flowpar.FlowparWarning, match="changes while tasks run"):
            flowpar.compute(task(items, 1), cache=tmp_path)
        with pytest.warns(flowpar.FlowparWarning, match="items"):
            flowpar.compute(captured(1), cache=tmp_path)
        assert items.qsize() == 2 * number


def test_a_closed_home_is_an_error_for_those_who_wait(run_script):
    done = run_script(
        """
        import threading, flowpar
        items = flowpar.Queue()
        def wait():
            try:
                items.get()
            except flowpar.PoolError as error:
                print("told:", error, flush=True)
        thread = threading.Thread(target=wait)
        thread.start()
        from flowpar.pools.home import close_home
        while not flowpar.common.serving.server_here()._parked:
            pass
        close_home()
        thread.join()
        """
    )
    assert "told: shared things are gone" in done.stdout, done.stderr
    assert home().folders
