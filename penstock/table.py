"""`penstock.read`: the rows of a dataset version as a DataFrame or an Arrow table, without torch and without Spark.

The manifest says where they lie: no folder is listed, only the columns that are asked for are read, and these bytes are
checked as the feed checks them.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import merge_offset_ranges

from penstock import card as cards
from penstock import encoded, manifest, store, tensors
from penstock.cast import cast, num_nulls
from penstock.errors import DatasetError, PenstockError
from penstock.schema import SPLIT_COLUMN, Field

NUM_THREADS = 8  # for storage that answers slowly
GAP_BYTES = 1 << 20  # between two column chunks: read along, as another request would cost more
KINDS = ("pandas", "arrow")
NEEDS_IMAGECODECS = ("png", "jpeg")


def read(
    url: str | Path,
    split: str | None = None,
    *,
    version: str | None = None,
    columns: Sequence[str] | None = None,
    as_: Literal["pandas", "arrow"] = "pandas",
    limit: int | None = None,
    decode: bool = True,
) -> Any:
    """The rows of a split, each once, in the order of the manifest; of several, with a last column `split`.

    `split` is a name, several as in "train+val", or None for all. The newest version is read and all of its columns, if
    nothing else is asked for; with `limit` the first rows, and no row group behind them. Values become:

        field                                in a DataFrame, `as_="pandas"`    in a table, `as_="arrow"`
        scalar                               the column's dtype                the field's type
        tensor                               array of its shape                fixed_shape_tensor
        list                                 array (n,)                        list
        encoded, of one size                 array of its shape                fixed_shape_tensor
        encoded, (None,)                     array (n,)                        large_list
        encoded, other sizes that vary       array of its own shape            struct: `data`, large_list; `shape`
        encoded, with `decode=False`         bytes                             binary

    Arrays in a DataFrame are read-only.

    Raises: DatasetError where the version, a split or a column is missing, or a file is not what was published;
    StorageError where the storage does not answer; PenstockError where a package is missing.
    """
    if as_ not in KINDS:
        raise PenstockError(f"as_: expected one of {', '.join(KINDS)}, found {as_!r}")
    if limit is not None and limit < 0:
        raise PenstockError(f"limit: expected 0 rows or more, found {limit}")
    pandas = _needed("pandas", "a DataFrame", 'as_="arrow"') if as_ == "pandas" else None
    card = cards.load(str(url), version)
    where, schema = store.shown(store.absolute(str(url))), card.schema
    splits = sorted(card.splits) if split is None else split.split("+")
    if missing := [name for name in splits if name not in card.splits]:
        raise DatasetError(f"{where}: no split {missing[0]!r}; there are {', '.join(card.splits) or 'none'}")
    names = schema.names if columns is None else list(dict.fromkeys(columns))
    if missing := [name for name in names if name not in schema.names]:
        raise DatasetError(f"{where}: no column {missing[0]!r}; there are {', '.join(schema.names)}")
    fields = [schema[name] for name in names]
    for field in fields:
        if decode and field.encoding in NEEDS_IMAGECODECS:
            _needed("imagecodecs", f"column {field.name!r}, {field.encoding},", "decode=False")

    listed = manifest.read(str(url), card)
    groups = listed.splits(splits)
    expected, num_rows = sum(card.splits[name].rows for name in splits), groups["num_rows"].to_numpy()
    if num_rows.sum() != expected:
        raise DatasetError(
            f"{where}: {'+'.join(splits)}: the card says {expected:,} rows, the manifest {num_rows.sum():,}; "
            f"do not use this version"
        )
    if limit is not None:
        groups = groups.slice(0, int(np.searchsorted(np.cumsum(num_rows), limit)) + 1)
    again = "adopt the files again" if card.kind == "adopted" else "build the dataset again"
    files = [list(in_file) for _, in_file in groupby(groups.to_pylist(), lambda group: group["file"])]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        found = list(threads.map(lambda file: _read_file(listed.data_url, file, fields, decode, again), files))
    table = pa.table(
        [pa.chunked_array([c for file in found for c in file[f.name]], _type(f, decode)) for f in fields],
        pa.schema([pa.field(f.name, _type(f, decode), nullable=False) for f in fields]),
    )
    if split is None or len(splits) > 1:
        codes = np.repeat([splits.index(name) for name in groups["split"].to_pylist()], groups["num_rows"].to_numpy())
        column = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(splits, pa.string()))
        table = table.append_column(pa.field(SPLIT_COLUMN, column.type, nullable=False), column)
    table = table.slice(0, limit)
    return table if pandas is None else pandas.DataFrame({n: _series(pandas, table[n]) for n in table.column_names})


def _needed(module: str, what: str, otherwise: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PenstockError(
            f"{what} needs {module}, which is not installed: pip install {module}, or read with {otherwise}"
        ) from error


def _read_file(
    data_url: str, groups: Sequence[Mapping[str, Any]], fields: Sequence[Field], decode: bool, again: str
) -> dict[str, list[pa.Array]]:
    """Each field's values in some row groups of one file, which are rows of the manifest."""
    url, num_bytes = store.inside(data_url, groups[0]["file"]), int(groups[0]["file_bytes"])
    where, footer = store.shown(url), num_bytes - int(groups[0]["footer_bytes"])
    chunks = [("the footer", footer, num_bytes, groups[0]["footer_crc32"])]
    for group in groups:
        for field in fields:
            place = group["columns"][field.name]
            start, what = place["offset"], f"row group {group['row_group']}, column {field.name!r}"
            chunks.append((what, start, start + place["num_bytes"], place["crc32"]))
    values: dict[str, list[pa.Array]] = {field.name: [] for field in fields}
    try:
        if (size := store.num_bytes(url)) != num_bytes:
            raise DatasetError(f"{where}: expected {num_bytes:,} bytes, found {size:,}; {again}")
        content = _content(url, num_bytes, [(start, stop) for _, start, stop, _ in chunks])
        for what, start, stop, crc32 in chunks:
            if crc32 is not None and (checksum := zlib.crc32(content[start:stop].data)) != crc32:
                raise DatasetError(
                    f"{where}: {what}: expected CRC-32 {crc32:08x}, found {checksum:08x}; the file was changed: {again}"
                )
        unchecked = any(crc32 is None for *_, crc32 in chunks)
        source = pa.BufferReader(pa.py_buffer(content))
        with pq.ParquetFile(source, page_checksum_verification=unchecked) as parquet:
            for group in groups:
                table = parquet.read_row_group(group["row_group"], [f.name for f in fields], use_threads=False)
                for field in fields:
                    at = f"{where}: row group {group['row_group']}, column {field.name!r}"
                    column = table[field.name]
                    nulls = sum(map(num_nulls, column.chunks))
                    if len(column) != group["num_rows"] or nulls:
                        raise DatasetError(
                            f"{at}: expected {group['num_rows']:,} values and no null, found {len(column):,} and "
                            f"{nulls:,} nulls; {again}"
                        )
                    values[field.name] += [_values(cast(c, field), field, decode, at) for c in column.chunks if len(c)]
    except FileNotFoundError as error:
        raise DatasetError(f"{where}: the file is missing; {again}") from error
    except PenstockError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:  # a changed byte can lead Arrow anywhere
        raise DatasetError(f"{where}: cannot be read as Parquet ({error}); {again}", values=[str(error)]) from error
    return values


