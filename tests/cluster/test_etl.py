"""ETL from HDFS to HDFS gives the version, the rows, their order and the digests that it gives on local files, whoever
runs it; and a model learns from it what it learns from local files.

What is submitted runs in an environment of the ETL side alone, and on the executors with the code of the archive alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import dist, submit
from cluster.__main__ import Cluster
from etl.run import etl
from penstock import card as cards
from penstock import cli, store
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.recipe import find
from tests.cluster.conftest import RAW, check_rows, environment, put
from tests.conftest import SHARED_DATA

INVOICES = SHARED_DATA / "online_retail" / "online_retail_by_day_full.tar.gz"
DAYS = ("2010-12-01", "2011-01-16", "2011-05-18", "2011-06-12", "2011-08-12", "2011-11-23")  # two refused rows


@dataclass(frozen=True)
class Source:
    """A recipe's raw data on HDFS, and the dataset that a local Spark made of the same files on a local disk."""

    recipe: str
    url: str
    local: Path


@pytest.fixture(scope="session")
def source(hdfs: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    @cache
    def source(name: str) -> Source:
        folder, recipe = tmp_path_factory.mktemp("local"), name.partition(",")[0]
        raw_files(name, folder / "raw")
        etl(find(recipe), str(folder / "raw"), str(folder / "dataset"), Console())
        return Source(recipe, put(folder / "raw", f"{hdfs.hdfs_url}/raw/{name.replace(', ', '-')}"), folder / "dataset")

    return source


def raw_files(name: str, folder: Path) -> None:
    """Puts them there. Skips the test where this machine has none."""
    folder.mkdir()
    if name == "digits":
        shutil.copy(RAW, folder)
    elif not SHARED_DATA.is_dir():
        pytest.skip(f"the raw data of {name} is not on this machine (expected in ../shared/data)")
    elif name == "mnist":
        for file in (SHARED_DATA / "mnist").glob("*-ubyte.gz"):
            shutil.copy(file, folder)
    else:
        with tarfile.open(INVOICES) as archive:
            for member in archive:
                day = Path(member.name).stem
                if member.isfile() and (day in DAYS or name == "online_retail, whole"):
                    member.name = Path(member.name).name
                    archive.extract(member, folder)


@pytest.fixture(scope="session")
def built(
    whole: Cluster,
    source: Callable[[str], Source],
    etl_python: Path,
    archive: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], str]:
    """The dataset on HDFS that `spark-submit` made of a recipe's raw data there."""

    @cache
    def built(where: str, name: str) -> str:
        raw, (master, mode) = source(name), where.split()
        out = f"{whole.hdfs_url}/user/tester/{master}-{mode}/{name.replace(', ', '-')}"
        asked = [raw.recipe, "--raw", raw.url, "--out", out]
        done = subprocess.run(
            submit.command(whole, etl_python, archive, master, mode, asked),
            env=submit.environment(whole, etl_python),
            cwd=tmp_path_factory.mktemp("submit"),  # with none of our code
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return out

    return built


@pytest.mark.parametrize(
    "name", ["digits", *(pytest.param(name, marks=pytest.mark.soak) for name in ("mnist", "online_retail"))]
)
def test_hdfs_to_hdfs(name: str, hdfs: Cluster, source: Callable[[str], Source]) -> None:
    raw, out = source(name), f"{hdfs.hdfs_url}/user/tester/local-spark/{name}"
    etl(find(raw.recipe), raw.url, out, Console())
    check(out, raw.local)
    assert etl(find(raw.recipe), raw.url, out, Console()).reused


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("yarn cluster", "digits"),
        ("standalone client", "online_retail"),
        pytest.param("yarn client", "digits", marks=pytest.mark.soak),
        pytest.param("yarn cluster", "mnist", marks=pytest.mark.soak),
        pytest.param("standalone client", "digits", marks=pytest.mark.soak),
        pytest.param("standalone client", "mnist", marks=pytest.mark.soak),
        pytest.param("yarn cluster", "online_retail", marks=pytest.mark.soak),
        pytest.param("yarn cluster", "online_retail, whole", marks=pytest.mark.soak),
        pytest.param("standalone client", "online_retail, whole", marks=pytest.mark.soak),
    ],
)
def test_spark_submit(where: str, name: str, source: Callable[[str], Source], built: Callable[[str, str], str]) -> None:
    check(built(where, name), source(name).local)


def test_lines_of_a_driver_on_yarn_are_objects_that_say_which_application(
    whole: Cluster, built: Callable[[str, str], str]
) -> None:
    out = built("yarn cluster", "digits")
    version, application = cards.load(out).version, cards.load(out).lineage["application"]
    (container,) = (whole.folder / "data" / "nodemanager" / "logs" / application).glob("container_*_000001")
    # spark-submit puts both of Python's streams there; standard error is the JVM's.
    ours = [json.loads(line) for line in (container / "stdout").read_text().splitlines()]
    about = {(line["recipe"], line["version"], line["application"]) for line in ours if "application" in line}
    assert about == {("digits", version, application)}
    assert ours[-1]["message"] == "done"


@pytest.mark.soak
def test_a_model_learns_from_hdfs_what_it_learns_from_local_files(
    source: Callable[[str], Source], built: Callable[[str, str], str], tmp_path: Path
) -> None:
    found = []
    for data in (str(source("mnist").local), built("yarn cluster", "mnist")):
        run, predictions = tmp_path / str(len(found)), tmp_path / f"{len(found)}.parquet"
        asked = ["train", "mnist", "--data", data, "--out", str(run), "--model", "mlp", "--epochs", "1"]
        assert cli.main(asked) == 0
        asked = ["predict", str(run), "--data", data, "--split", "test", "--out", str(predictions)]
        assert cli.main(asked) == 0
        found.append(((run / "metrics.jsonl").read_bytes(), pq.read_table(predictions)))
    (local, local_rows), (far, far_rows) = found
    assert local_rows.num_rows == 10_000
    assert (far, far_rows) == (local, local_rows)


def check(out: str, local: Path) -> None:
    """The version at `out` is whole and is the local one: each file byte for byte, and what was refused."""
    expected = cards.load(str(local))
    card = check_rows(out, expected)
    assert card.manifest.sha256 == expected.manifest.sha256  # it holds the SHA-256 of each file
    assert refused(out, card) == refused(f"file://{local}", expected)


def refused(out: str, card: Card) -> tuple[dict[str, int], list[dict[str, object]]]:
    """How many rows broke each rule, and the rows that quarantine keeps."""
    clean = cards.find(f"{out}/clean", card.lineage["clean"][0])
    assert isinstance(clean, CleanCard)
    rows = []
    if clean.quarantine:
        folder = f"{out}/{clean.quarantine}"
        for name in store.file_names(folder):
            rows += pq.read_table(pa.BufferReader(store.read_bytes(f"{folder}/{name}"))).to_pylist()
    return dict(clean.rules), sorted(rows, key=lambda row: (row["file"], row["line"]))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dist.write(tmp_path_factory.mktemp("dist") / "penstock.zip")


@pytest.fixture(scope="session")
def etl_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment made from requirements/etl.lock: Spark, no torch, and no code of ours."""
    python = environment(tmp_path_factory.mktemp("etl") / "venv", "etl")
    assert "torch" not in {path.name for path in python.parent.parent.glob("lib/*/site-packages/*")}
    return python
