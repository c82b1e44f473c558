"""What the peers of bench.fit share: the data, their command line, and the settings that the mnist recipe has.

    .venvs/fit/bin/python -m bench.peers.fit.keras --system keras_torch --model mlp --data FILE --epochs 5 --seed 0

from the root of the project. Prints one JSON object: the seconds of each epoch and the accuracy on the test pictures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

NUM_CLASSES = 10


@dataclass(frozen=True)
class Job:
    """One training run. Pictures are standardised float32 (N, 28, 28), which costs no epoch anything."""

    system: str
    model: str
    epochs: int
    batch_size: int
    seed: int
    lr: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    def lr_factor(self, step: float) -> float:
        """As train.schedule: up over the first steps, then down to 0."""
        num_steps = self.epochs * -(-len(self.train[1]) // self.batch_size)
        num_warmup = round(self.warmup * num_steps)
        return (step + 1) / num_warmup if step < num_warmup else (num_steps - step) / (num_steps - num_warmup)


def serve(systems: Sequence[str], fit: Callable[[Job], tuple[list[float], float]], packages: Sequence[str]) -> None:
    """`fit` gives the seconds of each epoch and the accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=systems, required=True)
    parser.add_argument("--data", type=Path, required=True, help="npz of train_images, train_labels, test_images, …")
    for name, kind in (("model", str), ("epochs", int), ("batch-size", int), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("lr", "weight-decay", "warmup", "label-smoothing"):
        parser.add_argument(f"--{name}", type=float, required=True)
    arguments = vars(parser.parse_args())
    answers = os.fdopen(os.dup(1), "w")  # libraries print to standard output
    os.dup2(2, 1)
    with np.load(arguments.pop("data")) as arrays:
        images, test_images = (arrays[name].astype(np.float32) for name in ("train_images", "test_images"))
        labels, test_labels = (arrays[name].astype(np.int64) for name in ("train_labels", "test_labels"))
    mean, std = images.mean(dtype=np.float64), images.std(dtype=np.float64)
    train, test = ((images - mean) / std, labels), ((test_images - mean) / std, test_labels)
    train, test = ((x.astype(np.float32), y) for x, y in (train, test))
    seconds, accuracy = fit(Job(**arguments, train=train, test=test))
    versions = {name: version(name) for name in packages}
    print(json.dumps({"seconds": seconds, "accuracy": accuracy, "versions": versions}), file=answers, flush=True)
