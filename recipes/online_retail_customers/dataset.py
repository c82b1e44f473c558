"""Customers of the web shop whose lines recipe online_retail cleans: does one buy again within 90 days?

A row is a customer who bought something before the cut-off, which is 90 days before the end of the last day that the
raw data has a line of. Features come from lines before the cut-off alone, the label from lines after it: no line is in
both. Raw data that is to be scored has no later days; its cut-off is the end of its last day.

A line is a purchase if its quantity is above 0, else a return. Lines without a customer, those of customers who bought
nothing before the cut-off, and returns after it are left out. Sums of money are decimals, so that they do not depend on
the order of lines.

Source: recency, frequency and monetary value as in Fader, Hardie & Lee, "RFM and CLV: Using Iso-Value Curves for
Customer Base Analysis", Journal of Marketing Research 42(4), 2005; the data is that of recipe online_retail.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from penstock.recipe import Split
from penstock.schema import Field, Schema
from penstock.transforms import Log, Standardise
from recipes.online_retail.dataset import clean, fixes, read, rules

__all__ = ["build", "clean", "clean_key", "fixes", "read", "rules", "schema", "split", "transforms"]
DAY_S = 86_400
LATER_S = 90 * DAY_S

schema = Schema(
    (
        Field("customer", "int64"),
        Field("cut_off", "int64"),  # seconds since 1970: features are older, the label is not
        Field("features", "float32", (None,)),
        Field("buys_again", "int64"),
    ),
    key="customer",
    label="buys_again",
)
split = Split({"train": 0.7, "val": 0.1, "test": 0.2})
clean_key = ("line",)
transforms = {
    "features": (
        *(Standardise(Log(name)) for name in ("recency_days", "tenure_days", "days_between")),
        *(Standardise(Log(name)) for name in ("invoices", "invoices_30_days", "invoices_90_days", "lines", "products")),
        *(Standardise(Log(name)) for name in ("spent", "spent_per_invoice", "returns", "returned")),
        "is_british",
    )
}


def build(rows: DataFrame, labelled: bool) -> DataFrame:
    """A row for each customer who bought before the cut-off; `_rows` is the number of lines that it is made of."""
    end = (F.floor(F.max("time") / DAY_S) + 1) * DAY_S
    cut_off = rows.agg((end - (LATER_S if labelled else 0)).alias("cut_off"))
    lines = rows.where("customer <> 0").crossJoin(F.broadcast(cut_off))
    is_before, is_purchase = F.col("time") < F.col("cut_off"), F.col("quantity") > 0
    bought, returned = is_before & is_purchase, is_before & ~is_purchase
    money = F.col("price").cast("decimal(14,3)") * F.col("quantity")

    def days(seconds: Column) -> Column:
        return seconds / DAY_S

    def invoices(where: Column) -> Column:
        return F.count_distinct(F.when(where, F.col("invoice")))

    age = F.col("cut_off") - F.col("time")
    first, last = F.min(F.when(bought, F.col("time"))), F.max(F.when(bought, F.col("time")))
    customers = lines.groupBy("customer", "cut_off").agg(
        days(F.col("cut_off") - last).alias("recency_days"),
        days(F.col("cut_off") - first).alias("tenure_days"),
        days((last - first) / F.greatest(invoices(bought) - 1, F.lit(1))).alias("days_between"),
        invoices(bought).alias("invoices"),
        invoices(bought & (age <= 30 * DAY_S)).alias("invoices_30_days"),
        invoices(bought & (age <= 90 * DAY_S)).alias("invoices_90_days"),
        F.count_if(bought).alias("lines"),
        F.count_distinct(F.when(bought, F.col("stock_code"))).alias("products"),
        F.sum(F.when(bought, money).otherwise(0)).cast("double").alias("spent"),
        F.count_if(returned).alias("returns"),
        F.sum(F.when(returned, -money).otherwise(0)).cast("double").alias("returned"),
        F.bool_or(is_before & (F.col("country") == "United Kingdom")).alias("is_british"),
        F.bool_or(~is_before & is_purchase).cast("bigint").alias("buys_again"),
        F.count_if(is_before | is_purchase).alias("_rows"),
    )
    kept = customers.where("invoices > 0").withColumn("spent_per_invoice", F.col("spent") / F.col("invoices"))
    return kept if labelled else kept.drop("buys_again")
