"""How random batches are: label counts per batch beside those of a true random permutation, ten classes of equal size.

    python -m bench.shuffle [--rows 160000] [--epochs 5] [--peers none]

The statistic is the mean over an epoch's whole batches of Pearson's chi-square of the batch's label counts. It is
compared for ours on published data (ETL has shuffled the rows), and, on adopted data that lies sorted by label, for
ours, stock Petastorm's shuffled BatchedDataLoader, and shuffle buffers, simulated: a buffer is filled in file order, or
row group after row group in random order; then each next row takes the place of one drawn at random. A buffer holds
10,000 rows, or as many as the row groups that 8 lanes have open. z counts standard deviations from a permutation.

Memory: a buffer holds its rows. Ours holds, of a row group that a lane is in, the order and the narrow columns: wide
columns stay in mapped files. (Columns that cannot be read in place are held whole: then 8 lanes hold as much as the
larger buffer.)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cases import CASES, KEY, LABEL, NUM_LABELS, SEED, Columns, group_sizes
from bench.clock import BATCH_ROWS
from bench.environment import ROOT, environment, machine
from bench.publish import SPLIT, publish
from penstock import command, store
from penstock.console import Console
from penstock.errors import PenstockError
from train.feed import Feed

BUFFER_ROWS = 10_000
FEW_LANES = 8
HELD_BYTES = 16  # of a row of an open row group: its place in the order, and its label
NUM_PERMUTATIONS = 400
CASE = CASES["images"]
Labels = npt.NDArray[np.int64]


def chi_square(labels: Labels) -> float:
    """The mean over whole batches of Σ_k (n_k - e_k)² / e_k, n_k a batch's rows of class k, e_k = 1,024 / 10.

    Source: Pearson 1900. For a random permutation of N rows the counts of a batch of B are multivariate hypergeometric:
    the expectation is (K - 1) (N - B) / (N - 1), K classes of equal size.
    """
    batches = labels[: len(labels) // BATCH_ROWS * BATCH_ROWS].reshape(-1, BATCH_ROWS)
    counts = np.stack([(batches == label).sum(1) for label in range(NUM_LABELS)], 1)  # (batches, classes)
    expected = BATCH_ROWS / NUM_LABELS
    return float(((counts - expected) ** 2 / expected).sum(1).mean())


def expectation(num_rows: int) -> float:
    return (NUM_LABELS - 1) * (num_rows - BATCH_ROWS) / (num_rows - 1)


def deviation(labels: Labels) -> float:
    """The standard deviation of `chi_square` over random permutations: batches are not independent, so simulated."""
    rng = np.random.default_rng(SEED)
    return float(np.std([chi_square(rng.permutation(labels)) for _ in range(NUM_PERMUTATIONS)], ddof=1))


def buffered(labels: Labels, buffer_rows: int, rng: np.random.Generator) -> Labels:
    """What a shuffle buffer gives of rows that come in this order."""
    buffer, given = labels[:buffer_rows].copy(), np.empty_like(labels)
    coming = labels[buffer_rows:]
    for i, place in enumerate(rng.integers(len(buffer), size=len(coming))):
        given[i], buffer[place] = buffer[place], coming[i]
    given[len(coming) :] = rng.permutation(buffer)
    return given


def row_groups(labels: Labels, sizes: Sequence[Sequence[int]]) -> Iterator[Sequence[Columns]]:
    """Rows with these labels in this order, as wide as the images are: only their size matters."""
    first = 0
    for in_file in sizes:
        groups = []
        for size in in_file:
            rows = slice(first, first := first + size)
            images = np.zeros((size, *CASE.schema["image"].shape), np.uint8)
            groups.append({KEY: np.arange(rows.start, rows.stop), LABEL: labels[rows], "image": images})
        yield groups


def open_feed(dataset: Path, lanes: int | None = None) -> Feed:
    return Feed(str(dataset), SPLIT, global_batch_size=BATCH_ROWS, lanes=lanes, seed=SEED, columns=[LABEL])


def ours(feed: Feed, epochs: int) -> list[Labels]:
    return [np.concatenate([batch[LABEL].numpy() for batch in feed.epoch(number)]) for number in range(epochs)]


def petastorm(parquet: Path, epochs: int, scratch: Path) -> list[Labels]:
    out = scratch / "petastorm.npz"
    module = ["-m", "bench.peers.petastorm.labels"]
    line = [environment("petastorm"), *module, "--parquet", parquet, "--epochs", epochs, "--out", out]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise PenstockError(f"petastorm: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    with np.load(out) as arrays:
        return list(arrays.values())


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    num_rows, epochs = arguments.rows, arguments.epochs
    if num_rows % NUM_LABELS or num_rows < 2 * BATCH_ROWS or epochs < 1:
        raise PenstockError(f"--rows {num_rows}, --epochs {epochs}: expected rows in tens, {2 * BATCH_ROWS} or more")
    sizes = group_sizes(CASE, num_rows)
    by_label: Labels = np.repeat(np.arange(NUM_LABELS), num_rows // NUM_LABELS)
    rng = np.random.default_rng(SEED)
    in_groups = np.split(by_label, np.cumsum([size for in_file in sizes for size in in_file])[:-1])
    found: dict[str, list[Labels]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-shuffle-") as folder:
        scratch = Path(folder)
        publish(scratch / "published", CASE.schema, row_groups(rng.permutation(by_label), sizes))
        parquet = publish(scratch / "adopted", CASE.schema, row_groups(by_label, sizes))
        adopted, few_lanes = open_feed(scratch / "adopted"), open_feed(scratch / "adopted", FEW_LANES)
        found["ours, published"] = ours(open_feed(scratch / "published"), epochs)
        found["ours, adopted"] = ours(adopted, epochs)
        found[f"ours, adopted, {FEW_LANES} lanes"] = ours(few_lanes, epochs)
        if arguments.peers != "none":
            with console.step("stock Petastorm"):
                found["petastorm, adopted"] = petastorm(parquet, epochs, scratch)
    group_rows = max(map(len, in_groups))
    held = {"ours": adopted.plan(0).lanes * group_rows * HELD_BYTES, "buffer": BUFFER_ROWS * CASE.row_bytes}
    for rows in dict.fromkeys([min(BUFFER_ROWS, num_rows), min(FEW_LANES * group_rows, num_rows)]):
        found[f"buffer of {rows:,} rows, file order"] = [buffered(by_label, rows, rng) for _ in range(epochs)]
        found[f"buffer of {rows:,} rows, row groups shuffled"] = [
            buffered(np.concatenate([in_groups[g] for g in rng.permutation(len(in_groups))]), rows, rng)
            for _ in range(epochs)
        ]
    expected, sd = expectation(num_rows), deviation(by_label)
    result: dict[str, Any] = {}
    for name, labels in found.items():
        statistic = float(np.mean([chi_square(one) for one in labels]))
        z = (statistic - expected) / (sd / len(labels) ** 0.5)
        result[name] = {"chi_square": statistic, "z": z, "rows": [len(one) for one in labels]}
    rows_of_table = [[name, f"{one['chi_square']:,.2f}", f"{one['z']:,.1f}"] for name, one in result.items()]
    console.table(rows_of_table, [f"{num_rows:,} rows, batches of 1,024", "chi-square", "z"])
    console.say(f"a random permutation: {expected:.2f}, standard deviation {sd:.3f} an epoch; {epochs} epochs")
    console.say(f"memory: ours {held['ours'] / 1e6:.1f} MB, a buffer of 10,000 pictures {held['buffer'] / 1e6:.1f} MB")
    value = {
        "systems": result,
        "held_bytes": held,
        "expected": expected,
        "standard_deviation": sd,
        "epochs": epochs,
        "machine": machine(),
    }
    if arguments.out:
        store.replace(arguments.out.absolute(), (json.dumps(value, indent=1) + "\n").encode())
    return value


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench shuffle", __doc__ or "", "python -m bench.shuffle --epochs 5")
    made.prog = "python -m bench.shuffle"
    made.add_argument("--rows", type=int, default=160_000)
    made.add_argument("--epochs", type=int, default=5, help="epochs that each system is measured over")
    made.add_argument("--peers", choices=["all", "none"], default="all", help="none: without stock Petastorm")
    made.add_argument("--out", type=Path, help="write the JSON object there as well")
    arguments = made.parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
