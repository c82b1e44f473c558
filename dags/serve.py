"""Airflow on this machine, on 127.0.0.1, with the pipelines of a settings file: `make airflow` runs this.

    python -m dags.serve [--home .airflow] [--pipelines FILE] [--host 127.0.0.1] [--port 8080] [--unpaused]

Airflow lies in .venv-airflow, which no other part of the project shares (docs/design.md). Its folder holds the metadata
database (sqlite, unless AIRFLOW__DATABASE__SQL_ALCHEMY_CONN names another), logs, and the keys and the password, which
are made at the first start and for their owner alone to read. ETL runs by `spark-submit` of the project's .venv, the
trainer by its `penstock`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cluster.daemons import free_port
from dags.api import Api, send
from dags.settings import SHIPPED, VARIABLE, default_path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".airflow"
VENV, PYTHON = ROOT / ".venv", ROOT / ".venv-airflow" / "bin" / "python"
SERVICES = {
    "api-server": ["api-server", "--workers", "1"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
HOST, USER = "127.0.0.1", "admin"
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STARTS_WITHIN_S, STOPS_WITHIN_S = 120, 30
DEMO_DAYS = 6


class Airflow:
    """The three services, as processes of this one."""

    def __init__(self, home: Path, pipelines: Path = SHIPPED, port: int = 0, **settings: str) -> None:
        self.home, self.port = home.resolve(), port or free_port()
        self.address = f"http://{HOST}:{self.port}"
        self.home.mkdir(parents=True, exist_ok=True)
        self.secrets = _secrets(self.home / "secrets.json")
        self.api = Api(self.address, USER, self.secrets["password"])
        self.environment = self._environment(pipelines, settings)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _environment(self, pipelines: Path, settings: Mapping[str, str]) -> dict[str, str]:
        passwords, bin_ = self.home / "passwords.json", self.home / "bin"
        _write_private(passwords, json.dumps({USER: self.secrets["password"]}))
        bin_.mkdir(exist_ok=True)
        submit = bin_ / "spark-submit"  # the provider takes no other name, from PATH
        line = shlex.join([str(VENV / "bin" / "python"), "-m", "etl.java", str(VENV / "bin" / "spark-submit")])
        submit.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        submit.chmod(0o755)
        api = {
            "conn_type": "http",
            "host": HOST,
            "port": self.port,
            "login": USER,
            "password": self.secrets["password"],
        }
        own = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.address}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": self.secrets["fernet"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__API_AUTH__JWT_SECRET": self.secrets["jwt"],
            "AIRFLOW__API__SECRET_KEY": self.secrets["session"],
            "AIRFLOW__API__BASE_URL": self.address,
            "AIRFLOW__API__HOST": HOST,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW_CONN_AIRFLOW_API": json.dumps(api),
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
            "PATH": os.pathsep.join([str(bin_), str(PYTHON.parent), os.environ["PATH"]]),
            "PENSTOCK_DEMO": str(self.home / "demo"),
            "PENSTOCK_COMMAND": str(VENV / "bin" / "penstock"),
            "PENSTOCK_PYTHON": str(VENV / "bin" / "python"),
            "PYTHONPATH": str(ROOT),
            VARIABLE: str(pipelines),
        }
        keep = {n: v for n, v in os.environ.items() if n.startswith(("AIRFLOW_CONN_", "AIRFLOW__DATABASE__"))}
        return {**os.environ, **own, **keep, **settings}

    def migrate(self) -> None:
        self._airflow("db", "migrate")

    def start(self, *names: str) -> None:
        """The named services, or all of them. Raises: RuntimeError where one does not come up."""
        for name in names or SERVICES:
            log = (self.home / f"{name}.log").open("ab")
            self.processes[name] = subprocess.Popen(
                [*self._command(), *SERVICES[name]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            log.close()
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self.is_healthy():
            if ended := [name for name, process in self.processes.items() if process.poll() is not None]:
                raise RuntimeError(f"{ended[0]} ended at once; {self.home / ended[0]}.log says why")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Airflow is not up after {STARTS_WITHIN_S} s; {self.home} has its logs")
            time.sleep(0.5)

    def is_healthy(self) -> bool:
        try:
            said = send("GET", f"{self.address}/api/v2/monitor/health")
        except OSError:
            return False
        return all(said[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "dag_processor"))

    def stop(self, *names: str, signum: int = signal.SIGTERM) -> None:
        """The named services, or all of them, the API server last: tasks that end tell it."""
        for name in names or [*reversed(SERVICES)]:
            if (process := self.processes.pop(name, None)) is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            try:
                process.wait(STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _airflow(self, *arguments: str) -> None:
        done = subprocess.run(
            [*self._command(), *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"airflow {shlex.join(arguments)}: {(done.stdout + done.stderr)[-2000:]}")

    def _command(self) -> list[str]:
        return [str(PYTHON), "-m", "airflow"]


def make_demo(folder: Path) -> None:
    """The digits that scikit-learn ships, whole and as if some came each day."""
    (digits,) = (VENV / "lib").glob("python*/site-packages/sklearn/datasets/data/digits.csv.gz")
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    lines = gzip.decompress(digits.read_bytes()).decode().splitlines(keepends=True)
    (folder / "digits.csv").write_text("".join(lines))
    for day in range(DEMO_DAYS):
        (raw / f"2026-01-{day + 1:02}.csv").write_text("".join(lines[day::DEMO_DAYS]))


@contextlib.contextmanager
def in_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """The settings file names variables of Airflow's environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _secrets(file: Path) -> dict[str, str]:
    """Made at the first start."""
    if not file.exists():
        made = {name: secrets.token_urlsafe(24) for name in ("password", "jwt", "session")}
        fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        _write_private(file, json.dumps({**made, "fernet": fernet}))
    found: dict[str, str] = json.loads(file.read_text())
    return found


def _write_private(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m dags.serve", description="Airflow on this machine, until Ctrl-C.")
    made.add_argument("--home", type=Path, default=HOME, help="its folder; default: %(default)s")
    made.add_argument("--pipelines", type=Path, default=default_path(), help="the settings file; default: the demo's")
    made.add_argument("--host", default=HOST, help="where it listens; default: this machine alone")
    made.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    made.add_argument("--unpaused", action="store_true", help="DAGs run on their schedules from the start")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(argv)
    told = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": str(not asked.unpaused), "AIRFLOW__API__HOST": asked.host}
    airflow = Airflow(asked.home, asked.pipelines.resolve(), asked.port, **told)
    if asked.pipelines == SHIPPED:
        make_demo(airflow.home / "demo")
    for signum in ENDS:  # a shell's background jobs ignore the first one otherwise
        signal.signal(signum, signal.default_int_handler)
    try:
        print("Starting Airflow (the first time takes half a minute)", flush=True)
        airflow.migrate()
        airflow.start()
        print(f"{airflow.address}  user {USER}, password {airflow.secrets['password']}", flush=True)
        print(f"Logs, database and data: {airflow.home}. Ctrl-C stops all of it", flush=True)
        while all(process.poll() is None for process in airflow.processes.values()):
            time.sleep(1)
        print("A service ended by itself; its log says why", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        for signum in ENDS:  # a second one would leave services behind
            signal.signal(signum, signal.SIG_IGN)
        airflow.stop()
        print("Airflow is stopped", flush=True)


if __name__ == "__main__":
    sys.exit(main())
