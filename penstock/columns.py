"""Columns of a DataFrame of pandas or a Table of pyarrow as the values of fields, each checked: for `penstock.write`.

Raises RawDataError, which names the column and, from 0, the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock import encoded, tensors
from penstock.errors import DatasetError, RawDataError
from penstock.schema import Field

Column = Any  # Series of pandas, or pa.ChunkedArray
Kind = Callable[[pa.DataType], bool]
MOST_BYTES = 2**31 - 1  # of a column: Arrow counts them in 32 bits
WHOLE = pa.types.is_integer, pa.types.is_boolean
NUMBERS = (*WHOLE, pa.types.is_floating)
STRINGS = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
BINARIES = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary
KINDS = {"bool": (pa.types.is_boolean,), "string": STRINGS, "bytes": BINARIES}


def select(frame: Any, names: Sequence[str]) -> dict[str, Column]:
    """The columns of these names."""
    if isinstance(frame, pa.Table):
        there, index = frame.column_names, []
    elif type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        there, index = list(frame.columns), list(frame.index.names)
    else:
        kind = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
        raise RawDataError(f"frame: expected a DataFrame of pandas or a Table of pyarrow, found {kind}; convert it")
    if missing := [name for name in names if name not in there]:
        mend = "rename one, or mend the schema"
        if missing[0] in index:
            mend = "the index has that name: make it a column with reset_index()"
        raise RawDataError(f"frame: no column {missing[0]!r}; there are {', '.join(map(str, there))}; {mend}")
    if twice := [name for name in names if there.count(name) > 1]:
        raise RawDataError(f"frame: column {twice[0]!r} is there {there.count(twice[0])} times; rename the others")
    if not len(frame):
        raise RawDataError("frame: expected rows, found none; a dataset version needs some")
    return {name: frame[name] for name in names}


def values(column: Column, field: Field) -> pa.Array:
    """As Parquet keeps the field, none of them missing."""
    is_table = isinstance(column, pa.ChunkedArray)
    missing = np.flatnonzero(column.is_null().to_numpy() if is_table else column.isna().to_numpy())
    if len(missing):
        raise RawDataError(
            f"frame: column {field.name!r}: {len(missing):,} of {len(column):,} rows have no value, row {missing[0]:,} "
            f"the first; fill them (fillna) or leave them out (dropna)"
        )
    if field.is_list or field.is_tensor:
        return _arrays(column, field)
    found = scalars(column, field.name, _expected(field))
    if not any(is_one(found.type) for is_one in (BINARIES if field.is_encoded else KINDS.get(field.dtype, NUMBERS))):
        raise _unexpected(field, None, str(found.type))
    if field.is_encoded:
        _check_files(found, field)
    if field.dtype in KINDS or field.is_encoded:
        if found.nbytes > MOST_BYTES:
            raise _too_large(field)
        return found.cast(field.arrow_type)
    numbers, lost = tensors.typed_as(field, found.to_numpy(zero_copy_only=False))
    if lost.any():
        row = int(np.argmax(lost))
        raise _does_not_fit(field, row, found[row].as_py())
    return pa.array(numbers)


def scalars(column: Column, name: str, expected: str = "values of one kind") -> pa.Array:
    """As they are, null where a value is missing."""
    try:
        found = column if isinstance(column, pa.ChunkedArray) else pa.array(column, from_pandas=True)
        found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise RawDataError(
            f"frame: column {name!r}: expected {expected}, found others ({error}); mend them, as with astype()",
            values=[str(error)],
        ) from error
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def check_kind(found: pa.Array, name: str, kinds: Sequence[Kind], expected: str) -> None:
    """Of what says a row's split; nothing at all in a column is right."""
    if not any(is_one(found.type) for is_one in (*kinds, pa.types.is_null)):
        raise RawDataError(f"frame: column {name!r}: expected {expected}, found {found.type}; convert it with astype()")


def _arrays(column: Column, field: Field) -> pa.Array:
    """Tensors and lists, each an array or lists in lists."""
    if isinstance(column, pa.ChunkedArray) and isinstance(column.type, pa.FixedShapeTensorType):
        found = [array for chunk in column.chunks for array in chunk.to_numpy_ndarray()]
    else:
        found = column.to_pylist() if isinstance(column, pa.ChunkedArray) else column.tolist()
    arrays = [_array(value, field, row) for row, value in enumerate(found)]
    if sum(array.nbytes for array in arrays) > MOST_BYTES:
        raise _too_large(field)
    if field.is_tensor:
        return tensors.pack(np.stack(arrays), field)
    offsets = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))


def _array(value: Any, field: Field, row: int) -> npt.NDArray[Any]:
    try:
        array = _stacked(value)
    except ValueError:
        raise _unexpected(field, row, "arrays of several shapes") from None
    if array.dtype.kind not in "biuf":
        raise _unexpected(field, row, f"{array.dtype} of shape {array.shape}")
    if array.shape != field.shape if field.is_tensor else array.ndim != 1:
        raise _unexpected(field, row, f"shape {array.shape}")
    typed, lost = tensors.typed_as(field, array)
    if lost.any():
        raise _does_not_fit(field, row, array[lost][0])
    return typed


def _stacked(value: Any) -> npt.NDArray[Any]:
    """Of arrays in arrays, as Parquet's readers give nested lists, one. Raises: ValueError where shapes differ."""
    array = np.asarray(value)
    if array.dtype == object and array.size and all(isinstance(inner, np.ndarray) for inner in array):
        return np.stack([_stacked(inner) for inner in array])
    return array


def _check_files(found: pa.Array, field: Field) -> None:
    for row, value in enumerate(found):
        try:
            encoded.check(value.as_py(), field)
        except DatasetError as error:
            raise RawDataError(
                f"frame: row {row:,}: {error}; mend the file, or leave the row out", error.values
            ) from None


def _expected(field: Field) -> str:
    if field.is_encoded:
        return f"the bytes of a {field.encoding} file"
    if field.is_list:
        return f"a list of {field.dtype}"
    return f"{field.dtype} of shape {field.shape}" if field.is_tensor else field.dtype


def _unexpected(field: Field, row: int | None, found: str) -> RawDataError:
    at = "" if row is None else f", row {row:,}"
    return RawDataError(
        f"frame: column {field.name!r}{at}: expected {_expected(field)}, found {found}; mend the column, or the schema"
    )


def _does_not_fit(field: Field, row: int, value: Any) -> RawDataError:
    return RawDataError(
        f"frame: column {field.name!r}, row {row:,}: the value {value} does not fit {field.dtype}; choose another "
        f"dtype, or leave such rows out",
        values=[str(value)],
    )


def _too_large(field: Field) -> RawDataError:
    return RawDataError(
        f"frame: column {field.name!r}: expected at most {MOST_BYTES:,} bytes of values, found more; that is work for "
        f"`penstock etl`"
    )
