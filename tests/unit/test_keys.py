"""Keys: calls that a function can tell apart have different ones, all others have one."""

import functools
import itertools
from pathlib import Path

import pytest

import flowpar
from flowpar import OptionError, delayed
from flowpar.caching.keeping import digester
from flowpar.caching.keys import KeyMaker
from flowpar.caching.reasons import difference
from flowpar.caching.store import Trace


def parts_of(call, /, *args, **kwargs):
    maker = KeyMaker(call)
    return maker.parts(digests_of(args, kwargs), tuple(kwargs))


def digests_of(args, kwargs):
    return [digester().values.digest(each) for each in (*args, *kwargs.values())]


def key(call, /, *args, **kwargs):
    return KeyMaker(call).key(parts_of(call, *args, **kwargs))


def names(call, /, *args, **kwargs):
    return [name for name, _ in parts_of(call, *args, **kwargs)]


def plain(a, b=2, c=3):
    return a, b, c


def posonly(a=1, /, **kw):
    return a, kw


def star(*args, **kw):
    return args, kw


def mixed(a, /, b, *rest, c=1, **kw):
    return a, b, rest, c, kw


def keyword_only(a, *, b=2):
    return a, b


def call(*args, **kwargs):
    return args, kwargs


CALLS = [
    call(),
    call(1),
    call(2),
    call(1, 2),
    call(2, 1),
    call(1, 2, 3),
    call(a=1),
    call(a=2),
    call(a=5),
    call(5),
    call(1, a=5),
    call(1, a=1),
    call(1, b=2),
    call(1, b=2, c=1),
    call(1, b=2, x=1, y=2),
    call(1, b=2, y=2, x=1),
    call(x=1, y=2),
    call(y=2, x=1),
    call(1, 2, 3, c=4, **{"rest[0]": 3}),
    call(1, 2, c=4, **{"rest[0]": 3}),
    call(**{"args[0]": 1}),
    call(**{"[0]": 1}),
    call(**{"**'a'": 5}),
    call(**{" seed": 5}),
    call(1, **{"**'a'": 5}),
    call(kw=1),
    call(args=1),
    call(rest=1, b=2),
]


def seen(function, args, kwargs):
    """Return all that a function sees of a call, or None if it cannot be called so."""
    try:
        return repr(function(*args, **kwargs))  # with the order of what it collects
    except TypeError:
        return None


@pytest.mark.parametrize("function", [plain, posonly, star, mixed, keyword_only])
def test_calls_have_one_key_exactly_if_the_function_sees_the_same(function):
    legal = [(args, kwargs) for args, kwargs in CALLS if seen(function, args, kwargs) is not None]
    assert len(legal) > 2
    for (args, kwargs), (more, others) in itertools.combinations(legal, 2):
        is_same = seen(function, args, kwargs) == seen(function, more, others)
        is_one = key(function, *args, **kwargs) == key(function, *more, **others)
        assert is_one == is_same, (args, kwargs, more, others)


@pytest.mark.parametrize("function", [plain, posonly, star, mixed, keyword_only])
def test_a_call_that_cannot_be_made_is_like_none_that_can(function):
    legal = [each for each in CALLS if seen(function, *each) is not None]
    wrong = [each for each in CALLS if seen(function, *each) is None]
    keys = {key(function, *args, **kwargs) for args, kwargs in legal}
    assert not any(key(function, *args, **kwargs) in keys for args, kwargs in wrong)


def test_no_part_is_named_as_another():
    for function in (plain, posonly, star, mixed):
        for args, kwargs in CALLS:
            found = names(function, *args, **kwargs)
            assert len(set(found)) == len(found)


def test_the_parts_are_named_as_people_would():
    assert names(mixed, 1, 2, 3, x=4) == ["a", "b", "c", "rest[0]", "x"]
    assert names(posonly, a=5) == ["a", "**'a'"]
    assert names(star, **{"args[0]": 1}) == ["**'args[0]'"]
    assert names(dict, [], b=1, a=2) == ["[0]", "b", "a"]  # it has no signature


