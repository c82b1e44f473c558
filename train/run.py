"""A dataset version to a model: `penstock train`, `python -m train.run` and `torchrun -m train.run` run this.

One process is one rank. All of them read; rank 0 alone writes the run folder and the terminal.

A run folder holds config.json, card.json (of the dataset), starts.jsonl (when, where and by which versions it was
started), metrics.jsonl (the same on every run of the same configuration), timings.jsonl, status.json, tensorboard/,
checkpoints/, and in the end model.safetensors and report.json. A run that was interrupted goes on from its newest
checkpoint when it is started again. Where the folder is not local, it is a copy of a local one (`train/mirror.py`).
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import save

from penstock import card as cards
from penstock import command, log, store
from penstock.card import Card
from penstock.console import Console
from penstock.errors import PenstockError, Preempted, RunError
from penstock.recipe import Recipe, find
from train import acceleration, cpu, distributed, fits, status
from train import flops as flops_of
from train.checkpoint import Checkpoints
from train.config import Compile, Options, Precision, TrainConfig
from train.control import Control
from train.distributed import Parallel, World
from train.evaluate import evaluate
from train.feed import WEIGHT, Feed
from train.feed.feed import CACHE_BYTES
from train.feed.petastorm_reader import Batch
from train.feed.plan import check_ranks
from train.feed.row_groups import Verify
from train.feed.timing import STAGES, advice
from train.loop import EpochResult
from train.loop import train as train_loop
from train.mirror import local_folder, mirrored
from train.observe import environment, json_lines, mlflow
from train.observe.tensorboard import Charts
from train.preemption import Signals, caught
from train.profiling import profiling
from train.random import seed_dropout_by_row
from train.watchdog import Watchdog

EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class Trained:
    """What a finished run says of itself; `report` is what report.json holds, for rank 0."""

    run: str  # its folder, a path or a URL
    report: Mapping[str, Any]
    reused: bool


def train(
    recipe: Recipe,
    data_url: str,
    out: Path | str,
    config: TrainConfig,
    world: World,
    version: str | None,
    console: Console,
    reading: Mapping[str, Any] | None = None,
    options: Options | None = None,
    signals: Signals | None = None,
) -> Trained:
    """Trains a recipe's model on a dataset version, or goes on where the run folder `out` stopped, a path or a URL.

    `reading` are options of `Feed` that change how it reads, not what: `num_workers`, `verify`, `cache`, `cache_bytes`.

    Raises: RunError where the folder holds a run of another configuration, recipe or dataset version; Preempted where
    `signals` asked for an end.
    """
    data_url, options, signals = store.absolute(data_url), options or Options(), signals or Signals()
    url = store.absolute(str(out))
    folder = local_folder(url)
    with ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(world, options.timeout, url, signals))
        mirror, checkpoints, described, done, is_over = None, None, None, None, False
        with distributed.together(world):
            if world.rank == 0:
                card = cards.load(data_url, version)
                store.check_writable(url)
                if not store.is_local(url):
                    mirror = stack.enter_context(mirrored(url, console.say))
                checkpoints = stack.enter_context(Checkpoints(folder))
                described = _unless_same_run(folder, recipe, data_url, card, config, options.resume_anyway, console)
                version, is_over = card.version, status.is_restart_of_preempted(folder)
                if described is None and (folder / "report.json").exists():
                    done = json.loads((folder / "report.json").read_text())
        version, done, is_over = distributed.from_rank_0((version, done, is_over), world)
        log.about(recipe=recipe.name, version=version, run=url.removeprefix("file://"))
        if done is not None:
            return Trained(url, done, reused=True)
        if is_over:
            raise Preempted(signal.SIGTERM, "before it was started again by its launcher")
        if world.rank == 0:
            stack.enter_context(status.told(folder, world.size, mirror.named if mirror is not None else str))
        control = Control(world, signals, watchdog, checkpoints, mirror, options.checkpoint_seconds)
        report = _train(
            recipe, data_url, url, config, world, version, console, reading or {}, options, control, described
        )
    return Trained(url, report, reused=False)


def _train(
    recipe: Recipe,
    data_url: str,
    url: str,
    config: TrainConfig,
    world: World,
    version: str | None,
    console: Console,
    reading: Mapping[str, Any],
    options: Options,
    control: Control,
    described: Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    """Trains in the local folder of the run at `url`. Returns what report.json holds, for rank 0.

    `described` is what config.json is to hold where it does not yet.
    """
    cpu.keep_memory()
    folder = local_folder(url)
    with distributed.together(world):
        model_recipe, card = recipe.model(), cards.load(data_url, version)
        torch.manual_seed(config.seed)
        random.seed(config.seed)  # Keras draws first weights from it
        model = model_recipe.build_model(config, card)
        seed_dropout_by_row(model)
        acceleration.prepare(model, config.precision, world.device)
        acceleration.compile_forward(model, options.compile, world.device, options.parallel)
        common: dict[str, Any] = {"version": version, "rank": world.rank, "world_size": world.size, **reading}
        train_feed = Feed(
            data_url,
            config.train_split,
            global_batch_size=config.global_batch_size,
            lanes=config.lanes,
            seed=config.seed,
            **common,
        )
        if not train_feed.num_rows:
            raise RunError(
                f"{store.shown(data_url)}: no rows to train on in version {version}; look at the recipe's split"
            )
        held_out = {
            name: Feed(data_url, name, global_batch_size=EVALUATION_BATCH, shuffle=False, **common)
            for name in ("val", "test")
            if name in card.splits and name not in config.train_split.split("+")
        }
        if config.early_stopping is not None and "val" not in held_out:
            raise RunError(
                "config: early_stopping: no split 'val' is left to evaluate on; train on another, or leave it out"
            )
        first_rows = _first_rows(data_url, config, version, world, reading)
        flops_of_a_row = flops_of.of_a_row(model_recipe, config, card, first_rows)
        if flops_of_a_row is None and card.recipe != recipe.name:
            fits.check(model_recipe, recipe.name, config, card, store.shown(data_url), first_rows)
        flops = flops_of_a_row and flops_of_a_row * len(first_rows[WEIGHT])
        num_threads = cpu.num_threads(flops, sum(parameter.numel() for parameter in model.parameters()))
    steps_per_epoch = len(train_feed)
    num_steps = config.num_steps(steps_per_epoch)
    num_epochs = -(-num_steps // steps_per_epoch)
    with distributed.together(world):
        saved = None
        if world.rank == 0:
            at = {"step": 0, "evaluated": True}
            if (saved := control.latest(console.say)) is not None:
                at = saved["position"]
                if at["step"] > num_steps:
                    raise RunError(
                        f"{folder}: the newest checkpoint is after step {at['step']:,}, and the run as it is asked for "
                        f"now ends after step {num_steps:,}; ask for more --epochs or --steps, or choose another --out"
                    )
                console.say(f"Going on after step {at['step']:,} of {num_steps:,}")
            if described is not None:
                _begin(folder, described, card)
            _drop_results_after(folder, at["step"] if at["evaluated"] else at["step"] - 1)

            started = environment.describe(recipe.folder, world.device, world.size, num_threads)
            console.say(environment.summary(started, card))
            run = url.removeprefix("file://")
            json_lines.append(folder / "starts.jsonl", {"step": at["step"], "run": run, **started})
            charts = Charts(folder, at["step"], num_steps)
            tracking = mlflow.start(url, folder)

    results = json_lines.read(folder / "timings.jsonl")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        control,
        cpu.threads(num_threads),
        Progress(*columns, console=console.rich, disable=not console.live, transient=True) as progress,
        profiling(options.profile, folder, world) as profiler_step,
    ):
        bar = progress.add_task(f"epoch {len(results) + 1}/{num_epochs}", total=steps_per_epoch)

        def on_step(step: int, lr: float, sums: torch.Tensor) -> None:
            if world.rank == 0:
                progress.update(bar, completed=(step - 1) % steps_per_epoch + 1)
                charts.step(step, lr, sums)
            profiler_step()

        def on_epoch(result: EpochResult) -> None:
            times = result.times
            timing: dict[str, Any] = {
                "epoch": times.epoch,
                "step": times.step,
                "rows": times.rows,
                "seconds": times.seconds,
                "rows_per_s": times.rows / times.seconds,
                "bytes_per_s": times.num_bytes / times.seconds,
                "data_stall": times.data_stall,
                "flops_per_s": flops_of_a_row and flops_of_a_row * times.rows / times.seconds,
                "stages": dict(times.stages),
            }
            results.append(timing)
            if world.rank:
                return
            json_lines.append(folder / "metrics.jsonl", result.metrics)
            json_lines.append(folder / "timings.jsonl", timing)
            charts.epoch(times.step, result.metrics, timing)
            figures = "  ".join(
                f"{name} {value:.4f}" for name, value in result.metrics.items() if name not in ("epoch", "step")
            )
            console.say(
                f"  epoch {times.epoch:>2}/{num_epochs}  {figures}  "
                f"{timing['rows_per_s']:>9,.0f} rows/s  {timing['bytes_per_s'] / 1e6:,.1f} MB/s  "
                f"data stall {times.data_stall:.1%}"
            )
            progress.reset(bar, description=f"epoch {times.epoch + 1}/{num_epochs}")

        val_feed = held_out.get("val")
        train_loop(
            model,
            model_recipe,
            config,
            options,
            train_feed,
            val_feed,
            world,
            control,
            folder,
            saved,
            on_step,
            on_epoch,
        )
        test = evaluate(model, model_recipe, held_out["test"], config, world, control) if "test" in held_out else {}

    weights = distributed.full(model.state_dict(), world)
    if world.rank:
        return {}
    seconds, rows = (max(1e-9, sum(timing[name] for timing in results)) for name in ("seconds", "rows"))
    steps = results[-1]["step"] if results else num_steps
    if steps < num_steps:
        console.say(f"Stopped early, after step {steps:,} of {num_steps:,}; the model is that of the best evaluation")
    precision = acceleration.resolve(config.precision, world.device)
    flops_per_s = flops_of_a_row and flops_of_a_row * rows / seconds
    peak = flops_of.peak(world.device, precision)
    report = {
        "recipe": recipe.name,
        "dataset_version": card.version,
        "test": test,
        "test_rows": held_out["test"].num_rows if "test" in held_out else 0,
        "steps": steps,
        "epochs": steps / steps_per_epoch,
        "seconds_per_epoch": seconds / rows * train_feed.num_rows,
        "rows_per_s": rows / seconds,
        "bytes_per_s": sum(timing["seconds"] * timing["bytes_per_s"] for timing in results) / seconds,
        "data_stall": sum(timing["seconds"] * timing["data_stall"] for timing in results) / seconds,
        "feed_seconds": {stage: sum(timing["stages"][stage] for timing in results) for stage in STAGES},
        "num_workers": train_feed.num_workers,
        "world_size": world.size,
        "device": str(world.device),
        "precision": precision,
        "flops_per_s": flops_per_s,
        "mfu": flops_per_s and peak and flops_per_s / (peak * world.size),
    }
    about = {"penstock": json.dumps(_described(recipe, data_url, card, config))}
    store.replace(folder / "model.safetensors", save({k: v.contiguous() for k, v in weights.items()}, about))
    store.replace(folder / "report.json", _json(report))
    charts.close()
    mlflow.finish(tracking, url, folder)
    return report


def _first_rows(
    data_url: str, config: TrainConfig, version: str | None, world: World, reading: Mapping[str, Any]
) -> Batch:
    """As many rows as a forward pass of a rank has, the first in file order: the same on every rank and every start."""
    num_rows = max(1, config.global_batch_size // (world.size * config.accumulate))
    few = {**reading, "num_workers": 1, "fetch_threads": 1}
    feed = Feed(data_url, config.train_split, global_batch_size=num_rows, shuffle=False, version=version, **few)
    batches = feed.epoch()
    batch = next(batches)
    batches.close()
    return batch


def differences(run: str, recipe: Recipe, data_url: str, card: Card, config: TrainConfig) -> list[str]:
    """What a run folder's configuration has other than this one; [] where the run could go on. Raises: RunError."""
    there, now = _flat(read_config(run)), _flat(_described(recipe, data_url, card, config))
    return [
        f"{name}: {_short(there.get(name))} there, {_short(value)} now"
        for name, value in now.items()
        if value != there.get(name)
    ]


