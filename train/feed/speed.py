"""`penstock feed`: a dataset version read as fast as it goes, without a model.

What it prints says how large a model, or how many GPUs, a machine can keep busy.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

from penstock import command
from penstock.console import Console
from penstock.errors import DatasetError
from train.distributed import choose_device
from train.feed.blocks import WEIGHT
from train.feed.device import to_device
from train.feed.feed import Feed
from train.feed.timing import STAGES
from train.run import add_reading_arguments, reading


def measure(feed: Feed, epochs: int, device_name: str, console: Console) -> dict[str, Any]:
    """Reads `epochs` epochs. Raises: DatasetError, also where the feed gives another number of rows than it has."""
    device = choose_device(device_name)
    first_batch_s, rows, start = 0.0, 0, time.perf_counter()
    with console.step("read") as update:
        for epoch in range(epochs):
            for number, batch in enumerate(to_device(feed.epoch(epoch), device, feed.timings)):
                rows += int(batch[WEIGHT].sum())
                first_batch_s = first_batch_s or time.perf_counter() - start
                if not number % 100:
                    update(f"epoch {epoch + 1}: {number:,} of {len(feed):,} batches")
    seconds = time.perf_counter() - start
    if feed.world_size == 1 and rows != epochs * feed.num_rows:
        raise DatasetError(f"{feed!r}: expected {epochs * feed.num_rows:,} rows, found {rows:,}; this is a bug of ours")
    return {
        "rows": rows,
        "seconds": seconds,
        "first_batch_s": first_batch_s,
        "rows_per_s": rows / seconds,
        "bytes_per_s": feed.timings.num_bytes / seconds,
        "stages": dict(feed.timings.seconds),
        "num_workers": feed.num_workers,
        "device": str(device),
    }


def report(told: dict[str, Any], console: Console) -> None:
    console.say()
    rows = [
        [stage, f"{told['stages'][stage]:8.2f} s", f"{told['stages'][stage] / told['seconds']:6.1%}", what]
        for stage, what in itertools.islice(STAGES.items(), 4)
    ]
    console.table(rows, ["stage", "in all threads", "of the time", ""])
    console.say()
    console.say(
        f"{told['rows']:,} rows in {told['seconds']:.2f} s: {told['rows_per_s']:,.0f} rows/s, "
        f"{told['bytes_per_s'] / 1e6:,.1f} MB/s with {told['num_workers']} threads; "
        f"the first batch after {told['first_batch_s']:.2f} s"
    )


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "feed",
        "Read a dataset version as fast as it goes, without a model: rows/s, bytes/s and the time of each stage.",
        "penstock feed /data/mnist_dataset --epochs 3 --batch-size 1024",
    )
    made.add_argument("data", metavar="URL", help="the dataset's folder")
    made.add_argument("--version", help="dataset version; default: the newest")
    made.add_argument("--split", default="train", help="default: train")
    made.add_argument("--columns", help="fields to read, parted by commas; default: all but the key")
    made.add_argument("--epochs", type=int, default=1, help="default: 1")
    made.add_argument("--batch-size", type=int, default=1024, help="global batch size; default: 1024")
    made.add_argument("--lanes", type=int, help="divide the batch size; default: its largest divisor up to 32")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    add_reading_arguments(made)
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    feed = Feed(
        arguments.data,
        arguments.split,
        version=arguments.version,
        global_batch_size=arguments.batch_size,
        lanes=arguments.lanes,
        columns=arguments.columns.split(",") if arguments.columns else None,
        **reading(arguments),
    )
    console.say(repr(feed))
    told = measure(feed, arguments.epochs, arguments.device, console)
    report(told, console)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
