"""`share`: values whose large buffers lie in shared memory, once for all processes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import pickle
import sys
from typing import Any, ClassVar, Final, TypeVar

from flowpar.caching.objects import laid_out, load_in_place
from flowpar.common.mapping import Source, make, region_at
from flowpar.pickling import dump_apart, references

T = TypeVar("T")

_PY_BUF_SIMPLE: Final = 0


def share(value: T, *, writable: bool = False) -> T:
    r"""Put a value into shared memory, once for all tasks that get it.

    What comes back is used like the value. Wherever it then goes as an argument of a task, in a
    container or in a closure, its name travels in place of its bytes, and each process maps it.
    The memory is free again when nobody here holds what came back, or a part of it.

    Parameters
    ----------
    value
        An array, `bytes`, a DataFrame, or anything that pickles with large buffers. What has none
        is returned as it is.
    writable
        Whether all see what one writes, as with `multiprocessing.shared_memory`: of arrays and
        bytes only. Otherwise, what comes back cannot be written to here, and each task that
        gets it has a copy of its own, made where and when it is written to.

    Returns
    -------
    object
        An equal value, its large buffers in shared memory; of bytes, a `memoryview`.

    Raises
    ------
    TypeError
        If it is to be writable, and is neither an array nor bytes.
    OSError
        If there is no room for it.

    Examples
    --------
    >>> import flowpar
    >>> @flowpar.delayed
    ... def count(text, letter):
    ...     return bytes(text).count(letter)
    >>> text = flowpar.share(b"banana" * 100_000)
    >>> flowpar.compute([count(text, b"a"), count(text, b"b")], scheduler="processes")
    [300000, 100000]

    What all may write to:

    >>> board = flowpar.share(bytearray(4), writable=True)
    >>> @flowpar.delayed
    ... def mark(board, place):
    ...     board[place] = 7
    >>> _ = flowpar.compute([mark(board, 0), mark(board, 3)], scheduler="processes")
    >>> bytes(board)
    b'\x07\x00\x00\x07'
    """
    _learn()
    data, buffers = dump_apart(_to_put(value, writable=writable))
    if not buffers or not any(buffer.raw().nbytes for buffer in buffers):
        return value
    size, pieces = laid_out(data, buffers)
    view = memoryview(make(pieces, size, is_writable=writable)).cast("B")
    found: T = load_in_place(view if writable else view.toreadonly())
    return found


class _Bytes:
    """Bytes, which by themselves would be in the pickle, and not beside it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __reduce__(self) -> tuple[object, ...]:
        return memoryview, (pickle.PickleBuffer(self._view),)


def _to_put(value: Any, *, writable: bool) -> object:
    """Return what pickles with the buffers of a value beside it."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        view = memoryview(value)
        return _Bytes(view if view.c_contiguous else memoryview(view.tobytes()))
    if _is_array(value):
        flags = value.flags
        # What has gaps would be in the pickle; so would be objects, which cannot be shared.
        return value if flags.c_contiguous or flags.f_contiguous else value.copy(order="C")
    if writable:
        raise TypeError(
            f"only arrays of plain items, and bytes, can be shared writable, not "
            f"{type(value).__name__}: share the arrays in it, one by one"
        )
    return value


def _is_array(value: Any) -> bool:
    kind: Any = _class("numpy", "ndarray")
    return kind is not None and type(value) is kind and not value.dtype.hasobject


def _class(module: str, name: str) -> type | None:
    """Return a class of a module if that was imported."""
    return getattr(sys.modules.get(module), name, None)


# How they travel ----------------------------------------------------------------------------------


def _learn() -> None:
    """Have picklers ask us of what may lie in shared memory, as far as it was imported."""
    known = {
        memoryview: _refer_to_view,
        _class("numpy", "ndarray"): _refer_to_array,
        _class("pyarrow", "Buffer"): _refer_to_arrow,
    }
    references.update({kind: refer for kind, refer in known.items() if kind is not None})


def _refer_to_view(view: memoryview) -> tuple[object, ...] | None:
    if not view.c_contiguous or view.format != "B" or view.ndim != 1 or not view.nbytes:
        return None
    found = _place(_address_of(view), view.nbytes)
    return found and (view_at, (*found, view.nbytes))


def _refer_to_array(array: Any) -> tuple[object, ...] | None:
    if array.dtype.hasobject or not array.size:
        return None
    start = array.__array_interface__["data"][0]
    spans = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    low = start + sum(span for span in spans if span < 0)  # what goes backwards begins at its end
    high = start + sum(span for span in spans if span > 0) + array.itemsize
    found = _place(low, high - low)
    if found is None:
        return None
    source, offset = found
    return array_at, (source, offset + start - low, (array.shape, array.strides, array.dtype))


def _refer_to_arrow(buffer: Any) -> tuple[object, ...] | None:
    found = _place(buffer.address, buffer.size) if buffer.is_cpu and buffer.size else None
    return found and (arrow_at, (*found, buffer.size))


def _place(address: int, size: int) -> tuple[Source, int] | None:
    """Return the file where bytes of this process lie, and where in it."""
    region = region_at(address, size)
    if region is None:
        return None
    source = region.reference()
    return None if source is None else (source, address - region.start)


class _Buffer(ctypes.Structure):
    """`Py_buffer`, the part of it that is read, and room for the rest."""

    _fields_: ClassVar[Any] = [("buf", ctypes.c_void_p), ("rest", ctypes.c_void_p * 15)]


def _address_of(view: memoryview) -> int:
    api, buffer = ctypes.pythonapi, _Buffer()
    if api.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), _PY_BUF_SIMPLE):
        return 0  # never: an error is raised
    api.PyBuffer_Release(ctypes.byref(buffer))
    return int(buffer.buf or 0)


def view_at(source: Source, offset: int, size: int) -> memoryview:
    """Return bytes of a file."""
    _learn_if(source)
    return memoryview(source.map()).cast("B")[offset : offset + size]


def array_at(source: Source, offset: int, form: tuple[Any, Any, Any]) -> Any:
    """Return an array that lies in a file."""
    shape, strides, dtype = form
    _learn_if(source)
    numpy = importlib.import_module("numpy")
    memory = memoryview(source.map()).cast("B")
    return numpy.ndarray(shape, dtype, buffer=memory, offset=offset, strides=strides)


def arrow_at(source: Source, offset: int, size: int) -> Any:
    """Return a buffer of Arrow's that lies in a file."""
    return importlib.import_module("pyarrow").py_buffer(view_at(source, offset, size))


def _learn_if(source: Source) -> None:
    """Learn how what all may write to travels on; copies of one's own travel as all values do."""
    if source.is_writable:
        with contextlib.suppress(AttributeError):  # numpy is being imported by another thread
            _learn()
