"""Whole runs on disks and directories that do not do what they should: values stay right."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
from support.gates import mark, marks

import flowpar
from flowpar import Cache, FlowparError, FlowparWarning, cached, delayed
from flowpar.caching import keeping
from flowpar.pools import shared

SCHEDULERS = ["sync", "threads", "processes"]

N = 40_000
"""Numbers in a list whose pickle is too large for the index."""

ANOTHER_USER = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")

PATH = os.pathsep.join(
    [os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]
).strip(os.pathsep)
"""Where programs that tests start find `support`."""


@pytest.fixture
def cache(tmp_path):
    yield tmp_path / "cache"
    with contextlib.suppress(FlowparError), warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowparWarning)
        Cache(tmp_path / "cache").store().close()


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    return request.param


def source(n, log):
    mark(log, "source")
    return list(range(n))


def more(values, log):
    mark(log, "more")
    return [value + 1 for value in values]


def total(values, k, log):
    mark(log, "total")
    return sum(values) + k


def targets(log, k, **policy):
    """Return what depends on two large values, and the second of these."""
    made = delayed(source, ignore="log", **policy)(N, log)
    again = delayed(more, ignore="log", **policy)(made, log)
    return delayed(total, ignore="log", **policy)(again, k, log), again


LIST = list(range(1, N + 1))


def called(log):
    """Return which functions were called since this was last asked, sorted."""
    found = sorted(marks(log))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)
    return found


def objects(cache):
    return sorted((cache / "objects").glob("*/*"))


@contextlib.contextmanager
def warned(*matches, at_most=False):
    """Expect one warning for each of these, and no other."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    found = [str(each.message) for each in caught]
    assert len(found) == len(matches) or (at_most and not found), found
    assert all(match in text for match, text in zip(matches, found, strict=False)), found


PROGRAM = """
    import os
    import resource
    import sys

    import flowpar
    from flowpar import delayed
    from support.gates import mark


    @delayed(ignore="log", limit="one by one")
    def source(n, size, log):
        mark(log, f"source{n}")
        return bytes([n]) * size

    @delayed(ignore="log")
    def total(values, k, log):
        mark(log, "total")
        return sum(map(sum, values)) + k

    def plain(n, size, log):
        mark(log, "plain")
        return bytes([n]) * size

    if __name__ == "__main__":
        scheduler, size, k, log = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
        if len(sys.argv) > 5:
            limit = int(sys.argv[5])
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        task = total([source(n, size, log) for n in range(8)], k, log)
        made = source(9, size, log)
        value, last = flowpar.compute(task, made, cache="cache", scheduler=scheduler, workers=2)
        assert value == 28 * size + k, value
        assert last == bytes([9]) * size
        assert flowpar.cached(plain, ignore="log", cache="cache")(k, size, log) == bytes([k]) * size
"""

ALL = sorted(["plain", "total", *(f"source{n}" for n in (*range(8), 9))])


