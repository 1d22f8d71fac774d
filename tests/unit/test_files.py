"""Files as values: their content counts, it is read once, and what is opened besides is noticed."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import io
import os
import pathlib
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pandas as pd
import pytest

from flowpar.caching import files as module
from flowpar.caching.digest import NotDigestible, ValueDigester
from flowpar.caching.files import (
    File,
    FileMissing,
    facts_learned,
    is_unchanged,
    learn_facts,
    tracking,
    undeclared,
)
from flowpar.caching.watching import opened, watch
from flowpar.errors import OptionError

AGES = 3_600 * 10**9


def code(thing: object) -> bytes:
    return f"{thing.__module__}.{thing.__qualname__}".encode()


def digest(value: object) -> bytes:
    return ValueDigester(code).digest(value)


@pytest.fixture(autouse=True)
def reads(monkeypatch):
    """Start with nothing remembered; give the paths whose content is read."""
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(module, "_news", {})
    read, paths = module._read, []
    monkeypatch.setattr(module, "_read", lambda path: (paths.append(path), read(path))[1])
    return paths


@pytest.fixture
def later(monkeypatch):
    """Let all that was written so far have been written long ago."""
    now = module._now
    monkeypatch.setattr(module, "_now", lambda: now() + AGES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path, text="1,2\n"):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


# ---------------------------------------------------------------------------------- content


def test_the_content_counts_and_not_the_name_nor_the_times(folder):
    put("a"), put("deep/b"), put("c", "1,3\n"), put("empty", "")
    os.utime("deep/b", ns=(1, 1))
    os.chmod("deep/b", 0o600)
    assert File("a").digest() == File("deep/b").digest() == File(folder / "a").digest()
    assert len({File(name).digest() for name in ("a", "c", "empty")}) == 3


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7])
def test_every_byte_of_a_large_file_counts(folder, size):
    data = bytes(size)
    pathlib.Path("a").write_bytes(data)
    pathlib.Path("longer").write_bytes(data + b"\0")
    first = File("a").digest()
    assert File("longer").digest() != first
    if size:
        pathlib.Path("a").write_bytes(data[:-1] + b"\1")
        assert File("a").digest() != first


def test_a_link_to_a_file_is_that_file(folder):
    put("a")
    os.symlink("a", "link")
    assert File("link").digest() == File("a").digest()


def test_a_directory_is_its_files_and_their_names_in_any_order(folder):
    for name in ("x", "y", "sub/z", ".hidden"):
        put(f"a/{name}", name)
    for name in (".hidden", "sub/z", "y", "x"):
        put(f"other/b/{name}", name)
    first = File("a").digest()
    assert first == File("other/b").digest() == File("other/b/").digest()
    assert File("a").paths() == ["a/.hidden", "a/sub/z", "a/x", "a/y"]
    os.chdir("a")
    assert first == File(".").digest() == File("../a").digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda: os.rename("a/x", "a/w"),
        lambda: os.rename("a/sub", "a/sup"),
        lambda: os.rename("a/sub/z", "a/z"),
        lambda: os.remove("a/x"),
        lambda: put("a/new", ""),
        lambda: put("a/x", "other"),
        lambda: os.makedirs("a/empty"),
        lambda: os.makedirs("a/sub/empty"),
        lambda: os.rmdir("a/hollow"),
        lambda: os.rename("a/hollow", "a/other"),
        lambda: os.makedirs("a/hollow/deeper"),
        lambda: put("a/hollow/file", ""),
        lambda: (os.rename("a/x", "t"), os.rename("a/y", "a/x"), os.rename("t", "a/y")),
    ],
)
def test_a_directory_has_changed_when_a_file_in_it_has(folder, later, change):
    for name in ("x", "y", "sub/z"):
        put(f"a/{name}", name)
    os.mkdir("a/hollow")
    first = File("a").digest()
    change()
    assert File("a").digest() != first


def test_the_borders_of_names_and_contents_count(folder):
    put("a/xy", "z"), put("b/x", "yz"), put("c/x", ""), put("c/y", "")
    put("d/x", "y")
    assert len({File(name).digest() for name in "abcd"}) == 4
    assert File("d").digest() != File("d/x").digest()


def test_names_need_not_be_text(folder):
    os.mkdir("a")
    with open(os.path.join(b"a", b"\xff"), "w") as file:
        file.write("1")
    first = File("a").digest()
    os.rename(b"a/\xff", b"a/\xfe")
    assert File("a").digest() != first
    assert File(File("a").paths()[0]).digest()


def test_links_to_directories_are_not_followed_inside_one(folder):
    put("a/x"), put("elsewhere/y")
    first = File("a").digest()
    os.symlink(".", "a/self")
    os.symlink("../a", "a/up")
    os.symlink("../elsewhere", "a/away")
    os.symlink("loop", "a/loop")
    os.symlink("nothing", "a/dangling")
    assert File("a").paths() == ["a/x"]
    assert File("a").digest() == first
    os.symlink("x", "a/file")
    assert File("a").paths() == ["a/file", "a/x"]
    os.symlink("a", "whole")
    assert File("whole").digest() == File("a").digest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read_is_not_left_out(folder):
    put("a/sub/x")
    os.chmod("a/sub", 0)
    try:
        with pytest.raises(PermissionError):
            File("a").digest()
    finally:
        os.chmod("a/sub", 0o700)


def test_an_error_inside_a_directory_is_raised(folder, monkeypatch):
    put("a/sub/x")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "no", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        File("a").digest()


def test_pipes_are_not_waited_for(folder):
    put("a/x")
    os.mkfifo("a/pipe")
    assert File("a").paths() == ["a/x"]
    with pytest.raises(FileNotFoundError):
        File("a/pipe").digest()
    with pytest.raises(FileNotFoundError):
        File("/dev/zero").digest()


# ---------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a.csv", "b.csv"]),
        ("./*.csv", ["a.csv", "b.csv"]),
        ("?.txt", ["c.txt"]),
        ("[bx].csv", ["b.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "sub/a.csv", "sub/deep/d.csv"]),
        ("sub/**", ["sub/a.csv", "sub/deep/d.csv", "sub/deep/e"]),
        ("sub/*", ["sub/a.csv", "sub/deep/d.csv", "sub/deep/e"]),
        ("s*/deep/e", ["sub/deep/e"]),
        ("sub/a**.csv", ["sub/a.csv"]),
        ("*.nothing", []),
        ("nothing/*", []),
    ],
)
def test_a_pattern_is_all_that_it_matches(folder, pattern, found):
    for name in ("b.csv", "a.csv", "c.txt", "sub/a.csv", "sub/deep/d.csv", "sub/deep/e"):
        put(name)
    assert File(pattern).paths() == found
    whole = File(f"{folder}/{pattern}")
    assert [os.path.relpath(path) for path in whole.paths()] == found
    assert whole.digest() == File(pattern).digest()


def test_a_pattern_changes_with_what_it_matches(folder, later):
    digests = [File("a/*.csv").digest()]
    for step in (
        lambda: put("a/x.csv", "1"),
        lambda: put("a/y.csv", "1"),
        lambda: put("a/y.csv", "2"),
        lambda: os.rename("a/y.csv", "a/z.csv"),
        lambda: os.remove("a/x.csv"),
    ):
        step()
        digests.append(File("a/*.csv").digest())
    assert len(set(digests)) == len(digests)
    before = File("a/*.csv").digest()
    put("a/other.txt")
    assert File("a/*.csv").digest() == before
    shutil.copytree("a", "b")
    assert File("b/*.csv").digest() == before


def test_a_name_with_signs_of_a_pattern_is_itself_where_it_exists(folder):
    put("a[1].csv", "itself"), put("a1.csv", "other"), put("plain", "itself")
    assert File("a[1].csv").paths() == ["a[1].csv"]
    assert File("a[1].csv").digest() == File("plain").digest()


@pytest.mark.limit(20)
def test_a_pattern_does_not_go_in_circles(folder):
    put("a/x.csv")
    for number in range(5):
        os.symlink(".", f"a/loop{number}")
    assert File("a/**/*.csv").paths() == ["a/x.csv"]
    assert File("a/**").paths() == ["a/x.csv"]
    assert File("**/*").paths() == ["a/x.csv"]


def test_a_pattern_leads_through_links_that_it_names(folder):
    put("store/1/x.csv")
    os.mkdir("runs")
    os.symlink("../store/1", "runs/1")
    assert File("runs/*").paths() == File("runs/*/*.csv").paths() == ["runs/1/x.csv"]


# ---------------------------------------------------------------------------------- as a path


def test_it_is_a_path_for_all_who_open(folder):
    put("a.csv", "x,y\n1,2\n")
    file = File(pathlib.Path("a.csv"))
    assert file.path == os.fspath(file) == "a.csv"
    with open(file) as handle:
        assert handle.read() == "x,y\n1,2\n"
    assert pathlib.Path(file).exists()
    assert isinstance(file, os.PathLike)
    assert pd.read_csv(file).y.tolist() == [2]
    assert File(file) == file


def test_it_is_equal_by_its_path_and_cannot_be_changed():
    file = File("a/b.csv")
    assert file == File("a/b.csv") != File("a/../a/b.csv")
    assert file != "a/b.csv"
    assert len({file, File("a/b.csv"), File("c")}) == 2
    assert repr(file) == "File('a/b.csv')"
    assert eval(repr(file)) == file
    with pytest.raises(AttributeError):
        file.path = "other"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_travels_in_few_bytes(protocol):
    file = File("data/a.csv")
    data = pickle.dumps(file, protocol)
    assert pickle.loads(data) == file
    assert len(data) < 150


@pytest.mark.parametrize(
    "culprit", [None, 3, b"a.csv", "", "a\0b", ["a.csv"], object(), io.StringIO("a")], ids=repr
)
def test_what_is_no_path_is_refused_by_name(culprit):
    with pytest.raises(OptionError, match="File takes a path, and not") as caught:
        File(culprit)
    assert repr(culprit)[:10] in str(caught.value)
    assert ("os.fsdecode" in str(caught.value)) == isinstance(culprit, bytes)


# ---------------------------------------------------------------------------------- missing


def test_a_file_that_is_missing_is_named_with_a_cure(folder):
    file = File("nothing.csv")
    for look in (file.digest, file.paths):
        with pytest.raises(FileNotFoundError, match=r"check the path.*'nothing\.csv'") as caught:
            look()
        assert caught.value.filename == "nothing.csv"
    with pytest.raises(FileNotFoundError, match="expanduser"):
        File("~/nothing.csv").digest()
    put("a")
    with pytest.raises(FileNotFoundError):
        File("a/b").digest()
    with pytest.raises(OSError):
        os.symlink("loop", "loop")
        File("loop").digest()


@pytest.mark.parametrize("wrap", [lambda file: file, lambda file: [{"a": (file,)}]])
def test_the_digest_of_a_value_with_a_missing_file_is_that_error(folder, wrap):
    with pytest.raises(FileNotFoundError, match="nothing") as caught:
        digest(wrap(File("nothing.csv")))
    assert isinstance(caught.value, NotDigestible)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is FileMissing
    assert str(again) == str(caught.value)
    assert (again.errno, again.filename) == (2, "nothing.csv")


def test_a_file_that_goes_while_it_is_looked_at_is_missing(folder, monkeypatch):
    put("a/x")
    found = module._found
    monkeypatch.setattr(module, "_found", lambda path: (found(path), os.remove("a/x"))[0])
    with pytest.raises(FileMissing):
        File("a").digest()


# ---------------------------------------------------------------------------------- in values


@dataclasses.dataclass
class Holder:
    file: object
    number: int = 1


class Sub(File):
    """As a user may have it."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda file: file,
        lambda file: [1, file],
        lambda file: {"a": {"b": file}},
        lambda file: Holder(file),
        lambda file: collections.OrderedDict(a=(file,)),
        lambda file: functools.partial(print, file),
        lambda file: [file] * 20,
    ],
)
def test_the_digest_of_a_value_has_the_content_of_its_files_only(folder, wrap):
    put("a"), put("deep/b"), put("c", "1,3\n")
    assert digest(wrap(File("a"))) == digest(wrap(File("deep/b")))
    assert digest(wrap(File("a"))) != digest(wrap(File("c")))
    assert digest(wrap(File("a"))) != digest(wrap("a"))
    assert digest(wrap(File("a"))) != digest(wrap(File("a").digest()))


