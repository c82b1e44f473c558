"""What docker-compose.yml starts in containers, as processes on 127.0.0.1: HDFS takes a file, Spark has a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.daemons import free_port
from penstock import store
from tests.cluster.compose import ROOT, services

HOST = "127.0.0.1"
UP_S = 90.0


@contextmanager
def running(name: str, folder: Path, **addresses: str) -> Iterator[None]:
    """A service's command with its environment, but for the addresses and the place of its data."""
    service, data = services()[name], folder / name
    told = {**service.get("environment", {}), **addresses, "CLUSTER_DATA": str(data), "SPARK_LOCAL_IP": HOST}
    told = {key: value for key, value in told.items() if not value.startswith("${") and key != "HADOOP_CONF_DIR"}
    command = [sys.executable, *service["command"][1:]]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | told, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def answer(name: str, port: int) -> Any:
    """That of the address which the service's health check asks for."""
    path = services()[name]["healthcheck"]["test"][-1].split("localhost:")[1].split("/", 1)[1].split("'")[0]
    until = time.monotonic() + UP_S
    while True:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/{path}", timeout=5) as found:
                return json.load(found)
        except OSError:
            assert time.monotonic() < until, f"{name} is not up"
            time.sleep(0.3)


def test_hdfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_CONF_DIR", str(ROOT / "cluster" / "conf"))  # as in the containers that write
    ports = {name: free_port() for name in ("NAMENODE", "NAMENODE_HTTP")}
    addresses = {name: f"{HOST}:{port}" for name, port in ports.items()} | {"BIND": HOST}
    addresses |= dict.fromkeys(("DATANODE_BIND", "DATANODE_HTTP", "DATANODE_IPC"), f"{HOST}:0")
    with running("namenode", tmp_path, **addresses):
        answer("namenode", ports["NAMENODE_HTTP"])
        with running("datanode-0", tmp_path, **addresses):
            until = time.monotonic() + UP_S
            while not (nodes := live(ports["NAMENODE_HTTP"])):
                assert time.monotonic() < until
                time.sleep(0.3)
            answer("datanode-0", int(nodes.popitem()[1]["infoAddr"].split(":")[1]))
            url = f"hdfs://{addresses['NAMENODE']}/file"
            store.write(url, memoryview(b"kept"))
            assert store.read_bytes(url) == b"kept"


def live(port: int) -> Any:
    query = "Hadoop:service=NameNode,name=NameNodeInfo"
    with urllib.request.urlopen(f"http://{HOST}:{port}/jmx?qry={query}", timeout=5) as found:
        beans = json.load(found)["beans"]  # none while the NameNode starts
    return json.loads(beans[0]["LiveNodes"]) if beans else {}


def test_spark(tmp_path: Path) -> None:
    port, master_http, worker_http = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        told = {"SPARK_MASTER_PORT": str(port), "SPARK_MASTER_WEBUI_PORT": str(master_http)}
        stack.enter_context(running("master", tmp_path, **told))
        answer("master", master_http)
        told = {"SPARK_MASTER_URL": f"spark://{HOST}:{port}", "SPARK_WORKER_WEBUI_PORT": str(worker_http)}
        stack.enter_context(running("worker-0", tmp_path, **told))
        answer("worker-0", worker_http)
        until = time.monotonic() + UP_S
        while answer("master", master_http)["aliveworkers"] != 1:
            assert time.monotonic() < until
            time.sleep(0.3)
