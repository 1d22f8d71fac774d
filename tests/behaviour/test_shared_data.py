"""Values in shared memory that tasks get by name."""

from __future__ import annotations

import array
import copy
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


def test_a_view_keeps_its_form(own):
    numbers = array.array("d", [1.5, 2.5] * 100)
    flat, square = memoryview(numbers), memoryview(bytes(range(6))).cast("B", (2, 3))
    for view in (flat, square, flat[::2], memoryview(np.array(3.5))):
        for writable in (False, True):
            shared = flowpar.share(view, writable=writable)
            assert (shared, shared.shape, shared.format) == (view, view.shape, view.format)
            assert shared.readonly is not writable
            look = delayed(lambda each: (each.shape, each.format, bytes(each)))
            assert look(shared).compute(scheduler=own) == (view.shape, view.format, bytes(view))
    for strange in (memoryview(np.zeros(3, ">i4")), [memoryview(np.zeros(3, ">i4"))]):
        with pytest.raises(TypeError, match=r"format '>i' cannot be shared"):
            flowpar.share(strange)


@pytest.mark.parametrize("kind", ["recarray", "matrix", "memmap"])
def test_arrays_with_another_class_are_shared(kind, tmp_path):
    value = {
        "recarray": lambda: np.rec.array(np.ones(100, dtype=[("a", "f8"), ("b", "i4")])),
        "matrix": lambda: np.eye(30).view(np.matrix),
        "memmap": lambda: np.memmap(tmp_path / "numbers", dtype="f8", mode="w+", shape=(100,)),
    }[kind]()
    shared = flowpar.share(value)
    assert type(shared) is (np.ndarray if kind == "memmap" else type(value))
    assert not shared.flags.writeable
    np.testing.assert_array_equal(shared, value)
    with kept_until_loaded():
        assert len(dump(shared)) < 1000
    board = flowpar.share(value, writable=True)

    def fill(array):
        array.view(np.ndarray)[:] = 7
        return type(array)

    assert delayed(fill)(board).compute(scheduler="processes") is type(shared)
    assert (board.view(np.ndarray) == np.full_like(board.view(np.ndarray), 7)).all()


def test_times_in_tables_are_shared_too():
    frame = pd.DataFrame({"time": pd.date_range("2020-01-01", periods=50_000, freq="s")})
    shared = flowpar.share(frame)
    assert shared.equals(frame)
    with kept_until_loaded():
        assert len(dump(shared)) < 3000


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


def test_shared_bytes_are_copied_by_what_knows_nothing_of_us():
    shared = flowpar.share(memoryview(array.array("i", range(1000))))
    for copied in (pickle.loads(pickle.dumps(shared)), copy.deepcopy(shared)):
        assert (copied, copied.format, copied.readonly) == (shared, "i", True)
    board = flowpar.share(bytearray(10), writable=True)
    for way in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="would not be shared"):
            way(board)
        with pytest.raises(TypeError, match="cannot pickle"):
            way(memoryview(b"none of ours"))


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


@pytest.mark.parametrize("dtype", ["M8[D]", "m8[s]", [("time", "M8[s]"), ("x", "f8")], ">f8", "U3"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_whatever_plain_items_can_be_written_to(dtype, order):
    board = flowpar.share(np.zeros((20, 30), dtype=dtype, order=order), writable=True)
    expected = np.ones(1, "i8").astype("M8[D]" if dtype == "M8[D]" else "i8").astype(dtype)[0]

    def fill(array, value):
        array[3, 4] = value

    delayed(fill)(board, expected).compute(scheduler="processes")
    assert board[3, 4] == expected
    assert board[4, 3] == np.zeros(1, dtype)[0]
    assert board.flags.c_contiguous is (order == "C")


def test_what_cannot_be_written_to_is_shared_so_that_it_can():
    frozen = np.zeros(10)
    frozen.flags.writeable = False
    for value in (frozen, flowpar.share(frozen), b"0123456789", flowpar.share(b"0123456789")):
        before = bytes(value)
        board = flowpar.share(value, writable=True)
        delayed(lambda board: board.__setitem__(3, 65))(board).compute(scheduler="processes")
        board[4] = 66
        assert (board[3], board[4], bytes(value)) == (65, 66, before)


def test_what_is_shared_of_what_all_write_to_is_as_it_was():
    board, text = flowpar.share(np.zeros(10), writable=True), bytearray(b"abc")
    letters = flowpar.share(text, writable=True)
    frozen, inside, view = flowpar.share(board), flowpar.share({"a": board}), flowpar.share(letters)
    board[0] = letters[0] = 99
    assert (frozen[0], inside["a"][0], bytes(view)) == (0, 0, b"abc")
    assert not frozen.flags.writeable
    assert not inside["a"].flags.writeable
    assert view.readonly


def test_who_may_not_write_to_what_others_may_cannot_elsewhere_either():
    board, letters = (
        flowpar.share(np.zeros(10), writable=True),
        flowpar.share(b"abc", writable=True),
    )
    part = board[2:]
    part.flags.writeable = False

    def write(place):
        try:
            place[0] = 65
        except (ValueError, TypeError) as error:
            return "read-only" in str(error)

    for place in (part, letters.toreadonly()):
        assert delayed(write)(place).compute(scheduler="processes")
    assert (board[2], bytes(letters)) == (0, b"abc")
    delayed(write)(letters).compute(scheduler="processes")
    board[2] = 5
    assert delayed(lambda array: float(array[0]))(part).compute(scheduler="processes") == 5
    assert bytes(letters) == b"Abc"


def test_only_arrays_and_bytes_can_be_writable():
    with pytest.raises(TypeError, match=r"only arrays of plain items, and bytes, .*not dict"):
        flowpar.share({"a": matrix()}, writable=True)
    masked = np.ma.masked_array([1, 2], [True, False])
    for value in (np.array([None]), masked, np.zeros(3).view(type("Own", (np.ndarray,), {}))):
        with pytest.raises(TypeError, match="only arrays"):
            flowpar.share(value, writable=True)


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


def test_what_is_not_to_be_written_to_cannot_be_told_otherwise():
    shared = flowpar.share(np.zeros((100, 1000)))
    for view in (shared, shared[3:], shared.T, shared.reshape(-1), shared.view("i8")):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    board = flowpar.share(np.zeros(1000), writable=True)
    view = board[:]
    view.flags.writeable = False

    def write(view):
        view.flags.writeable = True
        view[0] = 5

    with pytest.raises(ValueError, match="WRITEABLE"):
        delayed(write)(view).compute(scheduler="processes")
    assert board[0] == 0
