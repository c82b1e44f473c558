"""The recipes' figures: each trained from its raw data with several seeds, beside a baseline, on test rows.

    python -m bench.recipes [--recipes sms_spam,spoken_digits] [--data ../shared/data] [--seeds 3] [--keep DIR]

Choices were made on val before: runs train on train+val, and test rows are looked at once, here. Only where each row is
a test row of one fold (sms_spam, credit_default), val of one fold is test of another, so that the networks' settings
were chosen on rows that are tested here too; baselines choose theirs inside each fold. For each metric the mean and the
standard deviation over the seeds, or where it says so over folds; seconds are those of training one run. With --keep an
interrupted bench goes on.
"""

from __future__ import annotations

import train  # noqa: F401 - before torch, whose idle threads would else take the feed's cores

# isort: split
import os
import re
import statistics
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from pyspark.sql import SparkSession

import penstock
from bench import recommenders
from bench.environment import cpu_name
from bench.feed import chosen
from bench.ngrams import NGrams
from bench.recommenders import Ratings
from etl.run import etl
from etl.spark import session
from penstock import card as cards
from penstock import command
from penstock.console import Console
from penstock.errors import RunError
from penstock.recipe import Recipe, find
from recipes.spoken_digits.dataset import SPEAKERS
from train import ranking
from train.distributed import World, choose_device
from train.feed import Feed
from train.finished import load
from train.paired import Figure, difference
from train.predict import predict
from train.run import train as train_run

FOLDS = 5


@dataclass(frozen=True)
class Found:
    """Metric -> its figure for each seed, and of the baseline."""

    metrics: Mapping[str, Sequence[float]]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    raw: Path
    folder: Path
    seeds: int
    console: Console

    def dataset(self, recipe: Recipe) -> str:
        url = str(self.folder / recipe.name / "dataset")
        etl(recipe, str(self.raw), url, self.console)
        return url

    def run(self, recipe: Recipe, dataset: str, seed: int, model: str | None = None) -> tuple[str, Mapping[str, Any]]:
        """A run on train+val, and its report."""
        config = replace(recipe.model().config(model), seed=seed, train_split="train+val")
        out = self.folder / recipe.name / "runs" / f"{config.model}-{seed}"
        self.console.say(f"{recipe.name}, {config.model}, seed {seed}")
        trained = train_run(recipe, dataset, out, config, World(choose_device("auto")), None, self.console)
        return str(out), trained.report

    def tested(self, recipe: Recipe, dataset: str, seed: int) -> tuple[Mapping[str, Any], pa.Table]:
        """The report of a run, and its predictions of the test rows."""
        run, report = self.run(recipe, dataset, seed)
        predict(run, dataset, f"{run}/predictions.parquet", self.console, splits=["test"])
        return report, pq.read_table(f"{run}/predictions.parquet")


def rows_of(dataset: str, split: str | None, columns: Sequence[str]) -> pa.Table:
    return penstock.read(dataset, split, columns=columns, as_="arrow")