def _unless_same_run(
    folder: Path, recipe: Recipe, data_url: str, card: Card, config: TrainConfig, anyway: bool, console: Console
) -> dict[str, Any] | None:
    """What config.json is to hold where the folder is new, or has another run and is to go on anyway; else None.

    What was refused before it started has left nothing to go on with: its folder counts as new.
    """
    earlier: list[Any] = []
    if (folder / "starts.jsonl").exists():
        if not (differs := differences(str(folder), recipe, data_url, card, config)):
            return None
        if not anyway:
            raise RunError(
                f"{folder}: holds another run ({'; '.join(differs)}); choose another --out, or go on from its newest "
                f"checkpoint with what is given now (--resume-anyway)"
            )
        there = read_config(str(folder))
        if (name := there["config"]["optimizer"]["name"]) != config.optimizer.name:
            raise RunError(
                f"{folder}: the checkpoints have the state of the optimizer {name}, with which {config.optimizer.name} "
                f"cannot go on; choose another --out"
            )
        console.say(f"Going on with another run ({'; '.join(differs)}), as --resume-anyway asks")
        earlier = [*there.pop("earlier", []), there]
    described = _described(recipe, data_url, card, config)
    if earlier:
        described["earlier"] = earlier  # of the steps up to a checkpoint, the newest last
    return described