def test_a_subclass_is_known_too(folder):
    put("a"), put("b")
    assert digest(Sub("a")) == digest(Sub("b")) == digest(File("a"))
    assert repr(Sub("a")) == "Sub('a')"


def test_as_a_key_and_in_a_set(folder):
    put("a", "1"), put("b", "2"), put("x/a", "2"), put("x/b", "1")
    assert digest({File("a"), File("b")}) == digest({File("x/a"), File("x/b")})
    assert digest({File("a"): 1}) == digest({File("x/b"): 1}) != digest({File("b"): 1})


# ---------------------------------------------------------------------------------- read once


def test_an_old_file_is_read_once(folder, later, reads):
    put("a"), put("d/x"), put("d/y")
    for _ in range(3):
        File("a").digest(), File(folder / "a").digest(), File("d").digest(), File("d/*").digest()
    assert sorted(os.path.relpath(path) for path in reads) == ["a", "d/x", "d/y"]


def test_a_new_file_is_read_each_time(folder, reads):
    put("a")
    first = File("a").digest()
    assert File("a").digest() == first
    assert len(reads) == 2
    assert facts_learned() == []


def test_a_file_that_is_written_right_after_its_digest_is_noticed(folder, monkeypatch):
    """Same size, same times, same inode: what a write within one tick of the clock looks like."""
    put("a", "1")
    first = File("a").digest()
    facts = module._facts(os.stat("a"))
    put("a", "2")
    monkeypatch.setattr(module, "_facts", lambda of: facts)
    assert File("a").digest() != first


