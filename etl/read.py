"""Raw formats: each function gives a DataFrame with one row per raw record, broken ones included.

Beside the record's own columns every reader gives where it came from: `_file` (its URL), `_position` (its
number in the file, where the reader knows it), `_record` (its text, where it has one), `_malformed` (whether it
could not be read) and `_why` not. Readers drop nothing and fail only where a whole file is unreadable.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from os import SEEK_CUR
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from penstock import store
from penstock.errors import RawDataError

CSV_OPTIONS = {
    "mode": "PERMISSIVE",
    "escape": '"',  # RFC 4180: a quote inside quotes is written twice
    "ignoreLeadingWhiteSpace": "true",
    "ignoreTrailingWhiteSpace": "true",
}
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_BATCH = 2_000
MAX_PARTS = 4  # beyond, decompressing what comes before its part is most of what a task does


def escaped(url: str) -> str:
    """The URL for a reader of Spark, which would take `[`, `{`, `*` or `?` in a folder's name as a pattern."""
    return re.sub(r"([\\{}\[\]*?])", r"\\\1", url)


def csv(
    spark: SparkSession,
    raw_url: str,
    columns: Mapping[str, str],
    *,
    header: bool = False,
    nullable: Collection[str] = (),
) -> DataFrame:
    """Comma-separated text in UTF-8, plain or compressed, one record a line; blank lines are no records.

    All files of the folder and of those in it are read, as the inventory counts them. `columns` maps every column, in
    the file's order, to its Spark SQL type. A record is malformed if it has other bytes than UTF-8, another number of
    fields, a value that is not of its type, or nothing in a column that is not `nullable`.
    """
    lines = spark.read.option("recursiveFileLookup", "true").text(escaped(raw_url)).where("trim(value) <> ''")
    if header:
        lines = lines.where(F.trim("value") != F.lit(",".join(columns)))
    typed = ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
    parsed = F.from_csv("value", f"{typed}, _corrupt string", {**CSV_OPTIONS, "columnNameOfCorruptRecord": "_corrupt"})
    path = F.url_decode(F.replace("_metadata.file_path", F.lit("+"), F.lit("%2B")))
    df = lines.select(
        path.alias("_file"),
        F.make_valid_utf8("value").alias("_record"),
        F.is_valid_utf8("value").alias("_is_text"),
        parsed.alias("_parsed"),
    )
    empty = [f"_parsed.`{name}` IS NULL" for name in columns if name not in set(nullable)]
    return df.select(
        *(f"_parsed.`{name}`" for name in columns),
        "_file",
        F.lit(None).cast("long").alias("_position"),
        "_record",
        F.expr(" OR ".join(["NOT _is_text", "_parsed._corrupt IS NOT NULL", *empty])).alias("_malformed"),
        _csv_reason(columns, nullable).alias("_why"),
    )


def _csv_reason(columns: Mapping[str, str], nullable: Collection[str]) -> Column:
    """Says of a malformed record what is wrong with it. Spark computes it for refused rows only."""
    wrong = []
    for name, kind in columns.items():
        bad = f"try_cast(text.`{name}` AS {kind}) IS NULL" + (
            f" AND text.`{name}` IS NOT NULL" if name in nullable else ""
        )
        found = f"coalesce(concat('\\'', text.`{name}`, '\\''), 'nothing')"
        wrong.append(f"CASE WHEN {bad} THEN concat('{name} must be {kind}, found ', {found}) END")
    ddl = ", ".join(f"`{name}` string" for name in columns)
    options = ", ".join(f"'{key}', '{value}'" for key, value in CSV_OPTIONS.items())
    # A lambda over one element, as SQL has no `let`: the record is parsed once, not once a column.
    values = (
        f"transform(array(from_csv(_record, '{ddl}', map({options}))), text -> concat_ws('; ', {', '.join(wrong)}))[0]"
    )
    fields = """size(split(regexp_replace(_record, '"[^"]*"', ''), ','))"""  # commas inside quotes part nothing
    miscounted = f"concat('expected {len(columns)} fields, found ', {fields})"
    return F.expr(
        f"CASE WHEN NOT _is_text THEN 'expected UTF-8 text, found other bytes' "
        f"WHEN {fields} <> {len(columns)} THEN {miscounted} ELSE {values} END"
    )


