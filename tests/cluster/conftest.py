"""One real cluster for all tests of this folder: `make test-cluster`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sklearn.datasets

from cluster import daemons
from cluster.__main__ import SERVICES, Cluster, down, load, up
from penstock import store
from penstock.card import Card
from penstock.console import Console
from penstock.verify import verify

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(
    os.environ.get("KILLS", "2")
)  # of each kind in `make soak`, half a minute each; ten and more before a release
RAW = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
# Of faults that come at drawn moments: one in `make test-cluster`, many in `make soak`.
DRAWN = pytest.mark.parametrize(
    ("times", "seed"),
    [
        pytest.param(1, 1, id="once"),
        pytest.param(KILLS, 2, id=f"{KILLS}-times-seed-2", marks=pytest.mark.soak),
    ],
)


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


def put(folder: Path, url: str) -> str:
    """Copies a local folder to HDFS, by the driver that the trainer reads with."""
    for file in folder.rglob("*"):
        if file.is_file():
            store.write(f"{url}/{file.relative_to(folder)}", memoryview(file.read_bytes()))
    return url


def send(signum: signal.Signals, cluster: Cluster, *names: str) -> None:
    """A signal to daemons, which may have been started again since `cluster` was described."""
    for name in names:
        os.kill(load(cluster.folder).processes[name].pid, signum)


def resume(cluster: Cluster, *names: str) -> None:
    send(signal.SIGCONT, cluster, *names)


@contextmanager
def stopped(cluster: Cluster, *names: str) -> Iterator[None]:
    send(signal.SIGSTOP, cluster, *names)
    try:
        yield
    finally:
        resume(cluster, *names)


@contextmanager
def killed(cluster: Cluster, *names: str) -> Iterator[None]:
    """SIGKILL; afterwards the daemons are started again."""
    send(signal.SIGKILL, cluster, *names)
    daemons.stop([load(cluster.folder).processes[name] for name in names])
    try:
        yield
    finally:
        up(cluster.folder, ["hdfs"], Console())


def blocks(cluster: Cluster, datanode: str) -> set[Path]:
    """The files of the blocks that a DataNode has."""
    return set((cluster.folder / "data" / datanode).rglob("blk_*[0-9]"))


def corrupt(files: Collection[Path]) -> None:
    """Changes the byte in the middle of each."""
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)


def environment(folder: Path, side: str) -> Path:
    """The Python of an environment made from a lock file, with no code of ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python, uv = folder / "bin" / "python", Path(sys.executable).with_name("uv")
    install = [uv, "--system-certs", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", python]
    subprocess.run([*install, "-r", ROOT / "requirements" / f"{side}.lock"], check=True, timeout=600)
    found = subprocess.run([python, "-I", "-c", "import penstock"], capture_output=True, text=True)
    assert "No module named 'penstock'" in found.stderr
    return python


def check_rows(out: str, expected: Card) -> Card:
    """The version at `out` is whole, and has the name, counts and digests of the card."""
    card, faults = verify(out, Console())
    assert not faults
    assert (card.version, card.counts, card.splits) == (expected.version, expected.counts, expected.splits)
    return card
