"""Tensors out of columns, and figures that are exact in whatever order they are summed."""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from etl.spark import user_errors
from etl.transform import fitted, pack
from penstock.errors import RecipeError
from penstock.profile import Profile, Sample
from penstock.schema import Field
from penstock.sketch import merge, sketch

PARTS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8), max_size=6)


def train(parts: list[list[int]]) -> dict[str, Profile]:
    sketches = [sketch(np.array(part, np.int32)) for part in parts]
    return {"train": Profile({"x": merge(sketches)}, {}, Sample([], {}))}


@given(PARTS)
def test_mean_and_deviation_are_those_of_exact_arithmetic(parts: list[list[int]]) -> None:
    found = fitted({"x": "standardise"}, train(parts))["x"]
    values = [x for part in parts for x in part]
    if not values:
        assert found == {"kind": "standardise", "mean": 0.0, "std": 1.0}
        return
    mean = Fraction(sum(values), len(values))
    variance = sum((x - mean) ** 2 for x in values) / len(values)
    assert found["mean"] == float(mean)
    if variance == 0:
        assert found["std"] == 1.0  # a constant: nothing to divide by
        return
    with localcontext(prec=60):
        std = (Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt()
        assert abs(Decimal(found["std"]) - std) <= Decimal(math.ulp(found["std"]))


@given(PARTS, st.randoms(use_true_random=False))
def test_neither_order_nor_parts_matter(parts: list[list[int]], rng: random.Random) -> None:
    values = [x for part in parts for x in part]
    rng.shuffle(values)
    cut = rng.randrange(len(values) + 1)
    again = fitted({"x": "standardise"}, train([values[:cut], values[cut:]]))
    assert again == fitted({"x": "standardise"}, train(parts))


def test_columns_become_a_tensor_in_their_order(spark: SparkSession) -> None:
    names = [f"p{i}" for i in range(6)]
    df = spark.createDataFrame([("a", *range(6)), ("b", *range(6, 12))], ["id", *names]).withColumn("z", F.lit(0.5))
    field = Field("image", "int16", (2, 3))
    packed = pack(df.select("id", *reversed(names), "z"), names, into=field)
    assert packed.columns == ["id", "z", "image"]
    for first, row in zip((0, 6), packed.orderBy("id").collect(), strict=True):
        np.testing.assert_array_equal(
            np.frombuffer(row["image"], "<i2").reshape(2, 3), np.arange(first, first + 6).reshape(2, 3)
        )


@pytest.mark.parametrize("shape", [(3,), (1, 3), (None,), ()])
def test_only_a_tensor_of_as_many_elements_is_packed(spark: SparkSession, shape: tuple[int | None, ...]) -> None:
    df = spark.createDataFrame([(1, 2)], "a int, b int")
    with pytest.raises(
        RecipeError, match="pack: 2 columns make a tensor of 2 elements, but field 'x' is int32 of shape"
    ):
        pack(df, ["a", "b"], into=Field("x", "int32", shape))


def test_a_value_that_does_not_fit_is_the_recipes_error(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, 300)], "a int, b int")
    message = "field 'x': the value 300 does not fit uint8; refuse such rows with a rule"
    with pytest.raises(RecipeError, match=message), user_errors("raw", "out"):
        pack(df, ["a", "b"], into=Field("x", "uint8", (2,))).collect()
