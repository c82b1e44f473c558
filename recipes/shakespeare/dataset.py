"""Tiny Shakespeare: 40,000 lines of plays, 1,115,394 characters, 65 different ones, as one text file.

A row is a passage of 256 characters, disjoint from all others: the last tenth of the text is the test split, the tenth
before it val. `letters` are the characters of the passage, of the one before it and of the one behind it in its split:
so a model that is judged by the passage has read what comes before, and one that learns can begin anywhere. `tokens`
are the passage's byte pairs. Both tokenisers are learnt on train.

The whole text is put together in one task, since a passage follows from all lines before it.

Source: Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015, of plays in the public domain.
"""

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import text
from penstock.recipe import Split
from penstock.schema import Field, Schema
from penstock.transforms import BytePairs, Characters

PASSAGE = 256  # characters

schema = Schema(
    (
        Field("id", "string"),
        Field("text", "string"),
        Field("num_characters", "int32"),
        Field("num_before", "int32"),  # how many of the letters are before the passage
        Field("letters", "int32", (None,)),
        Field("tokens", "int32", (None,)),
    ),
    key="id",
)
split = Split({"train": 0.8, "val": 0.1, "test": 0.1}, source="part")
transforms = {"letters": Characters("around"), "tokens": BytePairs("text", 1024)}
clean_key = ("line",)


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    return text(spark, raw_url)


def clean(df: DataFrame) -> DataFrame:
    return df.withColumnRenamed("_position", "line")


def build(rows: DataFrame, labelled: bool) -> DataFrame:
    lines = F.array_sort(F.collect_list(F.struct("line", "text")))
    whole = rows.agg(
        F.array_join(F.transform(lines, lambda line: F.concat(line["text"], F.lit("\n"))), "").alias("text")
    )
    val, test = (F.floor(share * F.length("text")).cast("int") for share in (0.8, 0.9))
    parts = F.array(
        F.struct(F.lit("train").alias("part"), F.substring("text", F.lit(1), val).alias("text")),
        F.struct(F.lit("val").alias("part"), F.substring("text", val + 1, test - val).alias("text")),
        F.struct(F.lit("test").alias("part"), F.substring("text", test + 1, F.length("text")).alias("text")),
    )
    cut = F.regexp_extract_all("text", F.lit(rf"(?s).{{1,{PASSAGE}}}"), F.lit(0))
    passages = whole.select(F.inline(parts)).select("part", cut.alias("passages"))

    def passage(text: Column, number: Column) -> Column:
        before, behind = (F.coalesce(F.get("passages", number + step), F.lit("")) for step in (-1, 1))
        return F.struct(
            F.concat("part", F.lit("-"), F.lpad(number.cast("string"), 5, "0")).alias("id"),
            text.alias("text"),
            F.length(text).alias("num_characters"),
            F.length(before).alias("num_before"),
            F.concat(before, text, behind).alias("around"),
            (F.length(text) - F.length(F.replace(text, F.lit("\n"), F.lit("")))).alias("_rows"),  # lines that end in it
        )

    return passages.select("part", F.inline(F.transform("passages", passage)))
