"""`flowpar.Pool` and `ThreadPool`: what tutorials teach of multiprocessing's, and what is better."""

import asyncio
import gc
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref

import pytest
from support.calls import fails_at, outcomes

import flowpar
from flowpar import delayed
from flowpar.errors import FlowparWarning

KINDS = {"processes": flowpar.Pool, "threads": flowpar.ThreadPool}


@pytest.fixture(params=KINDS)
def pool(request):
    made = KINDS[request.param](2)
    yield made
    made.terminate()
    made.join()


@pytest.fixture
def processes():
    with flowpar.Pool(2) as made:
        yield made
    made.join()


def square(n):
    return n * n


class TestTutorials:
    """The eight methods, as they are taught."""

    def test_apply_in_a_loop(self, pool):
        assert [pool.apply(square, (n,)) for n in range(5)] == [0, 1, 4, 9, 16]
        assert pool.apply(dict, ([("a", 1)],), {"b": 2}) == {"a": 1, "b": 2}

    @pytest.fixture(autouse=True)
    def _no_monitor(self, monkeypatch):
        # Its thread would stay, and other tests look for threads.
        import tqdm

        monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)

    def test_apply_async_with_a_callback_that_moves_a_bar(self, pool):
        from tqdm import tqdm

        with tqdm(total=20, disable=True) as bar:
            results = [
                pool.apply_async(square, (n,), callback=lambda _: bar.update()) for n in range(20)
            ]
            assert [result.get(timeout=60) for result in results] == [n * n for n in range(20)]

    def test_map_and_starmap_with_zip(self, pool):
        assert pool.map(square, range(100)) == [n * n for n in range(100)]
        assert pool.starmap(pow, zip(range(10), itertools.repeat(2))) == [n * n for n in range(10)]
        assert pool.map(square, (n for n in range(10)), chunksize=3) == [n * n for n in range(10)]

    def test_map_async_and_starmap_async(self, pool):
        told = []
        result = pool.map_async(square, range(9), callback=told.append)
        assert result.get(timeout=60) == [n * n for n in range(9)]
        assert pool.starmap_async(pow, [(2, 3)], callback=told.append).get(timeout=60) == [8]
        assert told == [[n * n for n in range(9)], [8]]
        assert result.ready()
        assert result.successful()

    def test_tqdm_around_imap(self, pool):
        from tqdm import tqdm

        values = list(tqdm(pool.imap(square, range(50)), total=50, disable=True))
        assert values == [n * n for n in range(50)]
        assert sorted(pool.imap_unordered(square, range(50), chunksize=7)) == values

    def test_functions_of_all_kinds(self, pool):
        offset = 3

        class Adder:
            def __call__(self, n):
                return n + offset

            def method(self, n):
                return -n

        assert pool.map(lambda n: n + offset, range(3)) == [3, 4, 5]
        assert pool.map(Adder(), range(3)) == [3, 4, 5]
        assert pool.map(Adder().method, range(3)) == [0, -1, -2]

    def test_with_statement_close_and_join(self, pool):
        kind = type(pool)
        other = kind(2)
        result = other.map_async(square, range(10))
        other.close()
        with pytest.raises(ValueError, match="not running"):
            other.apply(square, (1,))
        other.join()
        assert result.get() == [n * n for n in range(10)]
        with kind(1) as third:
            with pytest.raises(ValueError, match="still running"):
                third.join()
        with pytest.raises(ValueError, match="not running"), third:
            pass

    def test_an_initializer_sets_what_calls_use(self):
        def begin(value):
            import builtins

            builtins.flowpar_test_value = value

        with flowpar.Pool(2, initializer=begin, initargs=(7,)) as made:
            assert made.map(lambda n: n + flowpar_test_value, range(3)) == [7, 8, 9]  # noqa: F821


