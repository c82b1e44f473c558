"""Converts MNIST's 60,000 training pictures with stock Petastorm, as its own MNIST example does; prints JSON.

    python convert.py --raw FOLDER --out FOLDER

Source: petastorm, examples/mnist/generate_petastorm_mnist.py (schema with NdarrayCodec, `dict_to_spark_row` per row
inside `materialize_dataset`). Timed: from the idx files to the end of `materialize_dataset`, in a warm session.
"""

import argparse
import gzip
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyspark
from petastorm.codecs import NdarrayCodec, ScalarCodec
from petastorm.etl.dataset_metadata import materialize_dataset
from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row
from pyspark.sql import SparkSession
from pyspark.sql.types import IntegerType

ROW_GROUP_MB = 4
SCHEMA = Unischema(
    "Mnist",
    [
        UnischemaField("idx", np.int32, (), ScalarCodec(IntegerType()), False),
        UnischemaField("digit", np.int32, (), ScalarCodec(IntegerType()), False),
        UnischemaField("image", np.uint8, (28, 28), NdarrayCodec(), False),
    ],
)


def read(raw: Path):
    """The 60,000 as dicts."""
    images = gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    digits = np.frombuffer(labels, np.uint8, offset=8).astype(np.int32)
    return [{"idx": i, "digit": digits[i], "image": pixels[i]} for i in range(len(digits))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    os.environ["PYSPARK_PYTHON"] = sys.executable
    local = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g").config(map=local)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.sparkContext.parallelize(range(4), 2).map(lambda x: x + 1).collect()  # JVM and Python workers are warm
    spark.range(10).write.parquet(f"{arguments.out}/warm")

    url = f"file://{arguments.out.absolute()}/mnist"
    start = time.perf_counter()
    rows = read(arguments.raw)
    with materialize_dataset(spark, url, SCHEMA, ROW_GROUP_MB):
        encoded = spark.sparkContext.parallelize(rows, 8).map(lambda row: dict_to_spark_row(SCHEMA, row))
        spark.createDataFrame(encoded, SCHEMA.as_spark_schema()).write.mode("overwrite").parquet(url)
    seconds = time.perf_counter() - start
    spark.stop()
    versions = {"pyspark": pyspark.__version__, "pyarrow": pyarrow.__version__, "numpy": np.__version__}
    print(json.dumps({"seconds": seconds, "rows": len(rows), "versions": {"petastorm": "0.13.1", **versions}}))


if __name__ == "__main__":
    main()
