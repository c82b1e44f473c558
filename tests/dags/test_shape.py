"""What Airflow reads of dags/pipelines.py, without running any of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dags.serve import ROOT
from tests.dags.test_settings import LEAST, settings

READ = """
import json, runpy, sys
import airflow.sdk
before = set(sys.modules)
dags = runpy.run_path(sys.argv[1])["made"]
heavy = [name for name in ("pyspark", "torch", "pyarrow", "kubernetes", "pandas") if name in set(sys.modules) - before]
shape = {name: {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks} for name, dag in dags.items()}
print(json.dumps({"heavy": heavy, "shape": shape}))
"""
POD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dags.pipelines import made
from kubernetes.client import ApiClient
task = made["a_train"].get_task("train")
task.render_template_fields({"ti": type("TI", (), {"xcom_pull": lambda self, name: {"version": "v1"}})()})
print(json.dumps(ApiClient().sanitize_for_serialization(task.build_pod_request_obj())))
"""


def airflow(python: Path, code: str, argument: Path, file: Path) -> Any:
    cluster = {"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}
    kube = {"clusters": [cluster], "contexts": [{"name": "c", "context": {"cluster": "none", "user": ""}}]}
    (file.parent / "kube").write_text(json.dumps({**kube, "current-context": "c", "users": [{"name": ""}]}))
    environment = {
        "KUBECONFIG": str(file.parent / "kube"),
        **os.environ,
        "AIRFLOW_HOME": str(file.parent / "home"),
        "PENSTOCK_PIPELINES": str(file),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [str(python), "-c", code, str(argument)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_pipeline_has_its_dags_and_reading_them_needs_nothing_heavy(airflow_python: Path, tmp_path: Path) -> None:
    file = settings(
        tmp_path,
        f'[pipelines.a]\n{LEAST}runs = "/r"\nreleases = "/e"\npredictions = "/p"\n'
        f'[pipelines.b]\n{LEAST}schedule = "@daily"\nintervals = true\n[pipelines.c]\n{LEAST}runs = "/r"\n',
    )
    read = airflow(airflow_python, READ, ROOT / "dags" / "pipelines.py", file)
    etl = {"etl": ["announce"], "announce": []}
    assert read["shape"] == {
        "a_etl": etl,
        "a_train": {
            "choose": ["train"],
            "train": ["rows_for_released"],
            "rows_for_released": ["release"],
            "release": ["predict"],
            "predict": [],
        },
        "b_etl": etl,
        "c_etl": etl,
        "c_train": {"choose": ["train"], "train": []},
    }
    assert read["heavy"] == []


def test_a_pod_asks_for_the_gpu_and_has_time_for_its_checkpoint(airflow_python: Path, tmp_path: Path) -> None:
    launcher = '{kind = "kubernetes", image = "registry/penstock:1", namespace = "ml", gpus = 2}'
    file = settings(tmp_path, f'[pipelines.a]\n{LEAST}runs = "/r"\nlauncher = {launcher}\ntrain = ["--epochs", "3"]\n')
    pod = airflow(airflow_python, POD, ROOT, file)
    (container,) = pod["spec"]["containers"]
    assert (container["image"], container["command"]) == ("registry/penstock:1", ["penstock"])
    expected = "train digits --data /dataset --version v1 --out /r/v1 --epochs 3 --json"
    assert container["args"] == expected.split()
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert (pod["metadata"]["namespace"], pod["spec"]["restartPolicy"]) == ("ml", "Never")
    assert pod["spec"]["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize("said", ["", "[pipelines.a]\n"])
def test_settings_that_are_wrong_are_an_import_error_with_their_sentence(
    airflow_python: Path, tmp_path: Path, said: str
) -> None:
    file = settings(tmp_path, said)
    code = "import sys, runpy\nprint(len(runpy.run_path(sys.argv[1])['made']))"
    if not said:
        assert airflow(airflow_python, code, ROOT / "dags" / "pipelines.py", file) == 0
    else:
        with pytest.raises(AssertionError, match="pipeline 'a': lacks recipe, raw, dataset"):
            airflow(airflow_python, code, ROOT / "dags" / "pipelines.py", file)
