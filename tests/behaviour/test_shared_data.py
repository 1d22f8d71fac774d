"""Values in shared memory that tasks get by name."""

from __future__ import annotations

import gc
import os
import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import fork

import flowpar
from flowpar import delayed
from flowpar.pickling import dump, dumps, kept_until_loaded
from flowpar.pools.home import home


def files():
    return sorted(
        name
        for folder in home().folders
        for name in os.listdir(folder)
        if name.startswith("shared-")
    )


@pytest.fixture(autouse=True)
def _no_file_left():
    gc.collect()
    before = files()
    yield
    gc.collect()
    assert [name for name in files() if name not in before and not name.endswith("-kept")] == []


@delayed
def look(array):
    with open("/proc/self/maps") as file:
        is_mapped = "/shared-" in file.read()
    return float(array.sum()), array.shape, is_mapped


@delayed
def double(array):
    array *= 2
    return float(array.sum())


def matrix():
    return np.arange(200_000.0).reshape(400, 500)


# ------------------------------------------------------------------------------- what comes back


def test_an_array_comes_back_equal_and_cannot_be_written_to():
    shared = flowpar.share(matrix())
    assert type(shared) is np.ndarray
    assert (shared == matrix()).all()
    with pytest.raises(ValueError, match="read-only"):
        shared[0, 0] = 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype="i2").reshape(3, 4).T,
        np.arange(100)[::3],
        np.arange(100)[::-1],
        np.array(3.5),
        np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([b"ab", b"c"]),
        np.zeros((3, 0, 2)),
        np.array([1, "two", None], dtype=object),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_any_array_arrives_as_it_is(array, scheduler):
    shared = flowpar.share(array)
    got = delayed(lambda x: (x, x.dtype, x.shape))(shared).compute(scheduler=scheduler)
    np.testing.assert_array_equal(got[0], array)
    assert got[1:] == (array.dtype, array.shape)


@pytest.mark.parametrize("data", [b"abc" * 1000, bytearray(b"abc" * 1000), memoryview(b"abc")])
def test_bytes_become_a_memoryview(data, own):
    shared = flowpar.share(data)
    assert shared == data
    count = delayed(lambda view: (bytes(view).count(b"b"), bytes(view[3:6])))
    assert count(shared).compute(scheduler=own) == (bytes(data).count(b"b"), bytes(data[3:6]))


def test_what_has_no_buffers_is_returned_as_it_is():
    value = {"a": [1, 2, 3]}
    assert flowpar.share(value) is value
    assert flowpar.share(b"") == b""


# ------------------------------------------------------------------------------------ how it travels


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_tasks_map_what_is_shared(start_method):
    shared = flowpar.share(matrix())
    options = {"scheduler": "processes", "start_method": start_method}
    captured = delayed(lambda: look.__wrapped__(shared) if hasattr(look, "__wrapped__") else 0)
    assert callable(captured)
    found = flowpar.compute(
        [look(shared), look(shared[::2, 10:3:-1]), look(shared.T), look(shared[3])], **options
    )
    plain = matrix()
    expected = [plain, plain[::2, 10:3:-1], plain.T, plain[3]]
    assert found == [(each.sum(), each.shape, True) for each in expected]


def test_it_travels_in_containers_and_closures():
    shared = flowpar.share(matrix())

    def total(row):
        return float(shared[row].sum()), len(dumps_of(shared))

    def dumps_of(array):
        return bytes(8) if array.flags.writeable else b""

    plain = matrix()
    found = flowpar.compute(
        [delayed(total)(3), delayed(lambda box: float(box["a"][1].sum()))({"a": [0, shared]})],
        scheduler="processes",
    )
    assert found == [(plain[3].sum(), 8), plain.sum()]


@pytest.mark.parametrize("pickle_it", [dump, dumps])
def test_only_its_name_is_in_the_message(pickle_it):
    shared = flowpar.share(matrix())
    frame = flowpar.share(pd.DataFrame({"a": range(50_000), "b": 0.5}))
    with kept_until_loaded():
        messages = [pickle_it(each) for each in (shared, shared[1:, ::2], frame, [shared])]
        loaded = [pickle.loads(message) for message in messages]
    assert all(len(message) < 3000 for message in messages)
    np.testing.assert_array_equal(loaded[1], shared[1:, ::2])
    assert loaded[2].equals(frame)


