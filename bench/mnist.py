"""MNIST from its idx files to tested models: the mnist recipe's accuracy, seconds per epoch and data stall.

    python -m bench.mnist --raw ../shared/data/mnist [--seeds 5] [--models mlp,cnn] [--epochs 5] [--keep DIR]
    python -m bench.mnist --raw ../shared/data/mnist --recipe mnist_keras

One ETL, then a run per model and seed over all 60,000 training pictures (train+val, as every choice was made on val
before), each tested once on the 10,000 test pictures. Accuracy is the mean over the seeds, beside the standard
deviation; the times and the data stall are the medians of the runs. With --keep an interrupted bench goes on.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from bench.environment import cpu_name
from etl.run import etl
from penstock import command
from penstock.console import Console
from penstock.errors import RunError
from penstock.recipe import Recipe, find
from train.config import TrainConfig
from train.distributed import World, choose_device
from train.run import train


def measure(
    recipe: Recipe, raw: str, configs: Mapping[str, TrainConfig], num_seeds: int, folder: Path, console: Console
) -> dict[str, list[Mapping[str, Any]]]:
    """Per model the reports of its runs, one per seed from 0."""
    dataset = str(folder / "dataset")
    version = etl(recipe, raw, dataset, console).card.version
    reports: dict[str, list[Mapping[str, Any]]] = {name: [] for name in configs}
    for seed in range(num_seeds):
        for name, config in configs.items():
            console.say(f"{name}, seed {seed}")
            run, world = folder / "runs" / f"{name}-{seed}", World(choose_device("auto"))
            report = train(recipe, dataset, run, replace(config, seed=seed), world, version, console).report
            console.say(f"  test accuracy {report['test']['accuracy']:.4f} on {report['test_rows']:,} rows")
            reports[name].append(report)
    return reports


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    if arguments.seeds < 1:
        raise RunError(f"--seeds must be 1 or more, found {arguments.seeds}")
    names, recipe = arguments.models.split(","), find(arguments.recipe)
    config = recipe.model().config
    configs = {name: replace(config(name), epochs=arguments.epochs, train_split="train+val") for name in names}
    keep = Path(arguments.keep).expanduser().absolute() if arguments.keep else None
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory(prefix="bench-mnist-") as folder:
        reports = measure(recipe, arguments.raw, configs, arguments.seeds, Path(folder), console)

    accuracies = {name: [report["test"]["accuracy"] for report in reports[name]] for name in names}
    mean = {name: statistics.mean(found) for name, found in accuracies.items()}
    std = {name: statistics.stdev(found) if len(found) > 1 else 0.0 for name, found in accuracies.items()}
    times = {
        key: {name: statistics.median(report[key] for report in reports[name]) for name in names}
        for key in ("seconds_per_epoch", "data_stall", "rows_per_s")
    }
    rows = [
        [
            name,
            f"{mean[name]:.4f} ± {std[name]:.4f}",
            f"{times['seconds_per_epoch'][name]:.1f}",
            f"{times['data_stall'][name]:.1%}",
            f"{times['rows_per_s'][name]:,.0f}",
        ]
        for name in names
    ]
    console.table(rows, ["model", "test accuracy", "s/epoch", "data stall", "rows/s"])
    for name in names:
        console.say(f"  {name}, each seed: {' '.join(f'{accuracy:.4f}' for accuracy in accuracies[name])}")
    return {
        **{f"{name}_accuracy": mean[name] for name in names},
        **{f"{name}_accuracy_std": std[name] for name in names},
        **{f"{name}_accuracies": accuracies[name] for name in names},
        **times,
        "seeds": list(range(arguments.seeds)),
        "epochs": arguments.epochs,
        "test_rows": reports[names[0]][0]["test_rows"],
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "device": str(choose_device("auto"))},
        "torch": version_of("torch"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench mnist", __doc__ or "", "python -m bench.mnist --raw ../shared/data/mnist")
    made.prog = "python -m bench.mnist"
    made.add_argument("--raw", required=True, metavar="URL", help="the folder of MNIST's idx files")
    made.add_argument("--recipe", default="mnist", help="mnist, or mnist_keras")
    made.add_argument("--seeds", type=int, default=5, help="runs per model")
    made.add_argument("--models", default="mlp,cnn", help="one or more of the recipe's, with commas")
    made.add_argument("--epochs", type=int, default=5)
    made.add_argument("--keep", metavar="DIR", help="keep the dataset and the runs there; default: a temporary folder")
    arguments = made.parse_args(argv)
    arguments.json = True  # the JSON object is all of standard output; the table goes to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
