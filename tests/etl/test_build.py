"""The second stage as files: what is deduplicated, built, left out and fitted adds up, and frozen figures stay."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from penstock import card as cards
from penstock.card import Card
from penstock.console import Console
from penstock.errors import DatasetError, RawDataError, RecipeError
from penstock.verify import verify
from tests.etl.conftest import RECIPE, Run, leftovers, write_recipe

HEAD = """
from pyspark.sql import functions as F

from etl.read import csv
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema
from penstock.transforms import Impute, Log, OneHot, Standardise

split = Split({"train": 0.6, "val": 0.2, "test": 0.2})
max_quarantined = 0.9

def read(spark, raw_url, labelled):
    columns = {"name": "string", "city": "string", "age": "int"}
    return csv(spark, raw_url, columns | ({"label": "bigint"} if labelled else {}), nullable=("age",))

def clean(df):
    return df
"""
PEOPLE = (
    HEAD
    + """
schema = Schema(
    (Field("name", "string"), Field("features", "float32", (None,)), Field("label", "int64")), key="name", label="label"
)
transforms = {"features": (Standardise(Impute("age", "mean")), OneHot("city"))}
"""
)
CUSTOMERS = (
    HEAD
    + """
schema = Schema((Field("name", "string"), Field("visits", "int64"), Field("total", "int64")), key="name", label="total")

def build(rows, labelled):
    known = rows.where("name <> 'nobody'")
    visits, total = F.count("city").alias("visits"), F.sum("label").alias("total")
    return known.groupBy("name").agg(visits, total, F.count("*").alias("_rows"))
