"""A finished run's model as one file for serving: `penstock export RUN --to onnx`, `--to torch` or `--to keras`.

The exported model takes the fields of a batch as the dataset holds them, and returns what the network does: the
recipe's `prepare` is part of it, so that nobody standardises twice or not at all. Batches may have any size. The file
is there only once it gave the outputs of the model itself on rows of the dataset, where that can be reached.

A `.keras` file is the recipe's Keras model and nothing else: there `prepare` may give types and pick fields, and what
standardises is a layer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import tempfile
import warnings
import zipfile
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_leaves

from penstock import card as cards
from penstock import command, store
from penstock.card import Card
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RunError
from penstock.schema import Schema
from train.feed import WEIGHT, Feed
from train.feed.blocks import LENGTH
from train.feed.petastorm_reader import Batch
from train.finished import Finished, load
from train.predict import check_contract

SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "keras": ".keras"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "keras": ("keras",)}
CHECKED_ROWS, CHECKED_BATCH = 1000, 250
TOLERANCE = 1e-4  # of the largest output of a batch, or of 1: float32 summed in another order
EXAMPLE = 2  # rows, and elements of a list, to trace with: 0 and 1 would be taken for fixed sizes

Fields = dict[str, Tensor]
Exported = Callable[[Fields], list[Tensor]]


class FromFields(nn.Module):
    """The recipe's `prepare` and the network behind it: fields of a batch -> outputs."""

    def __init__(self, finished: Finished) -> None:
        super().__init__()
        self.model = finished.model
        self._prepare, self._card = finished.recipe.prepare, finished.card

    def forward(self, fields: Fields) -> Any:
        return self.model(self._prepare(fields, self._card))


@torch.no_grad()
def export(
    run: str, to: str, out: str, console: Console, *, data_url: str | None = None, version: str | None = None
) -> dict[str, Any]:
    """Writes the model of a finished run to the file `out`; both are paths or URLs.

    `data_url` is where the dataset is now; default: where it was. Raises: RunError where the run is not finished, the
    model cannot be exported, or the exported one gives other outputs; what was at `out` is then still there.
    """
    if lacking := [name for name in NEEDED[to] if importlib.util.find_spec(name) is None]:
        raise RunError(f"--to {to} needs {', '.join(lacking)}; install with: pip install {' '.join(lacking)}")
    for name in ("torch.fx", "torch.onnx"):  # what matters is raised; else one reads of torchvision's absence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    finished = load(run)
    target = store.absolute(out)
    place, _, name = target.rpartition("/")
    store.check_writable(place)
    module = FromFields(finished).eval()
    about = {f"penstock.{name}": str(finished.described[name]) for name in ("recipe", "dataset_version", "contract")}
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        with console.step(f"export to {to}"):
            example, file = fields_read(finished), Path(folder) / name
            if to == "keras":
                exported = _write_keras(finished, file, about)
            else:
                sizes = _sizes(example, finished.card.schema)
                program = _trace(module, example, sizes, run)
                exported = (_write_onnx if to == "onnx" else _write_torch)(program, sizes, file, about)
        told = _compare(module, exported, list(example), finished, data_url, version)
        for file in sorted(Path(folder).iterdir(), reverse=True):  # a large model's `….onnx.data` before its `….onnx`
            store.put(file, store.join(place, file.name))
    inputs = {name: [str(value.dtype).removeprefix("torch."), *value.shape[1:]] for name, value in example.items()}
    return {"file": target.removeprefix("file://"), "format": to, "inputs": inputs, **told}


class Noted(UserDict[str, Tensor]):
    """A batch that notes which of its fields are read."""

    def __init__(self, values: Fields) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name)
        self.read.add(name)
        return value


