"""Models on the same rows of a split: what each gave for each row, and how far their figures differ.

Both see the same rows, each as its own transforms made them, and prepared by the card that it was trained on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from penstock import card as cards
from penstock import store
from penstock.card import Card
from penstock.errors import DatasetError, RunError
from train import acceleration, cpu, paired
from train.feed import LABEL, Feed
from train.feed.device import to_device
from train.finished import Finished
from train.paired import Figure, Interval
from train.predict import check_contract
from train.run import EVALUATION_BATCH

LOSS = "loss"
NUM_CLASSES = 1000  # of which figures are kept, with the largest drops

JSON = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """A version's split, on which models are tested."""

    url: str
    card: Card
    split: str

    def __str__(self) -> str:
        return f"{self.split} of version {self.card.version} in {store.shown(self.url)}"

    @property
    def count(self) -> int:
        return self.card.splits[self.split].rows


@dataclass(frozen=True)
class Tested:
    """What a model gave for each of n rows."""

    keys: npt.NDArray[Any] | None  # (n,)
    labels: npt.NDArray[Any] | None  # (n,) where the label is one value
    predictions: npt.NDArray[Any] | None  # (n,) where there are labels
    figures: Mapping[str, Figure]

    @property
    def has_classes(self) -> bool:
        return all(a is not None and a.ndim == 1 and a.dtype.kind in "iub" for a in (self.labels, self.predictions))


def rows_of(finished: Finished, url: str | None, version: str | None, split: str) -> Rows:
    """The rows of a dataset (default: the run's) that the run's model can be tested on.

    Raises: DatasetError where there are no such rows, RunError where they were made for another model.
    """
    at = store.absolute(url or finished.described["dataset"])
    card = cards.load(at, version or (None if url else finished.card.version))
    rows = Rows(at, card, split)
    if card.schema.label is None and finished.card.schema.label is not None:
        raise DatasetError(
            f"{store.shown(at)}: version {card.version} has no labels, so that no model can be tested on it; name "
            f"another with --data and --version"
        )
    if split not in card.splits:
        raise DatasetError(f"{store.shown(at)}: no split {split!r}; there are {', '.join(card.splits) or 'none'}")
    if rows.count < 2:
        raise DatasetError(f"{rows}: expected 2 rows or more to test on, found {rows.count}; name another --split")
    if card.rows_contract != finished.card.rows_contract:
        check_contract(finished.run, finished.card, card, at)
    return rows


@torch.no_grad()
def on_rows(models: Sequence[Finished], rows: Rows, device: torch.device) -> list[Tested]:
    """Runs models over the rows, which are read once for all of them. Losses have no weights of classes."""
    cpu.keep_memory()
    networks = [acceleration.prepare(finished.model, finished.config.precision, device) for finished in models]
    plain = [replace(finished.config, label_smoothing=0.0, class_weights=()) for finished in models]
    parts: list[defaultdict[str, list[Any]]] = [defaultdict(list) for _ in models]
    schema = rows.card.schema
    has_labels = schema.label is not None and not schema[schema.label].shape
    options: JSON = {"global_batch_size": EVALUATION_BATCH, "shuffle": False, "columns": schema.names}
    feed = Feed(rows.url, rows.split, version=rows.card.version, **options)
    keys, labels = [], []
    for batch in to_device(feed.epoch(), device, feed.timings):
        if schema.key is not None:
            keys.append(_numpy(batch[schema.key]))
        if has_labels:
            labels.append(_numpy(batch[LABEL]))
        for finished, network, config, part in zip(models, networks, plain, parts, strict=True):
            recipe = finished.recipe
            with acceleration.autocast(config.precision, device):
                outputs = network(recipe.prepare(batch, finished.card))
                losses, weights = recipe.loss(outputs, batch, config)
            if has_labels:
                part["predictions"].append(_numpy(recipe.predict(outputs)[0]))
            part["losses"].append(_numpy(losses.double()))
            part["weights"].append(_numpy(weights.double()))
            for name, metric in recipe.metrics.items():
                part[f"metric {name}"].append(_numpy(metric(outputs, batch).double()))
    all_keys, all_labels = (np.concatenate(parts) if parts else None for parts in (keys, labels))
    found = []
    for finished, part in zip(models, parts, strict=True):
        arrays = {name: np.concatenate(values) for name, values in part.items()}
        figures = {name: Figure(arrays[f"metric {name}"]) for name in finished.recipe.metrics}
        weights = None if (arrays["weights"] == 1).all() else arrays["weights"]
        figures[LOSS] = Figure(arrays["losses"], weights)
        found.append(Tested(all_keys, all_labels, arrays.get("predictions"), figures))
    return found


