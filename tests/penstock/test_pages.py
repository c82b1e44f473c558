"""Pages: an offset is given where the values lie exactly there, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import tensors
from penstock.pages import chunk_range, stride, values_offset
from penstock.schema import Field
from tests.penstock.conftest import IN_PLACE

FIELDS = [
    *(Field("v", dtype) for dtype in ("int8", "int16", "int32", "int64", "float32", "float64")),
    Field("v", "uint8", (13,)),
    Field("v", "float32", (2, 3)),
]
OPTIONS = st.fixed_dictionaries(
    {
        "use_dictionary": st.booleans(),
        "compression": st.sampled_from(["none", "zstd"]),
        "data_page_size": st.sampled_from([64, 1 << 30]),
        "data_page_version": st.sampled_from(["1.0", "2.0"]),
        "write_statistics": st.booleans(),
        "write_page_checksum": st.booleans(),
        "write_batch_size": st.sampled_from([7, 1024]),
    }
)


def chunk_of(field: Field, values: Any, nullable: bool, options: dict[str, Any]) -> tuple[memoryview, pa.Array]:
    """The bytes of the one column chunk that pyarrow writes for these values."""
    column = tensors.pack(values, field) if field.is_tensor else pa.array(values, field.arrow_type)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table([column], schema=pa.schema([pa.field("v", column.type, nullable)])), sink, **options)
    content = sink.getvalue().to_pybytes()
    chunk = pq.read_metadata(pa.BufferReader(content)).row_group(0).column(0)
    start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o)
    return memoryview(content)[start : start + chunk.total_compressed_size], column


def in_place(chunk: memoryview, field: Field, offset: int, count: int) -> np.ndarray:
    width = stride(field)
    assert width is not None
    values = np.frombuffer(chunk, np.uint8, count * width, offset).reshape(count, width)
    if field.is_tensor:  # behind its length, 4 bytes
        lengths = np.ascontiguousarray(values[:, :4]).view("<u4")
        assert (lengths == field.num_bytes).all()
        return np.ascontiguousarray(values[:, 4:]).view(field.numpy_dtype).reshape(count, *field.shape)
    wide = {"int8": "<i4", "int16": "<i4"}.get(field.dtype, field.numpy_dtype)  # Parquet has no smaller integers
    return values.view(wide).reshape(count).astype(field.numpy_dtype)


@given(st.sampled_from(FIELDS), st.integers(1, 60), st.booleans(), OPTIONS)
def test_values_lie_exactly_where_their_offset_says(
    field: Field, count: int, nullable: bool, options: dict[str, Any]
) -> None:
    values = np.random.default_rng(count).integers(0, 100, (count, *field.shape)).astype(field.numpy_dtype)
    chunk, _ = chunk_of(field, values, nullable, options)
    if options["compression"] != "none":
        return  # the caller asks only for uncompressed chunks
    found = values_offset(chunk, field, count)
    if found is not None:
        np.testing.assert_array_equal(in_place(chunk, field, found, count), values)
    expected = not options["use_dictionary"] and options["data_page_version"] == "1.0"
    # Arrow looks at a page's size after each batch of values, and begins another one if more are to come.
    batch_bytes = options["write_batch_size"] * (stride(field) or 0)
    one_page = count <= options["write_batch_size"] * -(-options["data_page_size"] // batch_bytes)
    assert (found is not None) == (expected and one_page)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (Field("v", "bool"), True),
        (Field("v", "string"), "abc"),
        (Field("v", "bytes"), b"abc"),
        (Field("v", "int32", (None,)), [5]),
        (Field("v", "int16", (2,), "wav"), b"abcd"),
    ],
)
def test_what_varies_has_no_stride(field: Field, value: Any) -> None:
    chunk, _ = chunk_of(field, [value] * 8, False, dict(IN_PLACE))
    assert stride(field) is None
    assert values_offset(chunk, field, 8) is None


def test_another_number_of_rows_is_not_read_in_place() -> None:
    field = Field("v", "int64")
    chunk, _ = chunk_of(field, np.arange(8), False, dict(IN_PLACE))
    assert values_offset(chunk, field, 8) is not None
    assert [values_offset(chunk, field, n) for n in (0, 7, 9)] == [None] * 3


@given(st.sampled_from(FIELDS), st.integers(1, 20), st.data())
def test_damaged_headers_never_lead_outside_the_chunk(field: Field, count: int, data: st.DataObject) -> None:
    chunk, _ = chunk_of(field, np.zeros((count, *field.shape), field.numpy_dtype), True, dict(IN_PLACE))
    damaged = bytearray(chunk)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, min(60, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(damaged), data.draw(st.integers(0, len(damaged)))]))
    found = values_offset(memoryview(bytes(damaged[:cut])), field, count)
    width = stride(field)
    assert found is None or (width is not None and 0 < found <= cut - count * width)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(chunk: bytes) -> None:
    assert values_offset(memoryview(chunk), Field("v", "int64"), 1) in (None, *range(len(chunk)))
    assert values_offset(memoryview(b"\x1c" * 5_000 + chunk), Field("v", "int64"), 1) is None  # structs without end


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_column_chunks_lie_one_behind_the_other(use_dictionary: bool) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": range(9), "b": ["x"] * 9}), sink, use_dictionary=use_dictionary, row_group_size=4)
    metadata = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    end = 4  # behind the magic bytes
    for g in range(metadata.num_row_groups):
        for c in range(metadata.num_columns):
            start, num_bytes = chunk_range(metadata.row_group(g).column(c))
            assert start == end
            end = start + num_bytes
    assert end == sink.getvalue().size - 8 - metadata.serialized_size
