"""Tensors out of columns."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from etl.spark import user_errors
from etl.transform import pack
from penstock.errors import RecipeError
from penstock.schema import Field


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
