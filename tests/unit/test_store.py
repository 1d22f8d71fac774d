"""The store: it never gives what was not put, and never raises into a run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from flowpar.caching import claims, index, objects
from flowpar.caching import store as module
from flowpar.caching.objects import ObjectDamaged, Stored, freeze, path_of, thaw, write
from flowpar.caching.store import CacheRefused, PastRun, Store, Trace, close_all, store_at
from flowpar.errors import FlowparWarning

ANOTHER_USER = 12345

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def opened():
    """Open stores, which are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_store(path) -> Store:
            store = Store(path)
            stack.callback(store.close)
            return store

        yield open_store


@pytest.fixture
def store(path, opened):
    return opened(path)


@pytest.fixture
def slow_to_commit(monkeypatch):
    """Have nothing committed on its own, however slow the machine is."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", 1e9)


def key_of(number: int) -> bytes:
    return objects.blake3(b"%d" % number).digest()


def trace_of(number: int, made: bytes | None = None, **fields) -> Trace:
    facts = {
        "key": key_of(number),
        "value": key_of(-number - 1),
        "object": made,
        "size": 0,
        "seconds": 0.5,
        "created": float(number),
        "function": key_of(10**9),
        "name": "load",
        "place": f"load[{number}]",
        "parts": (("x", key_of(number), str(number)),),
    }
    return Trace(**{**facts, **fields})


def put_value(store: Store, number: int, *, in_file: bool, **fields) -> Trace:
    """Put a trace whose value is a function of its key."""
    written = freeze(value_of(number, in_file=in_file))
    data = None
    if in_file:
        write(written, store.objects)
    else:
        data = b"".join(written.pieces)
    trace = trace_of(number, written.digest, size=written.size, **fields)
    store.put(trace, data)
    return trace


def value_of(number: int, *, in_file: bool):
    return np.full(6000, number) if in_file else ("value", number)


def load(store: Store, trace: Trace):
    """Return the value of a trace, None if it is not there, or `ObjectDamaged`."""
    assert trace.object is not None
    found = store.fetch(trace.object, trace.size)
    try:
        return thaw(found, trace.object) if isinstance(found, bytes) else found and found.load()
    except ObjectDamaged:
        return ObjectDamaged


def is_value_of(value, number: int) -> bool:
    return any(
        np.array_equal(value, value_of(number, in_file=in_file)) for in_file in (False, True)
    )


@contextlib.contextmanager
def given_up(*, match="cannot be used", times=1):
    """Expect so many warnings, and no error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    found = [str(each.message) for each in caught if each.category is FlowparWarning]
    assert len(found) == times, found
    assert all(match in each for each in found), found


def fork(function, *args) -> int:
    """Start it in a fork of this process, and return its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are threads: of faulthandler
        pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        code = function(*args) or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(function, *args) -> int:
    return end_of(fork(function, *args))


def in_threads(function, count: int) -> None:
    """Run it in so many threads at once; raise what the first of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number):
        try:
            start.wait(60)
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads)


# --------------------------------------------------------------------------- puts and looks


def test_a_trace_is_found_before_and_after_it_is_committed(store, opened, path, slow_to_commit):
    traces = [put_value(store, number, in_file=number % 2 == 0) for number in range(10)]
    keys = [trace.key for trace in traces]
    other = opened(path)
    assert store.lookup([*keys, key_of(99)]) == dict(zip(keys, traces, strict=True))
    assert other.lookup(keys) == {}
    store.commit()
    for each in (store, other):
        assert each.lookup(keys) == dict(zip(keys, traces, strict=True))
        assert all(is_value_of(load(each, trace), n) for n, trace in enumerate(traces))
    assert store.lookup([]) == {}


def test_all_fields_come_back(store, opened, path):
    trace = trace_of(
        1,
        files=(("/a/\udc80b", b"d" * 32),),
        kind="expansion",
        parts=(("x", b"", "é\udcff"), ("y", b"1", "")),
        seconds=2,
        name="",
    )
    store.put(trace, None)
    store.commit()
    assert opened(path).lookup([trace.key]) == {trace.key: trace}
    assert trace_of(1).kind == "value"
    assert trace_of(1).files == ()


def test_names_that_are_no_utf8_are_written_as_well_as_can_be(store):
    store.put(trace_of(1, name="lo\udc80d", place="\ud800"), None)
    store.commit()
    (found,) = store.lookup([key_of(1)]).values()
    assert (found.name, found.place) == ("lo\\udc80d", "\\ud800")
    assert store.earlier("lo\udc80d") == [found]


def test_the_last_trace_of_a_key_holds(store):
    for _ in range(2):
        store.put(trace_of(1, value=b"old"), None)
        store.put(trace_of(1, value=b"new"), None)
        assert store.lookup([key_of(1)])[key_of(1)].value == b"new"
        store.commit()
    assert store.lookup([key_of(1)])[key_of(1)].value == b"new"
    assert store.sizes()[0] == 1


def test_many_keys_are_looked_up_at_once(store):
    for number in range(0, 3000, 2):
        store.put(trace_of(number), None)
    store.commit()
    found = store.lookup([key_of(number) for number in range(3000)])
    assert {trace.created for trace in found.values()} == set(map(float, range(0, 3000, 2)))


def test_traces_are_committed_when_many_or_when_the_time_has_come(
    store, opened, path, monkeypatch, slow_to_commit
):
    other = opened(path)
    monkeypatch.setattr(module, "COMMIT_ROWS", 3)
    for number in range(4):
        store.put(trace_of(number), None)
    assert len(other.lookup([key_of(n) for n in range(4)])) == 3
    left = store.tend()
    assert left is not None
    assert left > 0
    monkeypatch.setattr(module, "COMMIT_SECONDS", -1.0)
    assert store.tend() is None
    assert len(other.lookup([key_of(n) for n in range(4)])) == 4
    store.put(trace_of(5), None)
    assert other.lookup([key_of(5)])


def test_earlier_traces_come_newest_first_and_of_that_name_only(store):
    for number in range(10):
        store.put(trace_of(number, name="a" if number % 2 else "b"), None)
    store.commit()
    assert [trace.created for trace in store.earlier("a")] == [9, 7, 5, 3, 1]
    assert [trace.created for trace in store.earlier("a", limit=2)] == [9, 7]
    assert [trace.created for trace in store.earlier("a", before=5.0)] == [3, 1]
    assert store.earlier("c") == []


def test_earlier_traces_of_a_place_are_found_however_many_are_newer(store):
    for number in range(40):
        place = f"a[{number % 20}]"
        store.put(trace_of(number, name="a", place=place), None)
    store.put(trace_of(99, name="b", place="a[3]"), None)
    store.commit()
    found = [trace.created for trace in store.earlier("a", limit=2, places=["a[3]", "a[4]"])]
    assert found == [39, 38, 24, 23, 4, 3]
    assert store.earlier("a", limit=0, places=["a[30]"]) == []
    found = store.earlier("a", limit=0, places=["a[3]"], before=23.0)
    assert [trace.created for trace in found] == [3]


