"""Objects: what comes back is what was kept, or `ObjectDamaged`; never anything else."""

from __future__ import annotations

import collections
import fcntl
import gc
import mmap
import os
import pickle
import random
import resource
import struct
import sys

import numpy as np
import pandas as pd
import pytest

from flowpar.caching import objects as module
from flowpar.caching.objects import (
    ALIGNMENT,
    ObjectDamaged,
    Stored,
    check,
    check_data,
    freeze,
    path_of,
    read,
    sweep,
    thaw,
    write,
)

HEAD = module._HEAD.size


@pytest.fixture
def folder(tmp_path):
    for name in ("objects", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path / "objects"


@pytest.fixture
def all_mapped(monkeypatch):
    """Have objects mapped that are otherwise too small for it."""
    monkeypatch.setattr(module, "MAPPED_FROM", 1)


@pytest.fixture
def none_checked(monkeypatch):
    """Have all objects read as those are that are too large to be checked."""
    monkeypatch.setattr(module, "CHECKED_UP_TO", 0)


def data_of(value) -> tuple[bytes, bytes]:
    written = freeze(value)
    data = b"".join(written.pieces)
    assert len(data) == written.size
    return data, written.digest


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Record:
    def __init__(self, *buffers):
        self.buffers = buffers

    def __reduce_ex__(self, protocol):
        return Record, tuple(pickle.PickleBuffer(each) for each in self.buffers)


class Trap:
    """Must never be unpickled from bytes that were not checked."""

    sprung = 0

    def __reduce__(self):
        return Trap.spring, ()

    @staticmethod
    def spring():
        Trap.sprung += 1


# ------------------------------------------------------------------------------ round trips

STRUCTURED = np.array([(1, 2.5, b"ab"), (3, 4.5, b"cd")], dtype="u1,f8,S2")
ARRAYS = {
    "c": np.arange(24.0).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(4, 6)),
    "strided": np.arange(40)[::3],
    "transposed": np.arange(24).reshape(2, 12)[:, ::5].T,
    "zero-size": np.empty((0, 3), "f4"),
    "zero-d": np.array(7.5),
    "structured": STRUCTURED,
    "big-endian": np.arange(5, dtype=">i8"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "unicode": np.array(["a", "żółw"]),
    "datetime": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "object": np.array([1, "two", None], dtype=object),
    "large": np.arange(200_000.0),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_was_and_can_be_written_to(folder, name):
    array = ARRAYS[name]
    found = write(freeze(array), folder).load()
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.f_contiguous == array.flags.f_contiguous or not array.flags.contiguous
    assert found.flags.writeable
    assert thaw(*data_of(array)).flags.writeable


def test_an_array_that_must_not_be_written_to_stays_so(folder):
    array = np.arange(100_000)
    array.flags.writeable = False
    assert not write(freeze(array), folder).load().flags.writeable
    assert not thaw(*data_of(array)).flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        False,
        "",
        [],
        b"",
        b"x" * 300_000,
        bytearray(b"y" * 300_000),
        {"a": (1, [2.5, {"b"}])},
        "\udc80",
        collections.OrderedDict(a=1),
        list(range(100_000)),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(repr(value))}",
)
def test_a_plain_value_comes_back_equal_and_of_its_type(folder, value):
    for found in (write(freeze(value), folder).load(), thaw(*data_of(value))):
        assert found == value
        assert type(found) is type(value)


def test_a_frame_comes_back_equal(folder):
    frame = pd.DataFrame(
        {
            "a": range(1000),
            "b": np.linspace(0, 1, 1000),
            "c": [f"row {n}" for n in range(1000)],
            "d": pd.Categorical(["x", "y"] * 500),
            "e": pd.date_range("2020", periods=1000, tz="UTC"),
        },
        index=pd.Index(range(1000, 2000), name="key"),
    )
    found = write(freeze(frame), folder).load()
    pd.testing.assert_frame_equal(found, frame)
    found.loc[1000, "a"] = 5
    pd.testing.assert_frame_equal(read(str(files_in(folder)[0]), freeze(frame).digest), frame)


def test_many_buffers_keep_their_order_and_borders(folder):
    arrays = [np.full(n, n, "u1") for n in range(150)]
    found = write(freeze(arrays), folder).load()
    assert [each.tolist() for each in found] == [each.tolist() for each in arrays]


