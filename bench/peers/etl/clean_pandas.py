"""The invoices cleaned with pandas, as its users would write it: the whole data in memory, one pass per step.

clean_pandas.py --raw FOLDER --out FOLDER
"""

import argparse
import json
import time
from pathlib import Path

import pandas as pd

TYPES = {"InvoiceNo": str, "StockCode": str, "Description": str, "CustomerID": str, "Country": str}


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--raw", type=Path, required=True)
    made.add_argument("--out", type=Path, required=True)
    arguments = made.parse_args()
    start = time.perf_counter()
    days = sorted(arguments.raw.rglob("*.csv"))
    df = pd.concat((pd.read_csv(day, dtype=TYPES, parse_dates=["InvoiceDate"]) for day in days), ignore_index=True)
    raw = len(df)
    df["CustomerID"] = df["CustomerID"].str.replace(r"\.0$", "", regex=True)
    df["Description"] = df["Description"].str.strip().fillna("")
    good = (
        (df["UnitPrice"] >= 0)
        & df["InvoiceNo"].str.fullmatch(r"[AC]?\d{6,}")
        & df["CustomerID"].str.fullmatch(r"\d{5}", na=True)
    )
    warned = {
        "customer_known": int(df["CustomerID"].isna().sum()),
        "no_cancellation": int(df["InvoiceNo"].str.startswith("C").sum()),
        "quantity_sign": int((df["Quantity"] <= 0).sum()),
        "price_given": int((df["UnitPrice"] == 0).sum()),
    }
    df[~good].to_parquet(arguments.out / "quarantine.parquet")
    df = df[good].copy()
    df["CustomerID"] = df["CustomerID"].fillna("0").astype("int64")
    df = df.drop_duplicates()
    df["key"] = pd.util.hash_pandas_object(df, index=False)
    df = df.sort_values("key")
    bucket = df["key"] % 1_000_000
    for name, low, high in (("train", 0, 800_000), ("val", 800_000, 900_000), ("test", 900_000, 1_000_000)):
        df[(bucket >= low) & (bucket < high)].to_parquet(arguments.out / f"{name}.parquet", index=False)
    counts = {"raw": raw, "quarantined": int((~good).sum()), "built": len(df), **warned}
    print(json.dumps({"seconds": time.perf_counter() - start, "counts": counts}))


if __name__ == "__main__":
    main()
