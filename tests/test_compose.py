"""docker-compose.yml names only what the project has. That its commands work: tests/cluster/test_containers.py."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from typing import Any

import pytest

from dags import serve, settings
from etl.run import parser as etl_parser
from tests.cluster.compose import FILE, ROOT, services

SERVICES = services()
NAMES = sorted(SERVICES)


def line(service: dict[str, Any]) -> list[str]:
    return [*service.get("entrypoint", []), *service.get("command", [])]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed here")
def test_an_implementation_takes_it() -> None:
    done = subprocess.run(["docker-compose", "--file", FILE, "config", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_what_a_service_is_made_of_is_there(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:  # an official image, pinned
        assert re.fullmatch(r"[a-z]+:\d+\.\d+\S*", service["image"])
        return
    assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for mount in service.get("volumes", []):
        if mount.startswith("./"):
            assert (ROOT / mount.split(":")[0]).exists()
    words = line(service)
    assert not words or (words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2]))
    waited_for = service.get("depends_on", {})
    assert all(on["condition"] == "service_healthy" and "healthcheck" in SERVICES[n] for n, on in waited_for.items())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_of_this_machine_alone_and_tells_no_secret(name: str) -> None:
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not [key for key in service.get("environment", {}) if re.search("PASSWORD|SECRET|TOKEN|KEY", key)]


def test_the_files_that_images_are_made_of_are_there() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for file in re.findall(r"^COPY (requirements/\S+)", dockerfile, re.MULTILINE):
        assert (ROOT / file).exists()
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+-", dockerfile, re.MULTILINE)  # a pinned base


def test_daemons_find_each_other_by_the_addresses_of_their_configuration() -> None:
    for file in ("core-site.xml", "hdfs-site.xml"):
        for address in re.findall(r"\$\{env\.\w+:-([^}/]+:\d+)\}", (ROOT / "cluster" / "conf" / file).read_text()):
            host = address.split(":")[0]
            assert host == "0.0.0.0" or SERVICES[host]["hostname"] == host
    for worker in ("worker-0", "worker-1"):
        assert SERVICES[worker]["environment"]["SPARK_MASTER_URL"] == "spark://master:7077"
    assert SERVICES["master"]["environment"]["SPARK_MASTER_PORT"] == "7077"


def test_airflow_is_what_make_airflow_starts_with_variables_that_it_knows() -> None:
    service = SERVICES["airflow"]
    assert serve.parser().parse_args(service["command"][3:]).port == 8080
    own = {"HADOOP_CONF_DIR", "MLFLOW_TRACKING_URI", settings.VARIABLE}
    assert {name for name in service["environment"] if not name.startswith("AIRFLOW_")} == own
    database = service["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert re.findall(r"//(\w+)@(\w+)/", database) == [
        (SERVICES["postgres"]["environment"]["POSTGRES_USER"], "postgres")
    ]


def test_etl_is_started_with_arguments_that_it_takes() -> None:
    told = SERVICES["etl"]["entrypoint"][3:]
    arguments = etl_parser().parse_args([*told, "mnist", "--raw", "/raw", "--out", "hdfs://namenode:8020/x"])
    assert arguments.master == "spark://master:7077"