"""
)


@pytest.fixture
def people_with_features(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "featured", PEOPLE)


def lines(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    cities, ages = ["Rom", "Bern"], ["", *range(90)]
    return [f"n{rng.randrange(count)},{rng.choice(cities)},{rng.choice(ages)},{rng.randrange(2)}" for _ in range(count)]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.parent


def rows(out: Path, card: Card, split: str = "*") -> list[dict[str, Any]]:
    files = sorted((out / card.data).glob(f"split={split}/*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def test_features_are_fitted_on_the_training_rows_that_are_kept(
    run: Run, spark: SparkSession, people_with_features: Path, tmp_path: Path
) -> None:
    text = lines(400, seed=3)
    raw, out = write(tmp_path / "raw" / "a.csv", "\n".join(text)), tmp_path / "out"
    card = run(raw, out, recipe=people_with_features).card
    # Of equal names the smallest by all other columns in their order, null first.
    kept: dict[str, tuple[str, int, int]] = {}
    for line in text:
        name, city, age, label = line.split(",")
        row = (city, int(age) if age else -1, int(label))
        kept[name] = min(kept.get(name, row), row)
    assert card.counts == {
        "raw": 400,
        "quarantined": 0,
        "clean": 400,
        "duplicates": 400 - len(kept),
        "built": len(kept),
    }
    train = {row["name"] for row in rows(out, card, "train")}
    ages = [age for name, (_, age, _) in kept.items() if name in train and age >= 0]
    mean = np.mean(ages)
    std = np.std([kept[name][1] if kept[name][1] >= 0 else mean for name in train])
    fitted = card.transforms["features"]
    assert fitted["elements"] == ["standardise(impute(age))", "one_hot(city) = Bern", "one_hot(city) = Rom"]
    assert fitted["of"][0]["of"]["value"] == pytest.approx(mean, rel=1e-12)
    assert fitted["of"][0]["std"] == pytest.approx(std, rel=1e-12)
    assert card.schema["features"].shape == (3,)
    for row in rows(out, card):
        city, age, label = kept[row["name"]]
        expected = [((age if age >= 0 else mean) - mean) / std, city == "Bern", city == "Rom"]
        np.testing.assert_allclose(np.frombuffer(row["features"], "<f4"), expected, rtol=1e-5, atol=1e-6)
        assert row["label"] == label
    assert verify(str(out), Console())[1] == []
    assert not [name for name in leftovers(out) if "-rows" in name]

    # The same rows in other files and partitions are the same figures, rows and bytes.
    for i in range(3):
        write(tmp_path / "three" / f"{i}.csv", "\n".join(text[i::3]))
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    other = run(tmp_path / "three", tmp_path / "out3", recipe=people_with_features, keep_clean=True)
    spark.conf.set("spark.sql.shuffle.partitions", "8")
    assert json.dumps(other.card.transforms) == json.dumps(card.transforms)
    assert (other.card.splits, other.card.counts) == (card.splits, card.counts)
    assert pq.read_table(tmp_path / "out3" / "clean" / str(other.clean.data)).num_rows == 400

    # New rows get what was fitted: unseen categories 0 everywhere, a null the training rows' mean.
    new = write(tmp_path / "new" / "a.csv", "x,Rom,,0\ny,Paris,1000,1\n")
    scored = run(new, tmp_path / "scored", recipe=people_with_features, frozen=card).card
    assert scored.transforms == card.transforms
    assert scored.contract == card.contract
    found = {row["name"]: np.frombuffer(row["features"], "<f4").tolist() for row in rows(tmp_path / "scored", scored)}
    assert found == {"x": [0, 0, 1], "y": [np.float32((1000 - fitted["of"][0]["mean"]) / fitted["of"][0]["std"]), 0, 0]}
    unlabelled = write(tmp_path / "unlabelled" / "a.csv", "x,Rom,\n")
    scored = run(unlabelled, tmp_path / "u", recipe=people_with_features, frozen=card, labelled=False).card
    assert scored.contract == card.contract


def test_rows_made_of_several_add_up(run: Run, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "customers", CUSTOMERS)
    text = [*lines(300, seed=4), *(f"nobody,Rom,{i},1" for i in range(20)), "n1,Rom,-1,1", "n1,Rom,-1,1", "broken"]
    raw, out = write(tmp_path / "raw" / "a.csv", "\n".join(text)), tmp_path / "out"
    card = run(raw, out, recipe=recipe).card
    unique = {line for line in text if line != "broken"}
    used = {line for line in unique if not line.startswith("nobody")}
    visits: dict[str, int] = defaultdict(int)
    for line in used:
        visits[line.split(",")[0]] += 1
    assert card.counts == {
        "raw": 323,
        "quarantined": 1,
        "clean": 322,
        "duplicates": 322 - len(unique),
        "left_out": 20,
        "used": len(used),
        "built": len(visits),
    }
    assert {row["name"]: row["visits"] for row in rows(out, card)} == visits
    assert verify(str(out), Console())[1] == []
    loaded = cards.load(str(out))
    with pytest.raises(DatasetError, match=r"counts do not add up: .* used, .* left out and"):
        cards.Card(**{**loaded.__dict__, "counts": {**card.counts, "left_out": 21}})


def test_a_clean_row_has_a_key_of_its_own(run: Run, tmp_path: Path) -> None:
    keyed = write_recipe(tmp_path / "keyed", CUSTOMERS + '\nclean_key = ("name", "city")\n')
    raw = write(tmp_path / "raw" / "a.csv", "a,Rom,2,1\na,Rom,1,5\na,Bern,1,1\nb,Rom,3,1\n")
    card = run(raw, tmp_path / "out", recipe=keyed).card
    assert (card.counts["duplicates"], card.counts["used"], card.counts["built"]) == (1, 3, 2)
    assert {row["name"]: row["total"] for row in rows(tmp_path / "out", card)} == {"a": 6, "b": 1}


def test_a_clean_key_counts_without_a_build_too(run: Run, tmp_path: Path) -> None:
    keyed = write_recipe(tmp_path / "keyed", RECIPE.replace("MAX", "0.9") + '\nclean_key = ("age", "city")\n')
    raw = write(tmp_path / "raw" / "a.csv", "a,1,Rom\nb,1,Rom\nc,2,Rom\n")
    card = run(raw, tmp_path / "out", recipe=keyed).card
    assert (card.counts["duplicates"], card.counts["built"]) == (1, 2)
    raw = write(tmp_path / "more" / "a.csv", "a,1,Rom\na,2,Rom\n")
    with pytest.raises(RecipeError, match="clean_key leaves 1 rows whose key another row has"):
        run(raw, tmp_path / "out", recipe=keyed)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (', F.count("*").alias("_rows")', "", r"build\(\) gives no column '_rows', which says of how many clean rows"),
        ('F.count("*").alias("_rows")', 'F.lit(9).alias("_rows")', r"build\(\) says that it used 18 rows of 3"),
        ('F.sum("label")', 'F.max("city")', r"build\(\) gives other columns .*: total must be bigint, is string"),
        ('.groupBy("name")', '.groupBy("name", "city")', r"build\(\) gives 1 rows whose key another row has"),
    ],
)
def test_a_build_that_contradicts_itself_is_said(
    run: Run, tmp_path: Path, before: str, after: str, message: str
) -> None:
    wrong = write_recipe(tmp_path / "wrong", CUSTOMERS.replace(before, after))
    raw = write(tmp_path / "raw" / "a.csv", "a,Rom,1,1\na,Bern,1,1\nb,Rom,1,1\n")
    with pytest.raises(RecipeError, match=message):
        run(raw, tmp_path / "out", recipe=wrong)
    assert not [name for name in leftovers(tmp_path / "out") if not name.startswith("clean/")]


def test_nothing_to_fit_on_and_nothing_frozen_are_said(run: Run, people_with_features: Path, tmp_path: Path) -> None:
    empty = write_recipe(
        tmp_path / "empty", PEOPLE.replace('"train": 0.6', '"train": 1e-6').replace('"val": 0.2', '"val": 0.799999')
    )
    raw = write(tmp_path / "raw" / "a.csv", "a,Rom,1,1\n")
    with pytest.raises(RawDataError, match="no row is in the split 'train'"):
        run(raw, tmp_path / "out", recipe=empty)
    customers = run(raw, tmp_path / "other", recipe=write_recipe(tmp_path / "customers", CUSTOMERS)).card
    with pytest.raises(RecipeError, match="has no transforms of field 'features'"):
        run(raw, tmp_path / "out", recipe=people_with_features, frozen=customers)
