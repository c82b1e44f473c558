"""The ETL job as a task: `spark-submit etl/run.py …` by Airflow's Spark provider and a site's own connection."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from dags.settings import Pipeline

APPLICATION = Path(__file__).resolve().parent.parent / "etl" / "run.py"
ENDED_BY_DATA = ("RawDataError", "RecipeError", "DatasetError")  # trying again gives the same


class SubmitEtl(BaseOperator):
    """`penstock etl RECIPE ARGUMENTS` on the cluster of the pipeline's Spark connection; the result is its summary.

    What ended the job comes back in a file beside the dataset, since the driver may run on the cluster: an error that
    the data or the recipe is the cause of ends the task at once, any other uses up a retry.
    """

    template_fields = ("raw", "arguments")

    def __init__(self, *, pipeline: Pipeline, raw: str, arguments: Sequence[str] = (), **rest: Any) -> None:
        super().__init__(**rest)
        self.pipeline, self.raw, self.arguments = pipeline, raw, list(arguments)
        self._submitted: Any = None

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        # Not above: its module takes three seconds, since it imports two clients of Kubernetes.
        from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

        from penstock import store

        pipeline, run = self.pipeline, re.sub(r"[^\w.-]+", "-", context["run_id"])
        if pipeline.missing_raw == "skip" and not _is_there(self.raw):
            raise AirflowSkipException(f"no raw data at {self.raw}")
        result = store.join(store.absolute(pipeline.dataset), "results", f"{run}.{self.task_id}.json")
        store.remove(result)
        arguments = [pipeline.recipe, "--raw", self.raw, "--out", pipeline.dataset, *self.arguments]
        self._submitted = SparkSubmitOperator(
            task_id=f"{self.task_id}_submit",
            application=str(APPLICATION),
            application_args=[*arguments, "--result", result, "--json"],
            conn_id=pipeline.spark,
            name=f"penstock {pipeline.name}",
            **pipeline.spark_options,
        )
        try:
            type(self._submitted).execute.__wrapped__(self._submitted, context)  # type: ignore[attr-defined]
        except Exception as error:
            if (said := _read(result)).get("kind") in ENDED_BY_DATA:
                raise AirflowFailException(said["error"]) from error
            raise
        return _read(result)

    def on_kill(self) -> None:
        if self._submitted is not None:
            self._submitted.on_kill()


def _is_there(raw: str) -> bool:
    from penstock import store
    from penstock.errors import RawDataError

    try:
        return bool(store.raw_urls(store.absolute(raw)))
    except RawDataError:
        return False


def _read(url: str) -> dict[str, Any]:
    from penstock import store

    try:
        said: dict[str, Any] = json.loads(store.read_bytes(url))
    except FileNotFoundError:
        return {}
    return said
