"""Sources that need a Spark of their own: Avro files with its package, and a table of Hive's catalog."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster.__main__ import HOST
from penstock import card as cards
from penstock.card import CleanCard
from penstock.console import Console
from penstock.verify import verify
from tests.cluster.conftest import ROOT
from tests.etl.conftest import write_recipe

AVRO = "org.apache.spark:spark-avro_2.13:4.2.0"  # works with Spark 4.3
RECIPE = """
from etl.read import {read}
from penstock.recipe import Split
from penstock.schema import Field, Schema

schema = Schema((Field("name", "string"), Field("age", "int32")), key="name")
split = Split({{"train": 0.5, "test": 0.5}})
max_quarantined = 0.5

def read(spark, raw_url, labelled):
    return {read}(spark, raw_url, {arguments}{{"name": "string", "age": "int"}})

def clean(df):
    return df
"""
SCRIPT = """
import sys
from pyspark.sql import SparkSession
from etl.run import etl
from penstock.console import Console
from penstock.recipe import find

folder = sys.argv[1]
spark = SparkSession.builder.getOrCreate()
people = spark.createDataFrame([(f"p{i}", i if i % 10 else None) for i in range(100)], "name string, age int")
people.write.format("avro").save(f"{folder}/avro")
spark.sql("create database raw")
people.write.saveAsTable("raw.people", format="hive")
for name, raw in (("avro", "avro"), ("table", "warehouse/raw.db/people")):
    etl(find(f"{folder}/{name}_recipe"), f"{folder}/{raw}", f"{folder}/{name}_dataset", Console())
"""


def test_avro_files_and_a_hive_table(tmp_path: Path) -> None:
    write_recipe(tmp_path / "avro_recipe", RECIPE.format(read="avro", arguments=""))
    write_recipe(tmp_path / "table_recipe", RECIPE.format(read="table", arguments='"raw.people", '))
    (tmp_path / "job.py").write_text(SCRIPT)
    settings = {
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": f"{tmp_path}/warehouse",
        "spark.hadoop.javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={tmp_path}/metastore;create=true",
        "spark.driver.host": HOST,
    }
    line = [Path(sys.executable).with_name("spark-submit"), "--master", "local[2]"]
    line += ["--packages", AVRO]
    line += [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": HOST}
    done = subprocess.run(
        [*map(str, line), str(tmp_path / "job.py"), str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("avro", "table"):
        card, faults = verify(str(tmp_path / f"{name}_dataset"), Console())
        assert not faults
        assert card.counts == {"raw": 100, "quarantined": 10, "clean": 90, "duplicates": 0, "built": 90}
        clean = cards.find(str(tmp_path / f"{name}_dataset" / "clean"), card.lineage["clean"][0])
        assert isinstance(clean, CleanCard)
        assert clean.rules["malformed"] == 10
