"""What would run, and why: `flowpar.plan`, `flowpar.explain`, and the command line."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flowpar
from flowpar import delayed
from flowpar.caching.code import Code, Component
from flowpar.caching.reasons import difference
from flowpar.caching.store import Trace
from flowpar.cli import main

CALLS = []


@flowpar.untracked
def note(what):
    CALLS.append(what)


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


SIZE = 64


def _load(n):
    note("load")
    return list(range(n))


def _resize(values, size=3):
    note("resize")
    return values[: min(size, SIZE)]


load, resize = delayed(_load, name="load"), delayed(_resize, name="resize")


@delayed
def total(parts):
    note("total")
    return sum(map(sum, parts))


def sheet(n=3, **options):
    return total([resize(load(i), **options) for i in range(n)])


def statuses(target, cache):
    return {task.key: task.status for task in flowpar.plan(target, cache=cache).tasks}


def test_before_the_first_run_what_has_no_dependency_runs_and_the_rest_is_unknown(tmp_path):
    found = flowpar.plan(sheet(2), cache=tmp_path)
    assert found.counts == {"run": 2, "cached": 0, "unknown": 3}
    by_key = {task.key: task for task in found.tasks}
    assert by_key["load[0]"].reason == "never ran"
    assert by_key["resize[1]"].until == ("load[1]",)
    assert by_key["total"].until == ("load[0]", "load[1]")
    assert CALLS == []
    assert not (tmp_path / "objects").exists() or not list((tmp_path / "objects").iterdir())


def test_after_a_run_all_is_up_to_date(tmp_path):
    sheet().compute(cache=tmp_path, scheduler="sync")
    CALLS.clear()
    assert set(statuses(sheet(), tmp_path).values()) == {"cached"}
    assert CALLS == []


def test_an_argument_that_changed_is_told_with_both_values(tmp_path):
    sheet().compute(cache=tmp_path, scheduler="sync")
    found = flowpar.plan(sheet(size=2), cache=tmp_path)
    assert found.counts == {"run": 3, "cached": 3, "unknown": 1}
    reasons = {task.reason for task in found.tasks if task.status == "run"}
    assert reasons == {"argument size: 3 → 2"}
    assert "argument size: 3 → 2" in str(found)
    assert found.seconds is not None
    assert json.loads(json.dumps(found.to_dict()))["counts"] == found.counts


def test_a_global_that_changed_is_told_with_both_values(tmp_path, monkeypatch):
    sheet().compute(cache=tmp_path, scheduler="sync")
    monkeypatch.setitem(globals(), "SIZE", 1)
    told = str(flowpar.explain(sheet(), cache=tmp_path))
    assert "resize[2]: would run: code of resize changed (global SIZE: 64 → 1)" in told
    assert told.startswith("total: unknown until")


def test_a_run_tells_the_same_reasons(tmp_path):
    sheet(4).compute(cache=tmp_path, scheduler="sync")
    done = flowpar.run(sheet(4, size=2), cache=tmp_path, scheduler="sync")
    reasons = {task.key: task.reason for task in done.tasks}
    assert reasons["load[0]"] is None
    assert reasons["resize[2]"] == "argument size: 3 → 2"
    # Shorter ones give what they gave before.
    assert reasons["total"] == "dependency resize[3] gave another value"


def test_what_ran_last_is_explained_once_it_is_up_to_date(tmp_path):
    sheet(4).compute(cache=tmp_path, scheduler="sync")
    sheet(4, size=2).compute(cache=tmp_path, scheduler="sync")
    told = flowpar.explain(sheet(4, size=2), cache=tmp_path)
    assert told.status == "cached"
    assert told.reason.endswith(
        ", because dependency resize[3] gave another value, because argument size: 3 → 2"
    )


def test_of_what_never_ran_before_it_is_only_told_when_it_was_made(tmp_path):
    sheet(4).compute(cache=tmp_path, scheduler="sync")
    for target in (sheet(4), load(2)):
        told = flowpar.explain(target, cache=tmp_path).reason
        assert re.fullmatch(
            r"up to date; its value was made on \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, in \S+ s", told
        )


CONSTANT = 1


def _first(n):
    return n + CONSTANT


def _second(n):
    if n == BROKEN:
        raise ValueError(n)
    return 10 * n


BROKEN = 0


def test_a_reason_is_followed_down_to_the_root(tmp_path, monkeypatch):
    first, second = delayed(_first, name="first"), delayed(_second, name="second")
    target = second(second(second(first(1))))
    target.compute(cache=tmp_path, scheduler="sync")
    monkeypatch.setitem(globals(), "CONSTANT", 2)
    target.compute(cache=tmp_path, scheduler="sync")
    told = flowpar.explain(target, cache=tmp_path).reason.partition("because ")[2]
    assert told == (
        "dependency second[1] gave another value, because dependency second[0] gave another "
        "value, because dependency first gave another value, because code of first changed "
        "(global CONSTANT: 1 → 2)"
    )


def test_what_has_to_run_is_followed_too(tmp_path, monkeypatch):
    first, second = delayed(_first, name="first"), delayed(_second, name="second")
    target = second(first(1))
    target.compute(cache=tmp_path, scheduler="sync")
    monkeypatch.setitem(globals(), "CONSTANT", 2)
    first(1).compute(cache=tmp_path, scheduler="sync")
    assert flowpar.explain(target, cache=tmp_path).reason == (
        "would run: dependency first gave another value, because code of first changed "
        "(global CONSTANT: 1 → 2)"
    )


def test_a_task_that_is_not_kept_runs_if_what_needs_it_runs(tmp_path):
    passing = load.options(cache=False)
    resize(passing(5)).compute(cache=tmp_path, scheduler="sync")
    assert set(statuses(resize(passing(5)), tmp_path).values()) == {"cached"}
    found = statuses(resize(passing(5), size=1), tmp_path)
    assert found == {"load": "run", "resize": "run"}


def test_a_dynamic_task_is_seen_through(tmp_path):
    @delayed
    def grow(n):
        note("grow")
        return sheet(n)

    grow(3).compute(cache=tmp_path, scheduler="sync")
    CALLS.clear()
    assert set(statuses(grow(3), tmp_path).values()) == {"cached"}
    assert CALLS == []


def test_pure_false_always_runs(tmp_path):
    always = load.options(pure=False)
    always(3).compute(cache=tmp_path, scheduler="sync")
    assert "not pure" in flowpar.plan(always(3), cache=tmp_path).tasks[0].reason


def _shift(n, by=1):
    return n + by


def test_in_a_large_graph_each_task_is_compared_with_the_one_in_its_place(tmp_path):
    shift = delayed(_shift, name="shift")

    def many(third):
        return [shift(10_000 + third if i == 3 else i) for i in range(2100)]

    flowpar.run(many(0), cache=tmp_path, scheduler="sync")
    done = flowpar.run(many(1), cache=tmp_path, scheduler="sync")
    reasons = {task.key: task.reason for task in done.tasks if task.reason}
    assert reasons == {"shift[3]": "argument n: 10000 → 10001"}
    # Of those that are in no place of an earlier run, each with the one that had its argument.
    begin = time.monotonic()
    last = delayed(_shift, name="shift", version="2")(5)
    assert flowpar.explain(last, cache=tmp_path).reason == "would run: version is new: '2'"
    other = [delayed(_shift, name="shift", version="2")(i) for i in range(2100)]
    told = {task.reason for task in flowpar.plan(other, cache=tmp_path).tasks[4:]}
    assert told == {"version is new: '2'"}
    assert time.monotonic() - begin < 20


def test_of_very_many_calls_with_one_argument_in_common_not_all_are_compared(tmp_path):
    shift = delayed(_shift, name="shift")
    flowpar.run([shift(i, by=2) for i in range(2100)], cache=tmp_path, scheduler="sync")
    assert flowpar.explain(shift(5, by=3), cache=tmp_path).reason == "would run: argument by: 2 → 3"
    found = flowpar.plan([shift(i, by=3) for i in range(2100)], cache=tmp_path)
    assert {task.reason for task in found.tasks} == {"argument by: 2 → 3"}


# ------------------------------------------------------------------------------ command line

UTILS = """
BORDER = 2
def pad(x):
    return [0] * BORDER + x
