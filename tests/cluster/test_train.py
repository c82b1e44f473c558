"""Training and predicting straight from HDFS, in an environment of the training side alone: no Spark, no JVM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cluster.__main__ import Cluster
from etl.run import etl
from penstock import store
from penstock.console import Console
from penstock.recipe import find
from tests.cluster.conftest import ROOT, environment


@pytest.fixture(scope="module")
def train_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("train") / "venv", "train")
    assert "pyspark" not in {path.name for path in python.parent.parent.glob("lib/*/site-packages/*")}
    return python


def test_a_dataset_on_hdfs_is_trained_on_and_predicted(
    hdfs: Cluster, raw: str, train_python: Path, tmp_path: Path
) -> None:
    data = f"{hdfs.hdfs_url}/user/tester/to-train-on"
    etl(find("digits"), raw, data, Console())
    # No java on PATH, and none where JAVA_HOME says.
    plain = {"PATH": "/nowhere", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    plain |= {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}

    def run(*arguments: object) -> dict[str, object]:
        line = list(map(str, [train_python, "-m", *arguments, "--json"]))
        done = subprocess.run(line, env=plain, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout))

    run_folder, predictions = tmp_path / "run", f"{data}-predictions/test.parquet"
    trained = run("train.run", "digits", "--data", data, "--out", run_folder, "--epochs", 2)
    assert trained["test_rows"] == 395
    predicted = run("train.predict", run_folder, "--data", data, "--split", "test", "--out", predictions)
    assert predicted["rows"] == 395
    fs, path = store.filesystem(predictions)
    assert fs.exists(path)
