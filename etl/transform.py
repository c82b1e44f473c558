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
from penstock.errors import RecipeError
from penstock.profile import Profile
from penstock.schema import Field
from penstock.sketch import NONE, Numbers


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


def fitted(fit: Mapping[str, str], profiles: Mapping[str, Profile]) -> dict[str, dict[str, Any]]:
    """What a recipe fits, from exact sums over the training split: the same wherever and in whatever order."""
    train = profiles.get("train")
    numbers = {name: train.numbers[name] if train else NONE for name in fit}
    return {name: {"kind": kind, **_mean_and_std(numbers[name])} for name, kind in fit.items()}


def _mean_and_std(numbers: Numbers) -> dict[str, float]:
    return mean_and_std(numbers.count, numbers.total, numbers.squares)


def mean_and_std(count: int, total: int | Fraction, squares: int | Fraction) -> dict[str, float]:
    """Mean and standard deviation of `count` values from Σ x and Σ x², rounded once, at the end; 0 and 1 for none.

    The deviation of a constant, 0, by which nothing can be divided, is given as 1.
    """
    if not count:
        return {"mean": 0.0, "std": 1.0}
    mean = Fraction(total) / count
    variance = Fraction(squares) / count - mean * mean
    return {"mean": float(mean), "std": math.sqrt(variance) or 1.0}
