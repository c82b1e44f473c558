"""The manifest: every row group of a version, in columns, so that a reader lists no folder and reads no footer.

One row per row group, in file order: split, file (relative to the folder of the files), row_group, num_rows,
file_bytes, file_sha256, footer_bytes and footer_crc32 (of the file's last bytes, which say what the others are), and
`columns`, a struct with one entry per field:

    offset, num_bytes   where the field's column chunk lies in the file
    crc32               of these bytes
    values              where the first value lies if the chunk is one uncompressed PLAIN page of values of one
                        width, which can be read in place: value i is at `values + i * stride`; else null

Where a field has buckets of lengths there is a column `bucket` too: how many of its borders the lengths are above.

Checksums are null where files were adopted and their bytes never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import card as cards
from penstock import store
from penstock.card import Card, ManifestFile
from penstock.errors import DatasetError
from penstock.schema import Schema

NAME = "_manifest.parquet"


def arrow_schema(schema: Schema) -> pa.Schema:
    place = pa.struct(
        [("offset", pa.int64()), ("num_bytes", pa.int64()), ("crc32", pa.uint32()), ("values", pa.int64())]
    )
    return pa.schema(
        [
            ("split", pa.string()),
            ("file", pa.string()),
            ("row_group", pa.int32()),
            ("num_rows", pa.int64()),
            ("file_bytes", pa.int64()),
            ("file_sha256", pa.string()),
            ("footer_bytes", pa.int64()),
            ("footer_crc32", pa.uint32()),
            ("columns", pa.struct([(name, place) for name in schema.names])),
            *([("bucket", pa.int32())] if schema.bucketed else []),
        ]
    )


@dataclass(frozen=True)
class Manifest:
    """The row groups of one version. `data_url` is the folder that file names are relative to."""

    data_url: str
    table: pa.Table

    def splits(self, names: Sequence[str]) -> pa.Table:
        """The row groups of these splits, one split after the other, each in file order.

        Raises: DatasetError for a split that is named twice, whose rows would come twice.
        """
        if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
            raise DatasetError(f"{store.shown(self.data_url)}: split {repeated[0]!r} is asked for twice; name it once")
        return pa.concat_tables([self.table.filter(pc.field("split") == name) for name in names])

    @property
    def files(self) -> dict[str, tuple[int, str | None]]:
        """file -> (bytes, SHA-256)."""
        columns = (self.table[name].to_pylist() for name in ("file", "file_bytes", "file_sha256"))
        return {file: (num_bytes, sha256) for file, num_bytes, sha256 in zip(*columns, strict=True)}


def write(folder_url: str, tables: Sequence[pa.Table], schema: Schema, path: str = NAME) -> ManifestFile:
    """Writes the manifest of a version from the tables of its files, which may come in any order."""
    table = pa.concat_tables([arrow_schema(schema).empty_table(), *tables])
    table = table.sort_by([("split", "ascending"), ("file", "ascending"), ("row_group", "ascending")])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    store.write_new(store.join(folder_url, path), content)
    return ManifestFile(path, len(content), hashlib.sha256(content).hexdigest())


def read(dataset_url: str, card: Card) -> Manifest:
    """The manifest that a card names.

    Raises: DatasetError where it is missing, of another checksum, or names files outside the dataset.
    """
    data_url = cards.files_url(dataset_url, card)
    is_adopted = card.kind == "adopted"
    url = store.inside(store.absolute(dataset_url) if is_adopted else data_url, card.manifest.path)
    again = "remove its card and adopt the files again" if is_adopted else "build the dataset again"
    try:
        content = store.read_bytes(url)
    except FileNotFoundError as error:
        raise DatasetError(f"{store.shown(url)}: the manifest is missing; {again}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.manifest.sha256:
        raise DatasetError(
            f"{store.shown(url)}: expected {card.manifest.num_bytes} bytes with SHA-256 {card.manifest.sha256[:12]}…, "
            f"found {len(content)} bytes with {found[:12]}…; the manifest was changed: {again}"
        )
    table = pq.read_table(pa.BufferReader(content))
    files = pc.unique(table["file"])
    for file in files.filter(pc.match_substring_regex(files, store.LEADS_OUT)).to_pylist():
        store.inside(data_url, file)  # raises
    return Manifest(data_url, table)
