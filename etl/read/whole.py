"""Files that are records themselves, in folders and in archives: pictures, sounds, or any bytes, as they are."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read.files import Stream, by_task, damaged, listed, planned, streams, with_damaged
from etl.read.records import Format, decoded
from penstock import encoded, store
from penstock.errors import RecipeError

ENDINGS = {"png": "*.png", "jpeg": "*.jp*g", "wav": "*.wav", "npy": "*.npy", "npz": "*.npz"}
BATCH_BYTES = 16 << 20
LONGEST_BYTES = 1 << 30  # of a file; Arrow's and Spark's binaries end at 2 GiB


def files(
    spark: SparkSession, raw_url: str, encoding: str | None = None, *, only: str | None = None, unreadable: str = "fail"
) -> DataFrame:
    """One row a file: its `path` below the raw URL, or in the archive that this names, and its bytes as `content`.

    `encoding`, one of `Field`'s (png, jpeg, wav, npy, npz), reads the files that are named so unless `only` says which;
    one that is no such picture or sound, ends too early, or is a PNG whose checksums do not hold, is malformed.
    """
    if encoding is not None and encoding not in ENDINGS:
        raise RecipeError(f"files: expected an encoding of {', '.join(ENDINGS)}, found {encoding!r}")
    only = only or ENDINGS.get(encoding or "", "*")
    urls = listed(raw_url, only)
    damage = damaged(spark, urls, unreadable, only)
    found = contents(spark, raw_url, [url for url in urls if url not in damage], only, encoding)
    df = found.select(
        "path",
        F.col("value").alias("content"),
        "_file",
        "_position",
        F.lit(None).cast("string").alias("_record"),
        F.col("_problem").isNotNull().alias("_malformed"),
        F.col("_problem").alias("_why"),
    )
    return with_damaged(df, spark, damage)


def contents(
    spark: SparkSession, raw_url: str, urls: Collection[str], only: str, kind: Format | str | None = None
) -> DataFrame:
    """`path`, `value` (a string where `kind` is a Format), `_file`, `_problem`, and `_position`, which is null."""
    tasks = planned(spark, urls)

    def read(task: int) -> Iterator[pa.RecordBatch]:
        batch: list[tuple[str, bytes, str | None]] = []
        num_bytes = 0
        for stream in (stream for part in tasks[task] for stream in streams(part, only)):
            value, problem = _looked_at(_whole(stream), kind)
            batch.append((stream.url, value, problem))
            num_bytes += len(value)
            if num_bytes >= BATCH_BYTES:
                yield _batch(batch)
                batch, num_bytes = [], 0
        if batch:
            yield _batch(batch)

    df = by_task(spark, len(tasks), read, "value binary, _file string, _problem string")
    path = F.ltrim(F.substring("_file", F.lit(len(store.raw_folder(raw_url)) + 1), F.length("_file")), F.lit("!/"))
    return df.withColumns(
        {
            "path": F.when(F.col("_file") == raw_url, raw_url.rsplit("/", 1)[-1]).otherwise(path),
            "value": F.col("value").cast("string") if isinstance(kind, Format) else F.col("value"),
            "_position": F.lit(None).cast("long"),
        }
    )


def _whole(stream: Stream) -> bytes:
    """The file; of one that is too long as much as shows it."""
    chunks, num_bytes = [], 0
    for chunk in stream.chunks():
        chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > LONGEST_BYTES:
            break
    return b"".join(chunks)


def _batch(rows: list[tuple[str, bytes, str | None]]) -> pa.RecordBatch:
    urls, values, problems = zip(*rows, strict=True)
    columns = [pa.array(values, pa.binary()), pa.array(urls, pa.string()), pa.array(problems, pa.string())]
    return pa.RecordBatch.from_arrays(columns, ["value", "_file", "_problem"])


def _looked_at(value: bytes, kind: Format | str | None) -> tuple[bytes, str | None]:
    if len(value) > LONGEST_BYTES:
        return b"", f"expected a file of at most {LONGEST_BYTES:,} bytes"
    if isinstance(kind, Format):
        return decoded(value, kind), None
    return value, None if kind is None else _problem(value, kind)


def _problem(value: bytes, encoding: str) -> str | None:
    try:
        encoded.HEADERS[encoding](value)
        if encoding == "png":
            _check_png(value)
    except encoded.ERRORS as error:
        return f"expected {encoding}, found {len(value):,} bytes that begin with {value[:8]!r} ({error})"
    return None


def _check_png(value: bytes) -> None:
    """Source: W3C, "Portable Network Graphics (PNG) Specification", 5.3 and 5.4: each chunk ends with its CRC."""
    at = len(encoded.PNG_START)
    while at < len(value):
        length, kind = struct.unpack_from(">I4s", value, at)
        (crc,) = struct.unpack_from(">I", value, at + 8 + length)
        if zlib.crc32(memoryview(value)[at + 4 : at + 8 + length]) != crc:
            raise ValueError(f"its chunk {kind.decode('latin1')} at byte {at:,} is damaged")
        if kind == b"IEND":
            return
        at += 12 + length
