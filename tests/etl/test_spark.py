"""The session, and what Spark raises as the sentence that a user can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
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
DENIED = "org.apache.hadoop.security.AccessControlException: Permission denied: user=a, access=WRITE, inode=/d"
CUT = """[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///raw/a.csv.gz. SQLSTATE: KD001
Caused by: java.io.EOFException: Unexpected end of input stream
"""
COLUMN = "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column `agee` cannot be resolved. Did you mean [`age`]. SQLSTATE: 42703"


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        (PYTHON, DatasetError, "f.parquet: the file is missing; build the dataset again"),
        (NO_SPACE, StorageError, "OUT: no space left on the device; free some or choose another place"),
        (DENIED, StorageError, "OUT or RAW: permission denied; choose another place or change its mode"),
        (
            CUT,
            RawDataError,
            "file:///raw/a.csv.gz: cannot be read: Unexpected end of input stream; the file is truncated or damaged: "
            "copy it again",
        ),
        (
            COLUMN,
            RecipeError,
            "the recipe asks Spark for something that is not there: A column `agee` cannot be resolved. "
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


def test_a_session_that_runs_is_used_and_left_running(spark: SparkSession) -> None:
    with session("another", "local[1]") as same:
        assert same.sparkContext.applicationId == spark.sparkContext.applicationId
    assert spark.range(3).count() == 3


def test_settings_that_change_results_are_fixed(spark: SparkSession) -> None:
    assert {name: spark.conf.get(name) for name in RESULT_SETTINGS} == RESULT_SETTINGS
    assert spark.conf.get("spark.driver.bindAddress") == "127.0.0.1"


EXPRESSION = """[DIVIDE_BY_ZERO] Division by zero. Use `try_divide` to tolerate divisor being 0. SQLSTATE: 22012
== SQL (line 1, position 1) ==
1/age > 0
^^^^^
"""


def test_an_expression_that_fails_on_the_data_is_named() -> None:
    found = _explain(EXPRESSION, "RAW", "OUT")
    assert type(found) is RecipeError
    assert str(found).startswith("the recipe's expression '1/age > 0' fails on this data: Division by zero.")


def test_a_master_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "digits.csv").write_text("1\n")
    arguments = ["etl", "digits", "--raw", tmp_path / "digits.csv", "--out", tmp_path / "out", "--master", "nobody"]
    done = subprocess.run([sys.executable, "-m", "penstock.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: Spark does not start with master 'nobody'; check --master" in done.stderr
    assert "Traceback" not in done.stderr
