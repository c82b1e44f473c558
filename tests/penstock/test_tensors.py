"""Tensors: what goes in comes out, byte for byte; what does not fit is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock import tensors
from penstock.errors import DatasetError, RecipeError
from penstock.schema import TENSOR_TYPES, Field

BYTES = Field("x", "uint8", (2,))


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Field, npt.NDArray[Any]]:
    dtype = np.dtype(draw(st.sampled_from(TENSOR_TYPES)))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))
    return Field("x", dtype.name, shape), draw(hnp.arrays(dtype, (draw(st.integers(0, 6)), *shape)))


@given(arrays())
def test_tensors_survive_packing(made: tuple[Field, npt.NDArray[Any]]) -> None:
    field, values = made
    packed = tensors.pack(values, field)
    assert packed.to_pylist() == [row.tobytes() for row in values]  # C order; this machine is little endian
    np.testing.assert_array_equal(tensors.view(packed, field, "here"), values)


@given(arrays(), st.data())
def test_a_part_of_a_column_is_viewed_alone(made: tuple[Field, npt.NDArray[Any]], data: st.DataObject) -> None:
    field, values = made
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    part = tensors.pack(values, field).slice(start, stop - start)
    np.testing.assert_array_equal(tensors.view(part, field, "here"), values[start:stop])


def test_neither_the_order_in_memory_nor_the_byte_order_reaches_the_file() -> None:
    values = np.arange(12, dtype=">i4").reshape(2, 3, 2)
    packed = tensors.pack(np.asfortranarray(values), Field("x", "int32", (3, 2)))
    assert packed.to_pylist() == [row.astype("<i4").tobytes() for row in values]


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        (np.array([[1, 300]]), BYTES, "field 'x': the value 300 does not fit uint8; refuse such rows with a rule"),
        (np.array([[1, -1]]), BYTES, "the value -1 does not fit uint8"),
        (np.array([[0.5, 1]]), BYTES, "the value 0.5 does not fit uint8"),
        (np.array([[np.nan, 1]]), BYTES, "the value nan does not fit uint8"),
        (np.array([[1e6]]), Field("x", "float16", (1,)), "the value 1000000.0 does not fit float16"),
        (np.zeros((1, 3)), BYTES, r"expected shape \(n, \(2,\)\), found \(1, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(values: npt.NDArray[Any], field: Field, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tensors.pack(values, field)


def test_floats_that_are_no_numbers_are_kept() -> None:
    values = np.array([[np.inf], [-np.inf], [np.nan]])
    field = Field("x", "float32", (1,))
    np.testing.assert_array_equal(tensors.view(tensors.pack(values, field), field, "here"), values.astype(np.float32))


def test_a_value_of_another_width_is_named() -> None:
    with pytest.raises(DatasetError, match=r"here: column 'x', row 1: expected 2 bytes \(uint8 \[2\]\), found 3"):
        tensors.view(pa.array([b"ab", b"abc", b"a"]), BYTES, "here")
