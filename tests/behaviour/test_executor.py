"""`flowpar.Executor`: concurrent.futures' interface, with what its own executors cannot do."""

import concurrent.futures
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import flowpar


@pytest.fixture(params=["threads", "processes"])
def executor(request):
    with flowpar.Executor(2, threads=request.param == "threads") as made:
        yield made


@pytest.fixture
def processes():
    with flowpar.Executor(2) as made:
        yield made


def square(n):
    return n * n


def test_submit_and_map(executor):
    offset = 1
    futures = [executor.submit(lambda n: n + offset, n) for n in range(50)]
    assert [future.result(60) for future in futures] == list(range(1, 51))
    assert list(executor.map(pow, range(9), itertools.repeat(2))) == [n * n for n in range(9)]
    assert executor.submit(dict, [("a", 1)], b=2).result(60) == {"a": 1, "b": 2}


def test_waits_and_callbacks_of_concurrent_futures(executor):
    told = []
    futures = [executor.submit(square, n) for n in range(10)]
    for future in futures:
        future.add_done_callback(told.append)
    found = {future.result() for future in concurrent.futures.as_completed(futures, timeout=60)}
    assert found == {n * n for n in range(10)}
    done, left = concurrent.futures.wait(futures)
    assert (len(done), len(left)) == (10, 0)
    assert sorted(future.result() for future in told) == sorted(found)


def test_errors_arrive_as_they_are(executor):
    with pytest.raises(ZeroDivisionError) as caught:
        executor.submit(divmod, 1, 0).result(60)
    assert any("divmod(1, 0)" in note for note in caught.value.__notes__)
    values = executor.map(int, ["1", "x", "3"])
    assert next(values) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(values)
    with pytest.raises(StopIteration):
        next(values)


class TestDependencies:
    def test_futures_are_arguments(self, executor):
        three = executor.submit(len, "abc")
        nine = executor.submit(pow, three, exp=executor.submit(abs, -2))
        assert nine.result(60) == 9
        assert executor.submit(sum, [three, nine, 1]).result(60) == 13
        assert executor.submit(lambda d: d["a"][0], {"a": (nine,)}).result(60) == 9

    def test_long_chains_do_not_need_a_worker_each(self, executor):
        value = executor.submit(abs, 0)
        for _ in range(300):
            value = executor.submit(lambda n: n + 1, value)
        assert value.result(60) == 300

    def test_what_fails_fails_those_who_wait_for_it(self, executor):
        bad = executor.submit(divmod, 1, 0)
        worse = executor.submit(abs, bad)
        assert isinstance(executor.submit(abs, worse).exception(60), ZeroDivisionError)

    def test_shutdown_waits_for_them(self):
        gate = threading.Event()
        executor = flowpar.Executor(1, threads=True)
        first = executor.submit(gate.wait, 60)
        second = executor.submit(lambda done: (done, "then"), first)
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(abs, 1)
        gate.set()
        assert second.result(60) == (True, "then")
        executor.shutdown()


class TestCancelling:
    def test_what_no_worker_has_begun_can_be_cancelled(self):
        gate = threading.Event()
        with flowpar.Executor(1, threads=True) as executor:
            futures = [executor.submit(gate.wait, 60) for _ in range(5)]
            assert futures[-1].cancel()
            gate.set()
            assert [future.cancelled() for future in futures] == [False] * 4 + [True]
            assert executor.submit(abs, -1).result(60) == 1

    def test_shutdown_can_cancel_them(self):
        gate = threading.Event()
        executor = flowpar.Executor(1, threads=True)
        futures = [executor.submit(gate.wait, 60) for _ in range(20)]
        executor.shutdown(wait=False, cancel_futures=True)
        gate.set()
        executor.shutdown()
        assert futures[0].result(60)
        assert futures[-1].cancelled()
        assert all(future.done() for future in futures)


