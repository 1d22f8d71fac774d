"""`share`: values whose large buffers lie in shared memory, once for all processes."""

from __future__ import annotations

import contextlib
import copyreg
import ctypes
import importlib
import pickle
import sys
import threading
from typing import Any, ClassVar, Final, TypeVar

from flowpar.caching.objects import laid_out, load_in_place
from flowpar.common.mapping import Source, make, region_at
from flowpar.pickling import dump_apart, references

T = TypeVar("T")

Form = tuple[Any, ...]
"""What a view or an array is beside its bytes."""

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
        is returned as it is; so are masked arrays, and those of classes of your own.
    writable
        Whether all see what one writes, as with `multiprocessing.shared_memory`: of arrays and
        bytes only. Otherwise, what comes back cannot be written to here, and each task that
        gets it has a copy of its own, made where and when it is written to.

    Returns
    -------
    object
        An equal value, its large buffers in shared memory, as they are now; of bytes, a
        `memoryview`, and of a `numpy.memmap`, an array.

    Raises
    ------
    TypeError
        If it is to be writable, and is neither an array nor bytes; or is a `memoryview` of items
        that Python has no letter for.
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
    before = _making.is_on, _making.is_writable
    _making.is_on, _making.is_writable = True, writable
    try:
        data, buffers = dump_apart(_to_put(value, writable=writable))
    finally:
        _making.is_on, _making.is_writable = before
    if not buffers or not any(buffer.raw().nbytes for buffer in buffers):
        return value
    size, pieces = laid_out(data, buffers)
    view = memoryview(make(pieces, size, is_writable=writable)).cast("B")
    found: T = load_in_place(view if writable else view.toreadonly())
    return found


class _Making(threading.local):
    """Whether this thread puts a value into shared memory: then nothing travels as a name."""

    is_on = False
    is_writable = False


_making = _Making()


def _to_put(value: Any, *, writable: bool) -> Any:
    """Return what pickles with the buffers of a value beside it."""
    if isinstance(value, (bytes, bytearray)):
        return memoryview(value)
    kind: Any = type(value)
    if kind is _class("numpy", "memmap"):  # what it is mapped from is not what is shared
        value = value.view(_class("numpy", "ndarray"))
    if writable and not _is_plain(value):
        raise TypeError(
            f"only arrays of plain items, and bytes, can be shared writable, not "
            f"{type(value).__name__}: share the arrays in it, one by one"
        )
    return value


def _is_plain(value: Any) -> bool:
    if type(value) is memoryview:
        return True
    return type(value) in _array_classes() and not value.dtype.hasobject


def _array_classes() -> list[type]:
    """Return the classes of arrays that are nothing but a view of their bytes."""
    found = (_class("numpy", name) for name in ("ndarray", "recarray", "matrix"))
    return [each for each in found if each is not None]


def _class(module: str, name: str) -> type | None:
    """Return a class of a module if that was imported."""
    return getattr(sys.modules.get(module), name, None)


# How they travel ----------------------------------------------------------------------------------


def _learn() -> None:
    """Have picklers ask us of what may lie in shared memory, as far as it was imported."""
    references[memoryview] = _refer_to_view
    references.update(dict.fromkeys(_array_classes(), _refer_to_array))
    arrow = _class("pyarrow", "Buffer")
    if arrow is not None:
        references[arrow] = _refer_to_arrow
    copyreg.pickle(memoryview, _reduce_view)  # type: ignore[arg-type]  # it may raise an error


def _refer_to_view(view: memoryview) -> tuple[object, ...] | None:
    if _making.is_on:
        return _view_apart(view)
    flat = _flat(view)
    found = None if flat is None else _place(_address_of(flat), flat.nbytes)
    return found and (view_at, (*found, view.nbytes, (view.readonly, *_form_of(view))))


def _refer_to_array(array: Any) -> tuple[object, ...] | None:
    if array.dtype.hasobject or not array.nbytes:
        return None
    if _making.is_on:
        return _array_apart(array)
    start = array.__array_interface__["data"][0]
    spans = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    low = start + sum(span for span in spans if span < 0)  # what goes backwards begins at its end
    high = start + sum(span for span in spans if span > 0) + array.itemsize
    found = _place(low, high - low)
    if found is None:
        return None
    source, offset = found
    # Who cannot write to what all may write to cannot elsewhere either; copies are one's own.
    is_readonly = source.is_writable and not array.flags.writeable
    form = is_readonly, array.shape, array.strides, array.dtype, type(array)
    return array_at, (source, offset + start - low, form)


def _refer_to_arrow(buffer: Any) -> tuple[object, ...] | None:
    if _making.is_on or not buffer.is_cpu or not buffer.size:
        return None
    found = _place(buffer.address, buffer.size)
    return found and (arrow_at, (*found, buffer.size, (not buffer.is_mutable, "B", (buffer.size,))))