def _begin(folder: Path, described: Mapping[str, Any], card: Card) -> None:
    """From here on the folder is of the run as it is described: what another one ended with goes."""
    for name in ("report.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    store.replace(folder / "card.json", cards.to_json(card).encode())
    store.replace(folder / "config.json", _json(described))


def _described(recipe: Recipe, data_url: str, card: Card, config: TrainConfig) -> dict[str, Any]:
    """What makes two runs the same run, as it survives JSON."""
    return {
        "recipe": recipe.reference,
        "dataset": data_url,
        "dataset_version": card.version,
        "contract": card.contract,
        "config": json.loads(json.dumps(config.to_json())),
    }


def _flat(described: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in described.items() if name != "config"}, **described["config"]}


def read_config(run: str) -> dict[str, Any]:
    """config.json of a run folder, a path or a URL. Raises: RunError where there is none."""
    try:
        found = json.loads(store.read_bytes(store.join(run, "config.json")))
    except FileNotFoundError as error:
        raise RunError(f"{run}: not a run folder (no config.json); make one with `penstock train`") from error
    except ValueError as error:
        raise RunError(f"{run}/config.json: damaged ({error}); train again into another folder") from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise RunError(f"{run}/config.json: not the configuration of a run; train again into another folder")
    return found


def _drop_results_after(folder: Path, step: int) -> None:
    # A run that was killed between its figures and its checkpoint repeats those steps.
    for name in ("metrics.jsonl", "timings.jsonl"):
        kept = [line for line in json_lines.read(folder / name) if line["step"] <= step]
        store.replace(folder / name, b"".join(json.dumps(line).encode() + b"\n" for line in kept))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def report(trained: Trained, console: Console) -> None:
    """What a person wants to know of a run that is done."""
    told = trained.report
    figures = ", ".join(f"{name} {value:.4f}" for name, value in told["test"].items())
    if trained.reused:
        console.say(f"This run was finished before: {store.shown(trained.run)}")
    if figures:
        console.say(f"Test {figures} on {told['test_rows']:,} rows")
    console.say(
        f"Data stall {told['data_stall']:.1%}, {told['rows_per_s']:,.0f} rows/s, "
        f"{told['bytes_per_s'] / 1e6:,.1f} MB/s, {told['seconds_per_epoch']:.1f} s per epoch on {told['device']}"
    )
    if told["flops_per_s"] is not None:
        mfu = f", {told['mfu']:.1%} of the peak (MFU)" if told["mfu"] is not None else ""
        console.say(f"{told['flops_per_s'] / 1e12:,.3g} TFLOP/s of the model in {told['precision']}{mfu}")
    if (told_to := advice(told["feed_seconds"], told["data_stall"], told["num_workers"])) is not None:
        console.say(told_to)
    console.say(f"Run: {store.shown(trained.run)}")


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "train",
        "Train a recipe's model on a dataset version; started again, an interrupted run goes on.",
        "penstock train mnist --data /data/mnist_dataset --out /data/runs/1 --model cnn",
    )
    made.add_argument("recipe", help="a shipped recipe's name, or the path of a folder with model.py")
    made.add_argument("--data", required=True, metavar="URL", help="the dataset's folder")
    made.add_argument("--out", required=True, metavar="URL", help="the run's folder, a path, hdfs:// or s3://")
    made.add_argument("--version", help="dataset version; default: the newest")
    made.add_argument(
        "--resume-anyway",
        action="store_true",
        help="go on from the folder's newest checkpoint though dataset version, model or configuration differ",
    )
    launched = made.add_argument_group("several processes, or machines with a common run folder")
    launched.add_argument(
        "--nproc-per-node", type=int, default=1, metavar="N", help="ranks of this machine; default: 1"
    )
    launched.add_argument("--nnodes", type=int, default=1, metavar="M", help="machines; default: 1")
    launched.add_argument("--rdzv-endpoint", default="", metavar="HOST:PORT", help="where the first machine is found")
    launched.add_argument("--node-rank", type=int, help="of this machine; default: in the order in which they come")
    launched.add_argument("--max-restarts", type=int, default=0, help="of ranks that died; default: 0")
    add_config_arguments(made)
    return made