@pytest.fixture
def program(tmp_path, log):
    """Run the program to its end; return what it called and how often it warned."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PROGRAM))

    def run(*args, prefix=()):
        done = subprocess.run(
            [*prefix, sys.executable, "-W", "always::UserWarning", str(script), *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if "Warning:" in line]
        return called(log), said

    return run


# Disks --------------------------------------------------------------------------------------------


def without_rights() -> list[str]:
    """Return what starts a program that heeds the rights of files, whoever runs it."""
    if os.geteuid() != 0:
        return []
    drop = "-dac_override,-dac_read_search,-fowner"
    prefix = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("root may write everywhere")
    return prefix


@pytest.mark.parametrize("size", [200, 400_000])
def test_a_directory_that_can_only_be_read_gives_what_it_has(
    program, tmp_path, log, scheduler, size
):
    prefix = without_rights()
    assert program(scheduler, size, 0, log) == (ALL, [])
    folders = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    before = {each: each.stat().st_mtime_ns for each in folders}
    for each in folders:
        each.chmod(0o500 if each.is_dir() else 0o400)
    try:
        hit = program(scheduler, size, 0, log, prefix=prefix)
        missed = program(scheduler, size, 1, log, prefix=prefix)
    finally:
        for each in folders:
            each.chmod(0o700 if each.is_dir() else 0o600)
    assert hit[0] == []
    assert missed[0] == ["plain", "total"]
    for said in (hit[1], missed[1]):
        assert len(said) == 1
        assert "can only be read" in said[0]
    assert {each: each.stat().st_mtime_ns for each in folders} == before


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        pytest.param(400_000, 300_000, id="objects"),
        pytest.param(30_000, 200_000, id="the index"),
        pytest.param(400_000, 40_000, id="all"),
    ],
)
def test_a_disk_that_is_full_costs_no_value(program, tmp_path, log, scheduler, size, limit):
    ran, said = program(scheduler, size, 0, log, limit)
    assert ran == ALL
    # The run says it once; the function that comes after it tries again.
    assert 1 <= len(said) <= 2, said
    assert all("cannot be used" in each for each in said)
    assert not list((tmp_path / "cache").glob("tmp/*"))
    # There is room again.
    assert program(scheduler, size, 0, log)[1] == []
    assert program(scheduler, size, 0, log) == ([], [])


def wipe(values, folder, log):
    mark(log, "wipe")
    shutil.rmtree(folder, ignore_errors=True)
    return [*values, 1]


@pytest.mark.parametrize("n", [3, N])
def test_a_task_that_deletes_the_directory_hurts_nobody(cache, log, scheduler, n):
    alone = {"limit": "one by one"}  # no value stays in a worker
    made = delayed(source, ignore="log", **alone)(n, log)
    less = delayed(wipe, ignore=["log", "folder"], **alone)(made, str(cache), log)
    again = delayed(more, ignore="log", **alone)(less, log)
    task = delayed(total, ignore="log", **alone)(again, 0, log)
    want = sum(range(n)) + n + 2
    with warned("cannot be used", at_most=True):
        assert flowpar.compute(task, made, cache=cache, scheduler=scheduler) == (
            want,
            list(range(n)),
        )
    assert set(called(log)) == {"more", "source", "total", "wipe"}
    # It is made anew, and works.
    one = targets(log, 0)
    for _ in range(2):
        assert flowpar.compute(*one, cache=cache, scheduler=scheduler) == (sum(LIST), LIST)
    assert called(log) == ["more", "source", "total"]


def test_a_function_that_deletes_the_directory_of_its_cache(cache, log):
    def spoil(n):
        mark(log, "spoil")
        shutil.rmtree(cache)
        return list(range(n))

    keeper = cached(spoil, cache=cache, ignore=[])
    for n in (3, N, 4):
        with warned("cannot be used", at_most=True):
            assert keeper(n) == list(range(n))


@pytest.mark.parametrize("name", ["index.sqlite", "index.sqlite-wal", "locks", "FORMAT", "tmp"])
def test_garbage_in_place_of_a_file_costs_no_value(cache, log, scheduler, name):
    one = targets(log, 0)
    flowpar.compute(*one, cache=cache, scheduler=scheduler)
    Cache(cache).store().close()
    called(log)
    path = cache / name
    if name == "tmp":
        path.rmdir()
    path.write_bytes(os.urandom(20_000))
    said = {
        "index.sqlite": ["damaged index"],
        "tmp": ["cannot be used"],
        "FORMAT": ["its FORMAT is"],
    }.get(name, [])
    with warned(*said):
        assert flowpar.compute(*one, cache=cache, scheduler=scheduler) == (sum(LIST), LIST)
    assert called(log) == (["more", "source", "total"] if said else [])


def test_garbage_in_the_index_while_it_is_open_costs_no_value(cache, log, scheduler):
    one = targets(log, 0)
    flowpar.compute(*one, cache=cache, scheduler=scheduler)
    store = Cache(cache).store()
    store.query("pragma wal_checkpoint(truncate)")
    data = bytearray((cache / "index.sqlite").read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    (cache / "index.sqlite").write_bytes(data)
    store.query("pragma shrink_memory")
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert flowpar.compute(*one, cache=cache, scheduler=scheduler) == (sum(LIST), LIST)
        assert len(caught) <= 1


# Directories --------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("part", ["", "objects", "tmp"])
def test_the_directory_of_another_user_is_refused_before_anything_runs(cache, log, scheduler, part):
    one = targets(log, 0)
    flowpar.compute(*one, cache=cache, scheduler=scheduler)
    Cache(cache).store().close()
    called(log)
    os.chown(cache / part, ANOTHER_USER, ANOTHER_USER)
    for run in (flowpar.compute, flowpar.run):
        with pytest.raises(FlowparError, match="belongs to another user"):
            run(*one, cache=cache, scheduler=scheduler)
    with pytest.raises(FlowparError, match="belongs to another user"):
        cached(total, cache=cache)([1], 1, log)
    assert called(log) == []


@as_root
def test_a_link_to_the_directory_of_another_user_is_refused(tmp_path, log, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, ANOTHER_USER, ANOTHER_USER)
    Path(".flowpar").symlink_to(theirs)
    with pytest.raises(FlowparError, match="belongs to another user"):
        flowpar.compute(*targets(log, 0), cache=True, scheduler="sync")
    assert called(log) == []
    assert not list(theirs.iterdir())


@pytest.mark.parametrize("is_there", [False, True])
def test_a_link_to_another_place_is_followed(tmp_path, log, monkeypatch, scheduler, is_there):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    if is_there:
        other.mkdir()
        (other / "precious").write_text("x")
    Path(".flowpar").symlink_to(other)
    one = targets(log, 0)
    for _ in range(2):
        assert flowpar.compute(*one, cache=True, scheduler=scheduler) == (sum(LIST), LIST)
    assert called(log) == ["more", "source", "total"]
    Cache().clear()
    assert (other / "precious").exists() == is_there
    Cache(other).store().close()


@pytest.mark.parametrize("what", ["file", "loop", "pipe"])
def test_what_is_no_directory_costs_no_value(tmp_path, log, monkeypatch, scheduler, what):
    monkeypatch.chdir(tmp_path)
    path = Path(".flowpar")
    if what == "file":
        path.write_text("mine")
    elif what == "loop":
        path.symlink_to(path)
    else:
        os.mkfifo(path)
    with warned("cannot be used"):
        assert flowpar.compute(*targets(log, 0), cache=True, scheduler=scheduler) == (
            sum(LIST),
            LIST,
        )
    assert called(log) == ["more", "source", "total"]
    assert what != "file" or path.read_text() == "mine"


# Objects ------------------------------------------------------------------------------------------


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


HARMS = [delete, cut, empty, flip]


@pytest.mark.parametrize("harm", [*HARMS, replace_by_pipe])
@pytest.mark.parametrize("alone", [{}, {"limit": "one by one"}])
def test_damaged_objects_are_made_again_in_silence(cache, log, scheduler, harm, alone):
    flowpar.compute(*targets(log, 0, **alone), cache=cache, scheduler=scheduler)
    called(log)
    found = objects(cache)
    assert len(found) == 2
    for path in found:
        harm(path)
    # Of the two, one is asked for, and both are needed to make that.
    run = flowpar.compute(*targets(log, 1, **alone), cache=cache, scheduler=scheduler)
    assert run == (sum(LIST) + 1, LIST)
    ran = called(log)
    assert Counter(ran) == {"more": 1, "source": 1, "total": 1}, ran
    assert flowpar.compute(*targets(log, 1, **alone), cache=cache, scheduler=scheduler) == run
    assert called(log) == []


def test_folders_in_place_of_objects_cost_no_value(cache, log, scheduler):
    flowpar.compute(*targets(log, 0), cache=cache, scheduler=scheduler)
    called(log)
    for path in objects(cache):
        replace_by_folder(path)
    with warned("cannot be used"):
        run = flowpar.compute(*targets(log, 1), cache=cache, scheduler=scheduler)
    assert run == (sum(LIST) + 1, LIST)
    assert called(log) == ["more", "source", "total"]


def test_damaged_objects_that_cannot_be_deleted_are_made_again(program, tmp_path, log, scheduler):
    prefix = without_rights()
    program(scheduler, 400_000, 0, log)
    cache = tmp_path / "cache"
    for path in objects(cache):
        flip(path)
    folders = [cache, *cache.rglob("*")]
    for each in folders:
        each.chmod(0o500 if each.is_dir() else 0o400)
    try:
        ran, said = program(scheduler, 400_000, 1, log, prefix=prefix)
    finally:
        for each in folders:
            each.chmod(0o700 if each.is_dir() else 0o600)
    assert sorted(ran) == ALL
    assert all("can only be read" in each or "damaged again" in each for each in said), said
    assert 1 <= len(said) <= 2


@pytest.mark.parametrize("data", ["x'00'", "zeroblob(length(data))", "null", "'text'", "7"])
def test_damaged_objects_in_the_index_are_made_again_in_silence(cache, log, scheduler, data):
    def small(n, log):
        mark(log, "small")
        return list(range(n))

    def run(k):
        made = delayed(small, ignore="log")(5, log)
        task = delayed(total, ignore="log")(made, k, log)
        return flowpar.compute(task, made, cache=cache, scheduler=scheduler)

    assert run(0) == (10, [0, 1, 2, 3, 4])
    called(log)
    Cache(cache).store().execute(f"update object set data = {data}")
    for _ in range(2):
        assert run(1) == (11, [0, 1, 2, 3, 4])
    assert Counter(called(log)) == {"small": 1, "total": 1}


def test_a_cached_function_whose_objects_are_damaged_computes_again(cache, log):
    keeper = cached(source, cache=cache, ignore="log")
    for harm in HARMS:
        assert keeper(N, log) == list(range(N))
        called(log)
        Cache(cache).store().commit()
        (path,) = objects(cache)
        harm(path)
        assert keeper(N, log) == list(range(N))
        assert called(log) == ["source"]


KINDS = """
    class {name}:
        def __init__(self, size):
            self.data = list(range(size))

        def __eq__(self, other):
            return self.data == other.data

        __hash__ = None