@pytest.mark.parametrize("pickle_it", [dump, dumps, pickle.dumps])
def test_what_nobody_keeps_travels_as_its_bytes(pickle_it):
    shared = flowpar.share(matrix())
    message = pickle_it(shared)
    del shared
    gc.collect()
    np.testing.assert_array_equal(pickle.loads(message), matrix())


def test_a_table_is_shared_with_all_its_columns():
    frame = pd.DataFrame({"a": range(50_000), "b": 0.5, "c": ["x", "y"] * 25_000})
    shared = flowpar.share(frame)
    assert shared.equals(frame)
    sums = delayed(lambda table: (int(table.a.sum()), float(table.b.sum()), table.c[1]))
    assert sums(shared).compute(scheduler="processes") == (1249975000, 25000.0, "y")


def test_a_table_of_polars_arrives_as_it_is():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": range(50_000)})
    shared = flowpar.share(frame)
    assert shared.equals(frame)
    total = delayed(lambda table: int(table["a"].sum()))
    assert total(shared).compute(scheduler="processes") == 1249975000


def test_a_table_of_arrow_is_mapped():
    arrow = pytest.importorskip("pyarrow")
    table = flowpar.share(arrow.table({"a": range(50_000)}))
    with kept_until_loaded():
        assert len(dump(table)) < 5000
    total = delayed(lambda table: sum(table["a"].to_pylist()))
    assert total(table).compute(scheduler="processes") == 1249975000


def test_each_task_may_write_to_a_copy_of_its_own():
    shared = flowpar.share(matrix())
    expected = 2 * matrix().sum()
    found = flowpar.compute([double(shared) for _ in range(6)], scheduler="processes")
    assert found == [expected] * 6
    assert (shared == matrix()).all()


def test_what_a_task_returns_of_it_is_right_also_when_it_has_written():
    shared = flowpar.share(matrix())

    def change(array):
        array[0] = 7
        return array

    changed = delayed(change)(shared).persist(scheduler="processes")
    same = delayed(lambda array: array[:2])(shared).persist(scheduler="processes")
    del shared
    gc.collect()
    assert changed.compute()[0, 5] == 7
    np.testing.assert_array_equal(same.compute(), matrix()[:2])


def test_threads_get_the_same_object():
    shared = flowpar.share(matrix())
    assert delayed(lambda array: array)(shared).compute(scheduler="threads") is shared


def test_a_task_can_share_too():
    made = delayed(lambda: flowpar.share(np.arange(100_000)))().persist(scheduler="processes")
    assert (
        delayed(lambda array: int(array.sum()))(made).compute(scheduler="processes") == 4999950000
    )


def test_a_cache_takes_it_for_the_value_that_it_is(tmp_path):
    total = delayed(lambda array: (array + 1)[:3], pure=True)
    first = flowpar.run(total(matrix()[0]), cache=tmp_path, scheduler="processes")
    again = flowpar.run(total(flowpar.share(matrix()[0])), cache=tmp_path, scheduler="processes")
    assert (first.counts.done, again.counts.cached) == (1, 1)
    assert again.value.tolist() == [1, 2, 3]


def test_what_a_cache_keeps_outlives_what_is_shared(tmp_path):
    shared = flowpar.share(matrix())
    part = delayed(lambda array: array[5:])
    flowpar.compute(part(shared), cache=tmp_path, scheduler="threads")
    again = part(matrix())
    del shared, part
    gc.collect()
    np.testing.assert_array_equal(again.compute(cache=tmp_path), matrix()[5:])


def test_queues_take_a_copy():
    shared = flowpar.share(matrix())
    queue = flowpar.Queue()
    queue.put(shared)
    del shared
    gc.collect()
    np.testing.assert_array_equal(queue.get(), matrix())


# ------------------------------------------------------------------------------------- writable


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_all_see_what_one_writes(scheduler):
    board = flowpar.share(np.zeros((4, 100)), writable=True)

    def fill(rows, number):
        rows[number] = number

    flowpar.compute([delayed(fill)(board, n) for n in range(4)], scheduler=scheduler)
    assert board.sum(axis=1).tolist() == [0, 100, 200, 300]
    flowpar.compute([delayed(fill)(board[n : n + 1], 0) for n in range(4)], scheduler=scheduler)
    assert board.sum() == 0