@pytest.mark.parametrize("age", [-10, 0, 1.9, 2])
@pytest.mark.parametrize("which", ["mtime", "ctime"])
def test_what_was_modified_less_than_two_seconds_ago_is_not_remembered(
    folder, monkeypatch, reads, age, which
):
    put("a")
    if which == "ctime":
        os.utime("a", ns=(1, 1))
    at = getattr(os.stat("a"), f"st_{which}_ns")
    monkeypatch.setattr(module, "_now", lambda: at + int(age * 10**9))
    File("a").digest(), File("a").digest()
    assert len(reads) == 2


def test_what_was_modified_earlier_is(folder, monkeypatch, reads):
    put("a")
    at = os.stat("a").st_ctime_ns
    monkeypatch.setattr(module, "_now", lambda: at + module.RACY_NS + 1)
    File("a").digest(), File("a").digest()
    assert len(reads) == 1


def test_it_is_the_beginning_of_the_reading_that_counts(folder, monkeypatch, reads):
    """What is written while a large file is read may be of the tick in which it was written."""
    put("a")
    times = [os.stat("a").st_ctime_ns + 1]
    read = module._read
    monkeypatch.setattr(module, "_now", lambda: times[-1])
    monkeypatch.setattr(
        module, "_read", lambda path: (times.append(times[-1] + AGES), read(path))[1]
    )
    File("a").digest()
    assert facts_learned() == []


