"""One shard of a version: placed rows as files, every byte of them read back, and what was written.

Its rows come sorted by hash and key, so that equal keys lie side by side: the first of each is kept. Arrow writes the
files, so that their bytes depend on the rows alone. With Spark a task does a shard (etl/publish.py); without it
`penstock.write` does one after the other.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import buckets, leakage, personal, profile, store
from penstock.audit import FileAudit, audit_file
from penstock.digest import U64, column_hashes, row_hashes
from penstock.errors import RecipeError
from penstock.profile import Profile
from penstock.recipe import Split
from penstock.schema import Field, Schema

FEW_SHARDS, FEW_BYTES = 8, 3 << 20  # so many at least, where there are so many raw bytes for each
SHARD_BYTES = 32 << 20  # raw bytes, which may be compressed: the rows of a shard can be several times larger
FILE_BYTES = 128 << 20
ONE_PAGE_BYTES = 1 << 30
WRITTEN = pa.schema(
    {
        "split": pa.string(),
        "file": pa.string(),
        "audit": pa.binary(),
        "duplicates": pa.int64(),
        "exact_duplicates": pa.int64(),
        "contents": pa.binary(),
        "groups": pa.binary(),
        "found": pa.string(),
    }
)


@dataclass(frozen=True)
class Layout:
    """How the rows of a version become files in `split=<name>/` of `data_url`.

    The rows that are dropped for another one with their key are listed in `duplicates_url`. Of each shard so many rows
    at most are compared with those of other splits. `look_for` names the kinds of personal data that are counted in
    columns of strings.
    """

    schema: Schema
    split: Split
    row_group_bytes: int
    data_url: str
    file_bytes: int = FILE_BYTES
    duplicates_url: str | None = None
    most_compared: int = leakage.MOST_COMPARED
    look_for: Mapping[str, Collection[str]] | None = None


@dataclass(frozen=True)
class Written:
    """For each split its files, in order of their names; and the rows whose key an earlier row had.

    Exact duplicates are equal to the row that was kept in all fields.
    """

    audits: Mapping[str, Sequence[FileAudit]]
    duplicates: int
    exact_duplicates: int
    leakage: Mapping[str, int | float]  # as the card has it
    personal: Mapping[str, Mapping[str, int]]  # column that was looked through -> what `personal.found` counts in it

    @property
    def num_rows(self) -> int:
        return sum(audit.num_rows for audits in self.audits.values() for audit in audits)

    def profiles(self, schema: Schema) -> dict[str, Profile]:
        """Split -> what its rows are like."""
        return {
            name: profile.merge([audit.profile for audit in audits if audit.profile], schema)
            for name, audits in self.audits.items()
        }


def num_shards(raw_bytes: int) -> int:
    """From the size of the raw files, which is known before any row is read: no pass counts rows first."""
    return max(1, min(FEW_SHARDS, math.ceil(raw_bytes / FEW_BYTES)), math.ceil(raw_bytes / SHARD_BYTES))


def write_shard(batches: Iterable[pa.RecordBatch], shard: str, layout: Layout) -> Iterator[pa.RecordBatch]:
    """Writes the rows of one shard, and yields what `written` makes one `Written` of, each a row of `WRITTEN`.

    The batches have the schema's columns, `split`, and `_group` in splits by group; file names begin with `shard`.

    Raises: RecipeError for a split whose name cannot be that of a folder, and for a key that is in two splits;
    DatasetError for nulls and tensors of another width.
    """
    schema = layout.schema
    num_files = 0
    dropped: list[pa.Table] = []
    contents: list[tuple[str, U64]] = []
    groups: list[tuple[str, U64]] = []
    found: dict[str, Counter[str]] = defaultdict(Counter)

    def look(rows: pa.Table) -> None:
        for column, kinds in (layout.look_for or {}).items():
            found[column] += personal.found(rows[column], kinds)

    def publish(name: str, rows: pa.Table) -> pa.RecordBatch:
        nonlocal num_files
        file = f"split={name}/{shard}-{num_files:05d}.parquet"
        num_files += 1
        look(rows)
        store.write(store.join(layout.data_url, file), parquet(rows, schema, layout.row_group_bytes))
        audit = audit_file(layout.data_url, file, name, schema, profiled=True)
        assert audit.contents is not None
        contents.append((name, audit.contents))
        return _record(split=name, file=file, audit=audit.to_bytes())

    pending: dict[str, list[pa.Table]] = defaultdict(list)
    pending_bytes: dict[str, int] = defaultdict(int)
    for batch, is_first, others in _with_firsts(batches, schema, layout.split):
        dropped += [] if others is None else [others]
        splits = batch.column("split")
        for name in splits.unique().to_pylist():
            _check_name(name)
            is_here = pc.and_(is_first, pc.equal(splits, name))
            if not is_here.true_count:  # none but what is dropped for a row of another split
                continue
            if layout.split.is_by_group:
                known = batch.column("_group").filter(is_here).drop_null().unique()
                groups.append((name, known.to_numpy().view(np.uint64)))
            pending[name].append(pa.table(batch.select(schema.names).filter(is_here)))
            pending_bytes[name] += int(row_bytes(pending[name][-1], schema).sum())
            if pending_bytes[name] > layout.file_bytes:
                rows = pa.concat_tables(pending[name])
                while (num_rows := rows_of_a_file(rows, schema, layout.file_bytes)) < rows.num_rows:
                    yield publish(name, rows.slice(0, num_rows))
                    rows = rows.slice(num_rows)
                pending[name], pending_bytes[name] = [rows], int(row_bytes(rows, schema).sum())
    for name, tables in pending.items():
        yield publish(name, pa.concat_tables(tables))
    listed = pa.concat_tables(dropped) if dropped else None
    if listed is not None and layout.duplicates_url is not None:
        look(listed)
        store.write(store.join(layout.duplicates_url, f"{shard}.parquet"), _list_of(listed))
    yield _record(
        file=f"{shard}.parquet",
        duplicates=0 if listed is None else listed.num_rows,
        exact_duplicates=0 if listed is None else pc.sum(listed["exact"]).as_py(),
        contents=leakage.sketch(contents, layout.most_compared).to_bytes(),
        groups=leakage.sketch(groups, layout.most_compared).to_bytes(),
        found=json.dumps(found),
    )


def written(records: Sequence[Mapping[str, Any]], layout: Layout) -> Written:
    """All shards of a version together; files that none of them names are removed.

    Raises: RecipeError for a group that is in two splits.
    """
    split = layout.split
    shards = [record for record in records if record["audit"] is None]
    files = sorted((r["split"], r["file"], r["audit"]) for r in records if r["audit"] is not None)
    _remove_others(layout.data_url, {file for _, file, _ in files})
    if layout.duplicates_url is not None:
        _remove_others(layout.duplicates_url, {record["file"] for record in shards if record["duplicates"]})
    audits: dict[str, list[FileAudit]] = {name: [] for name in [*split.names, *(name for name, _, _ in files)]}
    for name, _, audit in files:
        audits[name].append(FileAudit.from_bytes(audit))
    groups = [record["groups"] for record in shards] if split.is_by_group else None
    return Written(
        audits,
        sum(record["duplicates"] for record in shards),
        sum(record["exact_duplicates"] for record in shards),
        _leakage([record["contents"] for record in shards], groups, split),
        _added_up([json.loads(record["found"]) for record in shards]),
    )


def _added_up(shards: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for shard in shards:
        for column, counts in shard.items():
            totals[column] += Counter(counts)
    return dict(totals)


def _leakage(contents: Sequence[bytes], groups: Sequence[bytes] | None, split: Split) -> dict[str, int | float]:
    """What is in two splits. Raises: RecipeError where a group is."""
    equal_rows, compared = leakage.in_several_splits([leakage.Sketch.from_bytes(found) for found in contents])
    found: dict[str, int | float] = {"keys": 0, "equal_rows": equal_rows, "compared": compared}
    if groups is not None:
        torn, compared_groups = leakage.in_several_splits([leakage.Sketch.from_bytes(found) for found in groups])
        if torn:
            raise RecipeError(
                f"split: {torn:,} groups of {split.by!r} have rows in several splits, since column {split.source!r} "
                f"names another split for some of them; it must name one split for all rows of a group"
            )
        found |= {"groups": torn, "compared_groups": compared_groups}
    return found


def _remove_others(url: str, files: Collection[str]) -> None:
    for left in set(store.file_names(url)) - set(files):
        store.remove(store.join(url, left))  # by a task that was run again


def _list_of(rows: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", store_schema=False)
    return memoryview(sink.getvalue())


def rows_of_a_file(rows: pa.Table, schema: Schema, file_bytes: int) -> int:
    """How many of the rows, from the first, make a file of at most so many bytes, or of one row."""
    return max(1, int(np.searchsorted(np.cumsum(row_bytes(rows, schema)), file_bytes, side="right")))


def row_bytes(rows: pa.Table, schema: Schema) -> npt.NDArray[np.int64]:
    """(n,) the bytes of each row's values."""
    widths = np.full(rows.num_rows, sum(field.num_bytes for field in schema.fields if not field.is_varying))
    for field in (field for field in schema.fields if field.is_varying):
        if field.is_list:
            lengths, width = pc.list_value_length(rows[field.name]), field.numpy_dtype.itemsize
        else:
            lengths, width = pc.binary_length(rows[field.name]), 1
        widths += width * pc.fill_null(lengths, 0).to_numpy()
    return widths


