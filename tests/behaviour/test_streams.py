"""Streams through several stages, and `spawn`: any number of items in constant memory."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest

import flowpar


def square(n):
    return n * n


def fails_at(*bad):
    def call(n):
        if n in bad:
            raise ValueError(f"no {n}")
        return n

    return call


def outcomes(iterator):
    found = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except Exception as error:
            found.append(type(error).__name__)


POOLS = pytest.mark.parametrize("pool", ["threads", "processes"])


class TestImap:
    @POOLS
    def test_values_in_order_and_as_they_come(self, pool):
        assert list(flowpar.imap(square, range(2_000), pool=pool)) == [n * n for n in range(2_000)]
        found = flowpar.imap_unordered(square, range(2_000), pool=pool)
        assert sorted(found) == [n * n for n in range(2_000)]
        assert list(flowpar.imap(square, [], pool=pool)) == []

    @POOLS
    def test_endless_inputs_are_read_as_values_are_taken(self, pool):
        numbers = itertools.count()
        values = flowpar.imap(square, numbers, pool=pool, window=7)
        assert list(itertools.islice(values, 30)) == [n * n for n in range(30)]
        del values
        gc.collect()
        assert next(numbers) <= 30 + 7 + 2

    @POOLS
    def test_it_goes_on_after_errors(self, pool):
        expected = [0, "ValueError", 2, "ValueError", *range(4, 50)]
        assert outcomes(flowpar.imap(fails_at(1, 3), range(50), pool=pool)) == expected

    def test_a_timeout_is_of_each_call(self):
        import time

        values = flowpar.imap(time.sleep, [0, 60, 0], timeout=0.5)
        assert outcomes(values) == [None, "TaskTimeout", None]


class TestStream:
    def test_several_stages(self):
        offset = 1
        found = (
            flowpar.stream(range(1_000))
            .map(lambda n: n + offset)
            .map(square, pool="processes")
            .batch(64)
            .map(sum)
        )
        squares = [n * n for n in range(1, 1_001)]
        assert list(found) == [sum(squares[at : at + 64]) for at in range(0, 1_000, 64)]
        assert found.run() == 16

    def test_order_is_given_up_where_asked(self):
        found = flowpar.stream(range(500)).map(square, ordered=False).map(abs, ordered=False)
        assert sorted(found) == [n * n for n in range(500)]

    def test_errors_of_any_stage_pass_by_those_after_it(self):
        def given(errors):
            made = flowpar.stream(range(10), errors=errors)
            return made.map(fails_at(3)).map(fails_at(7), pool="processes").map(lambda n: n * 10)

        assert outcomes(iter(given("raise"))) == [
            "ValueError" if n in {3, 7} else n * 10 for n in range(10)
        ]
        assert list(given("skip")) == [n * 10 for n in range(10) if n not in {3, 7}]
        found = list(given("return"))
        assert [str(found[n]) for n in (3, 7)] == ["no 3", "no 7"]
        with pytest.raises(ValueError, match="no 3"):
            given("raise").run()

    def test_a_source_that_raises_ends_it_after_what_it_gave(self):
        def source():
            yield from range(5)
            raise RuntimeError("no more")

        found = outcomes(iter(flowpar.stream(source()).map(square).map(abs)))
        assert found == [0, 1, 4, 9, 16, "RuntimeError"]

    def test_a_batch_holds_what_did_not_fail(self):
        found = flowpar.stream(range(7), errors="skip").map(fails_at(2)).batch(3)
        assert list(found) == [[0, 1, 3], [4, 5, 6]]

    def test_a_slow_end_holds_up_the_beginning(self):
        gate, read = threading.Event(), []

        def source():
            for n in itertools.count():
                read.append(n)
                yield n

        values = iter(
            flowpar.stream(source()).map(square, window=5).map(lambda n: gate.wait(60), window=5)
        )
        gate.set()
        assert next(values)
        gate.clear()
        # One stage holds five, and so does the next; each reader may have one in its hands.
        assert len(read) <= 2 * 5 + 4
        gate.set()
        values.close()

    def test_leaving_early_ends_all_of_it(self):
        ended = threading.Event()

        def source():
            try:
                yield from itertools.count()
            finally:
                ended.set()

        before = threading.active_count()
        for value in flowpar.stream(source()).map(square).map(abs, pool="processes").batch(3):
            if value[0] > 1_000:
                break
        gc.collect()
        assert ended.wait(30)
        deadline = threading.Event()
        for _ in range(2_000):
            if threading.active_count() <= before + 1:  # the pool of processes is kept
                return
            deadline.wait(0.005)
        pytest.fail(f"{threading.enumerate()}")

    def test_it_may_be_gone_through_again(self):
        found = flowpar.stream([1, 2, 3]).map(square)
        assert list(found) == list(found) == [1, 4, 9]
        assert list(flowpar.stream("abc")) == ["a", "b", "c"]

    def test_deaths_are_errors_of_their_items(self):
        def call(n):
            if n == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return n

        found = flowpar.stream(range(10), errors="return").map(call, pool="processes")
        assert [type(value).__name__ for value in found].index("WorkerDied") == 5

    def test_a_bar(self, capsys):
        found = flowpar.stream(range(20), progress=True).map(square)
        assert len(list(found)) == 20
        assert "20item" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "wrong",
        [
            {"pool": "magic"},
            {"workers": 0},
            {"window": 0},
            {"timeout": -1},
            {"ordered": "yes"},
        ],
    )
    def test_what_is_wrong_is_refused(self, wrong):
        with pytest.raises(flowpar.OptionError):
            flowpar.stream([]).map(square, **wrong)

    def test_more_that_is_wrong(self):
        with pytest.raises(flowpar.OptionError):
            flowpar.stream([], errors="magic")
        with pytest.raises(flowpar.OptionError):
            flowpar.stream([]).batch(0)
        with pytest.raises(TypeError):
            flowpar.stream([]).map(3)
        with pytest.raises(TypeError):
            iter(flowpar.stream(3))

    def test_memory_stays_flat(self):
        script = """
