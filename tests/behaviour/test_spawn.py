"""`spawn`: one function in a process of its own, whose value does not get lost."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

import flowpar
from flowpar import delayed


def square(n):
    return n * n


def test_its_value_is_not_lost():
    offset = 3
    made = flowpar.spawn(lambda n, *, more: (n + offset + more, os.getpid()), 4, more=1)
    value, pid = made.result(60)
    assert value == 8
    assert pid not in {os.getpid(), None}
    assert made.exception() is None
    assert made.done()
    assert not made.is_alive()


def test_errors_deaths_and_kills():
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


def test_several_run_at_once():
    made = [flowpar.spawn(square, n) for n in range(4)]
    assert [each.result(60) for each in made] == [0, 1, 4, 9]


def test_a_program_waits_for_those_that_run(tmp_path):
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


def test_ctrl_c_ends_them():
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


def test_what_cannot_be_called_or_sent():
    with pytest.raises(TypeError):
        flowpar.spawn(3)
    assert isinstance(flowpar.spawn(abs, threading.Lock()).exception(60), flowpar.NotPicklable)


def test_coroutines_and_delayed_calls_are_computed_there():
    async def later(n):
        await asyncio.sleep(0)
        return n, os.getpid()

    value, pid = flowpar.spawn(later, 3).result(60)
    assert (value, pid != os.getpid()) == (3, True)
    assert flowpar.spawn(delayed(square), 3).result(60) == 9
    assert flowpar.spawn(lambda: delayed(square)(delayed(square)(2))).result(60) == 16


def test_its_threads_end_before_it_does(tmp_path):
    def start():
        def write():
            (tmp_path / "written").write_text("all of it")

        go = threading.Event()
        last = threading.Thread(target=lambda: (go.wait(), write()))
        threading.Thread(target=last.start).start()  # threads may start others
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        threading.Timer(0.2, go.set).start()

    flowpar.spawn(start).result(60)
    assert (tmp_path / "written").read_text() == "all of it"


def test_who_is_killed_before_it_has_begun_is_not_replaced(tmp_path):
    class Slow:
        def __reduce__(self):
            return signal.pause, ()  # as it is loaded

    made = flowpar.spawn(lambda _: None, Slow())
    pid = made.pid
    os.kill(pid, signal.SIGKILL)
    assert isinstance(made.exception(60), flowpar.WorkerDied)
    assert made.pid == pid


@pytest.mark.filterwarnings("ignore::flowpar.FlowparWarning")
@pytest.mark.parametrize("ending", ["", "made.join()", "del made; import time; time.sleep(0.5)"])
def test_errors_that_nobody_asks_for_are_told(run_script, ending):
    done = run_script(f"""
import flowpar
made = flowpar.spawn(lambda: 1 / 0)
{ending}
""")
    assert "ZeroDivisionError" in done.stderr
    assert "nobody asked" in done.stderr


def test_errors_that_somebody_has_asked_for_are_not(run_script):
    done = run_script("""
import flowpar
assert flowpar.spawn(lambda: 1 / 0).exception()
made = flowpar.spawn(input)
made.kill()
""")
    assert done.stderr == ""


def test_one_that_cannot_be_started_holds_nobody_up(run_script):
    done = run_script("""
import flowpar, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
try:
    flowpar.spawn(abs, 1).result()
except (OSError, flowpar.PoolError) as error:
    print("refused")
""")
    assert "refused" in done.stdout
