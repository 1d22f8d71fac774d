"""Types of `ctypes`, as they travel: what a script defines, no other process finds by its name."""

from __future__ import annotations

import ctypes
import functools
import pickle
import sys
from typing import Any, ClassVar, Final

from flowpar.pickling import MAIN, dump

_NAME, _ARRAY, _SWAPPED, _RECORD = "name", "array", "swapped", "record"

_MADE_ANEW: Final = frozenset({"__dict__", "__weakref__", "__doc__", "_fields_"})


class _Probe(ctypes.Structure):
    _fields_: ClassVar[Any] = [("field", ctypes.c_int)]


_FIELD: Final = type(vars(_Probe)["field"])
"""The descriptors that `ctypes` makes of fields."""

Form = tuple[Any, ...]
"""What a type is made of; equal for equal types, and hashable."""


def form_of(kind: Any) -> Form:
    """Return what a type is to be made of where it arrives.

    Parameters
    ----------
    kind
        A type of `ctypes`.

    Returns
    -------
    tuple
        It pickles; `type_of` makes the type of it.

    Examples
    --------
    >>> type_of(form_of(ctypes.c_int * 3)) is ctypes.c_int * 3
    True
    """
    if issubclass(kind, ctypes.Array) and kind is kind._type_ * kind._length_:
        return _ARRAY, form_of(kind._type_), kind._length_
    if _is_found(kind):
        return _NAME, kind
    for order, other in (("__ctype_be__", "__ctype_le__"), ("__ctype_le__", "__ctype_be__")):
        if getattr(kind, order, None) is kind:  # a simple type, of another order than ours
            return _SWAPPED, form_of(getattr(kind, other)), order
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        return _record(kind)
    return _NAME, kind  # as it is: whatever it is, it is pickled, or refused


def type_of(form: Form) -> Any:
    """Return the type that was made into a form; the same for equal ones."""
    what, *rest = form
    if what == _ARRAY:
        item, length = rest
        # Not by an operator, which the types of arrays do not show as a method.
        return type_of(item) * length
    if what == _SWAPPED:
        native, order = rest
        return getattr(type_of(native), order)
    if what == _RECORD:
        return _made(form)
    return rest[0]


def _is_found(kind: type) -> bool:
    """Return whether another process finds a type by its name."""
    if kind.__module__ in MAIN:
        return False
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind


def _record(kind: Any) -> Form:
    own = vars(kind)
    fields = [(name, form_of(each), *bits) for name, each, *bits in own.get("_fields_", ())]
    # What the user has defined, such as methods.
    rest = {
        name: value
        for name, value in own.items()
        if name not in _MADE_ANEW and not isinstance(value, _FIELD)
    }
    bases = tuple(map(form_of, kind.__bases__))
    # As bytes, by which two that are alike are known.
    return _RECORD, kind.__name__, kind.__qualname__, bases, tuple(fields), dump(rest)


@functools.lru_cache(maxsize=256)
def _made(form: Form) -> Any:
    _, name, qualname, bases, fields, rest = form
    kinds = tuple(map(type_of, bases))
    attributes = pickle.loads(rest)  # noqa: S301 - from a process of ours
    attributes["__qualname__"] = qualname
    attributes["_fields_"] = [(name, type_of(each), *bits) for name, each, *bits in fields]
    return type(kinds[0])(name, kinds, attributes)
