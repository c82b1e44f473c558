"""Training beside Keras, Lightning and plain PyTorch: seconds per epoch and accuracy of MNIST's two networks.

    python -m bench.fit --raw ../shared/data/mnist [--models mlp,cnn] [--systems …] [--repeats 3] [--keep DIR]

All systems train the same network on the same 60,000 pictures with the same settings: those of the mnist recipe (AdamW,
its schedule, label smoothing, batches of 128), without augmentation. The peers hold standardised float32 pictures in
memory (bench/peers/fit/); ours reads its dataset version. Every fit is a process of its own; repeats, each with its own
seed, alternate between the systems. Seconds per epoch are the median over all epochs but the first of each fit, in
which systems trace, compile and check; accuracy is the mean over the repeats. With --keep a bench goes on.
"""

from __future__ import annotations

import gzip
import json
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bench.environment import AS_FOUND, ROOT, environment, machine
from bench.feed import chosen
from penstock import command, store
from penstock.console import Console
from penstock.errors import PenstockError
from penstock.recipe import Recipe, find

OURS = "penstock"
PEERS = {  # system -> its module in bench/peers/fit
    "pytorch": "torch_fit",
    "lightning": "torch_fit",
    "keras_torch": "keras_fit",
    "keras_tensorflow": "keras_fit",
}
RECIPE = ROOT / "bench" / "peers" / "fit" / "mnist"
MODELS = ("mlp", "cnn")
TIMEOUT_S = 900