import flowpar
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
values = flowpar.imap_unordered(abs, range(300_000), chunksize=50)
for n, _ in enumerate(values):
    if n == 20_000:
        early = resident()
print((resident() - early) / 1e6)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=110
        )
        assert float(done.stdout) < 20, done.stderr


class TestSpawn:
    def test_its_value_is_not_lost(self):
        offset = 3
        made = flowpar.spawn(lambda n, *, more: (n + offset + more, os.getpid()), 4, more=1)
        value, pid = made.result(60)
        assert value == 8
        assert pid not in {os.getpid(), None}
        assert made.exception() is None
        assert made.done()
        assert not made.is_alive()

    def test_errors_deaths_and_kills(self):
        with pytest.raises(ZeroDivisionError):
            flowpar.spawn(divmod, 1, 0).result(60)
        assert isinstance(flowpar.spawn(os._exit, 3).exception(60), flowpar.WorkerDied)
        gate = flowpar.spawn(signal.pause)
        pid = gate.pid
        os.kill(pid, 0)
        with pytest.raises(TimeoutError):
            gate.result(timeout=0.01)
        assert gate.is_alive()
        gate.kill()
        with pytest.raises(flowpar.Cancelled):
            gate.result(60)
        gate.join()

    def test_several_run_at_once(self):
        made = [flowpar.spawn(square, n) for n in range(4)]
        assert [each.result(60) for each in made] == [0, 1, 4, 9]

    def test_a_program_waits_for_those_that_run(self, tmp_path):
        script = """
import flowpar, sys, time
def touch(path):
    time.sleep(0.3)
    open(path, "w").close()
flowpar.spawn(touch, sys.argv[1])
"""
        path = tmp_path / "touched"
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
        assert path.exists()

    def test_ctrl_c_ends_them(self):
        script = """
import flowpar, time
made = flowpar.spawn(time.sleep, 100)
print(made.pid, flush=True)
made.result()
"""
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            pid = int(child.stdout.readline())
            child.send_signal(signal.SIGINT)
            assert child.wait(30) != 0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_what_cannot_be_called_or_sent(self):
        with pytest.raises(TypeError):
            flowpar.spawn(3)
        assert isinstance(flowpar.spawn(abs, threading.Lock()).exception(60), flowpar.NotPicklable)