class TestErrors:
    def test_map_raises_the_first_error_in_order_when_all_have_ended(self, pool):
        told = []
        result = pool.map_async(fails_at(3, 7), range(50), 4, error_callback=told.append)
        with pytest.raises(ValueError, match="no 3") as caught:
            result.get(timeout=60)
        assert not result.successful()
        assert told == [caught.value]
        assert any("call(3)" in note for note in caught.value.__notes__)

    @pytest.mark.parametrize("chunksize", [1, 5])
    def test_imap_goes_on_after_a_failed_item(self, pool, chunksize):
        expected = [0, "ValueError", 2, 3, "ValueError", 5, 6, 7, 8, 9]
        assert outcomes(pool.imap(fails_at(1, 4), range(10), chunksize)) == expected
        unordered = outcomes(pool.imap_unordered(fails_at(1, 4), range(10), chunksize))
        assert sorted(map(str, unordered)) == sorted(map(str, expected))

    def test_errors_in_the_midst_of_quick_calls_hit_their_items(self, pool):
        bad = {100, 101, 5_000, 9_999}
        found = outcomes(pool.imap(fails_at(*bad), range(10_000), 2_500))
        assert found == ["ValueError" if n in bad else n for n in range(10_000)]

    def test_an_input_that_raises_comes_after_what_it_gave(self, pool):
        def inputs():
            yield from range(7)
            raise RuntimeError("no more")

        for chunksize in (1, 3, 10):
            found = outcomes(pool.imap(square, inputs(), chunksize))
            assert found == [n * n for n in range(7)] + ["RuntimeError"]

    @pytest.mark.parametrize("name", ["StopIteration", "SystemExit", "KeyboardInterrupt"])
    def test_what_is_no_exception_or_ends_loops_is_an_error_of_its_item(self, pool, name):
        if name == "KeyboardInterrupt" and isinstance(pool, flowpar.ThreadPool):
            pytest.skip("a thread hears of Ctrl-C as any other")

        def call(n):
            if n == 70:
                raise {"StopIteration": StopIteration, "SystemExit": SystemExit}.get(
                    name, KeyboardInterrupt
                )
            return n

        found = outcomes(pool.imap(lambda n: call(n), range(100), 100))
        assert [n for n in found if isinstance(n, int)] == [n for n in range(100) if n != 70]

    def test_a_raising_callback_is_reported_and_harmless(self, pool):
        def no(_):
            raise RuntimeError("callback")

        with pytest.warns(FlowparWarning, match="callback"):
            assert pool.apply_async(square, (3,), callback=no).get(timeout=60) == 9
        assert pool.apply(square, (4,)) == 16

    def test_waiting_for_so_long_is_both_timeout_errors(self, pool):
        gate = threading.Event() if isinstance(pool, flowpar.ThreadPool) else None
        wait = gate.wait if gate else time.sleep
        result = pool.apply_async(wait, (60,))
        for kind in (TimeoutError, multiprocessing.TimeoutError):
            with pytest.raises(kind):
                result.get(timeout=0.01)
        iterator = pool.imap(wait, [60])
        with pytest.raises(TimeoutError):
            iterator.next(timeout=0.01)
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        if gate:
            gate.set()

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, "2"])
    def test_wrong_numbers_are_refused(self, pool, wrong):
        with pytest.raises(ValueError, match="Chunksize"):
            pool.map(square, [1], chunksize=wrong)
        with pytest.raises(ValueError, match="buffersize"):
            pool.imap(square, [1], buffersize=wrong)
        with pytest.raises(ValueError):
            type(pool)(wrong)

    def test_what_cannot_be_called_or_gone_through_is_refused(self, pool):
        for method in (pool.map, pool.imap, pool.starmap):
            with pytest.raises(TypeError):
                method(3, [1])
            with pytest.raises(TypeError):
                method(square, 3)
        with pytest.raises(TypeError, match="initializer"):
            type(pool)(1, initializer=3)
        with pytest.raises(NotImplementedError):
            pickle.dumps(pool)


