"""Small Parquet files as ETL writes them, for the tests that need no Spark."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import settings
from PIL import Image

from penstock import tensors
from penstock.schema import Field, Schema

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

SCHEMA = Schema(
    (Field("id", "string"), Field("x", "int16", (2, 3)), Field("n", "int32"), Field("label", "int64")),
    key="id",
    label="label",
)
# As ETL writes: values of fixed width lie in place.
IN_PLACE: Mapping[str, Any] = {"use_dictionary": False, "compression": "none", "data_page_size": 1 << 30}


def rows(first: int, count: int) -> pa.Table:
    """Rows of SCHEMA whose values all follow from their number."""
    numbers = np.arange(first, first + count)
    x = (numbers[:, None] * 7 + np.arange(6)).astype(np.int16).reshape(count, 2, 3)
    columns = [pa.array([f"r{i}" for i in numbers]), tensors.pack(x, SCHEMA["x"])]
    columns += [pa.array(numbers, pa.int32()), pa.array(numbers % 10, pa.int64())]
    return pa.table(columns, schema=pa.schema([pa.field(f.name, f.arrow_type, False) for f in SCHEMA.fields]))


def png(height: int, width: int, mode: str = "RGB") -> bytes:
    """A picture whose pixels follow from their places."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.arange(height * width * channels).astype(np.uint8)
    file = io.BytesIO()
    Image.frombytes(mode, (width, height), pixels.tobytes()).save(file, "PNG")
    return file.getvalue()


def write(path: Path, table: pa.Table, rows_per_group: int = 1_000_000, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group, write_page_checksum=True, **{**IN_PLACE, **options})
    return path