def parquet(rows: pa.Table, schema: Schema, row_group_bytes: int) -> memoryview:
    """A Parquet file of even row groups, values of fixed width uncompressed and in one page."""
    columns = pa.schema([(field.name, field.arrow_type) for field in schema.fields])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        columns,
        compression="none",
        use_dictionary=[field.name for field in schema.fields if field.dtype == "string" and field.name != schema.key],
        # Else footers hold whole images as minimum and maximum.
        write_statistics=[leaf(field) for field in schema.fields if field.arrow_type != pa.binary()],
        data_page_size=ONE_PAGE_BYTES,
        max_rows_per_page=2**31 - 1,
        write_page_checksum=True,
        store_schema=False,
    ) as writer:
        for group in row_groups(rows, schema, row_group_bytes):
            # In one piece, so that a dictionary does not depend on how the rows arrived.
            writer.write_table(group.combine_chunks().cast(columns), group.num_rows)
    return memoryview(sink.getvalue())


def row_groups(rows: pa.Table, schema: Schema, row_group_bytes: int) -> Iterator[pa.Table]:
    """Even ones, in the rows' order; of a field that has buckets each of one, a bucket behind the other."""
    if (field := schema.bucketed) is not None:
        bucket = buckets.of(rows[field.name], field)
        order = np.argsort(bucket, kind="stable")
        rows, ends = rows.take(order), np.cumsum(np.bincount(bucket)).tolist()
        parts = [rows.slice(start, end - start) for start, end in zip([0, *ends], ends, strict=False) if start < end]
    else:
        parts = [rows]
    for part in parts:
        num_groups = min(part.num_rows, max(1, round(int(row_bytes(part, schema).sum()) / row_group_bytes)))
        rows_per_group = math.ceil(part.num_rows / num_groups)
        for start in range(0, part.num_rows, rows_per_group):
            yield part.slice(start, rows_per_group)


