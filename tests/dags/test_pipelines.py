"""Pipelines in a real Airflow: the whole way, backfills, gates, and what is left when something is killed.

What counts is what lies in the folders: each version built once, trained once, released at most once.
"""

from __future__ import annotations

import getpass
import http.server
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from cluster.daemons import free_port
from penstock import card as cards
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.released import history
from penstock.verify import verify
from tests.conftest import SHARED_DATA
from tests.dags.conftest import Site, processes, read_json, site, starts, wait_for

INVOICES = SHARED_DATA / "online_retail" / "online_retail_by_day_full.tar.gz"
FAILS_ONCE = """
from pathlib import Path
from recipes.digits import dataset as digits
from recipes.digits.dataset import clean, fit, rules, schema, split

def read(spark, raw_url, labelled):
    marker = Path(__file__).with_name("tried")
    if not marker.exists():
        marker.touch()
        raise OSError("the network is gone")
    return digits.read(spark, raw_url, labelled)
"""
SETTINGS = """
[defaults]
spark_options = {{env_vars = {{PYSPARK_PYTHON = "$PENSTOCK_PYTHON"}}}}
retries = 2
retry_seconds = 2
recipe = "digits"
raw = "{demo}/digits.csv"
train = ["--epochs", "2"]
limits = {{max_stall = 1.0}}
launcher = {{penstock = "$PENSTOCK_COMMAND"}}

[pipelines.whole]
schedule = "@once"
dataset = "{out}/whole/dataset"
runs = "{out}/whole/runs"
releases = "{out}/whole/releases"
predictions = "{out}/whole/predictions"

[pipelines.days]
schedule = "@daily"
start = 2026-01-01
intervals = true
missing_raw = "skip"
raw = "{demo}/raw/{{{{ data_interval_start | ds }}}}.csv"
dataset = "{out}/days/dataset"
runs = "{out}/days/runs"
releases = "{out}/days/releases"
predictions = "{out}/days/predictions"

[pipelines.shop]
recipe = "online_retail"
schedule = "@daily"
start = 2010-12-01
intervals = true
missing_raw = "skip"
raw = "{out}/invoices/{{{{ data_interval_start | ds }}}}.csv"
dataset = "{out}/shop/dataset"

[pipelines.flaky]
schedule = "@once"
recipe = "{flaky}"
dataset = "{out}/flaky/dataset"

[pipelines.limited]
schedule = "@once"
dataset = "{out}/limited/dataset"
runs = "{out}/limited/runs"
limits = {{min_intervals = 2}}

[pipelines.idle]
schedule = "@once"
dataset = "{out}/idle/dataset"
runs = "{out}/idle/runs"
releases = "{out}/idle/releases"
predictions = "{out}/idle/predictions"
limits = {{max_stall = 0.0}}

[pipelines.mistaken]
schedule = "@once"
dataset = "{out}/mistaken/dataset"
runs = "{out}/mistaken/runs"
train = ["--model", "nope"]

[pipelines.long]
dataset = "{out}/long/dataset"
runs = "{out}/long/runs"
train = ["--epochs", "150", "--checkpoint-seconds", "0.5"]

[pipelines.far]
dataset = "{out}/far/dataset"
runs = "{out}/far/runs"
train = ["--epochs", "150", "--checkpoint-seconds", "0.5"]
launcher = {{kind = "ssh", ssh = "box"}}
"""


