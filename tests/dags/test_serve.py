"""`make airflow` and `penstock dag`, as a person starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.daemons import free_port
from dags.api import Api
from dags.serve import ROOT
from penstock.card import Card, versions
from penstock.released import released
from tests.dags.conftest import processes, wait_for

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.mark.dags
def test_airflow_starts_with_the_demo_and_ctrl_c_stops_all_of_it(airflow_python: Path, tmp_path: Path) -> None:
    port, home = free_port(), tmp_path / "home"
    line = [sys.executable, "-m", "dags.serve", "--home", str(home), "--port", str(port)]
    said = tmp_path / "said"
    with said.open("wb") as out:
        server = subprocess.Popen(line, env=ENVIRONMENT, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(lambda: "Ctrl-C stops" in said.read_text() or server.poll() is not None, "Airflow")
        told = re.search(r"(http://\S+)  user (\S+), password (\S+)", said.read_text())
        assert told is not None, said.read_text()
        assert (home / "secrets.json").stat().st_mode & 0o777 == stat.S_IRUSR | stat.S_IWUSR
        api = Api(told[1], told[2], told[3])
        wait_for(lambda: len(api("GET", "dags?exclude_stale=false")["dags"]) == 4, "the demo's DAGs")
        assert all(dag["is_paused"] for dag in api("GET", "dags")["dags"])
        with pytest.raises(OSError, match="401"):
            Api(told[1], told[2], "another")("GET", "dags")
    finally:
        server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    assert "Airflow is stopped" in said.read_text()
    assert processes(str(home)) == []


@pytest.mark.dags
def test_a_pipeline_in_the_foreground(airflow_python: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "penstock.cli", "dag", "digits_daily", "--date", "2026-01-03"]
    home = tmp_path / "home"
    done = subprocess.run(
        [*line, "--home", str(home), "--json"],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"pipeline": "digits_daily"}
    folder = home / "demo" / "digits_daily"
    (card,) = (found for found in versions(str(folder / "dataset")) if isinstance(found, Card))
    assert card.lineage["interval"] == "2026-01-03/2026-01-04"
    switch = released(str(folder / "releases"))
    assert switch is not None
    assert switch.run == str(folder / "runs" / card.version)
    assert (folder / "predictions" / f"{card.version}.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "no pipeline 'nothing' in the settings file; there are digits, digits_daily"),
        (["digits", "--date", "yesterday"], "interval 'yesterday'"),
        (["digits"], "no pipeline"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    airflow_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    from penstock import cli

    if sentence == "no pipeline":
        (tmp_path / "empty.toml").write_text("")
        arguments = [*arguments, "--pipelines", str(tmp_path / "empty.toml")]
    assert cli.main(["dag", *arguments, "--home", str(tmp_path / "home")]) == 1
    assert sentence in capsys.readouterr().err
