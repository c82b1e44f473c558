"""Converts MNIST's 60,000 training pictures with MosaicML streaming's Spark converter; prints JSON.

    python convert.py --raw FOLDER --out FOLDER

Source: mosaicml-streaming, docs "Spark DataFrame to MDS" (`dataframe_to_mds` with `merge_index=True`). Timed: from the
idx files to the merged index, in a warm session.
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

COLUMNS = {"idx": "int", "digit": "int", "image": "bytes"}


def read(raw: Path) -> pd.DataFrame:
    """The 60,000 with a picture's 784 bytes in one value."""
    images = gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes())
    digits = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    pictures = [images[start : start + 784] for start in range(0, len(images), 784)]
    return pd.DataFrame({"idx": np.arange(len(digits)), "digit": digits, "image": pictures})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    local = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
    arrow = {"spark.sql.execution.arrow.pyspark.enabled": "true"}
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g").config(map=local | arrow)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.range(8).mapInPandas(lambda frames: frames, "id long").collect()  # JVM and Python workers are warm

    start = time.perf_counter()
    rows = read(arguments.raw)
    df = spark.createDataFrame(rows).repartition(8)
    dataframe_to_mds(df, merge_index=True, mds_kwargs={"out": str(arguments.out / "mds"), "columns": COLUMNS})
    seconds = time.perf_counter() - start
    spark.stop()
    versions = {name: version(name) for name in ("mosaicml-streaming", "pyspark", "numpy")}
    print(json.dumps({"seconds": seconds, "rows": len(rows), "versions": versions}))


if __name__ == "__main__":
    main()
