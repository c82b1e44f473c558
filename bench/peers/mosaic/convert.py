"""Converts MNIST's 60,000 training pictures with MosaicML streaming's Spark converter; prints JSON.

    python convert.py --raw FOLDER --out FOLDER

Source: mosaicml-streaming, docs "Spark DataFrame to MDS" (`dataframe_to_mds` with `merge_index=True`, one part per
worker). Timed: from the idx files to the merged index, in a warm session.
"""

import argparse
import gzip
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from streaming.base.converters import dataframe_to_mds

NUM_PARTS = 2
# A picture is its 784 bytes: from Spark columns the converter takes no array of uint8.
COLUMNS = {"key": "str", "label": "int64", "image": "bytes"}
LOCAL = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
ARROW = {"spark.sql.execution.arrow.pyspark.enabled": "true"}  # else `createDataFrame` goes row by row


def read(raw: Path) -> pd.DataFrame:
    """One row a picture; image: its 784 bytes."""
    images = gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes())
    digits = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    keys = [f"train-{i:05d}" for i in range(len(digits))]
    pictures = [images[start : start + 784] for start in range(0, len(images), 784)]
    return pd.DataFrame({"key": keys, "label": digits, "image": pictures})


def write(spark: SparkSession, rows: pd.DataFrame, out: Path) -> None:
    df = spark.createDataFrame(rows).repartition(NUM_PARTS)
    dataframe_to_mds(df, merge_index=True, mds_kwargs={"out": str(out), "columns": COLUMNS})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g").config(map=LOCAL | ARROW)
    with builder.getOrCreate() as spark:
        spark.sparkContext.setLogLevel("ERROR")
        # A few rows the whole way, so that no import in a Python worker is measured: streaming imports torch and
        # transformers there, which takes longer than the conversion.
        write(spark, read(arguments.raw)[:64], out / "warm")

        start = time.perf_counter()
        write(spark, read(arguments.raw), out / "mds")
        seconds = time.perf_counter() - start
    shards = json.loads((out / "mds" / "index.json").read_text())["shards"]
    rows = sum(shard["samples"] for shard in shards)  # what was written, not what was meant to be
    versions = {name: version(name) for name in ("mosaicml-streaming", "pyspark", "pyarrow", "numpy")}
    print(json.dumps({"seconds": seconds, "rows": rows, "versions": versions}))


if __name__ == "__main__":
    main()
