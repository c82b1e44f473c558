"""Buckets of length: lists of about one length lie in row groups of their own, so that a batch needs little padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.schema import Field


def of(lists: pa.ChunkedArray, field: Field) -> npt.NDArray[np.int64]:
    """(n,) the bucket of each list: how many of the field's borders its length is above."""
    lengths: npt.NDArray[Any] = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()  # a null is refused elsewhere
    return np.searchsorted(np.array(field.buckets), lengths)
