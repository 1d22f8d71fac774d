"""The command line, as people use it."""

import json
import subprocess
import sys

import pytest

from flowpar.cli import main
from flowpar.cli.scripts import place_of

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
        (["run", "pipe.py:missing"], "has no 'missing'"),
        (["run", "pipe.py:one", "--set", "n=1"], "no function"),
        (["run", "pipe.py:build"], "missing a required argument: 'n'"),
        (["run", "pipe.py:build", "--set", "m=1"], "--set NAME=VALUE"),
        (["run", "nowhere.py:x"], "no file"),
        (["run", "no.such.module:x"], "no file"),
        (["plan", "pipe.py"], "computes nothing"),
        (["run", "pipe.py", "--set", "n=1"], "a function that is named"),
    ],
)
def test_wrong_usage_is_named(home, capsys, arguments, text):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert text in err


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
    assert code == 1
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
