"""What people see of a task: the end of its log, its note, and a message to a webhook where it failed.

Notes are written by Airflow's own API, since tasks have no other way to them: where the connection `airflow_api` (host,
port, login, password) is defined. The webhook is the environment's PENSTOCK_WEBHOOK.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from dags.api import Api, send

API, WEBHOOK, NOTE = "airflow_api", "PENSTOCK_WEBHOOK", 1000  # characters that a note may have
LOG = logging.getLogger("penstock.dags")


def tell(context: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """Ends a task's log with its figures and links, and makes them its note."""
    text = figures(told)
    for line in text.splitlines():
        LOG.info("%s", line)
    note(context, text)


def figures(told: Mapping[str, Any]) -> str:
    """As a note has them: a line each, without what is empty."""
    return "\n".join(f"{name}: {_shown(value)}" for name, value in told.items() if value not in (None, {}, [], ""))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def note(context: Mapping[str, Any], text: str) -> None:
    """A note that cannot be written is no reason to fail."""
    ti = context["ti"]
    try:
        api = BaseHook.get_connection(API)
    except AirflowNotFoundException:
        return
    port = f":{api.port}" if api.port else ""
    call = Api(f"{api.schema or 'http'}://{api.host}{port}", str(api.login), str(api.password))
    task = f"dags/{quote(ti.dag_id)}/dagRuns/{quote(ti.run_id, safe='')}/taskInstances/{quote(ti.task_id)}"
    try:
        call("PATCH", f"{task}?update_mask=note", {"note": text[:NOTE]})
    except (OSError, ValueError, LookupError) as error:
        LOG.warning("the note is not written: %s: %s", type(error).__name__, error)


def failed(context: Mapping[str, Any]) -> None:
    """Airflow's callback on failure: the reason as the task's note, and to the webhook."""
    ti, error = context["ti"], context.get("exception")
    reason = str(error or "the task's process ended")
    note(context, reason)
    if url := os.environ.get(WEBHOOK):
        told = {"dag": ti.dag_id, "run": ti.run_id, "task": ti.task_id, "try": ti.try_number, "reason": reason}
        try:
            send("POST", url, {**told, "log": getattr(ti, "log_url", None)})
        except OSError as unreached:
            # Its address is a secret: who has it may post there.
            LOG.warning("the webhook is not reached: %s", str(unreached).replace(url, f"${WEBHOOK}"))
