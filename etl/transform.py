"""What is computed from values: columns packed into tensors, and what is fitted on the training split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from penstock import tensors
from penstock.audit import FileAudit
from penstock.errors import RecipeError
from penstock.schema import Field


def pack(df: DataFrame, columns: Sequence[str], into: Field) -> DataFrame:
    """Replaces number columns, none null, by one tensor of theirs; `columns` in C order of `into.shape`.

    Raises: RecipeError where `into` is no tensor, or, when rows are packed, where a value does not fit it.
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
            values = np.stack([batch.column(name).to_numpy(zero_copy_only=False) for name in columns], axis=1)
            tensor = tensors.pack(values.reshape(-1, *into.shape), into)
            yield pa.RecordBatch.from_arrays([*(batch.column(name) for name in names), tensor], [*names, into.name])

    ddl = ", ".join([*(f"`{field.name}` {field.dataType.simpleString()}" for field in rest), f"`{into.name}` binary"])
    return df.mapInArrow(packed, ddl)


def fitted(fit: Mapping[str, str], train: Sequence[FileAudit]) -> dict[str, dict[str, Any]]:
    """What a recipe fits, from exact sums over the training split: the same wherever and in whatever order."""
    return {name: {"kind": kind, **_mean_and_std([audit.sums[name] for audit in train])} for name, kind in fit.items()}


def _mean_and_std(sums: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """Mean and standard deviation over all elements, rounded once, at the end; 0 and 1 for no rows."""
    count, total, squares = (sum(column) for column in zip((0, 0, 0), *sums, strict=True))
    if not count:
        return {"mean": 0.0, "std": 1.0}
    mean = Fraction(total, count)
    variance = Fraction(squares, count) - mean * mean
    return {"mean": float(mean), "std": math.sqrt(variance) or 1.0}
