"""Tensors as Parquet keeps them: one binary value per row, C order, little endian."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.errors import DatasetError, RecipeError
from penstock.schema import Field


def pack(values: npt.NDArray[Any], field: Field) -> pa.BinaryArray:
    """(n, *shape) array -> n binary values.

    Raises: RecipeError where the values have another shape, or one does not fit the field's dtype.
    """
    n = len(values)
    if values.shape != (n, *field.shape):
        raise RecipeError(f"field {field.name!r}: expected shape (n, {field.shape}), found {values.shape}")
    typed, lost = typed_as(field, values)
    if lost.any():
        raise RecipeError(
            f"field {field.name!r}: the value {values[lost][0]} does not fit {field.dtype}; "
            f"refuse such rows with a rule, or choose another dtype",
            values=[str(values[lost][0])],
        )
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(field.num_bytes)
    return pa.BinaryArray.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(typed)])


def typed_as(field: Field, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The values in a field's dtype, floats rounded, and which of them do not fit it."""
    with np.errstate(invalid="ignore", over="ignore"):
        typed = np.ascontiguousarray(values.astype(field.numpy_dtype, casting="unsafe"))
    return typed, typed != values if typed.dtype.kind in "iu" else np.isinf(typed) & ~np.isinf(values)


def view(column: pa.Array, field: Field, where: str) -> npt.NDArray[Any]:
    """n binary values without nulls -> (n, *shape), without a copy. If they are of a fixed size, it is the field's.

    Raises: DatasetError where a value has another width than the field says.
    """
    n = len(column)
    if pa.types.is_fixed_size_binary(column.type):
        data = np.frombuffer(column.buffers()[1] or b"", np.uint8, n * field.num_bytes, column.offset * field.num_bytes)
        return data.view(field.numpy_dtype).reshape(n, *field.shape)
    offsets = np.frombuffer(column.buffers()[1], np.int32, n + 1, column.offset * 4)
    wrong = np.flatnonzero(np.diff(offsets) != field.num_bytes)
    if len(wrong):
        found = offsets[wrong[0] + 1] - offsets[wrong[0]]
        raise DatasetError(
            f"{where}: column {field.name!r}, row {wrong[0]}: expected {field.num_bytes} bytes "
            f"({field.dtype} {list(field.shape)}), found {found}"
        )
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8, n * field.num_bytes, int(offsets[0]) if n else 0)
    return data.view(field.numpy_dtype).reshape(n, *field.shape)
