"""Where the values of a row group lie in memory: in the mapped file, if they have a fixed stride there, else as
Arrow decodes them. Every byte is checked against the manifest the first time that it is read.
"""

from __future__ import annotations

import mmap
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from penstock import cast, store, tensors
from penstock.errors import DatasetError
from penstock.manifest import Manifest
from penstock.pages import LENGTH_BYTES, stride
from penstock.schema import Field, Schema
from train.feed.plan import I64
from train.feed.timing import Timings

Verify = Literal["first", "always", "never"]


@dataclass(frozen=True)
class Values:
    """Values of one width in memory: the i-th of group k at `starts[k] + i * stride`, for as long as `owners` live."""

    starts: I64
    stride: int
    owners: Sequence[Any]


@dataclass(frozen=True)
class Lists:
    """Lists of numbers in memory: the i-th in the bytes `offsets[i]` to `offsets[i + 1]` from `address` on."""

    address: int
    offsets: I64  # (rows + 1,)
    owner: Any


class RowGroups:
    """The row groups of some splits, numbered in file order. Safe to use from several threads.

    `kept` row groups are held decoded, and as many files open.
    """

    def __init__(
        self, manifest: Manifest, splits: Sequence[str], schema: Schema, timings: Timings, verify: Verify, kept: int
    ) -> None:
        self.schema = schema
        self._timings = timings
        self._verify = verify
        self._data_url = manifest.data_url
        table = manifest.splits(splits)
        self.num_rows: I64 = table["num_rows"].to_numpy().astype(np.int64)
        files = table["file"].combine_chunks().dictionary_encode()
        self._files = files.dictionary.to_pylist()
        self._file = files.indices.to_numpy()  # (groups,) its file's place in `_files`
        self._group_in_file = table["row_group"].to_numpy()
        self._file_bytes = table["file_bytes"].to_numpy()
        self._footer_bytes, self._footer_crc32 = (table[f"footer_{x}"].to_numpy() for x in ("bytes", "crc32"))
        places = table["columns"].combine_chunks()
        self._places = {name: _Places(places.field(name)) for name in schema.names}
        self._check_places()
        self._opened = Cache(self._open, kept)
        self._footers = Cache(self._read_footer, kept)
        self._decoded = Cache(self._decode, kept * len(schema.names))

    def contents(self, groups: I64) -> list[Any]:
        """For each of the groups the bytes of its file. Raises: DatasetError where it is missing or of another size."""
        found = []
        for file, expected in zip(self._file[groups].tolist(), self._file_bytes[groups].tolist(), strict=True):
            content = self._opened.get(file)
            mapped = memoryview(content.base).obj  # numpy may keep a memoryview of it
            if isinstance(mapped, mmap.mmap) and mapped.size() != expected:  # to read it would end in a SIGBUS
                raise self._wrong_size(file, expected, mapped.size())
            found.append(content)
        return found

    def values(self, groups: I64, contents: Sequence[Any], column: str) -> Values:
        """Where the groups have the values of a column of fixed width. Raises: as `column`."""
        field, place = self.schema[column], self._places[column]
        width, in_file = stride(field), place.values[groups]
        if width is None or (in_file < 0).any():
            decoded = [self._decoded.get((group, column)) for group in groups.tolist()]
            return Values(np.array([values.ctypes.data for values in decoded]), field.num_bytes, decoded)
        self._check(groups, contents, column)
        skipped = LENGTH_BYTES if field.is_tensor else 0
        starts = np.array([content.ctypes.data for content in contents])
        return Values(starts + in_file + skipped, width, contents)

    def lists(self, group: int, column: str) -> Lists:
        """All lists of a column. Raises: as `column`."""
        found: Lists = self._decoded.get((group, column))
        return found

    def column(self, group: int, column: str) -> Any:
        """All values of a column: (rows, bytes of a value) uint8; or (rows,) objects, str or bytes.

        Raises: DatasetError where the file is not what was published.
        """
        field, in_file, num_rows = self.schema[column], int(self._places[column].values[group]), self.num_rows[group]
        width = stride(field)
        if width is None or in_file < 0:
            return self._decoded.get((group, column))
        groups = np.array([group])
        contents = self.contents(groups)
        self._check(groups, contents, column)
        skipped = LENGTH_BYTES if field.is_tensor else 0  # numbers of 8 and 16 bits come first in their 32
        values = contents[0][in_file : in_file + num_rows * width].reshape(num_rows, width)
        return values[:, skipped : skipped + field.num_bytes]

    def _check(self, groups: I64, contents: Sequence[Any], column: str) -> None:
        place = self._places[column]
        if self._verify == "never" or (self._verify == "first" and place.verified[groups].all()):
            return
        with self._timings("fetch"):
            for group, content in zip(groups.tolist(), contents, strict=True):
                if not place.has_crc32[group] or (self._verify == "first" and place.verified[group]):
                    continue
                start, expected = int(place.offset[group]), int(place.crc32[group])
                found = zlib.crc32(content[start : start + int(place.num_bytes[group])])
                if found != expected:
                    raise DatasetError(
                        f"{self._where(group, column)}: expected CRC-32 {expected:08x}, found {found:08x}; "
                        f"the file was changed: build the dataset again"
                    )
                place.verified[group] = True

    def _open(self, file: int) -> Any:
        """(bytes of the file,) uint8: mapped where it is local, read whole where it is not."""
        url = self._url(file)
        fs, path = store.filesystem(url)
        expected = int(self._file_bytes[np.argmax(self._file == file)])
        try:
            with self._timings("fetch"):
                if isinstance(fs, LocalFileSystem):
                    with open(path, "rb") as opened:
                        # A file of no bytes cannot be mapped.
                        content = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) if opened.seek(0, 2) else b""
                else:
                    content = fs.cat_file(path)
        except FileNotFoundError as error:
            raise DatasetError(f"{store.shown(url)}: the file is missing; build the dataset again") from error
        if len(content) != expected:
            raise self._wrong_size(file, expected, len(content))
        return np.frombuffer(content, np.uint8)

    def _read_footer(self, file: int) -> pq.FileMetaData:
        """What Arrow needs to decode columns, checked: a changed one would make it read something else."""
        group = int(np.argmax(self._file == file))
        footer = self.contents(np.array([group]))[0][-int(self._footer_bytes[group]) :]
        where = f"{store.shown(self._url(file))}: the footer, which row group {self._group_in_file[group]} needs"
        expected, found = int(self._footer_crc32[group]), zlib.crc32(footer)
        if self._verify != "never" and found != expected:
            raise DatasetError(
                f"{where}: expected CRC-32 {expected:08x}, found {found:08x}; "
                f"the file was changed: build the dataset again"
            )
        try:
            return pq.read_metadata(pa.BufferReader(pa.py_buffer(footer)))
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{where}: cannot be read as Parquet ({error}); build the dataset again") from error

    def _decode(self, key: tuple[int, str]) -> Any:
        group, column = key
        field, where, expected = self.schema[column], self._where(group, column), int(self.num_rows[group])
        contents = self.contents(np.array([group]))
        self._check(np.array([group]), contents, column)
        footer = self._footers.get(int(self._file[group]))
        with self._timings("decode"):
            try:
                unchecked = self._verify != "never" and not self._places[column].has_crc32[group]
                source = pa.BufferReader(pa.py_buffer(contents[0]))
                parquet = pq.ParquetFile(source, metadata=footer, page_checksum_verification=unchecked)
                table = parquet.read_row_group(int(self._group_in_file[group]), columns=[column], use_threads=False)
                values = table[column].combine_chunks()
                num_nulls = cast.num_nulls(values)
                if len(values) != expected or num_nulls:
                    raise DatasetError(
                        f"{where}: expected {expected:,} values of {field.arrow_type} and no null, found "
                        f"{len(values):,} of {values.type} and {num_nulls:,} nulls; build the dataset again"
                    )
                return _plain(cast.cast(values, field), field, where)
            except (pa.ArrowException, OSError, LookupError) as error:
                raise DatasetError(f"{where}: cannot be read as Parquet ({error}); build the dataset again") from error

    def _check_places(self) -> None:
        """Raises: DatasetError where values in place would reach out of their column chunk, or that out of its file."""
        for name, place in self._places.items():
            end = place.offset + place.num_bytes
            wrong = (place.offset < 0) | (place.num_bytes < 0) | (end > self._file_bytes)
            if (width := stride(self.schema[name])) is not None:
                beyond = (place.values < place.offset) | (place.values + self.num_rows * width > end)
                wrong |= (place.values >= 0) & beyond
            if wrong.any():
                raise DatasetError(
                    f"{self._where(int(np.argmax(wrong)), name)}: the manifest names a place outside the file; "
                    f"build the dataset again"
                )

    def _url(self, file: int) -> str:
        return store.inside(self._data_url, self._files[file])

    def _where(self, group: int, column: str) -> str:
        url = store.shown(self._url(int(self._file[group])))
        return f"{url}: row group {self._group_in_file[group]}, column {column!r}"

    def _wrong_size(self, file: int, expected: int, found: int) -> DatasetError:
        where = store.shown(self._url(file))
        return DatasetError(f"{where}: expected {expected:,} bytes, found {found:,}; build the dataset again")


class _Places:
    """The manifest's columns for one field, each (groups,); `values` is -1 where there is none."""

    def __init__(self, column: pa.StructArray) -> None:
        self.offset: I64 = column.field("offset").to_numpy()
        self.num_bytes: I64 = column.field("num_bytes").to_numpy()
        self.crc32 = column.field("crc32").fill_null(0).to_numpy()
        self.has_crc32 = column.field("crc32").is_valid().to_numpy(zero_copy_only=False)  # adopted files may have none
        self.values: I64 = column.field("values").fill_null(-1).to_numpy()
        self.verified = np.zeros(len(column), np.bool_)


def _plain(values: pa.Array, field: Field, where: str) -> Any:
    """Arrow's values -> as `column` and `lists` give them."""
    if field.is_list:
        width = field.numpy_dtype.itemsize
        elements = values.values.to_numpy()
        return Lists(elements.ctypes.data, values.offsets.to_numpy().astype(np.int64) * width, elements)
    if field.is_varying:
        return values.to_numpy(zero_copy_only=False)
    typed = tensors.view(values, field, where) if field.is_tensor else values.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(typed).reshape(len(values), -1).view(np.uint8)


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
