"""The ETL job as a task: `spark-submit etl/run.py …` by Airflow's Spark provider and a site's own connection."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from dags import seen
from dags.launch import as_failure
from dags.settings import Pipeline

APPLICATION = Path(__file__).resolve().parent.parent / "etl" / "run.py"
ENDED_BY_DATA = ("RawDataError", "RecipeError", "DatasetError")  # trying again gives the same


class SubmitEtl(BaseOperator):
    """`penstock etl RECIPE --raw RAW ARGUMENTS` by the pipeline's Spark connection; the result is the job's summary.

    What ended the job comes back in a file beside the dataset, since the driver may run on the cluster: an error that
    the data or the recipe is the cause of ends the task at once, any other uses up a retry.
    """

    template_fields = ("raw", "arguments")

    def __init__(
        self, *, pipeline: Pipeline, raw: str | None = None, arguments: Sequence[str] = (), **rest: Any
    ) -> None:
        super().__init__(**rest)
        self.pipeline, self.raw, self.arguments = pipeline, raw, list(arguments)
        self._submitted: Any = None

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        # Not above: its module takes three seconds, since it imports two clients of Kubernetes.
        from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

        from penstock import store

        pipeline, run = self.pipeline, re.sub(r"[^\w.-]+", "-", context["run_id"])
        if self.raw is not None and pipeline.missing_raw == "skip" and not _is_there(self.raw):
            raise AirflowSkipException(f"no raw data at {self.raw}")
        result = store.join(store.absolute(pipeline.dataset), "results", f"{run}.{self.task_id}.json")
        store.remove(result)
        raw = [] if self.raw is None else ["--raw", self.raw]
        arguments = [pipeline.recipe, *raw, "--out", pipeline.dataset, *self.arguments]
        options = dict(pipeline.spark_options)
        self._submitted = SparkSubmitOperator(
            task_id=f"{self.task_id}_submit",
            application=str(APPLICATION),
            application_args=[*arguments, "--result", result, "--json"],
            conn_id=pipeline.spark,
            name=f"penstock {pipeline.name}",
            conf={"spark.log.level": "WARN", **options.pop("conf", {})},
            **options,
        )
        try:  # past the wrapper that warns of operators within operators
            type(self._submitted).execute.__wrapped__(self._submitted, context)
        except Exception as error:
            if (said := _read(result)).get("kind") in ENDED_BY_DATA:
                raise AirflowFailException(said["error"]) from error
            raise
        told = _read(result)
        seen.tell(context, told)
        return told

    def on_kill(self) -> None:
        if self._submitted is not None:
            self._submitted.on_kill()


class SubmitRowsForReleased(SubmitEtl):
    """Makes the chosen version's rows once more as the released model wants them, where that one has transforms of its
    own; its clean rows are there. The result names the version that the released model is tested on.
    """

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        from dags import gates

        version = context["ti"].xcom_pull("choose")["version"]
        with as_failure():
            card = gates.for_released(self.pipeline, version)
        if card is None:
            self.log.info("The released model, if there is one, reads version %s as it is", version)
            return {"version": version}
        self.arguments = ["--rows-of", version, "--frozen", card]
        return super().execute(context)


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
