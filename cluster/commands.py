"""The daemons' command lines: those that `python -m cluster up` starts on one machine, and containers run one by one.

    python -m cluster.commands namenode | datanode | master | worker

becomes that daemon, with the addresses that conf/ has by default; Spark's own variables (SPARK_WORKER_CORES, …) set
the rest. docker-compose.yml does this. `worker` asks for SPARK_MASTER_URL. `fetch` only gets the jars.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyspark

from cluster import jars
from etl import java

CONF = Path(__file__).resolve().parent / "conf"
SPARK_HOME = Path(pyspark.__file__).parent
# Small, and at work soon: these live for minutes, on a laptop.
HADOOP_JAVA = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true")
HADOOP = {
    "namenode": "hdfs.server.namenode.NameNode",
    "datanode": "hdfs.server.datanode.DataNode",
    "resourcemanager": "yarn.server.resourcemanager.ResourceManager",
    "nodemanager": "yarn.server.nodemanager.NodeManager",
}
SPARK = {"master": "master.Master", "worker": "worker.Worker"}


def hadoop(kind: str, class_path: Sequence[Path], tmp: Path) -> list[str]:
    own = (f"-Djava.io.tmpdir={tmp}", "-cp", ":".join(map(str, [CONF, *class_path])))
    return [str(java.find().home / "bin" / "java"), *HADOOP_JAVA, *own, f"org.apache.hadoop.{HADOOP[kind]}"]


def spark(kind: str, host: str, *arguments: object) -> list[str]:
    line = [SPARK_HOME / "bin" / "spark-class", f"org.apache.spark.deploy.{SPARK[kind]}", "--host", host, *arguments]
    return list(map(str, line))


def spark_environment() -> dict[str, str]:
    """What Spark's scripts ask for."""
    return {
        "SPARK_HOME": str(SPARK_HOME),
        "JAVA_HOME": str(java.WRAPPER_HOME),
        "PENSTOCK_JAVA_HOME": str(java.find().home),
        "PYSPARK_PYTHON": sys.executable,
    }


def become(kind: str) -> None:
    """Replaces this process by the daemon; a NameNode without data is formatted before."""
    data, host = Path(os.environ.get("CLUSTER_DATA", "/data")), os.environ.get("SPARK_LOCAL_IP", socket.gethostname())
    (data / "tmp").mkdir(parents=True, exist_ok=True)
    if kind in HADOOP:
        line = hadoop(kind, jars.fetch(), data / "tmp")
        if kind == "namenode" and not (data / "namenode" / "current" / "VERSION").exists():
            subprocess.run([*line, "-format", "-nonInteractive"], check=True)
    else:
        line = spark(kind, host, *([os.environ["SPARK_MASTER_URL"], "-d", data] if kind == "worker" else []))
    os.execve(line[0], line, {**os.environ, **spark_environment()})


if __name__ == "__main__":
    if sys.argv[1:] == ["fetch"]:
        jars.fetch()
    elif len(sys.argv) == 2 and sys.argv[1] in (*HADOOP, *SPARK):
        become(sys.argv[1])
    else:
        sys.exit(f"python -m cluster.commands: expected one of {', '.join((*HADOOP, *SPARK))}, or fetch")
