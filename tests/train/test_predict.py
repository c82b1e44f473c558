"""Predictions as columns: one value for each row, or a list of several, by number or by name."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from train.predict import column

NAMES = pa.array([None, "a", "b", "c"])


@pytest.mark.parametrize("names", [None, NAMES])
def test_a_prediction_for_each_row(names: pa.Array | None) -> None:
    found = column(torch.tensor([3, 0, 2]), names)
    assert found.to_pylist() == ([3, 0, 2] if names is None else ["c", None, "b"])


@pytest.mark.parametrize("num_rows", [0, 1, 3])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("names", [None, NAMES])
def test_a_list_for_each_row(num_rows: int, k: int, names: pa.Array | None) -> None:
    values = torch.arange(num_rows * k).reshape(num_rows, k) % 4
    found = column(values, names)
    expected = values.tolist() if names is None else [[NAMES[i].as_py() for i in row] for row in values.tolist()]
    assert found.to_pylist() == expected
    assert pa.types.is_list(found.type)