class TestDeaths:
    def test_a_dead_worker_is_an_error_of_its_item_and_nothing_else(self, processes):
        def call(n):
            if n == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return n

        for chunksize in (1, 4, 20):
            found = outcomes(processes.imap(call, range(20), chunksize))
            assert found == [n if n != 5 else "WorkerDied" for n in range(20)]
        with pytest.raises(flowpar.WorkerDied):
            processes.map(call, range(20))
        assert processes.map(square, range(20)) == [n * n for n in range(20)]

    def test_among_quick_calls_too(self, processes):
        def call(n):
            if n == 30_000:
                os._exit(3)
            return n

        found = outcomes(processes.imap(call, range(40_000), 20_000))
        assert found[30_000] == "WorkerDied"
        assert found[:30_000] + found[30_001:] == [n for n in range(40_000) if n != 30_000]

    def test_an_exception_that_takes_more_than_it_keeps_arrives(self, processes):
        class Odd(Exception):
            def __init__(self, a, b):
                super().__init__(a)

        def call(n):
            raise Odd(1, 2)

        with pytest.raises(Exception, match="1") as caught:
            processes.map(call, [1])
        assert type(caught.value).__name__ == "Odd"

    def test_arguments_and_results_that_cannot_travel(self, processes):
        """The errors are those of multiprocessing, with what we know of them."""
        lock = threading.Lock()
        assert outcomes(processes.imap(square, [1, lock, 3], 3)) == [1, "TypeError", 9]
        with pytest.raises(TypeError, match="cannot pickle") as caught:
            processes.map(square, [1, [2, lock], 3])
        assert "args[0][1]" in "".join(caught.value.__notes__)

        def makes_one(n):
            return threading.Lock() if n == 1 else n

        found = outcomes(processes.imap(makes_one, range(3), 3))
        assert found == [0, "MaybeEncodingError", 2]

    def test_a_failing_initializer_is_an_error(self):
        def fail():
            raise RuntimeError("cannot begin")

        with flowpar.Pool(2, initializer=fail) as made:
            with pytest.raises(flowpar.PoolError, match="cannot begin"):
                made.map(square, range(10))
            assert set(outcomes(made.imap(square, range(3)))) == {"PoolError"}

    def test_terminate_ends_those_who_wait(self, pool):
        gate = threading.Event()
        wait = gate.wait if isinstance(pool, flowpar.ThreadPool) else time.sleep
        result = pool.map_async(wait, [60] * 100, chunksize=1)
        iterator = pool.imap(wait, itertools.repeat(60))
        pool.terminate()
        with pytest.raises(flowpar.Cancelled):
            result.get(timeout=30)
        assert set(outcomes(iterator)) == {"Cancelled"}
        pool.join()
        gate.set()

    def test_large_values_stay_in_shared_memory_and_are_freed(self, processes):
        np = pytest.importorskip("numpy")
        for array in processes.imap(np.ones, [200_000] * 5):
            assert array.sum() == 200_000
        with pytest.raises(ValueError, match="dimensions"):
            processes.apply(np.ones, (-1,))


