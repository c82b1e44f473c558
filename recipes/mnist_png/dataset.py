"""MNIST as PNG files in an archive, as pictures mostly come: `<split>/<label>/<number>.png`, in a folder or a tar.

The pictures stay as they are, and the feed decodes them. The key is the number, which is another one for each picture
of the archive, whatever its folder; a fifth of the rows is held out by its hash, for `val` and `test`. In
mnist_test_png.tar.gz the numbers 60000 to 69999 are MNIST's test pictures 0 to 9,999, of the same pixels. Known classes
0 to 9 of these: 980 1135 1032 1010 982 892 958 1028 974 1009.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", CC BY-SA 3.0.
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import files
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

schema = Schema(
    (Field("id", "string"), Field("image", "uint8", (28, 28), encoding="png"), Field("label", "int64")),
    key="id",
    label="label",
)
split = Split({"train": 0.8, "val": 0.1, "test": 0.1})
rules = (Rule("label_range", "label between 0 and 9", "the picture's folder must be named 0 to 9", label=True),)


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    df = files(spark, raw_url, "png").withColumnRenamed("content", "image")
    folder = F.element_at(F.split("path", "/"), -2)
    return df.withColumn("label", folder.try_cast("long")) if labelled else df


def clean(df: DataFrame) -> DataFrame:
    name = F.substring_index("path", "/", -1)
    return df.withColumn("id", F.substring_index(name, ".", 1))
