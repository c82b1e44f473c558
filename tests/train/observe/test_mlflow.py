"""Runs on a real MLflow server on loopback, with sqlite: whole, killed, beside a server that hangs, and without one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from penstock import cli
from tests.train.observe.conftest import arguments
from train.observe import mlflow


@dataclass(frozen=True)
class Server:
    uri: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(folder: Path, port: int) -> Server:
    """One that answers, with what is in the folder."""
    store = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *store], env=environment, stdout=log, stderr=log, start_new_session=True)
    started = Server(f"http://127.0.0.1:{port}", process)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{started.uri}/health", timeout=1)
            return started
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.1)
    kill(started)
    raise AssertionError((folder / "log").read_text())


def kill(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = serve(tmp_path_factory.mktemp("mlflow"), free_port())
    yield started
    kill(started)


def on_server(server: Server, run: Path) -> tuple[MlflowClient, Any]:
    client = MlflowClient(server.uri)
    return client, client.get_run(json.loads((run / "mlflow.json").read_text())["run_id"])


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_each_step_once(client: MlflowClient, run_id: str, run: Path) -> None:
    for name in ("train_loss", "val_loss", "val_accuracy"):
        history = client.get_metric_history(run_id, name)
        assert [(point.step, point.value) for point in history] == [(line["step"], line[name]) for line in lines(run)]


@pytest.mark.slow
def test_a_run_is_shown_with_its_parameters_dataset_figures_and_model(
    server: Server,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run = folder / "whole"
    assert cli.main([*arguments(folder, "whole", "--seed", "3"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    client, shown = on_server(server, run)
    assert told["tracking"] == f"{server.uri}/#/experiments/{shown.info.experiment_id}/runs/{shown.info.run_id}"
    assert shown.info.status == "FINISHED"
    assert client.get_experiment(shown.info.experiment_id).name == "linear"
    assert shown.data.params["seed"] == "3"
    assert shown.data.params["optimizer.lr"] == "0.001"
    assert shown.data.params["dataset_version"] == "v1"
    splits = {given.tags[0].value: given.dataset for given in shown.inputs.dataset_inputs}
    card = json.loads((run / "card.json").read_text())
    assert {"training", "validation", "test"} == set(splits)
    assert splits["training"].digest == card["splits"]["train"]["digest"]
    assert json.loads(splits["training"].source)["version"] == "v1"
    assert_each_step_once(client, shown.info.run_id, run)
    report = json.loads((run / "report.json").read_text())
    assert shown.data.metrics["test_accuracy"] == report["test"]["accuracy"]
    assert 0 <= shown.data.metrics["data_stall"] <= 1
    got = client.download_artifacts(shown.info.run_id, "model/model.safetensors", str(tmp_path))
    assert Path(got).read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_run(server: Server, folder: Path) -> None:
    run, environment = folder / "killed", os.environ | {"MLFLOW_TRACKING_URI": server.uri}
    command = [sys.executable, "-m", "penstock.cli", *arguments(folder, "killed", "--epochs", "40")]
    process = subprocess.Popen(command, env=environment | {"STEP_S": "0.1"}, stdout=subprocess.DEVNULL)
    while process.poll() is None and not ((run / "mlflow.json").exists() and on_server(server, run)[1].data.metrics):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _, before = on_server(server, run)
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    client, shown = on_server(server, run)
    assert shown.info.run_id == before.info.run_id
    assert shown.info.status == "FINISHED"
    assert_each_step_once(client, shown.info.run_id, run)


@pytest.mark.soak
def test_a_server_that_hangs_costs_one_warning_and_gets_the_rest_later(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    run = folder / "hung"
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        assert cli.main(arguments(folder, "hung")) == 0
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)
    told = "".join(capfd.readouterr())  # of the process, or of the trainer where that was not ready on a busy machine
    assert told.count("warning: MLflow at ") == 1
    command = told.partition("`")[2].partition("`")[0].split()
    assert not (run / "mlflow.json").exists()
    subprocess.run([sys.executable, *command[1:]], check=True)
    client, shown = on_server(server, run)
    assert shown.info.status == "FINISHED"
    assert_each_step_once(client, shown.info.run_id, run)


@pytest.mark.soak
def test_a_server_that_goes_away_and_comes_back_gets_all(folder: Path, tmp_path: Path) -> None:
    server, run = serve(tmp_path, port := free_port()), folder / "back"
    command = [sys.executable, "-m", "penstock.cli", *arguments(folder, "back", "--epochs", "60")]
    environment = os.environ | {"MLFLOW_TRACKING_URI": server.uri, "STEP_S": "0.1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not ((run / "mlflow.json").exists() and on_server(server, run)[1].data.metrics):
            assert process.poll() is None
            time.sleep(0.05)
        kill(server)
        before = len(lines(run))
        while len(lines(run)) < before + 6:  # which it tries to send in vain
            time.sleep(0.05)
        server = serve(tmp_path, port)
        assert process.poll() is None
        _, said = process.communicate()
        assert process.returncode == 0
        assert said.count("warning: MLflow at ") == 1
        client, shown = on_server(server, run)
        assert shown.info.status == "FINISHED"
        assert_each_step_once(client, shown.info.run_id, run)
    finally:
        kill(server)


def test_a_server_that_is_not_there_costs_one_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    assert cli.main(arguments(folder, "alone")) == 0
    told = capfd.readouterr().err
    assert told.count("warning: MLflow at http://127.0.0.1") == 1
    assert len(told.splitlines()) == 1
    assert "secret" not in told
    assert [line["epoch"] for line in lines(folder / "alone")] == [1, 2]


def test_a_password_is_not_kept(tmp_path: Path) -> None:
    """Neither what an older run kept; with another password the run is the same on the server."""
    (tmp_path / "mlflow.json").write_text(json.dumps({"uri": "https://me:secret@host/x", "run_id": "1"}))
    assert mlflow._sent(tmp_path) == {"uri": "https://host/x", "run_id": "1"}