def fields_read(finished: Finished) -> Fields:
    """The fields that `prepare` reads, as (EXAMPLE, …) of zeros. Raises: RunError where one of them is no tensor."""
    batch, schema = Noted({}), finished.card.schema
    for field in schema.without_label().fields:
        if field.name == schema.key or field.dtype in ("string", "bytes") or (field.is_encoded and None in field.shape):
            continue
        shape = [EXAMPLE if size is None else size for size in field.shape]
        batch[field.name] = torch.zeros(EXAMPLE, *shape, dtype=getattr(torch, field.dtype))
        if field.is_list:
            batch[LENGTH.format(field.name)] = torch.full((EXAMPLE,), EXAMPLE)
    try:
        finished.recipe.prepare(batch, finished.card)
    except KeyError as error:
        raise RunError(
            f"{finished.run}: the recipe's prepare reads {error.args[0]!r}, which is neither a tensor of a fixed "
            f"size nor a list of numbers: a model that needs it cannot be exported"
        ) from error
    return {name: value for name, value in batch.data.items() if name in batch.read}


def _sizes(example: Fields, schema: Schema) -> dict[str, dict[int, Any]]:
    """For each field the axes that vary: the batch, and the length of a list."""
    lists = {field.name for field in schema.fields if field.is_list}
    return {name: {0: Dim("batch"), **({1: Dim(f"{name}_length")} if name in lists else {})} for name in example}


def _trace(module: FromFields, example: Fields, sizes: Any, run: str) -> ExportedProgram:
    try:
        with redirect_stderr(StringIO()):  # it prints a failed graph there
            return torch.export.export(module, (example,), dynamic_shapes={"fields": sizes})
    except Exception as error:  # whatever the recipe's code raises, and many kinds of torch's own
        raise RunError(
            f"{run}: torch.export cannot trace the recipe's prepare and model ({_line(error)}); their code may depend "
            f"neither on the values of tensors nor on the size of the batch"
        ) from error


def _write_torch(program: ExportedProgram, sizes: Any, file: Path, about: Mapping[str, str]) -> Exported:
    torch.export.save(program, file, extra_files=dict(about))
    module = torch.export.load(file).module()
    return lambda fields: tree_leaves(module(fields))


