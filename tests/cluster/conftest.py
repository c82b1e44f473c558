"""One real cluster for all tests of this folder: `make test-cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.__main__ import Cluster, down, up
from penstock import store
from penstock.console import Console


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


def put(folder: Path, url: str) -> str:
    """Copies a local folder to HDFS, by the driver that the trainer reads with."""
    for file in folder.rglob("*"):
        if file.is_file():
            store.write(f"{url}/{file.relative_to(folder)}", memoryview(file.read_bytes()))
    return url
