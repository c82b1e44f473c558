"""Handwritten digits, 8x8 pixels of 0 to 16, as scikit-learn ships them (digits.csv.gz): 1,797 rows.

One record a line, no header: 64 pixels row by row, then the digit. No two rows have the same pixels, so a
digest of the pixels is the key, and no picture can be in two splits.

Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, CC BY 4.0 (its test set).
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import csv
from etl.transform import pack
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

IMAGE = Field("image", "uint8", (8, 8))
PIXELS = [f"p{i}" for i in range(64)]

schema = Schema((Field("id", "string"), IMAGE, Field("label", "int64")), key="id", label="label")
split = Split({"train": 0.7, "val": 0.1, "test": 0.2})
fit = {"image": "standardise"}
rules = (
    Rule(
        "pixel_range",
        f"least({', '.join(PIXELS)}) >= 0 and greatest({', '.join(PIXELS)}) <= 16",
        "a pixel must be 0 to 16",
    ),
    Rule("label_range", "label between 0 and 9", "the label must be 0 to 9", label=True),
)


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    return csv(spark, raw_url, dict.fromkeys(PIXELS, "int") | ({"label": "bigint"} if labelled else {}))


def clean(df: DataFrame) -> DataFrame:
    return pack(df, PIXELS, into=IMAGE).withColumn("id", F.substring(F.sha2("image", 256), 1, 16))