def _write_onnx(program: ExportedProgram, sizes: Any, file: Path, about: Mapping[str, str]) -> Exported:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two fields have the same axis
        try:
            written = torch.onnx.export(
                program, input_names=list(sizes), dynamic_shapes={"fields": sizes}, verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise RunError(f"{file.name}: ONNX has no words for this model ({_line(error)}); use --to torch") from error
    assert written is not None
    written.model.metadata_props.update(about)
    written.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda fields: [
        torch.from_numpy(out) for out in session.run(None, {k: v.numpy() for k, v in fields.items()})
    ]


def _write_keras(finished: Finished, file: Path, about: Mapping[str, str]) -> Exported:
    from train.models.keras import KerasModel, keras

    if not isinstance(finished.model, KerasModel):
        raise RunError(f"{finished.run}: --to keras is for a model of Keras, and this is none; use --to onnx or torch")
    finished.model.keras_model().save(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("penstock.json", json.dumps(about))
    with keras.device("cpu"):
        model = keras.saving.load_model(file, compile=False)

    def exported(fields: Fields) -> list[Tensor]:
        with keras.device("cpu"):
            try:
                return tree_leaves(model(fields if len(fields) > 1 else next(iter(fields.values())), training=False))
            except ValueError as error:  # of other shapes
                raise RunError(
                    f"{finished.run}: the Keras model does not take the fields {', '.join(fields)} as the dataset has "
                    f"them ({_line(error)}); make what prepare does a part of it"
                ) from error

    return exported


def _compare(
    module: FromFields,
    exported: Exported,
    names: Sequence[str],
    finished: Finished,
    data_url: str | None,
    version: str | None,
) -> dict[str, Any]:
    """Runs both on rows of the test split, and of others where it has too few.

    Raises: RunError where their outputs differ by more than TOLERANCE.
    """
    url = data_url or finished.described["dataset"]
    try:
        card = cards.load(url, version or (None if data_url else finished.card.version))
        check_contract(finished.run, finished.card, card, url)
        split = _first_splits(card, CHECKED_ROWS)
        columns = [name for name in names if name in card.schema.names]
        feed = Feed(url, split, version=card.version, global_batch_size=CHECKED_BATCH, shuffle=False, columns=columns)
        batches = [{n: batch[n] for n in names} for batch in _first_rows(feed, CHECKED_ROWS)]
        if not batches:
            raise DatasetError(f"{store.shown(url)}: no rows to compare on in version {card.version}; choose another")
    except (PenstockError, OSError) as error:
        if data_url is not None or version is not None:
            raise
        return {"rows_compared": 0, "not_compared": str(error)}
    largest, rows = 0.0, 0
    for batch in [*batches, {name: value[:1] for name, value in batches[0].items()}]:
        for expected, found in zip(tree_leaves(module(batch)), exported(batch), strict=True):
            difference = _difference(found, expected)
            largest = max(largest, difference)
            if not difference <= TOLERANCE:  # also where it is NaN
                raise RunError(
                    f"{finished.run}: the exported model gives other outputs than the model: on rows of "
                    f"{split} they differ by {difference:.2g}, allowed is {TOLERANCE}; nothing is written"
                )
    rows = sum(len(value) for batch in batches for value in list(batch.values())[:1])
    return {"rows_compared": rows, "split": split, "largest_difference": largest}


def _first_rows(feed: Feed, num_rows: int) -> Iterator[Batch]:
    """Batches of so many rows, as far as there are some; of buckets a batch may have few."""
    with closing(feed.epoch()) as batches:
        for batch in batches:
            yield batch
            num_rows -= len(batch[WEIGHT])
            if num_rows <= 0:
                break


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest one, of the largest expected value or of 1. Infinities differ from nothing that equals them."""
    apart = torch.where(found == expected, 0.0, (found - expected).abs())
    finite = expected[expected.isfinite()].abs()
    return float(apart.max()) / max(1.0, float(finite.max()) if len(finite) else 0.0)


def _first_splits(card: Card, num_rows: int) -> str:
    """As many splits as have so many rows, test first, joined by `+`."""
    names = sorted(card.splits, key=lambda name: (name != "test", name != "val"))
    count = next(
        (i for i in range(1, len(names)) if sum(card.splits[n].rows for n in names[:i]) >= num_rows), len(names)
    )
    return "+".join(names[:count])


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "export",
        "Write the model of a finished run, with the recipe's prepare, as one file that serves without this project.",
        "penstock export /data/runs/1 --to onnx",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a finished run, local or a URL")
    made.add_argument(
        "--to", required=True, choices=sorted(SUFFIX), help="an ONNX file, a torch.export program, or a .keras file"
    )
    made.add_argument("--out", metavar="FILE", help="default: RUN/model.onnx, .pt2 or .keras; replaced if it is there")
    made.add_argument("--data", metavar="URL", help="where to take rows to compare on; default: the run's dataset")
    made.add_argument("--version", help="of --data; default: the newest")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    run = store.shown(store.absolute(arguments.run))
    name = f"model{SUFFIX[arguments.to]}"
    if arguments.out:
        command.check_file(arguments.out, name)
    out = arguments.out or store.join(run, name)
    told = export(run, arguments.to, out, console, data_url=arguments.data, version=arguments.version)
    fields = ", ".join(f"{name} {dtype}{shape}" for name, (dtype, *shape) in told["inputs"].items())
    if told["rows_compared"]:
        console.say(
            f"Same outputs as the model on {told['rows_compared']:,} rows of {told['split']}: the largest difference "
            f"is {told['largest_difference']:.1e}"
        )
    else:
        console.say(f"Not compared with the model: {told['not_compared']}")
    console.say(f"{store.shown(store.absolute(told['file']))}: takes {fields}, any number of rows")
    return told


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
