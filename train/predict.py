"""A run's model over any version of the same contract, labelled or not, to one Parquet file of predictions.

Columns: the key, `split`, `prediction`, `score`; lists of both where a recipe predicts several for each row, the best
first. As many rows as went in: checked before the file is seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from penstock import card as cards
from penstock import command, log, store
from penstock.card import Card
from penstock.console import Console
from penstock.errors import DatasetError, RunError
from train import acceleration, cpu
from train.distributed import choose_device
from train.feed import Feed
from train.feed.device import to_device
from train.finished import load
from train.run import EVALUATION_BATCH


@torch.no_grad()
def predict(
    run: Path | str,
    data_url: str,
    out: str,
    console: Console,
    *,
    version: str | None = None,
    splits: Sequence[str] = (),
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Predicts every row of the named splits (default: all) and writes them to the file `out`.

    Raises: RunError where the run does not fit the data, DatasetError where rows are missing.
    """
    cpu.keep_memory()
    device = device or choose_device("auto")
    run = store.shown(store.absolute(str(run)))
    finished = load(run)
    recipe, trained_on = finished.recipe, finished.card
    card = cards.load(data_url, version)
    log.about(recipe=trained_on.recipe, version=card.version, run=str(run))
    if card.schema.key is None:
        raise DatasetError(
            f"{data_url}: version {card.version} was adopted without a key, so that a prediction could not name its "
            f"row; adopt it with `penstock adopt … --key COLUMN`"
        )
    check_contract(run, trained_on, card, data_url)
    model = acceleration.prepare(finished.model, finished.config.precision, device)

    key = card.schema[card.schema.key]
    inputs = card.schema.without_label().names
    names = pa.array(recipe.names(trained_on)) if hasattr(recipe, "names") else None
    wanted = list(dict.fromkeys(splits)) or list(card.splits)
    target = store.absolute(out)
    schema = pa.schema([(key.name, key.arrow_type), ("split", pa.string())])
    num_rows = 0
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        local, writer = Path(folder) / "predictions.parquet", None
        with console.step("predict"):
            for split in wanted:
                options: dict[str, Any] = {"global_batch_size": EVALUATION_BATCH, "shuffle": False, "columns": inputs}
                feed = Feed(data_url, split, version=card.version, **options)
                for batch in to_device(feed.epoch(), device, feed.timings):
                    prediction, score = recipe.predict(model(recipe.prepare(batch, trained_on)))
                    keys = batch[key.name]
                    rows = {
                        key.name: pa.array(keys if isinstance(keys, list) else keys.cpu().numpy(), key.arrow_type),
                        "split": pa.array([split] * len(prediction)),
                        "prediction": column(prediction, names),
                        "score": column(score),
                    }
                    table = pa.table(rows)
                    writer = writer or pq.ParquetWriter(local, table.schema)
                    writer.write_table(table)
                    num_rows += table.num_rows
            if writer is None:
                writer = pq.ParquetWriter(local, schema)
            writer.close()
        expected = sum(card.splits[split].rows for split in wanted)
        if num_rows != expected:
            raise DatasetError(f"{data_url}: {expected:,} rows in, but {num_rows:,} predictions; nothing is written")
        store.check_writable(target.rpartition("/")[0])
        store.put(local, target)
    return {"predictions": target, "rows": num_rows, "dataset_version": card.version}


def column(values: torch.Tensor, names: pa.Array | None = None) -> pa.Array:
    """(B,) or (B, k) values, or what `names` calls them, as one value or list for each row."""
    flat = pa.array(values.reshape(-1).cpu().numpy())
    flat = flat if names is None else names.take(flat)
    if values.dim() == 1:
        return flat
    num_rows, k = values.shape
    return pa.ListArray.from_arrays(pa.array(range(0, (num_rows + 1) * k, k), pa.int32()), flat)


def check_contract(run: str, trained_on: Card, card: Card, data_url: str) -> None:
    """Raises: RunError where a version's rows are not those that a run's model takes."""
    if card.contract == trained_on.contract:
        return
    there, here = trained_on.schema.without_label(), card.schema.without_label()
    differs = [f"fields {here.fields}, expected {there.fields}"] if here != there else []
    if card.transforms != trained_on.transforms:
        differs.append(f"transforms {dict(card.transforms)}, expected {dict(trained_on.transforms)}")
    raise RunError(
        f"{store.shown(store.absolute(data_url))}: version {card.version} does not fit the run {run}, trained on "
        f"version {trained_on.version}: {'; '.join(differs)}. Build it with `penstock etl … --frozen {run}/card.json`"
    )


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "predict",
        "Predict every row of a dataset version, labelled or not, with the model of a finished run.",
        "penstock predict /data/runs/1 --data /data/mnist_dataset --split test --out predictions.parquet",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a finished run, local or a URL")
    made.add_argument("--data", required=True, metavar="URL", help="the dataset's folder")
    made.add_argument("--out", required=True, metavar="URL", help="the Parquet file to write; replaced if it is there")
    made.add_argument("--version", help="dataset version; default: the newest")
    made.add_argument("--split", action="append", default=[], help="only this split; may be given several times")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    command.check_file(arguments.out, "predictions.parquet")
    told = predict(
        arguments.run,
        arguments.data,
        arguments.out,
        console,
        version=arguments.version,
        splits=arguments.split,
        device=choose_device(arguments.device),
    )
    console.say(f"{told['rows']:,} rows in, {told['rows']:,} predictions out: {store.shown(told['predictions'])}")
    return told


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