def _content(url: str, num_bytes: int, ranges: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    """(num_bytes,) a file of which only these ranges are read; the rest is zeros, and takes no memory."""
    content = np.zeros(num_bytes, np.uint8)
    starts, stops = zip(*ranges, strict=True)
    if min(starts) < 0 or max(stops) > num_bytes:
        raise ValueError("the manifest names a place outside the file")
    _, starts, stops = merge_offset_ranges([url] * len(ranges), list(starts), list(stops), max_gap=GAP_BYTES)
    for start, stop in zip(starts, stops, strict=True):
        content[start:stop] = np.frombuffer(store.read_range(url, start, stop), np.uint8)
    return content


def _type(field: Field, decode: bool) -> pa.DataType:
    if not field.is_tensor and not (field.is_encoded and decode):
        return field.arrow_type
    element = pa.from_numpy_dtype(field.numpy_dtype)
    if None not in field.shape:
        return pa.fixed_shape_tensor(element, field.shape)
    data = pa.large_list(element)
    return data if len(field.shape) == 1 else pa.struct({"data": data, "shape": pa.list_(pa.int32(), len(field.shape))})


def _values(values: pa.Array, field: Field, decode: bool, where: str) -> pa.Array:
    """One or more values as Parquet keeps them -> as `_type` says."""
    if field.is_tensor:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(tensors.view(values, field, where))
    if not (field.is_encoded and decode):
        return values
    arrays = []
    for row, value in enumerate(values.to_pylist()):
        try:
            arrays.append(encoded.decode(value, field))
        except DatasetError as error:
            raise error.of(f"{where}, row {row}") from error
    if None not in field.shape:
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(arrays))
    offsets = np.cumsum([0, *(array.size for array in arrays)])
    data = pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate([array.ravel() for array in arrays])))
    if len(field.shape) == 1:
        return data
    shapes = pa.array(np.array([array.shape for array in arrays], np.int32).ravel())
    return pa.StructArray.from_arrays(
        [data, pa.FixedSizeListArray.from_arrays(shapes, len(field.shape))], ["data", "shape"]
    )


def _series(pandas: Any, column: pa.ChunkedArray) -> Any:
    if isinstance(column.type, pa.FixedShapeTensorType):
        return pandas.Series([row for chunk in column.chunks for row in chunk.to_numpy_ndarray()], dtype=object)
    values = column.to_pandas()
    if pa.types.is_struct(column.type):
        return pandas.Series([value["data"].reshape(value["shape"]) for value in values], dtype=object)
    return values