@dataclass
class Webhook:
    url: str
    heard: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        heard = Webhook(f"http://127.0.0.1:{server.server_address[1]}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield heard
        server.shutdown()


@pytest.fixture(scope="module")
def box() -> Iterator[str]:
    """Airflow's connection to a real sshd on loopback; "" where there is none."""
    if (sshd := shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")) is None:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="penstock-sshd-") as name:
        folder, port = Path(name), free_port()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # what the package's service makes
        options = (
            "ListenAddress=127.0.0.1",
            f"Port={port}",
            f"HostKey={folder / 'host'}",
            "StrictModes=no",
            "UsePAM=no",
        )
        options += (
            f"AuthorizedKeysFile={folder / 'user.pub'}",
            "PidFile=none",
            "UsePAM=no",
            "PermitRootLogin=prohibit-password",
        )
        line = [sshd, "-D", "-e", "-f", "/dev/null", *(part for option in options for part in ("-o", option))]
        server = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        kind, public, *_ = (folder / "host.pub").read_text().split()
        extra = {"key_file": str(folder / "user"), "host_key": f"{kind} {public}", "no_host_key_check": False}
        login = {"host": "127.0.0.1", "port": port, "login": getpass.getuser(), "extra": extra}
        try:
            yield json.dumps({"conn_type": "ssh", **login})
        finally:
            server.terminate()
            server.wait()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def airflow(
    airflow_python: Path,
    digits: Path,
    out: Path,
    webhook: Webhook,
    box: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    flaky = out / "recipe"
    flaky.mkdir()
    (flaky / "dataset.py").write_text(FAILS_ONCE)
    settings = SETTINGS.format(demo=digits, out=out, flaky=flaky)
    environment = {"PENSTOCK_WEBHOOK": webhook.url, "AIRFLOW_CONN_BOX": box}
    with site(tmp_path_factory.mktemp("airflow"), settings, **environment) as running:
        yield running


def check_files(folder: Path, trained: int | None = None) -> list[Card]:
    """Each version is there once and whole, and trained and released once at most. Returns them, oldest first."""
    dataset, runs = folder / "dataset", folder / "runs"
    versions = [card for card in cards.versions(str(dataset)) if isinstance(card, Card)]
    for card in versions:
        assert verify(str(dataset), Console(), card.version)[1] == []
    built = Counter(path.name.partition("-")[0] for path in (dataset / "data").iterdir())
    assert built == Counter(card.version for card in versions)
    done = [path.name for path in runs.glob("*") if (path / "report.json").exists()] if runs.exists() else []
    assert trained is None or len(done) == trained
    released = [switch.run for switch in history(str(folder / "releases")) if switch.kind == "release"]
    assert len(released) == len(set(released))
    return versions


def test_from_the_schedule_to_predictions(airflow: Site, out: Path) -> None:
    (trained,) = airflow.trained("whole")
    tasks = airflow.tasks("whole_train", trained["dag_run_id"])
    assert {name: task["state"] for name, task in tasks.items()} == dict.fromkeys(
        ("choose", "train", "rows_for_released", "release", "predict"), "success"
    )
    (card,) = check_files(out / "whole", trained=1)
    (event,) = airflow.events("whole")
    assert (event["extra"]["version"], event["extra"]["counts"]) == (card.version, dict(card.counts))
    assert Path(event["extra"]["card"]).is_file()
    run = out / "whole" / "runs" / card.version
    assert starts(run) == 1
    assert read_json(out / "whole" / "releases" / "released.json")["run"] == str(run)
    predicted = pq.read_table(out / "whole" / "predictions" / f"{card.version}.parquet")
    assert predicted.num_rows == card.counts["built"]

    assert card.version in tasks["choose"]["note"]
    assert "data_stall" in tasks["train"]["note"]
    log = airflow.log("whole_train", trained["dag_run_id"], "train")
    assert str(run) in log
    assert "accuracy" in log


def test_etl_that_fails_once_is_tried_again(airflow: Site, out: Path) -> None:
    (run,) = airflow.runs("flaky_etl")
    tasks = airflow.ended("flaky_etl", run["dag_run_id"])
    assert (tasks["etl"]["state"], tasks["etl"]["try_number"]) == ("success", 2)
    assert len(check_files(out / "flaky")) == 1


def test_a_version_beyond_a_limit_is_not_announced(airflow: Site, out: Path, webhook: Webhook) -> None:
    (run,) = airflow.runs("limited_etl")
    tasks = airflow.ended("limited_etl", run["dag_run_id"])
    assert (tasks["etl"]["state"], tasks["announce"]["state"]) == ("success", "failed")
    reason = "built from 1 clean intervals, below min_intervals = 2"
    wait_for(lambda: reason in (airflow.tasks("limited_etl", run["dag_run_id"])["announce"]["note"] or ""), "the note")
    assert reason in airflow.log("limited_etl", run["dag_run_id"], "announce")
    wait_for(lambda: any(reason in said["reason"] for said in webhook.heard), "the webhook")
    assert airflow.events("limited") == []
    assert airflow.runs("limited_train") == []


def test_a_model_that_waited_for_data_is_kept_and_while_nothing_is_released_nothing_predicts(
    airflow: Site, out: Path
) -> None:
    (run,) = airflow.trained("idle")
    tasks = airflow.tasks("idle_train", run["dag_run_id"])
    assert (run["state"], tasks["release"]["state"], tasks["predict"]["state"]) == ("success", "success", "skipped")
    assert "data stall" in tasks["release"]["note"]
    assert not (out / "idle" / "releases" / "released.json").exists()
    check_files(out / "idle", trained=1)


def test_an_error_that_is_the_user_s_is_not_tried_again(airflow: Site, webhook: Webhook) -> None:
    (run,) = airflow.trained("mistaken")
    tasks = airflow.tasks("mistaken_train", run["dag_run_id"])
    assert (tasks["train"]["state"], tasks["train"]["try_number"]) == ("failed", 1)
    wait_for(lambda: any("no model 'nope'" in said["reason"] for said in webhook.heard), "the webhook")


def test_a_trainer_that_is_preempted_goes_on_without_using_up_a_retry(airflow: Site, out: Path) -> None:
    airflow.trigger("long_etl")
    runs = out / "long" / "runs"
    wait_for(lambda: any(runs.glob("*/checkpoints/step-*.pt")), "a checkpoint")
    (trainer,) = processes("penstock train", str(runs)) or processes("penstock", "train", str(runs))
    os.kill(trainer, signal.SIGTERM)
    wait_for(lambda: any(starts(run) == 2 for run in runs.iterdir()), "the second start")
    (run,) = airflow.runs("long_train")
    # Killed for real now: its worker, and with it the trainer.
    wait_for(lambda: len(processes("penstock", "train", str(runs))) == 1, "the trainer")
    supervisors = [pid for pid in _ancestors(processes("penstock", "train", str(runs))[0]) if _is_task_runner(pid)]
    for pid in supervisors:
        os.kill(pid, signal.SIGKILL)
    tasks = airflow.ended("long_train", run["dag_run_id"])
    assert tasks["train"]["state"] == "success"
    assert tasks["train"]["try_number"] == 2  # for the kill alone
    (folder,) = runs.iterdir()
    assert starts(folder) == 3
    check_files(out / "long", trained=1)


def test_a_trainer_by_ssh_is_stopped_with_its_task_and_goes_on(airflow: Site, out: Path, box: str) -> None:
    if not box:
        pytest.skip("there is no sshd here: apt-get install openssh-server")
    airflow.trigger("far_etl")
    runs = out / "far" / "runs"
    wait_for(lambda: any(runs.glob("*/checkpoints/step-*.pt")), "a checkpoint")
    (trainer,) = processes("penstock", "train", str(runs))
    assert any("sshd" in Path(f"/proc/{pid}/cmdline").read_text() for pid in _ancestors(trainer))
    (run,) = airflow.runs("far_train")
    dag_run = {"dag_run_id": run["dag_run_id"]}
    airflow.api("PATCH", f"dags/far_train/dagRuns/{run['dag_run_id']}/taskInstances/train", {"new_state": "failed"})
    (folder,) = runs.iterdir()
    wait_for(lambda: read_json(folder / "status.json")["state"] == "preempted", "the trainer's end")
    again = {"dry_run": False, "task_ids": ["train"], "only_failed": True, "reset_dag_runs": True, **dag_run}
    airflow.api("POST", "dags/far_train/clearTaskInstances", again)
    wait_for(lambda: starts(folder) == 2, "the second start")
    assert airflow.ended("far_train", run["dag_run_id"])["train"]["state"] == "success"
    check_files(out / "far", trained=1)


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def _is_task_runner(pid: int) -> bool:
    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return "airflow" in line and "scheduler" not in line and "api" not in line


@pytest.mark.soak
def test_a_backfill_of_ten_days_reads_each_day_once(airflow: Site, out: Path) -> None:
    """Of a real web shop, which was closed on one of them."""
    if not INVOICES.is_file():
        pytest.skip("the invoices are not on this machine (expected in ../shared/data)")
    days = [f"2010-12-{day:02}" for day in range(1, 11)]
    (out / "invoices").mkdir()
    with tarfile.open(INVOICES) as archive:
        for member in archive:
            if Path(member.name).stem in days:
                member.name = Path(member.name).name
                archive.extract(member, out / "invoices")
    lines = {path.stem: path.read_bytes().count(b"\n") - 1 for path in (out / "invoices").iterdir()}
    span = {"from_date": f"{days[0]}T00:00:00Z", "to_date": f"{days[-1]}T00:00:00Z"}
    number = airflow.api("POST", "backfills", {"dag_id": "shop_etl", **span, "max_active_runs": 1})["id"]
    wait_for(lambda: airflow.api("GET", f"backfills/{number}")["completed_at"] is not None, "the backfill")
    clean = [card for card in cards.versions(str(out / "shop" / "dataset" / "clean")) if isinstance(card, CleanCard)]
    read = [file["name"] for card in clean for file in card.lineage["raw_files"]]
    assert sorted(read) == sorted(f"{day}.csv" for day in lines)
    assert 8 <= len(lines) < 10
    last = check_files(out / "shop")[-1]
    assert (last.counts["raw"], len(last.lineage["clean"])) == (sum(lines.values()), len(lines))


def test_days_again_killed_schedulers_and_overlaps_leave_each_version_once(airflow: Site, out: Path) -> None:
    folder, dataset = out / "days", str(out / "days" / "dataset")

    # A backfill of four days, and a run by hand for one of them beside it; the scheduler is killed in the middle.
    span = {"from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-04T00:00:00Z"}
    number = airflow.api("POST", "backfills", {"dag_id": "days_etl", **span, "max_active_runs": 1})["id"]
    by_hand = airflow.trigger("days_etl", date="2026-01-06")
    wait_for(lambda: len(_clean(dataset)) >= 1, "the first clean day")
    airflow.airflow.stop("scheduler", signum=signal.SIGKILL)
    airflow.airflow.start("scheduler")
    wait_for(lambda: airflow.api("GET", f"backfills/{number}")["completed_at"] is not None, "the backfill")
    airflow.ended("days_etl", by_hand)
    assert sorted(_clean(dataset)) == ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04", "2026-01-06"]
    airflow.trained("days")
    versions = check_files(folder)
    trained = {run.name for run in (folder / "runs").iterdir() if (run / "report.json").exists()}
    superseded = {path.stem for path in (folder / "runs" / "superseded").glob("*.json")}
    announced = {event["extra"]["version"] for event in airflow.events("days")}
    assert announced == trained | superseded
    assert not trained & superseded
    assert all(starts(folder / "runs" / version) == 1 for version in trained)

    # A day again, and an event again of the version that was trained: nothing changes.
    there, count, events = _files(folder), len(airflow.runs("days_train")), airflow.events("days")
    last = max(run["dag_run_id"] for run in airflow.runs("days_etl") if run["run_type"] == "backfill")
    airflow.api("POST", f"dags/days_etl/dagRuns/{quote(last)}/clear", {"dry_run": False, "only_failed": False})
    wait_for(lambda: len(airflow.events("days")) == len(events) + 1, "the day's event")
    newest = next(event for event in events if event["extra"]["version"] in trained)
    airflow.trained("days", count + 1)
    airflow.api("POST", "assets/events", {"asset_id": newest["asset_id"], "extra": newest["extra"]})
    airflow.trained("days", count + 2)
    assert _files(folder) == there
    assert {card.version for card in check_files(folder)} == {card.version for card in versions}

    # A day without raw data is skipped.
    skipped = airflow.ended("days_etl", airflow.trigger("days_etl", date="2026-02-01"))
    assert {task["state"] for task in skipped.values()} == {"skipped"}


def _clean(dataset: str) -> list[str]:
    """The first day of each clean interval."""
    found = [card for card in cards.versions(f"{dataset}/clean") if isinstance(card, CleanCard)]
    return [card.lineage["interval"].partition("/")[0] for card in found]


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_worse_model_is_kept_and_the_released_one_predicts(airflow: Site, out: Path) -> None:
    """The oldest of the daily versions, of a sixth of the rows, against what is released by then."""
    folder = out / "days"
    shutil.rmtree(folder / "runs" / "superseded", ignore_errors=True)
    versions = [card for card in cards.versions(str(folder / "dataset")) if isinstance(card, Card)]
    smallest = min((card for card in versions if "frozen" not in card.lineage), key=lambda card: card.counts["built"])
    before = read_json(folder / "releases" / "released.json")
    run = airflow.trigger("days_train", {"version": smallest.version})
    tasks = airflow.ended("days_train", run)
    assert {task["state"] for task in tasks.values()} == {"success"}
    assert read_json(folder / "releases" / "released.json") == before
    assert "released: False" in tasks["release"]["note"]
    predicted = pq.read_table(folder / "predictions" / f"{smallest.version}.parquet")
    assert predicted.num_rows == smallest.counts["built"]
