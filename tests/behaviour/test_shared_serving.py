"""What is served to other processes stays right whatever these do, and whatever users raise."""

from __future__ import annotations

import builtins
import errno
import gc
import math
import multiprocessing
import os
import selectors
import signal
import socket
import threading
import warnings

import pytest
from conftest import fork, wait_until

import flowpar
from flowpar import delayed
from flowpar.common import serving
from flowpar.common.entrance import Entrance
from flowpar.common.holders import Fork
from flowpar.common.wire import address_of

GENEROUS = 60
PROCESSES = {"scheduler": "processes", "workers": 2}


# ------------------------------------------------------------------------- errors of what is asked


@pytest.mark.parametrize("error", [FileNotFoundError, EOFError, ConnectionResetError, SystemExit])
def test_what_a_shared_object_raises_is_no_broken_connection(error):
    numbers, permit = flowpar.Manager().list([2, 1]), flowpar.Semaphore(1)

    def refuse(_):
        raise error("mine")

    @delayed
    def hold_and_fail():
        permit.acquire()
        with pytest.raises(error, match="mine"):
            numbers.sort(key=refuse)
        left = permit.get_value(), permit.acquire(block=False)
        permit.release()
        return left

    assert hold_and_fail().compute(**PROCESSES) == (0, False)
    with pytest.raises(error, match="mine"):
        numbers.sort(key=refuse)
    assert list(numbers) == [2, 1]


