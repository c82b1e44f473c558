"""A run folder, shown on an MLflow tracking server where MLFLOW_TRACKING_URI is set.

A process of its own follows the files of the folder and sends what is new, so that a server that is slow, or down, or
dies costs the trainer nothing but one warning. `mlflow.json` there says what was sent: a run that goes on is the same
run on the server, and `python -m train.observe.mlflow RUN` sends what a server has missed.

MLflow's own variables hold: MLFLOW_EXPERIMENT_NAME (default: the recipe's name), MLFLOW_EXPERIMENT_ID, MLFLOW_RUN_NAME,
MLFLOW_TRACKING_TOKEN and the others.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from penstock import log, store
from train.observe import json_lines

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

POLL_S, RETRY_S = 1.0, 30.0
END_S, END_BYTES_PER_S = 20.0, 10e6  # the trainer waits so long at its end, and for the model at this rate
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the next poll is the next try
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SENT = "mlflow.json"  # in the run folder
MODEL = ("model.safetensors", "config.json", "card.json", "report.json")
FIGURES = ("metrics.jsonl", "timings.jsonl", "starts.jsonl", "status.json")
NOT_DESCRIBED = -1  # in place of a step
METRICS_PER_REQUEST = 1000  # the most that a server takes


def start(run: str, folder: Path) -> subprocess.Popen[bytes] | None:
    """The process that sends what this one writes into `folder`, where a server is named; for rank 0.

    It ends when this process does, however that ends.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        return None
    command = [sys.executable, "-m", "train.observe.mlflow", run, "--follow", str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes] | None, run: str, folder: Path) -> None:
    """Lets it send the rest of a run that is finished."""
    if process is None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(END_S + (folder / MODEL[0]).stat().st_size / END_BYTES_PER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        uri = os.environ["MLFLOW_TRACKING_URI"]
        log.warning(without_password(f"MLflow at {uri} is slow: {advice(run)}"))


def page(run: str) -> str | None:
    """Where a person sees the run on the server; None where it was sent to none that has pages."""
    try:
        sent = json.loads(store.read_bytes(store.join(run, SENT)))
    except FileNotFoundError:
        return None
    if "experiment" not in sent or not sent["uri"].startswith("http"):
        return None
    return f"{without_password(sent['uri'])}/#/experiments/{sent['experiment']}/runs/{sent['run_id']}"


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def advice(run: str) -> str:
    return f"`python -m train.observe.mlflow {store.shown(run)}` sends what it lacks"


def main(arguments: list[str]) -> int:
    """RUN [--follow FOLDER]: sends what is new in the folder until standard input is closed; without --follow once."""
    run = store.absolute(arguments[0])
    if "--follow" in arguments:
        return send(run, Path(arguments[-1]), follow=True)
    if store.is_local(run):
        return send(run, Path(run.removeprefix("file://")), follow=False)
    with tempfile.TemporaryDirectory(prefix="penstock-") as place:
        folder = Path(place, run.rpartition("/")[2])
        for name in (*MODEL, *FIGURES, SENT):
            with suppress(FileNotFoundError):
                store.get(store.join(run, name), folder / name)
        code = send(run, folder, follow=False)
        if (folder / SENT).exists():
            store.put(folder / SENT, store.join(run, SENT))
        return code


def send(url: str, folder: Path, follow: bool) -> int:
    """Sends what is new of the run at `url`, whose files lie in `folder`. Returns 1 where the server lacks some."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if follow:  # its end is the trainer's, whatever is signalled to both
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
    run, warned, failed = None, False, False
    with _locked(folder):  # the process of a trainer that was killed may still be sending
        while True:
            is_over = not follow or _is_closed(sys.stdin, RETRY_S if failed else POLL_S)
            try:
                run = run or begin(folder, uri)
                send_metrics(folder, *run)
                if is_over:
                    end(folder, *run)
                failed = False
            except Exception as error:  # MLflow and its drivers raise many kinds
                failed = True
                if not warned:
                    log.warning(without_password(f"MLflow at {uri}: {_line(error)}; {advice(url)}"))
                warned = True
            if is_over:
                return int(failed)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_closed(file: TextIO, timeout_s: float) -> bool:
    return bool(select.select([file], [], [], timeout_s)[0])


def begin(folder: Path, uri: str) -> tuple[MlflowClient, str]:
    """The run on the server, new or as the folder knows it, with what the run is: parameters, dataset, machine."""
    from mlflow import MlflowClient
    from mlflow.entities import Param, RunTag

    client, sent = MlflowClient(uri), _sent(folder)
    described = json.loads((folder / "config.json").read_text())
    if sent.get("uri") != without_password(uri):
        name = os.environ.get("MLFLOW_RUN_NAME", folder.name)
        run = client.create_run(_experiment(client, described["recipe"]), run_name=name)
        sent = {
            "uri": without_password(uri),
            "run_id": run.info.run_id,
            "step": NOT_DESCRIBED,
            "experiment": run.info.experiment_id,
        }
        _keep(folder, sent)
    run_id: str = sent["run_id"]
    if sent["step"] == NOT_DESCRIBED:
        params = _flat({**described, **described["config"], "config": {}})
        client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
        client.log_inputs(run_id, _datasets(described, json.loads((folder / "card.json").read_text())))
        _keep(folder, {**sent, "step": 0})
    started = json_lines.read(folder / "starts.jsonl")[-1]
    tags = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": started["command"],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": started["commit"],
        "host": started["host"],
        "device": started["device"],
        "world_size": started["world_size"],
        **{f"version.{name}": value for name, value in started["versions"].items()},
        "folder": started.get("run", str(folder)),
    }
    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items() if value is not None])
    client.update_run(run_id, status="RUNNING")
    return client, run_id


def _experiment(client: MlflowClient, recipe: str) -> str:
    if found := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return found
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", Path(recipe).name)
    there = client.get_experiment_by_name(name)
    made: str = client.create_experiment(name) if there is None else there.experiment_id
    return made


def _datasets(described: Mapping[str, Any], card: Mapping[str, Any]) -> list[DatasetInput]:
    """Each split of the dataset version, with the digest of its rows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    context = {"val": "validation", "test": "test"}
    context |= dict.fromkeys(described["config"]["train_split"].split("+"), "training")
    return [
        DatasetInput(
            Dataset(
                name=f"{card['recipe']} {split}",
                digest=rows["digest"] or card["version"],
                source_type="penstock",
                source=json.dumps({"url": described["dataset"], "version": card["version"], "split": split}),
                schema=json.dumps(card["schema"]),
                profile=json.dumps(rows),
            ),
            [InputTag("mlflow.data.context", context[split])],
        )
        for split, rows in card["splits"].items()
        if split in context
    ]


def send_metrics(folder: Path, client: MlflowClient, run_id: str) -> None:
    """The figures of all steps that were not sent yet."""
    from mlflow.entities import Metric

    sent, now = _sent(folder), int(time.time() * 1000)
    metrics, timings = (json_lines.read(folder / f"{name}.jsonl") for name in ("metrics", "timings"))
    steps = [line["step"] for line in timings if line["step"] > sent["step"]]  # which are written after the metrics
    found = [
        Metric(name, value, now, line["step"])
        for line in metrics + timings
        if line["step"] in steps
        for name, value in line.items()
        if name != "step" and isinstance(value, int | float)
    ]
    for start in range(0, len(found), METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=found[start : start + METRICS_PER_REQUEST])
    if steps:
        _keep(folder, {**sent, "step": steps[-1]})


def end(folder: Path, client: MlflowClient, run_id: str) -> None:
    """How the run ended and, if it is finished, its test figures and its model."""
    from mlflow.entities import Metric

    report = folder / "report.json"
    if not report.exists():
        status = folder / "status.json"
        failed = status.exists() and json.loads(status.read_text())["state"] == "failed"
        client.set_terminated(run_id, "FAILED" if failed else "KILLED")  # until it goes on
        return
    told, now = json.loads(report.read_text()), int(report.stat().st_mtime * 1000)  # sent twice it is one figure
    test = [Metric(f"test_{name}", value, now, _sent(folder)["step"]) for name, value in told["test"].items()]
    client.log_batch(run_id, metrics=test)
    for name in MODEL:
        client.log_artifact(run_id, str(folder / name), "model")
    client.set_terminated(run_id, "FINISHED")


def _sent(folder: Path) -> dict[str, Any]:
    """What the folder knows of the server: `uri`, `run_id`, and the last `step` of which it has the figures."""
    found: dict[str, Any] = json.loads((folder / SENT).read_text()) if (folder / SENT).exists() else {}
    return {name: without_password(value) if name == "uri" else value for name, value in found.items()}


def _keep(folder: Path, sent: Mapping[str, Any]) -> None:
    store.replace(folder / SENT, json.dumps(sent).encode())


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return flat


def _line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed (pip install mlflow-skinny)"
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
