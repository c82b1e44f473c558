"""Reads one Parquet file of a version back, byte by byte: proves that it can be read and says what is in it.

ETL runs this over every file that it wrote, before the card; `penstock verify` runs it again at any later time.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock import buckets, encoded, manifest, store, tensors
from penstock import profile as profiles
from penstock.digest import U64, column_hashes, row_hashes, sum_of
from penstock.errors import DatasetError, PenstockError
from penstock.pages import chunk_range, footer_bytes, values_offset
from penstock.profile import Profile
from penstock.schema import Field, Schema


@dataclass(frozen=True)
class FileAudit:
    """What one file holds. `row_groups` are its rows of the manifest."""

    row_groups: pa.Table
    num_rows: int
    digest: int
    profile: Profile | None  # None where it was not asked for
    contents: U64 | None = field(
        default=None, compare=False
    )  # with it: (n,) hashes of the rows without their keys; not sent

    def to_bytes(self) -> bytes:
        """For the way from an executor to the driver: the row groups as an Arrow stream, the rest in its metadata."""
        rest = {b"audit": json.dumps([self.num_rows, self.digest]).encode()}
        if self.profile is not None:
            rest[b"profile"] = self.profile.to_bytes()
        sink = pa.BufferOutputStream()
        table = self.row_groups.replace_schema_metadata(rest)
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, content: bytes) -> FileAudit:
        table = pa.ipc.open_stream(content).read_all()
        num_rows, digest = json.loads(table.schema.metadata[b"audit"])
        found = table.schema.metadata.get(b"profile")
        profile = None if found is None else Profile.from_bytes(found)
        return cls(table.replace_schema_metadata(None), num_rows, digest, profile)


def audit_file(data_url: str, file: str, split: str, schema: Schema, profiled: bool = False) -> FileAudit:
    """Reads one file whole; `profiled` also says what its values are like.

    Raises: DatasetError where the file cannot be read, holds other columns, types, widths or nulls, or encoded
    values whose headers say something else than the schema.
    """
    where = store.shown(store.inside(data_url, file))
    try:
        content = store.read_bytes(store.inside(data_url, file))
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        _check_columns(parquet.schema_arrow, schema, where)
        return _audit(memoryview(content), parquet, file, split, schema, where, profiled)
    except PenstockError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{where}: the file is missing; build the dataset again") from error
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:  # a changed byte can lead Arrow anywhere
        raise DatasetError(f"{where}: cannot be read as Parquet ({error}); build the dataset again") from error


def _audit(
    content: memoryview,
    parquet: pq.ParquetFile,
    file: str,
    split: str,
    schema: Schema,
    where: str,
    profiled: bool,
) -> FileAudit:
    digest = num_rows = 0
    contents = [np.zeros(0, np.uint64)]
    without_key = [c for c, field in enumerate(schema.fields) if field.name != schema.key]
    profile = profiles.empty(schema) if profiled else None
    sha256 = hashlib.sha256(content).hexdigest()
    footer = content[-footer_bytes(content) :]
    rows = []
    for g in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(g)
        table = parquet.read_row_group(g, columns=schema.names, use_threads=False)
        places = {}
        for c in range(group.num_columns):
            chunk = group.column(c)
            field = schema[chunk.path_in_schema.split(".")[0]]  # a list's leaf is `<field>.list.element`
            start, num_bytes = chunk_range(chunk)
            raw = content[start : start + num_bytes]
            column = table[field.name]
            _check_nulls(column, field, where)
            if field.is_encoded:
                _check_encoded(column, field, f"{where}, row group {g}")
            if field.is_tensor:
                tensors.view(column.combine_chunks(), field, where)  # raises
            in_place = values_offset(raw, field, group.num_rows) if chunk.compression == "UNCOMPRESSED" else None
            places[field.name] = {
                "offset": start,
                "num_bytes": len(raw),
                "crc32": zlib.crc32(raw),
                "values": None if in_place is None else start + in_place,
            }
        columns = column_hashes(table, schema)
        hashes = row_hashes(columns)
        if profiled:
            contents.append(row_hashes([columns[c] for c in without_key]) if without_key else np.zeros_like(hashes))
        digest += sum_of(hashes)
        if profile is not None:
            profile = profiles.add(profile, table, schema, columns, hashes)
        num_rows += group.num_rows
        rows.append(
            {
                "split": split,
                "file": file,
                "row_group": g,
                "num_rows": group.num_rows,
                "file_bytes": len(content),
                "file_sha256": sha256,
                "footer_bytes": len(footer),
                "footer_crc32": zlib.crc32(footer),
                "columns": places,
                **({"bucket": _bucket(table, schema.bucketed, f"{where}, row group {g}")} if schema.bucketed else {}),
            }
        )
    table = pa.Table.from_pylist(rows, schema=manifest.arrow_schema(schema))
    return FileAudit(table, num_rows, digest % 2**64, profile, np.concatenate(contents) if profiled else None)


def _bucket(rows: pa.Table, field: Field, where: str) -> int:
    """The bucket of all lists of a row group."""
    found = np.unique(buckets.of(rows[field.name], field))
    if len(found) != 1:
        raise DatasetError(f"{where}: lists of {len(found)} buckets in {field.name!r}, expected one; build it again")
    return int(found[0])


def _check_nulls(column: pa.ChunkedArray, field: Field, where: str) -> None:
    inside = sum(chunk.flatten().null_count for chunk in column.chunks) if field.is_list else 0
    if column.null_count or inside:
        place = f"column {field.name!r}" if column.null_count else f"the lists of column {field.name!r}"
        raise DatasetError(
            f"{where}: {column.null_count or inside} nulls in {place}, expected none; "
            f"the recipe's clean() must fill them, or a rule refuse the rows"
        )


def _check_encoded(column: pa.ChunkedArray, field: Field, where: str) -> None:
    for row, value in enumerate(column.to_pylist()):
        try:
            encoded.check(value, field)
        except DatasetError as error:
            raise DatasetError(
                f"{where}, row {row}: {error}; the recipe's clean() must mend such values, or a rule refuse the rows",
                error.values,
            ) from None  # of what an executor raises, only the first sentence is shown


def _check_columns(found: pa.Schema, schema: Schema, where: str) -> None:
    expected = {field.name: field.arrow_type for field in schema.fields}
    # Whether a file allows nulls does not matter, only whether it has any: neither of columns nor of elements.
    types = [pa.list_(t.value_type) if pa.types.is_list(t) else t for t in found.types]
    differs = [
        f"{name}: expected {expected.get(name, 'no such column')}, found {there.get(name, 'none')}"
        for there in [dict(zip(found.names, types, strict=True))]
        for name in dict.fromkeys([*expected, *there])
        if expected.get(name) != there.get(name)
    ]
    if differs:
        raise DatasetError(f"{where}: other columns than the schema's: {'; '.join(differs)}")