"""
PIPELINE = """
import flowpar, utils
from flowpar import delayed

@delayed
def load(i):
    return list(range(i))

@delayed
def resize(x, size=64):
    return utils.pad(x)[:size]

@delayed
def total(xs):
    return sum(map(sum, xs))

sheet = total([resize(load(i)) for i in range(3)])
if __name__ == "__main__":
    print(sheet.compute(cache=".flowpar", scheduler="sync"))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "utils.py").write_text(UTILS)
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    # main() makes a script the main program, as python would; this process has one, and other
    # tests' workers look for its file.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    for name in ("pipeline", "utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield tmp_path
    for name in ("pipeline", "utils"):
        sys.modules.pop(name, None)


def flow(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "flowpar", *arguments], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_plan_why_and_accept_on_the_command_line(project):
    assert "load[0], load[1], load[2]: never ran" in flow("plan", "pipeline.py")[1]
    assert flow("run", "pipeline.py")[1] == "1\n"
    assert flow("plan", "pipeline.py:sheet")[1].startswith("0 would run; 7 up to date")
    Path("utils.py").write_text(UTILS.replace("* BORDER", "* (BORDER + 0)"))
    code, told, _ = flow("why", "pipeline.py", "resize[1]")
    assert (code, told) == (
        0,
        "resize[1]: would run: code of resize changed (helper pad in utils.py)\n",
    )
    assert flow("accept", "pipeline.py")[1].count("accepted resize") == 3
    assert json.loads(flow("plan", "pipeline.py", "--json")[1])["counts"]["cached"] == 7
    assert "accepted: resize[0]" in flow("cache", "info")[1]
    assert json.loads(flow("why", "pipeline.py", "total", "--json")[1])[0]["status"] == "cached"