def of_time(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    seconds = sum(report["seconds_per_epoch"] * report["epochs"] for report in reports)
    stalled = sum(report["seconds_per_epoch"] * report["epochs"] * report["data_stall"] for report in reports)
    return {"seconds": seconds, "data_stall": stalled / seconds}


def sms_spam(bench: Bench) -> Found:
    """Five folds, each with another fifth as test rows; a seed's figures are of all folds' predictions together."""
    from sklearn.metrics import accuracy_score, f1_score

    per_seed: list[dict[str, float]] = []
    folds = [rotated(find("sms_spam"), bench.folder, fold) for fold in range(FOLDS)]
    datasets = [bench.dataset(recipe) for recipe in folds]
    rows = [row for url in datasets for row in rows_of(url, "test", ["id", "label", "text"]).to_pylist()]
    labels = {row["id"]: row["label"] for row in rows}
    letters = {row["id"]: re.sub(r"[^a-z]", "", row["text"].lower()) for row in rows}
    same = Counter(letters.values())
    alone = [key for key, found in letters.items() if same[found] == 1]

    def f1(said: Mapping[str, int], keys: Collection[str]) -> float:
        return float(f1_score([labels[key] for key in keys], [said[key] for key in keys]))

    without_twins = []
    for seed in range(bench.seeds):
        reports: list[Mapping[str, Any]] = []
        said: dict[str, int] = {}
        for recipe, dataset in zip(folds, datasets, strict=True):
            report, predicted = bench.tested(recipe, dataset, seed)
            reports.append(report)
            said |= {row["id"]: row["prediction"] for row in predicted.to_pylist()}
        if said.keys() != labels.keys():
            raise RunError(f"sms_spam: {len(said):,} predictions for {len(labels):,} rows")
        accuracy = accuracy_score([labels[key] for key in said], [said[key] for key in said])
        without_twins.append(f1(said, alone))
        times = of_time(reports)
        figures = {"f1": f1(said, said), "accuracy": float(accuracy)}
        per_seed.append({**figures, "seconds": times["seconds"] / FOLDS, "data_stall": times["data_stall"]})
    by_words = {key: label for dataset in datasets for key, label in tf_idf(dataset).items()}
    bench.console.say(
        f"sms_spam, without the {len(rows) - len(alone)} texts whose letters are those of another one: F1 "
        f"{statistics.mean(without_twins):.4f}, baseline {f1(by_words, alone):.4f}"
    )
    accuracy = accuracy_score([labels[key] for key in by_words], [by_words[key] for key in by_words])
    return Found(over_seeds(per_seed), {"f1": f1(by_words, by_words), "accuracy": float(accuracy)})


def rotated(recipe: Recipe, folder: Path, fold: int) -> Recipe:
    """The same recipe with another fifth of the rows for test."""
    split = f'replace(split, shares={{"test": 0.2, "train": 0.7, "val": 0.1}}, rotate={fold / FOLDS})'
    return changed(recipe, folder, f"fold{fold}", f"from dataclasses import replace\nsplit = {split}")


def changed(recipe: Recipe, folder: Path, name: str, code: str) -> Recipe:
    """The same recipe with these lines at the end of its dataset.py."""
    there = folder / "folds" / f"{recipe.name}_{name}"
    there.mkdir(parents=True, exist_ok=True)
    (there / "dataset.py").write_text(f"from recipes.{recipe.name}.dataset import *\n{code}\n")
    (there / "model.py").write_text(f"from recipes.{recipe.name}.model import *\n")
    return find(str(there))


def credit_default(bench: Bench) -> Found:
    """Five splits, each with another fifth as test rows; a seed's figures are the means over the splits."""
    from sklearn.metrics import roc_auc_score

    splits = [rotated(find("credit_default"), bench.folder, fold) for fold in range(FOLDS)]
    datasets = [bench.dataset(recipe) for recipe in splits]
    labels = {row["client"]: row["default"] for row in rows_of(datasets[0], None, ["client", "default"]).to_pylist()}
    per_seed: list[dict[str, float]] = []
    first = []
    for seed in range(bench.seeds):
        reports, found = [], []
        for recipe, dataset in zip(splits, datasets, strict=True):
            report, said = bench.tested(recipe, dataset, seed)
            reports.append(report)
            pair = np.array([labels[client] for client in said["client"].to_pylist()]), said["score"].to_numpy()
            found.append({"auc": roc_auc_score(*pair), "calibration_error": calibration_error(*pair)})
        first.append(found[0]["auc"])
        times = of_time(reports)
        means = {name: statistics.mean(figures[name] for figures in found) for name in found[0]}
        per_seed.append({**means, "seconds": times["seconds"] / FOLDS, "data_stall": times["data_stall"]})
    baselines = [on_features(dataset) for dataset in datasets]
    names = baselines[0]
    over_splits = {name: statistics.mean(figures[name] for figures in baselines) for name in names}
    bench.console.say(f"credit_default, baselines: {', '.join(f'{n} {over_splits[n]:.4f}' for n in names)}")
    best = max(over_splits, key=lambda name: over_splits[name])
    bench.console.say(
        f"credit_default, the first split alone, on whose test rows nothing was chosen: AUC "
        f"{statistics.mean(first):.4f}, {best} {baselines[0][best]:.4f}"
    )
    return Found(over_seeds(per_seed), {"auc": over_splits[best]})


def calibration_error(labels: npt.NDArray[Any], scores: npt.NDArray[Any], num_bins: int = 15) -> float:
    """Σ n_b / n · |mean label - mean score| over bins of as many rows each, by score: what is expected of a row.

    Source: Naeini, Cooper & Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    bins = np.array_split(np.argsort(scores, kind="stable"), num_bins)
    return float(sum(len(rows) * abs(labels[rows].mean() - scores[rows].mean()) for rows in bins) / len(scores))


def on_features(dataset: str) -> dict[str, float]:
    """AUC of gradient boosting and of logistic regression on the same columns; their settings are chosen on val."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    frames = {split: penstock.read(dataset, split) for split in ("train", "val", "test", "train+val")}
    rows = {split: (np.stack(frame["features"]), frame["default"].to_numpy()) for split, frame in frames.items()}
    trees = [
        HistGradientBoostingClassifier(
            learning_rate=rate,
            max_iter=num_trees,
            max_leaf_nodes=15,
            min_samples_leaf=40,
            l2_regularization=5,
            early_stopping=False,  # else a tenth of the rows is held back
            random_state=0,
        )
        for rate in (0.02, 0.04, 0.08)
        for num_trees in (100, 200, 400)
    ]
    linear = [LogisticRegression(C=c, max_iter=1000) for c in (0.01, 0.1, 1.0)]

    def auc(model: Any, fitted_on: str, tested_on: str) -> float:
        features, labels = rows[tested_on]
        return float(roc_auc_score(labels, model.fit(*rows[fitted_on]).predict_proba(features)[:, 1]))

    kinds = {"gradient boosting": trees, "logistic regression": linear}
    chosen = {name: max(models, key=lambda model: auc(model, "train", "val")) for name, models in kinds.items()}
    return {name: auc(model, "train+val", "test") for name, model in chosen.items()}


def mnist(bench: Bench) -> Found:
    """The residual network on the official test pictures; logistic regression on pixels beside it."""
    from sklearn.linear_model import LogisticRegression

    recipe = find("mnist")
    dataset = bench.dataset(recipe)
    per_seed = []
    for seed in range(bench.seeds):
        _, report = bench.run(recipe, dataset, seed, "residual")
        per_seed.append({"accuracy": report["test"]["accuracy"], **of_time([report])})
    frames = [penstock.read(dataset, split) for split in ("train+val", "test")]
    (pixels, labels), test = ((np.stack(f["image"]).reshape(len(f), -1) / 255, f["label"].to_numpy()) for f in frames)
    linear = LogisticRegression(C=0.1, max_iter=200).fit(pixels, labels)
    return Found(over_seeds(per_seed), {"accuracy": float(linear.score(*test))})


def tf_idf(dataset: str) -> dict[str, int]:
    """Predictions of logistic regression over TF-IDF of words and characters; C is chosen on val."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline, make_union

    texts, labels = {}, {}
    for split in ("train", "val", "test"):
        table = rows_of(dataset, split, ["id", "text", "label"])
        texts[split], labels[split] = table["text"].to_pylist(), table["label"].to_pylist()
    keys = rows_of(dataset, "test", ["id"])["id"].to_pylist()

    def fitted(c: float, *splits: str) -> Any:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        model = make_pipeline(make_union(words, characters), LogisticRegression(C=c, max_iter=1000))
        known = [(text, label) for s in splits for text, label in zip(texts[s], labels[s], strict=True)]
        return model.fit(*zip(*known, strict=True))

    best = max((3.0, 30.0, 300.0), key=lambda c: f1_score(labels["val"], fitted(c, "train").predict(texts["val"])))
    return dict(zip(keys, fitted(best, "train", "val").predict(texts["test"]).tolist(), strict=True))


def shakespeare(bench: Bench) -> Found:
    """Nats per character of the last tenth of the text, by characters and by byte pairs."""
    recipe = find("shakespeare")
    dataset = bench.dataset(recipe)
    text = {}
    for split in ("train", "val", "test"):
        rows = rows_of(dataset, split, ["id", "text"]).sort_by("id")
        text[split] = "".join(rows["text"].to_pylist())
    per_seed = []
    for seed in range(bench.seeds):
        reports = {model: bench.run(recipe, dataset, seed, model)[1] for model in ("characters", "byte_pairs")}
        times = of_time([reports["characters"]])
        losses = {f"{model}_nats_per_character": report["test"]["loss"] for model, report in reports.items()}
        per_seed.append({**losses, **times, "byte_pairs_seconds": of_time([reports["byte_pairs"]])["seconds"]})
    discount = min((0.6, 0.75, 0.9), key=lambda d: NGrams(text["train"], 5, d).nats_per_character(text["val"]))
    five = NGrams(text["train"] + text["val"], 5, discount).nats_per_character(text["test"])
    return Found(over_seeds(per_seed), {f"{model}_nats_per_character": five for model in ("characters", "byte_pairs")})


def spoken_digits(bench: Bench) -> Found:
    """Accuracy on the official test rows; and with each speaker held out once, of which the deviation is over them."""
    recipe = find("spoken_digits")
    dataset = bench.dataset(recipe)
    reports = [bench.run(recipe, dataset, seed)[1] for seed in range(bench.seeds)]
    official = [{"official_accuracy": report["test"]["accuracy"], **of_time([report])} for report in reports]
    held, nearest = {}, {"official_accuracy": nearest_recordings(dataset)}
    for i, speaker in enumerate(SPEAKERS):
        without = held_out(recipe, bench.folder, speaker)
        url = bench.dataset(without)
        held[f"held_out_{speaker}"] = bench.run(without, url, i % bench.seeds)[1]["test"]["accuracy"]
        nearest[f"held_out_{speaker}"] = nearest_recordings(url)
    nearest["held_out_accuracy"] = {
        kind: statistics.mean(nearest[name][kind] for name in held) for kind in nearest["official_accuracy"]
    }
    bench.console.say(f"spoken_digits, baselines: {nearest}")
    found = {**over_seeds(official), "held_out_accuracy": [*held.values()], **{name: [f] for name, f in held.items()}}
    return Found(found, {name: max(of_kinds.values()) for name, of_kinds in nearest.items()})


def held_out(recipe: Recipe, folder: Path, speaker: str) -> Recipe:
    """The same recipe with all of a speaker as test rows."""
    code = f'from functools import partial\nclean = partial(held_out, speaker="{speaker}")'
    return changed(recipe, folder, speaker, code)


def nearest_recordings(dataset: str) -> dict[str, float]:
    """Accuracy of the digit whose recordings' mean log-mel spectra are the nearest in the mean, their centroid; and of
    the digit of the one recording whose whole spectrum is the nearest, its neighbour.
    """
    from recipes.spoken_digits.model import log_mel

    def read(splits: str) -> tuple[Any, Any]:
        rows = rows_of(dataset, splits, ["samples", "digit"])
        samples = torch.tensor(rows["samples"].combine_chunks().to_numpy_ndarray())
        return log_mel(samples), torch.tensor(rows["digit"].to_numpy())

    (known, digits), (asked, expected) = read("train+val"), read("test")
    means, asked_means = (spectra.mean(dim=(1, 2)) for spectra in (known, asked))
    centroids = torch.stack([means[digits == digit].mean(dim=0) for digit in range(10)])
    said = {
        "centroid": torch.cdist(asked_means, centroids).argmin(dim=1),
        "neighbour": digits[torch.cdist(asked.flatten(1), known.flatten(1)).argmin(dim=1)],
    }
    return {kind: float((found == expected).float().mean()) for kind, found in said.items()}


def movietweetings(bench: Bench) -> Found:
    """Films that a user rates in the last tenth of the ratings, and how; the gain is over the best baseline's NDCG.

    Its interval is of 95 %, paired by user, of the mean over the seeds. What the baselines choose is chosen on val.
    """
    recipe = find("movietweetings")
    model, dataset = recipe.model(), bench.dataset(recipe)
    val, test = (Asked.of(dataset, known, split) for known, split in ((["train"], "val"), (["train", "val"], "test")))
    with session("bench recipes") as spark:
        prior = min(
            ((u, f) for u in (1.0, 3.0, 5.0) for f in (1.0, 3.0, 5.0)),
            key=lambda prior: val.rmse(val.biases(prior)),
        )
        alpha = max((1.0, 10.0, 40.0), key=lambda alpha: val.ndcg(val.als_scores(spark, alpha)).mean())
        reg = min((0.1, 0.3, 0.5), key=lambda reg: val.rmse(val.als_ratings(spark, reg, prior)))
        ndcg = {
            "popular": test.ndcg(recommenders.popularity(test.known, test.num_films)[None]),
            "popular_7_days": test.ndcg(test.lately),
            "als": test.ndcg(test.als_scores(spark, alpha)),
        }
        rmse = {
            "biases": test.rmse(test.biases(prior)),
            "als": test.rmse(test.als_ratings(spark, reg, prior)),
        }
    best = max(ndcg, key=lambda name: float(ndcg[name].mean()))
    per_seed, gained = [], []
    for seed in range(bench.seeds):
        run, report = bench.run(recipe, dataset, seed)
        lists, ratings, figures = [], [], []
        finished = load(run)
        with torch.no_grad():
            for batch in Feed(dataset, "test", global_batch_size=1000, shuffle=False).epoch():
                outputs = finished.model(model.prepare(batch, finished.card))
                figures.append(model.metrics["ndcg_10"](outputs, batch))
                lists.append(model.predict(outputs)[0])
                ratings.append(outputs.ratings[batch["watched"] != 0].clamp(0, 10))
        gained.append(torch.cat(figures).double().numpy())
        told = {name: report["test"][name] for name in ("ndcg_10", "recall_10", "mrr")}
        coverage = ranking.coverage(torch.cat(lists), test.num_films)
        rated = test.rmse(torch.cat(ratings).double().numpy())
        per_seed.append({**told, "coverage_10": coverage, "rmse": rated, **of_time([report])})
    gain = difference(Figure(np.mean(gained, axis=0)), Figure(ndcg[best]))
    bench.console.say(
        f"NDCG@10 above {best}: {gain.value:+.4f}, {gain.low:+.4f} to {gain.high:+.4f}; "
        + ", ".join(f"{name} {figures.mean():.4f}" for name, figures in ndcg.items())
        + "; RMSE "
        + ", ".join(f"{name} {figure:.4f}" for name, figure in rmse.items())
    )
    found = over_seeds(per_seed)
    found |= {f"ndcg_10_gain{part}": [getattr(gain, name)] for part, name in GAIN.items()}
    return Found(found, {"ndcg_10": float(ndcg[best].mean()), "rmse": min(rmse.values())})


GAIN = {"": "value", "_low": "low", "_high": "high"}


@dataclass(frozen=True)
class Asked:
    """A split of movietweetings in file order: what was known before, and what is asked."""

    known: Ratings
    asked: Ratings
    users: npt.NDArray[np.int64]  # (B,)
    history: torch.Tensor  # (B, T) padded with 0
    watched: torch.Tensor  # (B, T) padded with 0
    lately: npt.NDArray[np.float64]  # (B, films + 1) ratings of the seven days before
    num_films: int

    @classmethod
    def of(cls, dataset: str, known: Sequence[str], split: str) -> Asked:
        num_films = len(cards.load(dataset).transforms["watched"]["values"])
        (batch,) = Feed(dataset, split, global_batch_size=100_000, lanes=1, shuffle=False).epoch()
        recent, counts = batch["recent"].long(), batch["counts"].unflatten(1, (-1, 7))[:, :, 2]
        lately = torch.zeros(len(recent), num_films + 1, dtype=torch.float64).scatter(1, recent, counts.double())
        before = pa.concat_tables([rows_of(dataset, name, ["user", "watched", "ratings"]) for name in known])
        users, history, watched = batch["user"].numpy(), batch["history"].long(), batch["watched"].long()
        per_user = (watched != 0).sum(dim=1).numpy()
        there = watched != 0
        asked = Ratings(users.repeat(per_user), watched[there].numpy(), batch["ratings"][there].double().numpy())
        return cls(_flat(before), asked, users, history, watched, lately.numpy(), num_films)

    def ndcg(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(B,) of scores (B, films + 1), or (1, films + 1) for all; films of the history are not ranked."""
        every = torch.from_numpy(scores).expand(len(self.users), -1).clone().scatter(1, self.history, -torch.inf)
        found: npt.NDArray[np.float64] = ranking.ndcg(every, self.watched).numpy()
        return found

    def als_scores(self, spark: SparkSession, alpha: float) -> npt.NDArray[np.float64]:
        return recommenders.als_scores(spark, self.known, self.users, self.num_films, alpha)

    def biases(self, prior: tuple[float, float]) -> npt.NDArray[np.float64]:
        return recommenders.biases(self.known, self.asked, *prior)

    def als_ratings(self, spark: SparkSession, reg: float, prior: tuple[float, float]) -> npt.NDArray[np.float64]:
        """Users and films that ALS does not know have the biases' rating."""
        found = recommenders.als_ratings(spark, self.known, self.asked, reg)
        return np.where(np.isnan(found), self.biases(prior), found)

    def rmse(self, ratings: npt.NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean((ratings - self.asked.ratings) ** 2)))