class TestProcesses:
    def test_a_timeout_ends_the_call_and_no_other(self, processes):
        late = processes.options(timeout=0.3).submit(time.sleep, 60)
        assert processes.submit(square, 3).result(60) == 9
        assert isinstance(late.exception(60), flowpar.TaskTimeout)
        assert isinstance(late.exception(), TimeoutError)
        assert processes.submit(square, 4).result(60) == 16

    def test_it_heals_after_a_death(self, processes):
        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        for _ in range(3):
            assert isinstance(processes.submit(die).exception(60), flowpar.WorkerDied)
            assert processes.submit(square, 5).result(60) == 25

    def test_initializers(self):
        def begin(value):
            os.environ["FLOWPAR_TEST_VALUE"] = value

        with flowpar.Executor(1, initializer=begin, initargs=("7",)) as executor:
            assert executor.submit(os.getenv, "FLOWPAR_TEST_VALUE").result(60) == "7"

        def fail():
            raise RuntimeError("cannot begin")

        with flowpar.Executor(1, initializer=fail) as executor:
            assert isinstance(executor.submit(abs, 1).exception(60), flowpar.PoolError)


class TestMap:
    def test_buffersize_bounds_what_is_read(self, executor):
        numbers = itertools.count()
        values = executor.map(square, numbers, buffersize=5)
        assert list(itertools.islice(values, 20)) == [n * n for n in range(20)]
        values.close()
        assert next(numbers) <= 20 + 5 + 2

    def test_all_is_called_where_nobody_takes(self, tmp_path):
        with flowpar.Executor(2, threads=True) as executor:
            executor.map(lambda n: (tmp_path / str(n)).touch(), range(200))
        assert len(list(tmp_path.iterdir())) == 200

    def test_all_is_called_at_once_where_nobody_takes(self, executor, tmp_path):
        kept = executor.map(lambda n: (tmp_path / str(n)).touch(), range(1_000))
        # Before any shutdown, which waits for all that there is.
        pause, deadline = threading.Event(), time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 1_000 and time.monotonic() < deadline:
            pause.wait(0.01)
        assert len(list(kept)) == len(list(tmp_path.iterdir())) == 1_000

    def test_a_timeout_is_of_the_whole(self):
        gate = threading.Event()
        with flowpar.Executor(1, threads=True) as executor:
            values = executor.map(gate.wait, [60], timeout=0.05)
            with pytest.raises(concurrent.futures.TimeoutError):
                next(values)
            gate.set()

    def test_chunks(self, executor):
        assert list(executor.map(square, range(100), chunksize=30)) == [n * n for n in range(100)]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": "2"}, TypeError),
        ({"initializer": 3}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"start_method": "magic"}, ValueError),
    ],
)
def test_what_is_wrong_is_refused(wrong, error):
    with pytest.raises(error):
        flowpar.Executor(**wrong)


def test_wrong_calls_are_refused(executor):
    with pytest.raises(TypeError):
        executor.submit(3)
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(abs, [1], buffersize=0)


