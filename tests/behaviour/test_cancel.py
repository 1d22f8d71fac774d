"""A run that is no longer wanted ends soon, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import sys
import threading
import time

import pexpect
import pytest
from conftest import children, wait_until
from support.gates import hold, mark, marks

import flowpar
from flowpar import delayed


@pytest.fixture
def gate(tmp_path):
    """What holds a task back; opened when the test ends, for threads that cannot be stopped."""
    path = tmp_path / "gate"
    yield str(path)
    path.touch()


def running_threads():
    return [t for t in threading.enumerate() if t.name == "flowpar-run"]


def mark_and_hold(path, gate):
    mark(path)
    return hold(gate)


@pytest.mark.parametrize("scheduler", ["threads", "processes", "auto"])
def test_cancelling_a_future_ends_its_run(scheduler, gate, tmp_path):
    begun, later = str(tmp_path / "begun"), str(tmp_path / "later")
    task = delayed(mark_and_hold)(begun, gate)
    future = delayed(mark)(later, task).submit(scheduler=scheduler)
    assert wait_until(lambda: marks(begun), 20)
    assert not future.done()
    start = time.monotonic()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(5)
    assert wait_until(lambda: not running_threads())
    assert time.monotonic() - start < 2
    assert marks(later) == []


def test_cancelling_a_serial_run_ends_it_between_two_tasks(gate, tmp_path):
    begun, later = str(tmp_path / "begun"), str(tmp_path / "later")
    task = delayed(mark_and_hold)(begun, gate)
    future = delayed(mark)(later, task).submit(scheduler="sync")
    assert wait_until(lambda: marks(begun), 20)
    assert future.cancel()
    open(gate, "w").close()
    assert wait_until(lambda: not running_threads())
    assert marks(later) == []


def test_cancelling_what_has_ended_does_nothing(own):
    future = delayed(abs)(-1).submit(scheduler=own)
    assert future.result(60) == 1
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 1


def test_cancelling_is_told_to_who_waits_and_to_callbacks(gate):
    future = delayed(hold)(gate).submit(scheduler="threads")
    told = []
    future.add_done_callback(told.append)
    waiting = threading.Timer(0.05, future.cancel)
    waiting.start()
    done, _ = concurrent.futures.wait([future], timeout=10)
    waiting.join()
    assert done == {future}
    assert told == [future]


def test_cancelling_many_at_once_raises_in_no_thread(own):
    for _ in range(30):
        future = flowpar.submit([delayed(abs)(-i) for i in range(50)], scheduler=own)
        if future.cancel():
            assert future.cancelled()
        else:
            assert future.result() == list(range(50))
    assert wait_until(lambda: not running_threads())


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_leaving_the_loop_over_as_completed_ends_the_run(scheduler, gate, tmp_path):
    later = str(tmp_path / "later")
    held = delayed(hold)(gate)
    values = flowpar.as_completed(
        [delayed(abs)(-1), delayed(mark)(later, held)], scheduler=scheduler, workers=2
    )
    for value in values:
        assert value == 1
        break
    start = time.monotonic()
    values.close()
    assert time.monotonic() - start < 2
    assert wait_until(lambda: not running_threads())
    assert marks(later) == []


def test_an_error_in_the_loop_ends_the_run_too(gate):
    def use():
        for _ in flowpar.as_completed([delayed(abs)(-1), delayed(hold)(gate)], scheduler="threads"):
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert wait_until(lambda: not running_threads())


def test_cancelling_a_coroutine_that_waits_for_a_value_ends_the_run(gate):
    async def main():
        task = asyncio.ensure_future(_value_of(delayed(hold)(gate)))
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with flowpar.options(scheduler="threads"):
        asyncio.run(main())
    assert wait_until(lambda: not running_threads())


async def _value_of(x):
    return await x


def test_a_coroutine_task_gets_a_cancelled_error_where_it_waits():
    cleaned, waits = threading.Event(), threading.Event()

    @delayed
    async def f():
        try:
            waits.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    future = f().submit(scheduler="threads")
    assert waits.wait(20)
    assert future.cancel()
    assert cleaned.wait(5)


# --------------------------------------------------------------------------------- Ctrl-C

SCRIPT = """
import os, sys, threading
sys.path.insert(0, {tests!r})
from support.gates import hold, mark
import flowpar
good = flowpar.delayed(abs)(-5)
held = [flowpar.delayed(hold, name="held").options(after=good)({gate!r}) for _ in range(3)]
tasks = [flowpar.delayed(mark, name="begun").options(after=good)({begun!r})]
try:
    flowpar.compute(good, *tasks, *held, scheduler={scheduler!r}, workers=4)