def leaf(field: Field) -> str:
    return f"{field.name}.list.element" if field.is_list else field.name


def _with_firsts(
    batches: Iterable[pa.RecordBatch], schema: Schema, split: Split
) -> Iterator[tuple[pa.RecordBatch, pa.BooleanArray, pa.Table | None]]:
    """Each batch, whether a row is the first of its key, and the rows that are not, `exact` where they equal that one.

    Rows of one key come one after the other.
    """
    last = first = None
    for batch in (batch for batch in batches if batch.num_rows):
        keys, splits = batch.column(schema.key), batch.column("split")
        if splits.null_count:
            raise RecipeError(
                f"split: {splits.null_count:,} rows have nothing in column {split.by!r}, which says their split; a "
                f"rule must refuse them"
            )
        keys_before, splits_before = (
            pa.concat_arrays([pa.nulls(1, column.type) if last is None else last.column(name), column[:-1]])
            for name, column in ((schema.key, keys), ("split", splits))
        )
        last = batch.slice(batch.num_rows - 1)
        repeated = pc.fill_null(pc.equal(keys, keys_before), False)
        torn = pc.and_(repeated, pc.fill_null(pc.not_equal(splits, splits_before), False))
        if split.source is not None and torn.true_count:
            i = pc.index(torn, True).as_py()
            names = sorted([splits_before[i].as_py(), splits[i].as_py()])
            raise RecipeError(
                f"split: the rows of key {keys[i].as_py()!r} are in the splits {names[0]!r} and {names[1]!r}; "
                f"column {split.source!r} must name one split for all rows of a key",
                values=[repr(keys[i].as_py())],
            )
        is_first, rows = pc.invert(repeated), pa.table(batch.select(schema.names))
        firsts, others = rows.slice(rows.num_rows - 1), None
        if repeated.true_count:
            firsts = pa.concat_tables([*([] if first is None else [first]), rows.filter(is_first)])
            which = np.cumsum(is_first.to_numpy(zero_copy_only=False)) - (first is None)
            kept = firsts.take(which[repeated.to_numpy(zero_copy_only=False)]).combine_chunks()
            others = rows.filter(repeated).combine_chunks()
            exact = row_hashes(column_hashes(others, schema)) == row_hashes(column_hashes(kept, schema))
            others = others.append_column("exact", pa.array(exact))
        first = firsts.slice(firsts.num_rows - 1)
        yield batch, is_first, others


def _check_name(split: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise RecipeError(f"split: {split!r} cannot name a split; use letters, digits, '_' and '-'")


def _record(**values: str | bytes | int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([values], schema=WRITTEN)
