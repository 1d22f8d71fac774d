"""Classes of ``__main__`` that the pickles of many instances name, so that none need hold them.

No worker imports the script, so its classes travel by value, which takes a hundred times as long as
an instance. `MainClasses` pickles each once, and again when it has changed; what the pickles of
instances hold is a key. A message has each class once, and a worker loads it anew from each
message: what another has made of the class does not count.
"""

from __future__ import annotations

import enum
import functools
import itertools
import pickle
import types
from typing import Any, Final, NamedTuple

from flowpar.pickling import (
    MAIN,
    Keepers,
    dump,
    dumps,
    dumps_by,
    kept_until_loaded,
    references_pickler,
)

_FIXED: Final = frozenset(
    {
        *(bool, int, float, complex, str, bytes, type(None), type(...)),
        *(types.FunctionType, types.BuiltinFunctionType, types.WrapperDescriptorType),
        *(types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodDescriptorType),
        *(types.ClassMethodDescriptorType, types.MappingProxyType, types.DynamicClassAttribute),
        *(staticmethod, classmethod, property, functools.cached_property),
    }
)
"""Types whose objects stay what they were, for all that matters here."""

_PYTHONS: Final = frozenset(
    {
        "__annotations__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__orig_bases__",
        "__parameters__",
        "__slotnames__",
        "_abc_impl",
        "_field_defaults",
        "_member_map_",
        "_member_names_",
        "_member_type_",
        "_value2member_map_",
        "_hashable_values_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_boundary_",
        "__new_member__",
        "_value_repr_",
    }
)
"""Attributes that Python makes of what the others say."""

MOST_LOADED: Final = 1000
"""Classes that a worker remembers before it forgets all; they are loaded again when needed."""

_keys = itertools.count(1)


class Published(NamedTuple):
    """A class as its pickle; one object in a message, which tells it from those of others."""

    key: int
    data: bytes


class _Known(NamedTuple):
    """A class that was pickled before."""

    kind: type
    attributes: list[dict[str, object]]
    """Of it and its bases of ``__main__``, as they were."""
    published: Published


class MainClasses:
    """The classes of ``__main__`` that some pickles name.

    Attributes
    ----------
    keepers
        What their pickles name in turn.
    """

    def __init__(self) -> None:
        self.keepers: Keepers = {}
        self._known: dict[int, _Known] = {}  # by id: a metaclass may take two for equal
        self._used: dict[int, Published] = {}
        self._sets: dict[tuple[int, ...], tuple[Published, ...]] = {}
        self._pickler = self._make_pickler()

    def dump(self, value: object) -> tuple[bytes, tuple[Published, ...]]:
        """Return the pickle of a value, with keys in place of classes, and those.

        The same classes come as the same tuple.
        """
        self._used = {}
        try:
            data = dumps_by(self._pickler, value, None)
        except Exception:  # noqa: BLE001 - whatever it was, the slower pickler decides
            return dump(value), ()
        if not self._used:
            return data, ()
        keys = tuple(self._used)
        found = self._sets.get(keys)
        if found is None:
            if len(self._sets) >= MOST_LOADED:
                self._sets.clear()
            found = self._sets[keys] = tuple(self._used.values())
        return data, found

    def _make_pickler(self) -> type[pickle.Pickler]:
        publish = self._publish

        class Pickler(references_pickler()):  # type: ignore[misc]
            def reducer_override(self, value: object) -> Any:
                if isinstance(value, type):
                    if value.__module__ in MAIN:
                        return class_of, (publish(value),)
                elif type(value).__module__ in MAIN:
                    return NotImplemented  # its class comes by itself
                return super().reducer_override(value)

        return Pickler

    def _publish(self, kind: type) -> int:
        """Return the key of a class as it is now."""
        known = self._known.get(id(kind))
        if known is None or not _is_as_it_was(known):
            attributes = [dict(vars(each)) for each in _own_classes(kind)]
            with kept_until_loaded() as keepers:
                published = Published(next(_keys), dumps(kind))
            self.keepers = {**self.keepers, **keepers}
            known = self._known[id(kind)] = _Known(kind, attributes, published)
        self._used[known.published.key] = known.published
        return known.published.key


def _own_classes(kind: type) -> list[type]:
    return [each for each in type.mro(kind) if each.__module__ in MAIN]


def _is_as_it_was(known: _Known) -> bool:
    """Return whether a class has the attributes that it had, and none that may have changed."""
    for kind, before in zip(_own_classes(known.kind), known.attributes, strict=False):
        now = vars(kind)
        if len(now) != len(before):
            return False
        for name, value in before.items():
            if now.get(name) is not value:
                return False
            if type(value) not in _FIXED and name not in _PYTHONS and not _is_fixed(value, kind):
                return False
    return True


def _is_fixed(value: object, owner: type) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(type(each) in _FIXED or _is_fixed(each, owner) for each in value)
    if isinstance(value, type):
        return value.__module__ not in MAIN
    if isinstance(value, enum.Enum):
        return type(value) is owner
    return type(value).__module__ in {"enum", "collections", "_collections", "typing"}


_loaded: dict[int, tuple[Published, object]] = {}
"""In a worker: by key, what of the messages so far was loaded last, and the class."""
_states: dict[int, Published] = {}
"""By id of a class, from what it was loaded last."""


def take_in(published: tuple[Published, ...]) -> None:
    """Have the classes of a message be what they were for the pickle that is loaded next."""
    if len(_loaded) > MOST_LOADED:
        _loaded.clear()
        _states.clear()
    for each in published:
        found = _loaded.get(each.key)
        if found is None or found[0] is not each or _states.get(id(found[1])) is not each:
            kind = pickle.loads(each.data)  # noqa: S301 - made by the parent
            _loaded[each.key] = each, kind
            _states[id(kind)] = each


def class_of(key: int) -> object:
    """Return the class with this key."""
    return _loaded[key][1]