"""


@pytest.mark.parametrize("size", [10, N])
def test_a_value_whose_class_is_gone_is_made_again(
    cache, log, scheduler, size, tmp_path, monkeypatch
):
    name = f"kinds_{scheduler}_{size}"
    path = tmp_path / f"{name}.py"
    monkeypatch.syspath_prepend(tmp_path)
    shared.close_all()  # workers that start from now on find the module

    def make(size, log):
        mark(log, "make")
        kinds = importlib.import_module(name)
        return (getattr(kinds, "Box", None) or kinds.Crate)(size)

    def count(box, k, log):
        mark(log, "count")
        return len(box.data) + k

    def run(k):
        made = delayed(make, ignore="log", limit="one")(size, log)
        task = delayed(count, ignore="log", limit="one")(made, k, log)
        return flowpar.compute(task, made, cache=cache, scheduler=scheduler)

    try:
        path.write_text(textwrap.dedent(KINDS.format(name="Box")))
        number, box = run(0)
        assert (number, type(box).__name__) == (size, "Box")
        called(log)
        path.write_text(textwrap.dedent(KINDS.format(name="Crate")))
        importlib.invalidate_caches()
        sys.modules.pop(name)
        shared.close_all()
        for k in (1, 0):
            number, box = run(k)
            assert (number, type(box).__name__) == (size + k, "Crate")
        assert Counter(called(log)) in ({"make": 1, "count": 1}, {"make": 1, "count": 2})
    finally:
        shared.close_all()
        sys.modules.pop(name, None)


@pytest.mark.parametrize("how", ["sync", "threads", "fork"])
@pytest.mark.parametrize("harm", [flip, cut, delete])
def test_a_disk_that_damages_whatever_is_written_is_given_up(cache, log, monkeypatch, how, harm):
    real = keeping.write

    def write(written, folder):
        stored = real(written, folder)
        with contextlib.suppress(FileNotFoundError):
            harm(Path(stored.path))
        return stored

    monkeypatch.setattr(keeping, "write", write)
    shared.close_all()
    options = {"scheduler": how}
    if how == "fork":  # workers have what is patched here
        options = {"scheduler": "processes", "start_method": "fork", "workers": 2}
    try:
        with warned("cannot be used"):
            run = flowpar.compute(*targets(log, 0, limit="one by one"), cache=cache, **options)
        assert run == (sum(LIST), LIST)
        most = Counter(called(log))
        assert set(most) == {"more", "source", "total"}
        assert max(most.values()) <= 3
        with warned("cannot be used", at_most=True):
            run = flowpar.compute(*targets(log, 1, limit="one by one"), cache=cache, **options)
        assert run == (sum(LIST) + 1, LIST)
        assert max(Counter(called(log)).values()) <= 3
    finally:
        shared.close_all()


# Clocks -------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_costs_no_value(cache, log, scheduler, monkeypatch):
    real = time.time
    flowpar.compute(*targets(log, 0), cache=cache, scheduler=scheduler)
    called(log)
    monkeypatch.setattr(time, "time", lambda: real() - 365 * 86400)
    for k, ran in [(0, []), (1, ["total"]), (1, [])]:
        run = flowpar.run(*targets(log, k), cache=cache, scheduler=scheduler)
        assert run.value == (sum(LIST) + k, LIST)
        assert called(log) == ran
        assert all(task.reason for task in run.tasks if task.status == "done")


def test_what_expires_is_made_again_when_the_clock_is_set_back(cache, log, scheduler, monkeypatch):
    real = time.time
    flowpar.compute(*targets(log, 0, expires=1e6), cache=cache, scheduler=scheduler)
    called(log)
    monkeypatch.setattr(time, "time", lambda: real() - 365 * 86400)
    for ran in (["more", "source", "total"], []):
        run = flowpar.compute(*targets(log, 0, expires=1e6), cache=cache, scheduler=scheduler)
        assert run == (sum(LIST), LIST)
        assert called(log) == ran
    keeper = cached(source, cache=cache, ignore="log", expires=1e6)
    keeper(3, log)
    monkeypatch.setattr(time, "time", lambda: real() - 2 * 365 * 86400)
    called(log)
    assert keeper(3, log) == keeper(3, log) == [0, 1, 2]
    assert called(log) == ["source"]


# Many at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_large", [False, True])
def test_two_runs_of_one_graph_at_a_time_call_each_function_once(cache, log, scheduler, is_large):
    n = N if is_large else 10

    def graph():
        made = [delayed(source, ignore="log")(n + at, log) for at in range(10)]
        again = [delayed(more, ignore="log")(each, log) for each in made]
        return [delayed(total, ignore="log")(each, 0, log) for each in again]

    tasks, start = graph(), threading.Barrier(2, timeout=60)
    want = [sum(range(1, n + at + 1)) for at in range(10)]
    found = []

    def run():
        start.wait()
        found.append(flowpar.compute(*tasks, cache=cache, scheduler=scheduler))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert [list(each) for each in found] == [want, want]
    assert Counter(called(log)) == {"source": 10, "more": 10, "total": 10}


def test_a_forked_child_uses_the_cache_of_its_parent(run_script, log, scheduler, tmp_path):
    done = run_script(
        f"""
        import os, signal, sys, warnings
        import flowpar
        from flowpar import delayed
        from support.gates import mark

        warnings.simplefilter("error", flowpar.FlowparWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12: there are threads

        @delayed(ignore="log")
        def source(n, log):
            mark(log, "source")
            return list(range(n))

        @delayed(ignore="log")
        def total(values, k, log):
            mark(log, f"total{{k}}")
            return sum(values) + k

        @flowpar.cached(cache="cache", ignore="log")
        def plain(k, log):
            mark(log, f"plain{{k}}")
            return k

        def work(k):
            task = total(source({N}, {log!r}), k, {log!r})
            found = task.compute(cache="cache", scheduler={scheduler!r}, workers=2)
            assert found == sum(range({N})) + k
            assert plain(k, {log!r}) == k

        if __name__ == "__main__":
            work(0)
            child = os.fork()
            if not child:
                code = 1
                try:
                    signal.alarm(60)
                    work(0)
                    work(1)
                    code = 0
                finally:
                    flowpar.caching.store.close_all()
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            work(1)
            work(2)
        """,
        PYTHONPATH=PATH,
    )
    assert (done.returncode, done.stderr) == (0, "")
    ran = Counter(called(log))
    assert ran == {
        "source": 1,
        **{f"{what}{k}": 1 for what in ("total", "plain") for k in range(3)},
    }


# Programs without a file --------------------------------------------------------------------------

CELLS = """
import flowpar
from flowpar import delayed
from support.gates import mark

SHIFT = {shift}

def helper(x):
    return x + SHIFT

@delayed(ignore="log")
def source(n, log):
    mark(log, "source")
    return [helper(each) for each in range(n)]

@delayed(ignore="log")
def total(values, log):
    mark(log, "total")
    return sum(values)

task = total(source(5, {log!r}), {log!r})
print(task.compute(cache="cache", scheduler={scheduler!r}, workers=1))
"""

NOTEBOOK = """
import linecache, sys
cell = {cell!r}
name = "<ipython-input-1-abcdef>"
if {has_source}:
    linecache.cache[name] = len(cell), None, cell.splitlines(True), name
exec(compile(cell, name, "exec"), vars(sys.modules["__main__"]))
"""


@pytest.mark.parametrize("how", ["file", "stdin", "command", "notebook", "exec"])
def test_a_program_without_a_file_finds_what_it_kept(run_script, log, scheduler, how):
    def run(shift):
        cell = CELLS.format(shift=shift, log=log, scheduler=scheduler)
        where = how
        if how in {"notebook", "exec"}:
            cell, where = NOTEBOOK.format(cell=cell, has_source=how == "notebook"), "command"
        done = run_script(cell, how=where, PYTHONPATH=PATH, PYTHONWARNINGS="always::UserWarning")
        assert (done.returncode, done.stderr) == (0, "")
        return int(done.stdout), called(log)

    assert run(1) == (15, ["source", "total"])
    assert run(1) == (15, [])
    assert run(2) == (20, ["source", "total"])
    assert run(1) == (15, [])