def test_a_program_whose_shared_object_has_raised_an_exit_goes_on_and_ends_well(run_script):
    done = run_script(
        """
        import flowpar
        items = flowpar.Manager().list([1, 2])

        class Evil:
            def __eq__(self, other):
                raise SystemExit(3)

        def look():
            try:
                items.index(Evil())
            except SystemExit as error:
                return error.code

        print(flowpar.spawn(look).result(30), flowpar.spawn(len, items).result(30))
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("3 2\n", "", 0)


def test_what_is_called_while_a_shared_object_is_used_cannot_wait_for_another():
    """It would be waited for with all that this process serves."""
    numbers, items = flowpar.Manager().list([2, 1]), flowpar.Queue()
    sort = delayed(lambda: numbers.sort(key=lambda _: items.get()))
    with pytest.raises(flowpar.PoolError, match="cannot wait for another"):
        numbers.sort(key=lambda _: items.get())
    with pytest.raises(flowpar.PoolError, match="cannot wait for another"):
        sort().compute(**PROCESSES)
    items.put(1)
    assert items.get() == 1
    numbers.sort(key=lambda number: number + items.qsize())
    assert list(numbers) == [1, 2]


def test_two_processes_read_at_once_what_holds_something_of_the_other(run_script):
    done = run_script(
        """
        import flowpar
        manager = flowpar.Manager()
        table, mine = manager.dict(), manager.list([1])
        ready, stop = flowpar.Event(), flowpar.Value("i", 0)

        def other(table, mine, stop, ready):
            theirs = flowpar.Manager().dict()
            theirs["mine"] = mine
            table["theirs"] = theirs
            ready.set()
            while not stop.value:
                theirs["mine"]
            return list(theirs["mine"])

        handle = flowpar.spawn(other, table, mine, stop, ready)
        ready.wait()
        for _ in range(3000):
            table["theirs"]
        stop.value = 1
        print(handle.result())
        """,
        timeout=GENEROUS,
    )
    assert (done.stdout, done.returncode) == ("[1]\n", 0), done.stderr


# -------------------------------------------------------------------------------------- timeouts


def waits(event, items, permit, timeout):
    return event.wait(timeout), items.get(timeout=timeout), permit.acquire(timeout=timeout)


@pytest.mark.parametrize(
    "timeout",
    [1e10, 1e300, math.inf, threading.TIMEOUT_MAX, 10**400],
    ids=["days", "more", "inf", "max", "int"],
)
def test_a_timeout_can_be_as_long_as_one_likes(timeout, own):
    event, items, permit = flowpar.Event(), flowpar.Queue(), flowpar.Semaphore(1)
    event.set()
    items.put("item")
    task = delayed(waits)(event, items, permit, timeout)
    assert task.compute(scheduler=own) == (True, "item", True)


def test_a_timeout_that_is_no_number_is_refused_everywhere(own):
    event, items = flowpar.Event(), flowpar.Queue()
    event.set()
    items.put("item")
    for wait in (event.wait, lambda timeout: items.get(timeout=timeout)):
        with pytest.raises(ValueError, match="NaN"):
            delayed(wait)(math.nan).compute(scheduler=own)
    assert items.qsize() == 1


# ------------------------------------------------------------------------------- whose it is by now


def test_a_worker_that_keeps_what_it_got_can_use_it_though_nobody_else_has_it():
    def keep(items):
        builtins.kept = items

    def use(number):
        builtins.kept.put(number)
        return builtins.kept.get()

    server = serving.server_here()
    before = len(dict(server._all()))
    with flowpar.Pool(1) as pool:
        pool.apply(keep, (flowpar.Queue(),))
        gc.collect()
        assert [pool.apply(use, (number,)) for number in range(3)] == [0, 1, 2]
        pool.apply(keep, (None,))
        assert wait_until(lambda: len(dict(server._all())) <= before)
        pool.apply(keep, (flowpar.Queue(),))
        gc.collect()
        assert pool.apply(use, (3,)) == 3
    assert wait_until(lambda: len(dict(server._all())) <= before)


def test_what_a_worker_has_kept_and_gives_back_stays_when_the_worker_ends():
    def keep(items):
        builtins.kept = items
        items.put("item")

    with flowpar.Pool(1) as pool:
        pool.apply(keep, (flowpar.Queue(),))
        gc.collect()
        items = pool.apply(lambda: builtins.kept)
    pool.join()
    assert items.get(timeout=GENEROUS) == "item"


def test_what_functions_have_captured_is_let_go_of():
    server = serving.server_here()
    before = len(dict(server._all()))
    for _ in range(20):
        items = flowpar.Queue()
        delayed(lambda: items.put(1))().compute(**PROCESSES)
    gc.collect()
    assert wait_until(lambda: len(dict(server._all())) <= before + 1)


def test_what_is_gone_says_so_where_it_was_too():
    items = flowpar.Queue()
    serving.server_here().things.pop(items._remote.number)
    for use in (items.qsize, lambda: delayed(items.qsize)().compute(**PROCESSES)):
        with pytest.raises(flowpar.PoolError, match="let go of it"):
            use()


def test_a_forked_process_has_what_there_was_though_the_parent_lets_go():
    server = serving.server_here()
    gc.collect()
    before = len(dict(server._all()))
    ours, its = multiprocessing.Pipe()

    def child(items):
        its.recv()
        items.put("item")
        its.send(items.get(timeout=GENEROUS))
        its.recv()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=child, args=(flowpar.Queue(),))
        process.start()
    try:
        gc.collect()
        ours.send("go")
        assert ours.poll(GENEROUS)
        assert ours.recv() == "item"
        ours.send("end")
        process.join(GENEROUS)
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()
        its.close()
    assert wait_until(lambda: len(dict(server._all())) <= before)
    assert not any(isinstance(each, Fork) for each in server._holders.values())


def test_a_forked_process_serves_its_own():
    items = flowpar.Queue()
    child = fork()
    if not child:
        mine = flowpar.Queue()
        mine.put("mine")
        items.put(mine.get())
        os._exit(0)
    os.waitpid(child, 0)
    assert items.get(timeout=GENEROUS) == "mine"


# ---------------------------------------------------------------------- too few descriptors, or long


FULL = """
    import os, resource, threading, flowpar
    from flowpar.common import entrance, serving
    entrance.PATIENCE_SECONDS = {patience}
    event, ready, told, go = flowpar.Event(), flowpar.Event(), flowpar.Lock(), flowpar.Lock()

    def wait_by_many(event, ready, told, go):
        ends, first = [], threading.Event()

        def wait():
            try:
                ends.append(event.wait())
            except flowpar.PoolError as error:
                ends.append("too many open files" in str(error))
                ends.append("refused")
                first.set()

        with told:
            ready.set()
            with go:
                threads = [threading.Thread(target=wait) for _ in range(20)]
                for thread in threads:
                    thread.start()
            if {waits}:
                first.wait()
        for thread in threads:
            thread.join()
        return ends

    go.acquire()
    handle = flowpar.spawn(wait_by_many, event, ready, told, go)
    ready.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 5, hard))
    go.release()
    {until}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    event.set()
    ends = handle.result()
    print(ends.count(True), ends.count(False), "refused" in ends)
    """


def test_who_cannot_be_let_in_for_long_is_told_so(run_script):
    script = FULL.format(patience=0.2, waits=True, until="told.acquire()")
    done = run_script(script, timeout=GENEROUS)
    assert (done.stdout, done.returncode) == ("20 0 True\n", 0), done.stderr


def test_who_cannot_be_let_in_for_a_while_waits(run_script):
    until = "while not serving.server_here()._entrance.is_full: pass"
    script = FULL.format(patience=600, waits=False, until=until)
    done = run_script(script, timeout=GENEROUS)
    assert (done.stdout, done.returncode) == ("20 0 False\n", 0), done.stderr


def test_a_server_without_descriptors_is_not_kept_busy(tmp_path, monkeypatch):
    class Full:
        def __init__(self, listener):
            self.listener = listener

        def accept(self):
            raise OSError(errno.EMFILE, "none left")

        def __getattr__(self, name):
            return getattr(self.listener, name)

    path = str(tmp_path / "server")
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as client:
        entrance = Entrance(path, selector)
        client.connect(path)
        assert selector.select(GENEROUS)
        with monkeypatch.context() as patched:
            patched.setattr(entrance, "_listener", Full(entrance._listener))
            assert entrance.accept() is None
            assert entrance.is_full
            assert selector.select(0) == []
        found = entrance.accept()
        assert found is not None
        assert not entrance.is_full
        found.close()
        entrance.close()


def test_idle_connections_are_few():
    items = flowpar.Queue()

    @delayed
    def use_by_many():
        before, start = len(os.listdir("/proc/self/fd")), threading.Barrier(20)

        def use():
            start.wait()
            items.put(items.qsize())

        threads = [threading.Thread(target=use) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(os.listdir("/proc/self/fd")) - before

    assert use_by_many().compute(**PROCESSES) <= 6
    assert items.qsize() == 20


def test_an_address_can_be_as_long_as_one_likes(tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = str(folder / "server")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with address_of(path) as address:
            listener.bind(address)
        listener.listen()
        with address_of(path) as address:
            client.connect(address)
    assert os.path.exists(path)
    with pytest.raises(FileNotFoundError), address_of(str(tmp_path / ("e" * 120) / "server")):
        pass


def test_things_are_served_from_a_folder_with_a_long_name(run_script, tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    done = run_script(
        """
        import flowpar, flowpar.pools.home as home
        home.MEMORY = "/nonexistent"
        items = flowpar.Queue()
        flowpar.spawn(items.put, "item").result()
        print(items.get(), len(items._remote.path) > 108)
        """,
        TMPDIR=str(folder),
        PYTHONWARNINGS="ignore",
    )
    assert (done.stdout, done.returncode) == ("item True\n", 0), done.stderr


def wait_in_threads(wait, ready, number):
    threads = [threading.Thread(target=wait, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    ready.set()
    threads[0].join()


def test_hundreds_of_waiters_may_die_at_once():
    queue, semaphore = flowpar.Queue(), flowpar.Semaphore(0)
    for wait in (queue.get, semaphore.acquire):
        ready = flowpar.Event()
        waiting = flowpar.spawn(wait_in_threads, wait, ready, 200)
        assert ready.wait(30)
        os.kill(waiting.pid, signal.SIGKILL)
        # Given to some who have gone perhaps, and then to who is there.
        for number in range(5):
            queue.put(number)
            semaphore.release()
        assert isinstance(waiting.exception(30), flowpar.WorkerDied)
        assert sorted(queue.get(timeout=30) for _ in range(5)) == list(range(5))
        assert all(semaphore.acquire(timeout=30) for _ in range(5))
