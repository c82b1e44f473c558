"""Where refused rows are in the raw data: their file, and their line, which is looked up by reading that file again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import pyarrow as pa

from etl.read.files import INSIDE, Part, streams
from etl.read.records import Format
from etl.read.records import records as cut
from penstock import store

NO_TEXT = (b"ORC", b"PAR1", b"Obj\x01")  # how ORC, Parquet and Avro files begin, whose rows have no lines

REFUSED_COLUMNS = "file string, line long, record string, rules array<string>, reasons array<string>"
REFUSED_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "line": pa.int64(),
        "record": pa.string(),
        "rules": pa.list_(pa.string()),
        "reasons": pa.list_(pa.string()),
    }
)


def look_up(raw_url: str) -> Callable[[pa.Table], pa.Table]:
    """What gives the refused rows of one file, with `_rules` and `_reasons`, as quarantine keeps them."""
    folder = store.raw_folder(store.absolute(raw_url))

    def with_lines(rows: pa.Table) -> pa.Table:
        url = rows["_file"][0].as_py()
        lines, records = rows["_position"].to_pylist(), rows["_record"].to_pylist()
        if "://" in url and any(n is None and r is not None for n, r in zip(lines, records, strict=True)):
            lines = _lines(url, records)
        rest = [rows["_rules"].to_pylist(), rows["_reasons"].to_pylist()]
        return pa.table([[_name(url, folder)] * len(lines), lines, records, *rest], schema=REFUSED_SCHEMA)

    return with_lines


def _name(url: str, folder: str) -> str:
    """A file's path below the raw folder, of one in an archive with the archive's; a table's name as it is."""
    if url == folder or url.startswith(f"{folder}{INSIDE}"):
        folder = folder.rpartition("/")[0]
    return url.removeprefix(folder).strip("/")


def _lines(url: str, records: Sequence[str]) -> list[int | None]:
    """The number, from 1, of the line that each record is; equal records take their lines in turn."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for i in reversed(range(len(records))):
        wanted[records[i]].append(i)
    found: list[int | None] = [None] * len(records)
    fs, path = store.filesystem(url)
    if fs.cat_file(path, 0, max(map(len, NO_TEXT))).startswith(NO_TEXT):
        return found
    for block in (block for stream in streams(Part(url)) for block in cut(stream, Format())):
        for number, line in zip(block.positions.tolist(), block.values.to_pylist(), strict=True):
            if waiting := wanted.get(line.decode(errors="replace")):  # as Spark makes valid text of other bytes
                found[waiting.pop()] = number
    return found