def test_of_a_place_only_the_newest_are_returned(store):
    for number in range(10):
        store.put(trace_of(number, name="a", place="a"), None)
    store.commit()
    assert [each.created for each in store.earlier("a", limit=1, places=["a"])] == [9, 8, 7, 6]


def test_traces_that_share_arguments_are_found_however_old(store):
    for number in range(300):
        parts = (("x", b"i%x" % number, "x"), ("y", b"i1", "1"))
        store.put(trace_of(number, name="a", parts=parts), None)
    store.put(trace_of(999, name="b", parts=(("x", b"i3", "x"),)), None)
    store.commit()
    found = [trace.created for trace in store.sharing("a", [b"i3", b"i1"])]
    assert len(found) == module.MOST_SHARED
    assert found[-1] == 3
    assert found[0] == 299
    assert [trace.created for trace in store.sharing("a", [b"i3"])] == [3]  # and not i30, i31
    assert store.sharing("a", [b"i3"], before=3.0) == []
    assert store.sharing("a", []) == store.sharing("c", [b"i3"]) == []


def test_components_come_back_before_and_after_the_commit(store, opened, path):
    store.put_function(b"f", ("name", 1, (b"x",)))
    store.put_function(b"g", (lambda: None,))  # cannot be pickled; it is only not shown
    assert store.components(b"f") == ("name", 1, (b"x",))
    store.commit()
    assert opened(path).components(b"f") == ("name", 1, (b"x",))
    assert store.components(b"g") == ()


def test_facts_of_files_come_back(store, opened, path):
    rows = [("/a/b", (1, 2**63), b"1" * 32), ("/odd/\udc80", (3,), b"2" * 32)]
    store.put_file_facts(rows)
    store.put_file_facts([])
    assert sorted(opened(path).file_facts()) == rows
    store.put_file_facts(iter([("/a/b", (5,), b"3" * 32)]))
    assert min(store.file_facts()) == ("/a/b", (5,), b"3" * 32)


def test_runs_come_back_newest_first(store):
    for number in range(3):
        store.put_run(PastRun(0, float(number), 1.5, "done", "main\udc80.py", "{}"), b"facts")
    assert [run.started for run in store.runs(2)] == [2.0, 1.0]
    last = store.runs()[0]
    assert last[1:] == (2.0, 1.5, "done", "main\\udc80.py", "{}")
    assert store.run_facts(last.number) == b"facts"
    assert store.run_facts(last.number + 1) is None


def test_the_oldest_of_many_runs_are_forgotten(store, monkeypatch):
    monkeypatch.setattr("flowpar.caching.store.MOST_RUNS", 3)
    for number in range(5):
        store.put_run(PastRun(0, float(number), 1.0, "done", "", ""))
    assert [run.started for run in store.runs(100)] == [4.0, 3.0, 2.0]


def test_a_change_by_another_gives_another_version(store, opened, path):
    other = opened(path)
    version = store.version()
    store.put(trace_of(1), None)
    store.commit()
    assert store.version() == version
    other.put(trace_of(2), None)
    assert store.version() == version
    other.commit()
    assert store.version() == store.version() != version
    assert (store.n_put, other.n_put) == (1, 1)


# ---------------------------------------------------------------------------------- objects


def test_a_row_for_an_object_in_a_file_does_not_wipe_a_small_one(store):
    trace = put_value(store, 1, in_file=False)
    store.commit()
    store.put(trace_of(2, trace.object, size=trace.size), None)
    store.commit()
    assert load(store, trace) == ("value", 1)
    assert store.sizes()[1:] == (1, trace.size)


def test_equal_values_of_two_keys_share_an_object(store):
    first = put_value(store, 1, in_file=False)
    store.put(trace_of(2, first.object, size=first.size), b"".join(freeze(("value", 1)).pieces))
    store.commit()
    assert store.sizes()[:2] == (2, 1)
    store.delete_traces(older_than=2.0)
    assert load(store, first) == ("value", 1)


def test_a_small_object_that_was_damaged_is_healed_by_the_next_put(store):
    trace = put_value(store, 1, in_file=False)
    store.commit()
    store.execute("update object set data = zeroblob(length(data))")
    assert load(store, trace) is ObjectDamaged
    put_value(store, 1, in_file=False)
    store.commit()
    assert load(store, trace) == ("value", 1)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("is_committed", [False, True])
def test_an_object_that_is_forgotten_is_not_fetched(store, in_file, is_committed):
    trace = put_value(store, 1, in_file=in_file)
    if is_committed:
        store.commit()
    store.forget_object(trace.object)
    assert store.fetch(trace.object, trace.size) is None
    assert store.lookup([trace.key]) == {trace.key: trace}
    put_value(store, 1, in_file=in_file)
    assert is_value_of(load(store, trace), 1)


def test_an_object_that_cannot_be_deleted_is_forgotten_all_the_same(store):
    """Else a run would find it, and find it damaged, for ever."""
    for number, in_file in enumerate((False, True)):
        put_value(store, number, in_file=in_file)
    store.commit()
    traces = store.lookup([key_of(0), key_of(1)]).values()
    with given_up():
        store.give_up("no more")
    for trace in traces:
        store.forget_object(trace.object)
        assert store.fetch(trace.object, trace.size) is None
        assert store.small([trace.object]) == {}


