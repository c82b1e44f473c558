"""Columns packed into tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from penstock import tensors
from penstock.errors import RecipeError
from penstock.schema import Field


def pack(df: DataFrame, columns: Sequence[str], into: Field) -> DataFrame:
    """Replaces number columns, none null, by one tensor of theirs; `columns` in C order of `into.shape`.

    Raises: RecipeError where `into` is no tensor, or, when rows are packed, where a value is null or does not fit it.
    """
    if not into.is_tensor or math.prod(into.shape) != len(columns):
        raise RecipeError(
            f"pack: {len(columns)} columns make a tensor of {len(columns)} elements, "
            f"but field {into.name!r} is {into.dtype} of shape {into.shape}; name as many columns as it has elements"
        )
    rest = [field for field in df.schema.fields if field.name not in set(columns)]
    names = [field.name for field in rest]

    def packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if null := [name for name in columns if batch.column(name).null_count]:
                raise RecipeError(
                    f"field {into.name!r}: {null[0]}, is null in a row; refuse such rows with a rule, or say what they "
                    f"count as (coalesce in clean(), Impute in transforms)"
                )
            values = np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in columns], axis=1)
            tensor = tensors.pack(values.reshape(-1, *into.shape), into)
            yield pa.RecordBatch.from_arrays([*(batch.column(name) for name in names), tensor], [*names, into.name])

    ddl = ", ".join([*(f"`{field.name}` {field.dataType.simpleString()}" for field in rest), f"`{into.name}` binary"])
    return df.mapInArrow(packed, ddl)
