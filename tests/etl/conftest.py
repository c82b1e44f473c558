"""A small recipe over dirty csv text, as a user would write one in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest
from pyspark.sql import SparkSession

from etl.run import Built, etl
from penstock.console import Console
from penstock.recipe import find

RECIPE = '''
"""People and their age: name,age,city."""
from etl.read import csv
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

schema = Schema((Field("name", "string"), Field("age", "int32"), Field("city", "string")), key="name", label="city")
split = Split({"train": 0.6, "val": 0.2, "test": 0.2})
rules = (
    Rule("age_range", "age between 0 and 150", "the age must be 0 to 150"),
    Rule("city_known", "city in ('Rom', 'Bern')", "the city must be Rom or Bern", label=True),
)
max_quarantined = MAX

def read(spark, raw_url, labelled):
    return csv(spark, raw_url, {"name": "string", "age": "int", **({"city": "string"} if labelled else {})})

def clean(df):
    return df
'''


class Run(Protocol):
    def __call__(self, raw: Path | None, out: Path, **options: Any) -> Built: ...


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "people", RECIPE.replace("MAX", "0.9"))


def write_recipe(folder: Path, dataset: str) -> Path:
    folder.mkdir()
    (folder / "dataset.py").write_text(dataset)
    return folder


@pytest.fixture
def run(spark: SparkSession, people: Path) -> Run:
    def run(raw: Path | None, out: Path, recipe: Path | str = people, **options: Any) -> Built:
        return etl(find(str(recipe)), None if raw is None else str(raw), str(out), Console(), **options)

    return run


def leftovers(out: Path) -> list[str]:
    """Files in a dataset folder, hidden ones included."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) if out.exists() else []
