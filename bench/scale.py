"""What grows with a dataset, and what must not: the time to the first batch, and memory.

    python -m bench.feed --scale          or, alone:   python -m bench.scale

Start: 20,000 files of 5 row groups, opened in a new process; the clock starts after the imports. Beside it stock
Petastorm on the same files, which lists the folder and reads every footer. Memory: 20 epochs over 160,000 pictures,
and one over 1, 10 and 100 times as many row groups, each in a new process; the anonymous memory of the process counts,
since mapped files are the page cache's.

Files are hard links to a few, so that 16 million rows fit on a small disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.cases import CASES, Columns
from bench.environment import ROOT, environment, machine
from bench.publish import DATA, SPLIT, publish
from penstock import card as cards
from penstock import command, manifest
from penstock.console import Console
from penstock.errors import PenstockError

NUM_FILES, GROUPS_PER_FILE, ROWS_PER_GROUP = 20_000, 5, 8
EPOCHS = 20

OURS = """
import json, sys, time
from train.feed import Feed

def anonymous_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

before, start = anonymous_mb(), time.perf_counter()
feed = Feed(sys.argv[1], global_batch_size=1024, columns=["image", "label"], num_workers=2)
next(batches := feed.epoch(0))
first_batch_s = time.perf_counter() - start
batches.close()
seek = time.perf_counter()
next(batches := feed.epoch(0, len(feed) - 1))
last_batch_s = time.perf_counter() - seek
batches.close()
peaks = []
for epoch in range(int(sys.argv[2])):
    peak = 0
    for number, _ in enumerate(feed.epoch(epoch)):
        if not number % 16:
            peak = max(peak, anonymous_mb() - before)
    peaks.append(round(peak, 1))
print(json.dumps({"first_batch_s": first_batch_s, "last_batch_s": last_batch_s, "peaks_mb": peaks}))
"""
PETASTORM = """
import json, os, sys, time
from petastorm import make_batch_reader

start = time.perf_counter()
with make_batch_reader("file://" + sys.argv[1], schema_fields=["image", "label"], num_epochs=1) as reader:
    next(reader)
    print(json.dumps({"first_batch_s": time.perf_counter() - start}), flush=True)
    os._exit(0)  # else its threads abort the interpreter
"""


def multiplied(source: Path, folder: Path, times: int) -> Path:
    """A dataset whose files are `times` links to each of the source's. Returns its folder."""
    card = cards.load(str(source))
    table = manifest.read(f"file://{source}", card).table
    data = folder / DATA
    (data / f"split={SPLIT}").mkdir(parents=True)
    tables = []
    for number in range(times):
        names = [f"split={SPLIT}/{number:05d}-{Path(name).name}" for name in table["file"].to_pylist()]
        for name, there in dict(zip(names, table["file"].to_pylist(), strict=True)).items():
            os.link(source / DATA / there, data / name)
        tables.append(table.set_column(table.column_names.index("file"), "file", pa.array(names)))
    rows = card.splits[SPLIT].rows * times
    counts = {"raw": rows, "quarantined": 0, "clean": rows, "duplicates": 0, "built": rows}
    value = {name: getattr(card, name) for name in card.__dataclass_fields__}
    value |= {"manifest": manifest.write(f"file://{data}", tables, card.schema), "counts": counts}
    cards.publish(f"file://{folder}", cards.Card(**value | {"splits": {SPLIT: cards.Split(rows, "")}}))
    return folder


def small_groups() -> list[list[Columns]]:
    rng = np.random.default_rng(0)
    return [
        [
            {"id": np.arange(ROWS_PER_GROUP), **CASES["images"].make(rng, ROWS_PER_GROUP), "label": np.zeros(8, int)}
            for _ in range(GROUPS_PER_FILE)
        ]
    ]


def large_groups() -> list[list[Columns]]:
    rng = np.random.default_rng(0)
    return [
        [
            {"id": np.arange(4_000), **CASES["images"].make(rng, 4_000), "label": np.zeros(4_000, int)}
            for _ in range(GROUPS_PER_FILE)
        ]
        for _ in range(8)
    ]


def ask(python: Path, program: str, *arguments: object, timeout_s: float = 600) -> dict[str, Any]:
    done = subprocess.run(
        [str(python), "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, cwd=ROOT
    )
    if done.returncode:
        raise PenstockError(f"{python}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def measure(console: Console, with_peer: bool = True) -> dict[str, Any]:
    python = Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as name:
        scratch = Path(name)
        schema = CASES["images"].schema
        publish(scratch / "small", schema, small_groups())
        many = multiplied(scratch / "small", scratch / "many", NUM_FILES)
        starts = ask(python, OURS, many, 0)
        console.say(
            f"{NUM_FILES:,} files, {NUM_FILES * GROUPS_PER_FILE:,} row groups: first batch after "
            f"{starts['first_batch_s']:.2f} s, the epoch's last after {starts['last_batch_s']:.2f} s"
        )
        result: dict[str, Any] = {"start": starts}
        if with_peer:
            files = many / DATA / f"split={SPLIT}"
            result["petastorm"] = ask(environment("petastorm"), PETASTORM, files)
            console.say(f"stock Petastorm: first batch after {result['petastorm']['first_batch_s']:.2f} s")
        publish(scratch / "x1", schema, large_groups())
        result["epochs"] = ask(python, OURS, scratch / "x1", EPOCHS)["peaks_mb"]
        console.say(f"memory of {EPOCHS} epochs, MB: {' '.join(map(str, result['epochs']))}")
        result["rows"] = {}
        for times in (1, 10, 100):
            dataset = scratch / "x1" if times == 1 else multiplied(scratch / "x1", scratch / f"x{times}", times)
            result["rows"][times] = ask(python, OURS, dataset, 1)["peaks_mb"][0]
            console.say(f"memory of one epoch over {160_000 * times:,} rows: {result['rows'][times]} MB")
    return result


def work(arguments: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    return {**measure(console, not arguments.ours_alone), "machine": machine()}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench scale", __doc__ or "", "python -m bench.scale")
    made.prog = "python -m bench.scale"
    made.add_argument("--ours-alone", action="store_true", help="without stock Petastorm and its environment")
    arguments = made.parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