def test_a_program_that_ends_waits_for_its_calls(tmp_path):
    script = """
import flowpar, sys, time
def touch(n):
    time.sleep(0.2)
    open(f"{sys.argv[1]}/{n}", "w").close()
executors = [flowpar.Executor(2, threads=kind) for kind in (True, False)]
for n, executor in enumerate(executors):
    for k in range(4):
        executor.submit(touch, 4 * n + k)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert len(list(tmp_path.iterdir())) == 8


def test_one_that_is_forgotten_ends_its_workers():
    future = flowpar.Executor(1).options(timeout=30).submit(os.getpid)
    pid = future.result(60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
    pytest.fail("its worker goes on")


class TestHardCases:
    def test_many_cancelled_ones_hurt_no_other(self, executor):
        futures = [executor.submit(square, n) for n in range(2_000)]
        for future in futures[1::2]:
            future.cancel()
        assert [future.result(60) for future in futures[::2]] == [n * n for n in range(0, 2_000, 2)]
        assert all(
            future.cancelled() or future.result(60) == n * n for n, future in enumerate(futures)
        )

    def test_map_and_submit_of_one_function_at_once(self, executor):
        maps = [executor.map(square, range(40)) for _ in range(3)]
        futures = [executor.submit(square, n) for n in range(50)]
        assert [future.result(60) for future in futures] == [n * n for n in range(50)]
        assert [list(each) for each in maps] == [[n * n for n in range(40)]] * 3

    def test_a_timeout_holds_behind_quick_calls(self, processes):
        quick = [processes.submit(square, n) for n in range(300)]
        late = processes.options(timeout=0.3).submit(time.sleep, 60)
        assert isinstance(late.exception(60), flowpar.TaskTimeout)
        assert [future.result(60) for future in quick] == [n * n for n in range(300)]

    def test_a_timeout_of_all_is_one_of_map(self):
        with flowpar.Executor(1, timeout=0.3) as executor:
            with pytest.raises(flowpar.TaskTimeout):
                list(executor.map(time.sleep, [0, 60]))

    @pytest.mark.parametrize("threads", [True, False])
    def test_a_callback_that_exits_harms_nobody(self, threads):
        def leave(future):
            raise SystemExit(3)

        with flowpar.Executor(2, threads=threads) as executor:
            with pytest.warns(flowpar.FlowparWarning, match="SystemExit"):
                futures = [executor.submit(square, n) for n in range(100)]
                futures[50].add_done_callback(leave)
                assert [future.result(60) for future in futures] == [n * n for n in range(100)]
                executor.submit(square, 1).result(60)

    @pytest.mark.parametrize("how", ["fail", "cancel"])
    def test_the_end_of_a_long_chain_hears_of_its_beginning(self, how):
        with flowpar.Executor(1, threads=True) as executor:
            gate = threading.Event()
            first = executor.submit(gate.wait, 60)
            head = executor.submit(divmod, 1, 0)
            if how == "cancel":
                head.cancel()
            last = head
            for _ in range(2_000):
                last = executor.submit(abs, last)
            gate.set()
            first.result(60)
            kinds = (ZeroDivisionError, concurrent.futures.CancelledError)
            with pytest.raises(kinds):
                last.result(60)

    def test_those_who_wait_hear_of_a_cancelled_one(self, executor):
        never = concurrent.futures.Future()
        future = executor.submit(abs, never)
        assert future.cancel()
        assert concurrent.futures.wait([future], 60).done == {future}
        never.cancel()

    def test_shutdown_in_a_callback_does_not_wait_for_itself(self):
        executor = flowpar.Executor(1, threads=True)
        gate = threading.Event()
        first, second = executor.submit(gate.wait, 60), executor.submit(square, 3)
        first.add_done_callback(lambda _: executor.shutdown())
        gate.set()
        assert second.result(60) == 9

    def test_forked_children_end(self, executor):
        executor.submit(square, 1).result(60)
        pid = os.fork()
        if not pid:
            try:
                executor.submit(square, 1)
            except flowpar.PoolError:
                executor.shutdown()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    def test_ctrl_c_does_not_wait_for_what_runs(self):
        script = """
import flowpar, time
with flowpar.Executor(2) as executor:
    future = executor.submit(time.sleep, 100)
    future.add_done_callback(print)
    print("ready", flush=True)
    future.result()
"""
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        with child:
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(30) != 0  # and not after a hundred seconds

    def test_what_was_submitted_is_done_though_nobody_has_the_executor(self, tmp_path):
        script = """
import flowpar, sys, time
def work(path):
    time.sleep(0.3)
    open(path, "w").close()
def main():
    flowpar.Executor(1, threads=sys.argv[2] == "threads").submit(work, sys.argv[1])
main()
"""
        for kind in ("threads", "processes"):
            path = tmp_path / kind
            command = [sys.executable, "-c", script, str(path), kind]
            subprocess.run(command, check=True, timeout=60)
            assert path.exists()

    def test_an_input_that_raises_does_so_where_it_is_given(self, executor):
        with pytest.raises(ZeroDivisionError):
            executor.map(abs, (1 // n for n in (1, 0)))
