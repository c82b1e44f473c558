"""MNIST: handwritten digits, 28x28 grey pixels of 0 to 255, as idx files: 60,000 to train on and 10,000 to test.

The raw folder holds `{train,t10k}-images-idx3-ubyte[.gz]` and `{train,t10k}-labels-idx1-ubyte[.gz]`. The key is the
file's prefix and the place in it, as `train-00042`. The 10,000 are the test split, as the source says; a tenth of
the 60,000 is held out as val. Known classes 0 to 9 of the 60,000: 5923 6742 5958 6131 5842 5421 5918 6265 5851 5949.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", CC BY-SA 3.0.
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import idx
from penstock import store
from penstock.errors import RawDataError
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

schema = Schema(
    (Field("id", "string"), Field("image", "uint8", (28, 28)), Field("label", "int64")), key="id", label="label"
)
split = Split({"train": 0.9, "val": 0.1}, source="source_split")
fit = {"image": "standardise"}
rules = (Rule("label_range", "label between 0 and 9", "the label must be 0 to 9", label=True),)


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    urls = store.raw_urls(raw_url)
    images = [name for name in urls if "-images-idx3-ubyte" in name]
    if not images:
        raise RawDataError(
            f"{store.shown(raw_url)}: expected files named *-images-idx3-ubyte[.gz], found {', '.join(urls)}"
        )
    labels = {name: name.replace("-images-idx3-", "-labels-idx1-") for name in images}
    missing = [label for label in labels.values() if labelled and label not in urls]
    if missing:
        raise RawDataError(
            f"{store.shown(raw_url)}: {missing[0]} is missing; copy it there, or use --unlabelled to score images"
        )
    return idx(spark, {urls[image]: urls[label] if labelled else None for image, label in labels.items()}, (28, 28))


def clean(df: DataFrame) -> DataFrame:
    name = F.substring_index("_file", "/", -1)
    prefix = F.substring_index(name, "-images-idx3", 1)
    return df.withColumns(
        {
            "id": F.concat(prefix, F.lit("-"), F.lpad(F.col("_position").cast("string"), 5, "0")),
            "source_split": F.when(prefix == "t10k", "test"),
        }
    )
