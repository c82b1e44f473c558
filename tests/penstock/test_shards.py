"""The files of a shard: planned row groups, and bytes that depend on the rows alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock import shards, store
from penstock.audit import audit_file
from penstock.errors import DatasetError
from penstock.schema import Field, Schema

VARYING = Schema(
    (
        Field("id", "string"),
        Field("x", "int16", (4,)),
        Field("tokens", "int32", (None,)),
        Field("photo", "uint8", (None, None, 3), "png"),
        Field("payload", "bytes"),
        Field("n", "float64"),
    ),
    key="id",
)
VALUES = [("a", b"8 bytes.", [1, 2, 3], b"12345", b"", 0.5), ("größe", b"8 bytes.", [], b"1", b"1234567", 0.5)]
WIDTHS = [1 + 8 + 12 + 5 + 0 + 8, 7 + 8 + 0 + 1 + 7 + 8]  # UTF-8


def test_the_width_of_a_row_is_measured_and_every_kind_of_field_is_written() -> None:
    table = pa.table([pa.array(column) for column in zip(*VALUES, strict=True)], names=VARYING.names)
    table = table.cast(pa.schema([(field.name, field.arrow_type) for field in VARYING.fields]))
    assert shards.row_bytes(table, VARYING).tolist() == WIDTHS
    assert [shards.rows_of_a_file(table, VARYING, n) for n in (1, WIDTHS[0], sum(WIDTHS) - 1, sum(WIDTHS))] == [
        1,
        1,
        1,
        2,
    ]
    parsed = pq.ParquetFile(pa.BufferReader(shards.parquet(table, VARYING, WIDTHS[0])))
    assert parsed.read().to_pylist() == table.to_pylist()
    group = parsed.metadata.row_group(0)
    assert (parsed.num_row_groups, group.num_rows) == (2, 1)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    with_statistics = {name for name, c in chunks.items() if c.is_stats_set and c.statistics.has_min_max}
    assert with_statistics == {"id", "tokens.list.element", "n"}


@given(st.integers(1, 300), st.integers(1_000, 4 << 20), st.lists(st.integers(1, 60)))
@example(300, 4 << 20, [60] * 4)
def test_a_files_bytes_depend_on_its_rows_alone(count: int, row_group_bytes: int, cuts: list[int]) -> None:
    words = pa.array([f"{i % 250:04d}" * 2_000 for i in range(count)])  # more than a dictionary may hold
    schema = Schema((Field("id", "string"), Field("word", "string")), key="id")
    table = pa.table({"id": [f"{i}" for i in range(count)], "word": words})
    places = [0, *itertools.accumulate(cuts)]
    pieces = [table.slice(start, size) for start, size in zip(places, [*cuts, count], strict=True)]
    file = shards.parquet(pa.concat_tables(pieces), schema, row_group_bytes)
    assert file == shards.parquet(table, schema, row_group_bytes)
    parsed = pq.ParquetFile(pa.BufferReader(file))
    assert parsed.read().equals(table)
    groups = [parsed.metadata.row_group(g).num_rows for g in range(parsed.num_row_groups)]
    assert max(groups) - min(groups) <= len(groups)


def test_row_groups_of_bucketed_lists_hold_one_bucket_each(tmp_path: Path) -> None:
    schema = Schema((Field("id", "int64"), Field("tokens", "int32", (None,), buckets=(2, 5))), key="id")
    lengths = [9, 0, 2, 3, 5, 6, 1, 7, 4, 8] * 20
    rows = pa.table({"id": range(200), "tokens": pa.array([[1] * n for n in lengths], pa.list_(pa.int32()))})
    url = f"file://{tmp_path}"
    store.write(f"{url}/split=train/part.parquet", shards.parquet(rows, schema, 400))
    audit = audit_file(url, "split=train/part.parquet", "train", schema)
    buckets = audit.row_groups["bucket"].to_pylist()
    assert buckets == sorted(buckets)
    assert set(buckets) == {0, 1, 2}
    assert len(buckets) > 6
    file = pq.ParquetFile(tmp_path / "split=train" / "part.parquet")
    ids: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for group, bucket in enumerate(buckets):
        found = file.read_row_group(group)
        assert {sum(n > border for border in (2, 5)) for n in map(len, found["tokens"].to_pylist())} == {bucket}
        ids[bucket] += found["id"].to_pylist()
    assert all(of == sorted(of) for of in ids.values())  # in a bucket the rows keep their order
    assert sorted(i for of in ids.values() for i in of) == list(range(200))
    plain = Schema((schema.fields[0], Field("tokens", "int32", (None,))), key="id")
    store.write(f"{url}/split=train/mixed.parquet", shards.parquet(rows, plain, 400))
    with pytest.raises(DatasetError, match=r"row group 0: lists of 3 buckets in 'tokens', expected one"):
        audit_file(url, "split=train/mixed.parquet", "train", schema)


@pytest.mark.parametrize(
    ("raw_bytes", "expected"),
    [(0, 1), (1, 1), (3 << 20, 1), ((3 << 20) + 1, 2), (100 << 20, 8), (320 << 20, 10), (10 << 40, 327_680)],
)
def test_shards_follow_from_the_raw_bytes(raw_bytes: int, expected: int) -> None:
    assert shards.num_shards(raw_bytes) == expected
