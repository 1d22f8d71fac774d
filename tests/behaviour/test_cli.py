"""The command line, as people use it."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from flowpar.cli import main
from flowpar.cli.output import tell_rest
from flowpar.cli.scripts import place_of
from flowpar.errors import RunFailed, add_note

SCRIPT = """\
from pathlib import Path
from flowpar import delayed

@delayed
def square(n):
    return n * n

@delayed
def fail(n):
    raise ValueError(f"no {n}")

one = square(3)
several = {"a": square(4), "b": [square(5)]}
number = 7
broken = fail(1)

def build(n, label: str = "", where: Path = None):
    Path("called.txt").write_text(repr((n, label, where)))
    return [square(k) for k in range(n)]

def empty():
    return 3

def bad():
    raise KeyError("as it should")
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    # A script takes its place; of one that is gone, multiprocessing can make no workers.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])
    (tmp_path / "pipe.py").write_text(SCRIPT)
    package = tmp_path / "shopfront"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nightly.py").write_text("from . import parts\n" + SCRIPT + "more = parts.part\n")
    (package / "parts.py").write_text("from flowpar import delayed\npart = delayed(abs)(-1)\n")
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in {"shopfront", "pipe"}]:
        del sys.modules[name]


def run(capsys, *arguments):
    code = main([*arguments])
    out, err = capsys.readouterr()
    return code, out, err