class TestStreams:
    def test_an_endless_input_is_read_as_values_are_taken(self, pool):
        read = itertools.count()
        iterator = pool.imap(square, read, buffersize=10)
        assert list(itertools.islice(iterator, 25)) == [n * n for n in range(25)]
        del iterator
        gc.collect()
        assert next(read) <= 25 + 10 + 2

    def test_an_input_may_wait_for_a_value_of_the_same_pool(self, pool):
        values = []
        more = threading.Event()

        def inputs():
            yield 1
            assert more.wait(30)
            yield values[0] + 1

        iterator = pool.imap(square, inputs())
        values.append(next(iterator))
        more.set()
        assert next(iterator) == 4
        assert list(iterator) == []

    def test_a_slow_input_holds_nobody_up(self, pool):
        gate = threading.Event()

        def inputs():
            yield 1
            gate.wait(60)

        iterator = pool.imap(square, inputs())
        assert next(iterator) == 1
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
        gate.set()
        assert list(iterator) == []

    def test_what_nobody_looks_at_is_called_all_the_same(self, tmp_path):
        with flowpar.Pool(2) as made:
            made.imap_unordered(lambda n: (tmp_path / str(n)).touch(), range(100))
            gc.collect()
            kept = made.imap(lambda n: (tmp_path / f"kept{n}").touch(), range(100))
            made.close()
            made.join()
            assert len(list(tmp_path.iterdir())) == 200
            assert len(list(kept)) == 100

    def test_what_nobody_has_any_more_is_called_without_a_join(self, pool, tmp_path):
        def count():
            return len(list(tmp_path.iterdir()))

        def wait_for(number):
            pause, deadline = threading.Event(), time.monotonic() + 20
            while count() < number and time.monotonic() < deadline:
                pause.wait(0.01)

        def inputs():
            yield from range(5_000)
            wait_for(100)  # by now it is known how quick the calls are
            yield from range(5_000, 10_000)

        pool.imap_unordered(lambda n: (tmp_path / str(n)).touch(), inputs())
        gc.collect()
        wait_for(10_000)
        assert count() == 10_000

    def test_leaving_early_ends_the_reading(self, pool):
        ended = threading.Event()

        def inputs():
            try:
                yield from itertools.count()
            finally:
                ended.set()

        for value in pool.imap(square, inputs()):
            if value > 100:
                break
        gc.collect()
        assert ended.wait(30)
        assert pool.apply(square, (3,)) == 9

    def test_many_who_take_from_one_iterator_get_each_value_once(self, pool):
        iterator = pool.imap_unordered(square, range(2_000))
        found, lock = [], threading.Lock()

        def take():
            for value in iterator:
                with lock:
                    found.append(value)

        takers = [threading.Thread(target=take) for _ in range(4)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(60)
        assert sorted(found) == [n * n for n in range(2_000)]

    def test_two_streams_at_once_both_move(self, pool):
        first = pool.imap(square, itertools.count(), buffersize=4)
        second = pool.imap(abs, itertools.count(-50), buffersize=4)
        for n in range(50):
            assert next(first) == n * n
            assert next(second) == abs(n - 50)


class TestLife:
    def test_nothing_is_left(self):
        script = """
import flowpar, gc, os, threading
for kind in (flowpar.Pool, flowpar.ThreadPool):
    for _ in range(3):
        with kind(2) as pool:
            pool.map(abs, range(100))
            list(pool.imap(abs, range(100)))
        pool.join()
gc.collect()
left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
print(left, len(os.listdir("/proc/self/fd")))
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.stderr == ""
        left, files = done.stdout.rsplit(" ", 1)
        assert left == "[]" or all(name.startswith("'thread") for name in left[1:-1].split(", "))
        assert int(files) <= 8

    def test_a_pool_that_is_never_closed_warns_and_ends(self):
        script = """
import flowpar
from flowpar import delayed
pool = flowpar.Pool(2)
print(pool.map(abs, [-1]))
"""
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", script],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.stdout, done.returncode) == ("[1]\n", 0)
        with pytest.warns(ResourceWarning, match="unclosed running"):
            made = flowpar.ThreadPool(1)
            del made
            gc.collect()

    def test_without_main_guard_from_a_file(self, tmp_path):
        (tmp_path / "script.py").write_text(
            "import flowpar\nprint('top')\ndef f(n): return n + 1\n"
            "with flowpar.Pool(2) as pool:\n    print(pool.map(f, range(3)))\n"
        )
        done = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.stdout, done.stderr) == ("top\n[1, 2, 3]\n", "")

    def test_arguments_and_values_are_not_kept(self):
        class Thing:
            pass

        with flowpar.ThreadPool(2) as made:
            things = [Thing() for _ in range(10)]
            known = [weakref.ref(thing) for thing in things]
            made.map(id, things)
            del things
            assert made.apply(square, (2,)) == 4  # its thread has let go of the others
            gc.collect()
            assert [ref() for ref in known] == [None] * 10

    def test_a_forked_child_is_told(self, processes):
        processes.apply(square, (1,))
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                processes.apply_async(square, (2,))
            except flowpar.PoolError:
                os.write(write, b"told")
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 10) == b"told"
        os.close(read)
        os.close(write)

    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    def test_contexts_of_multiprocessing(self, method):
        context = multiprocessing.get_context(method)
        with flowpar.Pool(1, context=context) as made:
            assert made.map(square, range(3)) == [0, 1, 4]

    def test_a_pool_in_a_task_of_a_pool(self, processes):
        def inner(n):
            with flowpar.Pool(1) as made:
                return made.map(square, range(n))

        assert processes.map(inner, [2, 3]) == [[0, 1], [0, 1, 4]]


class TestCallsApart:
    """Calls that were asked for apart have nothing to do with one another."""

    def test_results_and_arguments_are_not_shared(self, processes):
        kept = []

        def reuse(n):
            kept[:] = [n]
            return kept

        results = [processes.apply_async(reuse, (n,)) for n in range(300)]
        assert [result.get(60) for result in results] == [[n] for n in range(300)]
        assert list(processes.imap(reuse, range(300))) == [[n] for n in range(300)]
        shared = []
        results = [
            processes.apply_async(lambda s, n: s.append(n) or len(s), (shared, n))
            for n in range(300)
        ]
        assert {result.get(60) for result in results} == {1}

    def test_calls_that_wait_for_one_another_are_not_behind_one_another(self, pool, tmp_path):
        def call(n):
            if n is None:
                return None
            path = tmp_path / str(n // 2)
            if n % 2:
                path.touch()
                return True
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.002)
            return path.exists()

        pool.map(call, [None] * 500, chunksize=1)
        assert pool.map(call, range(8), chunksize=1) == [True] * 8

    def test_the_context_of_one_caller_is_not_that_of_others(self):
        import decimal

        def third():
            return str(decimal.Decimal(1) / 3)

        with flowpar.ThreadPool(2) as made:
            with decimal.localcontext() as context:
                context.prec = 4
                made.apply(third)
            assert len(made.apply(third)) == 30


def test_an_error_that_refuses_notes_ends_its_call(pool):
    class Odd(Exception):
        __notes__ = 3

    def fail():
        raise Odd("odd")

    result = pool.apply_async(fail)
    result.wait(60)
    assert not result.successful()
    assert pool.apply(square, (3,)) == 9


def test_a_call_that_raises_stop_iteration_does_not_end_the_loop_unseen(pool):
    def fail(n):
        if n == 3:
            raise StopIteration
        return n

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(pool.imap(fail, range(6)))


GLOBALS = """
import flowpar
from flowpar import delayed
STATE, CACHE, model = 100, {}, None

def begin(state):
    global model, STATE, extra
    model, STATE, extra = "loaded", state, "new"

def use(n):
    return model, STATE, extra

def put(n):
    CACHE[n] = n * n

def get():
    return dict(CACHE), helper()

def helper():
    return len(CACHE)

def read(n):
    return STATE

class Reader:
    def __call__(self, n):
        return STATE, model

for kind in (flowpar.Pool, lambda *args, **named: flowpar.Executor(args[0], **named)):
    with kind(1, initializer=begin, initargs=(5,)) as pool:
        print(list(pool.map(use, range(2))), list(pool.map(Reader(), [1])))
        list(pool.map(put, range(3)))
        print(pool.apply(get) if hasattr(pool, "apply") else pool.submit(get).result())
        print(list(pool.map(read, [1])))
        STATE = 7  # what the script changes wins
        print(list(pool.map(read, [1])), list(pool.map(use, [1])))
        STATE = 100
"""


@pytest.mark.parametrize("where", ["file", "stdin"])
def test_functions_of_main_share_the_globals_that_they_set(tmp_path, where):
    (tmp_path / "script.py").write_text(GLOBALS)
    command = [sys.executable, "script.py" if where == "file" else "-"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        input=None if where == "file" else GLOBALS,
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = [
        "[('loaded', 5, 'new'), ('loaded', 5, 'new')] [(5, 'loaded')]",
        "({0: 0, 1: 1, 2: 4}, 3)",
        "[5]",
        "[7] [('loaded', 7, 'new')]",
    ]
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected * 2


def use_all(things, number):
    queue, mapping, names, space, lock = things
    with lock:
        queue.put(number)
        mapping[number] = number * number
        names.append(number)
        space.last = number


def test_things_of_multiprocessings_manager_travel():
    with flowpar.Pool(2) as pool, multiprocessing.Manager() as manager:
        pool.map(abs, [1])  # the workers are there before the manager is
        names = "Queue", "dict", "list", "Namespace", "Lock"
        things = tuple(getattr(manager, name)() for name in names)
        pool.starmap(use_all, [(things, number) for number in range(4)])
        list(pool.imap(lambda number: use_all(things, number), range(4, 6)))
        flowpar.spawn(use_all, things, 6).result(60)
        delayed(use_all)(things, 7).compute(scheduler="processes")
        queue, mapping, names, space, _ = things
        assert sorted(queue.get() for _ in range(8)) == list(range(8))
        assert mapping.copy() == {number: number * number for number in range(8)}
        assert sorted(names) == list(range(8))
        assert space.last == 7


def test_they_are_not_kept_in_a_cache(tmp_path):
    with multiprocessing.Manager() as manager:
        made = delayed(lambda thing: [thing])(manager.list())
        cache = flowpar.Cache(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", flowpar.FlowparWarning)
            made.compute(cache=cache, scheduler="sync")
        key = manager.list()._authkey
        assert not any(
            bytes(key) in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
        )


def test_the_integers_of_numpy_are_numbers():
    np = pytest.importorskip("numpy")
    with flowpar.Pool(np.int64(2), maxtasksperchild=np.int32(5)) as pool:
        assert pool.map(abs, range(10), chunksize=np.int64(3)) == list(range(10))
        assert list(pool.imap(abs, range(10), np.uint8(3))) == list(range(10))


async def later(number):
    await asyncio.sleep(0)
    return -number


CALLERS = {
    "Pool": lambda func: _with(flowpar.Pool(2), lambda pool: pool.map(func, range(9))),
    "ThreadPool": lambda func: _with(flowpar.ThreadPool(2), lambda pool: pool.map(func, range(9))),
    "apply": lambda func: _with(
        flowpar.Pool(2), lambda pool: [pool.apply(func, (n,)) for n in range(9)]
    ),
    "Executor": lambda func: _with(flowpar.Executor(2), lambda each: [*each.map(func, range(9))]),
    "threads": lambda func: _with(
        flowpar.Executor(2, threads=True),
        lambda each: [future.result() for future in [each.submit(func, n) for n in range(9)]],
    ),
    "Parallel": lambda func: flowpar.Parallel(2)((func, (n,)) for n in range(9)),
    "imap": lambda func: [*flowpar.imap(func, range(9))],
    "stream": lambda func: [*flowpar.stream(range(9)).map(func)],
}


def _with(pool, call):
    with pool:
        return call(pool)


@pytest.mark.parametrize("caller", CALLERS)
def test_coroutine_functions_and_delayed_ones_are_called_as_they_are_meant(caller):
    call = CALLERS[caller]
    assert call(later) == [-n for n in range(9)]
    assert call(delayed(abs)) == list(range(9))
    with pytest.raises(flowpar.OptionError, match="make a graph"):
        call(delayed(abs, retries=3))


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_processes_have_names_of_their_own(method):
    def names():
        record = logging.LogRecord("", 0, "", 0, "", (), None)
        return multiprocessing.current_process().name, record.processName

    with flowpar.Pool(2, context=method) as pool:
        together = flowpar.Barrier(2)
        found = pool.starmap(lambda _: (together.wait(60), names())[1], [(1,), (2,)], chunksize=1)
    assert {name for name, _ in found} == {name for _, name in found}
    assert len({name for name, _ in found}) == 2
    assert all(name.startswith("FlowparWorker-") for name, _ in found)


def test_proxies_of_a_managers_own_kind_and_proxies_in_proxies(run_script):
    done = run_script("""
import flowpar
from multiprocessing.managers import BaseProxy, SyncManager

class Counter:
    def __init__(self):
        self.n = 0
    def add(self, k):
        self.n += k
        return self.n

class CounterProxy(BaseProxy):
    _exposed_ = ("add",)
    def add(self, k):
        return self._callmethod("add", (k,))

class Manager(SyncManager):
    pass

Manager.register("Counter", Counter, CounterProxy)
Manager.register("Plain", Counter)

def add(counter, k):
    return counter.add(k)

def append(mapping, value):
    mapping["inner"].append(value)
    return len(mapping["inner"])

if __name__ == "__main__":
    with Manager() as manager, flowpar.Pool(1) as pool:
        for counter in (manager.Counter(), manager.Plain()):
            assert pool.starmap(add, [(counter, 1)] * 2) == [1, 2]
            assert list(pool.imap(counter.add, iter([1, 1]))) == [3, 4]
            assert flowpar.delayed(add)(counter, 1).compute(scheduler="processes") == 5
            assert flowpar.spawn(add, counter, 1).result() == 6
            assert pool.apply(lambda: counter).add(1) == 7
        mapping = manager.dict(inner=manager.list())
        assert pool.starmap(append, [(mapping, "x")] * 2) == [1, 2]
        print(mapping["inner"])
""")
    assert done.stdout.strip() == "['x', 'x']", done.stderr


def test_coroutines_on_threads_share_one_loop():
    semaphore = asyncio.Semaphore(1)

    async def one_by_one(number):
        async with semaphore:
            await asyncio.sleep(0.001)
            return number

    with flowpar.ThreadPool(4) as pool:
        for _ in range(2):
            assert pool.map(one_by_one, range(8), chunksize=1) == list(range(8))
            assert pool.apply(one_by_one, (1,)) == 1
    with flowpar.Executor(4, threads=True) as executor:
        semaphore = asyncio.Semaphore(1)
        assert list(executor.map(one_by_one, range(8))) == list(range(8))


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_the_pickling_of_an_item_raises_is_its_error(error):
    class Raising:
        def __reduce__(self):
            raise error

    with flowpar.Pool(2) as pool:
        found = outcomes(pool.imap(abs, iter([-1, Raising(), -3])))
        assert [found[0], found[2], len(found)] == [1, 3, 3]
        with pytest.raises(BaseException):
            pool.apply(abs, (Raising(),))
        assert pool.apply(abs, (-5,)) == 5


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_functions_of_the_script_that_have_a_cache_travel(run_script, how):
    done = run_script(
        """
import flowpar, functools, typing

@functools.lru_cache(maxsize=None)
def fib(n):
    "Numbers."
    return n if n < 2 else fib(n - 1) + fib(n - 2)

@functools.cache
def square(n):
    return n * n

def both(n):
    return fib(n) + square(n)

class Shape:
    @functools.lru_cache(4)
    def corners(self, more):
        return 4 + more

T = typing.TypeVar("T")

def tell(f):
    return f(70), f.__name__, f.__doc__, f.cache_info().hits > 0, f.cache_parameters()["maxsize"]

with flowpar.Pool(2) as pool:
    assert pool.map(fib, [30, 60]) == [832040, 1548008755920]
    assert pool.map(both, [3, 4]) == [11, 19]
    assert list(pool.imap(fib, iter([5, 6]))) == [5, 8]
    assert pool.apply(tell, (fib,)) == (190392490709135, "fib", "Numbers.", True, None)
    assert pool.apply(lambda: fib)(10) == 55
    assert pool.apply(lambda shape: shape.corners(1), (Shape(),)) == 5
    assert pool.map(lambda _: repr(T), [1]) == pool.map(repr, [T]) == ["~T"]
assert flowpar.delayed(both)(5).compute(scheduler="processes") == 30
assert flowpar.spawn(fib, 20).result() == 6765
print("all right")
""",
        how=how,
    )
    assert done.stdout.strip() == "all right", done.stderr
