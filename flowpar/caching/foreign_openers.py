"""Takes apart what numpy, pandas, polars and pyarrow have.

It is known by the names of its classes: where such a value exists its library has been imported,
and nothing here imports it.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from blake3 import blake3

from flowpar.caching.nodes import As, Coder, Node, Opener, Ready, Refused, data
from flowpar.caching.openers import attributes, codelike, own_attributes

_BLOCK: Final = 1 << 22
"""Bytes of an array that are copied at a time, where it does not lie in order."""

# numpy --------------------------------------------------------------------------------------------


def _dtype(dtype: Any) -> tuple[object, ...]:
    plain = _plain_dtype(dtype)
    return ("metadata", plain, dict(dtype.metadata)) if dtype.metadata else plain


def _plain_dtype(dtype: Any) -> tuple[object, ...]:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return "sub", _dtype(base), shape
    if dtype.fields is None:
        # Types that others added all say "V" of themselves.
        return dtype.str, dtype.name if dtype.kind == "V" else None
    fields = []
    for name in dtype.names:
        kind, offset, *title = dtype.fields[name]
        fields.append((name, offset, _dtype(kind), tuple(title)))
    return "fields", dtype.itemsize, tuple(fields), dtype.type.__name__


def _is_dense(dtype: Any) -> bool:
    """Return whether each byte of an element is content."""
    if dtype.subdtype is not None:
        return _is_dense(dtype.subdtype[0])
    if dtype.fields is None:
        return not _is_padded(dtype) and not _is_indirect(dtype)
    kinds = [dtype.fields[name][0] for name in dtype.names]
    return sum(kind.itemsize for kind in kinds) == dtype.itemsize and all(map(_is_dense, kinds))


def _is_padded(dtype: Any) -> bool:
    """Return whether it is a long double, of which 10 of 16 bytes are used, the others left."""
    return (dtype.kind, dtype.itemsize) in {("f", 16), ("c", 32), ("f", 12), ("c", 24)}


def _is_indirect(dtype: Any) -> bool:
    return bool(dtype.hasobject) or dtype.kind == "T"


def _ndarray(_: Coder, value: Any) -> Node:
    plain = sys.modules["numpy"].asarray(value)
    children = (_dtype(plain.dtype), plain.shape, *_array_content(plain))
    if plain.dtype.fields is not None or not _is_indirect(plain.dtype):
        return Node(b"ndarray", children)
    return Node(b"ndarray", children, lambda number: _position(number - 2, plain.shape))


def _position(number: int, shape: tuple[int, ...]) -> str:
    at: list[int] = []
    for size in reversed(shape):
        number, rest = divmod(number, size)
        at.insert(0, rest)
    return f"[{', '.join(map(str, at))}]"


def _array_content(array: Any) -> list[object]:
    """Return the values of an array, or digests of its bytes."""
    dtype = array.dtype
    if _is_dense(dtype):
        hasher = blake3()
        _feed(hasher, array)
        return [Ready(b"#" + hasher.digest())]
    if dtype.fields is not None:
        return [part for name in dtype.names for part in _array_content(array[name])]
    if _is_padded(dtype):
        return [Ready(b"#" + _long_doubles(array))]
    if dtype.kind == "T":
        missing = getattr(dtype, "na_object", None)
        return [None if each is missing else each for each in array.astype("O").flat]
    return list(array.flat)


def _long_doubles(array: Any) -> bytes:
    """Return a hash of exact parts: mantissa and exponent."""
    numpy = sys.modules["numpy"]
    hasher = blake3()
    parts = (array.real, array.imag) if array.dtype.kind == "c" else (array,)
    for part in parts:
        for start in range(0, part.size, _BLOCK // 16):
            block = part.flat[start : start + _BLOCK // 16]
            scaled, exponent = numpy.frexp(block)
            high = scaled.astype("<f8")
            low = numpy.zeros_like(scaled)
            numpy.subtract(scaled, high, out=low, where=numpy.isfinite(block))
            finite = numpy.where(numpy.isfinite(block), exponent, 0)
            for each in (high, low.astype("<f8"), finite.astype("<i8")):
                _feed(hasher, each)
    return hasher.digest()


def _feed(hasher: Any, array: Any) -> None:
    """Hash an array's bytes in the order of its indices, without a copy of it all."""
    if not array.nbytes:
        return
    if array.flags.c_contiguous:
        hasher.update(memoryview(array.reshape(-1).view("u1")))
        return
    row = array.nbytes // len(array)
    if row > _BLOCK:
        for each in array:
            _feed(hasher, each)
        return
    step = max(1, _BLOCK // row)
    for start in range(0, len(array), step):
        _feed(hasher, array[start : start + step].copy("C"))


def _masked(_: Coder, value: Any) -> Node:
    numpy = sys.modules["numpy"]
    mask = numpy.ma.getmaskarray(value)
    children = (numpy.asarray(value.data), mask, numpy.asarray(value.fill_value), value.hardmask)
    return Node(b"masked", children, (".data", ".mask", ".fill_value", ""))


def _scalar(walk: Coder, value: Any) -> Node:
    array = sys.modules["numpy"].asarray(value)
    return Node(b"scalar", (*_foreign(walk, value, "numpy"), array))


def _foreign(walk: Coder, value: object, library: str) -> tuple[object, object]:
    """Return the code and the attributes of what is of a subclass of a library's class."""
    kind = type(value)
    if kind.__module__ == library:
        return None, None
    base = next(base for base in kind.__mro__ if base.__module__ == library)
    return walk.code(kind), own_attributes(value, base)


def _text_scalar(walk: Coder, value: Any) -> Node:
    plain = bytes(value) if isinstance(value, bytes) else str(value)
    return Node(b"numpy.text", (*_foreign(walk, value, "numpy"), plain))


def _ufunc(walk: Coder, value: Any) -> Node:
    if value.__name__.endswith("(vectorized)"):
        raise Refused("what numpy.frompyfunc has made does not show its function")
    return codelike(walk, value)


def _generator(_: Coder, value: Any) -> Node:
    return Node(b"Generator", (value.bit_generator,), (".bit_generator",))


def _bit_generator(walk: Coder, value: Any) -> Node:
    kind = type(value)
    is_own = kind.__module__.startswith("numpy.")
    # What it spawns does not come from its state.
    seeds = getattr(value, "seed_seq", getattr(value, "_seed_seq", None))
    name = kind.__name__ if is_own else walk.code(kind)
    return Node(b"BitGenerator", (name, value.state, seeds), ("", ".state", ".seed_seq"))


def _seeds(_: Coder, value: Any) -> Node:
    return Node(b"SeedSequence", (attributes(value.state),))


def _random_state(_: Coder, value: Any) -> Node:
    return Node(b"RandomState", (value.get_state(legacy=False),))


# pandas -------------------------------------------------------------------------------------------


def _values(values: Any) -> As:
    """Return the values of one column or index, without names."""
    return As(_open_column, values)


def _open_column(_: Coder, values: Any) -> Node:
    return Node(b"column", _column(values), ("",))


def _column(values: Any) -> tuple[object, ...]:
    """Return the parts of an array of pandas."""
    dtype, kind = values.dtype, type(values).__name__
    bases = {base.__name__ for base in type(values).__mro__}
    if kind == "ndarray":
        return (values,)
    if kind in {"NumpyExtensionArray", "PandasArray"}:
        return (values.to_numpy(),)
    if "Categorical" in bases:
        return "categorical", values.codes, values.categories, values.ordered
    if "DatetimeLikeArrayMixin" in bases or hasattr(values, "asi8"):
        return str(dtype), values.asi8
    return _nullable(values, str(dtype), bases)


def _nullable(values: Any, dtype: str, bases: set[str]) -> tuple[object, ...]:
    if "StringDtype" in {base.__name__ for base in type(values.dtype).__mro__}:
        # Where it is kept, in Python or by pyarrow, depends on what is installed.
        return dtype, values.to_numpy(dtype=object, na_value=None)
    if "BaseMaskedArray" in bases:
        # What is kept where a value is missing is whatever was there before.
        plain = values.to_numpy(dtype=values.dtype.numpy_dtype, na_value=0)
        return dtype, plain, values.isna()
    if "IntervalArray" in bases:
        return dtype, values.closed, values.left, values.right
    if "ArrowExtensionArray" in bases:
        return dtype, values.__arrow_array__()
    if "SparseArray" in bases:
        return dtype, len(values), values.sp_values, values.sp_index.indices, values.fill_value
    own = type(values).__module__.startswith("pandas.")
    return (dtype if own else values.dtype), values.astype(object)


def _pandas_kind(walk: Coder, value: object) -> object:
    kind = type(value)
    is_own = kind.__module__.partition(".")[0] == "pandas"
    return kind.__name__ if is_own else walk.code(kind)


def _frame(walk: Coder, value: Any) -> Node:
    labels = list(value.columns)
    head = (_pandas_kind(walk, value), value.columns, value.index, value.attrs)
    flags = (value.flags.allows_duplicate_labels, _pandas_metadata(value))
    columns = [_values(value.iloc[:, at].array) for at in range(len(labels))]
    names = ("", ".columns", ".index", ".attrs", "", *(f"[{label!r}]" for label in labels), "")
    return Node(b"DataFrame", (*head, flags, *columns), names)


def _pandas_metadata(value: Any) -> object:
    """Return the attributes that pandas copies with a value; others it drops all the time."""
    named = set(getattr(value, "_metadata", ())) - {"name", "_name"}
    return attributes({name: getattr(value, name) for name in named if hasattr(value, name)})


def _series(walk: Coder, value: Any) -> Node:
    head = (_pandas_kind(walk, value), value.name, value.index, value.attrs)
    flags = (value.flags.allows_duplicate_labels, _pandas_metadata(value))
    names = ("", ".name", ".index", ".attrs", "", "")
    return Node(b"Series", (*head, flags, _values(value.array)), names)


def _index(walk: Coder, value: Any) -> Node:
    kind = _pandas_kind(walk, value)
    names = tuple(value.names)
    if hasattr(value, "levels"):
        # By its values: a level may keep some that are no longer used.
        levels = [value.get_level_values(at) for at in range(value.nlevels)]
        return Node(b"MultiIndex", (kind, names, *levels))
    if type(value).__name__ == "RangeIndex":
        return Node(b"RangeIndex", (kind, names, value.start, value.stop, value.step))
    freq = getattr(value, "freqstr", None)
    return Node(b"Index", (kind, names, freq, _values(value.array)))


def _pandas_time(_: Coder, value: Any) -> Node:
    zone, fold = getattr(value, "tzinfo", None), getattr(value, "fold", 0)
    children = (type(value).__name__, value.asm8, fold, zone)
    return Node(b"pandas", children, ("", "", "", ".tzinfo"))


def _pandas_array(walk: Coder, value: Any) -> Node:
    return Node(b"array of pandas", (_pandas_kind(walk, value), _values(value)))


# polars and pyarrow -------------------------------------------------------------------------------


def _polars_frame(_: Coder, value: Any) -> Node:
    columns = value.get_columns()
    names = ("", *(f"[{name!r}]" for name in value.columns), "")
    return Node(b"polars.DataFrame", (value.shape, *columns), names)


def _polars_series(_: Coder, value: Any) -> Node:
    dtype = value.dtype
    head = (value.name, repr(dtype), len(value))
    # Only times ask polars' engine: a process that has started its threads is bad to fork.
    plain_times = _without_times(dtype)
    if plain_times is not dtype:
        value = value.cast(plain_times)
    plain = value.dtype.is_numeric() and not value.dtype.is_decimal()
    if value.null_count() or not plain or value.dtype.base_type() in _wide():
        return Node(b"polars.Series", (*head, value.to_list()))
    return Node(b"polars.Series", (*head, value.to_numpy()))


def _without_times(dtype: Any) -> Any:
    """Return a type with numbers in place of times: Python's times have no nanoseconds."""
    polars = sys.modules["polars"]
    base = dtype.base_type()
    if dtype.is_temporal():
        return polars.Int64
    if base is polars.Struct:
        plain = {field.name: _without_times(field.dtype) for field in dtype.fields}
        is_same = all(plain[field.name] is field.dtype for field in dtype.fields)
        return dtype if is_same else polars.Struct(plain)
    if not dtype.is_nested():
        return dtype
    inner = _without_times(dtype.inner)
    if inner is dtype.inner:
        return dtype
    # Of an array of arrays, the inner type is that of an array.
    return polars.Array(inner, dtype.shape[0]) if base is polars.Array else polars.List(inner)


def _wide() -> tuple[object, ...]:
    """Return the numbers that numpy has not."""
    polars = sys.modules["polars"]
    names = ("Int128", "UInt128", "Float16")
    return tuple(getattr(polars, name) for name in names if hasattr(polars, name))


def _schema(schema: Any) -> tuple[object, ...]:
    return tuple(map(_field, schema)), _metadata(schema.metadata)


def _field(field: Any) -> tuple[object, ...]:
    kind = field.type
    serialize = getattr(kind, "__arrow_ext_serialize__", None)
    own = (str(kind), serialize() if serialize else None, tuple(map(_field, _inner(kind))))
    return field.name, own, field.nullable, _metadata(field.metadata)


def _inner(kind: Any) -> list[Any]:
    """Return the fields of a nested type."""
    of = sys.modules["pyarrow"].types
    if of.is_struct(kind):
        return list(kind)
    names = ("key_field", "item_field") if of.is_map(kind) else ("value_field",)
    return [getattr(kind, name) for name in names if hasattr(kind, name)]


def _metadata(metadata: Any) -> object:
    return sorted(metadata.items()) if metadata else None


def _table(_: Coder, value: Any) -> Node:
    kind = type(value).__name__
    columns = [_as_array(column) for column in value.columns]
    names = ("", "", "", *(f"[{name!r}]" for name in value.schema.names), "")
    return Node(b"pyarrow", (kind, _schema(value.schema), value.num_rows, *columns), names)


def _as_array(column: Any) -> Any:
    """Return an array of arrow's in one piece; how it was cut is not content."""
    if type(column).__name__ != "ChunkedArray":
        return column
    made = column.combine_chunks()
    if type(made).__name__ != "ChunkedArray":  # of 2 GB of text it stays one
        return made
    return column.to_pylist()


def _chunked(_: Coder, value: Any) -> Node:
    return Node(b"pyarrow", ("ChunkedArray", str(value.type), _as_array(value)))


def _arrow_array(_: Coder, value: Any) -> Node:
    arrow = sys.modules["pyarrow"]
    kind, of = value.type, arrow.types
    head = ("Array", str(kind), len(value))
    if hasattr(value, "storage"):
        return Node(b"pyarrow", (*head, value.storage))
    if of.is_dictionary(kind):
        return Node(b"pyarrow", (*head, value.dictionary_decode()))
    plain_times = _without_arrow_times(kind)
    if plain_times != kind:
        value = value.view(plain_times)
    if of.is_integer(value.type) or of.is_float32(kind) or of.is_float64(kind):
        # What is kept where a value is missing is whatever was there before.
        missing = value.is_null().to_numpy(zero_copy_only=False)
        plain = value.fill_null(0).to_numpy(zero_copy_only=False)
        return Node(b"pyarrow", (*head, plain, missing))
    return Node(b"pyarrow", (*head, value.to_pylist()))


def _without_arrow_times(kind: Any) -> Any:
    """Return a type with numbers in place of times, as `_without_times` does."""
    arrow = sys.modules["pyarrow"]
    of = arrow.types
    if of.is_temporal(kind) and not of.is_interval(kind):
        return arrow.int64() if kind.bit_width == 64 else arrow.int32()  # noqa: PLR2004
    inner = [field.with_type(_without_arrow_times(field.type)) for field in _inner(kind)]
    if of.is_struct(kind):
        return arrow.struct(inner)
    if of.is_map(kind):
        return arrow.map_(*(field.type for field in inner))
    if of.is_fixed_size_list(kind):
        return arrow.list_(inner[0], kind.list_size)
    if of.is_large_list(kind):
        return arrow.large_list(inner[0])
    return arrow.list_(inner[0]) if of.is_list(kind) else kind


def _arrow_scalar(_: Coder, value: Any) -> Node:
    arrow = sys.modules["pyarrow"]
    try:
        content = arrow.repeat(value, 1)
    except NotImplementedError:  # of some types there are no arrays of one value
        content = value.as_py()
    return Node(b"pyarrow", ("Scalar", str(value.type), content))


def _arrow_schema(_: Coder, value: Any) -> Node:
    return Node(b"pyarrow", ("Schema", *_schema(value)))


def _arrow_field(_: Coder, value: Any) -> Node:
    return Node(b"pyarrow", ("Field", *_field(value)))


def _arrow_buffer(_: Coder, value: Any) -> Node:
    return Node(b"pyarrow", ("Buffer", type(value).__name__, data(memoryview(value))))


NAMED_EXACT: Final[dict[str, Opener]] = {
    "numpy.ndarray": _ndarray,
    "numpy.ma.MaskedArray": _masked,
    "numpy.ma.core.MaskedArray": _masked,
}

NAMED_FOREIGN: Final[dict[str, Opener]] = {
    "numpy.memmap": _ndarray,
    "numpy.core.memmap.memmap": _ndarray,
    "numpy._core.memmap.memmap": _ndarray,
    "numpy.generic": _scalar,
    "numpy.str_": _text_scalar,
    "numpy.bytes_": _text_scalar,
    "numpy.dtype": lambda _, value: Node(b"dtype", _dtype(value)),
    "numpy.ufunc": _ufunc,
    "numpy.random._generator.Generator": _generator,
    "numpy.random.bit_generator.BitGenerator": _bit_generator,
    "numpy.random.bit_generator.SeedSequence": _seeds,
    "numpy.random.bit_generator.SeedlessSequence": lambda _, __: b"SeedlessSequence",
    "numpy.random.mtrand.RandomState": _random_state,
    "pandas.DataFrame": _frame,
    "pandas.core.frame.DataFrame": _frame,
    "pandas.Series": _series,
    "pandas.core.series.Series": _series,
    "pandas.Index": _index,
    "pandas.core.indexes.base.Index": _index,
    "pandas.Timestamp": _pandas_time,
    "pandas._libs.tslibs.timestamps.Timestamp": _pandas_time,
    "pandas.Timedelta": _pandas_time,
    "pandas._libs.tslibs.timedeltas.Timedelta": _pandas_time,
    "pandas.NaT": lambda _, __: b"pandas.NaT",
    "pandas._libs.tslibs.nattype.NaTType": lambda _, __: b"pandas.NaT",
    "pandas.api.typing.NaTType": lambda _, __: b"pandas.NaT",
    "pandas.api.extensions.ExtensionArray": _pandas_array,
    "pandas.core.arrays.base.ExtensionArray": _pandas_array,
    "polars.dataframe.frame.DataFrame": _polars_frame,
    "polars.series.series.Series": _polars_series,
    "pyarrow.lib.Table": _table,
    "pyarrow.lib.RecordBatch": _table,
    "pyarrow.lib.ChunkedArray": _chunked,
    "pyarrow.lib.Array": _arrow_array,
    "pyarrow.lib.Scalar": _arrow_scalar,
    "pyarrow.lib.Schema": _arrow_schema,
    "pyarrow.lib.Field": _arrow_field,
    "pyarrow.lib.Buffer": _arrow_buffer,
}
