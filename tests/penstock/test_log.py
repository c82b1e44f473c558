"""With PENSTOCK_LOG=json every line of standard error is an object, which has neither a value of a row nor a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from penstock import cli, log

MARKER, SECRET = "Zwetschgenmus", 'a "secret" that is longer than 32 bytes'

RECIPE = """
from etl.read import csv
from penstock.recipe import Split
from penstock.schema import Field, Schema
from pyspark.sql import functions as F

schema = Schema((Field("name", "string"), Field("age", "int32")), key="name")
split = Split({"train": 0.5, "test": 0.5}SOURCE)

def read(spark, raw_url, labelled):
    return csv(spark, raw_url, {"name": "string", "age": "int"}, header=HEADER)

def clean(df):
    CLEAN
    return df
"""
ROWS = "".join(f"{MARKER}{i},{i}\n" for i in range(4))


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PENSTOCK_LOG", "json")
    monkeypatch.setenv("PENSTOCK_PSEUDONYM_KEY", SECRET)
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)
    log.LOG.setLevel(logging.NOTSET)
    log._known.clear()


def objects(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(each.keys() >= {"time", "level", "command", "message"} for each in found)
    return found


def test_a_command_says_what_its_lines_are_about(
    spark: SparkSession, digits_csv: Path, tmp_path: Path, as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["etl", "digits", "--raw", str(digits_csv), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--json"]) == 0
    output = capsys.readouterr()
    built, said = json.loads(output.out), objects(output.err)
    application = spark.sparkContext.applicationId
    assert (said[-1]["recipe"], said[-1]["version"], said[-1]["application"]) == (
        "digits",
        built["version"],
        application,
    )
    assert all(each["command"] == "etl" and each["level"] == "INFO" for each in said)
    written = next(each for each in said if each["message"] == "clean, shuffle, write and read back")
    assert written["seconds"] > 0
    assert "raw  1797" in [each["message"] for each in said]
    assert (said[-1]["message"], said[-1]["exit_code"]) == ("done", 0)

    for arguments in (["verify", str(tmp_path / "out")], ["gc", str(tmp_path / "out")]):
        assert cli.main(arguments) == 0
        output = capsys.readouterr()
        assert output.out == ""
        assert {each["command"] for each in objects(output.err)} == {arguments[0]}


def recipe(tmp_path: Path, clean: str = "", source: str = "", header: bool = False) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    text = RECIPE.replace("CLEAN", clean).replace("SOURCE", source).replace("HEADER", str(header))
    (folder / "dataset.py").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("asked", "rows", "expected"),
    [
        ({}, f"a,1\nb,{MARKER}\nc,{MARKER}\n", "malformed (2 rows), such as people.csv, line 2: …. Mend"),
        ({"header": True}, ROWS, "1 of 1 files have other columns than the recipe reads. Expected name, age."),
        ({"clean": 'df = df.withColumn("age", F.expr("int(name)"))'}, ROWS, "fails on this data: …"),
        (
            {
                "clean": "df = df.withColumn('said', F.expr(\"if(age = 0, 'test', 'train')\"))",
                "source": ', source="said"',
            },
            f"{MARKER},0\n{MARKER},1\n",
            "the rows of key … are in the splits",
        ),
    ],
    ids=["malformed", "header", "expression", "split"],
)
def test_an_error_names_no_value_of_a_row(
    asked: dict[str, Any],
    rows: str,
    expected: str,
    spark: SparkSession,
    tmp_path: Path,
    as_json: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "people.csv").write_text(rows)
    folder = recipe(tmp_path, **asked)
    arguments = ["etl", str(folder), "--raw", str(tmp_path / "people.csv"), "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(arguments) == 1
    output = capsys.readouterr()
    assert MARKER not in output.out + output.err
    last = objects(output.err)[-1]
    assert (last["level"], last["exit_code"]) == ("ERROR", 1)
    assert expected in last["message"]
    assert json.loads(output.out) == {"error": last["message"], "kind": last["error"]}

    monkeypatch.setenv("PENSTOCK_LOG", "text")  # for people
    assert cli.main(arguments) == 1
    output = capsys.readouterr()
    assert MARKER in output.err
    assert MARKER in json.loads(output.out)["error"]


def test_what_is_asked_for_values_prints_them_and_logs_none(
    built_digits: Path, as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", str(built_digits)]) == 0
    output = capsys.readouterr()
    assert "Columns, of split train" in output.out
    assert [each["message"] for each in objects(output.err)] == ["done"]
    assert cli.main(["show", str(built_digits), "--json"]) == 0
    assert [each["message"] for each in objects(capsys.readouterr().err)] == ["done"]


def test_a_secret_of_the_environment_is_in_no_line(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", f"nosuch://{SECRET}/x"]) == 1
    (line,) = objects(capsys.readouterr().err)
    assert line["message"].startswith("nosuch://***/x/cards: no filesystem for this protocol is installed")


@pytest.mark.parametrize("argv", [["trian"], ["verify"], ["train", "digits", "--data", "x", "--out", "y", "--lr", "a"]])
def test_wrong_arguments_are_a_line_too(argv: list[str], as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    code: Any = None
    try:
        code = cli.main(argv)
    except SystemExit as stopped:
        code = stopped.code
    (line,) = objects(capsys.readouterr().err)
    assert (code, line["level"], line["exit_code"]) == (2, "ERROR", 2)


def test_warnings_and_what_libraries_log_are_lines_too(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    log.start("try")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    logging.getLogger("penstock.feed").warning("part-0: %s; trying again", "TimeoutError")
    logging.getLogger("other").info("chatter")
    first, second = objects(capsys.readouterr().err)
    assert "DeprecationWarning: old" in first["message"]
    assert (second["logger"], second["message"]) == ("penstock.feed", "part-0: TimeoutError; trying again")


def test_a_bug_is_told_by_where_it_is_and_not_by_its_text(as_json: None) -> None:
    code = f"""
from penstock import command
def work(arguments, console):
    try:
        int({MARKER!r})
    except ValueError:
        raise KeyError({MARKER!r})
command.execute(command.parser("try", "Try.", "penstock try").parse_args([]), work)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert MARKER not in done.stderr
    (line,) = objects(done.stderr)
    assert (line["level"], line["command"]) == ("CRITICAL", "try")
    assert [place.split()[-1] for place in line["stack"]][-4:] == ["<module>", "execute", "work", "KeyError"]
    assert "ValueError" in line["stack"]


def test_another_kind_of_lines_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PENSTOCK_LOG", "xml")
    assert cli.main(["verify", "x"]) == 1
    assert capsys.readouterr().err == "error: PENSTOCK_LOG: expected json or text, found 'xml'\n"
