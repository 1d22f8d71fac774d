"""Progress: what is shown, when, and that nothing is left behind."""

import gc
import io
import os
import re
import subprocess
import sys
import threading

import pexpect
import pyte
import pytest

from flowpar.events import Counts, Observers, Progressed, RunEnded, RunStarted
from flowpar.views.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def started(total=50):
    return RunStarted(counts=Counts(total=total), time=0.0)


def progressed(seconds, *, functions=None, **counts):
    counts = Counts(**{"total": 50, **counts})
    return Progressed(counts=counts, functions=lambda: functions or {}, seconds=seconds)


def ended(seconds, status="done", **counts):
    return RunEnded(counts=Counts(**{"total": 50, **counts}), seconds=seconds, status=status)


def screen(text):
    """Return the lines of a terminal after `text`."""
    terminal = pyte.Screen(100, 40)
    pyte.Stream(terminal).feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))
    lines = [line.rstrip() for line in terminal.display]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


class TestWanted:
    def test_false_is_never(self):
        assert Progress.wanted(False, Terminal()) is None

    def test_none_needs_a_terminal(self):
        assert Progress.wanted(None, io.StringIO()) is None
        assert Progress.wanted(None, Terminal()) is not None

    def test_true_is_always(self):
        assert Progress.wanted(True, io.StringIO()) is not None

    def test_a_program_without_standard_error_has_none(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        assert Progress.wanted(True) is None

    def test_a_closed_stream_is_no_terminal(self):
        stream = io.StringIO()
        stream.close()
        assert Progress.wanted(None, stream) is None

    def test_is_an_observer(self):
        hooks = Observers([Progress.wanted(True, io.StringIO())], pytest.fail)
        assert hooks.hear("on_progress")
        assert not hooks.hear("on_task_end")


class TestPatience:
    def test_short_run_shows_nothing(self):
        stream = Terminal()
        progress = Progress.wanted(None, stream)
        progress.on_run_start(started())
        progress.on_progress(progressed(0.5, done=10))
        progress.on_progress(progressed(0.9, done=50))
        progress.on_run_end(ended(0.9, done=50))
        assert not stream.getvalue()

    def test_long_run_is_shown_after_a_second(self):
        stream = Terminal()
        progress = Progress.wanted(None, stream)
        progress.on_run_start(started())
        progress.on_progress(progressed(0.9, done=10))
        assert not stream.getvalue()
        progress.on_progress(progressed(1.1, done=11))
        assert "11/50" in stream.getvalue()

    def test_run_that_said_nothing_for_long_leaves_its_line_and_no_bars(self):
        stream = Terminal()
        progress = Progress.wanted(None, stream)
        progress.on_run_start(started())
        progress.on_progress(progressed(60.0, done=50))
        progress.on_run_end(ended(60.0, done=50))
        assert stream.getvalue() == (
            "flowpar: done, 50/50 tasks in 1 min 00 s (cached 0, failed 0)\n"
        )

    def test_true_shows_at_once(self):
        stream = Terminal()
        Progress.wanted(True, stream).on_run_start(started())
        assert "0/50" in stream.getvalue()


class TestBars:
    def test_run_has_a_bar_and_each_active_function_one(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        functions = {
            "load": Counts(total=20, done=20),
            "filter": Counts(total=20, done=5, running=3),
            "sheet": Counts(total=10, running=1),
        }
        progress.on_progress(progressed(4.0, functions=functions, done=25, running=4))
        lines = screen(stream.getvalue())
        assert lines[0].startswith("flowpar:  50%")
        assert "25/50" in lines[0]
        assert lines[0].endswith("cached 0, failed 0, running 4]")
        assert re.match(r"  filter +25%\|.*5/20, running 3", lines[1])
        assert re.match(r"  sheet +0%\|.*0/10, running 1", lines[2])
        assert "load" not in stream.getvalue()

    def test_functions_come_and_go(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        two = {"a": Counts(total=5, running=1), "b": Counts(total=5, running=1)}
        progress.on_progress(progressed(1.0, functions=two))
        progress.on_progress(progressed(2.0, functions={"b": Counts(total=5, done=4, running=1)}))
        lines = screen(stream.getvalue())
        assert lines[1].startswith("  b")
        assert not any(lines[2:])

    def test_five_functions_at_most(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        many = {f"f{i}": Counts(total=5, running=1) for i in range(9)}
        progress.on_progress(progressed(1.0, functions=many))
        assert [line.split()[0] for line in screen(stream.getvalue())[1:6]] == [
            "f0", "f1", "f2", "f3", "f4",
        ]  # fmt: skip
        assert "f5" not in stream.getvalue()

    @pytest.mark.parametrize("status", ["done", "failed", "interrupted"])
    def test_one_line_stays_whatever_the_end(self, status):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        functions = {"load": Counts(total=50, done=10, running=2)}
        progress.on_progress(progressed(1.0, functions=functions, done=10, running=2))
        progress.on_run_end(ended(12.0, status, done=30, cached=19, failed=1))
        lines = [line for line in screen(stream.getvalue()) if line]
        assert lines == [f"flowpar: {status}, 50/50 tasks in 12 s (cached 19, failed 1)"]

    def test_cached_tasks_are_no_measure_of_speed(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started(1000))
        progress.on_progress(progressed(10.0, total=1000, cached=900, done=10))
        assert "910/1000 [00:10<01:30,  1.00task/s" in screen(stream.getvalue())[0]

    def test_many_events_draw_ten_times_a_second(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started(1000))
        calls = []
        for i in range(1000):
            event = Progressed(
                counts=Counts(total=1000, done=i),
                functions=lambda: calls.append(1) or {},
                seconds=i / 1000,
            )
            progress.on_progress(event)
        assert 8 <= len(calls) <= 10

    def test_names_give_the_terminal_no_orders(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        name = "evil\x1b[2J\n\r\x07\udc80\u202e" + "x" * 100
        progress.on_progress(progressed(1.0, functions={name: Counts(total=5, running=1)}))
        assert "evil?[2J?????xxx" in stream.getvalue()
        assert "\x1b[2J" not in stream.getvalue()
        assert max(map(len, screen(stream.getvalue()))) <= 100

    def test_starts_no_thread(self):
        progress = Progress.wanted(True, Terminal())
        progress.on_run_start(started())
        assert not [t for t in threading.enumerate() if type(t).__module__.startswith("tqdm")]

    def test_ctrl_c_while_drawing_does_not_stop_the_next_run(self):
        class Interrupted(Terminal):
            def write(self, text):
                raise KeyboardInterrupt

        def interrupted():
            with pytest.raises(KeyboardInterrupt):
                Progress.wanted(True, Interrupted()).on_run_start(started())

        interrupted()
        gc.collect()
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        other = threading.Thread(target=progress.on_run_start, args=[started()], daemon=True)
        other.start()
        other.join(10)
        assert "0/50" in stream.getvalue()

    def test_graph_that_grows(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started(1))
        progress.on_progress(progressed(1.0, total=80, done=40))
        assert "40/80" in screen(stream.getvalue())[0]

    def test_empty_run(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started(0))
        progress.on_progress(progressed(0.0, total=0))
        progress.on_run_end(ended(0.0, total=0))
        assert screen(stream.getvalue())[0].startswith("flowpar: done, 0/0 tasks in 0.0 s")

    def test_second_run_of_the_same_observer_starts_anew(self):
        stream = Terminal()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        progress.on_progress(progressed(9.0, done=9))
        progress.on_run_start(started(7))
        assert "0/7" in screen(stream.getvalue())[0]


class TestLines:
    def test_one_line_every_ten_seconds_and_one_at_the_end(self):
        stream = io.StringIO()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        for tenth in range(251):
            progress.on_progress(progressed(tenth / 10, done=tenth // 10, cached=20, running=4))
        progress.on_run_end(ended(25.04, done=30, cached=20))
        assert stream.getvalue().splitlines() == [
            "flowpar: 60 % 30/50 (cached 20, failed 0, running 4) 10 s",
            "flowpar: 80 % 40/50 (cached 20, failed 0, running 4) 20 s",
            "flowpar: done, 50/50 tasks in 25 s (cached 20, failed 0)",
        ]

    def test_silence_is_not_made_up_for(self):
        stream = io.StringIO()
        progress = Progress.wanted(True, stream)
        progress.on_run_start(started())
        progress.on_progress(progressed(4000.0, done=1, skipped=2))
        progress.on_progress(progressed(4000.1, done=2))
        assert stream.getvalue().splitlines() == [
            "flowpar: 6 % 3/50 (cached 0, failed 0, skipped 2, running 0) 1 h 06 min"
        ]


SCRIPT = """
import sys, time
from flowpar.events import Counts, Progressed, RunEnded, RunStarted
from flowpar.views.progress import Progress
assert "tqdm" not in sys.modules
progress = Progress.wanted(OPTION)
if progress is not None:
    progress.on_run_start(RunStarted(counts=Counts(total=3), time=0.0))
    functions = {"load": Counts(total=3, done=1, running=2)}
    event = Progressed(counts=Counts(total=3, done=1, running=2), functions=lambda: functions,
                       seconds=1.5)
    progress.on_progress(event)
    progress.on_run_end(RunEnded(counts=Counts(total=3, done=3), seconds=2.0, status="done"))
print("tqdm" in sys.modules)
"""


def script(option):
    return [sys.executable, "-c", SCRIPT.replace("OPTION", str(option))]


class TestPrograms:
    def test_real_terminal(self):
        command = script(None)
        child = pexpect.spawn(command[0], command[1:], encoding="utf-8", dimensions=(24, 90))
        child.expect(pexpect.EOF)
        output = child.before
        assert "1/3 [00:01<00:03,  1.50s/task, cached 0" in output
        assert "load" in output
        lines = [line for line in screen(output) if line]
        assert lines == ["flowpar: done, 3/3 tasks in 2.0 s (cached 0, failed 0)", "True"]

    @pytest.mark.parametrize("option", [None, False])
    def test_pipes_stay_clean_and_tqdm_unloaded(self, option):
        result = subprocess.run(script(option), capture_output=True, text=True, check=True)
        assert (result.stdout, result.stderr) == ("False\n", "")

    def test_standard_output_is_left_alone(self):
        result = subprocess.run(script(True), capture_output=True, text=True, check=True)
        assert result.stdout == "True\n"
        assert result.stderr == "flowpar: done, 3/3 tasks in 2.0 s (cached 0, failed 0)\n"

    def test_tqdm_disable_is_honoured(self):
        env = {**os.environ, "TQDM_DISABLE": "1"}
        result = subprocess.run(script(True), capture_output=True, text=True, check=True, env=env)
        assert not result.stderr
        command = script(True)
        child = pexpect.spawn(command[0], command[1:], encoding="utf-8", env=env)
        child.expect(pexpect.EOF)
        assert child.before.strip() == "True"