def add_config_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("--model", help="one of the recipe's models; default: its first choice")
    made.add_argument("--epochs", type=int, help="default: the recipe's")
    made.add_argument("--steps", type=int, help="stop after this many steps, whatever the epochs")
    made.add_argument("--lr", type=float, help="the highest learning rate; default: the recipe's")
    made.add_argument("--batch-size", type=int, help="rows of a step over all ranks; default: the recipe's")
    made.add_argument("--seed", type=int, help="default: the recipe's")
    made.add_argument(
        "--accumulate", type=int, metavar="N", help="cut a rank's batch into N parts; default: the recipe's"
    )
    made.add_argument("--train-split", metavar="SPLIT", help="default: train; train+val for a last fit")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    made.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="default: the recipe's; auto is bf16 on GPUs, fastest on CPUs too",
    )
    made.add_argument(
        "--compile",
        choices=get_args(Compile),
        nargs="?",
        const="default",
        help="make kernels for this model with torch.compile; reduce-overhead: with CUDA graphs",
    )
    made.add_argument("--profile", action="store_true", help="write a trace of a few steps to DIR/profile")
    made.add_argument(
        "--parallel",
        choices=get_args(Parallel),
        default="ddp",
        help="with several ranks: each has the whole model (ddp, default) or a part of it (fsdp)",
    )
    made.add_argument(
        "--checkpoint-seconds", type=float, default=Options.checkpoint_seconds, metavar="S", help="default: 60"
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=Options.timeout,
        metavar="S",
        help="end the run where a rank has not moved for so long; default: 600",
    )
    add_reading_arguments(made)


