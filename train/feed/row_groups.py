"""Where the values of a row group lie in memory: in the mapped file or the fetched bytes, if they have a fixed stride
there, else as Arrow decodes them. Every byte is checked against the manifest the first time that it is read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
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
from train.feed.disk_cache import U8, DiskCache
from train.feed.fetch import Part, Patience, Ranges, coalesce, fetch, wrong_size
from train.feed.plan import I64
from train.feed.timing import Timings

CUT_BYTES = 64 << 20
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

    A row group of more than CUT_BYTES counts as several, of rows that follow each other: `num_rows` are theirs. So a
    file of one huge row group is shuffled and read in parts, whatever is then read of it. (What must be decoded is
    decoded whole.)

    Local files are mapped. Of others a row group is `load`ed, as far as `columns` go; through the `cache` if there is
    one, under names below `cached_as`, which are to stand for this content alone. `kept` row groups are held decoded,
    and as many files and footers open.
    """

    def __init__(
        self,
        manifest: Manifest,
        splits: Sequence[str],
        schema: Schema,
        columns: Sequence[str],
        timings: Timings,
        verify: Verify,
        kept: int,
        cache: DiskCache | None = None,
        cached_as: str = "",
    ) -> None:
        self.schema, self._columns = schema, columns
        self._cache, self._cached_as = cache, cached_as
        self._timings = timings
        self._verify = verify
        self._data_url = manifest.data_url
        self.is_local = isinstance(store.filesystem(manifest.data_url)[0], LocalFileSystem)
        whole = manifest.splits(splits)
        cuts, self.num_rows, self._first_row = _cut(whole)
        table = whole.take(np.repeat(np.arange(len(whole)), cuts))
        self._whole = np.repeat(np.cumsum(cuts) - cuts, cuts)  # (groups,) the first of the ones cut from a row group
        files = table["file"].combine_chunks().dictionary_encode()
        self._files = files.dictionary.to_pylist()
        self._file = files.indices.to_numpy()  # (groups,) its file's place in `_files`
        self._first_group = np.unique(self._file, return_index=True)[1]  # (files,)
        self._group_in_file = table["row_group"].to_numpy()
        bucketed = "bucket" in table.column_names
        self.buckets: I64 | None = table["bucket"].to_numpy().astype(np.int64) if bucketed else None  # (groups,)
        self._file_bytes = table["file_bytes"].to_numpy()
        self._footer_bytes, self._footer_crc32 = (table[f"footer_{x}"].to_numpy() for x in ("bytes", "crc32"))
        places = table["columns"].combine_chunks()
        self._places = {name: _Places(places.field(name)) for name in schema.names}
        for name, place in self._places.items():
            in_place = place.values >= 0
            place.values[in_place] += self._first_row[in_place] * (stride(schema[name]) or 0)
        self._check_places()
        self._mapped = Cache(self._map, kept)
        self._footers = Cache(self._read_footer, kept)
        self._decoded = Cache(self._decode, kept * len(schema.names))

    def mapped(self, groups: Sequence[int]) -> list[Part]:
        """For each of the groups its local file. Raises: DatasetError where that is missing or of another size."""
        files = self._file[np.array(groups)].tolist()
        found = {}
        for file in set(files):
            mapping, found[file] = self._mapped.get(file)
            if mapping.size() != (expected := self._size(file)):  # to read it would end in a SIGBUS
                raise wrong_size(self._url(file), expected, mapping.size())
        return [found[file] for file in files]

    def load(self, group: int, patience: Patience) -> Part:
        """The chunks of all columns of a row group, from the cache or the storage.

        Raises: DatasetError where they are not what was published, StorageError where the storage does not answer.
        """
        places = [self._places[name] for name in self._columns]
        ranges = coalesce((int(p.offset[group]), int(p.offset[group] + p.num_bytes[group])) for p in places)
        file = int(self._file[group])

        def check(content: U8) -> None:
            self.check(group, Part(content, ranges), always=self._cache is not None)

        part = Part(self._fetched(file, ranges, self._where(group), patience, check), ranges)
        if any(self._is_decoded(group, column) for column in self._columns):
            self._footers.get(file, patience)
        return part

    def values(self, groups: Sequence[int], parts: Sequence[Part], column: str) -> Values:
        """Where the groups have the values of a column of fixed width. Raises: as `column`."""
        field, place = self.schema[column], self._places[column]
        width = stride(field)
        if width is None or any(self._is_decoded(group, column) for group in groups):
            decoded = [self._of_whole(group, column, part) for group, part in zip(groups, parts, strict=True)]
            return Values(np.array([values.ctypes.data for values in decoded]), field.num_bytes, decoded)
        skipped = LENGTH_BYTES if field.is_tensor else 0
        in_file = place.values[np.array(groups)].tolist()
        starts = [part.address + part.place(offset) for part, offset in zip(parts, in_file, strict=True)]
        return Values(np.array(starts) + skipped, width, parts)

    def lists(self, group: int, part: Part, column: str) -> Lists:
        """All lists of a column. Raises: as `column`."""
        whole: Lists = self._decoded.get((int(self._whole[group]), column), part)
        first, stop = self._first_row[group], self._first_row[group] + self.num_rows[group]
        return Lists(whole.address, whole.offsets[first : stop + 1], whole.owner)

    def column(self, group: int, part: Part, column: str) -> Any:
        """All values of a column: (rows, bytes of a value) uint8; or (rows,) objects, str or bytes.

        Raises: DatasetError where the file is not what was published.
        """
        field, num_rows = self.schema[column], int(self.num_rows[group])
        width = stride(field)
        if width is None or self._is_decoded(group, column):
            return self._of_whole(group, column, part)
        skipped = LENGTH_BYTES if field.is_tensor else 0  # numbers of 8 and 16 bits come first in their 32
        start = part.place(int(self._places[column].values[group]))
        values = part.content[start : start + num_rows * width].reshape(num_rows, width)
        return values[:, skipped : skipped + field.num_bytes]

    def check(self, group: int, part: Part, always: bool = False) -> None:
        """Looks at the checksums of a row group's columns, if that is asked for. To be called before any is read.

        Raises: DatasetError where they are not those that were published.
        """
        for column in self._columns:
            self._check(group, part, column, always)

    def whole(self, group: int) -> int:
        """The group under which the row group is loaded, and decoded, that this one is cut from."""
        return int(self._whole[group])

    def _of_whole(self, group: int, column: str, part: Part) -> Any:
        decoded = self._decoded.get((int(self._whole[group]), column), part)
        return decoded[self._first_row[group] : self._first_row[group] + self.num_rows[group]]

    def _is_decoded(self, group: int, column: str) -> bool:
        return bool(self._places[column].values[group] < 0)

    def _check(self, group: int, part: Part, column: str, always: bool) -> None:
        """Looks at the checksum if that is asked for and not done; what is cached was looked at in any case."""
        if self._verify == "never" and not always:
            return
        place = self._places[column]
        asked = always or self._verify == "always" or not place.verified[self._whole[group]]
        if asked and place.has_crc32[group]:
            with self._timings("fetch"):
                self._check_chunk(group, part, column)

    def _check_chunk(self, group: int, part: Part, column: str) -> None:
        place = self._places[column]
        start, expected = part.place(int(place.offset[group])), int(place.crc32[group])
        found = zlib.crc32(part.content[start : start + int(place.num_bytes[group])].data)
        if found != expected:
            raise DatasetError(
                f"{self._where(group, column)}: expected CRC-32 {expected:08x}, found {found:08x}; "
                f"the file was changed: build the dataset again"
            )
        place.verified[self._whole[group]] = True

    def _map(self, file: int) -> tuple[mmap.mmap, Part]:
        url, expected = self._url(file), self._size(file)
        try:
            with self._timings("fetch"), open(store.filesystem(url)[1], "rb") as opened:
                if not (found := opened.seek(0, os.SEEK_END)):  # a file of no bytes cannot be mapped
                    raise wrong_size(url, expected, found)
                mapping = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        except FileNotFoundError as error:
            raise _missing(url) from error
        return mapping, Part(np.frombuffer(mapping, np.uint8), ((0, len(mapping)),))

    def _fetched(self, file: int, ranges: Ranges, where: str, patience: Patience, check: Callable[[U8], Any]) -> U8:
        """The ranges' bytes, one behind the other: from the cache, else from the storage, checked and then cached."""
        described = f"{self._files[file]} {ranges}".encode()
        name = f"{self._cached_as}/{hashlib.sha256(described).hexdigest()[:32]}"
        with self._timings("fetch"):
            if self._cache is not None:
                cached = self._cache.get(name, sum(stop - start for start, stop in ranges))
                if cached is not None:
                    return cached
            try:
                content = fetch(self._url(file), ranges, self._size(file), where, patience)
            except FileNotFoundError as error:
                raise _missing(self._url(file)) from error
        check(content)
        if self._cache is not None:
            with self._timings("fetch"):
                self._cache.put(name, content)
        return content

    def _read_footer(self, file: int, patience: Patience | None = None) -> pq.FileMetaData:
        """What Arrow needs to decode columns, checked: a changed one would make it read something else."""
        group = int(self._first_group[file])
        start, stop = self._size(file) - int(self._footer_bytes[group]), self._size(file)
        where = f"{store.shown(self._url(file))}: the footer, which row group {self._group_in_file[group]} needs"

        def check(footer: U8) -> None:
            expected, found = int(self._footer_crc32[group]), zlib.crc32(footer.data)
            if self._verify != "never" and found != expected:
                raise DatasetError(
                    f"{where}: expected CRC-32 {expected:08x}, found {found:08x}; "
                    f"the file was changed: build the dataset again"
                )

        if self.is_local:
            footer: U8 = self.mapped([group])[0].content[start:stop]
            check(footer)
        else:
            footer = self._fetched(file, ((start, stop),), where, patience or Patience(), check)
        try:
            return pq.read_metadata(pa.BufferReader(pa.py_buffer(footer)))
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{where}: cannot be read as Parquet ({error}); build the dataset again") from error

    def _decode(self, key: tuple[int, str], part: Part) -> Any:
        group, column = key
        field, where = self.schema[column], self._where(group, column)
        expected = int(self.num_rows[self._whole == group].sum())
        footer = self._footers.get(int(self._file[group]))
        with self._timings("decode"):
            try:
                unchecked = self._verify != "never" and not self._places[column].has_crc32[group]
                source = pa.BufferReader(pa.py_buffer(self._up_to_chunk(group, part, column)))
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
                raise DatasetError(
                    f"{where}: cannot be read as Parquet ({error}); build the dataset again", values=[str(error)]
                ) from error

    def _up_to_chunk(self, group: int, part: Part, column: str) -> Any:
        """(bytes,) uint8, the file from its first byte to the end of a column chunk; what was not fetched is zeros."""
        if self.is_local:
            return part.content
        place = self._places[column]
        offset, num_bytes = int(place.offset[group]), int(place.num_bytes[group])
        file, start = np.zeros(offset + num_bytes, np.uint8), part.place(offset)  # takes memory where it is written to
        file[offset:] = part.content[start : start + num_bytes]
        return file

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

    def _size(self, file: int) -> int:
        return int(self._file_bytes[self._first_group[file]])

    def _where(self, group: int, column: str | None = None) -> str:
        url = store.shown(self._url(int(self._file[group])))
        return f"{url}: row group {self._group_in_file[group]}" + (f", column {column!r}" if column is not None else "")


