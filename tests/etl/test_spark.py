"""The session, and what Spark raises as the sentence that a user can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from etl.spark import RESULT_SETTINGS, _explain, session, user_errors
from penstock.errors import DatasetError, PenstockError, RawDataError, RecipeError, StorageError

# As Spark 4.3 writes them, shortened.
PYTHON = """
An exception was thrown from the Python worker:
Traceback (most recent call last):
  File "/x/penstock/audit.py", line 60, in audit_file
penstock.errors.DatasetError: f.parquet: the file is missing; build the dataset again

	at org.apache.spark.api.python.BasePythonRunner
"""
NO_SPACE = "Job aborted due to stage failure: ... java.io.IOException: No space left on device\n\tat java.base/"
QUOTA = """Caused by: org.apache.hadoop.hdfs.protocol.DSQuotaExceededException: The DiskSpace quota of /d is exceeded: \
quota = 260 MB but diskspace consumed = 514.31 MB
	at org.apache.hadoop.hdfs.server.namenode.DirectoryWithQuotaFeature"""
FULL = """org.apache.hadoop.ipc.RemoteException(java.io.IOException): File /d/x could only be written to 0 of the 1 \
minReplication nodes. There are 2 datanode(s) running and 0 node(s) are excluded in this operation.
	at org.apache.hadoop.hdfs"""
LOST = """Job aborted due to stage failure: Task 1 in stage 7.0 failed 4 times, most recent failure: Lost task 1.3 in \
stage 7.0 (TID 15) (10.0.0.7 executor 5): ExecutorLostFailure (executor 5 exited caused by one of the running tasks) \
Reason: Command exited with code 137
Driver stacktrace:"""
DENIED = "org.apache.hadoop.security.AccessControlException: Permission denied: user=a, access=WRITE, inode=/d"
CUT = """[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///raw/a%20%5B1%5D.csv.gz. SQLSTATE: KD001
Caused by: java.io.EOFException: Unexpected end of input stream
"""
GONE = """[FAILED_READ_FILE.FILE_NOT_EXIST] Encountered error while reading file file:///raw/a%20b.csv. File does not
exist.
It is possible the underlying files have been updated. SQLSTATE: KD001
"""
TWICE = "[AMBIGUOUS_REFERENCE] Reference `start` is ambiguous, could be: [`start`, `start`]. SQLSTATE: 42704\n"
COLUMN = "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column `agee` cannot be resolved. Did you mean [`age`]. SQLSTATE: 42703"


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (PYTHON, DatasetError, "f.parquet: the file is missing; build the dataset again"),
        (
            NO_SPACE,
            StorageError,
            "OUT or the folder of temporary files (TMPDIR): no space left on the device; free some or choose another "
            "place",
        ),
        (
            NO_SPACE.replace("No space left on device", "File too large"),
            StorageError,
            "OUT: a file would be larger than is allowed here; raise the limit (ulimit -f)",
        ),
        (
            QUOTA,
            StorageError,
            "OUT: no space left: the DiskSpace quota of /d is exceeded: quota = 260 MB but diskspace consumed = 514.31 "
            "MB; free some, or have the quota raised",
        ),
        (
            FULL,
            StorageError,
            "OUT: no DataNode takes another block (it could only be written to 0 of the 1 minReplication nodes. There "
            "are 2 datanode(s) running and 0 node(s) are excluded in this operation); free some space, or see `hdfs "
            "dfsadmin -report`",
        ),
        (
            LOST,
            PenstockError,
            "Spark has lost executors more often than spark.task.maxFailures allows (Command exited with code 137); "
            "look at their logs; if they were killed for their memory, raise spark.executor.memory or "
            "spark.executor.memoryOverhead",
        ),
        (DENIED, StorageError, "OUT or RAW: permission denied; choose another place or change its mode"),
        (
            CUT,
            RawDataError,
            "/raw/a [1].csv.gz: cannot be read: Unexpected end of input stream; the file is truncated or damaged: "
            "copy it again",
        ),
        (
            GONE,
            RawDataError,
            "/raw/a b.csv: is no longer there; let the raw data be while it is read, and run again",
        ),
        (
            TWICE,
            RecipeError,
            "the recipe asks Spark for what it cannot do: Reference `start` is ambiguous, could be: [`start`, "
            "`start`]. SQLSTATE: 42704",
        ),
        (
            COLUMN,
            RecipeError,
            "the recipe asks Spark for what it cannot do: A column `agee` cannot be resolved. "
            "Did you mean [`age`]. SQLSTATE: 42703",
        ),
    ],
)
def test_what_a_user_can_mend_becomes_a_sentence(text: str, kind: type[PenstockError], sentence: str) -> None:
    found = _explain(text, "RAW", "OUT")
    assert type(found) is kind
    assert str(found) == sentence


def test_what_nobody_explained_passes_as_it_is() -> None:
    assert _explain("java.lang.OutOfMemoryError: Java heap space", "RAW", "OUT") is None
    with pytest.raises(PySparkException, match="heap space"), user_errors("RAW", "OUT"):
        raise PySparkException("java.lang.OutOfMemoryError: Java heap space")
    with pytest.raises(ZeroDivisionError), user_errors("RAW", "OUT"):
        _ = 1 / 0


def test_what_nobody_explained_keeps_its_text_when_the_jvm_is_gone(spark: SparkSession) -> None:
    with pytest.raises(Py4JJavaError) as raised, user_errors("RAW", "OUT"):
        spark._jvm.java.util.Optional.empty().get()
    assert "NoSuchElementException: No value present" in raised.value.__notes__[0]


def test_a_session_that_runs_is_used_and_left_running(spark: SparkSession) -> None:
    with session("another", "local[1]") as same:
        assert same.sparkContext.applicationId == spark.sparkContext.applicationId
    assert spark.range(3).count() == 3


def test_settings_that_change_results_are_fixed(spark: SparkSession) -> None:
    assert {name: spark.conf.get(name) for name in RESULT_SETTINGS} == RESULT_SETTINGS
    assert spark.conf.get("spark.driver.bindAddress") == "127.0.0.1"


ZERO = """[DIVIDE_BY_ZERO] Division by zero. Use `try_divide` to tolerate divisor being 0. If necessary set \
"spark.sql.ansi.enabled" to "false" to bypass this error. SQLSTATE: 22012
"""


@pytest.mark.parametrize(
    ("context", "which"),
    [
        ("== SQL (line 2, position 1) ==\n1/age > 0\n^^^^^\n", " '1/age > 0'"),
        ('== DataFrame ==\n"__truediv__" was called from\n/my/dataset.py:20\n\n', " at /my/dataset.py:20"),
        ("\tat org.apache.spark.sql.errors\n", ""),
    ],
)
def test_an_expression_that_fails_on_the_data_is_named(context: str, which: str) -> None:
    found = _explain(ZERO + context, "RAW", "OUT")
    assert type(found) is RecipeError
    said = "Division by zero. Use `try_divide` to tolerate divisor being 0."
    assert str(found) == f"the recipe's expression{which} fails on this data: {said}"


def test_a_master_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "digits.csv").write_text("1\n")
    arguments = ["etl", "digits", "--raw", tmp_path / "digits.csv", "--out", tmp_path / "out", "--master", "nobody"]
    done = subprocess.run([sys.executable, "-m", "penstock.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: Spark does not start with master 'nobody'; check --master" in done.stderr
    assert "Traceback" not in done.stderr
