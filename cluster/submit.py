"""`spark-submit etl/run.py …` on a cluster of this machine, as docs/operations.md says it for any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cluster.__main__ import HOST, Cluster
from cluster.dist import ROOT

SIZES = ("--driver-memory", "1g", "--executor-memory", "1g", "--num-executors", "2")


def command(
    cluster: Cluster,
    python: Path,
    archive: Path,
    master: str,
    mode: str,
    arguments: Sequence[object],
    sizes: Sequence[str] = SIZES,
) -> list[str]:
    """The command line, for `environment`. `master` is yarn, standalone, or what Spark itself calls one."""
    settings = {
        "spark.executorEnv.PYTHONPATH": "penstock",
        "spark.yarn.appMasterEnv.PYTHONPATH": "penstock",
        "spark.yarn.appMasterEnv.PYSPARK_PYTHON": str(python),
        "spark.yarn.appMasterEnv.PENSTOCK_LOG": "json",
        "spark.log.structuredLogging.enabled": "true",
        # All of it is on one machine:
        "spark.yarn.appMasterEnv.SPARK_LOCAL_IP": HOST,
        "spark.executorEnv.SPARK_LOCAL_IP": HOST,
        **({"spark.driver.host": HOST} if mode == "client" else {}),
    }
    line: list[object] = [python.with_name("spark-submit"), "--deploy-mode", mode, *sizes]
    line += ["--archives", f"{archive}#penstock", "--master", cluster.spark_url if master == "standalone" else master]
    line += [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    return list(map(str, [*line, ROOT / "etl" / "run.py", *arguments]))


def environment(cluster: Cluster, python: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = {"HADOOP_CONF_DIR": str(cluster.conf), "PYSPARK_PYTHON": str(python), "PENSTOCK_LOG": "json"}
    return inherited | told | {"SPARK_LOCAL_IP": HOST}