def test_buffers_of_any_kind_travel_beside_the_pickle(folder):
    value = Record(b"read only", bytearray(b"to write"), memoryview(b""))
    buffers = write(freeze(value), folder).load().buffers
    assert [bytes(each) for each in buffers] == [b"read only", b"to write", b""]
    assert [memoryview(each).readonly for each in buffers] == [True, False, True]


def test_a_shared_array_is_kept_once_and_stays_shared(folder):
    array = np.arange(1000.0)
    first, second = write(freeze([array, array]), folder).load()
    assert first is second
    assert freeze([array, array]).size < 2 * array.nbytes


def test_every_buffer_starts_at_a_multiple_of_the_alignment(folder, all_mapped):
    arrays = [np.full(n, 7, "u1") for n in (1, 63, 64, 65, 5000)]
    for each in write(freeze(arrays), folder).load():
        assert each.ctypes.data % ALIGNMENT == 0


def test_equal_values_have_one_name_and_one_file(folder):
    first = write(freeze(np.arange(5000)), folder)
    inode = os.stat(first.path).st_ino
    again = write(freeze(np.arange(5000)), folder)
    assert again == first
    assert os.stat(first.path).st_ino == inode
    other = write(freeze(np.arange(5001)), folder)
    assert other.digest != first.digest
    assert len(files_in(folder)) == 2
    assert os.stat(first.path).st_mode & 0o777 == 0o600


def test_what_cannot_be_pickled_raises_its_own_error():
    with pytest.raises(TypeError, match="generator"):
        freeze(each for each in ())


def test_what_cannot_be_unpickled_raises_its_own_error(folder, monkeypatch):
    stored = write(freeze(Record(b"x")), folder)
    monkeypatch.delattr(sys.modules[__name__], "Record")
    with pytest.raises(AttributeError, match="Record"):
        stored.load()
    check(stored.path, stored.digest)  # for it is not damaged


# ----------------------------------------------------------------------------------- mapping


def test_writing_to_a_mapped_array_changes_neither_the_file_nor_another_mapping(folder):
    stored = write(freeze(np.zeros(200_000)), folder)
    before = path_of(folder, stored.digest).read_bytes()
    first, second = stored.load(), stored.load()
    first[:] = 1.0
    assert not second.any()
    assert not stored.load().any()
    assert path_of(folder, stored.digest).read_bytes() == before


def test_a_large_array_lies_in_the_file_and_a_small_one_does_not(folder):
    large, small = (write(freeze(np.zeros(size)), folder) for size in (200_000, 20_000))
    found = large.load(), small.load()
    with open("/proc/self/maps") as file:
        maps = file.read()
    assert large.path in maps
    assert small.path not in maps
    assert all(each.flags.writeable for each in found)


