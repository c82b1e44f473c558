"""Columns that others wrote, as the Arrow type that a field has: wider integers, dictionaries, lists of one length."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.schema import Field


def cast(values: pa.Array, field: Field) -> pa.Array:
    """Values without nulls as `field.arrow_type`, or, for tensors, as binary values of one width.

    No number is rounded and none wraps around. Raises: pa.ArrowException where a value does not fit the field, or no
    value of that type could.
    """
    kind = values.type
    if field.is_tensor and is_list(kind):
        return _tensors(values, field)
    if field.is_tensor and pa.types.is_fixed_size_binary(kind) and kind.byte_width == field.num_bytes:
        return values
    return values if kind == field.arrow_type else values.cast(field.arrow_type)


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def num_nulls(values: pa.Array) -> int:
    """Nulls of a column, and those inside its lists."""
    inside = values.flatten().null_count if is_list(values.type) else 0
    return int(values.null_count + inside)


def _tensors(lists: pa.Array, field: Field) -> pa.FixedSizeBinaryArray:
    """n lists of as many numbers as a tensor has -> n binary values, in the order of the elements."""
    size = math.prod(field.shape)
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != size)
    if len(wrong):
        raise pa.ArrowInvalid(f"row {wrong[0]}: expected {size:,} numbers, found {lengths[wrong[0]]:,}")
    elements = lists.flatten().cast(pa.from_numpy_dtype(field.numpy_dtype))
    numbers = np.ascontiguousarray(elements.to_numpy(), field.numpy_dtype)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(field.num_bytes), len(lists), [None, pa.py_buffer(numbers)])
