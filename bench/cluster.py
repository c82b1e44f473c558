"""The same work on local files and on a real HDFS, by a local Spark, standalone Spark and YARN, side by side.

    python -m bench.cluster --raw ../shared/data/online_retail [--copies 10] [--rows 160000] [--repeats 3]

Starts a cluster on this machine (python -m cluster) in a temporary folder, and removes it. ETL: recipe online_retail,
the 305 csv files so many times, from HDFS to HDFS, one run each by `spark-submit --master local[2]`, and on standalone
Spark and YARN with two executors of one core: the whole command counts, Spark's start included, and `started` is what
came after that. All must give the same version. Feed: 28 x 28 pictures as in bench.remote, whole epochs without a
model, from local files, from HDFS, and from HDFS with a cache that was filled before; repeats alternate, medians count.

Everything is on one machine: daemons and executors share its cores, and no network is in between.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import etl, remote
from bench.environment import machine
from cluster import dist, submit
from cluster.__main__ import SERVICES, Cluster, down, up
from etl import java
from penstock import command, store
from penstock.console import Console
from penstock.errors import PenstockError

MASTERS = {"local": "local[2]", "standalone": "standalone", "yarn": "yarn"}
LOCAL = ("--driver-memory", "3g")  # as much as a driver and two executors have
TIMEOUT_S, PUT_THREADS = 1500, 16


def put(folder: Path, url: str) -> None:
    """By the driver that the trainer reads with, several files at a time: each waits for the NameNode."""

    def put_one(file: Path) -> None:
        store.write(f"{url}/{file.relative_to(folder)}", memoryview(file.read_bytes()))

    with ThreadPoolExecutor(PUT_THREADS) as threads:
        list(threads.map(put_one, (file for file in sorted(folder.rglob("*")) if file.is_file())))


def clean(cluster: Cluster, archive: Path, where: str, raw: str, scratch: Path) -> dict[str, Any]:
    """One `spark-submit`: its seconds, those of them after Spark had started, and the version that it made."""
    asked = ["online_retail", "--raw", raw, "--out", f"{cluster.hdfs_url}/datasets/{where}", "--json"]
    python = Path(sys.executable)
    line = submit.command(
        cluster, python, archive, MASTERS[where], "client", asked, LOCAL if where == "local" else submit.SIZES
    )
    start = time.perf_counter()
    done = subprocess.run(
        line,
        env=submit.environment(cluster, python),
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise PenstockError(f"{where}: failed: {(done.stdout + done.stderr)[-500:]}")
    said = [json.loads(line) for line in done.stdout.splitlines()]  # spark-submit puts Python's standard error there
    steps = {line.get("message"): line.get("seconds", 0.0) for line in said}
    return {"seconds": seconds, "started_s": steps["done"] - steps["start Spark"], "version": said[-1]["version"]}


def measure_etl(cluster: Cluster, raw: Path, copies: int, scratch: Path, console: Console) -> dict[str, dict[str, Any]]:
    with console.step(f"put {copies} copies of the csv files on HDFS"):
        (scratch / "raw").mkdir()
        etl.replicate(raw, copies, scratch / "raw")
        put(scratch / "raw", f"{cluster.hdfs_url}/raw")
        shutil.rmtree(scratch / "raw")
    archive, found = dist.write(scratch / "penstock.zip"), {}
    for where in MASTERS:
        with console.step(f"ETL, {where}"):
            found[where] = clean(cluster, archive, where, f"{cluster.hdfs_url}/raw", scratch)
    if len({each["version"] for each in found.values()}) > 1:
        raise PenstockError(f"expected the same version of all, found {found}")
    return found


def measure_feed(cluster: Cluster, rows: int, epochs: int, repeats: int, scratch: Path) -> dict[str, list[float]]:
    local, far, cache = scratch / "pictures", f"{cluster.hdfs_url}/datasets/pictures", scratch / "cache"
    remote.pictures(local, rows)
    put(local, far)
    ways = {"local": (str(local), None), "hdfs": (far, None), "hdfs_cached": (far, cache)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        remote.measure(*way, 1)  # warms up, and fills the cache
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(remote.measure(*way, epochs)[0])
    return found


def work(arguments: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    os.environ["JAVA_HOME"] = str(java.use().home)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # then the cluster is stopped too
    began = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as name:
        scratch, folder = Path(name), Path(name) / "cluster"
        try:
            cluster = up(folder, SERVICES, console)
            cleaned = measure_etl(cluster, arguments.raw, arguments.copies, scratch, console)
            fed = measure_feed(cluster, arguments.rows, arguments.epochs, arguments.repeats, scratch)
        finally:
            down(folder)
    etl_s = {where: round(each["seconds"], 1) for where, each in cleaned.items()}
    feed_rows_per_s = {where: round(statistics.median(rates)) for where, rates in fed.items()}
    lines = etl.ROWS * arguments.copies
    console.table(
        [[where, f"{each['seconds']:.1f}", f"{each['started_s']:.1f}"] for where, each in cleaned.items()],
        [f"ETL, {lines:,} lines", "seconds", "started"],
    )
    console.table(
        [[where, f"{feed_rows_per_s[where]:,}", f"{min(r):,.0f} to {max(r):,.0f}"] for where, r in fed.items()],
        [f"feed, {arguments.rows:,} pictures", "rows/s", "range"],
    )
    return {
        "etl_s": etl_s,
        "feed_rows_per_s": feed_rows_per_s,
        "etl": cleaned,
        "feed": fed,
        "lines": lines,
        "load": {"before": began[0], "after": os.getloadavg()[0]},
        "machine": machine(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench cluster", __doc__ or "", "python -m bench.cluster --raw ../shared/data/online_retail")
    made.prog = "python -m bench.cluster"
    made.add_argument("--raw", type=Path, required=True, help="online_retail's tar.gz, or the folder that it lies in")
    made.add_argument("--copies", type=int, default=10, help="how often the 541,909 lines are cleaned; default: 10")
    made.add_argument("--rows", type=int, default=160_000, help="pictures of the feed; default: 160,000")
    made.add_argument("--epochs", type=int, default=5, help="of each repeat; default: 5")
    made.add_argument("--repeats", type=int, default=3, help="of the feed; default: 3")
    arguments = made.parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
