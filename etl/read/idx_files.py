"""idx files, the format of MNIST: images of one shape and their labels, in pairs of files.

Source of the format: LeCun, Cortes & Burges, "The MNIST database", "File formats".
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator, Mapping
from os import SEEK_CUR
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read.files import by_task
from penstock import store
from penstock.errors import RawDataError

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_BATCH = 2_000
MAX_PARTS = 4  # beyond, decompressing what comes before its part is most of what a task does


def idx(spark: SparkSession, images: Mapping[str, str | None], shape: tuple[int, ...]) -> DataFrame:
    """Images of one shape and their labels from pairs of idx files, plain or gzip, streamed by executors.

    `images` maps the URL of each file of images to that of its labels, or to None where there are none.
    Columns: `image` (binary, C order), and `label` (long) unless no pair has labels. Where there are more cores than
    pairs, several tasks read a pair, each its part; in a gzip file none can jump to its part, so each decompresses what
    comes before it.
    """
    labelled = all(images.values())
    pairs = list(images.items())
    parts = min(MAX_PARTS, max(1, spark.sparkContext.defaultParallelism // len(pairs)))

    def read(task: int) -> Iterator[pa.RecordBatch]:
        image_url, label_url = pairs[task // parts]
        return _idx_pair(image_url, label_url, shape, labelled, task % parts, parts)

    columns = "image binary, " + ("label long, " if labelled else "")
    df = by_task(spark, len(pairs) * parts, read, columns + "_file string, _position long")
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
