"""Training and predicting on HDFS alone, in an environment of the training side: no Spark, no JVM, no local copy."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.__main__ import Cluster
from etl.run import etl
from penstock import card as cards
from penstock import cli, store
from penstock.console import Console
from penstock.recipe import find
from penstock.released import released
from tests.cluster.conftest import DRAWN, RAW, ROOT, check_rows, environment, killed, put
from tests.train.far_runs import check_kills, fetched, start, steps, until
from tests.train.processes import Place, assert_same

TWO = ("--nproc-per-node", "2")
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def train_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("train") / "venv", "train")
    assert "pyspark" not in {path.name for path in python.parent.parent.glob("lib/*/site-packages/*")}
    return python


@pytest.fixture
def run(train_python: Path, tmp_path: Path) -> Run:
    """Runs a module there, where no java is on PATH, and none where JAVA_HOME says."""
    plain = {"PATH": "/nowhere", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}

    def run(*arguments: object) -> dict[str, Any]:
        line = list(map(str, [train_python, "-m", *arguments, "--json"]))
        done = subprocess.run(line, env=plain, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout))

    return run


def idx_files(folder: Path) -> Path:
    """A small MNIST in its own format: its four files, gzipped as they are served."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for part, count in (("train", 600), ("t10k", 200)):
        images, labels = draw.integers(0, 256, (count, 28, 28)), draw.integers(0, 10, count)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            content = gzip.compress(header + values.astype(np.uint8).tobytes())
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(content)
    return folder


@pytest.mark.parametrize("recipe", ["digits", pytest.param("mnist", marks=pytest.mark.soak)])
def test_a_run_on_hdfs_is_that_of_a_local_folder(
    recipe: str, hdfs: Cluster, raw: str, run: Run, tmp_path: Path
) -> None:
    """Dataset, run and predictions lie on HDFS."""
    if recipe == "mnist":
        raw = put(idx_files(tmp_path / "raw"), f"{hdfs.hdfs_url}/raw/mnist")
    data = f"{hdfs.hdfs_url}/user/tester/{recipe}"
    built = etl(find(recipe), raw, data, Console())
    url = f"{data}-runs/1"
    reports = [run("train.run", recipe, "--data", data, "--out", out, "--epochs", 2) for out in (url, tmp_path / "run")]
    assert reports[0]["test"] == reports[1]["test"]
    assert reports[0]["test_rows"] == built.card.splits["test"].rows
    assert_same(tmp_path / "run", fetched(url, tmp_path / "there"))
    for folder, out in ((url, f"{url}/test.parquet"), (tmp_path / "run", tmp_path / "test.parquet")):
        run("train.predict", folder, "--data", data, "--split", "test", "--out", out)
    store.get(f"{url}/test.parquet", tmp_path / "there.parquet")
    assert pq.read_table(tmp_path / "there.parquet").equals(pq.read_table(tmp_path / "test.parquet"))
    exported = run("train.export", url, "--to", "torch")
    assert exported["rows_compared"] > 0
    assert store.exists(f"{url}/model.pt2")


def test_raw_files_to_a_release_on_hdfs(hdfs: Cluster, raw: str) -> None:
    """`penstock run` twice, the first run released, the second one, of the same bits, too."""
    out = f"{hdfs.hdfs_url}/user/tester/way"
    releases = ["--to", f"{out}/releases"]
    for number in ("1", "2"):
        assert cli.main(["run", "digits", "--raw", raw, "--out", out, "--epochs", "1"]) == 0
        assert cli.main(["release", f"{out}/runs/{number}", *releases, "--max-stall", "1"]) == 0
    told = json.loads(store.read_bytes(f"{out}/releases/released.json"))
    assert (told["number"], told["run"], told["dataset"]) == (2, f"{out}/runs/2", f"{out}/dataset")
    assert told["comparison"]["figures"]["loss"]["difference"]["value"] == 0
    assert cli.main(["rollback", *releases]) == 0
    now = released(f"{out}/releases")
    assert now is not None
    assert now.run == f"{out}/runs/1"


# Runs that are killed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.made(tmp_path_factory.mktemp("runs"))
    place.finish("whole")
    return place


def test_a_killed_run_goes_on_from_hdfs_on_another_machine(hdfs: Cluster, place: Place, tmp_path: Path) -> None:
    url = f"{hdfs.hdfs_url}/user/tester/runs/killed"
    check_kills(place, url, tmp_path)
    assert_same(place.folder / "whole", fetched(url, tmp_path / "there"))