def test_bytes_can_be_written_to():
    board = flowpar.share(bytearray(10), writable=True)

    def mark(view, at):
        view[at] = 65 + at

    flowpar.compute([delayed(mark)(board, n) for n in range(10)], scheduler="processes")
    assert bytes(board) == b"ABCDEFGHIJ"


def test_what_a_task_returns_of_it_is_still_shared():
    board = flowpar.share(np.zeros(1000), writable=True)
    part = delayed(lambda array: array[10:])(board).compute(scheduler="processes")
    board[10] = 5
    assert part[0] == 5
    del board
    gc.collect()
    assert part[0] == 5
    assert delayed(lambda array: array[0])(part).compute(scheduler="processes") == 5


def test_only_arrays_and_bytes_can_be_writable():
    with pytest.raises(TypeError, match=r"only arrays of plain items, and bytes, .*not dict"):
        flowpar.share({"a": matrix()}, writable=True)
    with pytest.raises(TypeError, match="only arrays"):
        flowpar.share(np.array([None]), writable=True)


# -------------------------------------------------------------------------------------- its end


def test_it_goes_with_its_last_part():
    before = files()
    shared = flowpar.share(matrix())
    row = shared[3]
    del shared
    gc.collect()
    assert len(files()) == len(before) + 1
    assert look(row).compute(scheduler="processes")[0] == matrix()[3].sum()
    del row
    gc.collect()
    assert files() == before


def test_a_thousand_in_a_loop_fill_neither_memory_nor_descriptors():
    before = len(files())
    array = np.zeros(100_000)
    for number in range(1000):
        array[0] = number
        assert flowpar.share(array)[0] == number
        assert len(files()) <= before + 2
    descriptors = len(os.listdir("/proc/self/fd"))
    kept = [flowpar.share(array[:100]) for _ in range(1000)]
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 5
    del kept


def test_a_fork_leaves_it_alone():
    shared = flowpar.share(matrix())
    child = fork()
    if not child:
        del shared
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert look(shared).compute(scheduler="processes")[0] == matrix().sum()


def test_what_a_killed_program_leaves_is_swept(run_script):
    done = run_script(
        """
        import os, signal, numpy as np, flowpar
        from flowpar.pools.home import home
        shared = flowpar.share(np.zeros(100_000))
        queue, lock, value = flowpar.Queue(), flowpar.Lock(), flowpar.Value("i", 1)
        flowpar.delayed(lambda *a: a[2].value)(queue, lock, value).compute(scheduler="processes")
        print(*home().folders, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    folders = done.stdout.split()
    assert folders, done.stderr
    run_script("import flowpar.pools.home as h; h.home()")
    assert [folder for folder in folders if os.path.exists(folder)] == []


def test_a_program_ends_well_with_everything_in_use(run_script):
    done = run_script(
        """
        import numpy as np, flowpar
        shared = flowpar.share(np.zeros(100_000))
        board = flowpar.share(np.zeros(10), writable=True)
        queue, lock, value = flowpar.Queue(), flowpar.Lock(), flowpar.Array("i", 5)
        event = flowpar.Event()
        lock.acquire()
        run = flowpar.delayed(lambda *a: len(a))
        print(run(shared, board, queue, lock, value, event).compute(scheduler="processes"))
        """
    )
    assert (done.stdout, done.stderr, done.returncode) == ("6\n", "", 0)


def test_what_was_sent_stays_though_its_name_means_something_else_by_now():
    """A run sends again what it has pickled before; what that names must still be there."""
    box = [flowpar.share(matrix())]
    started, go = flowpar.Event(), flowpar.Event()

    def total(number):
        started.set()
        go.wait()
        return float(box[0].sum()) + number

    task = delayed(total)
    future = delayed([task(n) for n in range(6)]).submit(scheduler="processes", workers=2)
    started.wait()
    box.clear()
    gc.collect()
    go.set()
    assert future.result(60) == [matrix().sum() + n for n in range(6)]
