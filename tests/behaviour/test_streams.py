"""Streams, of one stage or several: any number of items in constant memory."""

import asyncio
import gc
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.calls import fails_at, outcomes

import flowpar


def square(n):
    return n * n


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

    @POOLS
    def test_coroutines_are_awaited(self, pool):
        async def later(n):
            await asyncio.sleep(0)
            return -n

        assert list(flowpar.imap(later, range(300), pool=pool)) == [-n for n in range(300)]
        found = flowpar.imap_unordered(later, range(50), pool=pool, workers=2, timeout=60)
        assert sorted(found) == [-n for n in range(49, -1, -1)]

    def test_many_coroutines_wait_at_once(self):
        waiting, all_there = [], asyncio.Event()

        async def all_at_once(n):
            waiting.append(n)
            if len(waiting) == 20:
                all_there.set()
            await all_there.wait()
            return n

        assert list(flowpar.imap(all_at_once, range(20), pool="threads")) == list(range(20))
        with pytest.raises(flowpar.OptionError, match="chunksize"):
            flowpar.imap(all_at_once, [], pool="threads", chunksize=3)

    @POOLS
    def test_chunks_wait_for_nothing_that_comes_of_their_values(self, pool):
        fed = queue.SimpleQueue()
        fed.put(1)
        values = flowpar.imap(square, iter(fed.get, None), pool=pool, chunksize=3)
        for n in range(2, 6):
            assert next(values) == (n - 1) ** 2
            fed.put(n)
        fed.put(None)
        assert list(values) == [25]

    @POOLS
    def test_two_threads_share_what_there_is(self, pool):
        values = flowpar.imap(square, range(2_000), pool=pool)
        with ThreadPoolExecutor(2) as executor:
            found = [executor.submit(list, values) for _ in range(2)]
        shares = [each.result() for each in found]
        assert sorted(itertools.chain(*shares)) == [n * n for n in range(2_000)]

    @POOLS
    def test_who_waits_is_told_when_another_closes_it(self, pool):
        never = threading.Event()
        values = flowpar.imap(square, iter(never.wait, None), pool=pool)
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(next, values, "closed")
            values.close()
            assert waiting.result(60) == "closed"
        assert list(values) == []
        never.set()

    def test_a_forked_process_does_not_wait_for_it(self, run_script):
        done = run_script("""
import flowpar, os
values = flowpar.imap(abs, range(1000))
made = flowpar.spawn(abs, -1)
next(values)
pid = os.fork()
if not pid:
    for what in (lambda: list(values), lambda: flowpar.spawn(abs, -7).result()):
        try:
            print(what(), flush=True)
        except flowpar.PoolError as error:
            print("refused", "forked" in str(error), flush=True)
    raise SystemExit  # its end waits for nothing of the parent's
os.waitpid(pid, 0)
print(len(list(values)), made.result())
""")
        assert done.stdout.split("\n")[:3] == ["refused True", "7", "999 1"]

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

    @pytest.mark.parametrize("errors", ["raise", "skip", "return"])
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize("stages", range(3))
    def test_what_the_source_raises_comes_last_whatever_is_said_of_errors(
        self, errors, ordered, stages
    ):
        def source():
            yield from range(5)
            raise RuntimeError("no more")

        found = flowpar.stream(source(), errors=errors).batch(2)
        for _ in range(stages):
            found = found.map(sorted, ordered=ordered, pool="processes")
        *values, last = outcomes(iter(found))
        assert sorted(values) == [[0, 1], [2, 3], [4]]
        assert last == "RuntimeError"

    @pytest.mark.parametrize("errors", ["raise", "skip", "return"])
    def test_what_no_item_is_to_blame_for_is_raised_whatever_is_said(self, errors):
        lock = threading.Lock()
        found = flowpar.stream([1, 2], errors=errors).map(lambda n: (n, lock), pool="processes")
        with pytest.raises(flowpar.NotPicklable, match="function"):
            list(found)

    @POOLS
    @pytest.mark.parametrize("window", [4, None])
    def test_what_fails_before_a_stage_does_not_keep_its_chunks_from_being_sent(self, pool, window):
        def only_tens(n):
            if n % 10:
                raise ValueError
            return n

        found = flowpar.stream(range(500), errors="skip").map(only_tens)
        found = found.map(square, pool=pool, chunksize=4, window=window)
        assert list(found) == [n * n for n in range(0, 500, 10)]

    def test_streams_that_were_left_leave_no_threads(self):
        def mine():
            return [each for each in threading.enumerate() if each.name == "flowpar reads"]

        for _ in range(5):
            left = iter(flowpar.stream(itertools.count()).map(abs).batch(2).map(sum))
            next(left)
            left.close()
        for each in mine():
            each.join(60)
        assert mine() == []

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

    def test_large_items_go_when_they_were_called(self):
        script = """
import flowpar, gc
gc.disable()  # nothing may depend on it
most = 0
for size in flowpar.imap(len, (bytearray(20_000_000) for _ in range(40)), window=4):
    assert size == 20_000_000
table = bytearray(20_000_000)
for size in flowpar.imap(lambda pair: len(pair[0]), ((table, n) for n in range(100))):
    assert size == 20_000_000
with open("/proc/self/status") as file:
    print([int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM")][0])
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=110
        )
        assert float(done.stdout) < 500, done.stderr  # all together are 800 MB