@DRAWN
def test_a_datanode_that_dies_under_checkpoints_costs_nothing(
    hdfs: Cluster, place: Place, tmp_path: Path, times: int, seed: int
) -> None:
    """Each time of another run, from when its first checkpoint is being copied on; the run ends without it."""
    rng, large = random.Random(seed), {"WIDTH": "1000", "PATIENCE_S": "60"}  # checkpoints of 20 MB
    place.finish(f"large-{seed}", **large)
    for i in range(times):
        url = f"{hdfs.hdfs_url}/user/tester/runs/datanode-{seed}-{i}"
        started = start(place, url, tmp_path / str(i), SLEEP_STEPS="0.1", **large)
        until(started, lambda url=url: [name for name in store.file_names(url) if ".coming" in name])
        time.sleep(rng.uniform(0, 3))
        with killed(hdfs, f"datanode-{rng.randrange(2)}"):
            code, said = started.end()
        assert code == 0, said
        assert not [name for name in store.file_names(url) if "/." in f"/{name}"]
        assert_same(place.folder / f"large-{seed}", fetched(url, tmp_path / f"{i}-there"))


def test_two_ranks_that_are_asked_to_end_have_saved_on_hdfs(hdfs: Cluster, place: Place, tmp_path: Path) -> None:
    url = f"{hdfs.hdfs_url}/user/tester/runs/two-there"
    place.finish("two", *TWO)
    # the ranks are `train.run` itself, which looks every 5 s
    started = start(place, url, tmp_path / "one", *TWO, SLEEP_STEPS="0.1")
    code, said = started.stop(signal.SIGTERM)
    assert code == 75, said
    there = fetched(url, tmp_path / "stopped")
    assert json.loads((there / "status.json").read_text())["state"] == "preempted"
    stopped_after = int(said.partition("stopped after step ")[2].partition(";")[0])
    assert steps(url)[-1] == f"checkpoints/step-{stopped_after:08d}.pt"
    code, said = start(place, url, tmp_path / "other", *TWO).end()
    assert code == 0, said
    assert f"Going on after step {stopped_after}" in said
    assert_same(place.folder / "two", fetched(url, tmp_path / "there"))


def test_an_hdfs_that_is_gone_ends_the_run_which_goes_on_later(hdfs: Cluster, place: Place, tmp_path: Path) -> None:
    url = f"{hdfs.hdfs_url}/user/tester/runs/gone"
    started = start(place, url, tmp_path / "one", SLEEP_STEPS="0.5")
    until(started, lambda: steps(url))
    with killed(hdfs, "namenode"):
        code, said = started.end()
    assert code == 1, said
    assert said.splitlines()[-1].startswith(f"error: {url}: nothing could be written for 5 s")
    assert "start the same command again" in said.splitlines()[-1]
    assert "Traceback" not in said
    code, said = start(place, url, tmp_path / "one").end()
    assert code == 0, said
    assert "Going on after step" in said
    assert_same(place.folder / "whole", fetched(url, tmp_path / "there"))


# `penstock run`

PENSTOCK = """
import sys
from penstock import cli
from train import mirror
mirror.POLL_S = 0.3
sys.exit(cli.main())
"""


def test_raw_data_to_predictions_on_hdfs_where_spark_then_the_trainer_is_killed(
    hdfs: Cluster, raw: str, tmp_path: Path
) -> None:
    out = f"{hdfs.hdfs_url}/user/tester/whole-way"
    environment = {**os.environ, "HADOOP_CONF_DIR": str(hdfs.conf), "TMPDIR": str(tmp_path)}

    def command(raw_url: object, out: object) -> list[str]:
        options = ["--epochs", "20", "--checkpoint-seconds", "0.1", "--json"]
        return [sys.executable, "-c", PENSTOCK, "run", "digits", "--raw", f"{raw_url}", "--out", f"{out}", *options]

    def finished(line: list[str]) -> dict[str, Any]:
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))

    for has_begun in (lambda: store.folders(f"{out}/dataset/duplicates"), lambda: steps(f"{out}/runs/1")):
        process = subprocess.Popen(
            command(raw, out), env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        while not has_begun():
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    there, here = finished(command(raw, out)), finished(command(RAW, tmp_path / "here"))
    assert there["reused"]  # what the second one made
    assert there["run"] == f"{out}/runs/1"
    check_rows(f"{out}/dataset", cards.load(here["dataset"]))
    assert_same(Path(here["run"]), fetched(there["run"], tmp_path / "there"))
    predictions = pq.read_table(tmp_path / "there" / "predictions.parquet")
    assert predictions.equals(pq.read_table(here["predictions"]))
    starts = (tmp_path / "there" / "starts.jsonl").read_text().splitlines()
    assert len(starts) == 2
