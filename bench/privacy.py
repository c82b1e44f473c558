"""What it costs to look a column of strings through for personal data before it is published, and to mask it.

    python -m bench.privacy

A million values of five sorts, in batches of 10,000 as ETL has them, on one core; the median of some repeats.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from bench.environment import machine
from penstock import command, personal
from penstock.console import Console

ROWS, BATCH = 1_000_000, 10_000
WORDS = ["lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit"]
VALUES: dict[str, Callable[[random.Random, int], str]] = {
    "ids such as train-0000042": lambda rng, i: f"train-{i:07}",
    "16 hex digits": lambda rng, i: f"{rng.getrandbits(64):016x}",
    "numbers with decimals": lambda rng, i: str(rng.random()),
    "12 words": lambda rng, i: " ".join(rng.choices(WORDS, k=12)),
    "12 words, a phone number or e-mail address in one of ten": lambda rng, i: (
        f"{' '.join(rng.choices(WORDS, k=12))} {rng.choice(['+44 20 7946 0018', 'a@b.co']) if i % 10 == 0 else ''}"
    ),
}


def seconds(work: Callable[[pa.Array], object], batches: Sequence[pa.Array], repeats: int) -> float:
    def once() -> float:
        start = time.perf_counter()
        for batch in batches:
            work(batch)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(repeats))


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    rng = random.Random(0)
    rows: dict[str, list[float]] = {}
    for name, value in VALUES.items():
        column = pa.array([value(rng, i) for i in range(arguments.rows)])
        batches = [column.slice(start, BATCH) for start in range(0, len(column), BATCH)]
        looked = seconds(lambda batch: personal.found(batch, personal.LOOKED_FOR), batches, arguments.repeats)
        masked = seconds(lambda batch: personal.mask(batch, personal.KINDS), batches, arguments.repeats)
        rows[name] = [round(looked, 2), round(masked, 2)]
    console.table(
        [[name, *map(str, found)] for name, found in rows.items()], ["values", "looked through, s", "masked, s"]
    )
    return {"rows": arguments.rows, "seconds": rows, **machine()}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench privacy", __doc__ or "", "python -m bench.privacy --repeats 5")
    made.prog = "python -m bench.privacy"
    made.add_argument("--rows", type=int, default=ROWS)
    made.add_argument("--repeats", type=int, default=3)
    arguments = made.parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
