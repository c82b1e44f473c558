"""Cleaning and publishing the invoices of recipe online_retail, beside Spark copying the same csv and other tools.

    python -m bench.etl --raw ../shared/data/online_retail [--copies 1,10] [--repeats 3] [--systems penstock,copy,…]

Every system reads the same 305 csv files a copy (numbers of invoices differ from copy to copy), in a process of its own
with local[2]: ours and Spark's in a session that a few files which went the whole way have warmed up. `copy` is a plain
csv → Parquet copy with a given schema. `shuffled` also repartitions by a hash and sorts inside partitions, and writes
as many files as ours. pandas, Polars and DuckDB clean as their users would write it (bench/peers/etl), in their own
environment. Ours counts all of it: checksums of the raw files, quarantine, every byte read back, the cards. Memory is
the most that the whole tree of processes had at once, as the kernel shares it out (PSS), looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bench.environment import PEERS, ROOT, environment, machine
from etl import java
from etl.run import etl
from etl.spark import session
from penstock import command
from penstock.console import Console
from penstock.errors import PenstockError
from penstock.recipe import find
from recipes.online_retail.dataset import COLUMNS

OURS = ("penstock", "copy", "shuffled")
OTHERS = ("pandas", "polars", "duckdb")
TIMEOUT_S = 900
WARM_FILES = 24
ROWS = 541_909
LOOK_EVERY_S = 0.1


def replicate(raw: Path, copies: int, to: Path) -> None:
    """The day's files of the archive so many times, each time with other numbers of invoices."""
    archives = [raw] if raw.is_file() else sorted(raw.glob("*.tar.gz"))
    if not archives:
        raise PenstockError(f"--raw {raw}: expected online_retail's tar.gz of csv files, found none")
    with tarfile.open(archives[0]) as files:
        for member in (member for member in files if member.name.endswith(".csv")):
            found = files.extractfile(member)
            assert found is not None
            text = found.read()
            for i in range(copies):
                path = to / f"{i:02d}" / Path(member.name).name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(re.sub(rb"(?m)^([AC]?)(\d{6},)", rb"\g<1>%02d\2" % i, text) if i else text)