def shell(*arguments, **options):
    """Run the command as a shell does, with streams of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flowpar", *arguments],
        **{"capture_output": True, "text": True, "timeout": 60, **options},
    )


@pytest.mark.parametrize(
    ("target", "total"),
    [
        ("pipe.py:one", 1),
        ("pipe.py:several", 2),
        ("shopfront.nightly:one", 1),
        ("shopfront.nightly:more", 1),
        ("shopfront.parts:part", 1),
    ],
)
def test_run_computes_what_is_named(home, capsys, target, total):
    code, out, _ = run(capsys, "run", target, "--json", "--scheduler", "sync")
    done = json.loads(out)
    assert code == 0
    assert done["status"] == "done"
    assert done["counts"]["total"] == done["counts"]["done"] == total == len(done["tasks"])


def test_a_function_is_called_with_what_is_set(home, capsys):
    settings = ["--set", "n=3", "--set", "label=12", "--set", "where=a/b"]
    code, out, _ = run(
        capsys, "run", "pipe.py:build", *settings, "-j", "1", "--scheduler", "threads"
    )
    assert code == 0
    assert "3 of 3 tasks" in out
    assert (home / "called.txt").read_text() == "(3, '12', PosixPath('a/b'))"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "pipe.py:number"], "no delayed value"),
        (["run", "pipe.py:empty"], "no delayed value"),
        (["run", "pipe.py:missing"], "'missing' is not in pipe.py"),
        (["run", "pipe.py:one", "--set", "n=1"], "no function"),
        (["run", "pipe.py:build"], "missing a required argument: 'n'"),
        (["run", "pipe.py:build", "--set", "m=1"], "--set NAME=VALUE"),
        (["run", "nowhere.py:x"], "no file"),
        (["run", "no.such.module:x"], "no file"),
        (["plan", "pipe.py"], "computes nothing"),
        (["run", "pipe.py", "--set", "n=1"], "a function that is named"),
        (["run", "pipe.py:oen"], "did you mean 'one'?"),
        (
            ["run", "pipe.py:xyzzy"],
            "there are: bad, broken, build, empty, fail, one, several, square",
        ),
        (["run", "pipe.py:"], "nothing after the colon"),
        (["run", "pipe.py:one:two"], "a second name"),
        (["run", "shopfront"], "is a folder: name a file in it, such as shopfront/__init__.py"),
        (["run", "email"], "is a package without __main__"),
        (["run", "pipe.py:one", "-j", "0"], "a whole number of 1 or more"),
        (["run", "pipe.py:one", "--report", "r.txt"], "must end in one of .html"),
        (["run", "pipe.py:one", "--report", "nowhere/r.html"], "there is no folder"),
        (["graph", "pipe.py:one", "-o", "g.gif"], "must end in one of .svg"),
        (["graph", "pipe.py:one", "-o", "nowhere/g.svg"], "there is no folder"),
        (["report", "-o", "r.pdf"], "must end in one of .html"),
        (["report", "-o", "nowhere/r.html"], "there is no folder"),
        (["trace", "-o", "nowhere/t.json"], "there is no folder"),
    ],
)
def test_wrong_usage_is_named(home, capsys, arguments, text):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert text in err


@pytest.mark.parametrize("arguments", [["--report", "r.txt"], ["-j", "0"]])
def test_wrong_usage_is_found_before_the_script_runs(home, capsys, arguments):
    (home / "loud.py").write_text("print('it runs')\n" + SCRIPT)
    code, out, _ = run(capsys, "run", "loud.py:one", *arguments)
    assert (code, out) == (2, "")


def test_wrong_settings_are_refused_by_the_parser(home, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run", "pipe.py:build", "--set", "n"])
    assert caught.value.code == 2
    assert "name=value" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["pipe.py:broken", "pipe.py:bad"])
def test_a_failure_is_told_without_our_own_lines(home, capsys, target):
    code, _, err = run(capsys, "run", target, "--scheduler", "sync")
    assert code == 1
    assert "no 1" in err or "as it should" in err
    assert "cli/__init__.py" not in err


def test_keep_going(home, capsys):
    (home / "both.py").write_text(SCRIPT + "both = [fail(1), square(2), fail(3)]\n")
    code, _, err = run(capsys, "run", "both.py:both", "--keep-going", "--scheduler", "sync")
    assert code == 1
    assert "no 1" in err
    assert "no 3" in err


def test_graph_draws_and_shows_what_would_run(home, capsys):
    assert run(capsys, "graph", "pipe.py:several", "-o", "g.svg")[:2] == (0, "g.svg\n")
    assert "square" in (home / "g.svg").read_text()
    run(capsys, "run", "pipe.py:one", "--cache", "kept", "--scheduler", "sync")
    code, out, _ = run(capsys, "graph", "pipe.py:one", "--cache", "kept", "--json")
    assert code == 0
    assert [node["status"] for node in json.loads(out)["nodes"]] == ["cached"]
    code, out, _ = run(capsys, "graph", "pipe.py:several", "--cache", "kept", "--json")
    assert {node["status"] for node in json.loads(out)["nodes"]} == {"ready"}


def test_graph_is_drawn_as_asked(home, capsys):
    options = [
        "--focus",
        "square[0]",
        "--rankdir",
        "LR",
        "--color",
        "status",
        "--cluster",
        "module",
    ]
    out = run(capsys, "graph", "pipe.py:several", "--cache", "kept", "-o", "g.mmd", *options)[1]
    assert out == "g.mmd\n"
    text = (home / "g.mmd").read_text(encoding="utf-8")
    assert text.startswith("flowchart LR\n")
    assert "► would run" in text
    assert "square[0]" in text
    assert "square[1]" not in text
    run(capsys, "graph", "pipe.py:several", "-o", "g.txt", "--collapse")
    assert "square ×" in (home / "g.txt").read_text(encoding="utf-8")
    code, _, err = run(capsys, "graph", "pipe.py:several", "--focus", "sqare")
    assert code == 2
    assert "did you mean 'square'" in err


def test_plan_and_why_take_modules_and_functions(home, capsys):
    code, out, _ = run(capsys, "plan", "shopfront.nightly:build", "--set", "n=2", "--json")
    assert code == 0
    assert json.loads(out)["counts"]["run"] == 2
    code, out, _ = run(capsys, "why", "shopfront.parts:part", "--json")
    assert json.loads(out)[0]["reason"] == "would run: never ran"


def test_doctor_tells_what_is_there(home, capsys, monkeypatch):
    from flowpar.cli import doctor

    # Containers have little of it.
    monkeypatch.setattr(doctor, "_shared_memory", lambda: {"bytes": 1 << 33, "free": 1 << 32})
    code, out, _ = run(capsys, "doctor", "--json")
    facts = json.loads(out)
    assert (code, facts["troubles"]) == (0, [])
    assert facts["cpus"]["used"] >= 1
    assert "forkserver" in facts["start_methods"]
    assert facts["cache"] is None
    run(capsys, "run", "pipe.py:one", "--cache", ".flowpar", "--scheduler", "sync")
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "1 results" in out


def test_doctor_tells_what_is_wrong(home, capsys, monkeypatch):
    from flowpar.cli import doctor

    monkeypatch.setattr(doctor, "_shared_memory", lambda: None)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "TROUBLE: no shared memory" in out


def test_help_has_examples(home):
    done = subprocess.run(
        [sys.executable, "-m", "flowpar", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "examples:" in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pipe.py", (None, None)),
        ("pipe.py:one", (None, "one")),
        ("shopfront.nightly", ("shopfront.nightly", None)),
        ("shopfront.nightly:one", ("shopfront.nightly", "one")),
    ],
)
def test_places(home, text, expected):
    place = place_of(text)
    assert (place.module, place.name) == expected


def test_a_module_without_a_name_runs_as_python_m_does(home):
    (home / "shopfront" / "main.py").write_text(
        "from . import parts\nif __name__ == '__main__': print(parts.part.compute(scheduler='sync'))"
    )
    for command in (["run"], ["plan"]):
        done = subprocess.run(
            [sys.executable, "-m", "flowpar", *command, "shopfront.main"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=home,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1\n" if command == ["run"] else "1 would run")


# ------------------------------------------------------------------------ scripts and workers

NOISY = """\
import os
import flowpar
from flowpar import compute, delayed

