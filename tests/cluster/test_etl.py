"""ETL from HDFS to HDFS gives the version, the rows and the digests that it gives on local files, whoever runs it.

What is submitted runs in an environment of the ETL side alone, and on the executors with the code of the archive alone.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cluster import dist
from cluster.__main__ import HOST, Cluster
from etl.run import etl
from penstock.card import Card
from penstock.console import Console
from penstock.recipe import find
from penstock.verify import verify
from tests.cluster.conftest import ROOT, environment

SIZES = ("--driver-memory", "1g", "--executor-memory", "1g", "--num-executors", "2")


def test_hdfs_to_hdfs(hdfs: Cluster, raw: str, local_card: Card) -> None:
    out = f"{hdfs.hdfs_url}/user/tester/local-spark"
    etl(find("digits"), raw, out, Console())
    check(out, local_card)
    assert etl(find("digits"), raw, out, Console()).reused


@pytest.mark.parametrize("where", ["yarn cluster", "yarn client", "standalone client"])
def test_spark_submit(
    where: str, whole: Cluster, raw: str, local_card: Card, etl_python: Path, archive: Path, tmp_path: Path
) -> None:
    master, mode = where.split()
    out = f"{whole.hdfs_url}/user/tester/{master}-{mode}"
    submit(whole, etl_python, archive, master, mode, raw, out, tmp_path)
    check(out, local_card)


def submit(
    cluster: Cluster, python: Path, archive: Path, master: str, mode: str, raw: str, out: str, folder: Path
) -> None:
    """As docs/operations.md says."""
    settings = {
        "spark.executorEnv.PYTHONPATH": "penstock",
        "spark.yarn.appMasterEnv.PYTHONPATH": "penstock",
        "spark.yarn.appMasterEnv.PYSPARK_PYTHON": str(python),
        # The cluster of the tests is on one machine:
        "spark.yarn.appMasterEnv.SPARK_LOCAL_IP": HOST,
        "spark.executorEnv.SPARK_LOCAL_IP": HOST,
        **({"spark.driver.host": HOST} if mode == "client" else {}),
    }
    line = [python.with_name("spark-submit"), "--deploy-mode", mode, *SIZES, "--archives", f"{archive}#penstock"]
    line += ["--master", cluster.spark_url if master == "standalone" else "yarn"]
    line += [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    line += [ROOT / "etl" / "run.py", "digits", "--raw", raw, "--out", out]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HADOOP_CONF_DIR": str(cluster.conf), "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": HOST}
    done = subprocess.run(
        list(map(str, line)), env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def check(out: str, expected: Card) -> None:
    """The version at `out` is whole, and has the name, counts and digests of the card."""
    card, faults = verify(out, Console())
    assert not faults
    assert (card.version, card.counts, card.splits) == (expected.version, expected.counts, expected.splits)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dist.write(tmp_path_factory.mktemp("dist") / "penstock.zip")


@pytest.fixture(scope="session")
def etl_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made from requirements/etl.lock: Spark, no torch, and no code of ours."""
    python = environment(tmp_path_factory.mktemp("etl") / "venv", "etl")
    assert "torch" not in {path.name for path in python.parent.parent.glob("lib/*/site-packages/*")}
    return python
