"""MNIST's 60,000 training pictures to a training data set: ours beside stock Petastorm and MosaicML streaming.

    python -m bench.convert --raw ../shared/data/mnist [--repeats 3]

All read the same idx files with local[2]; the start of the session is left out on all sides. Ours counts in both
stages: rules, quarantine, deduplication, shuffle, the read back of every byte, and the card. The others get their
own environments from their locks (bench/peers/), built on the first run. Repeats alternate; the median counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.environment import PEERS, environment, machine
from etl import java
from etl.run import etl
from etl.spark import session
from penstock import command
from penstock.console import Console
from penstock.errors import PenstockError
from penstock.recipe import find

TRAIN_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
PEER_TIMEOUT_S = 600
WARM_ROWS = 64


def peer_seconds(name: str, raw: Path, out: Path) -> float:
    script = PEERS / name / "convert.py"
    command_line = [environment(name), script, "--raw", raw, "--out", out]
    done = subprocess.run(list(map(str, command_line)), capture_output=True, text=True, timeout=PEER_TIMEOUT_S, cwd=out)
    if done.returncode:
        raise PenstockError(f"{name}: convert.py failed: {done.stderr.strip().splitlines()[-1:]}")
    seconds: float = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
    return seconds


def our_seconds(raw: Path, out: Path, console: Console) -> float:
    """In a session of our own, which a few rows that went the whole way have warmed up, as the peers' are."""
    (out / "few").mkdir()
    for name in TRAIN_FILES:
        (out / "few" / name).write_bytes(
            gzip.compress(first_items(gzip.decompress((raw / name).read_bytes()), WARM_ROWS))
        )
    with session("bench", "local[2]"):
        etl(find("mnist"), str(out / "few"), str(out / "warm"), Console(as_json=True))
        start = time.perf_counter()
        etl(find("mnist"), str(raw), str(out / "dataset"), console)
        return time.perf_counter() - start


def first_items(idx: bytes, count: int) -> bytes:
    """The idx file of the first `count` items of one of unsigned bytes."""
    head = 4 + 4 * idx[3]
    sizes = struct.unpack(f">{idx[3]}I", idx[4:head])
    return idx[:4] + struct.pack(f">{idx[3]}I", count, *sizes[1:]) + idx[head : head + count * math.prod(sizes[1:])]


def measure(raw: Path, repeats: int, console: Console) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"penstock": [], "petastorm": [], "mosaic": []}
    for repeat in range(repeats):
        for name, found in seconds.items():
            with tempfile.TemporaryDirectory(prefix="bench-") as out:
                took = (
                    our_seconds(raw, Path(out), console) if name == "penstock" else peer_seconds(name, raw, Path(out))
                )
            found.append(took)
            console.say(f"repeat {repeat + 1}: {name} {took:.1f} s")
    return seconds


def work(arguments: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    os.environ["JAVA_HOME"] = str(java.use().home)  # the same Java for all
    with tempfile.TemporaryDirectory(prefix="bench-raw-") as folder:
        for name in TRAIN_FILES:
            if not (arguments.raw / name).is_file():
                raise PenstockError(f"--raw {arguments.raw}: {name} is missing; expected MNIST's idx .gz files")
            shutil.copy(arguments.raw / name, folder)
        seconds = measure(Path(folder), arguments.repeats, console)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    rows = [
        [name, f"{medians[name]:.1f}", f"{min(found):.1f} to {max(found):.1f}", f"{60_000 / medians[name]:,.0f}"]
        for name, found in seconds.items()
    ]
    console.table(rows, ["60,000 pictures", "median s", "range s", "rows/s"])
    return {
        "penstock_s": medians["penstock"],
        "petastorm_s": medians["petastorm"],
        "mosaic_s": medians["mosaic"],
        "speedup": medians["petastorm"] / medians["penstock"],
        "repeats": seconds,
        "machine": machine(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench convert", __doc__ or "", "python -m bench.convert --raw ../shared/data/mnist")
    made.prog = "python -m bench.convert"
    made.add_argument("--raw", type=Path, required=True, help="the folder of MNIST's idx .gz files")
    made.add_argument("--repeats", type=int, default=3)
    arguments = made.parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
