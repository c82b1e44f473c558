"""What distance costs the feed: local files, the same with 20 ms more for every read, and a cache filled before.

    python -m bench.remote [--rows 160000] [--epochs 10] [--repeats 5]

28 x 28 pictures as the ETL writes them, in row groups of 4 MB, batches of 1,024, shuffled, the files in memory. Each
repeat is a new feed and all its epochs, with the checksums of the first; "with a cache" begins with none, "cached" with
the one that another feed has filled. Repeats alternate; the median counts. Reads are those of data files in an epoch:
what is held ahead when an epoch ends serves the next one, and that is most of a small dataset.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from penstock import card as cards
from penstock import command, manifest, tensors
from penstock.audit import audit_file
from penstock.card import Card
from penstock.console import Console
from penstock.schema import Field, Schema
from train.feed import Feed

SCHEMA = Schema((Field("id", "int64"), Field("image", "uint8", (28, 28)), Field("label", "int64")), "id", "label")
ROWS_PER_GROUP, GROUPS_PER_FILE, BATCH = 5_000, 8, 1_024
READ_S = 0.02
FAR = "20 ms a read"


class FarFileSystem(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """`far:///path`: local files, every read of which takes 20 ms more."""

    protocol: ClassVar[str] = "far"
    cachable: ClassVar[bool] = False
    num_reads: ClassVar[int] = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = LocalFileSystem()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("far://")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return self._local.ls(path, detail=detail)

    def info(self, path: str, **options: Any) -> Any:
        return self._local.info(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        FarFileSystem.num_reads += 1
        time.sleep(READ_S)
        return self._local.cat_file(path, start, end)


def pictures(folder: Path, num_rows: int) -> None:
    """A dataset version as the ETL publishes one."""
    rng, data_url, audits = np.random.default_rng(0), f"file://{folder}/data/v1-bench", []
    schema = pa.schema([pa.field(field.name, field.arrow_type, nullable=False) for field in SCHEMA.fields])
    plain = {"use_dictionary": False, "compression": "none", "data_page_size": 1 << 30, "write_statistics": False}
    rows_per_file = ROWS_PER_GROUP * GROUPS_PER_FILE
    for number, first in enumerate(range(0, num_rows, rows_per_file)):
        name = f"split=train/part-{number:05d}.parquet"
        path = folder / "data" / "v1-bench" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema, **plain) as writer:
            for start in range(first, min(first + rows_per_file, num_rows), ROWS_PER_GROUP):
                ids = np.arange(start, min(start + ROWS_PER_GROUP, num_rows))
                images = tensors.pack(rng.integers(0, 256, (len(ids), 28, 28), np.uint8), SCHEMA["image"])
                columns = [pa.array(ids), images, pa.array(ids % 10)]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_PER_GROUP)
        audits.append(audit_file(data_url, name, "train", SCHEMA))
    counts = {"raw": num_rows, "quarantined": 0, "clean": num_rows, "duplicates": 0, "built": num_rows}
    written = manifest.write(data_url, [audit.row_groups for audit in audits], SCHEMA)
    split = cards.Split(num_rows, "0" * 16)
    cards.publish(
        f"file://{folder}", Card("v1", "bench", "data/v1-bench", written, SCHEMA, counts, {"train": split}, {}, {})
    )


def measure(dataset_url: str, cache: Path | None, num_epochs: int) -> tuple[float, float]:
    """Rows per second, and reads per epoch, over all epochs of a feed."""
    feed = Feed(dataset_url, global_batch_size=BATCH, cache=cache)
    FarFileSystem.num_reads, start = 0, time.perf_counter()
    rows = sum(len(batch["label"]) for epoch in range(num_epochs) for batch in feed.epoch(epoch))
    seconds = time.perf_counter() - start
    assert rows == num_epochs * feed.num_rows
    return rows / seconds, FarFileSystem.num_reads / num_epochs


def work(arguments: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    fsspec.register_implementation("far", FarFileSystem)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        with console.step("write the pictures"):
            pictures(Path(folder) / "dataset", arguments.rows)
        far = f"far://{folder}/dataset"
        measure(far, Path(folder) / "cache", 1)
        ways: dict[str, Callable[[int], tuple[str, Path | None]]] = {
            "local": lambda repeat: (f"{folder}/dataset", None),
            FAR: lambda repeat: (far, None),
            f"{FAR}, with a cache": lambda repeat: (far, Path(folder) / f"cache-{repeat}"),
            f"{FAR}, cached": lambda repeat: (far, Path(folder) / "cache"),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for repeat in range(arguments.repeats):
            for name, way in ways.items():
                found[name].append(measure(*way(repeat), arguments.epochs))
            shutil.rmtree(Path(folder) / f"cache-{repeat}")
    rates = {name: [rate for rate, _ in figures] for name, figures in found.items()}
    reads = {name: statistics.median(count for _, count in figures) for name, figures in found.items()}
    medians = {name: statistics.median(figures) for name, figures in rates.items()}
    # Ratios within a repeat: the machine may be another one in the next.
    of_local = {
        name: statistics.median(rate / local for rate, local in zip(figures, rates["local"], strict=True))
        for name, figures in rates.items()
    }
    console.table(
        [
            [
                name,
                f"{medians[name]:,.0f}",
                f"{min(figures):,.0f} to {max(figures):,.0f}",
                f"{of_local[name]:.0%}",
                f"{reads[name]:,.0f}",
            ]
            for name, figures in rates.items()
        ],
        [f"{arguments.rows:,} pictures", "rows/s", "range", "of local", "reads"],
    )
    return {
        "rows_per_s": medians,
        "of_local": of_local,
        "reads_per_epoch": reads,
        "repeats": rates,
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench remote", __doc__ or "", "python -m bench.remote")
    made.prog = "python -m bench.remote"
    made.add_argument("--rows", type=int, default=160_000)
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--repeats", type=int, default=5)
    arguments = made.parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
