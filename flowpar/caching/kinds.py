"""What kind of thing something is: whether it counts by its code, whose it is, its name."""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
import sys
import types
from pathlib import Path
from typing import Any, Final, TypeVar

from flowpar.caching.origins import Origin, name_to_import, origin_of_file, origin_of_module

__all__ = [
    "DESCRIPTORS",
    "LRU_CACHE",
    "file_of",
    "is_code",
    "is_untracked",
    "is_users",
    "label",
    "module_name",
    "name_of",
    "origin_of",
    "short_text",
    "untracked",
    "unwrapped",
]

F = TypeVar("F")

_LONGEST_TEXT: Final = 80
_MARK: Final = "__flowpar_untracked__"


def untracked(function: F) -> F:
    """Leave a function or class out of the code of those that use it.

    For what cannot change a result, such as reports of progress: editing it, or what it uses,
    never makes a cached result stale.

    Parameters
    ----------
    function
        A function or class.

    Examples
    --------
    >>> @untracked
    ... def report(message):
    ...     print(message)
    """
    function.__flowpar_untracked__ = True  # type: ignore[attr-defined]
    return function


LRU_CACHE: Final = type(functools.lru_cache(maxsize=1)(len))
DESCRIPTORS: Final = (
    staticmethod,
    classmethod,
    property,
    functools.cached_property,
    functools.partialmethod,
    functools.singledispatchmethod,
    LRU_CACHE,
)
_CODE: Final = (
    *DESCRIPTORS,
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ModuleType,
)


def is_code(thing: object) -> bool:
    """Return whether a thing counts by its code, and not as a value."""
    if isinstance(thing, _CODE) or is_untracked(thing):
        return True
    # A function that was compiled, by Cython or as a ufunc of numpy.
    return type(thing).__name__ in {"cython_function_or_method", "fused_cython_function"}


def is_untracked(thing: object) -> bool:
    """Return whether a thing was marked by `untracked`."""
    # In its own dictionary: a subclass or an instance is not what was marked.
    try:
        named = vars(thing)
    except TypeError:
        return False
    # A wrapper has the mark of what it wraps, but does things of its own.
    return _MARK in named and _MARK not in getattr(named.get("__wrapped__"), "__dict__", ())


def unwrapped(thing: Any) -> object:
    """Return what a task of flowpar's was made of."""
    for _ in range(100):
        kind = type(thing)
        # Of what Cython has made, that is a descriptor.
        if str(kind.__module__).partition(".")[0] != "flowpar" or not callable(thing):
            break
        inner = inspect.getattr_static(thing, "__wrapped__", None)
        if inner is None:
            break
        thing = thing.__wrapped__
    return thing


def origin_of(thing: object) -> Origin:
    """Return whose a thing is."""
    if isinstance(thing, types.FunctionType):
        return origin_of_file(thing.__code__.co_filename)
    if isinstance(thing, types.ModuleType):
        return origin_of_module(thing.__name__, thing)
    return origin_of_module(module_name(thing))


def is_users(thing: object) -> bool:
    """Return whether a thing is the user's."""
    return origin_of(thing) is Origin.USER


def module_name(thing: Any) -> str:
    """Return the name of the module that a thing, or its class, says to be of."""
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    for owner in (thing, getattr(thing, "__objclass__", None), type(thing)):
        module = getattr(owner, "__module__", None)
        if isinstance(module, str):
            return module
    return "builtins"


def label(thing: Any) -> bytes:
    """Return what a thing is called by all, with its module."""
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    module = name_to_import(module_name(thing))
    if not is_users(thing):
        # Python moves things into private modules, as from pathlib into pathlib._local.
        first, *rest = module.split(".")
        module = ".".join((first, *(part for part in rest if not part.startswith("_"))))
    return f"{module}:{name or type(thing).__qualname__}".encode()


def name_of(thing: object) -> str:
    """Return what people call a thing."""
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return name if isinstance(name, str) else type(thing).__qualname__


def file_of(thing: Any) -> str:
    """Return the name of the file that a thing's module is read from."""
    module = thing if isinstance(thing, types.ModuleType) else sys.modules.get(thing.__module__)
    return Path(getattr(module, "__file__", None) or "").name


# Texts ------------------------------------------------------------------------------------------

_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = _LONGEST_TEXT


def short_text(value: object) -> str:
    """Return a value in a few words, whatever it is."""
    if type(value).__module__ != "builtins":
        return f"<{type(value).__qualname__}>"
    try:
        text = _repr.repr(value)
    except Exception:  # noqa: BLE001 - it is only for people to read
        return f"<{type(value).__qualname__}>"
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."
