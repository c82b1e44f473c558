"""Damages a small dataset version again and again, as disks, networks and careless hands do, and reads it each time.

    python -m tests.train.corruption FOLDER SEED COUNT

Each time the reader must raise a PenstockError that names what was damaged, or give the very batches of the whole
version. Anything else ends the process with the number of the case: `damage(folder, number)` does the same again. A
process of its own, so that a crash of the interpreter is seen.
"""

from __future__ import annotations

import collections
import io
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from penstock.errors import PenstockError
from penstock.schema import Field, Schema
from tests.train.conftest import write_dataset
from train.feed import Feed

SCHEMA = Schema(
    (
        Field("key", "int64"),
        Field("image", "uint8", (12, 12)),
        Field("score", "float64"),
        Field("name", "string"),
        Field("tokens", "int32", (None,)),
        Field("photo", "uint8", (4, 4, 3), encoding="png"),
        Field("label", "int32"),
    ),
    key="key",
    label="label",
)
# In place as ETL writes them: key, image, label. The score is compressed, so that a number is decoded too.
OPTIONS = {
    "use_dictionary": ["name"],
    "compression": {"score": "zstd", "name": "snappy", "tokens.list.element": "zstd"},
}
SECONDS = 5.0  # a second on a machine that is not busy


def made(folder: Path) -> Path:
    """60 rows in two training files of three row groups, and one file for val."""
    rng = np.random.default_rng(0)

    def rows(count: int) -> dict[str, Any]:
        return {
            "key": rng.integers(0, 1 << 60, count),
            "image": rng.integers(0, 256, (count, 12, 12)).astype(np.uint8),
            "score": rng.normal(size=count),
            "name": [f"näme {i}" * int(rng.integers(3)) for i in range(count)],
            "tokens": [rng.integers(0, 9, rng.integers(6)).astype(np.int32) for _ in range(count)],
            "photo": [_png(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)) for _ in range(count)],
            "label": rng.integers(0, 9, count).astype(np.int32),
        }

    files = {"train": [[rows(10), rows(10), rows(7)], [rows(10), rows(10), rows(13)]], "val": [[rows(10)]]}
    return write_dataset(folder, SCHEMA, files, OPTIONS)


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read(folder: Path) -> list[dict[str, Any]]:
    feed = Feed(str(folder), global_batch_size=16, lanes=2, columns=SCHEMA.names)
    return [batch for epoch in range(2) for batch in feed.epoch(epoch)]


def same(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    def equal(one: Any, other: Any) -> bool:
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)

    return len(some) == len(others) and all(
        a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a) for a, b in zip(some, others, strict=True)
    )


def flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def overwrite(content: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(content)), rng.randint(1, 40)
    content[at : at + length] = rng.randbytes(len(content[at : at + length]))


def zero(content: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(content)), rng.choice([1, 64, 512, 4096])
    content[at : at + length] = bytes(len(content[at : at + length]))


def insert(content: bytearray, rng: random.Random) -> None:
    content[(at := rng.randrange(len(content))) : at] = rng.randbytes(rng.randint(1, 9))


def delete(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.randint(1, 9)]


def shift(content: bytearray, rng: random.Random) -> None:
    """A byte is lost and another one comes in: the length stays."""
    del content[rng.randrange(len(content))]
    insert_at = rng.randrange(len(content))
    content[insert_at:insert_at] = rng.randbytes(1)


def truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def append(content: bytearray, rng: random.Random) -> None:
    content += rng.randbytes(rng.randint(1, 99))


def footer(content: bytearray, rng: random.Random) -> None:
    """Somewhere in the last part of the file, where Parquet says what the rest is."""
    length = int.from_bytes(content[-8:-4], "little") + 8
    at = len(content) - rng.randint(1, min(length, len(content)))
    content[at] = rng.randrange(256)


def digit(content: bytearray, rng: random.Random) -> None:
    """Another digit: what makes sense and is wrong, in a card."""
    places = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
    content[rng.choice(places)] = ord(str(rng.randrange(10)))


BYTES = [flip, overwrite, zero, insert, delete, shift, truncate, append]