def idx(spark: SparkSession, images: Mapping[str, str | None], shape: tuple[int, ...]) -> DataFrame:
    """Images of one shape and their labels from pairs of idx files, plain or gzip, streamed by executors.

    `images` maps the URL of each file of images to that of its labels, or to None where there are none.
    Columns: `image` (binary, C order), and `label` (long) unless no pair has labels. Where there are more cores than
    pairs, several tasks read a pair, each its part; in a gzip file none can jump to its part, so each decompresses what
    comes before it. Source of the format: LeCun, Cortes & Burges, "The MNIST database", "File formats".
    """
    labelled = all(images.values())
    pairs = list(images.items())
    parts = min(MAX_PARTS, max(1, spark.sparkContext.defaultParallelism // len(pairs)))

    def read(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for i in (i for batch in numbers for i in batch.column(0).to_pylist()):
            image_url, label_url = pairs[i // parts]
            yield from _idx_pair(image_url, label_url, shape, labelled, i % parts, parts)

    columns = "image binary, " + ("label long, " if labelled else "")
    num_tasks = len(pairs) * parts
    one_per_task = spark.range(0, num_tasks, 1, num_tasks)
    df = one_per_task.mapInArrow(read, columns + "_file string, _position long")
    no_text = F.lit(None).cast("string")
    return df.withColumns({"_record": no_text, "_malformed": F.lit(False), "_why": no_text})


def _idx_pair(
    images: str, labels: str | None, shape: tuple[int, ...], labelled: bool, part: int, parts: int
) -> Iterator[pa.RecordBatch]:
    items = _idx_items(images, shape, part, parts)
    classes = _idx_items(labels, (), part, parts) if labelled and labels else None
    count = next(items)
    if classes is not None and (found := next(classes)) != count:
        raise RawDataError(
            f"{store.shown(images)} holds {count} images, but {store.shown(labels or '')} {found} labels; "
            f"these two files do not belong together"
        )
    start = count * part // parts
    for block in items:
        n = len(block)
        offsets = np.arange(n + 1, dtype=np.int32) * np.int32(block[0].nbytes)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(block))]
        columns = {"image": pa.BinaryArray.from_buffers(pa.binary(), n, buffers)}
        if classes is not None:
            columns["label"] = pa.array(next(classes).astype(np.int64))
        columns["_file"] = pa.array([images] * n)
        columns["_position"] = pa.array(np.arange(start, start + n))
        yield pa.RecordBatch.from_pydict(columns)
        start += n


def _idx_items(url: str, shape: tuple[int, ...], part: int, parts: int) -> Iterator[Any]:
    """First the number of items in the file, then those of the part in blocks of up to IDX_BATCH, each (n, *shape)."""
    where = store.shown(url)
    fs, path = store.filesystem(url)
    with store.storage_errors(url), fs.open(path, "rb") as raw:
        file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        try:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or head[3] != 1 + len(shape):
                expected = f"an idx file of {1 + len(shape)} dimensions (magic 0x0000??{1 + len(shape):02x})"
                raise RawDataError(
                    f"{where}: expected {expected}, found magic 0x{head.hex()}; check which file this is"
                )
            sizes = struct.unpack(f">{head[3]}I", file.read(4 * head[3]))
            if sizes[1:] != shape:
                raise RawDataError(
                    f"{where}: expected items of shape {shape}, found {sizes[1:]}; check which file this is"
                )
            yield sizes[0]
            dtype = np.dtype(IDX_TYPES[head[2]])
            item_bytes = dtype.itemsize * int(np.prod(shape, dtype=int))
            first, end = sizes[0] * part // parts, sizes[0] * (part + 1) // parts
            file.seek(first * item_bytes, SEEK_CUR)
            for start in range(first, end, IDX_BATCH):
                n = min(IDX_BATCH, end - start)
                data = file.read(n * item_bytes)
                if len(data) < n * item_bytes:
                    missing = start + len(data) // item_bytes + 1
                    raise RawDataError(
                        f"{where}: ends before item {missing:,} of {sizes[0]:,}; the file is truncated: copy it again"
                    )
                yield _little_endian(np.frombuffer(data, dtype).reshape(n, *shape))
            if end == sizes[0] and file.read(1):
                raise RawDataError(
                    f"{where}: more bytes than its header's {sizes[0]:,} items; check which file this is"
                )
        except (EOFError, gzip.BadGzipFile, zlib.error, struct.error) as error:
            raise RawDataError(
                f"{where}: cannot be read ({error}); the file is truncated or damaged: copy it again"
            ) from error


def _little_endian(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
