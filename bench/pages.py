"""A recipe's page, from a run of it: what the data is, how training went, and what the model gets wrong on val.

    penstock run mnist --raw FOLDER --out demo_mnist
    python -m bench.pages demo_mnist/runs/1 --data demo_mnist/dataset

Writes docs/recipes/RECIPE.md, with the docstrings of the recipe and the figures of the run, and beside it pictures
of the training curve, of the data, and of the rows of val that the model is most sure of and wrong about; without a
label, those of the greatest loss. A language model goes on with a word.
"""

from __future__ import annotations

import train  # noqa: F401 - before torch, whose idle threads would else take the feed's cores

# isort: split
import inspect
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import penstock
from bench.environment import ROOT, cpu_name
from penstock import command
from penstock.card import Card
from penstock.console import Console
from penstock.recipe import find
from penstock.schema import Field, Schema
from train.feed import WEIGHT, Feed
from train.finished import Finished, load
from train.generate import generate
from train.predict import predict

PAGES = ROOT / "docs" / "recipes"
SHOWN, COLUMNS = 12, 6  # rows that are looked at; pictures beside each other
LONGEST_TEXT, NUM_ELEMENTS = 160, 5
PROMPT, NUM_TOKENS = "The ", 300


def curve(run: Path, out: Path) -> None:
    """Losses by epoch, and the other figures of val beside them."""
    epochs = pd.DataFrame(map(json.loads, (run / "metrics.jsonl").read_text().splitlines())).set_index("epoch")
    losses = [name for name in epochs if name.endswith("_loss")]
    others = [name for name in epochs if name.startswith("val_") and name not in losses]
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, names in zip(figure.subplots(1, 1 + bool(others), squeeze=False)[0], [losses, others], strict=False):
        for name in names:
            axes.plot(epochs.index, epochs[name], label=name.replace("_", " "), marker="o", markersize=3)
        axes.set_xlabel("epoch")
        axes.legend(frameon=False)
    figure.savefig(out, dpi=110)


def pictured(schema: Schema) -> Field | None:
    """The field that can be drawn: a picture, or a sound."""
    drawn = [field for field in schema.fields if field.is_tensor or field.is_encoded]
    return next((field for field in drawn if len(field.shape) in (2, 3) or _is_sound(field)), None)


def _is_sound(field: Field) -> bool:
    return len(field.shape) == 1 and (field.encoding == "wav" or field.dtype == "int16")