print("top of", __name__)

class Point:
    def __init__(self, x):
        self.x = x

@delayed
def point(x):
    print("in a task")
    os.system("echo from another program")
    return Point(x)

@delayed
def x_of(point):
    return type(point).__name__, point.x

@delayed
def fail(n):
    raise ValueError(f"no {n}")

points = [point(n) for n in range(3)]
both = [x_of(each) for each in points]
broken = [x_of(point(1)), fail(2)]

@delayed
def ids():
    return os.getpid()

def main():
    return compute(both)

async def later(n: int):
    return [x_of(point(k)) for k in range(n)]

if __name__ == "__main__":
    value = compute(points)
    assert {type(each) for each in value} == {Point}
    compute(both)
"""


@pytest.mark.parametrize(
    "name", ["noisy.py", "v1.2.py", "pipe.txt", "odd/random.py", "with space.py"]
)
def test_workers_do_not_run_the_script_whatever_its_name(home, name):
    (home / "odd").mkdir()
    (home / name).write_text(NOISY)
    done = shell("run", f"{name}:both", "--scheduler", "processes", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top of") == 1
    assert "top of __main__" not in done.stdout
    assert "6 of 6 tasks" in done.stdout


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_classes_of_a_script_are_its_own_when_they_come_back(home, method):
    text = (
        NOISY
        + f"""
def check():
    value = compute(points, scheduler="processes", start_method="{method}")
    assert {{type(each) for each in value}} == {{Point}}
    return both
"""
    )
    (home / "noisy.py").write_text(text)
    done = shell("run", "noisy.py:check", "--scheduler", "processes", cwd=home)
    assert done.returncode == 0, done.stderr


SPAWNS = """\
import multiprocessing
from flowpar import compute, delayed

class Point:
    def __init__(self, x):
        self.x = x

@delayed
def point(x):
    return Point(x)

def child():
    value = compute([point(n) for n in range(3)], scheduler="processes")
    assert {type(each) for each in value} == {Point}
    print("computed in", __name__)

def main():
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
    return point(process.exitcode)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("command", [["spawns.py"], ["-m", "flowpar", "run", "spawns.py:main"]])