def one(system: str, raw: Path, out: Path, num_files: int) -> None:
    """One of ours or Spark's, in this process: prints the seconds, in a warm session."""
    days = sorted(raw.rglob("*.csv"))
    few = out / "few"
    few.mkdir()
    for path in days[:: len(days) // WARM_FILES]:
        shutil.copy(path, few)
    with session("bench", "local[2]", sum(path.stat().st_size for path in days)) as spark:
        run(spark, system, few, out / "warm", 8)
        start = time.perf_counter()
        run(spark, system, raw, out / "made", num_files)
        seconds = time.perf_counter() - start
    files = len(list((out / "made").rglob("split=*/part-*.parquet" if system == "penstock" else "part-*.parquet")))
    print(json.dumps({"seconds": seconds, "files": files}))


def run(spark: SparkSession, system: str, raw: Path, out: Path, num_files: int) -> None:
    if system == "penstock":
        etl(find("online_retail"), str(raw), str(out), Console(as_json=True))
        return
    schema = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    df = spark.read.schema(schema).option("header", True).option("recursiveFileLookup", True).csv(str(raw))
    if system == "shuffled":
        df = df.withColumn("hash", F.xxhash64(*COLUMNS)).repartition(num_files, "hash").sortWithinPartitions("hash")
    df.write.parquet(str(out))


def measured(system: str, raw: Path, num_files: int) -> dict[str, Any]:
    """What a process says at its end, and its peak memory. Raises: PenstockError where it fails or takes too long."""
    with tempfile.TemporaryDirectory(prefix="bench-etl-") as out:
        if system in OURS:
            line = [sys.executable, "-m", "bench.etl", "--one", system, "--num-files", str(num_files)]
        else:
            line = [str(environment("etl")), str(PEERS / "etl" / f"clean_{system}.py")]
        line += ["--raw", str(raw), "--out", out]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        peak: dict[str, float] = {}
        watcher = threading.Thread(target=watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        try:
            said, error = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            process.kill()
            raise PenstockError(f"{system}: more than {TIMEOUT_S} s") from late
        watcher.join()
    if process.returncode:
        raise PenstockError(f"{system}: failed: {' '.join(error.strip().splitlines()[-1:])[:200]}")
    return {**json.loads(said.strip().splitlines()[-1]), "peak_mb": peak}


def watch(pid: int, peak: dict[str, float]) -> None:
    """Keeps the most that the processes below `pid` had at once: in all, of Java, and of Python beside the first."""
    try:
        first = psutil.Process(pid)
        while first.is_running() and first.status() != psutil.STATUS_ZOMBIE:
            now = {"all": 0.0, "java": 0.0, "python_workers": 0.0}
            for process in [first, *first.children(recursive=True)]:
                try:
                    mb = process.memory_full_info().pss / 2**20
                    name = process.name()
                except psutil.Error:
                    continue
                now["all"] += mb
                if name == "java":
                    now["java"] += mb
                elif process.pid != pid:
                    now["python_workers"] += mb
            for kind, mb in now.items():
                peak[kind] = max(peak.get(kind, 0.0), mb)
            time.sleep(LOOK_EVERY_S)
    except psutil.Error:
        return


def measure(
    raw: Path, copies: int, systems: Sequence[str], repeats: int, console: Console
) -> dict[str, list[dict[str, Any]]]:
    """System -> what each repeat took; one that failed is not tried again."""
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    failed: set[str] = set()
    num_files = 8
    for repeat in range(repeats):
        for system in (system for system in systems if system not in failed):
            try:
                took = measured(system, raw, num_files)
            except PenstockError as error:
                failed.add(system)
                console.say(str(error))
                continue
            found[system].append(took)
            if system == "penstock":
                num_files = took["files"]
            memory = ", ".join(f"{kind} {mb:,.0f} MB" for kind, mb in took["peak_mb"].items())
            console.say(f"{copies}x, repeat {repeat + 1}: {system} {took['seconds']:.1f} s; {memory}")
    return found


def summary(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    seconds = {name: statistics.median(t["seconds"] for t in took) for name, took in found.items() if took}
    made: dict[str, Any] = {f"{name}_s": seconds.get(name) for name in found}
    for against, ratio in (("copy", "ratio"), ("shuffled", "shuffled_ratio")):
        if {"penstock", against} <= seconds.keys():
            made[ratio] = seconds["penstock"] / seconds[against]
    made["peak_mb"] = {name: max(t["peak_mb"]["all"] for t in took) for name, took in found.items() if took}
    return {**made, "repeats": found}


def shown(took: Sequence[Mapping[str, Any]]) -> list[str]:
    seconds = [repeat["seconds"] for repeat in took]
    peak = max(repeat["peak_mb"]["all"] for repeat in took)
    return [f"{statistics.median(seconds):.1f}", f"{min(seconds):.1f} to {max(seconds):.1f}", f"{peak:,.0f}"]


def work(arguments: argparse.Namespace, console: Console) -> Mapping[str, Any]:
    os.environ["JAVA_HOME"] = str(java.use().home)
    cleaning = {}
    for copies in map(int, arguments.copies.split(",")):
        with tempfile.TemporaryDirectory(prefix="bench-raw-") as folder:
            replicate(arguments.raw, copies, Path(folder))
            found = measure(Path(folder), copies, arguments.systems.split(","), arguments.repeats, console)
        cleaning[f"{copies}x"] = summary(found)
        rows = [[name, *shown(took)] for name, took in found.items() if took]
        if rows:
            console.table(rows, [f"{ROWS * copies:,} lines", "median s", "range s", "peak MB"])
    return {"cleaning": cleaning, "machine": machine()}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench etl", __doc__ or "", "python -m bench.etl --raw ../shared/data/online_retail")
    made.prog = "python -m bench.etl"
    made.add_argument("--raw", type=Path, required=True, help="online_retail's tar.gz, or the folder that it lies in")
    made.add_argument("--copies", default="1,10", help="how often the 541,909 lines are cleaned, such as 1,10,40")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--systems", default=",".join([*OURS, *OTHERS]), help="which are measured, in this order")
    made.add_argument("--one", choices=OURS, help=argparse.SUPPRESS)  # the process that `measured` starts
    made.add_argument("--num-files", type=int, help=argparse.SUPPRESS)
    made.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = made.parse_args(argv)
    if arguments.one:
        one(arguments.one, arguments.raw, arguments.out, arguments.num_files)
        return 0
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
