"""One real cluster for all tests of this folder: `make test-cluster`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sklearn.datasets

from cluster.__main__ import SERVICES, Cluster, down, up
from etl.run import etl
from penstock import store
from penstock.card import Card
from penstock.console import Console
from penstock.recipe import find

ROOT = Path(__file__).resolve().parents[2]
RAW = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A NameNode and two DataNodes."""
    folder = tmp_path_factory.mktemp("cluster")
    try:
        yield up(folder, ["hdfs"], Console())
    finally:
        down(folder)


@pytest.fixture(scope="session")
def whole(hdfs: Cluster) -> Cluster:
    """With YARN and standalone Spark."""
    return up(hdfs.folder, SERVICES, Console())


@pytest.fixture(scope="session")
def raw(hdfs: Cluster) -> str:
    """The digits' csv file on HDFS."""
    url = f"{hdfs.hdfs_url}/raw/digits.csv.gz"
    store.write(url, memoryview(RAW.read_bytes()))
    return url


@pytest.fixture(scope="session")
def local_card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """Of the digits, made by a local Spark of local files."""
    return etl(find("digits"), str(RAW), str(tmp_path_factory.mktemp("local") / "dataset"), Console()).card


def put(folder: Path, url: str) -> str:
    """Copies a local folder to HDFS, by the driver that the trainer reads with."""
    for file in folder.rglob("*"):
        if file.is_file():
            store.write(f"{url}/{file.relative_to(folder)}", memoryview(file.read_bytes()))
    return url


def environment(folder: Path, side: str) -> Path:
    """The Python of an environment made from a lock file, with no code of ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python, uv = folder / "bin" / "python", Path(sys.executable).with_name("uv")
    install = [uv, "--system-certs", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", python]
    subprocess.run([*install, "-r", ROOT / "requirements" / f"{side}.lock"], check=True, timeout=600)
    found = subprocess.run([python, "-I", "-c", "import penstock"], capture_output=True, text=True)
    assert "No module named 'penstock'" in found.stderr
    return python