def test_a_file_from_the_future_is_not_remembered(folder, later, reads):
    put("a")
    at = os.stat("a").st_mtime_ns + 2 * AGES
    os.utime("a", ns=(at, at))
    File("a").digest(), File("a").digest()
    assert len(reads) == 2


def test_a_change_is_noticed_though_size_and_mtime_are_as_before(folder, later, reads):
    put("a", "1")
    first, before = File("a").digest(), os.stat("a")
    ticked(lambda: put("a", "2"), before)
    os.utime("a", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat("a")
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert File("a").digest() != first
    assert len(reads) == 2


def ticked(write, before):
    """Write until the clock of the file system has gone on: it has ticks of milliseconds."""
    write()
    while os.stat("a").st_ctime_ns == before.st_ctime_ns:
        write()


def test_a_file_that_took_its_place_is_noticed(folder, later):
    put("a", "1"), put("b", "2")
    first = File("a").digest()
    os.replace("b", "a")
    assert File("a").digest() != first
    put("c", "3")
    os.remove("a")
    os.symlink("c", "a")
    assert File("a").digest() == File("c").digest()


@pytest.mark.parametrize("changes", [1, 2, 3, 100])
def test_a_file_that_changes_while_it_is_read_is_read_again(
    folder, later, reads, monkeypatch, changes
):
    put("a", "1")
    blake3 = module.blake3

    class Hasher:
        """Stands for another process, that writes while this one reads."""

        def __init__(self):
            self.real = blake3()

        def update(self, data):
            self.real.update(data)
            if len(reads) <= changes:
                with open("a", "ab") as file:
                    file.truncate(0)
                    file.write(b"more")
                os.utime("a", ns=(len(reads), len(reads)))

        def digest(self):
            return self.real.digest()

    monkeypatch.setattr(module, "blake3", Hasher)
    File("a").digest()
    assert len(reads) == min(changes + 1, 3)
    is_settled = changes < 3
    assert bool(facts_learned()) == is_settled


# ---------------------------------------------------------------------------------- facts


def test_facts_are_handed_out_once_and_taken_back(folder, later, reads, monkeypatch):
    put("a"), put("d/x"), put("d/y", "3")
    digests = [File("a").digest(), File("d").digest()]
    rows = facts_learned()
    assert sorted(path for path, _, _ in rows) == [
        f"{folder}/{name}" for name in ("a", "d/x", "d/y")
    ]
    assert all(type(facts) is tuple and type(content) is bytes for _, facts, content in rows)
    assert facts_learned() == []
    File("a").digest()
    assert facts_learned() == []

    monkeypatch.setattr(module, "_known", {})
    reads.clear()
    learn_facts((path, list(facts), content) for path, facts, content in rows)
    assert [File("a").digest(), File("d").digest()] == digests
    assert reads == []
    assert facts_learned() == []


def test_facts_of_an_earlier_time_do_no_harm(folder, later, reads):
    put("a", "1")
    before = os.stat("a")
    old = File("a").digest()
    rows = facts_learned()
    ticked(lambda: put("a", "2"), before)
    new = File("a").digest()
    learn_facts(rows)
    reads.clear()
    assert File("a").digest() == new != old
    assert reads == []
    assert len(facts_learned()) == 1


def test_threads_share_what_was_read(folder, later, reads):
    names = [put(f"f{number}", str(number)) for number in range(50)]
    expected = [File(name).digest() for name in names]
    results, rows = [], []

    def look():
        results.append([File(name).digest() for name in names])
        rows.extend(facts_learned())

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8
    assert len(reads) == 50
    assert len(rows) == 50


# ---------------------------------------------------------------------------------- tracking


def test_files_among_results_are_found_each_once(folder):
    put("a", "1"), put("b", "2")
    with tracking() as found:
        digest([File("a"), {"x": File("b")}, File("a"), "c"])
    digest(File("b"))
    assert found == [("a", File("a").digest()), ("b", File("b").digest())]
    assert all(is_unchanged(path, was) for path, was in found)
    put("a", "3"), os.remove("b")
    assert [is_unchanged(path, was) for path, was in found] == [False, False]


def test_a_remembered_file_is_found_too(folder, later):
    put("a")
    File("a").digest()
    with tracking() as found:
        File("a").digest()
    assert len(found) == 1


def test_looking_whether_a_file_is_unchanged_finds_none(folder):
    put("a")
    with tracking() as found:
        is_unchanged("a", b"")
    assert found == []


def test_trackers_in_one_another_and_after_an_error(folder):
    put("a"), put("b")
    with tracking() as outer:
        with pytest.raises(KeyError), tracking() as inner:
            File("a").digest()
            raise KeyError
        File("b").digest()
    assert [path for path, _ in inner] == ["a"]
    assert [path for path, _ in outer] == ["a", "b"]


def test_directories_and_patterns_are_unchanged_as_long_as_they_are(folder):
    put("a/x")
    was = {path: File(path).digest() for path in ("a", "a/*", "a/*.none")}
    assert all(is_unchanged(path, each) for path, each in was.items())
    put("a/y")
    assert [is_unchanged(path, each) for path, each in was.items()] == [False, False, True]


def other_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_threads_do_not_see_one_another(folder):
    put("a"), put("b")

    def work():
        with tracking() as found, opened() as paths:
            open("b").close()
            File("b").digest()
        return [path for path, _ in found], paths

    with tracking() as found, opened() as paths:
        File("a").digest()
        open("a").close()
        theirs = other_thread(work)
    assert [path for path, _ in found] == ["a"]
    assert paths == [f"{folder}/a"]
    assert theirs == (["b"], [f"{folder}/b"])


# ---------------------------------------------------------------------------------- opened


def test_a_file_that_is_read_is_noticed_once(folder):
    put("a.csv"), put("b.csv")
    with opened() as paths:
        for _ in range(3):
            with open("a.csv", newline="") as file:
                assert list(csv.reader(file)) == [["1", "2"]]
        pathlib.Path(folder, "b.csv").read_bytes()
    open("b.csv").close()
    assert paths == [f"{folder}/a.csv", f"{folder}/b.csv"]


def test_outside_of_a_block_nothing_is_collected(folder):
    put("a")
    watch()
    watch()
    open("a").close()
    with opened() as paths:
        pass
    assert paths == []


@pytest.mark.parametrize(
    "read",
    [
        lambda path: open(path).close(),
        lambda path: open(os.fsencode(path)).close(),
        lambda path: open(pathlib.Path(path)).close(),
        lambda path: open(File(path)).close(),
        lambda path: open(path, "rb").close(),
        lambda path: open(path, "r+").close(),
        lambda path: io.open_code(os.path.abspath(path)).close(),
        lambda path: io.FileIO(path).close(),
        lambda path: os.close(os.open(path, os.O_RDONLY)),
        lambda path: os.close(os.open(path, os.O_RDONLY | os.O_CREAT)),
        lambda path: shutil.copy(path, "copy"),
        lambda path: (open(path).close(), put(path, "new")),
    ],
)
def test_ways_to_read(folder, read):
    put("a")
    with opened() as paths:
        read("a")
    assert paths == [f"{folder}/a"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: put(path),
        lambda path: open(path, "a").close(),
        lambda path: open(path, "a+").close(),
        lambda path: open(path, "w+").close(),
        lambda path: (os.remove(path), open(path, "x").close()),
        lambda path: os.close(os.open(path, os.O_WRONLY)),
        lambda path: os.close(os.open(path, os.O_RDWR | os.O_CREAT)),
        lambda path: os.close(os.open(path, os.O_RDWR | os.O_TRUNC)),
    ],
)
def test_what_the_block_wrote_it_may_read(folder, write):
    put("a")
    with opened() as paths:
        write("a")
        open("a").close()
        open(f"{folder}/./a").close()
    assert paths == []