def test_a_mapped_array_outlives_its_file(folder):
    stored = write(freeze(np.arange(200_000)), folder)
    found = stored.load()
    os.unlink(stored.path)
    np.testing.assert_array_equal(found, np.arange(200_000))
    with pytest.raises(ObjectDamaged, match="cannot be read"):
        stored.load()


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_thousand_loads_leave_no_file_open(folder, size):
    stored = write(freeze(np.arange(size)), folder)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        stored.load()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_arrays_that_are_in_use_do_not_take_all_descriptors(folder, monkeypatch):
    """A thousand of them at once: each mapping has its own before Python 3.13."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (80, 80))
    stored = write(freeze(np.arange(50_000)), folder)
    before = len(os.listdir("/proc/self/fd"))
    gc.collect()
    found = [stored.load() for _ in range(100)]
    assert len(os.listdir("/proc/self/fd")) <= before + 20
    assert all(each[-1] == 49_999 and each.flags.writeable for each in found)


# ----------------------------------------------------------------------------------- damage


def loads_or_is_damaged(path, digest):
    try:
        return read(str(path), digest)
    except ObjectDamaged:
        return ObjectDamaged


def regions(data: bytes) -> dict[str, range]:
    _, length, count, _, _ = struct.unpack_from("<8sQQ32s32s", data)
    lengths = HEAD + 8 * count
    end = lengths + length
    start = end + -end % ALIGNMENT
    return {
        "magic": range(8),
        "length": range(8, 16),
        "count": range(16, 24),
        "digest": range(24, 56),
        "digest of the front": range(56, 88),
        "lengths": range(HEAD, lengths),
        "pickle": range(lengths, end),
        "padding": range(end, start),
        "buffer": range(start, len(data)),
    }


VALUE = [np.arange(50, dtype="u2"), np.ones(7)]
REGIONS = regions(data_of(VALUE)[0])


@pytest.mark.parametrize("how", ["read", "mapped"])
@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_is_always_found(tmp_path, monkeypatch, region, how):
    if how == "mapped":
        monkeypatch.setattr(module, "MAPPED_FROM", 1)
    data, digest = data_of(VALUE)
    assert REGIONS[region], "the value has such bytes"
    rng, path = random.Random(region), tmp_path / "object"
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.choice(REGIONS[region])] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert loads_or_is_damaged(path, digest) is ObjectDamaged
        path.unlink()
        with pytest.raises(ObjectDamaged):
            check_data(bytes(damaged), digest)


@pytest.mark.parametrize("region", [name for name in REGIONS if name not in {"padding", "buffer"}])
def test_a_flipped_bit_of_the_front_is_found_in_objects_too_large_to_be_checked(
    tmp_path, none_checked, region
):
    data, digest = data_of(VALUE)
    rng, path = random.Random(region), tmp_path / "object"
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.choice(REGIONS[region])] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert loads_or_is_damaged(path, digest) is ObjectDamaged


def test_check_finds_what_reading_a_large_object_does_not(tmp_path, none_checked):
    data, digest = data_of(VALUE)
    path = tmp_path / "object"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert read(str(path), digest)[1][-1] != 1.0  # as the head of the module says
    with pytest.raises(ObjectDamaged):
        check(str(path), digest)
    with pytest.raises(ObjectDamaged):
        read(str(path), digest, in_full=True)


@pytest.mark.parametrize("how", ["read", "mapped", "unchecked"])
def test_a_file_cut_short_anywhere_is_found(tmp_path, monkeypatch, how):
    if how != "read":
        monkeypatch.setattr(module, "MAPPED_FROM", 1)
    if how == "unchecked":
        monkeypatch.setattr(module, "CHECKED_UP_TO", 0)
    data, digest = data_of(VALUE)
    path = tmp_path / "object"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert loads_or_is_damaged(path, digest) is ObjectDamaged
        path.unlink()
    path.write_bytes(data)
    np.testing.assert_array_equal(read(str(path), digest)[0], VALUE[0])


@pytest.mark.parametrize("more", [b"\0", b"x" * 64, b"\0" * 5000])
def test_a_file_that_grew_is_found(tmp_path, none_checked, more):
    data, digest = data_of(VALUE)
    path = tmp_path / "object"
    path.write_bytes(data + more)
    assert loads_or_is_damaged(path, digest) is ObjectDamaged


def test_an_object_in_the_place_of_another_is_found(tmp_path):
    path = tmp_path / "object"
    path.write_bytes(data_of(1)[0])
    assert loads_or_is_damaged(path, data_of(2)[1]) is ObjectDamaged


def test_nothing_of_a_damaged_object_is_run(tmp_path):
    data, digest = data_of(Trap())
    Trap.sprung = 0
    path = tmp_path / "object"
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        assert loads_or_is_damaged(path, digest) is ObjectDamaged
    assert Trap.sprung == 0
    path.write_bytes(data)
    check(str(path), digest)
    check_data(data, digest)
    assert Trap.sprung == 0
    read(str(path), digest)
    assert Trap.sprung == 1


def test_another_format_is_refused_even_if_its_digests_fit():
    data, _ = data_of(VALUE)
    other = b"flowpar9" + data[8:]
    with pytest.raises(ObjectDamaged, match="format"):
        thaw(other, module.blake3(other[:HEAD]).digest())


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "empty"])
def test_what_is_no_file_of_ours_is_damaged_and_does_not_hang(tmp_path, kind):
    path = tmp_path / "object"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    with pytest.raises(ObjectDamaged):
        Stored(str(path), b"d" * 32, 10).load()


def test_a_file_that_cannot_be_mapped_is_damaged(folder, monkeypatch):
    stored = write(freeze(np.arange(100_000)), folder)

    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(ObjectDamaged, match="Cannot allocate"):
        stored.load()


# ---------------------------------------------------------------------------------- writing


def test_a_file_of_another_size_under_the_name_is_replaced(folder):
    written = freeze(np.arange(5000))
    stored = write(written, folder)
    os.truncate(stored.path, 100)
    assert write(written, folder).load()[-1] == 4999


@pytest.mark.parametrize("at", range(3))
def test_a_write_that_fails_leaves_nothing(folder, monkeypatch, at):
    """At the first piece, at one in the middle, and at the move to its place."""
    written = freeze([np.arange(50_000), np.arange(9)])
    pieces = list(written.pieces)
    if at < 2:
        pieces[at * 3] = None  # makes write() raise TypeError
    else:
        monkeypatch.setattr(module, "_move", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises((TypeError, OSError)):
        write(module.Written(written.digest, written.size, tuple(pieces)), folder)
    assert files_in(folder.parent) == []


def test_a_full_disk_raises_oserror_and_leaves_nothing(folder):
    """In a child: the limit is that of a process, and can be set no higher again."""

    def fill():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        write(freeze(np.arange(10)), folder)
        try:
            write(freeze(np.arange(10_000)), folder)
        except OSError:
            return 7
        return 8

    assert in_child(fill) == 7
    assert len(files_in(folder)) == 1
    assert files_in(folder.parent / "tmp") == []


def test_a_folder_that_is_cleared_while_writing_is_made_again(folder, monkeypatch):
    written = freeze(np.arange(5000))
    path = path_of(folder, written.digest)
    made = module.Path.mkdir
    times = []

    def mkdir(self, *args, **kwargs):
        made(self, *args, **kwargs)
        if not times:
            self.rmdir()
        times.append(self)

    monkeypatch.setattr(module.Path, "mkdir", mkdir)
    assert write(written, folder).load()[-1] == 4999
    assert times == [path.parent] * 2


def test_a_large_object_is_flushed_to_the_disk(folder, monkeypatch, none_checked):
    flushed = []
    monkeypatch.setattr(module.os, "fdatasync", flushed.append)
    write(freeze(np.arange(10)), folder)
    assert len(flushed) == 1


# ------------------------------------------------------------------------- new files, swept


def in_child(function) -> int:
    """Run it in a fork of this process; return what it returned, as the code of its end."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are threads: of faulthandler
        pid = os.fork()
    if not pid:
        code = 99
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(folder):
    tmp = folder.parent / "tmp"
    assert in_child(lambda: module._locked_file(tmp) and 0) == 0
    handle, mine = module._locked_file(tmp)
    assert len(files_in(tmp)) == 2
    sweep(tmp)
    assert files_in(tmp) == [mine]
    os.close(handle)
    sweep(tmp)
    assert files_in(tmp) == []


