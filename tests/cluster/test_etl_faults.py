"""ETL from HDFS to HDFS on standalone Spark, hurt while it runs: daemons die, stop, lose blocks, are full or refuse.

Each fault ends with the version, counts and digests that a local Spark makes of local files, or with one sentence and
nothing published. A moment is drawn from the time in which a job works; the soak tests draw many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import daemons, jars
from cluster.__main__ import HOST, Cluster, down, up
from etl import java
from etl.run import etl
from etl.spark import session
from penstock import card as cards
from penstock import cli, store
from penstock.card import Card
from penstock.console import Console
from penstock.errors import RawDataError
from penstock.gc import unneeded
from penstock.recipe import find
from tests.cluster.conftest import DRAWN, RAW, ROOT, blocks, check_rows, corrupt, killed, put, stopped
from tests.conftest import SHARED_DATA

COPIES = 12  # of the digits: 21,564 rows in two shards
WITHIN_S = 120.0
DEFAULTS = f"""
spark.driver.host            {HOST}
spark.driver.memory          1g
spark.executor.memory        1g
spark.executorEnv.SPARK_LOCAL_IP {HOST}
spark.ui.enabled             false
spark.ui.showConsoleProgress false
"""


@dataclass(frozen=True)
class Site:
    """The cluster, and digits on its HDFS with what is expected of them."""

    cluster: Cluster
    raw: str
    expected: Card
    environment: dict[str, str]  # of clients

    def out(self, name: str) -> str:
        return f"{self.cluster.hdfs_url}/user/tester/{name}"

    def executors(self, with_python: bool = False) -> list[daemons.Process]:
        """The executors' JVMs, which work in the workers' folders; or only those that have begun with a Python task."""
        found = []
        for i in range(2):
            below = [(process, command(process)) for process in daemons.below(self.cluster.folder / f"data/worker-{i}")]
            if not with_python or any(b"pyspark.daemon" in line for _, line in below):
                found += [process for process, line in below if b"CoarseGrainedExecutorBackend" in line]
        return found


@pytest.fixture(scope="module")
def many_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """csv files of the digits, in each of them with all pixels moved on by one more place."""
    folder = tmp_path_factory.mktemp("raw")
    digits = np.loadtxt(RAW, np.int64, delimiter=",")
    for i in range(COPIES):
        moved = np.concatenate([np.roll(digits[:, :64], i, axis=1), digits[:, 64:]], axis=1)
        np.savetxt(folder / f"{i:02}.csv", moved, "%d", delimiter=",")
    return folder


@pytest.fixture(scope="module")
def site(hdfs: Cluster, many_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    cluster = up(hdfs.folder, ["hdfs", "spark"], Console())
    expected = etl(find("digits"), str(many_digits), str(tmp_path_factory.mktemp("local")), Console()).card
    conf = tmp_path_factory.mktemp("conf")
    (conf / "spark-defaults.conf").write_text(DEFAULTS)
    environment = {"HADOOP_CONF_DIR": str(cluster.conf), "SPARK_CONF_DIR": str(conf), "SPARK_LOCAL_IP": HOST}
    return Site(cluster, put(many_digits, f"{cluster.hdfs_url}/raw/many-digits"), expected, environment)


@pytest.fixture(scope="module")
def spark(site: Site) -> Iterator[None]:
    """A session on the two workers, which the jobs of this process use. It takes all cores: tests before use others."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.environment.items():
            patch.setenv(name, value)
        with session("tests", site.cluster.spark_url):
            yield


# Jobs of their own, each a process


@DRAWN
def test_a_driver_that_is_killed(site: Site, tmp_path: Path, times: int, seed: int) -> None:
    rng, out = random.Random(seed), site.out(f"drivers-{seed}")
    for _ in range(times):
        job = started(site, tmp_path, out, "--master", site.cluster.spark_url)
        during_work(out, rng, 8.0)
        os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()
        until(lambda: not site.executors())  # they notice that their driver has gone
        if cards.versions(out):  # it was done before
            check_rows(out, site.expected)
            store.remove(out)
            continue
        left = {each.path for each in unneeded(out)}
        assert any(path.startswith(("data/", "duplicates/")) for path in left)
        assert cli.main(["gc", out, "--older-than", "0", "--remove"]) == 0
        assert store.file_names(out) == []
    said = started(site, tmp_path, out, "--master", site.cluster.spark_url).said(0)
    assert f"Dataset version {site.expected.version} published" in said
    check_rows(out, site.expected)
    assert unneeded(out) == []


