"""The second stage of recipes that make rows of several, or fit transforms: clean rows to rows ready to be placed.

Clean rows come from Parquet, so that `build` may use them as often as it likes, and what is built goes over Parquet
too, since each round of fitting reads it again. Recipes with neither, whose rows are known by their key, need none of
this: etl/run.py sends their rows straight to the shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from etl import features, publish, split
from etl.clean import PLACE
from etl.read import escaped
from etl.spark import progress
from penstock import store
from penstock.console import Console
from penstock.errors import RawDataError, RecipeError
from penstock.recipe import DatasetRecipe
from penstock.schema import Schema
from penstock.shards import Written

USED = "_rows"  # column that build() gives: of how many clean rows a row is made


@dataclass(frozen=True)
class Prepared:
    """Rows with the columns of `schema` and those that place them, what was fitted, and what the clean rows became."""

    rows: DataFrame
    schema: Schema
    transforms: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, int]  # clean, duplicates; left_out and used too where there is a build
    exact_duplicates: int


def is_needed(recipe: DatasetRecipe) -> bool:
    return recipe.build is not None or bool(recipe.transforms) or bool(recipe.clean_key)


def prepare(
    spark: SparkSession,
    clean_rows: DataFrame,
    recipe: DatasetRecipe,
    schema: Schema,
    labelled: bool,
    frozen: Mapping[str, Mapping[str, Any]] | None,
    raw_url: str,
    rows_url: str,
    duplicates_url: str,
    console: Console,
) -> Prepared:
    """Deduplicates, builds and splits, then fits on the training split, unless there is something `frozen`.

    `schema` is the recipe's, whose sizes may follow from what is fitted. What has to be there until the last use of the
    rows that this returns is written below `rows_url`; the clean rows that are dropped for another one are listed in
    `duplicates_url`.

    Raises: RecipeError, RawDataError.
    """
    with console.step("deduplicate, build and split") as update, progress(spark, update):
        ranked = _ranked(clean_rows, recipe)
        unique = rows = ranked.where("_rank = 1").drop("_rank", "_first", PLACE)
        if recipe.build is not None:
            unique = over_parquet(spark, unique, store.join(rows_url, "unique"))
            rows = recipe.build(unique, labelled)
            if USED not in rows.columns:
                raise RecipeError(
                    f"build() gives no column {USED!r}, which says of how many clean rows each of its rows is made, so "
                    f"that counts add up; it is 1 for a row made of one"
                )
        as_they_are = tuple(field for field in schema.fields if field.name not in recipe.transforms)
        publish.conform(rows, Schema(as_they_are, schema.key, schema.label), "build()" if recipe.build else "clean()")
        rows = over_parquet(spark, split.assign(rows, schema, recipe.split), store.join(rows_url, "built"))
        num_clean, num_unique = clean_rows.count(), (unique if recipe.build else rows).count()
        counts = {"clean": num_clean, "duplicates": num_clean - num_unique}
        if recipe.build is not None:
            counts |= _used(rows, num_unique)
        exact_duplicates = 0
        if counts["duplicates"]:
            is_exact = _content(_compared(ranked, recipe)).eqNullSafe(F.col("_first")).alias("exact")
            dropped = ranked.where("_rank > 1").select(*(c for c in ranked.columns if not c.startswith("_")), is_exact)
            dropped.write.option("compression", "zstd").mode("append").parquet(duplicates_url)
            exact_duplicates = spark.read.parquet(escaped(duplicates_url)).where("exact").count()
    fitted = {name: dict(frozen[name]) for name in recipe.transforms} if frozen is not None else {}
    if frozen is None and recipe.transforms:
        with console.step("fit transforms on the training split") as update, progress(spark, update):
            train = rows.where("split = 'train'")
            if train.isEmpty():
                raise RawDataError("raw data: no row is in the split 'train'; transforms have nothing to be fitted on")
            fitted = features.fit(train, recipe.transforms, schema.label, raw_url)
    published = features.resolved(schema, fitted)
    keep = [name for name in ("split", "_hash", "_group") if name in rows.columns]
    return Prepared(features.apply(rows, fitted, published, keep), published, fitted, counts, exact_duplicates)


def counts(prepared: Prepared | None, written: Written) -> dict[str, int]:
    """clean, duplicates, built; left_out and used where there is a build.

    Raises: RecipeError where two built rows have one key.
    """
    if prepared is None:
        num_clean = written.num_rows + written.duplicates
        return {"clean": num_clean, "duplicates": written.duplicates, "built": written.num_rows}
    if written.duplicates:
        gives = "build() gives" if "used" in prepared.counts else "clean_key leaves"
        raise RecipeError(
            f"{gives} {written.duplicates:,} rows whose key another row has; give each key one row, or the schema "
            f"another key"
        )
    return {**prepared.counts, "built": written.num_rows}


def _ranked(rows: DataFrame, recipe: DatasetRecipe) -> DataFrame:
    """Adds `_rank`, 1 for the row that stays of those with one key, and `_first`, what that row's other columns are.

    A row without a key is known by all its columns.
    """
    key = _key(rows, recipe)
    others = _compared(rows, recipe)
    order = split.preference(recipe.keep, others) or [F.lit(0)]
    rows_of_key = Window.partitionBy(*key).orderBy(*order)
    first = F.first(_content(others)).over(rows_of_key)
    return rows.withColumns({"_rank": F.row_number().over(rows_of_key), "_first": first})


def _content(columns: Sequence[str]) -> Column:
    return F.struct(*columns) if columns else F.lit(True)


def _key(rows: DataFrame, recipe: DatasetRecipe) -> tuple[str, ...]:
    key = recipe.clean_key or ((str(recipe.schema.key),) if recipe.build is None else ())
    return key or tuple(name for name in rows.columns if name != PLACE)


def _compared(rows: DataFrame, recipe: DatasetRecipe) -> list[str]:
    return [name for name in rows.columns if not name.startswith("_") and name not in _key(rows, recipe)]


def _used(rows: DataFrame, num_unique: int) -> dict[str, int]:
    total = rows.agg(F.coalesce(F.sum(USED), F.lit(0)).alias("used")).first()
    assert total is not None
    used = int(total["used"])
    if not 0 <= used <= num_unique:
        raise RecipeError(f"build() says that it used {used:,} rows of {num_unique:,}; a row counts once")
    return {"left_out": num_unique - used, "used": used}


def over_parquet(spark: SparkSession, rows: DataFrame, url: str) -> DataFrame:
    """The same rows, from files."""
    rows.write.option("compression", "zstd").parquet(url)
    return spark.read.schema(rows.schema).parquet(escaped(url))
