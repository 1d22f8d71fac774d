"""What would run, and why: `flowpar.plan`, `flowpar.explain`, and the command line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flowpar
from flowpar import delayed
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
    assert "because: dependency resize[3] gave another value" in told.reason


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
        (["plan", "pipeline.py:none"], "has no 'none'"),
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
    for arguments in (["cache", "prune", "--max-size", "big"], ["nothing"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_a_name_cannot_be_asked_for_if_the_script_computes_before(project):
    Path("early.py").write_text(PIPELINE.replace('if __name__ == "__main__":', "if True:"))
    code, _, error = flow("plan", "early.py:sheet")
    assert code == 2
    assert "computes before" in error


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