def test_a_file_that_bears_the_number_of_a_living_process_is_swept_too(folder):
    """For numbers are used again."""
    left = folder.parent / "tmp" / f"{os.getppid()}-abc"
    left.write_bytes(b"x")
    sweep(left.parent)
    assert not left.exists()


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(folder, monkeypatch):
    tmp, real, swept = folder.parent / "tmp", fcntl.flock, []

    def flock(handle, how):
        if not swept and how == fcntl.LOCK_EX:
            swept.append(handle)
            sweep(tmp)
        real(handle, how)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    assert write(freeze(np.arange(100)), folder).load()[-1] == 99
    assert swept
    assert files_in(tmp) == []


def test_sweeping_does_not_follow_links_or_wait_for_pipes(folder, tmp_path):
    tmp = folder.parent / "tmp"
    other = tmp_path / "other"
    other.write_bytes(b"x")
    (tmp / "link").symlink_to(other)
    (tmp / "folder").mkdir()
    os.mkfifo(tmp / "pipe")
    sweep(tmp)
    assert other.exists()


def test_a_file_system_without_locks_is_written_to_and_not_swept(folder, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    left = folder.parent / "tmp" / "1-abc"
    left.write_bytes(b"x")
    assert write(freeze(np.arange(100)), folder).load()[-1] == 99
    sweep(left.parent)
    assert left.exists()
