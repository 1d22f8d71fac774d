"""Classes of ``__main__`` that the pickles of many instances name, so that none need hold them.

No worker imports the script, so its classes travel by value, which takes a hundred times as long as
an instance. `MainClasses` pickles each once; what the pickles of instances hold is a key of its
content, under which a worker keeps the class.
"""

from __future__ import annotations

import hashlib
import pickle
from typing import Any, Final

from flowpar.pickling import (
    MAIN,
    Keepers,
    dump,
    dumps,
    dumps_by,
    kept_until_loaded,
    references_pickler,
)

MOST_KEPT: Final = 4096
"""Classes that a worker keeps before it forgets all; what names one brings it along."""

Published = tuple[tuple[bytes, bytes], ...]
"""Key and pickle of classes."""

_kept: dict[bytes, object] = {}
"""By key, in a worker."""


class MainClasses:
    """The classes of ``__main__`` that some pickles name.

    Attributes
    ----------
    published
        What has to be where the pickles are loaded, see `take_in`.
    keepers
        What that names in turn.
    """

    def __init__(self) -> None:
        self.published: Published = ()
        self.keepers: Keepers = {}
        self._keys: dict[type, bytes] = {}
        self._pickler = self._make_pickler()

    def dump(self, value: object) -> bytes:
        """Return the pickle of a value, with keys in place of the classes."""
        try:
            return dumps_by(self._pickler, value, None)
        except Exception:  # noqa: BLE001 - whatever it was, the slower pickler decides
            return dump(value)

    def _make_pickler(self) -> type[pickle.Pickler]:
        publish = self._publish

        class Pickler(references_pickler()):  # type: ignore[misc]
            def reducer_override(self, value: object) -> Any:
                if isinstance(value, type):
                    if value.__module__ in MAIN:
                        return publish(value)
                elif type(value).__module__ in MAIN:
                    return NotImplemented  # its class comes by itself
                return super().reducer_override(value)

        return Pickler

    def _publish(self, kind: type) -> tuple[object, ...]:
        key = self._keys.get(kind)
        if key is None:
            with kept_until_loaded() as keepers:
                data = dumps(kind)
            key = hashlib.blake2b(data, digest_size=16).digest()
            self._keys[kind] = key
            self.keepers = {**self.keepers, **keepers}
            self.published = (*self.published, (key, data))
        return class_of, (key,)


def take_in(published: Published) -> None:
    """Keep classes for what names them."""
    for key, data in published:
        if key not in _kept:
            if len(_kept) >= MOST_KEPT:
                _kept.clear()
            _kept[key] = pickle.loads(data)  # noqa: S301 - made by the parent


def class_of(key: bytes) -> object:
    """Return the class with this key."""
    return _kept[key]