except KeyboardInterrupt as interrupt:
    print("FINISHED", interrupt.run.finished.get("abs"), interrupt.run.status, flush=True)
print("NEXT", flowpar.delayed(abs)(-7).compute(scheduler={scheduler!r}, workers=4), flush=True)
{end}
"""


def script(tmp_path, scheduler, end=""):
    path = tmp_path / "script.py"
    path.write_text(
        SCRIPT.format(
            tests=os.path.dirname(os.path.dirname(__file__)),
            gate=str(tmp_path / "gate"),
            begun=str(tmp_path / "begun"),
            scheduler=scheduler,
            end=end,
        )
    )
    return str(path)


def test_ctrl_c_ends_the_run_within_a_second(own, tmp_path):
    before = children()
    child = pexpect.spawn(sys.executable, [script(tmp_path, own)], encoding="utf-8", timeout=30)
    try:
        assert wait_until(lambda: marks(tmp_path / "begun"), 30)
        start = time.monotonic()
        child.sendintr()
        child.expect("FINISHED 5 interrupted")
        assert time.monotonic() - start < 1
        assert "Traceback" not in child.before
        child.expect("NEXT 7")
        child.expect(pexpect.EOF)
        assert "Traceback" not in child.before
    finally:
        (tmp_path / "gate").touch()
        child.close(force=True)
    assert child.exitstatus == 0
    assert wait_until(lambda: children() <= before)


def test_ctrl_c_that_nobody_catches_ends_the_program_with_one_traceback(own, tmp_path):
    before = children()
    path = script(tmp_path, own).replace("script.py", "script.py")
    text = (tmp_path / "script.py").read_text()
    (tmp_path / "script.py").write_text(re.sub(r"except Key.*\n.*\n", "finally:\n    pass\n", text))
    child = pexpect.spawn(sys.executable, [path], encoding="utf-8", timeout=30)
    try:
        assert wait_until(lambda: marks(tmp_path / "begun"), 30)
        start = time.monotonic()
        child.sendintr()
        child.expect(pexpect.EOF)
        assert time.monotonic() - start < 1.5
        assert child.before.count("Traceback") == 1
        assert child.before.rstrip().endswith("KeyboardInterrupt")
    finally:
        (tmp_path / "gate").touch()
        child.close(force=True)
    assert wait_until(lambda: children() <= before)


@pytest.mark.slow
def test_ctrl_c_twice_in_a_row_and_at_the_prompt(tmp_path):
    child = pexpect.spawn(sys.executable, ["-q"], encoding="utf-8", timeout=20)
    try:
        child.expect(">>> ")
        child.sendline("import flowpar, threading; wait = threading.Event().wait")
        child.expect(">>> ")
        for scheduler in ("threads", "processes", "sync"):
            child.sendline(f"flowpar.delayed(wait)(60).compute(scheduler={scheduler!r})")
            if scheduler == "processes":
                child.expect(">>> ")  # an Event does not pickle
                child.sendline("def slow(): import select; select.select([], [], [], 60)\n")
                child.expect(">>> ")
                child.sendline("flowpar.delayed(slow)().compute(scheduler='processes')")
            child.expect("\n")
            assert child.expect([">>> ", pexpect.TIMEOUT], timeout=1) == 1
            start = time.monotonic()
            child.sendintr()
            child.sendintr()
            child.expect("KeyboardInterrupt")
            child.expect(">>> ")
            assert time.monotonic() - start < 2
        child.sendline("flowpar.delayed(abs)(-42).compute(scheduler='processes')")
        child.expect("42\r\n")
    finally:
        child.close(force=True)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_what_was_quick_in_another_run_holds_up_no_results(scheduler, tmp_path):
    def wait_for(path):
        import pathlib
        import time

        until = time.monotonic() + 30
        while not pathlib.Path(path).exists():
            assert time.monotonic() < until, "nobody came"
            time.sleep(0.01)

    there, missing = tmp_path / "there", tmp_path / "missing"
    there.touch()
    quick, waits = delayed(abs), delayed(wait_for)
    for _ in range(2):
        flowpar.compute([[quick(-1), waits(str(there))] for _ in range(5)], scheduler=scheduler)
    values = flowpar.as_completed([quick(-1), waits(str(missing))], scheduler=scheduler, workers=2)
    assert next(values) == 1
    missing.touch()
    assert list(values) == [None]