class _Places:
    """The manifest's columns for one field, each (groups,); `values` is -1 where there is none."""

    def __init__(self, column: pa.StructArray) -> None:
        self.offset: I64 = column.field("offset").to_numpy()
        self.num_bytes: I64 = column.field("num_bytes").to_numpy()
        self.crc32 = column.field("crc32").fill_null(0).to_numpy()
        self.has_crc32 = column.field("crc32").is_valid().to_numpy(zero_copy_only=False)  # adopted files may have none
        self.values: I64 = column.field("values").fill_null(-1).to_numpy().copy()
        self.verified = np.zeros(len(column), np.bool_)


def _cut(whole: pa.Table) -> tuple[I64, I64, I64]:
    """For each row group into how many it is cut; for each of these its rows, and its first one in the row group."""
    num_rows: I64 = whole["num_rows"].to_numpy().astype(np.int64)
    columns = whole["columns"].combine_chunks()
    num_bytes = sum(columns.field(i).field("num_bytes").to_numpy() for i in range(columns.type.num_fields))
    cuts = np.minimum(np.maximum(1, -(-num_bytes // CUT_BYTES)), np.maximum(1, num_rows)).astype(np.int64)
    rows, number = np.repeat(num_rows, cuts), np.concatenate([np.zeros(0, int), *map(np.arange, cuts)])
    first, stop = rows * number // np.repeat(cuts, cuts), rows * (number + 1) // np.repeat(cuts, cuts)
    return cuts, stop - first, first


def _missing(url: str) -> DatasetError:
    return DatasetError(f"{store.shown(url)}: the file is missing; build the dataset again")


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
    """Computes a value once, even when several threads ask for it at once, and keeps the last `size` used.

    `compute` gets the key and what else `get` is given, which must not change the value.
    """

    def __init__(self, compute: Callable[..., Any], size: int) -> None:
        self._compute, self._size = compute, size
        self._entries: OrderedDict[Hashable, tuple[threading.Lock, list[Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, *given: Any) -> Any:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = (threading.Lock(), [])
                if len(self._entries) > self._size:
                    self._entries.popitem(last=False)
            else:
                self._entries.move_to_end(key)
        lock, value = entry
        if not value:
            with lock:
                if not value:
                    value.append(self._compute(key, *given))
        return value[0]
