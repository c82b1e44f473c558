"""Stage 1: which rows are refused, why, and where in the raw file they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from etl import clean
from penstock.rules import Fix, Reference, RowRule, Rule, Unique, asked

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


def checked_rows(spark: SparkSession, rows: list[tuple[Any, ...]], rules: tuple[RowRule, ...]) -> DataFrame:
    return clean.check(raw_rows(spark, rows), rules, "file:///")


def broken(checked: DataFrame, rules: tuple[RowRule, ...]) -> list[set[str]]:
    """The names of the rules that each row breaks, in the rows' order."""
    rows = checked.orderBy("_position").collect()
    return [{rule.name for i, rule in enumerate(rules) if row[f"_breaks_{i}"]} for row in rows]


def test_a_row_is_asked_every_rule_and_told_every_reason(spark: SparkSession, tmp_path: Path) -> None:
    rules = (*RULES, Rule("even", "n % 2 = 0", "n should be even", severity="warn"))
    values: list[tuple[Any, ...]] = [
        (5, "a", False, None),
        (0, "a", False, None),
        (51, "z", False, None),
        (None, None, False, None),  # null breaks a rule: nothing is known to hold
        (None, None, True, "unreadable"),  # asked nothing else
    ]
    url = f"file://{tmp_path}"
    checked = checked_rows(spark, [(*row, None, f"{url}/f", i) for i, row in enumerate(values)], rules)
    assert broken(checked, rules) == [
        {"even"},
        {"positive"},
        {"small", "known", "even"},
        {"positive", "small", "known", "even"},
        set(),
    ]
    refused = clean.refused(checked, rules, url).orderBy("line").collect()
    assert [(row["line"], row["rules"], row["reasons"]) for row in refused] == [
        (1, ["positive"], ["n must be above 0"]),
        (
            2,
            ["small", "known", "even"],
            ["n must be below 10", "the label must be a or b", "n should be even"],
        ),
        (
            3,
            ["positive", "small", "known", "even"],
            ["n must be above 0", "n must be below 10", "the label must be a or b", "n should be even"],
        ),
        (4, ["malformed"], ["unreadable"]),
    ]
    kept = clean.kept(checked)
    assert kept.columns == ["n", "label", "_file", "_position"]
    assert [row["n"] for row in kept.collect()] == [5]


def test_raw_data_without_labels_is_not_asked_about_them() -> None:
    assert asked((), RULES, labelled=True).rules == RULES
    assert asked((), RULES, labelled=False).rules == RULES[:2]


def test_values_that_several_rows_have_break_all_of_them(spark: SparkSession) -> None:
    rules = (Unique("one_each", ("n", "label"), "the pair must be there once"),)
    pairs = [(1, "a"), (1, "b"), (1, "a"), (2, "a"), (None, "a"), (None, "a"), (1, "a")]
    rows = [(n, label, i == 6, None, "text", "file:///f", i) for i, (n, label) in enumerate(pairs)]
    # Neither a null nor a record that could not be read is like another one.
    assert broken(checked_rows(spark, rows, rules), rules) == [{"one_each"}, set(), {"one_each"}, *[set()] * 4]
    alone = [row for row in rows if row[5:] != ("file:///f", 2)]
    assert broken(checked_rows(spark, alone, rules), rules) == [set()] * 6


def test_a_value_that_another_table_lacks_breaks_a_reference(spark: SparkSession) -> None:
    def table(spark: SparkSession, url: str) -> DataFrame:
        assert url == "file:///"
        return spark.createDataFrame([("a",), ("a",), ("c",), (None,)], "letter string")

    rules = (Reference("known_letter", "label", table, "letter", "the letter must be in the table"),)
    rows = [(1, label, label == "y", None, "t", "file:///f", i) for i, label in enumerate(["a", "b", None, "c", "y"])]
    checked = checked_rows(spark, rows, rules)
    assert broken(checked, rules) == [set(), {"known_letter"}, set(), set(), set()]
    assert sorted(row["_position"] for row in clean.kept(checked).collect()) == [0, 2, 3]  # each once


def test_fixes_are_taken_in_order_and_only_changes_are_counted(spark: SparkSession) -> None:
    fixes = (
        Fix("trim", "label", "trim(label)"),
        Fix("empty_is_none", "label", "nullif(label, '')"),
        Fix("as_number", "label", "cast(label as int)"),
        Fix("double", "n", "n + label"),
    )
    labels = ["7", " 7", "007", " ", None, "0", "x"]
    rows = [(1, label, label == "x", None, "t", "file:///f", i) for i, label in enumerate(labels)]
    fixed = clean.fix(raw_rows(spark, rows), fixes)
    found = fixed.orderBy("_position").collect()
    assert [row["label"] for row in found] == [7, 7, 7, None, None, 0, None]
    assert [row["n"] for row in found] == [8, 8, 8, None, None, 1, 1]
    changed = {step.name: {row["_position"] for row in found if row[f"_changed_{i}"]} for i, step in enumerate(fixes)}
    # A number is another value only where its text is another; what cannot be read is not touched.
    assert changed == {"trim": {1, 3}, "empty_is_none": {3}, "as_number": {2}, "double": {0, 1, 2, 3, 4}}
    assert clean.kept(clean.check(fixed, (), "file:///")).columns == ["n", "label", "_file", "_position"]


def test_refused_rows_without_text_keep_their_place(spark: SparkSession, tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    rows = [(0, "a", False, None, None, f"{url}/sub/i.idx", 7), (-1, "a", False, None, None, f"{url}/j.idx", 8)]
    refused = clean.refused(checked_rows(spark, rows, RULES), RULES, url)
    assert sorted(tuple(row) for row in refused.collect()) == [
        ("j.idx", 8, None, ["positive"], ["n must be above 0"]),
        ("sub/i.idx", 7, None, ["positive"], ["n must be above 0"]),
    ]
    assert clean.refused(checked_rows(spark, rows, ()), (), url).collect() == []
