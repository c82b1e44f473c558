"""The command `penstock`: one word for each thing to do. Each is imported only when it is asked for, so that an ETL
cluster needs no torch and a GPU box no Spark.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from penstock import __version__, command, log, store
from penstock.console import Console
from penstock.recipe import find

USAGE = """usage: penstock COMMAND …    (penstock COMMAND --help says more, with an example)

  etl      raw files -> a dataset version
  train    a dataset version -> a run: checkpoints, metrics, model, report
  run      raw files -> a dataset version -> a run -> predictions for its test rows
  predict  a run and a dataset version -> predictions
  generate a run of a language model and the beginning of a text -> how it goes on
  export   a run -> its model as one file, ONNX or torch.export, that serves without this project
  release  a run -> the released one, unless it is worse than that on the same test rows
  rollback the release before -> the released one
  adopt    plain Parquet that another job wrote -> a dataset version, without rewriting it
  show     what is in a dataset version: its card, for people; as one HTML page with --html
  compare  what changed from one dataset version to another, column by column
  verify   recount and re-checksum a dataset version against its card
  gc       list, or remove, what dead jobs left and old versions
  feed     read a dataset version as fast as it goes, without a model: rows/s, bytes/s, time of each stage
  dag      one pipeline of Airflow's in the foreground, without its scheduler
  doctor   what is installed here, what is missing, how to mend it

first steps:
  penstock doctor
  penstock run mnist --raw /data/mnist --out /data/mnist_demo
"""

PREDICTIONS = "predictions.parquet"
OURS = ("penstock", "etl", "train", "recipes", "dags")  # what is missing of these is a bug, not an installation


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in OURS:
            raise
        sentence = (
            f"penstock {arguments[0]} needs {missing}, which is not installed; `penstock doctor` says how to mend it"
        )
        log.error(sentence, exit_code=1)
        if "--json" in arguments:
            print(json.dumps({"error": sentence}), flush=True)
        return 1


def _main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    match name:
        case "etl":
            from etl.run import main as chosen
        case "train":
            from train.run import main as chosen
        case "run":
            chosen = run
        case "predict":
            from train.predict import main as chosen
        case "generate":
            from train.generate import main as chosen
        case "export":
            from train.export import main as chosen
        case "release":
            from train.release import main as chosen
        case "rollback":
            from penstock.released import main as chosen
        case "adopt":
            from penstock.adopt import main as chosen
        case "show":
            from penstock.show import main as chosen
        case "compare":
            from penstock.compare import main as chosen
        case "verify":
            from penstock.verify import main as chosen
        case "gc":
            from penstock.gc import main as chosen
        case "feed":
            from train.feed.speed import main as chosen
        case "dag":
            from penstock.dag import main as chosen
        case "doctor":
            from penstock.doctor import main as chosen
        case "--help" | "-h":
            print(USAGE, end="")
            return 0
        case "--version":
            print(__version__)
            return 0
        case _:
            log.error(f"no command {name!r}\n\n{USAGE}".rstrip(), exit_code=2)
            return 2
    return chosen(arguments[1:])


def run(argv: Sequence[str] | None = None) -> int:
    from train.run import add_config_arguments

    made = command.parser(
        "run",
        "Raw files to a tested model: the dataset version (reused where it exists), a run, predictions for test.",
        "penstock run mnist --raw /data/mnist --out /data/mnist_demo --model cnn",
    )
    made.add_argument("recipe", help="a shipped recipe's name, or the path of a folder with dataset.py and model.py")
    made.add_argument("--raw", required=True, metavar="URL", help="a raw file, or the folder of the raw files")
    made.add_argument(
        "--out", required=True, metavar="URL", help="gets dataset/ and runs/<number>/; a path, hdfs:// or s3://"
    )
    made.add_argument("--master", help="Spark master; default: spark-submit's, or local[*]")
    add_config_arguments(made)
    return command.execute(made.parse_args(argv), run_both)


def run_both(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    from etl import run as etl
    from train import run as training
    from train.distributed import World, choose_device
    from train.predict import predict
    from train.preemption import caught

    recipe = find(arguments.recipe)
    config, device = training.configure(recipe, arguments), choose_device(arguments.device)
    out = store.absolute(arguments.out).removeprefix("file://")
    dataset = store.join(out, "dataset")

    console.say(f"Raw data to a dataset version: {store.shown(store.absolute(arguments.raw))}")
    built = etl.etl(recipe, arguments.raw, dataset, console, master=arguments.master)
    etl.report(built, store.absolute(dataset), console)

    console.say(f"\nDataset version to a model: {config.model}, {config.epochs} epochs on {device}")
    last = PREDICTIONS if "test" in built.card.splits else "report.json"
    folder = _unfinished_or_new(
        store.join(out, "runs"),
        last,
        lambda run: not training.differences(run, recipe, store.absolute(dataset), built.card, config),
    )
    version, reading, options = built.card.version, training.reading(arguments), training.options(arguments)
    with caught() as signals:
        trained = training.train(
            recipe, dataset, folder, config, World(device), version, console, reading, options, signals
        )
    console.say()
    training.report(trained, console)

    told: dict[str, Any] = {**etl.summary(built, dataset), "run": folder, **trained.report}
    if "test" in built.card.splits:
        file = store.join(folder, PREDICTIONS)
        predicted = predict(folder, dataset, file, console, version=built.card.version, splits=["test"], device=device)
        console.say(f"Predictions for the {predicted['rows']:,} test rows: {store.shown(predicted['predictions'])}")
        told["predictions"] = file
    return told


def _unfinished_or_new(runs: str, last_file: str, is_this_run: Callable[[str], bool]) -> str:
    """The newest run if it was interrupted and is of this configuration, so that it goes on; else the next number."""
    last = max((int(name) for name in store.folders(runs) if name.isdigit()), default=0)
    newest = store.join(runs, str(last))
    has_config, is_done = (store.exists(store.join(newest, name)) for name in ("config.json", last_file))
    return newest if has_config and not is_done and is_this_run(newest) else store.join(runs, str(last + 1))


if __name__ == "__main__":
    sys.exit(main())
