"""Pipelines whose ETL runs on the real cluster: mnist by YARN, a web shop's customers by standalone Spark."""

from __future__ import annotations

import gzip
import json
import struct
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster import dist
from cluster.__main__ import Cluster
from penstock import card as cards
from penstock import store
from penstock.card import Card
from penstock.console import Console
from penstock.released import released
from penstock.verify import verify
from tests.cluster.conftest import hdfs, whole  # noqa: F401
from tests.conftest import SHARED_DATA
from tests.dags.conftest import Site, site, wait_for

MNIST, INVOICES = SHARED_DATA / "mnist", SHARED_DATA / "online_retail" / "online_retail_by_day_full.tar.gz"
EVERY = 5  # one day of so many: the customers' 90 days need the whole year
SETTINGS = """
[defaults]
spark_options = {{archives = "{archive}#penstock", executor_memory = "1g", driver_memory = "1g", num_executors = 1, \
env_vars = {{PYSPARK_PYTHON = "$PENSTOCK_PYTHON", HADOOP_CONF_DIR = "{conf}", SPARK_LOCAL_IP = "127.0.0.1"}}, \
conf = {{"spark.executorEnv.PYTHONPATH" = "penstock", \
"spark.yarn.appMasterEnv.PYTHONPATH" = "penstock", "spark.executorEnv.SPARK_LOCAL_IP" = "127.0.0.1"}}}}
retry_seconds = 1
launcher = {{penstock = "$PENSTOCK_COMMAND"}}
train = ["--epochs", "1"]
limits = {{max_stall = 1.0}}

[pipelines.mnist]
recipe = "mnist"
spark = "spark_yarn"
spark_options = {{yarn_track_via_rm_api = true}}
raw = "{hdfs}/raw/mnist"
dataset = "{hdfs}/datasets/mnist"
runs = "{out}/mnist/runs"
releases = "{hdfs}/releases/mnist"
predictions = "{hdfs}/predictions/mnist"

[pipelines.retail]
recipe = "online_retail_customers"
spark = "spark_standalone"
raw = "{hdfs}/raw/retail"
dataset = "{hdfs}/datasets/retail"
runs = "{hdfs}/runs/retail"
releases = "{hdfs}/releases/retail"
predictions = "{hdfs}/predictions/retail"
"""


@pytest.fixture(scope="module")
def cluster(whole: Cluster) -> Cluster:  # noqa: F811
    if not SHARED_DATA.is_dir():
        pytest.skip("the raw data of mnist and online_retail is not on this machine (expected in ../shared/data)")
    put_pictures(whole, {"train": 3000, "t10k": 500})
    put_days(whole, 0)
    return whole


def put_pictures(cluster: Cluster, counts: Mapping[str, int]) -> None:
    for file in MNIST.glob("*-ubyte.gz"):
        content = _first(counts[file.name.partition("-")[0]], file)
        store.write(f"{cluster.hdfs_url}/raw/mnist/{file.name}", memoryview(content))


def put_days(cluster: Cluster, first: int) -> None:
    with tarfile.open(INVOICES) as archive:
        days = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        for day in days[first::EVERY]:
            content = archive.extractfile(day)
            assert content is not None
            store.write(f"{cluster.hdfs_url}/raw/retail/{Path(day.name).name}", memoryview(content.read()))


def _first(count: int, file: Path) -> bytes:
    """An idx file of its first pictures or labels."""
    content = gzip.decompress(file.read_bytes())
    dimensions = content[3]
    start = 4 + 4 * dimensions
    sizes = struct.unpack(f">{dimensions}I", content[4:start])
    size = (len(content) - start) // sizes[0]
    return gzip.compress(
        content[:4] + struct.pack(">I", count) + content[8:start] + content[start : start + count * size]
    )


@pytest.fixture(scope="module")
def airflow(cluster: Cluster, airflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("airflow")
    archive, out = dist.write(home / "penstock.zip"), tmp_path_factory.mktemp("out")
    manager = f"http://127.0.0.1:{cluster.ports['rm_http']}"
    extra = {"deploy-mode": "cluster", "yarn_resourcemanager_webapp_address": manager}
    connections = {
        "SPARK_YARN": {"conn_type": "spark", "host": "yarn", "extra": extra},
        "SPARK_STANDALONE": {"conn_type": "spark", "host": cluster.spark_url, "extra": {"deploy-mode": "client"}},
    }
    environment = {f"AIRFLOW_CONN_{name}": json.dumps(said) for name, said in connections.items()}
    settings = SETTINGS.format(archive=archive, conf=cluster.conf, hdfs=cluster.hdfs_url, out=out)
    with site(home, settings, HADOOP_CONF_DIR=str(cluster.conf), **environment) as running:
        yield running


@pytest.mark.parametrize("name", ["mnist", pytest.param("retail", marks=pytest.mark.soak)])
def test_from_raw_files_on_hdfs_to_predictions(name: str, airflow: Site, cluster: Cluster) -> None:
    tasks = airflow.ended(f"{name}_etl", airflow.trigger(f"{name}_etl"))
    assert {task["state"] for task in tasks.values()} == {"success"}
    (run,) = airflow.trained(name)
    assert run["state"] == "success", airflow.tasks(f"{name}_train", run["dag_run_id"])
    dataset = f"{cluster.hdfs_url}/datasets/{name}"
    (card,) = (card for card in cards.versions(dataset) if isinstance(card, Card))
    assert verify(dataset, Console())[1] == []
    switch = released(f"{cluster.hdfs_url}/releases/{name}")
    assert switch is not None
    assert switch.dataset_version == card.version
    assert store.exists(f"{cluster.hdfs_url}/predictions/{name}/{card.version}.parquet")


@pytest.mark.parametrize("name", ["mnist", pytest.param("retail", marks=pytest.mark.soak)])
def test_a_task_that_is_killed_takes_its_application_along(name: str, airflow: Site, cluster: Cluster) -> None:
    if name == "mnist":  # other raw data: a version that is not there yet
        put_pictures(cluster, {"train": 4000, "t10k": 500})
    else:
        put_days(cluster, 1)
    before, dag = _applications(cluster), f"{name}_etl"
    run = airflow.trigger(dag)
    wait_for(lambda: bool(_running(cluster) - before.keys()), "an application")
    (application,) = _running(cluster) - before.keys()
    airflow.api("PATCH", f"dags/{dag}/dagRuns/{run}/taskInstances/etl", {"new_state": "failed"})
    wait_for(lambda: application not in _running(cluster), "the application's end", 60)
    assert "SUCCEEDED" not in _applications(cluster)[application]
    versions = cards.versions(f"{cluster.hdfs_url}/datasets/{name}")
    assert all(verify(f"{cluster.hdfs_url}/datasets/{name}", Console(), card.version)[1] == [] for card in versions)


def _running(cluster: Cluster) -> set[str]:
    return {name for name, state in _applications(cluster).items() if state in ("RUNNING", "ACCEPTED", "WAITING")}


def _applications(cluster: Cluster) -> dict[str, str]:
    """Of YARN and of standalone Spark: id -> state, and how it ended."""
    manager = _get(f"http://127.0.0.1:{cluster.ports['rm_http']}/ws/v1/cluster/apps")["apps"] or {"app": []}
    master = _get(f"http://127.0.0.1:{cluster.ports['master_http']}/json/")
    found = {
        app["id"]: app["state"] + (app["finalStatus"] if app["state"] == "FINISHED" else "") for app in manager["app"]
    }
    return found | {app["id"]: app["state"] for app in master["activeapps"] + master["completedapps"]}


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)