def _flat(rows: pa.Table) -> Ratings:
    users = rows["user"].to_numpy().repeat(pc.list_value_length(rows["watched"]).to_numpy())
    films, ratings = (pc.list_flatten(rows[name]).to_numpy() for name in ("watched", "ratings"))
    return Ratings(users, films.astype(np.int64), ratings.astype(np.float64))


def over_seeds(per_seed: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [figures[name] for figures in per_seed] for name in per_seed[0]}


RECIPES: Mapping[str, tuple[str, Callable[[Bench], Found]]] = {
    "mnist": ("mnist", mnist),
    "sms_spam": ("sms_spam", sms_spam),
    "shakespeare": ("tinyshakespeare", shakespeare),
    "credit_default": ("credit_default", credit_default),
    "spoken_digits": ("spoken_digits", spoken_digits),
    "movietweetings": ("movietweetings", movietweetings),
}


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    if arguments.seeds < 1:
        raise RunError(f"--seeds must be 1 or more, found {arguments.seeds}")
    names = chosen(arguments.recipes, list(RECIPES), "--recipes")
    keep = Path(arguments.keep).expanduser().absolute() if arguments.keep else None
    told: dict[str, dict[str, Any]] = {}
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory(prefix="bench-recipes-") as folder:
        for name in names:
            where, measure = RECIPES[name]
            raw = Path(arguments.data).expanduser().absolute() / where
            found = measure(Bench(raw, Path(folder), arguments.seeds, console))
            told[name] = {
                metric: {
                    "mean": statistics.mean(values),
                    "std": statistics.stdev(values) if len(values) > 1 else 0.0,
                    "baseline": found.baseline.get(metric),
                }
                for metric, values in found.metrics.items()
            }
    rows = [
        [name, metric, f"{f['mean']:.4f} ± {f['std']:.4f}", "" if f["baseline"] is None else f"{f['baseline']:.4f}"]
        for name, metrics in told.items()
        for metric, f in metrics.items()
    ]
    console.table(rows, ["recipe", "metric", "mean ± deviation", "baseline"])
    console.say(f"{arguments.seeds} seeds, {os.cpu_count()} cores of {cpu_name()}, torch {version_of('torch')}")
    return told


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser(
        "bench recipes", __doc__ or "", "python -m bench.recipes --recipes sms_spam --keep /tmp/figures"
    )
    made.prog = "python -m bench.recipes"
    made.add_argument("--recipes", default="all", help=f"with commas: {', '.join(RECIPES)}")
    made.add_argument("--data", default="../shared/data", metavar="DIR", help="a folder of raw data for each recipe")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--keep", metavar="DIR", help="keep datasets and runs there; default: a temporary folder")
    arguments = made.parse_args(argv)
    arguments.json = True  # the JSON object is all of standard output; the table goes to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