def add_reading_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("--num-workers", type=int, default=2, help="threads of the feed; default: 2")
    made.add_argument(
        "--verify",
        choices=get_args(Verify),
        default="first",
        help="check bytes against the manifest the first time that they are read (default), always or never",
    )
    made.add_argument("--cache", metavar="DIR", help="keep here what is read of a dataset that is not local")
    made.add_argument("--cache-bytes", type=int, default=CACHE_BYTES, help="of which at most so much; default: 10 GB")


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("num_workers", "verify", "cache", "cache_bytes")}


def options(arguments: argparse.Namespace) -> Options:
    return Options(
        parallel=arguments.parallel,
        compile=arguments.compile,
        profile=arguments.profile,
        checkpoint_seconds=arguments.checkpoint_seconds,
        timeout=arguments.timeout,
        resume_anyway=getattr(arguments, "resume_anyway", False),
    )


def configure(recipe: Recipe, arguments: argparse.Namespace) -> TrainConfig:
    """The recipe's configuration, with what the command line says instead."""
    config: TrainConfig = recipe.model().config(arguments.model)
    names = ("epochs", "steps", "accumulate", "precision", "seed", "train_split")
    said = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.lr is not None:
        said["optimizer"] = replace(config.optimizer, lr=arguments.lr)
    if arguments.batch_size is not None:
        said["global_batch_size"] = arguments.batch_size
    return replace(config, **said)


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    recipe = find(arguments.recipe)
    with caught() as signals, distributed.joined(arguments.device) as world:
        with distributed.together(world):
            config = configure(recipe, arguments)
        trained = train(
            recipe,
            arguments.data,
            arguments.out,
            config,
            world,
            arguments.version,
            console,
            reading(arguments),
            options(arguments),
            signals,
        )
    if trained.report:
        report(trained, console)
    told = {"run": trained.run.removeprefix("file://"), "reused": trained.reused, **trained.report}
    shown = mlflow.page(trained.run) if world.rank == 0 else None
    return told if shown is None else {**told, "tracking": shown}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    said = (made := parser()).parse_args(arguments)
    if min(said.nproc_per_node, said.nnodes) < 1:
        made.error(f"expected 1 or more ranks and machines, found {said.nproc_per_node} and {said.nnodes}")
    if said.nnodes > 1 and not said.rdzv_endpoint:
        made.error("--nnodes: expected --rdzv-endpoint HOST:PORT too, the same on every machine")
    if said.nproc_per_node * said.nnodes > 1 and status.launch() is None:
        from train.launch import Launch, launch

        try:
            log.start("train")
            check_ranks(configure(find(said.recipe), said).lanes, said.nproc_per_node * said.nnodes)
        except PenstockError as error:  # before there are ranks that would all say it
            made.error(str(error))
        wanted = Launch(said.nproc_per_node, said.nnodes, said.node_rank, said.rdzv_endpoint, said.max_restarts)
        return launch(wanted, arguments)
    return command.execute(said, work, quiet=distributed.environment_rank() > 0)


if __name__ == "__main__":
    sys.exit(main())
