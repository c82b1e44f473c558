"""The labels of whole epochs in the order in which stock Petastorm's shuffled BatchedDataLoader gives them.

python -m bench.peers.petastorm.labels --parquet FOLDER --epochs 5 --out FILE.npz
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.cases import CASES, LABEL
from bench.peers.petastorm.feed import batched

TRIES = 50


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parquet", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = sorted(arguments.parquet.glob("*.parquet"))
    num_rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    epoch = batched(CASES["images"], files, arguments.out.parent)
    epochs = (np.concatenate([b[LABEL].numpy() for b in epoch(number)] or [np.empty(0)]) for number in range(TRIES))
    whole = (labels for labels in epochs if len(labels) == num_rows)  # its thread pool loses rows now and then
    np.savez(arguments.out, *itertools.islice(whole, arguments.epochs))


if __name__ == "__main__":
    main()