def test_what_is_no_data_is_not_noticed(folder):
    put("module_of_mine.py", "x = 1"), put("a/x"), put("gone")
    sys.path.insert(0, str(folder))
    try:
        with opened() as paths:
            import module_of_mine  # noqa: F401

            open(os.__file__).close()
            open(np.__file__.replace("__init__.py", "py.typed")).close()
            open(sys.executable, "rb").close()
            open("/proc/self/stat").close()
            open("/etc/passwd").close()
            open("/dev/null").close()
            os.listdir("a")
            os.close(os.open("a", os.O_RDONLY))
            pathlib.Path("a").stat()
            open("gone").close()
            os.remove("gone")
            with tempfile.TemporaryFile() as file:
                file.write(b"1")
            with pytest.raises(FileNotFoundError):
                open("nothing")
            list(pathlib.Path().glob("**/*"))
    finally:
        sys.path.remove(str(folder))
        del sys.modules["module_of_mine"]
    assert paths == []


def test_our_own_reading_is_not_the_tasks(folder, reads):
    put("a")
    with opened() as paths:
        digest([File("a")])
        assert len(reads) == 1
    assert paths == []


def test_the_place_is_that_at_the_time_of_opening(folder):
    put("x/a"), put("y/a")
    with opened() as paths:
        os.chdir("x")
        open("a").close()
        os.chdir("../y")
    assert paths == [f"{folder}/x/a"]


