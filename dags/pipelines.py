"""For each pipeline of the settings file an ETL DAG and a training DAG, the second of which the first one starts.

    NAME_etl     raw data -> etl -> announce ~~> the asset NAME
    NAME_train   the asset NAME -> choose -> train -> rows_for_released -> release -> predict

A new pipeline is a table in the settings file (dags/settings.py), never an edit here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from dags import seen, settings
from dags.launch import as_failure, launch
from dags.settings import Pipeline
from dags.spark import SubmitEtl, SubmitRowsForReleased
from penstock.errors import NOT_RELEASED

VERSION = "{{ ti.xcom_pull('choose')['version'] }}"


def etl_dag(pipeline: Pipeline, dataset: Asset) -> DAG:
    """raw data -> a dataset version -> gates -> the asset"""
    is_cron = pipeline.schedule not in (None, "@once")
    with DAG(
        f"{pipeline.name}_etl",
        description=f"Raw data to a dataset version by recipe {pipeline.recipe}, announced if it is within the limits",
        schedule=CronDataIntervalTimetable(pipeline.schedule, timezone="UTC") if is_cron else pipeline.schedule,
        start_date=pipeline.start,
        catchup=False,
        max_active_runs=1,
        default_args=_defaults(pipeline),
        tags=["penstock", pipeline.recipe],
    ) as dag:

        @task(outlets=[dataset])
        def announce(built: dict[str, Any], *, outlet_events: Any = None) -> dict[str, Any]:
            """Counts add up, few rows are refused, the data has not drifted: else the run ends here."""
            from dags import gates

            with as_failure():
                told = gates.check(pipeline, built["version"])
            outlet_events[dataset].extra = told
            seen.tell(get_current_context(), told)
            return told

        interval = ["--interval", "{{ data_interval_start | ts }}/{{ data_interval_end | ts }}"]
        built = SubmitEtl(
            task_id="etl",
            pipeline=pipeline,
            raw=pipeline.raw,
            arguments=interval if pipeline.intervals else [],
        )
        announce(built.output)
    return dag


def train_dag(pipeline: Pipeline, dataset: Asset) -> DAG:
    """the newest announced version -> a run -> compared with the released model -> predictions by the better one"""
    with DAG(
        f"{pipeline.name}_train",
        description=f"The newest version of {pipeline.name} to a model, released if it is not worse",
        schedule=[dataset],
        start_date=pipeline.start,
        catchup=False,
        max_active_runs=1,
        default_args=_defaults(pipeline),
        user_defined_macros={"to_predict": _to_predict(pipeline)},
        tags=["penstock", pipeline.recipe],
    ) as dag:

        @task
        def choose(*, triggering_asset_events: Any = None, dag_run: Any = None) -> dict[str, Any]:
            """Of several events that started this run the newest version; `{"version": …}` starts a run by hand."""
            from dags import gates

            asked = (dag_run.conf or {}).get("version")
            events = [event for found in triggering_asset_events.values() for event in found]
            announced = [asked] if asked else [event.extra["version"] for event in events]
            if not announced:
                raise AirflowFailException('no version: say which, {"version": "…"}, or let an ETL run announce one')
            with as_failure():
                version, superseded = (asked, []) if asked else gates.choose(pipeline, announced)
            told = {"version": version, "run": f"{pipeline.runs}/{version}", "superseded": superseded}
            seen.tell(get_current_context(), told)
            if version not in announced:
                raise AirflowSkipException(f"version {version}, trained before, is newer")
            return told

        data = ["--data", pipeline.dataset, "--version", VERSION]
        run = f"{pipeline.runs}/{VERSION}"
        steps = choose() >> launch(pipeline, "train", ["train", pipeline.recipe, *data, "--out", run, *pipeline.train])
        if pipeline.releases:
            limits = pipeline.limits
            steps >>= SubmitRowsForReleased(task_id="rows_for_released", pipeline=pipeline)
            steps >>= launch(
                pipeline,
                "release",
                [
                    *("release", run, *data, "--to", pipeline.releases),
                    *("--released-data", pipeline.dataset),
                    *("--released-version", "{{ ti.xcom_pull('rows_for_released')['version'] }}"),
                    *("--max-stall", str(limits.max_stall), "--max-class-drop", str(limits.max_class_drop)),
                ],
                kept=[NOT_RELEASED],
            )
        if pipeline.predictions:
            steps >>= launch(
                pipeline,
                "predict",
                [
                    *("predict", "{{ to_predict(ti).run }}", "--data", pipeline.dataset),
                    *("--version", "{{ to_predict(ti).version }}"),
                    *("--out", f"{pipeline.predictions}/{VERSION}.parquet"),
                ],
            )
    return dag


def _defaults(pipeline: Pipeline) -> dict[str, Any]:
    again = timedelta(seconds=pipeline.retry_seconds)
    return {"retries": pipeline.retries, "retry_delay": again, "on_failure_callback": seen.failed}


def _to_predict(pipeline: Pipeline) -> Any:
    def to_predict(ti: Any) -> Any:
        from dags import gates

        version = ti.xcom_pull("choose")["version"]
        found = gates.to_predict(pipeline, version, ti.xcom_pull("rows_for_released")["version"])
        if found is None:
            raise AirflowSkipException("nothing is released yet: this model was kept, and there is none before it")
        return found

    return to_predict


made: dict[str, DAG] = {}
for each in settings.load():
    asset = Asset(each.name, uri=each.dataset, group="penstock")
    made[f"{each.name}_etl"] = etl_dag(each, asset)
    if each.runs:
        made[f"{each.name}_train"] = train_dag(each, asset)