def test_the_order_of_named_parameters_does_not_count():
    assert key(plain, 1, c=3, b=2) == key(plain, b=2, a=1) == key(plain, 1, 2, 3)
    assert key(mixed, 1, c=3, b=2, x=1) == key(mixed, 1, x=1, b=2, c=3)
    assert key(keyword_only, 1, b=2) == key(keyword_only, 1)


def test_the_order_counts_where_nothing_says_what_a_function_sees():
    assert key(dict, a=1, b=2) != key(dict, b=2, a=1)


def test_partial_calls():
    first = functools.partial(plain, 1)
    assert key(first, 2) == key(first, b=2) == key(first, b=2, c=3) != key(first, 3)


def test_what_is_ignored_is_no_part():
    maker = KeyMaker(mixed, ignore=["rest", "x"])
    found = digests_of((1, 2, 3), {"x": 4, "y": 5})
    assert [name for name, _ in maker.parts(found, ("x", "y"))] == ["a", "b", "c", "y"]
    assert maker.ignored(5, ("x", "y")) == {2, 3}
    everything = KeyMaker(mixed, ignore=["kw", "a", "c"])
    assert everything.ignored(5, ("x", "y")) == {0, 3, 4}
    assert [name for name, _ in everything.parts(found, ("x", "y"))] == ["b", "rest[0]"]
    with pytest.raises(OptionError, match="'d', which is no parameter of plain: there are a, b, c"):
        KeyMaker(plain, ignore=["d"])


def test_texts_go_with_parts():
    maker = KeyMaker(plain)
    assert maker.texts(["1", "9"], ("c",)) == ["1", "2", "9"]
    assert names(plain, 1, c=9) == ["a", "b", "c"]


def test_a_change_of_order_is_told():
    code = KeyMaker(star).code
    parts = [tuple((*part, "1") for part in parts_of(star, **each)) for each in TURNED]
    trace = Trace(
        key=b"",
        value=b"",
        object=None,
        size=0,
        seconds=0.0,
        created=0.0,
        function=code.digest,
        name="star",
        place="star",
        parts=parts[0],
    )
    found = difference(parts[1], code, trace, lambda _: ())
    assert found == ["order of the keyword arguments: x, y → y, x"]


TURNED = [{"x": 1, "y": 1}, {"y": 1, "x": 1}]


SETTINGS = flowpar.File("global.txt")


def test_files_in_the_code_are_declared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("global.txt", "default.txt", "captured.txt", "dep.txt", "other.txt")
    paths = [str(tmp_path / name) for name in names]
    for path in paths:
        Path(path).write_text(path)
    captured = {"deep": [flowpar.File("captured.txt")]}

    def reads(n, file=flowpar.File("default.txt")):
        return SETTINGS, captured

    def none(n):
        return n

    reader = KeyMaker(reads, deps=[flowpar.File("dep.txt")])
    # However often the code was digested before.
    assert reader.undeclared(paths) == KeyMaker(reads).undeclared(paths)[1:] == paths[4:]
    assert reader.undeclared(paths[:2]) == reader.undeclared([]) == []
    assert KeyMaker(none).undeclared(paths) == paths


def test_what_differs_is_computed_and_what_is_equal_is_not(tmp_path):
    cached = flowpar.cached(cache=tmp_path)
    kept = cached(posonly)
    assert (kept(5), kept(a=5)) == ((5, {}), (1, {"a": 5}))
    kept = cached(star)
    assert (kept(1), kept(**{"args[0]": 1})) == (((1,), {}), ((), {"args[0]": 1}))
    kept = cached(lambda **kw: list(kw))
    assert (kept(a=1, b=2), kept(b=2, a=1)) == (["a", "b"], ["b", "a"])


def test_a_keyword_may_be_called_as_a_positional_only_parameter(tmp_path):
    made = delayed(posonly)
    options = {"cache": tmp_path, "scheduler": "sync"}
    assert made(a=5).compute(**options) == (1, {"a": 5})
    assert made(5).compute(**options) == (5, {})
    assert made(6, a=5).compute(**options) == (6, {"a": 5})
    for wrong in (lambda: delayed(mixed)(a=1, b=2), lambda: delayed(lambda a, /: a)(a=1)):
        with pytest.raises(TypeError, match="cannot be called so"):
            wrong()
