"""Transforms that contradict themselves or the schema are said before any row is read."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from penstock.errors import RecipeError
from penstock.schema import Field, Schema
from penstock.transforms import (
    Bucketise,
    BytePairs,
    Characters,
    Clip,
    Hashing,
    Impute,
    Log,
    OneHot,
    Ordinal,
    Standardise,
    TargetMean,
    Transform,
    Transforms,
    Vocabulary,
    check,
)

SCHEMA = Schema(
    (
        Field("id", "int64"),
        Field("features", "float32", (None,)),
        Field("image", "uint8", (2, 2)),
        Field("city", "int64"),
        Field("tokens", "int32", (None,)),
        Field("label", "float64"),
    ),
    key="id",
    label="label",
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clip("x"), "expected low, high or both, or else quantiles"),
        (lambda: Clip("x", 0, 1, (0.1, 0.9)), "expected low, high or both, or else quantiles"),
        (lambda: Clip("x", 2, 1), "expected finite borders, the lower one first"),
        (lambda: Clip("x", math.nan, 1), "expected finite borders, the lower one first"),
        (lambda: Clip("x", quantiles=(0.5, 1.5)), "quantiles are shares of the rows"),
        (lambda: Impute("x", "mode"), "expected 'mean', 'median' or a number"),  # type: ignore[arg-type]
        (lambda: Impute("x", math.inf), "expected a finite number"),
        (lambda: Bucketise("x"), "expected either borders or quantiles"),
        (lambda: Bucketise("x", (1.0, 1.0)), "expected finite borders in rising order"),
        (lambda: Bucketise("x", (math.nan,)), "expected finite borders in rising order"),
        (lambda: Bucketise("x", quantiles=1), "expected 2 to 1,000 quantiles"),
        (lambda: Vocabulary("x", 0), "expected a size of 1 to 100,000"),
        (lambda: BytePairs("x", 256), r"expected a size of 257 \(all bytes, and none\) to 100,000"),
        (lambda: Hashing("x", 0), "expected 1 or more buckets"),
        (lambda: TargetMean("x", -1), "expected a smoothing of 0 rows or more"),
    ],
)
def test_impossible_settings_are_said(make: Callable[[], Transform], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ({"feature": ("x",)}, "'feature' is no field of the schema"),
        ({"id": Ordinal("x")}, "is the key or the label"),
        ({"label": Standardise("x")}, "is the key or the label"),
        ({"image": ("x",)}, "a tuple makes a tensor, but field 'image' is uint8"),
        ({"city": OneHot("x")}, "OneHot makes several elements; write a tuple"),
        ({"features": (Log(OneHot("x")),)}, "OneHot makes several elements and cannot be inside"),
        ({"features": (Log(Vocabulary("x", 5)),)}, "only OneHot may be around a Vocabulary"),
        ({"features": (TargetMean("x"),)}, "needs a label that is an integer or a bool"),
        ({"city": Characters("x")}, "gives a list; make field 'city' int32 of shape"),
        ({"features": (BytePairs("x", 300),)}, "gives a list, which cannot be in a tensor"),
        ({"features": (Ordinal(Characters("x")),)}, "cannot be inside another transform"),
        ({"tokens": BytePairs(Ordinal("x"), 300)}, "is made of a column of texts"),  # type: ignore[arg-type]
        ({"features": (3,)}, "expected a column's name or a transform, found 3"),
    ],
)
def test_what_does_not_fit_the_schema_is_said(transforms: Transforms, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(transforms, SCHEMA)


def test_what_fits_passes() -> None:
    check(
        {"features": ("x", OneHot(Bucketise("y", quantiles=4)), Standardise(Log("z"))), "city": Ordinal("city")}, SCHEMA
    )
    check({"tokens": BytePairs("text", 257)}, SCHEMA)
