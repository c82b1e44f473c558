"""Stage 1: which rows are refused, why, and where in the raw file they are."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from etl import clean
from penstock.recipe import Rule

RULES = (
    Rule("positive", "n > 0", "n must be above 0"),
    Rule("small", "n < 10", "n must be below 10"),
    Rule("known", "label in ('a', 'b')", "the label must be a or b", label=True),
)
COLUMNS = pa.schema(
    {
        "n": pa.int32(),
        "label": pa.string(),
        "_malformed": pa.bool_(),
        "_why": pa.string(),
        "_record": pa.string(),
        "_file": pa.string(),
        "_position": pa.int64(),
    }
)


def raw_rows(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    return spark.createDataFrame(
        pa.Table.from_pylist([dict(zip(COLUMNS.names, row, strict=True)) for row in rows], COLUMNS)
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_a_row_is_asked_every_rule_and_told_every_reason(spark: SparkSession, labelled: bool) -> None:
    rows: list[tuple[Any, ...]] = [
        (5, "a", False, None),
        (0, "a", False, None),
        (50, "z", False, None),
        (None, None, False, None),  # null breaks a rule: nothing is known to hold
        (None, None, True, "unreadable"),  # asked nothing else
    ]
    raw = raw_rows(spark, [(*row, "text", "file:///f", i) for i, row in enumerate(rows)])
    checked = clean.check(raw, RULES, labelled)
    found = [(row["_rules"], row["_reasons"]) for row in checked.orderBy("_position").collect()]
    label = (["known"], ["the label must be a or b"]) if labelled else ([], [])
    assert found == [
        ([], []),
        (["positive"], ["n must be above 0"]),
        (["small", *label[0]], ["n must be below 10", *label[1]]),
        (["positive", "small", *label[0]], ["n must be above 0", "n must be below 10", *label[1]]),
        (["malformed"], ["unreadable"]),
    ]
    kept = clean.kept(checked)
    assert kept.columns == ["n", "label", "_file", "_position"]
    assert [row["n"] for row in kept.collect()] == [5]


def test_refused_rows_without_text_keep_their_place(spark: SparkSession, tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    rows = [(0, "a", False, None, None, f"{url}/sub/i.idx", 7), (-1, "a", False, None, None, f"{url}/j.idx", 8)]
    refused = clean.refused(clean.check(raw_rows(spark, rows), RULES, True), url)
    assert sorted(tuple(row) for row in refused.collect()) == [
        ("j.idx", 8, None, ["positive"], ["n must be above 0"]),
        ("sub/i.idx", 7, None, ["positive"], ["n must be above 0"]),
    ]
    assert clean.refused(clean.check(raw_rows(spark, rows), (), True), url).collect() == []


# Of a text file: no line ends, as Spark cuts there, and no byte order mark, which it drops.
LINES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), max_size=5)
    | st.sampled_from(["a,1", "a,1", " a,1 ", ""]),
    max_size=20,
)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.data())
@settings(max_examples=50)
def test_every_refused_record_gets_its_physical_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, packed: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / ("lines.csv.gz" if packed else "lines.csv")
    text = end.join(lines).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    chosen = {line: data.draw(st.integers(0, lines.count(line))) for line in set(lines)}
    # Of equal records a rule refuses all or none; those that are refused take their lines in turn.
    records = [line for line in lines if chosen[line]]
    expected = [number for number, line in enumerate(lines, start=1) if chosen[line]]
    if lines and lines[-1] == "":  # an empty last line is none
        return
    assert clean._lines(f"file://{path}", records) == expected


def test_lines_are_those_that_spark_reads(tmp_path: Path) -> None:
    """A byte order mark is no text; a line ends with one or the other or both."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,x\rb\xe9,x\r\n\nc,x\n")
    assert clean._lines(f"file://{tmp_path}/a.csv", ["a,x", "b\ufffd,x", "c,x"]) == [1, 2, 4]


def test_what_quarantine_holds_has_one_schema() -> None:
    assert [(f.name, str(f.type)) for f in clean.REFUSED_SCHEMA] == [
        ("file", "string"),
        ("line", "int64"),
        ("record", "string"),
        ("rules", f"{pa.list_(pa.string())}"),
        ("reasons", f"{pa.list_(pa.string())}"),
    ]