def _change(path: Path, how: Callable[[bytearray, random.Random], None], rng: random.Random) -> list[Path]:
    content = bytearray(path.read_bytes())
    how(content, rng)
    path.write_bytes(content)
    return [path]


def remove(folder: Path, rng: random.Random) -> list[Path]:
    path = rng.choice(_files(folder))
    path.unlink()
    return [path]


def swap_files(folder: Path, rng: random.Random) -> list[Path]:
    one, other = rng.sample(_files(folder), 2)
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])
    return [one, other]


def swap_row_groups(folder: Path, rng: random.Random) -> list[Path]:
    """Two row groups of one file change places; the footer tells their new ones, and the file is good Parquet."""
    path = rng.choice(_files(folder))
    parquet = pq.ParquetFile(path)
    order = rng.sample(range(parquet.num_row_groups), parquet.num_row_groups)
    tables = [parquet.read_row_group(i) for i in order]
    with pq.ParquetWriter(path, parquet.schema_arrow, **OPTIONS) as writer:
        for table in tables:
            writer.write_table(table)
    return [path]


def swap_chunks(folder: Path, rng: random.Random) -> list[Path]:
    """The bytes of a column in two row groups change places."""
    path = rng.choice([path for path in _files(folder) if "train" in str(path)])
    content, metadata = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata
    column = rng.randrange(len(SCHEMA.names))
    chunks = [metadata.row_group(group).column(column) for group in range(2)]
    one, other = (
        slice(
            start := min(filter(None, (c.dictionary_page_offset, c.data_page_offset))), start + c.total_compressed_size
        )
        for c in chunks
    )
    path.write_bytes(
        content[: one.start] + content[other] + content[one.stop : other.start] + content[one] + content[other.stop :]
    )
    return [path]


def other_value(folder: Path, rng: random.Random) -> list[Path]:
    """A value of the card changes: a number, a name, a type, or it is gone."""
    path = folder / "cards" / "v1.json"
    card = json.loads(path.read_text())
    at: Any = card
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = rng.choice([k for k in keys if at[k] not in ({}, [])])
        if not isinstance(at[key], dict | list):
            break
        at = at[key]
    strings = ["int64", "int32", "float64", "uint8", "jpeg", "key", "label", "score", "name", "v1", "../x", ""]
    at[key] = rng.choice([*strings, None, True, 0, 1, 2, 12, 144, 60, -1, 1.5, [], {}])
    path.write_text(json.dumps(card))
    return [path]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("data/*/*/*.parquet"))


def damage(folder: Path, case: int) -> tuple[str, list[Path]]:
    """What was done, and to which files."""
    rng = random.Random(case)
    if rng.random() < 0.3:
        how = rng.choice([remove, swap_files, swap_row_groups, swap_chunks, other_value])
        return how.__name__, how(folder, rng)
    manifest, card = next(folder.glob("data/*/_manifest.parquet")), folder / "cards" / "v1.json"
    path = rng.choice([*_files(folder), *_files(folder), manifest, card])
    change = rng.choice([*BYTES, digit, digit] if path == card else [*BYTES, footer, footer, footer])
    return change.__name__, _change(path, change, rng)


def main(work: Path, seed: int, count: int) -> None:
    whole = made(work / "whole")
    expected = read(whole)
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for case in range(seed * 1_000_000, seed * 1_000_000 + count):
        shutil.rmtree(work / "damaged", ignore_errors=True)
        damaged = Path(shutil.copytree(whole, work / "damaged"))
        done, paths = damage(damaged, case)
        told = f"case {case}: {done} of {', '.join(str(path.relative_to(damaged)) for path in paths)}"
        print(told, file=sys.stderr)
        start = time.monotonic()
        try:
            outcome = "equal" if same(read(damaged), expected) else "wrong"
        except PenstockError as error:
            outcome = "detected"
            if not any(path.name in str(error) for path in [*paths, damaged / "_manifest.parquet"]):
                outcome = f"does not say where: {error}"
        slowest = max(slowest, time.monotonic() - start)
        threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        if outcome not in ("equal", "detected") or threads or slowest > SECONDS:
            sys.exit(f"{told}: {outcome}; threads {threads}; {slowest:.1f} s")
        outcomes[outcome] += 1
    print(json.dumps({**outcomes, "slowest_s": slowest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
