"""Shared dictionaries, lists, namespaces, values and queues, used as those of Python are."""

from __future__ import annotations

import os
import queue
import signal
import threading

import pytest
from conftest import wait_until

import flowpar
from flowpar import delayed

GENEROUS = 60
PROCESSES = {"scheduler": "processes", "workers": 2}


class Word:
    """What only compares and hashes as this script says."""

    def __init__(self, text):
        self.text = text

    def __eq__(self, other):
        return self.text.lower() == other.text.lower()

    def __lt__(self, other):
        return self.text < other.text

    def __hash__(self):
        return hash(self.text.lower())

    def __repr__(self):
        return f"Word({self.text})"


def test_a_shared_list_has_the_operators_of_lists(own):
    def use(found):
        found *= 2
        found += [3]
        more, first = [9], [0]
        return found + more, first + found, found * 2, 2 * found, list(reversed(found)), 3 in found

    found = flowpar.Manager().list([1, 2])
    plain = [1, 2, 1, 2, 3]
    assert delayed(use)(found).compute(scheduler=own) == (
        [*plain, 9],
        [0, *plain],
        plain * 2,
        plain * 2,
        plain[::-1],
        True,
    )
    found.extend(found)
    assert list(found) == plain * 2
    found[1:] = ["x", "y"]
    found.insert(0, "first")
    found.remove("x")
    assert (found[:], found.index("y"), found.index("y", 1), found.count(1)) == (
        ["first", 1, "y"],
        2,
        2,
        1,
    )
    assert (found.pop(), found.pop(0), found.pop()) == ("y", "first", 1)
    with pytest.raises(ValueError, match="7 is not in list"):
        found.index(7)
    assert repr(found) == "<List []>"


def test_a_shared_dictionary_has_the_operators_of_dictionaries(own):
    def use(found):
        found |= {"b": 2}
        return found | {"c": 3}, {"a": 0} | found, found | found, list(found), found.setdefault("b")

    found = flowpar.Manager().dict(a=1)
    assert delayed(use)(found).compute(scheduler=own) == (
        {"a": 1, "b": 2, "c": 3},
        {"a": 1, "b": 2},
        {"a": 1, "b": 2},
        ["a", "b"],
        2,
    )
    found.update(flowpar.Manager().dict(c=3), d=4)
    found.update([("e", 5)])
    assert (found.keys(), found.values()) == (["a", "b", "c", "d", "e"], [1, 2, 3, 4, 5])
    assert (found.get("z"), found.get("z", 7), found.pop("z", 8), found.popitem()) == (
        None,
        7,
        8,
        ("e", 5),
    )
    with pytest.raises(KeyError, match="z"):
        found.pop("z")
    assert repr(found) == "<Dict {'a': 1, 'b': 2, 'c': 3, 'd': 4}>"


def test_items_are_compared_by_their_own_rules(own):
    words = flowpar.Manager().list([Word("b"), Word("A")])
    table = flowpar.Manager().dict({Word("key"): Word("value")})

    def use(words, table):
        words.sort()
        words.sort(key=lambda word: word.text.lower(), reverse=True)
        return Word("B") in words, words.index(Word("a")), table[Word("KEY")] == Word("VALUE")

    assert delayed(use)(words, table).compute(scheduler=own) == (True, 1, True)
    assert [word.text for word in words] == ["b", "A"]


def test_one_item_that_is_of_no_use_any_more_spoils_no_other():
    table = flowpar.Manager().dict(a=1)
    flowpar.spawn(lambda: table.__setitem__("dead", flowpar.Queue())).result(GENEROUS)
    assert table.keys() == list(table) == ["a", "dead"]
    assert [key for key, _ in table.items()] == ["a", "dead"]
    with pytest.raises(flowpar.PoolError, match="has ended"):
        table["dead"].get()
    assert isinstance(table.pop("dead"), flowpar.Queue)
    assert table.copy() == {"a": 1}


def test_what_an_item_is_made_of_is_loaded_by_who_gets_it_only():
    loaded = flowpar.Value("i", 0)

    class Counted:
        def __reduce__(self):
            return note, (loaded,)

    def note(loaded):
        loaded.value += 1
        return "item"

    found, table = flowpar.Manager().list([Counted()]), flowpar.Manager().dict(a=Counted())
    found.append(Counted())
    table["b"] = Counted()
    assert (len(found), len(table), table.keys(), loaded.value) == (2, 2, ["a", "b"], 0)
    assert (found[1], loaded.value) == ("item", 1)


def test_a_namespace_shows_what_it_has():
    space = flowpar.Manager().Namespace(x=1, y="a")
    assert str(space) == repr(space) == "Namespace(x=1, y='a')"
    assert not hasattr(space, "z")
    for use in (lambda: space.z, lambda: delattr(space, "z")):
        with pytest.raises(AttributeError, match="'Namespace' object has no attribute 'z'"):
            use()


@pytest.mark.parametrize("value", ["text", 2**80, {"a": [1]}, None])
def test_a_value_of_a_manager_is_any(value, own):
    found = flowpar.Manager().Value("i", value)

    def change(found):
        before = found.value, found.get()
        found.set([found.value])
        return before

    assert delayed(change)(found).compute(scheduler=own) == (value, value)
    assert found.value == [value]
    found.value = "new"
    assert (found.get(), repr(found)) == ("new", "<Value 'new'>")


# ---------------------------------------------------------------------------- queues that are joined


def test_a_queue_is_joined_when_all_of_it_is_done():
    items, done = flowpar.Manager().JoinableQueue(), flowpar.Value("i", 0)

    def consume():
        while items.get() is not None:
            with done:
                done.value += 1
            items.task_done()
        items.task_done()

    future = delayed([delayed(consume)() for _ in range(2)]).submit(**PROCESSES)
    for number in range(50):
        items.put(number)
    items.join()
    assert done.value == 50
    items.put(None)
    items.put(None)
    delayed(items.join)().compute(**PROCESSES)
    future.result(GENEROUS)
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


def test_who_waits_for_room_is_waited_for_when_joined():
    items, joined = flowpar.Queue(1), threading.Event()
    items.put(1)
    putter = threading.Thread(target=items.put, args=(2,))
    putter.start()
    items.get()
    putter.join(GENEROUS)
    joiner = threading.Thread(target=lambda: (items.join(), joined.set()))
    joiner.start()
    items.task_done()
    assert not joined.is_set()
    items.get()
    items.task_done()
    assert joined.wait(GENEROUS)
    joiner.join()


def test_an_item_that_the_dead_did_not_get_is_still_to_be_done():
    items, started = flowpar.Queue(), flowpar.Event()

    @delayed
    def join_and_die():
        threading.Thread(target=items.join, daemon=True).start()
        started.set()
        os.kill(os.getpid(), signal.SIGKILL)

    items.put("item")
    with pytest.raises(flowpar.WorkerDied):
        join_and_die().compute(**PROCESSES)
    assert items.get(timeout=GENEROUS) == "item"
    items.task_done()
    items.join()
    with pytest.raises(queue.Empty):
        items.get_nowait()
    assert wait_until(items.empty)
