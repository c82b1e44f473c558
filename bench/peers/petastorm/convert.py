"""Converts MNIST's training pictures with stock Petastorm, as its own examples do; prints JSON.

    python convert.py --raw FOLDER --out FOLDER

Source: petastorm 0.13.1, examples/mnist (NdarrayCodec) and examples/hello_world (`dict_to_spark_row` over an RDD
inside `materialize_dataset`). Timed: from the idx files to the end of `materialize_dataset`, in a warm session.
"""

import argparse
import gzip
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from petastorm.codecs import NdarrayCodec, ScalarCodec
from petastorm.etl.dataset_metadata import materialize_dataset
from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row
from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.sql.types import LongType, StringType

ROW_GROUP_MB = 4
SCHEMA = Unischema(
    "Mnist",
    [
        UnischemaField("key", np.str_, (), ScalarCodec(StringType()), False),
        UnischemaField("label", np.int64, (), ScalarCodec(LongType()), False),
        UnischemaField("image", np.uint8, (28, 28), NdarrayCodec(), False),
    ],
)
LOCAL = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}


def read(images: Path) -> list[dict[str, Any]]:
    """One dict a picture of a file; image: uint8 (28, 28)."""
    labels = images.with_name(images.name.replace("-images-idx3-", "-labels-idx1-"))
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    digits = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8).astype(np.int64)
    prefix = images.name.removesuffix("-images-idx3-ubyte.gz")
    return [{"key": f"{prefix}-{i:05d}", "label": digits[i], "image": pixels[i]} for i in range(len(digits))]


def raw_rows(spark: SparkSession, raw: Path) -> RDD:
    """The rows of one file from the driver, cut evenly; of several files from the executors, a task each."""
    files = sorted(raw.glob("*train-images-idx3-ubyte.gz"))
    if len(files) == 1:
        return spark.sparkContext.parallelize(read(files[0]))
    return spark.sparkContext.parallelize(files, len(files)).flatMap(read)


def write(spark: SparkSession, rows: RDD, url: str) -> None:
    with materialize_dataset(spark, url, SCHEMA, ROW_GROUP_MB):
        encoded = rows.map(lambda row: dict_to_spark_row(SCHEMA, row))
        spark.createDataFrame(encoded, SCHEMA.as_spark_schema()).write.mode("overwrite").parquet(url)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out.absolute().as_uri()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g").config(map=LOCAL)
    with builder.getOrCreate() as spark:
        spark.sparkContext.setLogLevel("ERROR")
        # A few rows the whole way, so that no import in a Python worker is measured.
        write(spark, spark.sparkContext.parallelize(raw_rows(spark, arguments.raw).take(64)), f"{out}/warm")

        start = time.perf_counter()
        write(spark, raw_rows(spark, arguments.raw), f"{out}/mnist")
        seconds = time.perf_counter() - start
        rows = spark.read.parquet(f"{out}/mnist").count()  # what was written, not what was meant to be
    versions = {name: version(name) for name in ("petastorm", "pyspark", "pyarrow", "numpy")}
    print(json.dumps({"seconds": seconds, "rows": rows, "versions": versions}))


if __name__ == "__main__":
    main()
