"""`penstock adopt`: a card and a manifest for plain Parquet that others wrote, so that it is fed as it is.

The footers of all files are read once, and no page: they say where each column chunk lies and, as a rule, how many
nulls it has. Checksums stay unknown unless `--checksum` reads every byte, and whether a value is what `--field` states
is seen when the feed decodes it. Names that begin with `_` or `.`, such as Petastorm's `_common_metadata` with its
pickles, are no data and are never opened.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock import __version__, command, manifest, store
from penstock import card as cards
from penstock.card import Card, Split
from penstock.cast import cast, is_list
from penstock.console import Console
from penstock.digest import json_digest
from penstock.errors import DatasetError, PenstockError, RecipeError
from penstock.pages import LENGTH_BYTES, chunk_range, footer_bytes, stride, values_offset
from penstock.schema import SCALAR_TYPES, SPLIT_COLUMN, Field, Schema

REVISION = 1  # raised when the same files would get another card
TAIL_BYTES = 64 << 10  # read from the end of a file; most footers lie in it
MAGIC = b"PAR1"
NUM_THREADS = 8  # for storage that answers slowly
NUM_NAMED = 10  # files that an error names
LARGE_ROW_GROUP = 64 << 20
ANY_SIZE = "any"  # in --field, a size that varies
# What Parquet has and a field has not -> the dtype that holds all its values.
WIDER = {
    pa.uint8(): "int16",
    pa.uint16(): "int32",
    pa.uint32(): "int64",
    pa.float16(): "float32",
    pa.large_string(): "string",
    pa.string_view(): "string",
    pa.large_binary(): "bytes",
    pa.binary_view(): "bytes",
}
DTYPES = {kind: dtype for dtype, kind in SCALAR_TYPES.items()} | WIDER


@dataclass(frozen=True)
class Columns:
    """Which columns are fed, and as what. What is not `stated` is fed as the type that the files say."""

    stated: Mapping[str, Field]
    only: Sequence[str] | None = None  # None: all
    without: Sequence[str] = ()


@dataclass(frozen=True)
class FileScan:
    """What one file says of itself."""

    file: str
    footer: str  # SHA-256
    sha256: str | None  # of the whole file, if it was read
    row_groups: pa.Table  # its rows of the manifest
    num_rows: int
    nulls: Mapping[str, int]  # field -> nulls, where the footer counts them
    largest: int  # bytes of the largest row group before compression


@dataclass(frozen=True)
class Adopted:
    card: Card
    folder: str  # holds the card
    reused: bool
    largest: int  # bytes of the largest row group before compression


def adopt(
    url: str,
    console: Console,
    *,
    out: str | None = None,
    columns: Columns | None = None,
    key: str | None = None,
    label: str | None = None,
    checksum: bool = False,
) -> Adopted:
    """Publishes a card and a manifest for the Parquet files below a folder: beside them, or in the folder `out`.

    Raises: DatasetError where files cannot be read or are not alike, or a column cannot be fed.
    """
    columns = columns or Columns({})
    data_url = store.absolute(url)
    folder, data = (data_url, ".") if out is None else (store.absolute(out), data_url)
    sizes = data_files(data_url)
    splits, partitions = _splits(data_url, sizes)
    store.check_writable(folder)
    first = next(iter(sizes))
    there = _open(data_url, first, sizes[first])[0].schema_arrow
    schema = Schema(infer(there, columns, store.shown(store.join(data_url, first))), key, label)

    def scanned(file: str) -> FileScan | DatasetError:
        try:
            return scan(data_url, file, splits[file], sizes[file], schema, columns, checksum)
        except DatasetError as error:
            return error

    scans: list[FileScan] = []
    errors: list[str] = []
    step = "read every byte" if checksum else "read the footers"
    with console.step(step) as update, ThreadPoolExecutor(NUM_THREADS) as threads:
        for done, found in enumerate(threads.map(scanned, sizes), start=1):
            scans.append(found) if isinstance(found, FileScan) else errors.append(str(found))
            update(f"{done:,} of {len(sizes):,} files")
    if errors:
        more = [f"and {len(errors) - NUM_NAMED:,} more files"] if len(errors) > NUM_NAMED else []
        raise DatasetError("\n  ".join(errors[:NUM_NAMED] + more))
    _refuse_nulls(scans)

    described = [[found.file, sizes[found.file], found.footer, found.sha256] for found in scans]
    version = json_digest({"adopt": REVISION, "files": described, "schema": schema.to_json(), "data": data})
    largest = max(found.largest for found in scans)
    if cards.find(folder, version) is not None:
        card = cards.load(folder, version)
        manifest.read(folder, card)  # raises where it is gone: then the version is not whole
        return Adopted(card, folder, True, largest)
    rows = dict.fromkeys(sorted(splits.values()), 0)
    for one in scans:
        rows[splits[one.file]] += one.num_rows
    total = sum(rows.values())
    path = f"{cards.FOLDERS[1]}/{version}-{uuid.uuid4().hex[:8]}.manifest"  # not .parquet: it is no data
    card = Card(
        version=version,
        recipe="adopt",
        data=data,
        manifest=manifest.write(folder, [found.row_groups for found in scans], schema, path),
        schema=schema,
        counts={"raw": total, "quarantined": 0, "clean": total, "duplicates": 0, "built": total},
        splits={name: Split(num_rows, None) for name, num_rows in rows.items()},
        transforms={},
        lineage={
            "penstock": __version__,
            "adopted": data_url,
            "files": len(sizes),
            "bytes": sum(sizes.values()),
            "checksum": checksum,
            "left_out": [*(name for name in there.names if name not in schema.names), *partitions],
        },
        kind="adopted",
    )
    cards.files_url(folder, card)  # raises where readers would refuse it
    cards.publish(folder, card)
    return Adopted(cards.load(folder, version), folder, False, largest)


def data_files(data_url: str) -> dict[str, int]:
    """The files below a folder that Spark would read, relative to it, with their bytes.

    Raises: DatasetError where there is none, or the folder is a dataset of Penstock's.
    """
    found, where = store.file_sizes(data_url, data_only=True), store.shown(data_url)
    if list(found) == ["."]:
        raise DatasetError(f"{where}: expected a folder of Parquet files, found a file; name the folder that holds it")
    if any(name.startswith("cards/") for name in found):
        raise DatasetError(f"{where}: a dataset already, with cards; it is fed as it is")
    if not found:
        raise DatasetError(f"{where}: no Parquet file (names with a leading '.' or '_' are no data); check the URL")
    return found


def _splits(data_url: str, files: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """file -> split, as its folder `split=…` says, else `train`; and the names of the other folders of this form."""
    folders = {file: dict(p.split("=", 1) for p in PurePosixPath(file).parts[:-1] if "=" in p) for file in files}
    named = [file for file, values in folders.items() if SPLIT_COLUMN in values]
    if named and (others := [file for file in folders if file not in named]):
        raise DatasetError(
            f"{store.shown(data_url)}: {named[0]} lies in a folder that names its split, {others[0]} does not; "
            f"adopt a folder where all do, or none"
        )
    partitions = sorted({name for values in folders.values() for name in values} - {SPLIT_COLUMN})
    return {file: unquote(values.get(SPLIT_COLUMN, "train")) for file, values in folders.items()}, partitions


def infer(there: pa.Schema, columns: Columns, where: str) -> tuple[Field, ...]:
    """A file's fields, in the order of its columns. Raises: DatasetError, naming all columns that cannot be fed."""
    asked = [*columns.stated, *(columns.only or []), *columns.without]
    if unknown := [name for name in asked if name not in there.names]:
        raise DatasetError(f"{where}: no column {unknown[0]!r}; there are {', '.join(there.names)}")
    fields, refused = [], {}
    for name, kind in zip(there.names, there.types, strict=True):
        if name in columns.without or (columns.only is not None and name not in columns.only):
            continue
        try:
            field = columns.stated.get(name) or _field(name, kind)
            cast(pa.array([], kind), field)
            fields.append(field)
        except RecipeError as error:
            refused[name] = f"{name} of {kind} ({error})"
        except (KeyError, pa.ArrowException):
            stated = columns.stated.get(name)
            refused[name] = f"{name} of {kind}" + (f" as {stated.dtype} {list(stated.shape)}" if stated else "")
    if refused:
        raise DatasetError(
            f"{where}: columns that cannot be fed: {', '.join(refused.values())}; leave them out with --without "
            f"{','.join(refused)}, or say with --field what their values are"
        )
    return tuple(fields)


