"""A real Airflow for this folder: scheduler, dag processor and API server on loopback. `make test-dags`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cluster.daemons import free_port
from dags.serve import PYTHON, Airflow, make_demo
from penstock.interval import Interval

TIMEOUT_S = 600  # of a machine that is busy
# Found in seconds and not in minutes: a worker that is gone, a DAG that is due.
QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "airflow" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.dags)


@pytest.fixture(scope="session")
def airflow_python() -> Path:
    if not PYTHON.exists():
        pytest.skip("Airflow is not installed: `make test-dags` installs it into .venv-airflow")
    return PYTHON


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as `make airflow` has them: digits.csv, and a part of it for each of six days in raw/."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder)
    return folder


class Site:
    """An Airflow with its pipelines, and what tests ask of it."""

    def __init__(self, airflow: Airflow) -> None:
        self.airflow, self.api = airflow, airflow.api

    def trigger(self, dag: str, conf: Mapping[str, Any] | None = None, date: str | None = None) -> str:
        """A run by hand; `date` is that of its data: the interval that ends a day later."""
        moment = None if date is None else f"{date}T00:00:00Z"
        body = {"logical_date": moment, "conf": dict(conf or {})}
        if date is not None:
            body |= {
                "data_interval_start": moment,
                "data_interval_end": f"{Interval.parse(date).end:%Y-%m-%d}T00:00:00Z",
            }
        return str(self.api("POST", f"dags/{dag}/dagRuns", body)["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api("GET", f"dags/{dag}/dagRuns?order_by=run_after&limit=100")["dag_runs"]
        return found

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        found = self.api("GET", f"dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def log(self, dag: str, run: str, task: str, number: int = 1) -> str:
        path = f"dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances/{task}/logs/{number}"
        return json.dumps(self.api("GET", path))

    def ended(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """Waits for the end of a run, and returns its tasks."""

        def is_over() -> bool:
            state = self.api("GET", f"dags/{dag}/dagRuns/{quote(run, safe='')}")["state"]
            return state in ("success", "failed")

        wait_for(is_over, f"the end of {dag} {run}")
        return self.tasks(dag, run)

    def trained(self, pipeline: str, count: int = 1) -> list[dict[str, Any]]:
        """Waits until there are so many runs of the training DAG and all are over, and returns them."""

        def are_over() -> bool:
            states = [run["state"] for run in self.runs(f"{pipeline}_train")]
            return len(states) >= count and all(state in ("success", "failed") for state in states)

        wait_for(are_over, f"{count} runs of {pipeline}_train")
        return self.runs(f"{pipeline}_train")

    def events(self, asset: str) -> list[dict[str, Any]]:
        assets = self.api("GET", f"assets?name_pattern={quote(asset)}")["assets"]
        (number,) = [found["id"] for found in assets if found["name"] == asset]
        found: list[dict[str, Any]] = self.api("GET", f"assets/events?asset_id={number}&limit=100")["asset_events"]
        return found


def wait_for(holds: Callable[[], bool], what: str, timeout: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s"
        time.sleep(0.5)


def processes(*parts: str) -> list[int]:
    """Ids of the processes in whose command line all of this stands."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, UnicodeError):
            continue
        if entry.name.isdigit() and int(entry.name) != os.getpid() and all(part in line for part in parts):
            found.append(int(entry.name))
    return found


@contextmanager
def postgres() -> Iterator[str | None]:
    """A PostgreSQL of its own, as SQLAlchemy's URL; None where none is installed, and Airflow takes sqlite."""
    bins = [Path(found).resolve().parent for found in filter(None, [shutil.which("postgres")])]
    bins += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not bins or not (bins[0] / "initdb").exists():
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
    user: Sequence[str] = ()
    if os.geteuid() == 0:  # it refuses root
        shutil.chown(folder, "nobody")
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    port = free_port()
    try:
        line = [*user, str(bins[0] / "initdb"), "-U", "airflow", "--auth=trust", "-D", str(folder / "data")]
        subprocess.run(line, check=True, capture_output=True, cwd=folder)
        options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        server = subprocess.Popen(
            [*user, str(bins[0] / "postgres"), "-D", str(folder / "data"), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            ready = [str(bins[0] / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            wait_for(lambda: subprocess.run(ready, capture_output=True).returncode == 0, "PostgreSQL", 60)
            yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def site(home: Path, settings: str, **environment: str) -> Iterator[Site]:
    """Airflow with these pipelines, its metadata in PostgreSQL where that is installed."""
    file = home / "pipelines.toml"
    file.write_text(settings)
    with postgres() as database:
        if database is not None:
            environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database
        airflow = Airflow(home, file, **QUICK, **environment)
        try:
            airflow.migrate()
            airflow.start()
            yield Site(airflow)
        finally:
            airflow.stop()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def starts(run: Path) -> int:
    """How often a run was started: 1 where nothing interrupted it."""
    file = run / "starts.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0
