"""The only place that builds a SparkSession, and that turns Spark's exceptions into sentences.

Under `spark-submit` the master, memory and the like come from there; started as plain Python it runs `local[*]`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from etl import java
from penstock import errors, store
from penstock.console import Update
from penstock.errors import PenstockError, RawDataError, RecipeError, StorageError

LOG_SETTINGS = Path(__file__).resolve().with_name("log4j2.properties")

PROGRESS_EVERY_S = 0.5

SHORT_BYTES = 64 << 20  # a job that reads less ends before Java's second compiler has paid for itself

# What changes results is set here and is part of every version's name.
RESULT_SETTINGS = {"spark.sql.session.timeZone": "UTC", "spark.sql.ansi.enabled": "true"}

FIXED_SETTINGS = {
    # Adaptive plans lose the counts of a job whose rows are all refused; here every plan is known beforehand.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.parser.escapedStringLiterals": "false",  # as `literal` in etl/read/fields.py writes them
}

OTHER_SETTINGS = {
    # A shuffle's partitions are planned by repartitionById; what is left are small aggregates.
    "spark.sql.shuffle.partitions": "8",
    # HotSpot compiles no method of more bytes (HugeMethodLimit): the code for many columns would run interpreted.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    # Our own checksums cover every byte; Hadoop's would put a hidden .crc beside each local file.
    "spark.hadoop.fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
}

# What ANSI mode raises where an expression has no value: SQLSTATE class 22, "data exception", of ISO/IEC 9075-2.
DATA_EXCEPTION = re.compile(
    r"\[[A-Z_.]+\] (?P<why>[^\n]*?)(?: If necessary set [^\n]*)? SQLSTATE: 22\w{3}"
    r"(?:\n== SQL \([^\n]*\) ==\n(?P<sql>[^\n]*)|\n== DataFrame ==\n[^\n]*\n(?P<line>[^\n]*))?"
)


@contextmanager
def session(app_name: str, master: str | None = None, raw_bytes: int = SHORT_BYTES) -> Iterator[SparkSession]:
    """A session that is stopped, with its JVM, when the block ends. One that was there before is left running.

    The JVM of a local session is set for a short or a long job by the `raw_bytes` that it is to read.
    """
    if SparkContext._active_spark_context is not None:
        yield SparkSession.builder.getOrCreate()
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    for logger in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # what they log is raised as well
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has started the JVM
    if submitted:
        SparkContext._ensure_initialized()  # else SparkConf would not know what spark-submit was told
    else:
        java.use()
    conf = SparkConf()
    if master is not None or not conf.contains("spark.master"):
        conf.setMaster(master or "local[*]")
    chosen = conf.get("spark.master") or ""
    if not re.match("yarn$|spark:|k8s:|local", chosen):  # Spark's launcher would say so in a stack trace
        raise PenstockError(_not_started(chosen, "expected local[*], yarn, spark://HOST:PORT or k8s://HOST:PORT"))
    local = chosen.startswith("local")
    with tempfile.TemporaryDirectory(prefix="penstock-spark-", ignore_cleanup_errors=True) as scratch:
        for key, value in {**(_local_settings(scratch, raw_bytes) if local else {}), **OTHER_SETTINGS}.items():
            conf.setIfMissing(key, value)
        conf.setAll(list({**RESULT_SETTINGS, **FIXED_SETTINGS}.items())).setAppName(app_name)
        try:
            spark = _start(conf, chosen)
            try:
                yield spark
            finally:
                spark.stop()
        finally:
            if not submitted and SparkContext._gateway is not None:
                _end_jvm(SparkContext._gateway)


def _start(conf: SparkConf, master: str) -> SparkSession:
    try:
        return SparkSession.builder.config(conf=conf).getOrCreate()
    except (Py4JJavaError, PySparkException) as error:
        if SparkContext._active_spark_context is not None:
            SparkContext._active_spark_context.stop()
        cause = re.search(r"^(?:: [\w.$]+: |\[\w+\] )(.*)", str(error), re.MULTILINE)
        raise PenstockError(_not_started(master, cause.group(1) if cause else str(error))) from error


def _not_started(master: str, why: str) -> str:
    return f"Spark does not start with master {master!r}; check --master ({why})"


def _local_settings(scratch: str, raw_bytes: int) -> dict[str, str]:
    """Spark on one machine: nothing listens beyond it, nothing is logged, and temporary files go to `scratch`."""
    java_options = [f"-Dlog4j2.configurationFile={LOG_SETTINGS.as_uri()}", f'-Djava.io.tmpdir="{scratch}"']
    java_options += ["-XX:+UseParallelGC", *(["-XX:TieredStopAtLevel=1"] if raw_bytes < SHORT_BYTES else [])]
    java_options += ["-Xss4m"]  # tasks are read by recursion: those of ALS overflow a megabyte with C1
    return {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.driver.extraJavaOptions": " ".join(java_options),
        "spark.local.dir": scratch,
        "spark.sql.warehouse.dir": f"{scratch}/warehouse",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }


@contextmanager
def progress(spark: SparkSession, update: Update) -> Iterator[None]:
    """Tells `update` how many tasks of the running stages are done, until the block ends."""
    ended = threading.Event()
    tracker = spark.sparkContext.statusTracker()

    def watch() -> None:
        while not ended.wait(PROGRESS_EVERY_S):
            stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            done, tasks = (sum(getattr(s, name) for s in stages if s) for name in ("numCompletedTasks", "numTasks"))
            if tasks:
                update(f"{done:,} of {tasks:,} tasks")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _end_jvm(gateway: object) -> None:
    # PySpark keeps the JVM, and its memory, until Python exits: a trainer may follow in this process.
    gateway.shutdown()  # type: ignore[attr-defined]
    process = gateway.proc  # type: ignore[attr-defined]
    process.stdin.close()
    process.wait()
    SparkContext._gateway = None
    SparkContext._jvm = None


@contextmanager
def user_errors(raw_url: str, out: str) -> Iterator[None]:
    """Raises as a PenstockError what Spark raises for bad data, a bad recipe or a full disk; the rest passes."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        if (sentence := _explain(str(error), raw_url, out)) is not None:
            raise sentence from error
        error.add_note(str(error))  # its text lies in the JVM, which is gone when the traceback is printed
        raise


