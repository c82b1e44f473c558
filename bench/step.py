"""The step beside its limit: a whole run, feed included, against the same run fed with one resident batch.

    python -m bench.step --raw ../shared/data/mnist [--cases mnist_cnn,transformer] [--repeats 5] [--device auto]

Both are `penstock train` on the same dataset version, with the same loop; the limit's feed reads one batch, keeps it on
the device and gives it again and again, so that its step never waits. Runs alternate; the fraction of the limit is the
median of the pairs' ratios. The data stall, the model's FLOPs and the MFU (where the device's peak is known) are those
that the run itself reports. The transformer reads synthetic text from a dataset that is made here.
"""

from __future__ import annotations

import train  # noqa: F401 - before torch, whose idle threads would else take the feed's cores

# isort: split
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.environment import ROOT, machine
from bench.feed import chosen
from bench.publish import publish
from etl.run import etl
from penstock import command
from penstock.console import Console
from penstock.recipe import Recipe, find
from penstock.schema import Field, Schema
from train import loop, run
from train.config import TrainConfig
from train.distributed import World, choose_device
from train.feed.device import to_device
from train.feed.petastorm_reader import Batch
from train.feed.timing import Timings

CASES = ("mnist_cnn", "transformer")
STEPS = {"mnist_cnn": 469, "transformer": 60}  # of a run: an epoch of MNIST
TRANSFORMER = ROOT / "bench" / "transformer"
TEXT = Schema((Field("id", "int64"), Field("text", "uint8", (129,))), key="id")
NUM_TEXTS = 60 * 32


def resident(batches: Generator[Batch], device: torch.device, timings: Timings) -> Generator[Batch]:
    """Instead of `to_device`: the first batch, on the device, as all batches."""
    fed = to_device(batches, device, timings)
    batch = next(fed)
    fed.close()
    batches.close()
    while True:
        yield dict(batch)


@contextmanager
def without_feed() -> Iterator[None]:
    vars(loop)["to_device"] = resident
    try:
        yield
    finally:
        vars(loop)["to_device"] = to_device


def train_once(
    recipe: Recipe, dataset: Path, out: Path, config: TrainConfig, device: torch.device, console: Console
) -> Mapping[str, Any]:
    return run.train(recipe, str(dataset), out, config, World(device), None, console).report


def measure(case: str, arguments: Namespace, folder: Path, console: Console) -> dict[str, Any]:
    device = choose_device(arguments.device)
    dataset = folder / f"{case}_dataset"
    if case == "mnist_cnn":
        recipe = find("mnist")
        etl(recipe, arguments.raw, str(dataset), Console(quiet=True))
    else:
        recipe = find(str(TRANSFORMER))
        if not dataset.exists():
            publish(dataset, TEXT, texts())
    config = replace(recipe.model().config(), steps=STEPS[case])
    if case == "mnist_cnn":
        config = replace(config, train_split="train+val")
    reports: dict[str, list[Mapping[str, Any]]] = {"run": [], "limit": []}
    for number in range(-1, arguments.repeats):  # the first pair warms up
        for which, found in reports.items():
            with without_feed() if which == "limit" else nullcontext():
                out = Path(tempfile.mkdtemp(dir=folder))
                report = train_once(recipe, dataset, out, config, device, Console(quiet=True))
            if number >= 0:
                found.append(report)
        if number >= 0:
            seconds = {which: found[-1]["seconds_per_epoch"] for which, found in reports.items()}
            console.say(f"  {case}: " + ", ".join(f"{which} {value:.2f} s/epoch" for which, value in seconds.items()))
    pairs = zip(reports["run"], reports["limit"], strict=True)
    fractions = [limit["seconds_per_epoch"] / whole["seconds_per_epoch"] for whole, limit in pairs]
    whole = reports["run"]
    steps_per_epoch = reports["run"][0]["steps"] / reports["run"][0]["epochs"]
    return {
        "fraction_of_limit": statistics.median(fractions),
        "fractions": fractions,
        "data_stall": statistics.median(report["data_stall"] for report in whole),
        "step_ms": {
            which: statistics.median(report["seconds_per_epoch"] for report in found) / steps_per_epoch * 1e3
            for which, found in reports.items()
        },
        **{key: median_of(report.get(key) for report in whole) for key in ("flops_per_s", "mfu")},
    }


def median_of(values: Iterable[float | None]) -> float | None:
    """None where one is not known."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return statistics.median(numbers) if len(numbers) == len(known) else None


def texts() -> Iterator[list[dict[str, np.ndarray]]]:
    """Files of row groups: bytes that follow from those before them, so that there is something to learn."""
    rng = np.random.default_rng(0)
    for first in range(0, NUM_TEXTS, NUM_TEXTS // 4):
        steps = rng.integers(1, 4, (NUM_TEXTS // 4, 129)).cumsum(axis=1)
        yield [{"id": np.arange(first, first + NUM_TEXTS // 4), "text": (steps % 256).astype(np.uint8)}]


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    cases = chosen(arguments.cases, list(CASES), "--cases")
    with tempfile.TemporaryDirectory(prefix="bench-step-") as folder:
        found = {case: measure(case, arguments, Path(folder), console) for case in cases}
    rows = [
        [
            case,
            f"{told['fraction_of_limit']:.1%}",
            f"{told['step_ms']['run']:.2f}",
            f"{told['step_ms']['limit']:.2f}",
            f"{told['data_stall']:.1%}",
            "unknown" if told["mfu"] is None else f"{told['mfu']:.1%}",
        ]
        for case, told in found.items()
    ]
    console.table(rows, ["case", "of the limit", "ms/step", "limit, ms/step", "data stall", "MFU"])
    keys = ("fraction_of_limit", "data_stall", "fractions", "step_ms", "flops_per_s", "mfu")
    device = choose_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    told = {key: {case: found[case][key] for case in cases} for key in keys}
    return {**told, "repeats": arguments.repeats, "device": name, "torch": torch.__version__, "machine": machine()}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench step", __doc__ or "", "python -m bench.step --raw ../shared/data/mnist")
    made.prog = "python -m bench.step"
    made.add_argument("--raw", default="../shared/data/mnist", metavar="DIR", help="the folder of MNIST's idx files")
    made.add_argument("--cases", default="all", help=f"with commas: {', '.join(CASES)}")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    arguments = made.parse_args(argv)
    arguments.json = True  # the JSON object is all of standard output; the table goes to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