def test_blocks_in_one_another(folder):
    for name in "abc":
        put(name)
    with opened() as outer:
        with opened() as empty:
            pass
        put("c")
        with pytest.raises(KeyError), opened() as inner:
            open("a").close()
            open("c").close()
            raise KeyError
        open("b").close()
    assert inner == [f"{folder}/a", f"{folder}/c"]
    assert empty == []
    assert outer == [f"{folder}/a", f"{folder}/b"]


class Path:
    """A path whose name is asked for while a file is opened, and opens one itself."""

    def __init__(self, name):
        self.name = name

    def __fspath__(self):
        open("other").close()
        return self.name


class Broken:
    def __fspath__(self):
        raise ZeroDivisionError


def test_odd_arguments_do_no_harm(folder):
    put("a"), put("b"), put("other")
    watch()
    with opened() as paths:
        with open("a") as file:
            open(file.fileno(), closefd=False).close()
        for args in (
            (3, "r", 0),
            (True, None, 0),
            (None, None, None),
            (b"b", None, None),
            (Broken(), "r", 0),
            ([], {}, ()),
            ("\0", "r", 0),
            ("\udcff", "r", 0),
            (b"\xff", "r", 0),
            ("", "r", 0),
            (),
            ("a",),
            ("a", "r", 0, 1, 2),
            (Path("a"), "r", 0),
        ):
            sys.audit("open", *args)
        sys.audit("open.something", "a")
    assert paths == [f"{folder}/{name}" for name in ("a", "b", "other")]