def _field(name: str, kind: pa.DataType) -> Field:
    """The field that holds all values of an Arrow type. Raises: KeyError, RecipeError where there is none."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_fixed_size_list(kind):
        return Field(name, str(np.dtype(kind.value_type.to_pandas_dtype())), (kind.list_size,))
    if is_list(kind):
        return Field(name, DTYPES[kind.value_type], (None,))
    return Field(name, "bytes" if pa.types.is_fixed_size_binary(kind) else DTYPES[kind])


def scan(
    data_url: str, file: str, split: str, num_bytes: int, schema: Schema, columns: Columns, checksum: bool
) -> FileScan:
    """Reads the footer of one file; with `checksum`, all of it.

    Raises: DatasetError where it cannot be read, or has other columns than the schema.
    """
    where = store.shown(store.inside(data_url, file))
    parquet, end = _open(data_url, file, num_bytes)
    metadata, arrow_schema = parquet.metadata, parquet.schema_arrow
    _compare(infer(arrow_schema, columns, where), schema, where)
    content = None
    if checksum:
        with _in_a_sentence(where):
            content = memoryview(store.read_bytes(store.inside(data_url, file)))
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    leaves = _leaves(metadata, schema)
    counted = {name: c for name, c in leaves.items() if not schema[name].is_list}  # in lists, empty ones count as nulls
    nulls = dict.fromkeys(counted, 0)
    num_rows, largest = [], 0
    places: dict[str, list[tuple[int, int, int | None, int | None]]] = {name: [] for name in schema.names}
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        num_rows.append(group.num_rows)
        group_bytes = 0
        for name, c in leaves.items():
            chunk = group.column(c)
            start, length = chunk_range(chunk)
            crc32 = in_place = None
            if content is not None:
                raw = content[start : start + length]
                crc32 = zlib.crc32(raw)
                if chunk.compression == "UNCOMPRESSED" and arrow_schema.field(name).type == schema[name].arrow_type:
                    in_place = _in_place(raw, schema[name], group.num_rows)
            places[name].append((start, length, crc32, None if in_place is None else start + in_place))
            if name in counted and (statistics := chunk.statistics) is not None and statistics.has_null_count:
                nulls[name] += statistics.null_count
            group_bytes += chunk.total_uncompressed_size
        largest = max(largest, group_bytes)
    n = len(num_rows)
    columns_type = manifest.arrow_schema(schema).field("columns").type
    table = pa.table(
        {
            "split": [split] * n,
            "file": [file] * n,
            "row_group": np.arange(n, dtype=np.int32),
            "num_rows": np.array(num_rows, np.int64),
            "file_bytes": np.full(n, num_bytes),
            "file_sha256": pa.array([sha256] * n, pa.string()),
            "footer_bytes": np.full(n, len(end)),
            "footer_crc32": np.full(n, zlib.crc32(end), np.uint32),
            "columns": pa.StructArray.from_arrays(
                [_places(places[name], columns_type.field(name).type) for name in schema.names],
                fields=list(columns_type),
            ),
        },
        schema=manifest.arrow_schema(schema),
    )
    return FileScan(file, hashlib.sha256(end).hexdigest(), sha256, table, sum(num_rows), nulls, largest)


def _open(data_url: str, file: str, num_bytes: int) -> tuple[pq.ParquetFile, bytes]:
    """A file of which only the footer is there, and the footer's bytes. Raises: DatasetError."""
    url = store.inside(data_url, file)
    with _in_a_sentence(store.shown(url)):
        tail = store.read_range(url, max(0, num_bytes - TAIL_BYTES), num_bytes)
        if tail[-4:] != MAGIC:
            raise pa.ArrowInvalid("it does not end as Parquet does")
        length = footer_bytes(tail)
        if len(tail) < length < num_bytes:
            tail = store.read_range(url, num_bytes - length, num_bytes)
        footer = tail[-length:]
        return pq.ParquetFile(pa.BufferReader(MAGIC + footer)), footer


