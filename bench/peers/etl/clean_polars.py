"""The invoices cleaned with Polars, as its users would write it: one lazy query, collected, then written.

clean_polars.py --raw FOLDER --out FOLDER
"""

import argparse
import json
import time
from pathlib import Path

import polars as pl

SCHEMA = {
    "InvoiceNo": pl.String,
    "StockCode": pl.String,
    "Description": pl.String,
    "Quantity": pl.Int32,
    "InvoiceDate": pl.Datetime,
    "UnitPrice": pl.Float64,
    "CustomerID": pl.String,
    "Country": pl.String,
}


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--raw", type=Path, required=True)
    made.add_argument("--out", type=Path, required=True)
    arguments = made.parse_args()
    start = time.perf_counter()
    customer = pl.col("CustomerID")
    df = (
        pl.scan_csv(str(arguments.raw / "**" / "*.csv"), schema=SCHEMA, try_parse_dates=True)
        .with_columns(customer.str.replace(r"\.0$", ""), pl.col("Description").str.strip_chars().fill_null(""))
        .with_columns(
            good=(pl.col("UnitPrice") >= 0)
            & pl.col("InvoiceNo").str.contains(r"^[AC]?\d{6,}$")
            & (customer.is_null() | customer.str.contains(r"^\d{5}$"))
        )
        .collect()
    )
    counts = df.select(
        raw=pl.len(),
        quarantined=(~pl.col("good")).sum(),
        customer_known=customer.is_null().sum(),
        no_cancellation=pl.col("InvoiceNo").str.starts_with("C").sum(),
        quantity_sign=(pl.col("Quantity") <= 0).sum(),
        price_given=(pl.col("UnitPrice") == 0).sum(),
    ).row(0, named=True)
    df.filter(~pl.col("good")).write_parquet(arguments.out / "quarantine.parquet")
    df = (
        df.filter("good")
        .drop("good")
        .with_columns(customer.fill_null("0").cast(pl.Int64))
        .unique()
        .with_columns(key=pl.struct(pl.all()).hash())
        .sort("key")
    )
    bucket = pl.col("key") % 1_000_000
    for name, low, high in (("train", 0, 800_000), ("val", 800_000, 900_000), ("test", 900_000, 1_000_000)):
        df.filter((bucket >= low) & (bucket < high)).write_parquet(arguments.out / f"{name}.parquet")
    print(json.dumps({"seconds": time.perf_counter() - start, "counts": {**counts, "built": df.height}}))


if __name__ == "__main__":
    main()