def test_a_directory_that_is_gone_does_no_harm(folder):
    os.mkdir("x")
    os.chdir("x")
    os.rmdir(folder / "x")
    with opened() as paths, pytest.raises(FileNotFoundError):
        open("a")
    os.chdir(folder)
    assert paths == []


def test_the_hook_is_there_once_and_harmless_to_the_very_end(tmp_path):
    """At exit the names of modules are gone, and files may still be opened."""
    code = f"""
import sys
hooks = []
add = sys.addaudithook
sys.addaudithook = lambda hook: (hooks.append(hook), add(hook))
from flowpar.caching.watching import opened, watch
watch(); watch()
block = opened(); block.__enter__()
with opened(): pass
class Late:
    def __del__(self, open=open):
        with open({str(tmp_path / "late")!r}, "w") as file:
            file.write("done")
sys.late = Late()
print(len(hooks))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert (tmp_path / "late").read_text() == "done"


def test_what_numpy_and_pandas_read(folder):
    put("a.csv", "x,y\n1,2\n")
    np.save("a.npy", np.zeros(3))
    pd.DataFrame({"x": [1]}).to_pickle("a.pkl")
    for read, name in (
        (pd.read_csv, "a.csv"),
        (pd.read_pickle, "a.pkl"),
        (np.load, "a.npy"),
        (lambda path: np.load(path, mmap_mode="r"), "a.npy"),
        (np.fromfile, "a.npy"),
        (lambda path: np.loadtxt(path, skiprows=1, delimiter=","), "a.csv"),
    ):
        with opened() as paths:
            read(name)
        assert paths == [f"{folder}/{name}"], read


def test_what_c_opens_by_itself_is_not_seen(folder):
    """So the docstring says."""
    with opened() as paths:
        base = sqlite3.connect("a.sqlite")
        base.execute("create table t (x)")
        base.close()
    assert os.path.exists("a.sqlite")
    assert paths == []


def test_empty_directories_are_no_files(folder):
    put("a/x"), os.makedirs("a/b/c")
    assert File("a").paths() == ["a/x"]
    first, matched = File("a").digest(), File("*").digest()
    os.mkdir("a/b/d")
    assert File("a").digest() != first
    assert File("*").digest() != matched
    os.mkdir("none")
    assert File("none").digest() != File("a/b").digest()
    assert File("none").digest() == File("a/b/c").digest()


def a_cache(path, text="flowpar 1\n"):
    put(f"{path}/FORMAT", text), put(f"{path}/objects/ab/cd"), put(f"{path}/index.sqlite")


@pytest.mark.parametrize("path", [".", "..", "*", "**", "**/*", "sub/**", "[!x]*"])
def test_the_directories_of_caches_are_left_out(folder, path):
    put("a/sub/x"), put("a/y")
    os.mkdir("a/hollow")
    os.chdir("a")
    first = File(path).digest()
    for place in (".flowpar", "sub/deep", "hollow/cache"):
        a_cache(place)
    a_cache("newer", "flowpar 99")
    if "sub" in path or path in {"**", "**/*"}:
        shutil.rmtree("hollow/cache")  # of which it is told that it is there
    assert not any("objects" in each or "FORMAT" in each for each in File(path).paths())
    if path in {".", "*", "[!x]*"}:
        assert File(path).digest() == first
    put("sub/deep/FORMAT", "of another program")
    assert any("objects" in each for each in File(path).paths())


def test_a_cache_that_is_named_is_a_directory_as_others(folder):
    a_cache("cache")
    assert len(File("cache").paths()) == len(File("cache/*").paths()) == 3
    put("cache/index.sqlite", "more")
    before = File("cache").digest()
    put("cache/index.sqlite", "still more")
    assert File("cache").digest() != before


def test_as_a_text_it_is_its_path():
    assert str(File("a/b")) == f"{File('a/b')}" == "a/b"
    assert repr(File("a/b")) == "File('a/b')"


# ---------------------------------------------------------------------------------- undeclared


def test_what_no_file_stands_for_is_undeclared(folder):
    paths = [put(folder / name) for name in ("a.csv", "b.csv", "d/x", "d/deep/y", "e.txt")]
    a, b, x, y, e = paths
    assert undeclared(paths, []) == paths
    assert undeclared([], [File("a.csv")]) == []
    assert undeclared(paths, ["a.csv", a, 1, None, np.zeros(3)]) == paths
    assert undeclared(paths, [File("a.csv")]) == [b, x, y, e]
    assert undeclared(paths, [File("*.csv"), File(folder / "d")]) == [e]
    assert undeclared(paths, [File("d/*")]) == [a, b, e]
    assert undeclared(paths, [File("nothing"), File("none*"), File("e.txt")]) == [a, b, x, y]
    nested = [{"k": [(File("a.csv"),)], File("b.csv"): 1}, {File("e.txt")}, {"d": File("d")}]
    assert undeclared(paths, nested) == []
    assert undeclared(paths, iter(nested)) == []
    assert undeclared(paths, {"file": File("a.csv")}.values()) == [b, x, y, e]


class Slotted:
    __slots__ = ("file", "never_set")

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        raise AssertionError(name)


def test_a_file_may_be_in_an_attribute(folder):
    a = put(folder / "a")
    record = dataclasses.make_dataclass("Record", ["x", "file"], frozen=True, slots=True)
    for value in (
        Holder(File("a")),
        Slotted(File("a")),
        record(1, File("a")),
        [Holder([File("a")])],
    ):
        assert undeclared([a], [value]) == []
    assert undeclared([a], [Holder(a), Holder, module, int, 1]) == [a]


def test_what_is_in_a_cache_needs_no_declaration(folder):
    a_cache("deep/cache")
    inside = [f"{folder}/deep/cache/{name}" for name in ("FORMAT", "index.sqlite", "objects/ab/cd")]
    other = put(folder / "deep/other")
    assert undeclared([*inside, other], []) == [other]


def test_links_do_not_hide_what_a_file_stands_for(folder):
    a = put(folder / "real/a")
    os.symlink("real", "link")
    assert undeclared([a, f"{folder}/link/a"], [File("link/a")]) == []
    assert undeclared([a, f"{folder}/link/a"], [File("real")]) == []


def test_a_container_in_itself_is_searched_to_an_end():
    inside = []
    inside.append(inside)
    assert undeclared(["/a"], [inside]) == ["/a"]
