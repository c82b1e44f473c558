"""One pipeline's DAGs, one run of each, in this process and without a scheduler: what `penstock dag` starts in
Airflow's environment. The tasks are the scheduler's, and so is what they make.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG

from dags import pipelines
from penstock.interval import Interval


def run(name: str, date: str | None) -> int:
    """The ETL run whose data begins on `date`, then training of what it announces. Returns the exit code."""
    dags: dict[str, DAG] = pipelines.made
    etl, train = dags[f"{name}_etl"], dags.get(f"{name}_train")
    moment = Interval.parse(date).start if date else datetime.now(UTC)
    done = etl.test(logical_date=_run_after(etl, moment))
    if done.state != "success":
        return 1
    announced: Any = done.get_task_instance("announce").xcom_pull("announce")
    if train is None or announced is None:
        return 0
    return int(train.test(run_conf={"version": announced["version"]}).state != "success")


def _run_after(dag: DAG, moment: datetime) -> datetime:
    """When the run for the data interval that begins at `moment` is due: what Airflow infers the interval from."""
    if not hasattr(dag.timetable, "expression"):
        return moment
    from croniter import croniter

    due: datetime = croniter(dag.timetable.expression, moment).get_next(datetime)
    return due


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
