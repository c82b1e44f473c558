"""The step beside its limit: a whole run, feed included, against the same run fed with one resident batch.

    python -m bench.step --raw ../shared/data/mnist [--cases mnist_cnn,transformer] [--repeats 5] [--device auto]
    python -m bench.step --cases resnet50,gpt2 --compile default --device cuda

Both are `penstock train` on the same dataset version, with the same loop; the limit's feed reads one batch, keeps it on
the device and gives it again and again, so that its step never waits. Runs alternate; the fraction of the limit is the
median of the pairs' ratios. The data stall, the model's FLOPs and the MFU (where the device's peak is known) are those
that the run itself reports. mnist_cnn is the recipe on real pictures; the others read rows that are made here: short
texts, and for GPUs pictures of 150 KB and texts of 1,024 tokens.
"""

from __future__ import annotations

import train  # noqa: F401 - before torch, whose idle threads would else take the feed's cores

# isort: split
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from bench.cases import Columns
from bench.environment import ROOT, machine
from bench.feed import chosen
from bench.publish import publish
from penstock import command
from penstock.console import Console
from penstock.recipe import find
from penstock.schema import Field, Schema
from train import loop
from train.config import Compile, Options
from train.distributed import World, choose_device
from train.feed.device import to_device
from train.feed.petastorm_reader import Batch
from train.feed.timing import Timings
from train.run import train as train_run


@dataclass(frozen=True)
class Case:
    """What is trained, and for how many steps; `rows` of None are MNIST's, which ETL publishes."""

    recipe: str
    steps: int
    schema: Schema | None = None
    num_rows: int = 0
    rows: Callable[[int, int], Columns] | None = None  # first, count -> columns
    for_gpus: bool = False  # takes minutes a step on a CPU


def short_texts(first: int, count: int) -> Columns:
    """Bytes that follow from those before them, so that there is something to learn."""
    steps = np.random.default_rng(first).integers(1, 4, (count, 129)).cumsum(axis=1)
    return {"id": np.arange(first, first + count), "text": (steps % 256).astype(np.uint8)}


def pictures(first: int, count: int) -> Columns:
    rng = np.random.default_rng(first)
    images = rng.integers(0, 256, (count, 3, 224, 224), dtype=np.uint8)
    return {"id": np.arange(first, first + count), "image": images, "label": rng.integers(0, 1000, count)}


def texts(first: int, count: int) -> Columns:
    tokens = np.random.default_rng(first).integers(0, 50_304, (count, 1_025), dtype=np.int32)
    return {"id": np.arange(first, first + count), "tokens": tokens}


ID = Field("id", "int64")
TEXT = Schema((ID, Field("text", "uint8", (129,))), key="id")
PICTURE = Schema((ID, Field("image", "uint8", (3, 224, 224)), Field("label", "int64")), key="id", label="label")
TOKENS = Schema((ID, Field("tokens", "int32", (1_025,))), key="id")
OURS = ROOT / "bench"
CASES = {
    "mnist_cnn": Case("mnist", steps=469),  # an epoch
    "transformer": Case(str(OURS / "transformer"), 60, TEXT, 60 * 32, short_texts),
    "resnet50": Case(str(OURS / "resnet50"), 80, PICTURE, 40 * 256, pictures, for_gpus=True),
    "gpt2": Case(str(OURS / "gpt2"), 40, TOKENS, 40 * 32, texts, for_gpus=True),
}
FILES, GROUP_BYTES = 4, 4 << 20
RATES = ("rows_per_s", "bytes_per_s", "flops_per_s", "mfu")


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


def dataset_of(name: str, raw: str, folder: Path) -> Path:
    """Its dataset version, made unless it is there."""
    case, dataset = CASES[name], folder / name
    if dataset.exists():
        return dataset
    if case.schema is None:
        from etl.run import etl  # a GPU box has no Spark, and may be brought the dataset

        etl(find(case.recipe), raw, str(dataset), Console(quiet=True))
    else:
        publish(dataset, case.schema, files(case))
    return dataset


