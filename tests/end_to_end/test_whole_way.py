"""The commands of README as a user runs them: raw files to predictions, killed in the middle, from any folder."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from penstock import card as cards

ROOT = Path(__file__).resolve().parent.parent.parent
PENSTOCK = str(Path(sys.executable).with_name("penstock"))
MNIST_CLASSES = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def penstock(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = subprocess.run([PENSTOCK, *map(str, arguments), "--json"], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_digits_from_raw_to_predictions(digits_csv: Path, tmp_path: Path) -> None:
    told = penstock("run", "digits", "--raw", digits_csv, "--out", tmp_path)
    assert told["test"]["accuracy"] >= 0.96
    counts = told["counts"]
    assert counts["raw"] == 1797 == counts["clean"] + counts["quarantined"]
    assert (
        sum(split["rows"] for split in told["splits"].values())
        == counts["built"]
        == counts["clean"] - counts["duplicates"]
    )
    predictions = pq.read_table(told["predictions"])
    assert predictions.num_rows == told["splits"]["test"]["rows"]
    card = cards.load(told["dataset"])
    test = pq.read_table(tmp_path / "dataset" / card.data / "split=test", columns=["id", "label"])
    labels = dict(zip(test["id"].to_pylist(), test["label"].to_pylist(), strict=True))
    right = [
        labels[i] == p
        for i, p in zip(predictions["id"].to_pylist(), predictions["prediction"].to_pylist(), strict=True)
    ]
    assert np.mean(right) == pytest.approx(told["test"]["accuracy"])
    assert penstock("verify", tmp_path / "dataset")["whole"]
    again = penstock("run", "digits", "--raw", digits_csv, "--out", tmp_path, "--epochs", 1)
    assert again["reused"]
    assert again["version"] == told["version"]
    assert Path(again["run"]).name == "2"
    (tmp_path / "runs" / "2" / "predictions.parquet").unlink()  # as if it was killed before
    last = penstock("run", "digits", "--raw", digits_csv, "--out", tmp_path, "--epochs", 1)
    assert (last["run"], last["test"]) == (again["run"], again["test"])
    assert Path(last["predictions"]).exists()


def killed_etl(digits_csv: Path, out: Path, times: int, seed: int) -> None:
    """Kills the whole process group of an ETL job at random moments, then lets one run to its end."""
    command = [PENSTOCK, "etl", "digits", "--raw", str(digits_csv), "--out", str(out), "--json"]
    started = time.monotonic()
    whole = json.loads(
        subprocess.run([*command[:-2], f"{out}-whole", "--json"], check=True, capture_output=True).stdout
    )
    took, rng = time.monotonic() - started, random.Random(seed)
    for _ in range(times):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(rng.uniform(0.3, 1.0) * took)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for folder in (out, out / "clean"):  # a version is there whole, or not at all
            for found in cards.versions(f"file://{folder}") if folder.exists() else []:
                assert found.version
        if list((out / "cards").glob("*.json")) if out.exists() else []:
            assert penstock("verify", out)["whole"]
            shutil.rmtree(out)
    done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (done["version"], done["splits"]) == (whole["version"], whole["splits"])
    assert penstock("verify", out)["whole"]


@pytest.mark.slow
def test_an_etl_job_that_is_killed_leaves_a_whole_version_or_none(digits_csv: Path, tmp_path: Path) -> None:
    killed_etl(digits_csv, tmp_path / "out", times=2, seed=4)


@pytest.mark.soak
def test_an_etl_job_that_is_killed_twenty_times(digits_csv: Path, tmp_path: Path) -> None:
    killed_etl(digits_csv, tmp_path / "out", times=20, seed=5)


@pytest.mark.slow
def test_spark_submit_and_modules_run_the_same(digits_csv: Path, tmp_path: Path) -> None:
    submit = Path(sys.executable).with_name("spark-submit")
    java = subprocess.run(
        [sys.executable, "-c", "from etl import java; java.use(); import os; print(os.environ['PENSTOCK_JAVA_HOME'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    env = {
        **os.environ,
        "JAVA_HOME": str(ROOT / "etl" / "java_home"),
        "PENSTOCK_JAVA_HOME": java,
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    arguments = ["digits", "--raw", str(digits_csv), "--out", str(tmp_path / "out"), "--json"]
    log = {"enabled": "true", "compress": "false", "dir": f"file://{tmp_path}"}
    settings = ["spark.ui.enabled=false", *(f"spark.eventLog.{name}={value}" for name, value in log.items())]
    options = ["--master", "local[2]", *(word for setting in settings for word in ("--conf", setting))]
    command = [submit, *options, ROOT / "etl" / "run.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["reused"]
    events = next(tmp_path.glob("eventlog_*/events_*")).read_text()
    assert '"spark.master":"local[2]"' in events  # what spark-submit was told counts
    again = subprocess.run([sys.executable, "-m", "etl.run", *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(again.stdout.splitlines()[-1])["reused"]
    train = ["-m", "train.run", "digits", "--data", str(tmp_path / "out"), "--epochs", "1", "--json", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", *train, str(tmp_path / "r1")]
    plain = [sys.executable, *train, str(tmp_path / "r2")]
    for starter in (torchrun, plain):
        subprocess.run(starter, check=True, capture_output=True, cwd=tmp_path)
    assert (tmp_path / "r1" / "metrics.jsonl").read_text() == (tmp_path / "r2" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_mnist_holds_what_its_authors_say(mnist_raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "mnist"
    told = penstock("etl", "mnist", "--raw", mnist_raw, "--out", out)
    assert told["counts"] == {"raw": 70_000, "quarantined": 0, "clean": 70_000, "duplicates": 0, "built": 70_000}
    splits = {name: split["rows"] for name, split in told["splits"].items()}
    assert splits["train"] + splits["val"] == 60_000
    assert splits["test"] == 10_000
    data = out / cards.load(str(out)).data
    labels = [pq.read_table(data / f"split={name}", columns=["label"])["label"].to_numpy() for name in ("train", "val")]
    assert np.bincount(np.concatenate(labels)).tolist() == MNIST_CLASSES
    assert penstock("verify", out)["whole"]


def blocks(document: str) -> dict[str, str]:
    """File name -> text, of the code blocks of a document that begin with a comment naming their file."""
    text = (ROOT / "docs" / document).read_text()
    return dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", text, flags=re.DOTALL))


@pytest.mark.slow
def test_the_guide_to_a_recipe_of_ones_own_works_word_for_word(tmp_path: Path) -> None:
    for name, body in blocks("adding_a_recipe.md").items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = ""
    scripts = ["commands.sh", "keras.sh"] if find_spec("keras") else ["commands.sh"]
    for command in [line for name in scripts for line in (tmp_path / name).read_text().strip().splitlines()]:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        printed += done.stdout
    assert re.search(r"quarantined +10\n", printed)
    predictions = pq.read_table(tmp_path / "scored.parquet")
    assert predictions.column_names == ["machine", "split", "prediction", "score"]
    assert "keras.sh" not in scripts or (tmp_path / "keras_run" / "model.keras").is_file()


@pytest.mark.soak
def test_the_guide_to_dirty_data_works_word_for_word_and_prints_what_it_says(tmp_path: Path) -> None:
    for name, body in blocks("dirty_data.md").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert run("python", "make_loans.py").returncode == 0
    first = run("bash", "-e", "first_try.sh")
    assert first.returncode == 1
    second = run("bash", "-e", "loans.sh")
    assert second.returncode == 0, second.stderr
    text = (ROOT / "docs" / "dirty_data.md").read_text()
    printed = " ".join((first.stderr + second.stdout).split())
    said = [
        block.replace("…", "") for block in re.findall(r"```\n(error: .*?|raw  .*?|\{.*?)```", text, flags=re.DOTALL)
    ]
    assert len(said) == 3
    for block in said:
        for line in [block] if block.startswith("error: ") else block.splitlines():
            words = re.sub(r"fingerprint \w+", "fingerprint", " ".join(line.split()))
            assert words in re.sub(r"fingerprint \w+", "fingerprint", printed), words