@contextmanager
def _in_a_sentence(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{where}: cannot be read as Parquet ({error}); mend it, or remove it (files whose names begin with '_' "
            f"are left alone)"
        ) from error


def _compare(found: Sequence[Field], schema: Schema, where: str) -> None:
    expected, there = {field.name: field for field in schema.fields}, {field.name: field for field in found}
    differs = [
        f"{name}: expected {_text(expected.get(name))}, found {_text(there.get(name))}"
        for name in dict.fromkeys([*expected, *there])
        if expected.get(name) != there.get(name)
    ]
    if differs:
        raise DatasetError(
            f"{where}: other columns than in the first file: {'; '.join(differs)}; leave them out with --without, or "
            f"adopt such files apart"
        )


def _leaves(metadata: pq.FileMetaData, schema: Schema) -> dict[str, int]:
    """field -> the number of its column in Parquet, which of a list is that of its elements."""
    paths = [metadata.schema.column(c).path for c in range(metadata.num_columns)]
    by_name = {path.partition(".")[0]: c for c, path in enumerate(paths)} | {path: c for c, path in enumerate(paths)}
    return {name: by_name[name] for name in schema.names}


def _in_place(raw: memoryview, field: Field, num_rows: int) -> int | None:
    """`values_offset`, of a tensor only where every value has its length: here nobody has looked at them."""
    start, width = values_offset(raw, field, num_rows), stride(field)
    if start is None or width is None or not field.is_tensor:
        return start
    lengths = np.ndarray((num_rows,), "<u4", raw, start, (width,))
    return start if (lengths == width - LENGTH_BYTES).all() else None


def _places(places: Sequence[tuple[int, int, int | None, int | None]], kind: pa.StructType) -> pa.StructArray:
    parts = list(zip(*places, strict=True)) or [()] * kind.num_fields
    arrays = [pa.array(part, field.type) for part, field in zip(parts, kind, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


def _refuse_nulls(scans: Sequence[FileScan]) -> None:
    refused = {}
    for name in scans[0].nulls:
        if total := sum(found.nulls[name] for found in scans):
            first = next(found.file for found in scans if found.nulls[name])
            refused[name] = f"{name} ({total:,}, the first in {first})"
    if refused:
        raise DatasetError(
            f"columns with nulls, which no batch can hold: {', '.join(refused.values())}; leave them out with "
            f"--without {','.join(refused)}, or fill them where the files are written"
        )


def parse_field(text: str) -> Field:
    """`image=uint8:28,28`, `photo=uint8:any,any,3:png`, `when=int64` -> Field. Raises: PenstockError."""
    name, _, rest = text.partition("=")
    dtype, sizes, encoding = [*rest.split(":"), "", ""][:3]
    try:
        shape = tuple(None if size == ANY_SIZE else int(size) for size in sizes.split(",") if size)
        if not name or not dtype or rest.count(":") > 2:
            raise ValueError
    except ValueError as error:
        raise PenstockError(
            f"--field {text}: expected NAME=DTYPE, NAME=DTYPE:SIZES or NAME=DTYPE:SIZES:ENCODING, "
            f"such as image=uint8:28,28 or photo=uint8:any,any,3:png"
        ) from error
    return Field(name, dtype, shape, encoding or None)


def _text(field: Field | None) -> str:
    """A field as `--field` takes it."""
    if field is None:
        return "no such column"
    sizes = ",".join(ANY_SIZE if size is None else str(size) for size in field.shape)
    return ":".join([field.dtype, *([sizes] if sizes else []), *([field.encoding] if field.encoding else [])])


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "adopt",
        "Make a dataset of plain Parquet that another job wrote, or stock Petastorm: reads the footers, writes a card\n"
        "and a manifest, and changes no file. The folders split=… are the splits; without them all rows are `train`.",
        "penstock adopt /data/spark_output --key id --label label --field image=uint8:28,28\n"
        "  penstock adopt /data/petastorm --field photo=uint8:64,64,3:png --field x=float32:64:npy --out /data/adopted",
    )
    made.add_argument("url", metavar="URL", help="the folder of the Parquet files")
    made.add_argument("--out", metavar="DIR", help="gets the card and the manifest; default: URL, in its folder _cards")
    made.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=DTYPE[:SIZES[:ENCODING]]",
        help="what the values of a column are, if its type does not say it: a tensor in a binary or list column "
        "(uint8:28,28), or encoded (png, jpeg, wav, npy, npz; sizes that vary: any); may be given several times",
    )
    made.add_argument("--columns", metavar="A,B", help="only these columns; default: all")
    made.add_argument("--without", metavar="A,B", help="all columns but these")
    made.add_argument("--key", metavar="COLUMN", help="identifies a row; `penstock predict` needs it")
    made.add_argument("--label", metavar="COLUMN", help="what a model learns")
    made.add_argument("--checksum", action="store_true", help="read every byte, so that the feed can check it later")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    stated = {field.name: field for field in map(parse_field, arguments.field)}
    columns = Columns(stated, _names(arguments.columns), _names(arguments.without) or ())
    adopted = adopt(
        arguments.url,
        console,
        out=arguments.out,
        columns=columns,
        key=arguments.key,
        label=arguments.label,
        checksum=arguments.checksum,
    )
    card, schema = adopted.card, adopted.card.schema
    roles = {schema.key: "key", schema.label: "label"}
    console.table([[f.name, _text(f), roles.get(f.name, "")] for f in schema.fields], ["column", "fed as", ""])
    console.table([[name, split.rows] for name, split in card.splits.items()], ["split", "rows"])
    if left_out := card.lineage["left_out"]:
        console.say(f"Left out: {', '.join(left_out)}")
    if adopted.largest > LARGE_ROW_GROUP:
        console.say(
            f"Row groups of up to {adopted.largest >> 20:,} MiB: the feed holds several decoded, two for each lane and "
            f"thread. If memory is short, train with fewer lanes, or write smaller row groups (parquet.block.size)"
        )
    state = "was adopted before" if adopted.reused else "adopted"
    console.say(f"Version {card.version} {state}: penstock train RECIPE --data {store.shown(adopted.folder)} …")
    return {
        "version": card.version,
        "reused": adopted.reused,
        "dataset": adopted.folder,
        "files": card.lineage["files"],
        "splits": {name: split.rows for name, split in card.splits.items()},
        "fields": {field.name: _text(field) for field in schema.fields},
        "left_out": list(left_out),
    }


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(",") if name]


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
