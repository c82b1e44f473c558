"""The SMS Spam Collection: 5,574 English text messages, 4,827 ham and 747 spam.

One message a line, no header: label, tab, text. Quotes mean nothing: 145 lines hold a `"`, 17 of them an odd number.
The texts have phone numbers and e-mail addresses of real people, which are masked.

What the counts say, as tests/recipes/test_sms_spam.py shows: no row breaks a rule. 433 messages hold a phone number, 7
an e-mail address. The key is a digest of the masked text in lower case, with blanks collapsed and every number as `0`:
messages that differ in nothing else are one, so that none is in two splits. That leaves 5,138 (4,517 ham, 621 spam) and
436 duplicates: 403 lines equal another one in every letter, 12 more do when phone numbers are masked, and 21 more
differ in case, blanks or other numbers. No text is both ham and spam.

What stays: numbers that lack both a + and their 0, such as `num 98321561`, but for those that begin with Britain's 44.

Source: Almeida, Gómez Hidalgo & Yamakami, "Contributions to the Study of SMS Spam Filtering", DocEng 2011; UCI 228,
CC BY 4.0.
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read import csv
from penstock.privacy import Derive, Mask
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema
from penstock.transforms import BytePairs

BRITISH = r"(?<![0-9A-Za-z+])44 ?[1-9][0-9]{9}(?![0-9])"
NORMALISED = r"trim(lower(regexp_replace(regexp_replace(text, '[0-9]+', '0'), r'\s+', ' ')))"

schema = Schema(
    (
        Field("id", "string"),
        Field("text", "string"),
        Field("tokens", "int32", (None,), buckets=(16, 32, 64)),
        Field("label", "int64"),
    ),
    key="id",
    label="label",
)
split = Split({"train": 0.8, "val": 0.1, "test": 0.1})
private = {
    "text": Mask(),
    "id": Derive(f"substring(sha2({NORMALISED}, 256), 1, 16)"),
}
transforms = {"tokens": BytePairs("text", 3000)}
rules = (Rule("label_known", "label in ('ham', 'spam')", "the label must be ham or spam", label=True),)


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    columns = {**({"label": "string"} if labelled else {}), "text": "string"}
    return csv(spark, raw_url, columns, delimiter="\t", quote=None, trim=False, nullable=("text",))


def clean(df: DataFrame) -> DataFrame:
    df = df.withColumn("text", F.regexp_replace(F.coalesce("text", F.lit("")), BRITISH, "<phone>"))
    label = [(F.col("label") == "spam").cast("long").alias("label")] if "label" in df.columns else []
    return df.select("text", *label)