EDITS = {
    # A helper that moves into another module, with the name that it has there.
    "moved": (
        "import flowpar, utils, more",
        "utils.pad(x)",
        "more.wider(x)",
        "def wider(x):\n    return [0] * 2 + x\n",
        "code of resize changed",
    ),
    # The same text, which means another function.
    "replaced": (
        "import flowpar, more as utils",
        "",
        "",
        "def pad(x):\n    return [0, 0] + list(x)\n",
        "code of resize changed (helper pad in more.py)",
    ),
    # One that uses another helper now.
    "deeper": (
        "import flowpar, more as utils",
        "",
        "",
        "def more(x):\n    return [0, 0] + x\ndef pad(x):\n    return more(x)\n",
        "code of resize changed (helper pad in more.py)",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_has_one_reason(project, edit):
    imports, old, new, more, reason = EDITS[edit]
    flow("run", "pipeline.py")
    Path("more.py").write_text(more)
    changed = PIPELINE.replace("import flowpar, utils", imports)
    Path("pipeline.py").write_text(changed.replace(old, new) if old else changed)
    assert flow("why", "pipeline.py", "resize[1]") == (0, f"resize[1]: would run: {reason}\n", "")


def test_what_comes_and_goes_without_an_edit_is_told():
    def made(*named):
        return [Component(kind, name, digest, "") for kind, name, digest in named]

    def told(new, old):
        code = Code(b"new", tuple(made(("code", "f", b"f"), *new)))
        former = tuple(made(("code", "g", b"f"), *old))
        trace = Trace(b"", b"", None, 0, 0.0, 0.0, b"old", "f", "f", ())
        return difference((), code, trace, lambda _: former)

    old = [("helper", "a", b"1"), ("class", "K", b"2")]
    assert told([("helper", "u.a", b"1"), old[1]], old) == [
        "code of f changed (helper a is now u.a)"
    ]
    assert told(old[:1], old) == ["code of f changed (class K is gone)"]
    assert told(old, old[1:]) == ["code of f changed (helper a is new)"]
    assert told([("helper", "b", b"9"), old[1]], old) == [
        "code of f changed (helper b is new)",
        "code of f changed (helper a is gone)",
    ]
    assert told([("helper", "a", b"9"), ("helper", "b", b"8")], old) == [
        "code of f changed (helper a)"
    ]


def test_accept_leaves_alone_what_changed_otherwise(project):
    flow("run", "pipeline.py")
    Path("pipeline.py").write_text(PIPELINE.replace("range(3)]", "range(1, 4)]"))
    assert flow("accept", "pipeline.py")[1] == "nothing to accept\n"


def test_a_cache_is_looked_after_on_the_command_line(project):
    flow("run", "pipeline.py")
    assert "7 results" in flow("cache", "info")[1]
    rows = json.loads(flow("cache", "ls", "--json")[1])
    assert {row["function"]: row["results"] for row in rows} == {
        "load": 3,
        "resize": 3,
        "total": 1,
    }
    assert flow("cache", "verify")[:2] == (0, "all is whole\n")
    assert flow("cache", "clear", "--function", "total")[0] == 0
    assert "1 would run" in flow("plan", "pipeline.py")[1]
    assert flow("cache", "prune", "--max-size", "0")[1].startswith("freed ")
    assert flow("run", "pipeline.py")[1] == "1\n"
    assert flow("cache", "clear")[0] == 0
    assert json.loads(flow("cache", "info", "--json")[1])["results"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["plan", "none.py"], "no file none.py"),
        (["plan", "pipeline.py:none"], "'none' is not in pipeline.py"),
        (["plan", "utils.py"], "computes nothing"),
        (["why", "pipeline.py", "none"], "no task 'none'"),
        (["cache", "info", "none"], "no cache in none"),
        (["cache", "prune"], "no cache in .flowpar"),
    ],
)
def test_wrong_usage_is_told_in_one_line(project, capsys, arguments, text):
    assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_wrong_options_are_refused(project, capsys):
    for arguments in (
        ["cache", "prune", "--max-size", "big"],
        ["cache", "prune", "--max-size", "-5"],
        ["cache", "prune", "--max-age", "-1d"],
        ["cache", "prune", "--max-age", "nan"],
        ["nothing"],
        [],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_a_name_cannot_be_asked_for_if_the_script_computes_before(project):
    Path("early.py").write_text(PIPELINE.replace('if __name__ == "__main__":', "if True:"))
    code, _, error = flow("plan", "early.py:sheet")
    assert code == 2
    assert "computes before" in error


@pytest.mark.parametrize("command", ["plan", "why", "accept"])
def test_asking_makes_no_directory(project, command):
    code, told, error = flow(command, "pipeline.py", "--cache", "none")
    assert (code, error) == (0, "")
    assert "never ran" in told or told == "nothing to accept\n"
    assert not Path("none").exists()
    Path("empty").mkdir()
    assert flow(command, "pipeline.py", "--cache", "empty")[0] == 0
    assert list(Path("empty").iterdir()) == []


def test_clear_says_if_nothing_is_kept_of_a_function(project):
    flow("run", "pipeline.py")
    told = flow("cache", "clear", "--function", "none")
    assert told == (0, "nothing is kept of none: there are total, resize, load\n", "")
    assert flow("cache", "clear", "--function", "load")[1] == "cleared 3 results of load\n"
    assert json.loads(flow("cache", "clear", "--function", "load", "--json")[1]) == {"results": 0}
    assert json.loads(flow("cache", "clear", "--json")[1]) == {"results": 4}


@pytest.mark.parametrize("data", [b"\xff\x00\x1b[31m" * 1000, b"flowpar 99\n"])
def test_a_directory_that_is_not_ours_ends_no_run(project, data):
    Path(".flowpar").mkdir(mode=0o700)
    Path(".flowpar/FORMAT").write_bytes(data)
    for arguments in (["run", "pipeline.py"], ["plan", "pipeline.py"]):
        code, told, error = flow(*arguments)
        assert code == 0
        assert told == "1\n" or "never ran" in told
        assert error.count("\n") == 1
        assert "cannot be used, so nothing more is kept" in error
        assert error[:-1].isprintable()
    for arguments in (["info"], ["ls"], ["verify"], ["prune", "--max-size", "1"], ["clear"]):
        code, told, error = flow("cache", *arguments)
        assert (code, told) == (1, "")
        assert error.startswith("flowpar: the cache in .flowpar cannot be used: its FORMAT is")
        assert error.count("\n") == 1
    assert Path(".flowpar/FORMAT").read_bytes() == data


STUBBORN = """
import atexit, contextlib, io, os, sys, threading
import flowpar
atexit.register(print, "AT EXIT")
out = io.StringIO()
def go():
    try:
        with contextlib.redirect_stdout(out):
            flowpar.delayed(abs)(-1).compute(cache=".flowpar", scheduler="sync")
    except BaseException:
        print("CAUGHT")
    finally:
        print("FINALLY")
    print("AFTER", file=sys.__stdout__)
os.chdir("..")
"""


@pytest.mark.parametrize("how", ["go()", "t = threading.Thread(target=go); t.start(); t.join()"])
@pytest.mark.parametrize("command", ["plan", "why"])
def test_a_script_does_nothing_after_its_first_run_whatever_it_catches(project, command, how):
    Path("here").mkdir()
    Path("here/stubborn.py").write_text(STUBBORN + how)
    os.chdir("here")
    code, told, error = flow(command, "stubborn.py", "--cache", "of/its/own")
    assert (code, error) == (0, "")
    assert "abs" in told
    assert "never ran" in told
    assert told.upper() != told
    assert not any(word in told for word in ("CAUGHT", "FINALLY", "AFTER", "AT EXIT"))


def test_within_a_program_the_command_line_does_not_end_that(project, capsys):
    assert main(["plan", "pipeline.py"]) == 0
    assert "never ran" in capsys.readouterr().out


def test_errors_of_a_script_are_shown_as_python_shows_them(project):
    Path("wrong.py").write_text("x = 1\ndef (\n")
    Path("fails.py").write_text("def f():\n    raise KeyError(3)\nf()\n")
    Path("stops.py").write_text("import sys\nsys.exit(3)\n")
    for script in ("wrong.py", "fails.py", "stops.py"):
        plain = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
        for command in ("run", "plan"):
            code, told, error = flow(command, script)
            assert (code, told) == (plain.returncode, "")
            assert error == plain.stderr.replace(f"{os.getcwd()}/", "")


def test_damage_is_found_and_forgotten(project):
    Path("big.py").write_text(
        "import flowpar\n"
        "made = flowpar.delayed(bytes)(100_000)\n"
        "if __name__ == '__main__':\n"
        "    print(len(made.compute(cache='.flowpar')))\n"
    )
    assert flow("run", "big.py")[1] == "100000\n"
    (found,) = (path for path in Path(".flowpar/objects").rglob("*") if path.is_file())
    data = bytearray(found.read_bytes())
    data[5000] ^= 1
    found.chmod(0o600)
    found.write_bytes(data)
    code, told, _ = flow("cache", "verify")
    assert code == 1
    assert told.startswith("damaged, and forgotten: ")
    assert flow("run", "big.py")[1] == "100000\n"
    assert flow("cache", "verify")[0] == 0


# --------------------------------------------------------------------------------- the house


def test_prune_takes_what_was_not_used_for_longest(tmp_path):
    cache = flowpar.Cache(tmp_path)
    made = delayed(bytes, name="made")
    for size in (10_000, 20_000, 30_000):
        made(size).compute(cache=cache, scheduler="sync")
        # As if time had gone by since.
        cache.store().execute("update object set used = used - 100")
    assert cache.prune(max_bytes=35_000) > 25_000
    assert flowpar.plan(made(30_000), cache=cache).counts["cached"] == 1
    assert flowpar.plan(made(10_000), cache=cache).counts["run"] == 1
    assert cache.prune(max_age=50) > 25_000
    assert cache.info()["objects"] == 0
    assert made(30_000).compute(cache=cache, scheduler="sync") == bytes(30_000)


def test_limits_apply_by_the_way(tmp_path):
    cache = flowpar.Cache(tmp_path, max_bytes=50_000)
    for size in range(10_000, 20_000, 1_000):
        delayed(bytes)(size).compute(cache=cache, scheduler="sync")
    assert 0 < cache.info()["bytes"] <= 50_000


def test_a_cache_says_what_it_cannot_be():
    for wrong in ({"path": ""}, {"audit": 2}, {"max_bytes": -1}, {"max_age": "old"}):
        with pytest.raises(flowpar.OptionError):
            flowpar.Cache(**wrong)
    with pytest.raises(flowpar.OptionError, match="cache takes"):
        delayed(abs)(1).compute(cache=3)


def test_the_directory_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPAR_CACHE", str(tmp_path / "here"))
    delayed(abs)(-1).compute(scheduler="sync")
    assert (tmp_path / "here" / "FORMAT").exists()
    assert delayed(abs)(-1).compute(scheduler="sync", cache=False) == 1


def test_times_are_of_this_place(tmp_path):
    delayed(abs)(-1).compute(scheduler="sync", cache=tmp_path)
    assert flowpar.Cache(tmp_path).ls()[0]["last"][:4] == time.strftime("%Y")
    assert os.stat(tmp_path).st_mode & 0o077 == 0


def test_what_nobody_can_look_into_is_listed(project):
    Path("service.py").write_text(
        "import socket\n"
        "LINE = socket.socket()\n"
        "def send(x):\n"
        "    return LINE.family and x\n"
        "if __name__ == '__main__':\n"
        "    import flowpar\n"
        "    print(flowpar.delayed(send)(1).compute(cache='.flowpar', scheduler='sync'))\n"
    )
    assert flow("run", "service.py")[1] == "1\n"
    told = flow("why", "service.py")[1]
    assert "not looked into: LINE (" in told
    assert json.loads(flow("why", "service.py", "--json")[1])[0]["unseen"]
