"""What a card counts of the raw rows, and when the counts end a job: rules that warn or fail, expectations, fixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etl.run import report
from penstock import store
from penstock.console import Console
from penstock.errors import RawDataError, RecipeError
from tests.etl.conftest import RECIPE, Run, leftovers, write_recipe

RAW = "a,1,Rom\nb,2, Bern\nc,200,Rom\nd,,Rom\ne,5,Rom\ne,5,Rom\n"


def recipe(folder: Path, rules: str, fixes: str = "") -> Path:
    start, end = RECIPE.index("rules = ("), RECIPE.index("max_quarantined")
    text = RECIPE[:start] + f"rules = ({rules})\nfixes = ({fixes})\n" + RECIPE[end:].replace("MAX", "0.5")
    return write_recipe(folder, text.replace("import Rule, Split", "import Split\nfrom penstock.rules import *"))


def run_with(run: Run, tmp_path: Path, rules: str, fixes: str = "", raw: str = RAW, **options: Any) -> Any:
    (tmp_path / "raw").mkdir(exist_ok=True)
    (tmp_path / "raw" / "p.csv").write_text(raw)
    return run(tmp_path / "raw", tmp_path / "out", recipe=recipe(tmp_path / "mine", rules, fixes), **options)


def test_every_fix_rule_and_expectation_is_counted_also_with_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = """
        Rule("age_range", "age between 0 and 150", "the age must be 0 to 150"),
        Rule("grown_up", "age > 1", "a child", severity="warn"),
        Rule("city_known", "city in ('Rom', 'Bern')", "the city must be Rom or Bern", label=True),
        Rule("never", "name <> 'z'", "z is nobody", severity="fail"),
        Expect("enough", "count(*) >= 6", "six rows at least", shown="count(*)"),
        Expect("old", "avg(age) > 100", "the old were asked", shown="round(avg(age), 1)", severity="warn"),
        Expect("unknown", "max(age) > null", "nothing is known", severity="warn"),
    """
    fixes = 'Fix("upper", "name", "upper(name)"), Fix("rome", "city", "replace(city, \'Rome\', \'Rom\')", label=True),'
    built = run_with(run, tmp_path, rules, fixes)
    clean = built.clean
    assert clean.counts == {"raw": 6, "clean": 4, "quarantined": 2}
    assert clean.fixes == {"upper": 5, "rome": 0}
    assert clean.rules == {"malformed": 1, "age_range": 1, "grown_up": 1, "city_known": 0, "never": 0}
    assert clean.warnings == {"grown_up": "a child"}
    told = {name: (said["holds"], said["shown"]) for name, said in clean.expectations.items()}
    assert told == {"enough": (True, "6"), "old": (False, "42.6"), "unknown": (False, None)}
    report(built, store.absolute(str(tmp_path / "out")), Console())
    said = capsys.readouterr().out
    assert "Warning: 1 rows break grown_up: a child" in said
    assert "Warning: old, of all rows together: the old were asked, found 42.6" in said
    assert "enough" not in said


def test_without_labels_nothing_is_asked_about_them(run: Run, tmp_path: Path) -> None:
    rules = """
        Rule("city_known", "city in ('Rom', 'Bern')", "the city must be Rom or Bern", label=True),
        Expect("cities", "count(city) > 0", "cities must be said", label=True),
    """
    fixes = 'Fix("rome", "city", "replace(city, \'Rome\', \'Rom\')", label=True),'
    built = run_with(run, tmp_path, rules, fixes, raw="a,1\nb,2\n", labelled=False)
    assert (built.clean.rules, built.clean.fixes, built.clean.expectations) == ({"malformed": 0}, {}, {})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            'Rule("age_range", "age < 150", "the age must be below 150", severity="fail"),',
            r"must not break age_range \(1 rows\), such as p.csv, line 3: the age must be below 150. Nothing is publ",
        ),
        (
            'Unique("one_each", ("name",), "each name once", severity="fail"),',
            r"must not break one_each \(2 rows\), such as p.csv, line 5: each name once. Nothing",
        ),
        (
            'Expect("ages", "count_if(age is null) = 0", "ages must be said", shown="count_if(age is null)"),',
            r"must not break ages, of all rows together: ages must be said, found 1. Nothing is published",
        ),
        (
            """Expect("known", "bool_and(city = 'Rom')", "Rom only"), Expect("few", "count(*) < 6", "too many"),""",
            r"known, of all rows together: Rom only; few, of all rows together: too many. Nothing",
        ),
    ],
)
def test_what_must_not_be_ends_the_job_before_anything_is_published(
    run: Run, tmp_path: Path, rules: str, message: str
) -> None:
    with pytest.raises(RawDataError, match=message):
        run_with(run, tmp_path, rules)
    assert leftovers(tmp_path / "out") == []


def test_the_most_frequent_reasons_for_refusing_are_shown_and_no_warnings(run: Run, tmp_path: Path) -> None:
    rules = "".join(f'Rule("r{i}", "age > {i}", "must be above {i}"),' for i in range(1, 9))
    warned = 'Rule("w", "age > 999", "all warn", severity="warn"),'
    with pytest.raises(RawDataError) as caught:
        run_with(run, tmp_path, rules + warned, raw="a,1,Rom\nb,5,Rom\nc,x,Rom\n")
    text = str(caught.value)
    assert "3 of 3 rows" in text
    shown = "; ".join(f"r{i} (2 rows), such as p.csv, line 1: must be above {i}" for i in (5, 6, 7, 8))
    assert f"Most frequent: {shown}; malformed (1 rows), such as p.csv, line 3: age must be int, found 'x'. M" in text


@pytest.mark.parametrize(
    ("rules", "fixes", "message"),
    [
        ("", 'Fix("trim", "town", "trim(town)"),', "town"),
        ('Expect("x", "sum(age)", "no truth"),', "", "DATATYPE|boolean|BOOLEAN|type"),
        ('Rule("x", "agee > 3", "no column"),', "", "agee"),
    ],
)
def test_an_expression_that_spark_does_not_understand_is_said(
    run: Run, tmp_path: Path, rules: str, fixes: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run_with(run, tmp_path, rules, fixes)


def test_another_table_is_part_of_the_version(run: Run, tmp_path: Path) -> None:
    rules = f"""
        Reference("known_name", "name", lambda spark, url: spark.read.text(url), "value", "not in the table",
                  url="{tmp_path}/names.txt", severity="warn"),
    """
    (tmp_path / "names.txt").write_text("a\nb\n")
    first = run_with(run, tmp_path, rules)
    assert first.clean.rules["known_name"] == 3
    again = {"recipe": tmp_path / "mine"}
    assert run(tmp_path / "raw", tmp_path / "out", **again).reused
    (tmp_path / "names.txt").write_text("a\ne\n")
    assert run(tmp_path / "raw", tmp_path / "out", **again).clean.rules["known_name"] == 2
