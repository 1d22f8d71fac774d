"""Under ``capture=`` what tasks print and log is kept, each with its task."""

import contextlib
import logging
import subprocess
import sys

import pytest

import flowpar
from flowpar import delayed
from flowpar.pools import capturing


@delayed
def talk(n):
    print("said", n)
    print("complained", n, file=sys.stderr)
    logging.getLogger("talk").warning("logged %s", n)
    if n == 3:
        raise ValueError("as it should")
    return n


@delayed
async def talk_later(n):
    import asyncio

    await asyncio.sleep(0.01)
    print("said", n)
    await asyncio.sleep(0.01)
    print("said again", n)


OWN = pytest.mark.parametrize("own", ["sync", "threads", "processes", "auto"])


def text(n):
    return f"said {n}\ncomplained {n}\nWARNING talk: logged {n}\n"


@contextlib.contextmanager
def no_handlers():
    """Have the root logger as it is in a script that has not set it up; pytest has."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        yield
        assert root.handlers == []
    finally:
        root.handlers = handlers


@pytest.fixture(autouse=True)
def _streams_as_before():
    before = sys.stdout, sys.stderr, [*logging.getLogger().handlers]
    yield
    assert (sys.stdout, sys.stderr, [*logging.getLogger().handlers]) == before
    assert capturing._users == 0


@OWN
def test_an_error_tells_what_its_task_wrote(own):
    with no_handlers(), pytest.raises(flowpar.RunFailed) as caught:
        flowpar.compute(
            [talk(n) for n in range(5)], scheduler=own, capture="failed", on_error="continue"
        )
    (error,) = caught.value.exceptions
    assert error.__notes__[-1] == ("It wrote:\n  said 3\n  complained 3\n  WARNING talk: logged 3")
    output = {task.key: task.output for task in caught.value.run.tasks}
    assert output == {f"talk[{n}]": text(3) if n == 3 else None for n in range(5)}


@OWN
def test_all_is_printed_with_its_task_and_in_the_records(own, capfd):
    with no_handlers():
        done = flowpar.run([talk(n) for n in range(3)], scheduler=own, capture="all")
    assert [task.output for task in done.tasks] == [text(n) for n in range(3)]
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == sorted(
        f"[talk[{n}]] {line}" for n in range(3) for line in text(n).splitlines()
    )
    assert "complained" not in err


@OWN
def test_nothing_is_captured_unless_asked(own):
    done = flowpar.run([talk(n) for n in range(2)], scheduler=own)
    assert [task.output for task in done.tasks] == [None, None]


def test_coroutines_that_take_turns_are_told_apart(capfd):
    done = flowpar.run([talk_later(n) for n in range(20)], capture="all")
    assert [task.output for task in done.tasks] == [
        f"said {n}\nsaid again {n}\n" for n in range(20)
    ]


def test_what_others_write_meanwhile_goes_where_it_went(capfd):
    class Chatty:
        def on_output(self, event):
            print("observer heard", event.key)
            logging.getLogger("mine").warning("observer logged")

    with no_handlers():
        flowpar.run(talk(1), scheduler="threads", capture="all", observers=[Chatty()])
    out, err = capfd.readouterr()
    assert "observer heard talk\n" in out
    assert "observer logged" in err


def test_of_much_the_first_and_the_last_is_kept(capfd):
    @delayed
    def shout(n):
        print("first")
        for _ in range(100):
            print("x" * 10_000)
        print("last")

    (record,) = flowpar.run(shout(1), scheduler="sync", capture="all").tasks
    assert record.output.startswith("first\n")
    assert record.output.endswith("last\n")
    assert len(record.output) < 1.1 * capturing.MOST_KEPT
    assert "characters …" in record.output


def test_what_was_printed_comes_again_with_a_value_from_the_cache(tmp_path, capfd):
    values = [talk(n) for n in (0, 1)]
    with no_handlers():
        first = flowpar.run(values, capture="all", cache=tmp_path)
    printed = capfd.readouterr().out
    again = flowpar.run(values, capture="all", cache=tmp_path)
    assert {task.status for task in again.tasks} == {"cached"}
    assert [task.output for task in again.tasks] == [text(0), text(1)]
    assert [task.output for task in first.tasks] == [text(0), text(1)]
    assert sorted(capfd.readouterr().out.splitlines()) == sorted(printed.splitlines())
    flowpar.run(values, cache=tmp_path)
    assert not capfd.readouterr().out


def test_what_another_call_printed_does_not_come_again(tmp_path):
    """Made anew by a run that did not listen, a value has nothing that was printed."""
    loud = delayed(print)("loud")
    flowpar.run(loud, capture="all", cache=tmp_path)
    flowpar.Cache(tmp_path).store().forget_call(trace_key(tmp_path))
    flowpar.run(loud, cache=tmp_path)
    (record,) = flowpar.run(loud, capture="all", cache=tmp_path).tasks
    assert (record.status, record.output) == ("cached", None)


def trace_key(folder):
    ((key,),) = flowpar.Cache(folder).store().query("select key from trace")
    return key


def test_what_was_printed_goes_with_the_traces(tmp_path):
    flowpar.run(delayed(print)("loud"), capture="all", cache=tmp_path)
    store = flowpar.Cache(tmp_path).store()
    assert store.query("select text from output") == [("loud\n",)]
    store.delete_traces()
    assert store.query("select text from output") == []


CROWDED = """
import threading, time
import flowpar

def quick(n):
    time.sleep(0.001)
    if LOUD:
        print("x")
    return n

stopped = []
def user():
    while not stopped:
        print("user")

other = threading.Thread(target=user)
other.start()
task = flowpar.delayed(quick, pool="threads")
for first in range(0, 2000, 200):
    flowpar.compute([task(n) for n in range(first, first + 200)], capture=CAPTURE, workers=4)
stopped.append(True)
other.join()
"""


@pytest.mark.parametrize(("capture", "loud"), [("all", True), ("failed", False)])
def test_who_prints_while_threads_begin_and_end_capturing_is_not_harmed(capture, loud):
    """The streams change under those who print, which once ended the interpreter."""
    script = CROWDED.replace("CAPTURE", repr(capture)).replace("LOUD", str(loud))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("] x") == 2000 * loud
    assert done.stdout.count("user")


@OWN
def test_a_captured_stream_is_like_the_real_one(own):
    def look():
        sys.stdout.buffer.write("bytes ü\n".encode(sys.stdout.encoding))
        sys.stdout.writelines(["some ", "lines\n"])
        return sys.stdout.encoding.lower(), sys.stderr.errors, sys.stdout.writable()

    (record,) = (done := flowpar.run(delayed(look)(), scheduler=own, capture="all")).tasks
    assert done.value[0] == "utf-8"
    assert isinstance(done.value[1], str)
    assert done.value[2]
    assert record.output == "bytes ü\nsome lines\n"


def test_wrong_values_are_refused():
    with pytest.raises(flowpar.OptionError, match="capture"):
        flowpar.run(talk(1), capture="some")