def test_an_executor_too_many_ends_a_job_in_a_sentence(site: Site, tmp_path: Path) -> None:
    out, settings = site.out("lost"), "--conf spark.task.maxFailures=1 pyspark-shell"
    job = started(site, tmp_path, out, "--master", site.cluster.spark_url, PYSPARK_SUBMIT_ARGS=settings)
    until(lambda: bool(site.executors(with_python=True)))
    for process in site.executors(with_python=True):
        os.kill(process.pid, signal.SIGKILL)
    said = job.said(1)
    assert "error: Spark has lost executors more often than spark.task.maxFailures allows (Command exited with" in said
    assert store.file_names(out) == []


@DRAWN
def test_of_two_jobs_for_one_version_the_first_card_stands(site: Site, tmp_path: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(times):
        out, jobs = site.out(f"two-{seed}-{i}"), []
        for name in ("first", "second"):
            jobs.append(started(site, tmp_path / f"{i}" / name, out, "--master", "local[1]"))
            time.sleep(rng.uniform(0, 2))
        last, first = sorted((job.said(0) for job in jobs), key=lambda said: "published:" in said)
        assert "published:" in first
        assert "Another job published this version first" in last
        check_rows(out, site.expected)
        assert unneeded(out) == []


def test_an_output_that_may_not_be_written_is_said_before_spark_starts(site: Site, tmp_path: Path) -> None:
    closed = site.out("closed")
    fs, path = store.filesystem(closed)
    fs.client.mkdirs(path, 0o555, True)
    said = started(site, tmp_path, f"{closed}/dataset", HADOOP_USER_NAME="guest").said(1)
    assert f"error: {closed}/dataset" in said
    assert 'permission denied (user=guest, access=WRITE, inode="/user/tester/closed":' in said
    assert "start Spark" not in said


def test_raw_data_that_may_not_be_read_is_said_before_spark_starts(site: Site, tmp_path: Path) -> None:
    closed = f"{site.cluster.hdfs_url}/raw/closed"
    store.write(f"{closed}/digits.csv", memoryview(b"1"))
    store.make_private(closed)
    said = started(site, tmp_path, site.out("never"), raw=closed, HADOOP_USER_NAME="guest").said(1)
    assert 'permission denied (user=guest, access=READ_EXECUTE, inode="/raw/closed":' in said
    assert "start Spark" not in said


def test_a_quota_that_is_used_up_publishes_nothing(site: Site, tmp_path: Path) -> None:
    out = site.out("quota")
    store.write(f"{out}/first", memoryview(b"1"))
    admin(site, "-setSpaceQuota", "257m", out)  # HDFS asks for a whole block with its replica, 256 MB, for a file
    said = started(site, tmp_path, out, "--master", "local[2]").said(1)
    assert "no space left: the DiskSpace quota of /user/tester/quota is exceeded: quota = 269484032 B = 257 MB" in said
    assert store.file_names(out) == ["first"]


def test_datanodes_that_are_full_are_said_before_spark_starts(site: Site, many_digits: Path, tmp_path: Path) -> None:
    # A DataNode leaves 1 GB alone, and asks for another one where it begins a block.
    with small_disk(tmp_path / "cluster" / "data", "1400m"), ExitStack() as stack:
        stack.callback(down, tmp_path / "cluster")
        out = f"{up(tmp_path / 'cluster', ['hdfs'], Console()).hdfs_url}/dataset"
        said = started(site, tmp_path, out, raw=str(many_digits)).said(1)
        assert f"error: {out}: no DataNode takes another block" in said
        assert "start Spark" not in said
        assert store.file_names(out) == []


def test_a_full_disk_of_an_executor_publishes_nothing(site: Site, tmp_path: Path) -> None:
    out = site.out("full-executor")
    with small_disk(tmp_path / "scratch", "2m"):
        said = started(site, tmp_path, out, "--master", "local[2]", SPARK_LOCAL_DIRS=str(tmp_path / "scratch")).said(1)
    assert "no space left on the device; free some or choose another place" in said
    assert store.file_names(out) == []


# What logs are told

MARKER, SECRET = "Zwetschgenmus", "5ec7e7" * 11  # of rows, and in the environment
PEOPLE = """
from etl.read import csv
from penstock.privacy import Pseudonymise
from penstock.recipe import Split
from penstock.schema import Field, Schema

schema = Schema((Field("name", "string"), Field("note", "string"), Field("age", "int32")), key="name")
split = Split({"train": 0.5, "test": 0.5})
private = {"name": Pseudonymise()}

def read(spark, raw_url, labelled):
    return csv(spark, raw_url, {"name": "string", "note": "string", "age": "int"})

def clean(df):
    return df
"""


@pytest.mark.soak
def test_lines_about_faults_are_objects_without_values_of_rows_and_secrets(site: Site, tmp_path: Path) -> None:
    """URLs have the secret, so that each line that names one would show it; one row of 600 is refused."""
    ages = [MARKER if i % 600 == 0 else str(i % 90) for i in range(20_000)]
    rows = "".join(f"{MARKER}{i},{MARKER} {i},{age}\n" for i, age in enumerate(ages)).encode()
    store.write(f"{tmp_path}/people/dataset.py", memoryview(PEOPLE.encode()))
    before = [blocks(site.cluster, f"datanode-{i}") for i in range(2)]
    raws = [f"{site.cluster.hdfs_url}/raw/{SECRET}-{name}" for name in ("whole", "closed", "corrupt")]
    for raw in raws:
        store.write(f"{raw}/people.csv", memoryview(rows))
    store.make_private(raws[1])
    told = {"PENSTOCK_LOG": "json", "PENSTOCK_PSEUDONYM_KEY": SECRET}

    def job(name: str, *options: str, raw: str = raws[0], **environment: str) -> Job:
        folder, recipe = tmp_path / f"{len(list(tmp_path.iterdir()))}", str(tmp_path / "people")
        where, environment = site.out(f"{SECRET}-{name}"), told | environment
        return started(site, folder, where, *options, recipe=recipe, raw=raw, **environment)

    def said(job: Job, code: int, expected: str) -> list[dict[str, Any]]:
        text = job.said(code)
        assert MARKER not in text
        assert SECRET not in text
        ours = [json.loads(line) for line in text.splitlines() if '"command": "etl"' in line]
        assert expected in "\n".join(line["message"] for line in ours)
        return ours

    local, url = ("--master", "local[1]"), f"{site.cluster.hdfs_url}"
    said(job("never", *local, raw=raws[1], HADOOP_USER_NAME="guest"), 1, f"{url}/raw/***-closed: permission denied (")
    store.write(site.out(f"{SECRET}-quota/first"), memoryview(b"1"))
    admin(site, "-setSpaceQuota", "257m", site.out(f"{SECRET}-quota"))
    said(job("quota", *local), 1, "the DiskSpace quota of /user/tester/***-quota is exceeded")
    both = [job("two", *local) for _ in range(2)]
    messages = "\n".join(line["message"] for one in both for line in said(one, 0, "Quarantined rows"))
    assert "Another job published this version first" in messages
    said(job("never", *local, HADOOP_USER_NAME="guest"), 1, "user=guest, access=WRITE, inode=")
    settings = "--conf spark.task.maxFailures=1 --conf spark.log.structuredLogging.enabled=true pyspark-shell"
    lost = job("lost", "--master", site.cluster.spark_url, PYSPARK_SUBMIT_ARGS=settings)
    until(lambda: bool(site.executors(with_python=True)))
    for process in site.executors(with_python=True):
        os.kill(process.pid, signal.SIGKILL)
    said(lost, 1, "Spark has lost executors more often than")
    for i, old in enumerate(before):
        corrupt({path for path in blocks(site.cluster, f"datanode-{i}") - old if MARKER.encode() in path.read_bytes()})
    said(job("never", *local, raw=raws[2]), 1, "no DataNode gives one of its blocks")


# Jobs in one session


@DRAWN
def test_an_executor_that_is_killed(site: Site, spark: None, times: int, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(times):
        out = site.out(f"executor-{seed}-{i}")

        with meanwhile(lambda out=out: kill_executor(site, out, rng, 3.0)):
            etl(find("digits"), site.raw, out, Console())
        check_rows(out, site.expected)
        until(lambda: len(site.executors()) == 2)


def kill_executor(site: Site, out: str, rng: random.Random, within_s: float) -> None:
    during_work(out, rng, within_s)
    os.kill(rng.choice(site.executors()).pid, signal.SIGKILL)


@DRAWN
def test_a_datanode_that_is_killed(site: Site, spark: None, times: int, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(times):
        out, name = site.out(f"datanode-{seed}-{i}"), f"datanode-{rng.randrange(2)}"
        with ExitStack() as until_checked:

            def hurt(out: str = out, name: str = name, stack: ExitStack = until_checked) -> None:
                during_work(out, rng, 3.0)
                stack.enter_context(killed(site.cluster, name))

            with meanwhile(hurt):  # every second time Spark's JVM writes, too
                etl(find("digits"), site.raw, out, Console(), keep_clean=i % 2 == 0)
            check_rows(out, site.expected)


def test_corrupt_blocks_of_raw_files_are_read_from_their_replicas(site: Site, many_digits: Path, spark: None) -> None:
    before = [blocks(site.cluster, f"datanode-{i}") for i in range(2)]
    raw, out = put(many_digits, f"{site.cluster.hdfs_url}/raw/corrupt"), site.out("corrupt")
    new = [blocks(site.cluster, f"datanode-{i}") - old for i, old in enumerate(before)]
    corrupt(new[0])
    etl(find("digits"), raw, out, Console())
    check_rows(out, site.expected)
    corrupt(new[1])
    with pytest.raises(RawDataError, match="cannot be read"):
        etl(find("digits"), raw, site.out("corrupt-everywhere"), Console())


def test_a_namenode_that_stops_is_waited_for(site: Site, spark: None) -> None:
    out = site.out("namenode")

    def hurt() -> None:
        during_work(out, random.Random(1), 2.0)
        with stopped(site.cluster, "namenode"):
            time.sleep(20)

    started = time.monotonic()
    with meanwhile(hurt):
        etl(find("digits"), site.raw, out, Console())
    assert time.monotonic() - started > 20
    check_rows(out, site.expected)


@pytest.mark.soak
def test_an_executor_that_is_killed_in_a_job_of_half_a_million_rows(site: Site, spark: None, tmp_path: Path) -> None:
    packed = SHARED_DATA / "online_retail" / "online_retail_by_day_full.tar.gz"
    if not packed.exists():
        pytest.skip(f"online_retail's files are not on this machine (expected in {packed})")
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "raw", filter="data")
    local, out = tmp_path / "local", site.out("online-retail")
    started(site, tmp_path, str(local), "--master", "local[2]", recipe="online_retail", raw=str(tmp_path / "raw")).said(
        0
    )
    raw = put(tmp_path / "raw", f"{site.cluster.hdfs_url}/raw/online-retail")
    with meanwhile(lambda: kill_executor(site, out, random.Random(1), 15.0)):
        etl(find("online_retail"), raw, out, Console())
    check_rows(out, cards.load(str(local)))


# What the tests share


@dataclass(frozen=True)
class Job:
    """`penstock etl` as a process in a session of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self, code: int) -> str:
        """All that it has said. Its exit code must be `code`."""
        assert self.process.wait(300) == code, self.log.read_text()[-3000:]
        return self.log.read_text()


def started(
    site: Site, folder: Path, out: str, *options: str, recipe: str = "digits", raw: str = "", **environment: str
) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "etl.run", recipe, "--raw", raw or site.raw, "--out", out, *options]
    with (folder / "job.log").open("wb") as log:
        told = os.environ | site.environment | environment
        process = subprocess.Popen(line, env=told, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    return Job(process, folder / "job.log")


def during_work(out: str, rng: random.Random, within_s: float) -> None:
    """Waits for a moment of a job's work, which begins when its first folder is there."""
    until(lambda: bool(store.folders(f"{out}/duplicates")))
    time.sleep(rng.uniform(0, within_s))


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def meanwhile(hurt: Callable[[], None]) -> Iterator[None]:
    """Does it while the block runs; what it raises is raised behind the block."""
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(hurt)
        yield
        done.result()


def command(process: daemons.Process) -> bytes:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return b""


def admin(site: Site, *arguments: str) -> None:
    """`hdfs dfsadmin`"""
    class_path = ":".join(map(str, [site.cluster.conf, *jars.fetch()]))
    line = [java.find().home / "bin" / "java", "-cp", class_path, "org.apache.hadoop.hdfs.tools.DFSAdmin", *arguments]
    subprocess.run(line, check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
