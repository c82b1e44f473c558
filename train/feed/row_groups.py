"""Reads rows of row groups into tensors: straight from the mapped file where values lie at a fixed stride, else
through Arrow's decoder. Every byte is checked against the manifest the first time that it is read.
"""

from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fsspec.implementations.local import LocalFileSystem

from penstock import store, tensors
from penstock.errors import DatasetError
from penstock.manifest import Manifest
from penstock.pages import LENGTH_BYTES, stride
from penstock.schema import Field, Schema
from train.feed.plan import I64

Verify = Literal["first", "always", "never"]
Column = torch.Tensor | list[str]


class RowGroups:
    """The row groups of some splits, numbered in file order. Safe to use from several threads."""

    def __init__(
        self, manifest: Manifest, splits: Sequence[str], schema: Schema, *, verify: Verify = "first", cached: int = 16
    ):
        self.schema = schema
        self._data_url = manifest.data_url
        self._verify = verify
        self._verified: set[tuple[int, str]] = set()
        table = manifest.splits(splits)
        self.num_rows: I64 = table["num_rows"].to_numpy().astype(np.int64)
        self._file = table["file"].to_pylist()
        self._group_in_file = table["row_group"].to_numpy()
        self._file_bytes = table["file_bytes"].to_numpy()
        places = table["columns"].combine_chunks()
        self._places = {
            name: {key: places.field(name).field(key).to_pylist() for key in ("offset", "num_bytes", "crc32", "values")}
            for name in schema.names
        }
        self._opened = Cache(self._open, cached)
        self._decoded = Cache(self._decode, cached)

    def read(self, group: int, rows: I64, column: str) -> Column:
        """The values of one column in these rows of a row group: `(len(rows), *shape)`, or a list of strings.

        Raises: DatasetError where the file is missing, of another length, or of another checksum.
        """
        field = self.schema[column]
        values_at = self._places[column]["values"][group]
        width = stride(field)
        if values_at is None or width is None:
            decoded = self._decoded.get((group, column))
            if isinstance(decoded, torch.Tensor):
                return decoded[torch.from_numpy(rows)]
            strings: list[str] = decoded.take(pa.array(rows)).to_pylist()
            return strings
        content = self._opened.get(self._file[group])
        if self._verify != "never":
            self._check(group, column, content)
        strided = np.frombuffer(content, np.uint8, self.num_rows[group] * width, values_at).reshape(-1, width)
        raw = strided[:, LENGTH_BYTES:][rows] if field.is_tensor else strided[rows]  # (len(rows), bytes): the one copy
        return _typed(raw, field)

    def _open(self, file: str) -> Any:
        """The bytes of a file: mapped where it is local, read whole where it is not."""
        url = store.inside(self._data_url, file)
        fs, path = store.filesystem(url)
        expected = int(self._file_bytes[self._file.index(file)])
        try:
            if isinstance(fs, LocalFileSystem):
                with open(path, "rb") as opened:
                    found = os.fstat(opened.fileno()).st_size
                    content = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) if found else b""
            else:
                content = fs.cat_file(path)
                found = len(content)
        except FileNotFoundError as error:
            raise DatasetError(f"{store.shown(url)}: the file is missing; build the dataset again") from error
        if found != expected:
            raise DatasetError(
                f"{store.shown(url)}: expected {expected:,} bytes, found {found:,}; build the dataset again"
            )
        return content

    def _check(self, group: int, column: str, content: Any) -> None:
        if self._verify == "first" and (group, column) in self._verified:
            return
        place = self._places[column]
        start, expected = place["offset"][group], place["crc32"][group]
        found = zlib.crc32(memoryview(content)[start : start + place["num_bytes"][group]])
        if found != expected:
            raise DatasetError(
                f"{store.shown(store.inside(self._data_url, self._file[group]))}: row group "
                f"{self._group_in_file[group]}, column {column!r}: expected CRC-32 {expected:08x}, found {found:08x}; "
                f"the file was changed: build the dataset again"
            )
        self._verified.add((group, column))

    def _decode(self, key: tuple[int, str]) -> Any:
        """A whole column chunk by Arrow: an array of strings, or a tensor."""
        group, column = key
        field, file = self.schema[column], self._file[group]
        content = self._opened.get(file)
        self._check(group, column, content)
        try:
            parquet = pq.ParquetFile(pa.BufferReader(pa.py_buffer(content)))
            table = parquet.read_row_group(int(self._group_in_file[group]), columns=[column], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{file}: cannot be read as Parquet ({error}); build the dataset again") from error
        values = table[column].combine_chunks()
        if field.dtype == "string":
            return values
        if field.is_tensor:
            return torch.from_numpy(tensors.view(values, field, file).copy())
        return torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())


def _typed(raw: np.ndarray, field: Field) -> torch.Tensor:
    """(n, bytes) as Parquet keeps them -> (n, *shape) of the field's dtype; no copy but for 8- and 16-bit scalars."""
    if field.is_tensor:
        return torch.from_numpy(raw.view(field.numpy_dtype).reshape(len(raw), *field.shape))
    stored = np.dtype("<i4") if field.dtype in ("int8", "int16") else field.numpy_dtype
    return torch.from_numpy(raw.view(stored).reshape(-1).astype(field.numpy_dtype, copy=False))


def concatenate(parts: Sequence[Column]) -> Column:
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return torch.cat([part for part in parts if isinstance(part, torch.Tensor)])


class Cache:
    """Computes a value once, even when several threads ask for it at once, and keeps the last `size` used."""

    def __init__(self, compute: Callable[[Any], Any], size: int) -> None:
        self._compute, self._size = compute, size
        self._entries: OrderedDict[Hashable, tuple[threading.Lock, list[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            lock, value = self._entries.setdefault(key, (threading.Lock(), []))
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        with lock:
            if not value:
                value.append(self._compute(key))
        return value[0]