def files(case: Case) -> Iterator[Iterator[Columns]]:
    """Of row groups."""
    assert case.rows is not None
    assert case.schema is not None
    size = max(1, GROUP_BYTES // sum(field.num_bytes for field in case.schema.fields))
    in_file = case.num_rows // FILES
    for start in range(0, case.num_rows, in_file):
        yield (case.rows(first, min(size, start + in_file - first)) for first in range(start, start + in_file, size))


def measure(name: str, arguments: Namespace, folder: Path, console: Console) -> dict[str, Any]:
    case, device = CASES[name], choose_device(arguments.device)
    recipe, dataset = find(case.recipe), dataset_of(name, arguments.raw, folder)
    config = replace(recipe.model().config(), steps=case.steps)
    if case.schema is None:
        config = replace(config, train_split="train+val")
    options = Options(compile=arguments.compile)
    reports: dict[str, list[Mapping[str, Any]]] = {"run": [], "limit": []}
    for number in range(-1, arguments.repeats):  # the first pair warms up
        for which, found in reports.items():
            with (
                without_feed() if which == "limit" else nullcontext(),
                tempfile.TemporaryDirectory(dir=folder) as out,
            ):
                url, quiet = str(dataset), Console(quiet=True)
                run = train_run(recipe, url, Path(out) / "run", config, World(device), None, quiet, options=options)
            if number >= 0:
                found.append(run.report)
        if number >= 0:
            seconds = {which: found[-1]["seconds_per_epoch"] for which, found in reports.items()}
            console.say(f"  {name}: " + ", ".join(f"{which} {value:.2f} s/epoch" for which, value in seconds.items()))
    pairs = zip(reports["run"], reports["limit"], strict=True)
    fractions = [limit["seconds_per_epoch"] / whole["seconds_per_epoch"] for whole, limit in pairs]
    whole = reports["run"]
    steps_per_epoch = whole[0]["steps"] / whole[0]["epochs"]
    return {
        "fraction_of_limit": statistics.median(fractions),
        "fractions": fractions,
        "data_stall": statistics.median(report["data_stall"] for report in whole),
        "step_ms": {
            which: statistics.median(report["seconds_per_epoch"] for report in found) / steps_per_epoch * 1e3
            for which, found in reports.items()
        },
        **{key: median_of(report.get(key) for report in whole) for key in RATES},
    }


def median_of(values: Iterable[float | None]) -> float | None:
    """None where one is not known."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return statistics.median(numbers) if len(numbers) == len(known) else None


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    device = choose_device(arguments.device)
    fit = [name for name, case in CASES.items() if device.type == "cuda" or not case.for_gpus]
    cases = fit if arguments.cases == "all" else chosen(arguments.cases, list(CASES), "--cases")
    with tempfile.TemporaryDirectory(prefix="bench-step-") as made:
        folder = Path(arguments.keep or made).absolute()
        found = {case: measure(case, arguments, folder, console) for case in cases}
    rows = [
        [
            case,
            f"{told['fraction_of_limit']:.1%}",
            f"{told['step_ms']['run']:.2f}",
            f"{told['step_ms']['limit']:.2f}",
            f"{told['data_stall']:.1%}",
            f"{told['rows_per_s']:,.0f}",
            f"{told['bytes_per_s'] / 1e6:,.0f}",
            "unknown" if told["mfu"] is None else f"{told['mfu']:.1%}",
        ]
        for case, told in found.items()
    ]
    console.table(rows, ["case", "of the limit", "ms/step", "limit, ms/step", "data stall", "rows/s", "MB/s", "MFU"])
    keys = ("fraction_of_limit", "data_stall", "fractions", "step_ms", *RATES)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    told = {key: {case: found[case][key] for case in cases} for key in keys}
    about = {"repeats": arguments.repeats, "compile": arguments.compile, "device": name}
    return {**told, **about, "torch": torch.__version__, "machine": machine()}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench step", __doc__ or "", "python -m bench.step --raw ../shared/data/mnist")
    made.prog = "python -m bench.step"
    made.add_argument("--raw", default="../shared/data/mnist", metavar="DIR", help="the folder of MNIST's idx files")
    made.add_argument(
        "--cases", default="all", help=f"with commas: {', '.join(CASES)} (default: all that the device is for)"
    )
    made.add_argument("--compile", choices=get_args(Compile), help="as of penstock train")
    made.add_argument("--keep", metavar="DIR", help="keep the datasets there, and use those that are there")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    arguments = made.parse_args(argv)
    arguments.json = True  # the JSON object is all of standard output; the table goes to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
