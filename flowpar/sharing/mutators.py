"""Names of functions and methods, by what they do to the values that they get."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALIASING",
    "CHANGES_FIRST",
    "ELEMENTS",
    "MUTATORS",
    "PASSING",
    "PLAIN_ATTRIBUTES",
    "PLAIN_TYPES",
    "RETURN_NOTHING",
]

RETURN_NOTHING: Final = frozenset(
    {
        *("append", "appendleft", "extend", "extendleft", "insert", "remove", "clear", "sort"),
        *("reverse", "rotate", "update", "add", "discard", "subtract", "fill", "put"),
        *("partition", "resize", "byteswap", "itemset", "setflags", "setfield"),
        *("intersection_update", "difference_update", "symmetric_difference_update"),
    }
)
"""Methods that change the object that has them, unless something is made of what they return."""

MUTATORS: Final = RETURN_NOTHING | frozenset(
    {
        *("pop", "popleft", "popitem", "setdefault", "move_to_end"),
        *("seed", "set_state", "setstate", "__next__"),
        *("__setitem__", "__delitem__", "__setattr__", "__delattr__", "__iadd__", "__isub__"),
        *("__imul__", "__itruediv__", "__iand__", "__ior__", "__ixor__", "__setstate__"),
        *("truncate", "write", "writelines"),
        *("fit", "partial_fit", "fit_transform", "fit_predict", "set_params", "train"),
        *("load_state_dict", "zero_grad", "backward", "step"),
    }
)
"""Methods that change the object that has them."""

CHANGES_FIRST: Final = frozenset(
    {
        *("copyto", "put", "putmask", "place", "put_along_axis", "fill_diagonal", "shuffle"),
        *("heappush", "heappop", "heapify", "heapreplace", "heappushpop", "heapify_max"),
        *("insort", "insort_left", "insort_right", "setattr", "delattr", "next", "anext"),
        *("setitem", "delitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"),
        *("iand", "ior", "ixor", "iconcat", "imatmul", "ilshift", "irshift"),
    }
)
"""Functions that change what they get first."""

ALIASING: Final = frozenset(
    {
        *("asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "atleast_1d"),
        *("atleast_2d", "atleast_3d", "reshape", "ravel", "view", "squeeze", "transpose"),
        *("swapaxes", "moveaxis", "expand_dims", "broadcast_to", "memoryview", "as_strided"),
        *("sliding_window_view", "vars", "to_numpy", "diagonal", "super"),
    }
)
"""Functions that may give what they got, or a view of it."""

ELEMENTS: Final = frozenset(
    {
        *("get", "setdefault", "pop", "popleft", "popitem", "getattr", "next", "getitem"),
        *("max", "min", "choice", "heappop", "attrgetter"),
    }
)
"""Functions that give something of what they got."""

PASSING: Final = frozenset(
    {
        *("list", "tuple", "dict", "set", "frozenset", "sorted", "reversed", "zip", "enumerate"),
        *("iter", "filter", "items", "values", "deque", "defaultdict", "OrderedDict", "ChainMap"),
        *("chain", "from_iterable", "islice", "cycle", "tee", "zip_longest", "product", "batched"),
        *("permutations", "combinations", "itertuples", "tqdm", "takewhile", "dropwhile"),
        *("array_split", "nditer", "partial"),
    }
)
"""Functions that give something new, with what they got in it."""

PLAIN_ATTRIBUTES: Final = frozenset(
    {
        *("shape", "size", "ndim", "nbytes", "itemsize", "dtype", "strides", "start", "stop"),
        *("name", "stem", "suffix", "parent", "parts", "year", "month", "day", "hour", "__name__"),
        *("__class__", "__doc__", "__module__", "__qualname__"),
    }
)
"""Attributes whose values cannot be changed."""

PLAIN_TYPES: Final = frozenset({"int", "str", "bool", "bytes"})
"""Annotations of parameters that cannot be changed."""