def draw(rows: pd.DataFrame, field: Field, titles: Sequence[str], out: Path) -> None:
    height = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(1.5 * COLUMNS, 1.6 * height), layout="constrained")
    for axes, value, title in zip(
        figure.subplots(height, COLUMNS, squeeze=False).flat, rows[field.name], titles, strict=False
    ):
        _draw_one(axes, np.asarray(value), field)
        axes.set_title(title, fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.savefig(out, dpi=110)


def _draw_one(axes: Axes, value: np.ndarray[Any, Any], field: Field) -> None:
    if _is_sound(field):
        noise = np.random.default_rng(0).normal(size=value.shape)  # silence has no logarithm
        axes.specgram(value + noise, NFFT=256, noverlap=192, cmap="magma")
    else:
        axes.imshow(value, cmap="gray_r")


def as_table(rows: pd.DataFrame, schema: Schema) -> list[str]:
    """The rows in Markdown: numbers and texts, cut where they are long."""
    fields = {field.name: field for field in schema.fields}
    names = [name for name in rows if name != schema.key and (name not in fields or not fields[name].shape)]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows[names].to_dict("records"):
        lines.append(f"| {' | '.join(_cell(value) for value in row.values())} |")
    return lines


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = " ".join(str(value).replace("|", "\\|").split())
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def readable(rows: pd.DataFrame, card: Card) -> pd.DataFrame:
    """With columns of those elements of a vector of features that tell most of the label, and of what numbers name."""
    for name, fitted in card.transforms.items():
        if not isinstance(fitted, Mapping) or name not in rows:
            continue
        if "elements" in fitted and card.schema.label is not None:
            values, labels = np.stack(rows[name]), rows[card.schema.label].to_numpy()
            with np.errstate(invalid="ignore"):  # an element that is the same for all
                tells = np.nan_to_num([abs(np.corrcoef(column, labels)[0, 1]) for column in values.T])
            for i in np.argsort(-tells)[:NUM_ELEMENTS]:
                rows[str(fitted["elements"][i])] = values[:, i].astype(float)
        elif "values" in fitted:
            known = [None, *fitted["values"]]
            rows[f"{name}, by name"] = [_some([known[i] for i in numbers]) for numbers in rows[name]]
    return rows


def _some(values: Sequence[object]) -> str:
    more = [f"… ({len(values)})"] if len(values) > NUM_ELEMENTS else []
    return ", ".join([*map(str, values[:NUM_ELEMENTS]), *more])


def worst(rows: pd.DataFrame, label: str) -> pd.DataFrame:
    """Those that the model is wrong about, the surest first; of two classes a score is the second one's."""
    wrong = rows[rows["prediction"] != rows[label]]
    is_second = rows[label].isin([0, 1]).all()
    sure = wrong["score"].where(~is_second | (wrong["score"] >= 0.5), 1 - wrong["score"])
    return wrong.loc[sure.sort_values(ascending=False).index[:SHOWN]]


@torch.no_grad()
def hardest(finished: Finished, dataset: str, key: str) -> pd.DataFrame:
    """The rows of val with the greatest mean loss: their key and `loss`."""
    config, losses, keys = replace(finished.config, label_smoothing=0.0), [], []
    card = finished.card
    options: dict[str, Any] = {"columns": card.schema.names, "global_batch_size": 100, "shuffle": False}
    for batch in Feed(dataset, "val", version=card.version, **options).epoch():
        outputs = finished.model(finished.recipe.prepare(batch, card))
        loss, weight = finished.recipe.loss(outputs, batch, config)
        there = batch[WEIGHT] > 0
        losses += (loss / weight.clamp(min=1e-12))[there].tolist()
        keys += [value for value, counts in zip(list(batch[key]), there.tolist(), strict=True) if counts]
    found = pd.DataFrame({key: keys, "loss": losses})
    return found.sort_values("loss", ascending=False, kind="stable").iloc[:SHOWN]


def seen(rows: pd.DataFrame, schema: Schema, titles: Sequence[str], about: str, out: Path) -> list[str]:
    """Rows as a picture of each, or as a table."""
    field = pictured(schema)
    if field is None:
        return [*as_table(rows, schema), ""]
    draw(rows, field, titles, out)
    return [f"![{about}]({out.name})", ""]


def written(run: Path, console: Console) -> list[str]:
    found = generate(
        str(run),
        PROMPT,
        console,
        max_tokens=NUM_TOKENS,
        temperature=0.8,
        top_p=0.95,
        seed=0,
        device=torch.device("cpu"),
        compare_cache=True,
    )
    lines = [f"    {line}".rstrip() for line in found["text"].splitlines()]
    speeds = [f"{found[name]:,.0f} tokens/s {how}" for name, how in SPEEDS.items()]
    asked = f'    penstock generate RUN --prompt "{PROMPT}" --max-tokens {NUM_TOKENS} --temperature 0.8 --top-p 0.95'
    return ["## What it writes", "", asked, "", *lines, "", f"{' and '.join(speeds)} ({cpu_name()}).", ""]


SPEEDS = {"tokens_per_s": "with the cache of keys and values", "tokens_per_s_without_cache": "without"}


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    run = Path(arguments.run)
    finished = load(str(run))
    card, config = finished.card, finished.config
    recipe, schema = find(card.recipe), card.schema
    report = json.loads((run / "report.json").read_text())
    PAGES.mkdir(exist_ok=True)
    name = recipe.name
    rows = readable(penstock.read(arguments.data, "val", version=card.version), card)
    curve(run, PAGES / f"{name}-curve.png")
    test = ", ".join(f"{key} {value:.4f}" for key, value in report["test"].items())
    size = sum(p.numel() for p in finished.model.parameters())
    counts = ", ".join(f"{split} {found.rows:,}" for split, found in card.splits.items())
    page = [f"# {name}", "", inspect.getdoc(recipe.dataset().module) or "", "", "## The model", ""]
    page += [inspect.getdoc(recipe.model()) or "", ""]
    page += [f"    penstock run {name} --raw FOLDER --out FOLDER", ""]
    page += [
        f"`{config.model}`, {size:,} weights, {report['epochs']:.0f} epochs of {counts} rows: {test} on test; "
        f"{report['seconds_per_epoch']:.1f} s an epoch, data stall {report['data_stall']:.1%} ({cpu_name()}).",
        "",
        f"![Losses and figures by epoch]({name}-curve.png)",
        "",
    ]
    first = rows.iloc[:SHOWN]
    labels = [str(value) for value in first[schema.label or schema.key]]
    page += ["## The data", "", *seen(first, schema, labels, "Rows of val", PAGES / f"{name}-data.png")]
    if schema.key is not None:
        with tempfile.TemporaryDirectory() as folder:
            predict(run, arguments.data, f"{folder}/said.parquet", console, splits=["val"])
            said = pq.read_table(f"{folder}/said.parquet", columns=[schema.key, "prediction", "score"]).to_pandas()
        if schema.label is not None:
            wrong = worst(rows.merge(said, on=schema.key, validate="1:1"), schema.label)
            said_of = zip(wrong[schema.label], wrong["prediction"], wrong["score"], strict=True)
            titles = [f"{label}, said {found} ({score:.2f})" for label, found, score in said_of]
            about = "Rows of val, their label, what was said and how surely"
            page += ["## Wrong, and sure of it", ""]
            page += seen(wrong, schema, titles, about, PAGES / f"{name}-wrong.png")
        else:
            hard = hardest(finished, arguments.data, schema.key).merge(rows, on=schema.key, validate="1:1")
            if not hasattr(finished.recipe, "speaks"):
                said["prediction"] = [_some(best) for best in said["prediction"]]
                hard = hard.merge(said[[schema.key, "prediction"]], on=schema.key, validate="1:1")
            page += ["## The hardest", "", *as_table(hard, schema), ""]
    if hasattr(finished.recipe, "speaks"):
        page += written(run, console)
    (PAGES / f"{name}.md").write_text("\n".join(page).rstrip() + "\n")
    console.say(f"Page: {PAGES / name}.md")
    return {"page": str(PAGES / f"{name}.md")}


def main(argv: Sequence[str] | None = None) -> int:
    example = "python -m bench.pages demo_mnist/runs/1 --data demo_mnist/dataset"
    made = command.parser("bench pages", __doc__ or "", example)
    made.prog = "python -m bench.pages"
    made.add_argument("run", help="the folder of a finished run with a val split")
    made.add_argument("--data", required=True, metavar="URL", help="the dataset that it was trained on")
    return command.execute(made.parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