def _reduce_view(view: memoryview) -> tuple[object, ...]:
    """Return the copy that `pickle` and `copy` make, by themselves, of what lies in a file."""
    flat = _flat(view)
    if flat is None or region_at(_address_of(flat), flat.nbytes) is None:
        raise TypeError("cannot pickle memoryview objects")  # as it is without us
    if not view.readonly:
        raise TypeError(
            "a copy would not be shared any more: pass a writable memoryview to a task or pool "
            "of flowpar, or copy it with bytes()"
        )
    return view_of, (view.tobytes(), _form_of(view))


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


def _flat(view: memoryview) -> memoryview | None:
    """Return the bytes of a view; None: they lie apart, or there are none, or it cannot be told."""
    if not view.c_contiguous or not view.nbytes:
        return None
    try:
        return view.cast("B")
    except TypeError:  # it is of items that Python has no letter for
        return None


def _form_of(view: memoryview) -> Form:
    """Return what `memoryview.cast` takes to make one like it of its bytes."""
    return view.format, view.shape


# How they are put into a file ---------------------------------------------------------------------


def _view_apart(view: memoryview) -> tuple[object, ...]:
    if not view.nbytes:
        return view_of, (view.tobytes(), ("B", (0,)))
    try:
        view_of(bytes(view.nbytes), _form_of(view))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a memoryview of format {view.format!r} cannot be shared: share what it is a view of"
        ) from error
    flat = view if view.c_contiguous else memoryview(view.tobytes())
    return view_of, (_buffer_of(flat.cast("B")), _form_of(view))


def _array_apart(array: Any) -> tuple[object, ...]:
    """Return what an array is made of; by itself, one of times has its bytes in the pickle."""
    if not array.flags.c_contiguous and not array.flags.f_contiguous:
        array = array.copy(order="C")
    order = "C" if array.flags.c_contiguous else "F"
    plain = array.view(_class("numpy", "ndarray"))
    raw = plain.reshape(-1, order=order).view("u1")
    form = array.shape, order, array.dtype, type(array)
    return array_of, (_buffer_of(memoryview(raw)), form)


def _buffer_of(view: memoryview) -> pickle.PickleBuffer:
    """Return bytes that go beside the pickle, and come back writable if they are to."""
    if not _making.is_writable or not view.readonly:
        return pickle.PickleBuffer(view)
    # What cannot be written to would come back so; this is the same memory, and only read.
    same: Any = (ctypes.c_char * view.nbytes).from_address(_address_of(view))
    same.kept = view
    return pickle.PickleBuffer(same)


def view_of(memory: Any, form: Form) -> memoryview:
    """Return a view of memory, as one that was of that form."""
    view: Any = memoryview(memory).cast("B")
    letter, shape = form
    found: memoryview = view if letter == "B" and shape == view.shape else view.cast(letter, shape)
    return found


def array_of(memory: Any, form: Form) -> Any:
    """Return an array of what lies in memory."""
    shape, order, dtype, kind = form
    numpy = importlib.import_module("numpy")
    found = numpy.ndarray(shape, dtype, buffer=_base(memory), order=order)
    return found if kind is numpy.ndarray else found.view(kind)


def _base(memory: Any) -> Any:
    """Return memory as what an array is made over.

    An array over a view that is not to be written to finds what that is a view of, and may be told
    to be writable; one over another array may not.
    """
    if not memoryview(memory).nbytes:
        return memory
    return importlib.import_module("numpy").frombuffer(memory, "u1")


# How they arrive ----------------------------------------------------------------------------------


def view_at(source: Source, offset: int, size: int, form: Form) -> memoryview:
    """Return a view of bytes in a file."""
    is_readonly, letter, shape = form
    _learn_if(source)
    view = memoryview(source.map()).cast("B")[offset : offset + size]
    return view_of(
        view.toreadonly() if is_readonly and source.is_writable else view, (letter, shape)
    )


def array_at(source: Source, offset: int, form: Form) -> Any:
    """Return an array that lies in a file."""
    is_readonly, shape, strides, dtype, kind = form
    _learn_if(source)
    numpy = importlib.import_module("numpy")
    memory = memoryview(source.map()).cast("B")
    base = _base(memory.toreadonly() if is_readonly else memory)
    found = numpy.ndarray(shape, dtype, buffer=base, offset=offset, strides=strides)
    return found if kind is numpy.ndarray else found.view(kind)


def arrow_at(source: Source, offset: int, size: int, form: Form) -> Any:
    """Return a buffer of Arrow's that lies in a file."""
    return importlib.import_module("pyarrow").py_buffer(view_at(source, offset, size, form))


def _learn_if(source: Source) -> None:
    """Learn how what all may write to travels on; copies of one's own travel as all values do."""
    if source.is_writable:
        with contextlib.suppress(AttributeError):  # numpy is being imported by another thread
            _learn()