def _numpy(values: Any) -> npt.NDArray[Any]:
    if not isinstance(values, Tensor):
        return np.array(values)
    found: npt.NDArray[Any] = (values.double() if values.is_floating_point() else values).cpu().numpy()
    return found


def by_key(tested: Tested, rows: Rows) -> Tested:
    """In the order of the keys. Raises: DatasetError where rows have none of their own."""
    if tested.keys is None or len(np.unique(tested.keys)) < len(tested.keys):
        lack = "has no key" if tested.keys is None else "has rows with equal keys"
        raise DatasetError(f"{rows}: {lack}, so that rows of two versions cannot be told to be the same")
    order = np.argsort(tested.keys)
    figures = {
        name: Figure(figure.values[order], None if figure.weights is None else figure.weights[order])
        for name, figure in tested.figures.items()
    }
    labels, predictions = (None if a is None else a[order] for a in (tested.labels, tested.predictions))
    return Tested(tested.keys[order], labels, predictions, figures)


def check_same(one: Tested, rows: Rows, two: Tested, other_rows: Rows, frozen: str) -> None:
    """Raises: DatasetError where two, both in the order of their keys, are not of the same keys and labels."""
    assert one.keys is not None
    assert two.keys is not None
    if not np.array_equal(one.keys, two.keys):
        more, less = len(np.setdiff1d(one.keys, two.keys)), len(np.setdiff1d(two.keys, one.keys))
        what = f"has {more:,} rows that the second has not, and lacks {less:,} of its rows"
    elif one.labels is not None and two.labels is not None and not np.array_equal(one.labels, two.labels):
        what = "has other labels"
    else:
        return
    raise DatasetError(
        f"{rows}, and {other_rows}: expected the same rows, but the first {what}; build the second of the same raw "
        f"files as the first, with {frozen}"
    )


def compare(one: Tested, other: Tested, metric: str, lower_is_better: set[str]) -> JSON:
    """The figures of both, `one` being the candidate, and the recall of each class, the largest drop first.

    The intervals of all classes hold together, by Bonferroni's level, so that many classes alone stop no release.
    Raises: RunError where the other has no such metric.
    """
    if metric not in other.figures:
        raise RunError(f"--metric: the released run's recipe has no {metric!r}; there are {', '.join(other.figures)}")
    figures = {}
    for name in [name for name in one.figures if name in other.figures]:
        lower, found = name in lower_is_better, paired.difference(one.figures[name], other.figures[name])
        figures[name] = {
            "candidate": finite(one.figures[name].value),
            "released": finite(other.figures[name].value),
            "difference": plain(found),
            "lower_is_better": lower,
            "worse": found.low > 0 if lower else found.high < 0,
        }
    classes = _classes(one, other) if one.has_classes and other.has_classes else []
    return {"metric": metric, "figures": figures, "num_classes": len(classes), "classes": classes[:NUM_CLASSES]}


def _classes(one: Tested, other: Tested) -> list[JSON]:
    assert one.labels is not None
    assert one.predictions is not None
    assert other.predictions is not None
    found, labels = [], np.unique(one.labels)
    level = 1 - (1 - paired.LEVEL) / len(labels)
    for label in labels:
        rows = one.labels == label
        hits, its_hits = (Figure((p[rows] == label).astype(np.float64)) for p in (one.predictions, other.predictions))
        difference = paired.difference(hits, its_hits, level)
        recall = {"candidate": hits.value, "released": its_hits.value, "difference": plain(difference)}
        found.append({"label": label.item(), "rows": int(rows.sum()), **recall, "worse": difference.high < 0})
    return sorted(found, key=lambda of_class: of_class["difference"]["value"])


def plain(found: Interval) -> JSON:
    return {name: finite(value) for name, value in asdict(found).items()}


def finite(value: float) -> float | None:
    """JSON has no other numbers."""
    return value if math.isfinite(value) else None
