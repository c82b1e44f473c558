"""Publishes rows as a dataset version without Spark, laid out as ETL lays them out, for benches of the feed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.cases import Columns
from penstock import card as cards
from penstock import manifest, tensors
from penstock.audit import audit_file
from penstock.card import Card
from penstock.digest import combine
from penstock.schema import Schema

VERSION, DATA, SPLIT = "bench", "data/bench", "train"
# One uncompressed PLAIN page per row group and column, as docs/data_format.md asks.
AS_ETL_WRITES = {
    "use_dictionary": False,
    "compression": "none",
    "data_page_size": 1 << 30,
    "max_rows_per_page": 1 << 30,
    "write_statistics": False,
}


def publish(folder: Path, schema: Schema, files: Iterable[Iterable[Columns]]) -> Path:
    """One split, `train`, of files of row groups. Returns the folder of its Parquet files."""
    data_url = f"file://{folder}/{DATA}"
    arrow = pa.schema([(field.name, field.arrow_type) for field in schema.fields])  # which may hold nulls, as ETL's
    parquet = folder / DATA / f"split={SPLIT}"
    parquet.mkdir(parents=True)
    audits = []
    for number, groups in enumerate(files):
        name = f"part-{number:05d}.parquet"
        with pq.ParquetWriter(parquet / name, arrow, **AS_ETL_WRITES) as writer:
            for group in groups:
                writer.write_table(table(group, schema, arrow))
        audits.append(audit_file(data_url, f"split={SPLIT}/{name}", SPLIT, schema))
    total = sum(audit.num_rows for audit in audits)
    card = Card(
        version=VERSION,
        recipe="bench",
        data=DATA,
        manifest=manifest.write(data_url, [audit.row_groups for audit in audits], schema),
        schema=schema,
        counts={"raw": total, "quarantined": 0, "clean": total, "duplicates": 0, "built": total},
        splits={SPLIT: cards.Split(total, combine(audit.digest for audit in audits))},
        transforms={},
        lineage={},
    )
    cards.publish(f"file://{folder}", card)
    return parquet


def table(group: Columns, schema: Schema, arrow: pa.Schema) -> pa.Table:
    columns = [
        tensors.pack(group[field.name], field) if field.is_tensor else pa.array(group[field.name], field.arrow_type)
        for field in schema.fields
    ]
    return pa.table(columns, schema=arrow)
