"""Converts MNIST's training pictures with MosaicML streaming's Spark converter; prints JSON.

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
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from streaming.base.converters import dataframe_to_mds

NUM_PARTS = 2
# A picture is its 784 bytes: from Spark columns the converter takes no array of uint8.
COLUMNS = {"key": "str", "label": "int64", "image": "bytes"}
LOCAL = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
ARROW = {"spark.sql.execution.arrow.pyspark.enabled": "true"}  # else `createDataFrame` goes row by row


def read(images: Path) -> pd.DataFrame:
    """One row a picture of a file; image: its 784 bytes."""
    labels = images.with_name(images.name.replace("-images-idx3-", "-labels-idx1-"))
    pixels = gzip.decompress(images.read_bytes())[16:]
    digits = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8).astype(np.int64)
    prefix = images.name.removesuffix("-images-idx3-ubyte.gz")
    keys = [f"{prefix}-{i:05d}" for i in range(len(digits))]
    pictures = [pixels[start : start + 784] for start in range(0, len(pixels), 784)]
    return pd.DataFrame({"key": keys, "label": digits, "image": pictures})


def read_all(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for frame in frames:
        yield from (read(Path(file)) for file in frame["file"])


def raw_rows(spark: SparkSession, raw: Path) -> DataFrame:
    """The rows of one file from the driver; of several files from the executors, a task each."""
    files = sorted(map(str, raw.glob("*train-images-idx3-ubyte.gz")))
    if len(files) == 1:
        return spark.createDataFrame(read(Path(files[0])))
    named = spark.createDataFrame(pd.DataFrame({"file": files})).repartition(len(files), "file")
    return named.mapInPandas(read_all, "key string, label long, image binary")


def write(df: DataFrame, out: Path) -> None:
    dataframe_to_mds(df.repartition(NUM_PARTS), merge_index=True, mds_kwargs={"out": str(out), "columns": COLUMNS})


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
        write(raw_rows(spark, arguments.raw).limit(64), out / "warm")

        start = time.perf_counter()
        write(raw_rows(spark, arguments.raw), out / "mds")
        seconds = time.perf_counter() - start
    shards = json.loads((out / "mds" / "index.json").read_text())["shards"]
    rows = sum(shard["samples"] for shard in shards)  # what was written, not what was meant to be
    versions = {name: version(name) for name in ("mosaicml-streaming", "pyspark", "pyarrow", "numpy")}
    print(json.dumps({"seconds": seconds, "rows": rows, "versions": versions}))


if __name__ == "__main__":
    main()