def test_an_object_that_is_forgotten_and_made_again_while_the_index_is_replaced(path):
    store = Store(path)
    trace = put_value(store, 1, in_file=False)
    store.commit()
    damage(path, "late garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowparWarning)
        store.forget_object(trace.object)
        put_value(store, 1, in_file=False)
        store.commit()
    assert is_value_of(load(store, trace), 1)
    store.close()


def test_a_file_of_another_size_is_not_fetched(store):
    trace = put_value(store, 1, in_file=True)
    assert isinstance(store.fetch(trace.object, trace.size), Stored)
    os.truncate(path_of(store.objects, trace.object), 5)
    assert store.fetch(trace.object, trace.size) is None
    path_of(store.objects, trace.object).unlink()
    os.mkfifo(path_of(store.objects, trace.object))
    assert store.fetch(trace.object, 0) is None


def test_objects_by_use_come_with_those_unused_for_longest_first(store, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    traces = []
    for number in range(4):
        traces.append(put_value(store, number, in_file=number % 2 == 0))
        store.commit()
        now[0] += 1.0
    names = [trace.object for trace in traces]
    assert list(store.objects_by_use()) == [
        (trace.object, trace.size, 1000.0 + number) for number, trace in enumerate(traces)
    ]
    load(store, traces[0])
    assert [each[0] for each in store.objects_by_use()] == names, "used a moment ago"
    now[0] += 2 * module.USED_SECONDS
    for number in (1, 0):
        load(store, traces[number])
    assert [each[0] for each in store.objects_by_use()][:2] == names[2:]


def test_dropped_objects_are_gone_and_their_traces_stay(store, opened, path):
    traces = [put_value(store, number, in_file=number % 2 == 0) for number in range(4)]
    store.commit()
    mapped = load(store, traces[0])
    pruner = opened(path)
    pruner.drop_objects(trace.object for trace in traces[:2])
    assert [load(store, trace) is None for trace in traces] == [True, True, False, False]
    assert len(store.lookup([trace.key for trace in traces])) == 4
    assert store.sizes()[1] == 2
    assert is_value_of(mapped, 0), "who has it open keeps it"
    assert list(store.orphans()) == []
    assert list(store.verify()) == []


def test_a_value_is_computed_again_that_is_pruned_between_fetch_and_load(store, opened, path):
    trace = put_value(store, 2, in_file=True)
    found = store.fetch(trace.object, trace.size)
    opened(path).drop_objects([trace.object])
    with pytest.raises(ObjectDamaged):
        found.load()


def test_traces_are_deleted_by_age_and_by_name(store):
    def left():
        return sorted(created for (created,) in store.query("select created from trace"))

    for number in range(6):
        trace = trace_of(number, name="a" if number % 2 else "b", function=b"f%d" % number)
        store.put(trace, None)
        store.put_function(trace.function, (number,))
    assert store.delete_traces(older_than=3.0, name="a") == 1
    assert left() == [0, 2, 3, 4, 5]
    assert store.delete_traces(older_than=3.0) == 2
    assert left() == [3, 4, 5]
    assert (store.components(b"f2"), store.components(b"f3")) == ((), (3,))
    assert store.delete_traces(name="b") == 1
    assert store.delete_traces() == 2
    assert store.sizes()[0] == 0


def test_verify_names_each_damaged_object_and_no_other(store):
    traces = [put_value(store, number, in_file=number < 4) for number in range(8)]
    store.commit()
    names = [trace.object.hex() for trace in traces]
    assert list(store.verify()) == []
    with open(path_of(store.objects, traces[0].object), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    os.truncate(path_of(store.objects, traces[1].object), 100)
    path_of(store.objects, traces[2].object).unlink()
    store.execute("update object set data = 'text' where digest = ?", (traces[4].object,))
    store.execute("update object set data = x'00' where digest = ?", (traces[5].object,))
    found = dict(store.verify())
    assert set(found) == {names[n] for n in (0, 1, 2, 4, 5)}
    assert all(found.values())


def test_verify_checks_what_reading_does_not(store, monkeypatch):
    trace = put_value(store, 1, in_file=True)
    with open(path_of(store.objects, trace.object), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    monkeypatch.setattr(objects, "CHECKED_UP_TO", 0)
    assert [name for name, _ in store.verify()] == [trace.object.hex()]


def test_orphans_are_files_that_no_row_names(store):
    kept = put_value(store, 1, in_file=True)
    lost = write(freeze(value_of(2, in_file=True)), store.objects)
    folder = store.objects / "zz"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    (store.objects / "stray").write_text("x")
    (store.objects / "link").symlink_to(folder)
    found = set(store.orphans())
    assert found == {
        Path(lost.path),
        folder / "notes.txt",
        store.objects / "stray",
        store.objects / "link",
    }
    assert path_of(store.objects, kept.object) not in found


def test_clear_forgets_everything_and_follows_no_links(store, opened, path, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("x")
    traces = [put_value(store, number, in_file=number % 2 == 0) for number in range(4)]
    store.put_run(PastRun(0, 0.0, 1.0, "done", "", ""))
    store.put_function(b"f", (1,))
    store.put_file_facts([("/a", (1,), b"x")])
    store.commit()
    waiting = put_value(store, 9, in_file=False)
    (store.objects / "ab").symlink_to(other)
    store.clear()
    assert store.lookup([trace.key for trace in [*traces, waiting]]) == {}
    assert all(load(store, trace) is None for trace in [*traces, waiting])
    assert (store.runs(), store.components(b"f"), store.file_facts()) == ([], (), [])
    assert list(store.objects.iterdir()) == []
    assert (other / "precious").exists()
    assert is_value_of(load(store, put_value(store, 2, in_file=True)), 2)
    store.close()
    assert opened(path).sizes()[:2] == (1, 1)


def test_clear_goes_well_beside_one_that_reads(store, path):
    put_value(store, 1, in_file=False)
    store.commit()
    reader = sqlite3.connect(path / "index.sqlite", isolation_level=None)
    try:
        reader.execute("begin")
        assert reader.execute("select count(*) from trace").fetchone() == (1,)
        store._db.execute("pragma busy_timeout = 1")
        store.clear()
        assert store.sizes() == (0, 0, 0)
        assert store.is_usable
    finally:
        reader.close()


# ----------------------------------------------------------------------------- open and shut


def test_a_store_leaves_no_file_open_and_no_descriptor(path):
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        one, two = Store(path), Store(path)
        put_value(one, 1, in_file=True)
        two.claim(b"k" * 32)
        one.close()
        one.close()
        two.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert sorted(each.name for each in path.iterdir()) == [
        ".gitignore",
        "FORMAT",
        "index.sqlite",
        "locks",
        "objects",
        "tmp",
    ]


def test_only_the_owner_may_read_and_write(store, path):
    put_value(store, 1, in_file=True)
    store.commit()
    for name in ("", "index.sqlite", "index.sqlite-wal", "locks", "objects", "tmp"):
        assert not (path / name).stat().st_mode & 0o077, name


def test_a_closed_store_does_nothing_and_raises_nothing(store):
    trace = put_value(store, 1, in_file=False)
    store.close()
    assert not store.is_usable
    store.put(trace, b"")
    store.put_function(b"f", ())
    store.commit()
    store.clear()
    store.put_file_facts([("/a", (1,), b"")])
    store.drop_objects([b"x" * 32])
    assert store.claim(b"k" * 32)
    store.free(b"k" * 32)
    assert store.lookup([key_of(5)]) == {}
    assert store.fetch(b"x" * 32, 5) is None
    assert store.sizes() == (0, 0, 0)
    assert store.delete_traces() == 0
    assert list(store.verify()) == list(store.orphans()) == store.runs() == []
    assert store.version() == store.version()
    assert store.tend() is None
    assert not store._waiting


def test_store_at_gives_one_store_until_that_is_closed_or_its_directory_gone(path, tmp_path):
    try:
        first = store_at(path)
        (tmp_path / "link").symlink_to(path)
        assert store_at(path) is store_at(tmp_path / "link") is first
        first.close()
        second = store_at(path)
        assert second is not first
        put_value(second, 1, in_file=True)
        shutil.rmtree(path)
        third = store_at(path)
        assert third is not second
        assert third.is_usable
        assert not second.is_usable
        shutil.rmtree(path)
        Store(path).close()  # another process made it anew
        assert store_at(path) is not third
    finally:
        close_all()
    assert not any(each.is_usable for each in module._here.everyone)


def test_a_relative_path_holds_when_the_current_directory_changes(tmp_path, monkeypatch, opened):
    monkeypatch.chdir(tmp_path)
    store = opened(Path("cache"))
    trace = put_value(store, 2, in_file=True)
    monkeypatch.chdir("/")
    assert is_value_of(load(store, trace), 2)


def test_opening_is_safe_among_many_processes_and_threads(path):
    def work():
        store = Store(path)
        put_value(store, os.getpid(), in_file=False)
        store.close()
        return int(bool(store.why_not))

    assert [end_of(pid) for pid in [fork(work) for _ in range(12)]] == [0] * 12
    in_threads(lambda _: work(), 6)
    store = Store(path)
    assert store.sizes()[0] == 13
    store.close()


# ----------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_may_write_to_is_refused(path, mode):
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(CacheRefused, match="chmod go-w"):
        Store(path)
    assert list(path.iterdir()) == []


@as_root
@pytest.mark.parametrize("what", ["directory", "objects", "tmp"])
def test_what_belongs_to_another_user_is_refused(path, what):
    folder = path if what == "directory" else path / what
    folder.mkdir(parents=True, mode=0o700)
    path.chmod(0o700)
    os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    with pytest.raises(CacheRefused, match="another user"):
        Store(path)


@as_root
@pytest.mark.parametrize("name", ["", "objects", "tmp"])
def test_a_link_to_the_directory_of_another_user_is_refused(path, tmp_path, name):
    planted = tmp_path / "planted"
    planted.mkdir(mode=0o700)
    os.chown(planted, ANOTHER_USER, ANOTHER_USER)
    if name:
        path.mkdir(mode=0o700)
    (path / name).symlink_to(planted)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(CacheRefused, match="another user"):
        store_at(path)
    assert list(planted.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"flowpar 2\n", "its FORMAT is 'flowpar 2', and"),
        (b"something else", "its FORMAT is 'something else', and"),
        (b"\x80", "its FORMAT is '[?]', and"),
        (bytes(range(256)) * 1000, "its FORMAT is '[ -~]{,60}'…, and"),
        (b"a\nb\x1b[31m" * 100, "its FORMAT is '[ -~]{,60}'…, and"),
    ],
)
def test_a_directory_of_another_layout_is_given_up_and_left_alone(path, data, shown):
    path.mkdir(mode=0o700)
    (path / "FORMAT").write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = Store(path)
        use(store)
    (told,) = (str(each.message) for each in caught)
    assert re.search(shown, told)
    assert told.isprintable()
    assert len(told) < 400
    assert store.why_not
    assert [each.name for each in path.iterdir()] == ["FORMAT"]


def test_the_pickles_of_another_program_are_left_alone(path):
    path.mkdir(mode=0o700)
    (path / "x.pkl").touch()
    with given_up(match="not flowpar's"):
        use(Store(path))
    assert [each.name for each in path.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_directory_that_is_only_looked_at_is_not_made(path, is_there):
    if is_there:
        path.mkdir(mode=0o700)
    store = store_at(path, makes=False)
    assert not store.is_usable
    assert not store.why_not
    use(store)
    assert list(path.iterdir()) == [] if is_there else not path.exists()
    # As soon as there is one it is seen.
    made = store_at(path)
    put_value(made, 1, in_file=False)
    made.commit()
    assert store_at(path, makes=False) is made
    close_all()
    assert store_at(path, makes=False).lookup([key_of(1)])


def test_what_is_forgotten_is_as_if_it_had_never_been(store, opened, path, slow_to_commit):
    for number in range(4):
        store.put(trace_of(number, function=b"f" if number < 3 else b"g"), None)
    store.forget_call(key_of(0))
    store.note_event("odd \udc80")
    assert set(store.lookup(list(map(key_of, range(4))))) == set(map(key_of, (1, 2, 3)))
    store.put(trace_of(5, function=b"f"), None)
    store.forget_function(b"f")
    for each in (store, opened(path)):
        assert set(each.lookup(list(map(key_of, range(6))))) == {key_of(3)}
        assert each.query("select text from event") == [("odd \\udc80",)]


def test_a_note_of_the_layout_that_was_not_finished_is_written_anew(path, opened):
    path.mkdir(mode=0o700)
    (path / "FORMAT").touch()
    assert opened(path).is_usable
    assert (path / "FORMAT").read_text() == "flowpar 1\n"


# --------------------------------------------------------------------- what cannot be used


def use(store: Store) -> None:
    """Do a bit of everything."""
    trace = put_value(store, 1, in_file=False)
    store.put_function(b"f", (1,))
    store.commit()
    store.lookup([trace.key])
    store.fetch(trace.object, trace.size)
    store.fetch(b"x" * 32, 1)
    store.claim(trace.key)
    store.free(trace.key)
    store.forget_object(b"x" * 32)
    store.put_file_facts([("/a", (1,), b"")])
    store.put_run(PastRun(0, 0.0, 0.0, "", "", ""))
    store.drop_objects([b"x" * 32])
    store.earlier("load")
    store.version()
    list(store.orphans())
    list(store.verify())
    store.sizes()
    store.clear()
    store.close()


@pytest.mark.parametrize("name", ["FORMAT", "index.sqlite", "locks"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_where_one_should_be_is_given_up_without_a_hang(path, name, kind):
    path.mkdir(mode=0o700)
    if kind == "folder":
        (path / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to("nowhere")
    before = set(os.listdir("/proc/self/fd"))
    with given_up(match="should be a file"):
        store = Store(path)
        use(store)
    assert store.why_not
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["", "objects", "tmp"])
def test_a_file_where_a_folder_should_be_is_given_up(path, name):
    if name:
        path.mkdir(mode=0o700)
    (path / name).touch()
    with given_up():
        use(Store(path))


def test_a_parent_that_is_no_folder_is_given_up(tmp_path):
    (tmp_path / "file").touch()
    with given_up():
        use(Store(tmp_path / "file" / "cache"))


def test_a_directory_that_is_deleted_while_in_use_raises_nothing(path):
    store = Store(path)
    known = put_value(store, 5, in_file=True)
    store.commit()
    shutil.rmtree(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowparWarning)
        assert load(store, known) is None
        use(store)
    again = Store(path)
    assert again.is_usable
    assert again.lookup([known.key]) == {}
    again.close()


def test_giving_up_is_said_once_and_lets_go_of_everything(path, opened):
    store, other = Store(path), None
    assert store.claim(b"k" * 32)
    with given_up(match="for a test"):
        store.give_up("for a test")
        store.give_up("again")
        use(store)
    assert not store.is_usable
    other = opened(path)
    assert in_child(claims_in_child, path, b"k" * 32) == 1
    assert other.claim(b"k" * 32)


def test_a_full_disk_is_given_up_and_what_was_kept_stays(path):
    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = Store(path)
        first = put_value(store, 1, in_file=False)
        store.commit()
        size = (path / "index.sqlite-wal").stat().st_size + 30_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        with given_up():
            for number in range(2, 3000):
                put_value(store, number, in_file=False)
            store.commit()
            use(store)
        return 7 if store.why_not and first else 8

    assert in_child(fill) == 7
    store = Store(path)
    assert store.lookup([key_of(1)])
    check_all(store)
    store.close()


@pytest.mark.parametrize("broken", ["begin immediate", "commit", "insert"])
def test_an_index_that_fails_at_a_commit_is_given_up(path, broken):
    store = Store(path)
    put_value(store, 1, in_file=False)
    store._db = FailingIndex(store._db, broken)
    store.claim(key_of(1))
    store.free(key_of(1), after=key_of(1))
    with given_up(match="disk I/O error"):
        store.commit()
    again = Store(path)
    assert again.lookup([key_of(1)]) == {}
    assert again.claim(key_of(1))
    again.close()
    store.close()


class FailingIndex:
    """A connection that fails at statements that start so."""

    def __init__(self, db, broken):
        self._db, self._broken = db, broken

    def __getattr__(self, name):
        return getattr(self._db, name)

    def execute(self, text, *values):
        self._fail(text)
        return self._db.execute(text, *values)

    def executemany(self, text, rows):
        self._fail(text)
        return self._db.executemany(text, rows)

    def _fail(self, text):
        if text.startswith(self._broken):
            raise sqlite3.OperationalError("disk I/O error")


def test_an_interrupt_at_a_commit_loses_nothing(store, monkeypatch):
    put_value(store, 1, in_file=False)
    real = store._write

    def interrupt(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.commit()
    monkeypatch.undo()
    assert not store._db.in_transaction
    store.commit()
    assert store.sizes()[0] == 1
    assert not store._waiting


def test_an_index_that_stays_locked_is_given_up(path, monkeypatch):
    monkeypatch.setattr(index, "BUSY_SECONDS", 0.01)
    store = Store(path)
    other = sqlite3.connect(path / "index.sqlite", isolation_level=None)
    try:
        other.execute("begin immediate")
        with given_up(match="locked"):
            use(store)
    finally:
        other.close()
    assert store.why_not


# ---------------------------------------------------------------------------- damaged indexes


def damage(path: Path, how: str) -> None:
    index = path / "index.sqlite"
    data = index.read_bytes()
    if how == "garbage":
        index.write_bytes(random.Random(1).randbytes(len(data)))
    elif how == "short garbage":
        index.write_bytes(b"garbage")
    elif how == "truncated":
        index.write_bytes(data[: len(data) // 2])
    elif how == "one page":
        index.write_bytes(data[:4096])
    elif how == "half a page":
        index.write_bytes(data[:1000])
    elif how == "late garbage":
        start = len(data) // 4096 // 4 * 4096
        index.write_bytes(data[:start] + random.Random(1).randbytes(len(data) - start))
    elif how == "zeros":
        index.write_bytes(data[:100] + bytes(len(data) - 100))
    elif how == "other tables":
        index.unlink()
        other = sqlite3.connect(index)
        other.execute("create table trace (key, name, created)")
        other.commit()
        other.close()


DAMAGES = (
    "garbage",
    "short garbage",
    "truncated",
    "one page",
    "half a page",
    "zeros",
    "other tables",
)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_index_is_moved_aside_and_a_new_one_begun(path, how, opened):
    store = Store(path)
    traces = [put_value(store, number, in_file=number % 2 == 0) for number in range(200)]
    store.close()
    damage(path, how)
    with given_up(match="damaged index"):
        store = Store(path)
        for _ in range(2):
            assert store.lookup([trace.key for trace in traces[100:]]) == {}
        put_value(store, 5, in_file=False)
        store.commit()
    assert store.is_usable
    assert store.sizes()[0] == 1
    store.close()
    assert (path / "index.sqlite.damaged-1").exists()
    again = opened(path)  # and nothing more is said
    assert is_value_of(load(again, again.lookup([key_of(5)])[key_of(5)]), 5)
    assert len(list(again.orphans())) == 100


def test_damage_met_at_a_commit_does_not_lose_what_is_committed(path, opened):
    store = Store(path)
    for number in range(500):
        put_value(store, number, in_file=False)
    store.close()
    damage(path, "late garbage")
    store = Store(path)  # which does not see it yet
    with given_up(match="damaged index"):
        for number in range(1000, 1500):
            put_value(store, number, in_file=False)
        store.close()
    store = opened(path)
    assert len(store.lookup([key_of(number) for number in range(1000, 1500)])) == 500
    assert not store.lookup([key_of(number) for number in range(500)])


def test_the_log_of_a_damaged_index_is_not_taken_for_that_of_the_new_one(path, opened):
    def die():
        store = Store(path)
        for number in range(500):
            put_value(store, number, in_file=False)
        store.commit()
        store.query("pragma wal_checkpoint(truncate)")
        store.put_run(PastRun(0, 0.0, 0.0, "", "", ""))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    assert (path / "index.sqlite-wal").stat().st_size
    (path / "index.sqlite").write_bytes(b"x" * 4096)
    with given_up(match="damaged index"):
        store = opened(path)
        store.lookup([key_of(number) for number in range(500)])
    assert store.sizes() == (0, 0, 0)
    assert store.runs() == []
    assert (path / "index.sqlite.damaged-1-wal").exists()


def test_each_damaged_index_is_kept_under_a_name_of_its_own(path):
    for number in (1, 2, 3):
        Store(path).close()
        damage(path, "garbage")
        with given_up(match=f"damaged-{number}"):
            Store(path).close()


def test_an_index_that_another_has_replaced_already_is_not_replaced_again(path):
    """Both met the damage; the second must not move the new index aside."""
    store = Store(path)
    for number in range(500):
        put_value(store, number, in_file=False)
    store.close()
    damage(path, "late garbage")
    slow, quick = Store(path), Store(path)
    keys = [key_of(number) for number in range(500)]
    with given_up(match="damaged index"):
        quick.lookup(keys)
        put_value(quick, 1000, in_file=False)
        quick.commit()
        slow.lookup(keys)
    assert slow.lookup([key_of(1000)])
    assert not (path / "index.sqlite.damaged-2").exists()
    quick.close()
    slow.close()


def test_damage_that_a_new_index_does_not_end_is_given_up(path):
    store = Store(path)
    with given_up(match="", times=2):
        for _ in range(3):
            with store._index():
                if store.is_usable:
                    raise sqlite3.DatabaseError("database disk image is malformed")
    assert store.why_not
    store.close()


@pytest.mark.parametrize("column", ["parts", "files", "value", "key", "name", "size", "object"])
@pytest.mark.parametrize("damaged", [b"\x80\x04garbage", b"", None, 5, "text", b"\x80\x04]\x94."])
def test_a_row_that_is_damaged_is_left_out_or_has_the_right_types(store, column, damaged):
    store.put(trace_of(1), None)
    store.commit()
    with contextlib.suppress(sqlite3.IntegrityError):
        store._db.execute(f"update trace set {column} = ?", (damaged,))
    for trace in [*store.lookup([key_of(1)]).values(), *store.earlier("load")]:
        assert isinstance(trace.parts, tuple)
        assert isinstance(trace.files, tuple)
        assert isinstance(trace.value, bytes)
        assert isinstance(trace.name, str)
        assert isinstance(trace.size, int)
        assert isinstance(trace.object, (bytes, type(None)))
    assert store.is_usable


def test_text_that_is_no_utf8_is_no_reason_to_give_up(store):
    store.put(trace_of(1), None)
    store.commit()
    store.execute("update trace set place = cast(x'80ff' as text)")
    assert store.lookup([key_of(1)])[key_of(1)].place == "\ufffd\ufffd"


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits_in_the_index_give_no_wrong_value(path, seed):
    store = Store(path)
    for number in range(60):
        put_value(store, number, in_file=number % 4 == 0)
    store.close()
    rng, index = random.Random(seed), path / "index.sqlite"
    data = bytearray(index.read_bytes())
    for _ in range(rng.choice([1, 10, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    index.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowparWarning)
        store = Store(path)
        for number, trace in known_numbers(store, 60):
            if trace.object is None:
                continue
            value = load(store, trace)
            # A digest that was flipped names nothing; one that was not names the right value.
            assert value is None or value is ObjectDamaged or is_value_of(value, number)
        list(store.verify())
        store.earlier("load")
        use(store)


def known_numbers(store: Store, count: int):
    found = store.lookup([key_of(number) for number in range(count)])
    return [(n, found[key_of(n)]) for n in range(count) if key_of(n) in found]


# --------------------------------------------------------------------------------- read only


@contextlib.contextmanager
def another_user():
    """Be a user who is bound by permissions, if we are not."""
    if os.geteuid():
        yield
        return
    os.seteuid(ANOTHER_USER)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def own_folder():
    """A folder that belongs to `another_user`, who can get there."""
    folder = Path(tempfile.mkdtemp(prefix="flowpar-test-"))
    folder.chmod(0o755)
    if not os.geteuid():
        os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    yield folder / "cache"
    for each in (folder / "cache").rglob("*"):
        if each.is_dir():
            each.chmod(0o700)
    (folder / "cache").chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("are_files_too", [False, True])
def test_a_directory_that_cannot_be_written_to_gives_what_it_has(own_folder, are_files_too):
    with another_user():
        store = Store(own_folder)
        traces = [put_value(store, number, in_file=number % 2 == 0) for number in range(10)]
        store.put_function(traces[0].function, ("f",))
        store.close()
        if are_files_too:
            for each in own_folder.rglob("*"):
                each.chmod(0o500 if each.is_dir() else 0o400)
        own_folder.chmod(0o500)
        with given_up(match="can only be read"):
            store = Store(own_folder)
            put_value_only(store, 99)
            store.commit()
        assert store.is_usable
        assert not store.is_writable
        found = store.lookup([key_of(number) for number in (*range(10), 99)])
        assert found == {trace.key: trace for trace in traces}
        assert all(is_value_of(load(store, trace), n) for n, trace in enumerate(traces))
        assert store.components(traces[0].function) == ("f",)
        assert store.claim(b"k" * 32)
        store.free(b"k" * 32)
        store.drop_objects([traces[1].object])
        store.forget_object(traces[0].object)
        store.clear()
        assert load(store, traces[0]) is None, "it would be found damaged again and again"
        assert is_value_of(load(store, traces[1]), 1)
        assert is_value_of(load(store, traces[2]), 2)
        assert list(store.verify()) == []
        assert store.is_usable
        store.close()


def put_value_only(store: Store, number: int) -> None:
    written = freeze(value_of(number, in_file=False))
    store.put(trace_of(number, written.digest, size=written.size), b"".join(written.pieces))


def test_a_directory_that_another_writes_to_can_be_read_beside_it(own_folder):
    with another_user():
        writer = Store(own_folder)
        first = put_value(writer, 1, in_file=False)
        writer.commit()
        own_folder.chmod(0o500)
        with given_up(match="can only be read"):
            reader = Store(own_folder)
        assert is_value_of(load(reader, reader.lookup([first.key])[first.key]), 1)
        put_value_only(writer, 2)
        version = reader.version()
        writer.commit()
        assert reader.version() != version
        assert reader.lookup([key_of(2)])
        reader.close()
        own_folder.chmod(0o700)
        writer.close()


def test_an_empty_directory_that_cannot_be_written_to_is_given_up(own_folder):
    with another_user():
        own_folder.mkdir(mode=0o500)
        with given_up(match="cannot be written to"):
            use(Store(own_folder))


def test_a_damaged_index_that_cannot_be_moved_is_given_up(own_folder):
    with another_user():
        store = Store(own_folder)
        for number in range(300):
            put_value(store, number, in_file=False)
        store.close()
        damage(own_folder, "truncated")
        own_folder.chmod(0o500)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store = Store(own_folder)
            store.lookup([key_of(number) for number in range(300)])
            store.close()
        assert "cannot be used" in str(caught[-1].message)
        assert store.why_not


# ------------------------------------------------------------------------------------- claims


def claims_in_child(path, *keys) -> int:
    """Claim keys, and end with how many were to be had."""
    store = Store(path)
    return sum(store.claim(key) for key in keys)


KEY = b"\x01" * 32
OTHER = b"\x02" * 32


def test_a_key_is_claimed_once_in_one_process(store, opened, path):
    other = opened(path)
    assert store.claim(KEY)
    assert not store.claim(KEY)
    assert not other.claim(KEY), "stores of one process share the locks"
    other.free(KEY)  # has no effect: it is not its own
    assert not other.claim(KEY)
    store.free(KEY)
    store.free(KEY)
    assert other.claim(KEY)
    other.free(KEY)
    assert store.claim(KEY)


def test_a_key_is_claimed_once_among_processes(store, path):
    assert store.claim(KEY)
    assert in_child(claims_in_child, path, KEY, OTHER) == 1
    store.free(KEY)
    assert in_child(claims_in_child, path, KEY, OTHER) == 2
    assert store.claim(KEY), "the system freed what the dead had"


def test_closing_one_store_does_not_drop_the_claims_of_another(store, path):
    """The system drops all locks of a process on a file when it closes any descriptor of it."""
    assert store.claim(KEY)
    for _ in range(3):
        other = Store(path)
        other.claim(OTHER)
        other.close()
        store_at(path)
        close_all()
    list(store.verify())
    list(store.orphans())
    assert in_child(claims_in_child, path, KEY, OTHER) == 1


def test_closing_a_store_frees_its_own_claims(path, store):
    other = Store(path)
    assert other.claim(OTHER)
    assert not store.claim(OTHER)
    other.close()
    assert store.claim(OTHER)


def test_a_key_is_freed_when_what_was_put_is_written(store, path, slow_to_commit):
    assert store.claim(KEY)
    store.free(KEY, after=KEY)
    assert store.claim(KEY), "nothing waits"
    store.put(trace_of(1, key=KEY), None)
    store.free(KEY, after=KEY)
    assert in_child(claims_in_child, path, KEY) == 0
    store.commit()
    assert in_child(claims_in_child, path, KEY) == 1


def test_two_keys_of_one_byte_only_wait_for_each_other(store, path):
    twin = KEY[:8] + b"\x09" * 24
    assert store.claim(KEY)
    assert not store.claim(twin)
    assert in_child(claims_in_child, path, twin) == 0
    store.free(KEY)
    assert store.claim(twin)
    assert in_child(claims_in_child, path, KEY) == 0


@pytest.mark.parametrize("key", [b"\xff" * 32, claims.OPENING.to_bytes(8, "little")])
def test_no_key_meets_who_opens_the_directory(store, path, monkeypatch, key):
    monkeypatch.setattr(claims.time, "sleep", lambda _: os._exit(50))
    assert store.claim(key)
    assert in_child(claims_in_child, path, key, KEY) == 1


@pytest.mark.parametrize("n_kept", [0, 1, 3, 40])
def test_keys_that_are_freed_together_leave_all_others_locked(
    store, path, opened, slow_to_commit, n_kept
):
    rng = random.Random(n_kept)
    keys = [rng.randbytes(32) for _ in range(60)] + [b"\xff" * 32, bytes(32)]
    rng.shuffle(keys)
    kept, gone = keys[:n_kept], keys[n_kept:]
    other = opened(path)
    in_threads(lambda at: [other.claim(key) for key in kept[at::2]], 2)
    for number, key in enumerate(gone):
        assert store.claim(key)
        store.put(trace_of(number, key=key), None)
        store.free(key, after=key)
    assert in_child(claims_in_child, path, *keys) == 0, "not before the commit"
    store.commit()
    assert in_child(claims_in_child, path, *kept) == 0
    assert in_child(claims_in_child, path, *gone) == len(gone)


def test_keys_that_are_freed_together_do_not_let_another_open_the_directory(store, path):
    def opens():
        handle = os.open(path / "locks", os.O_RDWR)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, claims.OPENING)
        except BlockingIOError:
            return 7
        return 8

    assert all(store.claim(key) for key in (KEY, OTHER, b"\xff" * 32))
    with store._held.alone():
        for key in (KEY, OTHER, b"\xff" * 32):
            store._held.free_later(key)
        store._held.free_due()
        assert in_child(opens) == 7
    assert in_child(opens) == 8


def test_threads_that_wait_have_a_key_one_after_another(store):
    inside, most = [], []

    def work(_):
        for _ in range(30):
            assert store.claim(KEY, wait=True)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            store.free(KEY)

    in_threads(work, 8)
    assert len(most) == 240
    assert set(most) == {1}


def test_processes_that_wait_have_a_key_one_after_another(path):
    Store(path).close()
    (path / "counter").write_text("0")

    def work():
        store = Store(path)
        for _ in range(100):
            store.claim(KEY, wait=True)
            count = int((path / "counter").read_text())
            (path / "counter").write_text(str(count + 1))
            store.free(KEY)
        store.close()

    assert [end_of(pid) for pid in [fork(work) for _ in range(4)]] == [0] * 4
    assert (path / "counter").read_text() == "400"


def test_a_key_is_had_when_the_process_dies_that_had_it(store, path):
    reader, writer = os.pipe()

    def hold():
        mine = Store(path)
        mine.claim(KEY)
        os.write(writer, b"x")
        signal.pause()

    pid = fork(hold)
    try:
        os.read(reader, 1)
        assert not store.claim(KEY)
        waiting = threading.Thread(target=lambda: store.claim(KEY, wait=True))
        waiting.start()
        # Other threads go on, whatever the one that waits is at.
        assert store.claim(OTHER)
        put_value(store, 1, in_file=False)
        store.commit()
    finally:
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
        os.close(reader)
        os.close(writer)
    waiting.join(60)
    assert not waiting.is_alive()
    assert not store.claim(KEY), "the thread has it"


def test_a_thread_does_not_wait_for_itself(store, path):
    assert store.claim(KEY)
    assert store.claim(KEY, wait=True)
    store.free(KEY)
    assert in_child(claims_in_child, path, KEY) == 0, "it was had twice"
    store.free(KEY)
    assert in_child(claims_in_child, path, KEY) == 1


def test_threads_that_wait_for_each_other_all_go_on(store):
    keys = [bytes([number]) * 32 for number in range(1, 4)]
    have = threading.Barrier(3)

    def work(number):
        store.claim(keys[number])
        have.wait(60)
        assert store.claim(keys[(number + 1) % 3], wait=True)
        store.free(keys[(number + 1) % 3])
        store.free(keys[number])

    in_threads(work, 3)
    assert all(store.claim(key) for key in keys)


def test_processes_that_wait_for_each_other_all_go_on(store, path):
    ready, go = os.pipe(), os.pipe()

    def cross(first, then):
        mine = Store(path)
        mine.claim(first)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        return int(mine.claim(then, wait=True))

    pids = [fork(lambda: cross(KEY, OTHER)), fork(lambda: cross(OTHER, KEY))]
    assert os.read(ready[0], 1) + os.read(ready[0], 1) == b"xx"
    os.write(go[1], b"xx")
    assert [end_of(pid) for pid in pids] == [1, 1]
    for end in (*ready, *go):
        os.close(end)


def test_a_process_does_not_wait_long_for_one_that_started_it(store, path, monkeypatch):
    monkeypatch.setattr(claims, "ANCESTORS_PATIENCE", 0.1)
    assert store.claim(KEY)
    assert end_of(fork(lambda: int(Store(path).claim(KEY, wait=True)))) == 0
    store.free(KEY)


def test_closing_a_store_wakes_who_waits_for_its_claims(path, opened):
    store, other = Store(path), opened(path)
    assert store.claim(KEY)
    had = []
    waiting = threading.Thread(target=lambda: had.append(other.claim(KEY, wait=True)))
    waiting.start()
    store.close()
    waiting.join(60)
    assert had == [True]


@pytest.mark.parametrize("wait", [False, True])
def test_a_file_system_without_locks_lets_all_keys_be_had(path, monkeypatch, wait):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims.fcntl, "lockf", lockf)
    store = Store(path)
    assert store.is_usable
    assert store.claim(KEY, wait=wait)
    assert not store.claim(KEY)
    store.free(KEY)
    assert store.claim(KEY)
    store.close()


def test_an_interrupt_while_waiting_leaves_the_key_alone(store, monkeypatch):
    def lockf(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(claims.fcntl, "lockf", lockf)
    with pytest.raises(KeyboardInterrupt):
        store.claim(KEY, wait=True)
    monkeypatch.undo()
    assert store.claim(KEY)


@pytest.mark.parametrize("hangs", [False, True])
def test_who_opens_waits_for_another_who_does_but_not_for_ever(path, monkeypatch, hangs):
    Store(path).close()
    reader, writer = os.pipe()

    def hang():
        handle = os.open(path / "locks", os.O_RDWR)
        fcntl.lockf(handle, fcntl.LOCK_EX, 1, claims.OPENING)
        os.write(writer, b"x")
        signal.pause()

    def pause(_):
        pauses.append(1)
        if not hangs and len(pauses) == 3:
            os.kill(pid, signal.SIGKILL)
            end_of(pid)

    pid, pauses = fork(hang), []
    os.read(reader, 1)
    monkeypatch.setattr(claims.time, "sleep", pause)
    store = Store(path)
    assert store.is_usable
    assert len(pauses) == (claims.OPENING_TRIES if hangs else 3)
    store.close()
    if hangs:
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
    os.close(reader)
    os.close(writer)


# -------------------------------------------------------------------------------------- forks


def test_a_forked_child_does_nothing_with_the_store_of_its_parent(store, path, slow_to_commit):
    kept = put_value(store, 1, in_file=False)
    store.commit()
    waiting = put_value(store, 2, in_file=False)
    assert store.claim(KEY)

    def child():
        assert not store.is_usable
        assert store.lookup([kept.key, waiting.key]) == {}
        assert store.fetch(kept.object, kept.size) is None
        assert store.claim(OTHER)
        use(store)
        mine = Store(path)
        assert not mine.claim(KEY)
        assert mine.lookup([kept.key])
        mine.close()
        return 7

    assert in_child(child) == 7
    assert store.lookup([kept.key]) == {kept.key: kept}
    store.commit()
    assert store.lookup([waiting.key]) == {waiting.key: waiting}
    assert in_child(claims_in_child, path, KEY) == 0, "the child has freed nothing"


def test_a_fork_while_a_thread_has_the_locks_does_not_hang_the_child(store, path):
    ready, done = threading.Event(), threading.Event()

    def hold():
        with store._lock, claims.here.opening:
            ready.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    ready.wait(60)

    def child():
        signal.alarm(30)
        use(store)
        mine = store_at(path)
        return 7 if mine.is_usable and mine is not store else 8

    assert in_child(child) == 7
    done.set()
    holder.join(60)


def test_a_child_that_ends_as_python_does_leaves_the_log_alone(run_script, path):
    """Closing what it has of the index of its parent would delete the log of others by its name."""
    done = run_script(
        """
        import os, signal, sys
        from pathlib import Path
        from flowpar.caching.store import Store, Trace

        def put(store, n):
            store.put(Trace(b"%d" % n, b"v", None, 0, 0.0, 0.0, b"f", "n", "p", ()), None)
            store.commit()

        path = Path(sys.argv[1])
        store = Store(path)
        put(store, 1)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)  # until the parent has closed its own
            sys.exit(0)
        store.close()
        if not os.fork():
            store = Store(path)  # not closed, as it would be if nobody had it
            put(store, 2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.wait()
        assert (path / "index.sqlite-wal").stat().st_size
        os.close(writer)
        os.wait()
        """,
        str(path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    store = Store(path)
    assert set(store.lookup([b"1", b"2"])) == {b"1", b"2"}
    assert store.query("pragma integrity_check") == [("ok",)]
    store.close()


def test_what_waits_is_written_at_the_end_of_a_program(run_script, path):
    done = run_script(
        """
        import sys
        from pathlib import Path
        from flowpar.caching.store import Trace, store_at

        store = store_at(Path(sys.argv[1]))
        store.put(Trace(b"k", b"v", None, 0, 0.0, 0.0, b"f", "n", "p", ()), None)
        """,
        str(path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    store = Store(path)
    assert store.lookup([b"k"])
    store.close()


# ------------------------------------------------------------------------- many at one time


def test_eight_threads_put_look_and_commit(store, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_ROWS", 7)

    def work(thread):
        for number in range(60):
            trace = put_value(store, number, in_file=number % 5 == 0)
            store.put_function(trace.function, (number,))
            found = store.lookup([key_of(each) for each in range(number + 1)])
            assert found[trace.key] == trace
            assert is_value_of(load(store, trace), number)
            if number % 10 == thread:
                store.commit()
                store.version()

    in_threads(work, 8)
    store.commit()
    assert store.sizes()[:2] == (60, 60)
    assert list(store.verify()) == []
    assert store.is_usable


def test_four_processes_put_the_same_keys(path):
    def work():
        store = Store(path)
        for number in range(150):
            trace = put_value(store, number, in_file=number % 5 == 0)
            if number % 3 == 0:
                store.commit()
            value = load(store, store.lookup([trace.key])[trace.key])
            assert is_value_of(value, number)
        store.close()
        return int(bool(store.why_not))

    assert [end_of(pid) for pid in [fork(work) for _ in range(4)]] == [0] * 4
    store = Store(path)
    assert store.sizes()[:2] == (150, 150)
    assert list(store.verify()) == list(store.orphans()) == []
    store.close()


def test_pruning_and_clearing_beside_a_run_give_no_wrong_value(path):
    def prune():
        store = Store(path)
        for number in range(40):
            store.drop_objects([digest for digest, _, _ in store.objects_by_use()][::2])
            list(store.orphans())
            assert list(store.verify()) is not None
            if number % 10 == 9:
                store.clear()
        store.close()
        return int(bool(store.why_not))

    Store(path).close()
    pid = fork(prune)
    store = Store(path)
    for number in range(300):
        with contextlib.suppress(FileNotFoundError):  # cleared once too often
            put_value(store, number % 30, in_file=number % 2 == 0)
        for known, trace in known_numbers(store, 30):
            value = load(store, trace)
            assert value is None or value is ObjectDamaged or is_value_of(value, known)
    store.close()
    assert end_of(pid) == 0
    assert not store.why_not


# --------------------------------------------------------------------------------------- kills


def write_for_ever(path, progress):
    store = Store(path)
    number = os.getpid() % 100
    while True:
        number += 1
        store.claim(key_of(number))
        put_value(store, number % 400, in_file=number % 3 == 0)
        store.free(key_of(number), after=key_of(number))
        if number % 4 == 0:
            store.commit()
        if number % 50 == 0:
            store.forget_object(freeze(value_of(number % 400, in_file=True)).digest)
        os.write(progress, b"x")


def check_all(store: Store) -> int:
    """Check that each value that can be had is the right one; return how many can."""
    there = 0
    for number, trace in known_numbers(store, 3000):
        value = load(store, trace)
        assert value is None or is_value_of(value, number)
        there += value is not None
    assert store.query("pragma integrity_check") == [("ok",)]
    return there


def kill_and_check(path, times: int, seed: int) -> None:
    rng, there = random.Random(seed), 0
    for _ in range(times):
        reader, writer = os.pipe()
        pid = fork(write_for_ever, path, writer)
        os.close(writer)
        for _ in range(rng.randrange(1, 60)):
            os.read(reader, 1)
        for _ in range(rng.randrange(3000)):  # somewhere in the middle of the next step
            pass
        os.kill(pid, signal.SIGKILL)
        assert end_of(pid) == -signal.SIGKILL
        os.close(reader)
        store = Store(path)
        assert not store.why_not
        assert list((path / "tmp").iterdir()) == []
        there = max(there, check_all(store))
        assert store.claim(KEY)
        assert store.claim(key_of(rng.randrange(400)))
        store.close()
    assert there > 10


def test_a_kill_at_any_time_leaves_values_whole_or_absent(path):
    kill_and_check(path, 25, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_leave_values_whole_or_absent(path):
    kill_and_check(path, 200, seed=2)


@pytest.mark.slow
def test_kills_at_the_very_opening_leave_a_directory_that_can_be_used(tmp_path):
    rng = random.Random(3)
    for number in range(100):
        path = tmp_path / str(number)
        reader, writer = os.pipe()

        def work():
            os.write(writer, b"x")
            write_for_ever(path, writer)

        pid = fork(work)
        os.close(writer)
        os.read(reader, 1)
        for _ in range(rng.randrange(60_000)):
            pass
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
        os.close(reader)
        store = Store(path)
        assert store.is_usable
        check_all(store)
        store.close()


def test_nothing_of_a_store_is_left_in_this_process():
    gc.collect()
    assert not claims.here.claims
    assert not any(each.is_usable for each in module._here.everyone)