def _explain(text: str, raw_url: str, out: str) -> PenstockError | None:
    # What our own code raised on an executor arrives as the text of a Python traceback.
    if raised := re.search(rf"penstock\.errors\.(\w+): (.*)(?:\n{errors.IN_LOGS}(.*))?", text):
        kind: type[PenstockError] = getattr(errors, raised.group(1))
        error = kind(raised.group(2).strip())
        error.logged = (raised.group(3) or str(error)).strip()
        return error
    if "No space left on device" in text or "Disk quota exceeded" in text:
        where = f"{out} or the folder of temporary files (TMPDIR)"
        return StorageError(f"{where}: no space left on the device; free some or choose another place")
    if "File too large" in text:
        return StorageError(f"{out}: a file would be larger than is allowed here; raise the limit (ulimit -f)")
    if "Permission denied" in text or "AccessControlException" in text:
        return StorageError(f"{out} or {raw_url}: {store.REFUSED}; choose another place or change its mode")
    if (refusal := store.hdfs_refusal(text, out)) is not None:
        return StorageError(refusal)
    # The second is of a stage whose input was lost with executors each time.
    if "ExecutorLostFailure" in text or "has failed the maximum allowable number of times" in text:
        reason = re.search(r"ExecutorLostFailure \(.*\) Reason: ([^\n]*)", text)
        why = f" ({reason[1]})" if reason else ""
        return PenstockError(
            f"Spark has lost executors more often than spark.task.maxFailures allows{why}; look at their logs; if "
            f"they were killed for their memory, raise spark.executor.memory or spark.executor.memoryOverhead"
        )
    if gone := re.search(r"FAILED_READ_FILE.FILE_NOT_EXIST\] Encountered error while reading file (.+?)\. File", text):
        where = store.shown(unquote(gone.group(1)))
        return RawDataError(f"{where}: is no longer there; let the raw data be while it is read, and run again")
    if read := re.search(r"FAILED_READ_FILE\S*\] Encountered error while reading file (\S+?)\.(?=\s)", text):
        cause = re.search(r"(EOFException|ZipException|IOException): ([^\n]*)", text)
        why = f": {cause.group(2)}" if cause else ""
        where = store.shown(unquote(read.group(1)))
        return RawDataError(f"{where}: cannot be read{why}; the file is truncated or damaged: copy it again")
    # SQLSTATE class 42, "syntax error or access rule violation": of the expressions, before any row is read.
    if analysis := re.search(r"\[[\w.]+\] ([^\n]*(?:\n[^\n]*)?SQLSTATE: 42\w{3})", text):
        return RecipeError(f"the recipe asks Spark for what it cannot do: {analysis.group(1)}")
    if failed := DATA_EXCEPTION.search(text):
        sql, line = failed["sql"], failed["line"]
        which = f" {sql.strip()!r}" if sql else f" at {line}" if line else ""
        return RecipeError(
            f"the recipe's expression{which} fails on this data: {failed['why']}", values=[failed["why"]]
        )
    return None