def test_a_process_of_multiprocessing_runs_what_its_main_module_defines(home, command):
    (home / "spawns.py").write_text(SPAWNS)
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, cwd=home
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("computed in __mp_main__")


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
@pytest.mark.parametrize("first", ["named", "script", "python"])
def test_ways_to_run_a_script_share_the_cache(home, first, scheduler):
    (home / "noisy.py").write_text(NOISY)
    environment = {**os.environ, "FLOWPAR_CACHE": "kept", "FLOWPAR_SCHEDULER": scheduler}
    ways = {
        "named": ["-m", "flowpar", "run", "noisy.py:both"],
        "script": ["-m", "flowpar", "run", "noisy.py"],
        "python": ["noisy.py"],
    }
    called = {}
    for way in sorted(ways, key=lambda each: each != first):
        done = subprocess.run(
            [sys.executable, *ways[way]],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=home,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        called[way] = done.stdout.count("in a task")
    assert called.pop(first) == 3
    assert set(called.values()) == {0}


def test_a_picture_knows_the_main_module_by_one_name(home, capsys):
    run(capsys, "graph", "pipe.py:one", "--cluster", "module", "-o", "g.dot")
    text = (home / "g.dot").read_text()
    assert "__main__" in text
    assert "__mp_main__" not in text


def test_a_picture_stays_where_it_was_asked_for(home, capsys):
    (home / "away").mkdir()
    (home / "goer.py").write_text("import os\nos.chdir('away')\n" + SCRIPT)
    assert run(capsys, "graph", "goer.py:one", "-o", "g.svg")[:2] == (0, "g.svg\n")
    assert (home / "g.svg").exists()


def test_the_log_names_what_was_run(home, capsys):
    (home / "noisy.py").write_text(NOISY)
    for target in ("pipe.py:one", "noisy.py", "shopfront.parts:part"):
        run(capsys, "run", target, "--cache", "kept", "--scheduler", "sync")
    _, out, _ = run(capsys, "run", "pipe.py:one", "--cache", "kept", "--", "a", "b")
    _, out, _ = run(capsys, "log", "--cache", "kept", "--json")
    assert [each["program"] for each in json.loads(out)] == [
        "pipe.py:one a b",
        "shopfront.parts:part",
        "noisy.py",
        "noisy.py",
        "pipe.py:one",
    ]


def test_a_script_comes_from_the_standard_input(home):
    text = SCRIPT + "if __name__ == '__main__': print(one.compute(scheduler='processes'))"
    done = shell("run", "-", "--", "word", cwd=home, input=text + "\nimport sys; print(sys.argv)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "9\n['-', 'word']\n"


@pytest.mark.filterwarnings("error")
def test_a_coroutine_function_is_awaited(home, capsys):
    (home / "noisy.py").write_text(NOISY)
    code, out, err = run(capsys, "run", "noisy.py:later", "--set", "n=2", "--scheduler", "sync")
    assert code == 0, err
    assert "4 of 4 tasks" in out
    assert "never awaited" not in err


def test_a_function_that_computes_is_asked_and_run(home, capsys):
    (home / "noisy.py").write_text(NOISY)
    code, out, err = run(capsys, "why", "noisy.py:main", "x_of[0]", "--json")
    assert code == 0, err
    assert [each["key"] for each in json.loads(out)] == ["x_of[0]"]
    code, out, err = run(capsys, "run", "noisy.py:main", "--json", "--scheduler", "sync")
    assert code == 0, err
    assert json.loads(out)["counts"]["done"] == 6


def test_a_script_that_computes_without_a_guard_cannot_be_asked_for_a_name(home, capsys):
    (home / "noisy.py").write_text(NOISY + "compute(both)\n")
    code, _, err = run(capsys, "why", "noisy.py:main")
    assert code == 2
    assert 'put what it computes under if __name__ == "__main__":' in err


@pytest.mark.parametrize(
    "arguments",
    [["--json", "pipe.py:one", "square"], ["pipe.py:one", "--json", "square"]],
)
def test_options_stand_anywhere(home, capsys, arguments):
    code, out, _ = run(capsys, "why", *arguments)
    assert code == 0
    assert json.loads(out)[0]["key"] == "square"
    code, out, _ = run(capsys, "run", "--scheduler", "sync", "pipe.py:one", "-j", "1")
    assert code == 0


def test_a_report_stays_where_it_was_asked_for(home, capsys):
    pytest.importorskip("bokeh")
    (home / "away").mkdir()
    (home / "goer.py").write_text("import os\nos.chdir('away')\n" + SCRIPT)
    code, _, err = run(capsys, "run", "goer.py:one", "--report", "r.html", "--scheduler", "sync")
    assert code == 0, err
    assert (home / "r.html").exists()
    assert not list((home / "away").iterdir())


# ------------------------------------------------------------------------------- what failed


def test_what_failed_in_a_script_is_told_in_full(home, capsys):
    (home / "all.py").write_text(
        SCRIPT
        + "import flowpar\nflowpar.compute([fail(n) for n in range(3)], on_error='continue')\n"
    )
    code, _, err = run(capsys, "run", "all.py", "--scheduler", "sync")
    assert code == 1
    for number in range(3):
        assert f"ValueError: no {number}" in err
        assert f"task fail[{number}] = fail({number})" in err
    assert 'raise ValueError(f"no {n}")' in err
    assert "on_error='continue')" in err
    assert "cli/" not in err


@pytest.mark.parametrize("target", ["late.py", "late.py:one"])
def test_a_timeout_names_its_task(home, target):
    (home / "late.py").write_text(
        "import time\nfrom flowpar import delayed\n@delayed(timeout=0.2)\n"
        "def sleep(n): time.sleep(9)\none = sleep(1)\n"
        "if __name__ == '__main__': one.compute(scheduler='processes')\n"
    )
    done = shell("run", target, "--scheduler", "processes", cwd=home)
    assert done.returncode == 1
    assert "TaskTimeout" in done.stderr
    assert "task sleep = sleep(1)" in done.stderr
    assert "late.py:5" in done.stderr
    assert "cli/" not in done.stderr


def test_notes_are_printed_where_python_leaves_them_out(capsys):
    inner = ValueError("no 1")
    add_note(inner, "of the task")
    error = RunFailed("1 of 1 tasks failed", [inner])
    add_note(error, "of the run")
    tell_rest(error)
    assert [line for line in capsys.readouterr().err.splitlines() if "of the" in line][:2] == [
        "of the run",
        "of the task",
    ]


# -------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("scheduler", ["sync", "processes"])
@pytest.mark.parametrize(
    "target", ["noisy.py", "noisy.py:both", "noisy.py:broken", "noisy.py:main"]
)
def test_the_output_of_a_run_is_data_alone(home, target, scheduler):
    (home / "noisy.py").write_text(NOISY)
    done = shell(
        "run", target, "--json", cwd=home, env={**os.environ, "FLOWPAR_SCHEDULER": scheduler}
    )
    found = json.loads(done.stdout)
    assert done.returncode == (target == "noisy.py:broken")
    assert "top of" in done.stderr
    assert target == "noisy.py:broken" or "in a task" in done.stderr
    # A run that fails stops what still runs.
    assert target == "noisy.py:broken" or "from another program" in done.stderr
    if target == "noisy.py":
        assert [each["counts"]["done"] for each in found] == [3, 6]
    elif target == "noisy.py:broken":
        assert found["status"] == "failed"
        assert found["error"] == "ValueError: no 2"
        assert {each["key"]: each["status"] for each in found["tasks"]}["fail"] == "failed"
        assert "no 2" in found["failures"]["fail"]
    else:
        assert (found["status"], found["error"]) == ("done", None)
        assert len(found["tasks"]) == 6


@pytest.mark.parametrize(
    ("closed", "is_open"), [("2>&-", True), ("<&- 2>&-", True), (">&-", False), (">&- 2>&-", False)]
)
def test_the_output_is_data_alone_whatever_is_closed(home, closed, is_open):
    (home / "noisy.py").write_text(NOISY)
    command = f"{sys.executable} -m flowpar run noisy.py:both --json --scheduler processes {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, cwd=home)
    assert done.returncode == 0
    if is_open:
        assert json.loads(done.stdout)["counts"]["done"] == 6
    else:
        assert done.stdout == ""


@pytest.mark.parametrize("command", ["plan", "why", "graph", "accept"])
@pytest.mark.parametrize("target", ["noisy.py", "noisy.py:both"])
def test_the_output_of_a_question_is_data_alone(home, command, target):
    (home / "noisy.py").write_text(NOISY)
    done = shell(command, target, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert "top of" in done.stderr


@pytest.mark.parametrize(
    ("end", "code", "number"),
    [
        ("raise KeyError('here')", 1, 1),
        ("import sys; sys.exit(3)", 3, 1),
        ("fail(1).compute()", 1, 2),
    ],
)
def test_a_script_that_does_not_come_to_its_end_prints_its_runs(home, end, code, number):
    (home / "ends.py").write_text(SCRIPT + f"one.compute()\n{end}\n")
    done = shell("run", "ends.py", "--json", "--scheduler", "sync", cwd=home)
    found = json.loads(done.stdout)
    assert done.returncode == code
    assert len(found) == number
    assert [each["status"] for each in found] == ["done", "failed"][:number]
    assert ("Traceback" in done.stderr) == (code == 1)


def test_a_name_that_fails_before_anything_runs_is_data_too(home, capsys):
    code, out, err = run(capsys, "run", "pipe.py:bad", "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["status"], found["tasks"]) == ("failed", [])
    assert "as it should" in found["error"]
    assert "as it should" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no such device")
@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize("command", [["log", "--cache", "kept"], ["plan", "pipe.py:one"]])
def test_an_output_that_takes_nothing_is_told_in_one_line(home, capsys, command, option):
    run(capsys, "run", "pipe.py:one", "--cache", "kept", "--scheduler", "sync")
    with open("/dev/full", "w") as full:
        done = shell(
            *command, *option, cwd=home, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "flowpar: the output cannot be written: No space left on device"
    ]


@pytest.mark.parametrize(
    "damage",
    [
        """counts = '{"total": "x", "done": [1]}'""",
        "counts = '[]', seconds = 'x', started = null",
        "started = 1e300, seconds = x'00', program = null, status = null, counts = null",
    ],
)
def test_a_damaged_row_of_the_history_does_not_hide_the_others(home, capsys, damage):
    for _ in range(2):
        run(capsys, "run", "pipe.py:one", "--cache", "kept", "--scheduler", "sync")
    with contextlib.closing(sqlite3.connect(home / "kept" / "index.sqlite")) as database, database:
        database.execute(f"update history set {damage} where id = 1")
    code, out, err = run(capsys, "log", "--cache", "kept")
    assert code == 0, err
    assert len(out.splitlines()) == 3
    code, out, err = run(capsys, "log", "--cache", "kept", "--json")
    assert [each["number"] for each in json.loads(out)] == [2, 1]