def write_arrays(raw: Path, path: Path) -> None:
    """The idx files as one npz: what the peers read."""

    def read(name: str) -> np.ndarray:
        (found,) = raw.glob(f"{name}*.gz")
        content = gzip.decompress(found.read_bytes())
        shape = np.frombuffer(content, ">i4", content[3], 4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)

    names = {"train": "train", "test": "t10k"}
    arrays = {f"{split}_images": read(f"{file}-images") for split, file in names.items()}
    arrays |= {f"{split}_labels": read(f"{file}-labels") for split, file in names.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def fit_ours(recipe: Recipe, dataset: Path, model: str, epochs: int, seed: int, out: Path) -> dict[str, Any]:
    line = [sys.executable, "-m", "train.run", str(recipe.folder), "--data", dataset, "--out", out, "--json"]
    settings = ["--model", model, "--epochs", epochs, "--seed", seed, "--train-split", "train+val"]
    report = last_json([*line, *settings])
    timings = [json.loads(text) for text in (out / "timings.jsonl").read_text().splitlines()]
    stall = statistics.median(timing["data_stall"] for timing in timings[1:])
    seconds = [timing["seconds"] for timing in timings]
    return {"seconds": seconds, "accuracy": report["test"]["accuracy"], "data_stall": stall}


def fit_peer(recipe: Recipe, arrays: Path, system: str, model: str, epochs: int, seed: int) -> dict[str, Any]:
    config = recipe.model().config(model)
    line = [environment("fit"), "-m", f"bench.peers.fit.{PEERS[system]}", "--system", system, "--data", arrays]
    settings = {
        "model": model,
        "epochs": epochs,
        "seed": seed,
        "batch-size": config.global_batch_size,
        "lr": config.optimizer.lr,
        "weight-decay": config.optimizer.weight_decay,
        "warmup": config.schedule.warmup,
        "label-smoothing": config.label_smoothing,
    }
    return last_json([*line, *(word for name, value in settings.items() for word in (f"--{name}", value))])


def last_json(line: Sequence[object]) -> dict[str, Any]:
    """The JSON object that a process prints last. Raises: PenstockError where it fails."""
    done = subprocess.run(
        [str(word) for word in line], capture_output=True, text=True, cwd=ROOT, env=AS_FOUND, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise PenstockError(f"{line[2]}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    models = chosen(arguments.models, list(MODELS), "--models")
    systems = chosen(arguments.systems, [OURS, *PEERS], "--systems")
    if arguments.epochs < 2:
        raise PenstockError(f"--epochs must be 2 or more, as the first is left out, found {arguments.epochs}")
    keep = Path(arguments.keep).expanduser().absolute() if arguments.keep else None
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory(prefix="bench-fit-") as folder:
        fits = measure(arguments, models, systems, Path(folder), console)
    result = summary(fits, models, systems)
    for model in models:
        seconds, accuracy = result["seconds_per_epoch"][model], result["accuracy"][model]
        rows = [[s, f"{seconds[s]:.2f}", *(f"{x:.2f}" for x in result["spread"][model][s])] for s in seconds]
        rows = [[*row, f"{accuracy[row[0]]:.4f}"] for row in rows]
        console.table(rows, [model, "s/epoch", "lowest", "highest", "accuracy"])
    return {**result, "repeats": arguments.repeats, "epochs": arguments.epochs, "machine": machine()}


def measure(
    arguments: Namespace, models: Sequence[str], systems: Sequence[str], folder: Path, console: Console
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """model -> system -> what each of its fits gave."""
    recipe, dataset, arrays = find(str(RECIPE)), folder / "dataset", folder / "mnist.npz"
    folder.mkdir(parents=True, exist_ok=True)
    last_json([sys.executable, "-m", "etl.run", "mnist", "--raw", arguments.raw, "--out", dataset, "--json"])
    if not arrays.exists():
        write_arrays(Path(arguments.raw), arrays)
    fits: dict[str, dict[str, list[dict[str, Any]]]] = {model: {system: [] for system in systems} for model in models}
    for seed in range(arguments.repeats):
        for model in models:
            for system in systems:
                done = folder / f"{model}-{system}-{arguments.epochs}-{seed}.json"
                if not done.exists():
                    if system == OURS:
                        out = folder / "runs" / done.stem
                        found = fit_ours(recipe, dataset, model, arguments.epochs, seed, out)
                    else:
                        found = fit_peer(recipe, arrays, system, model, arguments.epochs, seed)
                    store.replace(done, json.dumps(found).encode())
                found = json.loads(done.read_text())
                fits[model][system].append(found)
                seconds = ", ".join(f"{epoch:.2f}" for epoch in found["seconds"])
                console.say(f"  {model}, {system}, seed {seed}: {seconds} s, accuracy {found['accuracy']:.4f}")
    return fits


def summary(
    fits: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], models: Sequence[str], systems: Sequence[str]
) -> dict[str, Any]:
    epochs = {m: {s: [x for fit in fits[m][s] for x in fit["seconds"][1:]] for s in systems} for m in models}
    accuracies = {m: {s: [fit["accuracy"] for fit in fits[m][s]] for s in systems} for m in models}
    versions = {
        name: value for m in models for s in systems for name, value in fits[m][s][0].get("versions", {}).items()
    }
    return {
        "seconds_per_epoch": {m: {s: statistics.median(epochs[m][s]) for s in systems} for m in models},
        "accuracy": {m: {s: statistics.mean(accuracies[m][s]) for s in systems} for m in models},
        "spread": {m: {s: [min(epochs[m][s]), max(epochs[m][s])] for s in systems} for m in models},
        "accuracies": accuracies,
        "versions": versions,
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench fit", __doc__ or "", "python -m bench.fit --raw ../shared/data/mnist")
    made.prog = "python -m bench.fit"
    made.add_argument("--raw", required=True, metavar="DIR", help="the folder of MNIST's idx files")
    made.add_argument("--models", default="all", help=f"with commas: {', '.join(MODELS)}")
    made.add_argument("--systems", default="all", help=f"with commas: {', '.join([OURS, *PEERS])}")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--epochs", type=int, default=5)
    made.add_argument("--keep", metavar="DIR", help="keep what was measured there, and go on from it")
    arguments = made.parse_args(argv)
    arguments.json = True  # the JSON object is all of standard output; the table goes to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
