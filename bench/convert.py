"""MNIST's 60,000 training pictures to a training data set: ours beside stock Petastorm and MosaicML streaming.

    python -m bench.convert --raw ../shared/data/mnist [--repeats 3] [--copies 10]

All read the same idx files with local[2]; the start of the session is left out on all sides. Ours counts in both
stages: rules, quarantine, deduplication, shuffle, the read back of every byte, and the cards. The others get their
own environments from their locks (bench/peers/), built on the first run. Repeats alternate; the median counts.
`--copies` gives every system the same files several times under other names, to show the cost of a row. A system that
fails, for want of memory or of time, is said to, and the others go on.
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

from bench.environment import PEERS, ROOT, environment, machine
from etl import java
from etl.run import etl
from etl.spark import session
from penstock import command
from penstock.console import Console
from penstock.errors import PenstockError
from penstock.recipe import find

TRAIN_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TIMEOUT_S = 600
WARM_ROWS = 64
PICTURES = 60_000


def peer_seconds(name: str, raw: Path, out: Path) -> float:
    return seconds_of([environment(name), PEERS / name / "convert.py"], name, raw, out, cwd=out)


def our_seconds(raw: Path, out: Path) -> float:
    return seconds_of([sys.executable, "-m", "bench.convert", "--ours"], "penstock", raw, out, cwd=ROOT)


def seconds_of(command_line: Sequence[str | Path], name: str, raw: Path, out: Path, cwd: Path) -> float:
    """What the command's last line says. Raises: PenstockError where it fails or takes longer than TIMEOUT_S."""
    whole = [*map(str, command_line), "--raw", str(raw), "--out", str(out)]
    try:
        done = subprocess.run(whole, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=cwd)
    except subprocess.TimeoutExpired as error:
        raise PenstockError(f"{name}: more than {TIMEOUT_S} s") from error
    if done.returncode:
        raise PenstockError(f"{name}: failed: {' '.join(done.stderr.strip().splitlines()[-1:])[:200]}")
    seconds: float = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
    return seconds


def ours(raw: Path, out: Path) -> None:
    """Ours, in a process of its own, in a session that a few rows which went the whole way have warmed up.

    The few rows come in two pairs of files, so that both Python workers have imported what they need.
    """
    (out / "few").mkdir()
    for name in TRAIN_FILES:
        few = gzip.compress(first_items(gzip.decompress(next(raw.glob(f"*{name}")).read_bytes()), WARM_ROWS))
        for prefix in ("a-", "b-"):
            (out / "few" / f"{prefix}{name}").write_bytes(few)
    raw_bytes = sum(path.stat().st_size for path in raw.iterdir())
    with session("bench", "local[2]", raw_bytes):
        etl(find("mnist"), str(out / "few"), str(out / "warm"), Console(as_json=True))
        start = time.perf_counter()
        built = etl(find("mnist"), str(raw), str(out / "dataset"), Console(as_json=True))
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "rows": built.card.counts["built"]}))


def first_items(idx: bytes, count: int) -> bytes:
    """The idx file of the first `count` items of one of unsigned bytes."""
    head = 4 + 4 * idx[3]
    sizes = struct.unpack(f">{idx[3]}I", idx[4:head])
    return idx[:4] + struct.pack(f">{idx[3]}I", count, *sizes[1:]) + idx[head : head + count * math.prod(sizes[1:])]


def measure(raw: Path, repeats: int, console: Console) -> dict[str, list[float]]:
    """System -> the seconds of each repeat; a system that failed is not tried again."""
    seconds: dict[str, list[float]] = {"penstock": [], "petastorm": [], "mosaic": []}
    failed = set()
    for repeat in range(repeats):
        for name in (name for name in seconds if name not in failed):
            with tempfile.TemporaryDirectory(prefix="bench-") as out:
                try:
                    took = our_seconds(raw, Path(out)) if name == "penstock" else peer_seconds(name, raw, Path(out))
                except PenstockError as error:
                    failed.add(name)
                    console.say(str(error))
                    continue
            seconds[name].append(took)
            console.say(f"repeat {repeat + 1}: {name} {took:.1f} s")
    return seconds


def work(arguments: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    os.environ["JAVA_HOME"] = str(java.use().home)  # the same Java for all
    with tempfile.TemporaryDirectory(prefix="bench-raw-") as folder:
        for name in TRAIN_FILES:
            if not (arguments.raw / name).is_file():
                raise PenstockError(f"--raw {arguments.raw}: {name} is missing; expected MNIST's idx .gz files")
            for i in range(arguments.copies):
                shutil.copy(arguments.raw / name, f"{folder}/{i}-{name}")
        seconds = measure(Path(folder), arguments.repeats, console)
    num_rows = PICTURES * arguments.copies
    medians = {name: statistics.median(found) for name, found in seconds.items() if found}
    rows = [
        [name, f"{median:.1f}", f"{min(seconds[name]):.1f} to {max(seconds[name]):.1f}", f"{num_rows / median:,.0f}"]
        for name, median in medians.items()
    ]
    console.table(rows, [f"{num_rows:,} pictures", "median s", "range s", "rows/s"])
    speedup = medians["petastorm"] / medians["penstock"] if {"petastorm", "penstock"} <= medians.keys() else None
    return {
        "rows": num_rows,
        **{f"{name}_s": medians.get(name) for name in seconds},
        "speedup": speedup,
        "repeats": seconds,
        "machine": machine(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench convert", __doc__ or "", "python -m bench.convert --raw ../shared/data/mnist")
    made.prog = "python -m bench.convert"
    made.add_argument("--raw", type=Path, required=True, help="the folder of MNIST's idx .gz files")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--copies", type=int, default=1, help="how often each system gets the 60,000 pictures")
    made.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)  # the process that `our_seconds` starts
    made.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = made.parse_args(argv)
    if arguments.ours:
        ours(arguments.raw, arguments.out)
        return 0
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
