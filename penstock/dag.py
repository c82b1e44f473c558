"""`penstock dag`: one pipeline in the foreground, by Airflow's tasks and without its scheduler (dags/foreground.py)."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dags import serve, settings
from penstock import command
from penstock.console import Console
from penstock.errors import PenstockError
from penstock.interval import Interval

# Of all that Airflow logs, what our tasks, Spark and the trainer say.
QUIET = {
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "penstock.dags=INFO airflow.task.operators.dags=INFO airflow.task.hooks=INFO",
}

LOGGED = re.compile(r"^\S+Z \[\w+ *\] (.*?) +\[[\w.]+\] .*$")


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "dag",
        "Run one pipeline of the settings file in the foreground, without a scheduler: ETL and, where the version is\n"
        "announced, training, release and predictions. The tasks are those of Airflow's DAGs.",
        "penstock dag digits\n  penstock dag digits_daily --date 2026-01-03",
    )
    made.add_argument("pipeline", help="its name in the settings file, or that of a recipe which one pipeline has")
    made.add_argument("--date", metavar="DAY", help="on which the run's data begins; default: now")
    made.add_argument(
        "--pipelines",
        type=Path,
        default=settings.default_path(),
        metavar="FILE",
        help=f"the settings file; default: {settings.VARIABLE}, or the demo's",
    )
    made.add_argument("--home", type=Path, default=serve.HOME, help="Airflow's folder; default: %(default)s")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    if arguments.date:
        Interval.parse(arguments.date)
    if not serve.PYTHON.exists():
        raise PenstockError(f"Airflow is not installed in {serve.PYTHON.parent.parent}: `make airflow` installs it")
    airflow = serve.Airflow(arguments.home, arguments.pipelines.resolve())
    with serve.in_environment(airflow.environment):
        name = _named(arguments.pipeline, settings.load(arguments.pipelines))
    if arguments.pipelines == settings.SHIPPED:
        serve.make_demo(airflow.home / "demo")
    with console.step("prepare Airflow's database"):
        airflow.migrate()
    line = [str(serve.PYTHON), "-m", "dags.foreground", name, *([arguments.date] if arguments.date else [])]
    with subprocess.Popen(
        line, env={**airflow.environment, **QUIET}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for said in process.stdout:
            console.say(_said(said))
    if process.returncode:
        raise PenstockError(f"pipeline {name!r}: a task failed; its log is above, and below {airflow.home / 'logs'}")
    return {"pipeline": name}


def _said(line: str) -> str:
    """What a line of Airflow's log says, less when and where."""
    return LOGGED.sub(r"\1", line.rstrip())


def _named(asked: str, pipelines: Sequence[settings.Pipeline]) -> str:
    names = [one.name for one in pipelines]
    of_recipe = [one.name for one in pipelines if one.recipe == asked]
    if asked in names:
        return asked
    if len(of_recipe) == 1:
        return of_recipe[0]
    raise PenstockError(f"no pipeline {asked!r} in the settings file; there are {', '.join(names) or 'none'}")


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
