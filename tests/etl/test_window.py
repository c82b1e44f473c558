"""Raw data that comes day by day: each day is read once, and versions are built from a window of clean days."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from penstock import cli
from penstock.card import CleanCard, versions
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError
from penstock.interval import Interval
from penstock.verify import verify
from tests.etl.conftest import RECIPE, Run, leftovers, write_recipe
from tests.etl.test_run import dirty_people, rows, write

DAYS = ("2011-01-03", "2011-01-04", "2011-01-05", "2011-01-06")
BUILD = """
from penstock.transforms import Standardise
schema = Schema((Field("name", "string"), Field("age", "float32"), Field("city", "string")), key="name", label="city")
transforms = {"age": Standardise("age")}
"""
WINDOW = "from datetime import timedelta\nwindow = timedelta(days={})\n"


def days_of_people(folder: Path, days: tuple[str, ...] = DAYS, count: int = 60) -> Path:
    """A csv file a day, whose rows may repeat those of another day in their key or altogether."""
    lines, _, _ = dirty_people(count * len(days), seed=8)
    random.Random(9).shuffle(lines)
    for i, day in enumerate(days):
        write(folder / f"{day}.csv", "\n".join(lines[i * count : (i + 1) * count]) + "\n")
    return folder


@pytest.mark.slow
def test_days_one_by_one_give_the_rows_and_counts_of_all_at_once(run: Run, tmp_path: Path, console: Console) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    whole = run(raw, tmp_path / "whole").card
    for number, day in enumerate(DAYS, start=1):
        built = run(raw / f"{day}.csv", out, interval=Interval.parse(day))
        (raw / f"{day}.csv").unlink()  # nobody reads it again
        assert len(built.card.lineage["clean"]) == number
        assert not verify(str(out), console, built.card.version)[1]
    assert built.card.counts == whole.counts
    assert built.card.splits == whole.splits
    assert rows(out, built.card) == rows(tmp_path / "whole", whole)
    clean = [card for card in versions(str(out / "clean")) if isinstance(card, CleanCard)]
    assert sum(card.counts["raw"] for card in clean) == whole.counts["raw"]


def test_a_day_again_changes_nothing(run: Run, tmp_path: Path) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    first = [run(raw / f"{day}.csv", out, interval=Interval.parse(day)).card.version for day in DAYS[:2]]
    there = leftovers(out)
    again = [run(raw / f"{day}.csv", out, interval=Interval.parse(day)) for day in DAYS[:2]]
    assert [built.reused for built in again] == [True, True]
    assert [built.card.version for built in again] == first
    assert leftovers(out) == there


def test_only_the_recipe_s_window_is_built_from(run: Run, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "windowed", RECIPE.replace("MAX", "0.9") + WINDOW.format(2))
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    built = [run(raw / f"{day}.csv", out, recipe, interval=Interval.parse(day)).card for day in DAYS]
    assert [card.lineage["intervals"] for card in built] == [
        [],
        ["2011-01-03/2011-01-04"],
        ["2011-01-04/2011-01-05"],
        ["2011-01-05/2011-01-06"],
    ]
    assert all(card.counts["raw"] <= 2 * 60 for card in built)


def test_a_day_that_came_anew_stands_for_the_old_one(run: Run, tmp_path: Path) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    run(raw / f"{DAYS[0]}.csv", out, interval=Interval.parse(DAYS[0]))
    write(raw / f"{DAYS[0]}.csv", "anew,1,Rom\n")
    run(raw / f"{DAYS[0]}.csv", out, interval=Interval.parse(DAYS[0]))
    write(raw / f"{DAYS[1]}.csv", "other,2,Bern\n")
    built = run(raw / f"{DAYS[1]}.csv", out, interval=Interval.parse(DAYS[1]))
    assert sorted(str(row["name"]) for row in rows(out, built.card)) == ["anew", "other"]


def test_an_old_delivery_that_comes_back_is_told_not_to_count(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    day, interval = raw / f"{DAYS[0]}.csv", Interval.parse(DAYS[0])
    old = day.read_text()
    for delivery in (old, "anew,1,Rom\n"):
        write(day, delivery)
        newest = run(day, out, interval=interval).clean
    assert "was cleaned from other raw data since" not in capsys.readouterr().out
    write(day, old)
    assert run(day, out, interval=interval).reused
    assert f"cleaned from other raw data since (clean version {newest.version})" in capsys.readouterr().out


def test_a_day_that_the_recipe_would_clean_otherwise_now_is_left_out_and_told(run: Run, tmp_path: Path) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    folders = [tmp_path / name / "people" for name in ("before", "after")]
    for folder, limit in zip(folders, ("0 and 150", "0 and 40"), strict=True):
        folder.parent.mkdir()
        write_recipe(folder, RECIPE.replace("MAX", "0.99").replace("0 and 150", limit))
    run(raw / f"{DAYS[0]}.csv", out, folders[0], interval=Interval.parse(DAYS[0]))
    built = run(raw / f"{DAYS[1]}.csv", out, folders[1], interval=Interval.parse(DAYS[1])).card
    assert (built.lineage["intervals"], built.lineage["cleaned_otherwise"]) == ([], ["2011-01-03/2011-01-04"])
    run(raw / f"{DAYS[0]}.csv", out, folders[1], interval=Interval.parse(DAYS[0]))
    built = run(raw / f"{DAYS[1]}.csv", out, folders[1], interval=Interval.parse(DAYS[1])).card
    assert (built.lineage["intervals"], built.lineage["cleaned_otherwise"]) == (["2011-01-03/2011-01-04"], [])


@pytest.mark.slow
def test_the_rows_of_a_version_are_built_again_though_more_days_came_and_the_raw_files_are_gone(
    run: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "built", RECIPE.replace("MAX", "0.9") + BUILD)
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    first, second, third = (run(raw / f"{day}.csv", out, recipe, interval=Interval.parse(day)).card for day in DAYS[:3])
    shutil.rmtree(raw)
    again = run(None, out, recipe, rows_of=second.version, frozen=first).card
    assert again.version not in (first.version, second.version, third.version)
    assert (again.counts, again.lineage["clean"]) == (second.counts, second.lineage["clean"])
    assert (again.transforms, again.lineage["frozen"]) == (first.transforms, first.version)
    assert [row["name"] for row in rows(out, again)] == [row["name"] for row in rows(out, second)]
    assert again.contract == first.contract != second.contract


def test_the_rows_of_a_version_without_clean_rows_are_built_from_its_raw_files_if_they_are_the_same(
    run: Run, tmp_path: Path
) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    card = run(raw, out).card
    assert run(None, out, rows_of=card.version).card.version == card.version
    write(raw / f"{DAYS[0]}.csv", "anew,1,Rom\n")
    with pytest.raises(DatasetError, match="cannot be built again: its raw files, or what recipe"):
        run(None, out, rows_of=card.version)


def test_intervals_that_overlap_are_refused(run: Run, tmp_path: Path) -> None:
    raw, out = days_of_people(tmp_path / "raw"), tmp_path / "out"
    run(raw, out, interval=Interval.parse("2011-01-03/2011-01-07"))
    with pytest.raises(DatasetError, match="2011-01-03/2011-01-07 and 2011-01-06/2011-01-08 overlap"):
        run(raw / f"{DAYS[3]}.csv", out, interval=Interval.parse("2011-01-06/2011-01-08"))


def test_the_command_writes_what_came_out_for_a_scheduler(
    spark: SparkSession, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, result = write(tmp_path / "raw" / "day.csv", "anna,1,Rom\nbert,2,Bern\n"), tmp_path / "results" / "1.json"
    line = ["etl", str(people), "--raw", str(raw), "--out", str(tmp_path / "out"), "--result", str(result)]
    assert cli.main([*line, "--interval", "2011-01-05", "--json"]) == 0
    assert json.loads(result.read_text()) == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert cli.main([*line, "--interval", "2011-01-5"]) == 1
    assert json.loads(result.read_text())["kind"] == "PenstockError"


@pytest.mark.parametrize("text", ["2011-01-05/2011-01-06", "2011-01-05", "2011-01-05T00:00:00+00:00/2011-01-06T00:00"])
def test_a_day_is_a_day_however_it_is_written(text: str) -> None:
    assert str(Interval.parse(text)) == "2011-01-05/2011-01-06"


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2011-01-05T06:00", "2011-01-06/2011-01-05", "2011-01-05/2011-01-05"]
)
def test_what_is_no_interval_is_told(text: str) -> None:
    with pytest.raises(PenstockError, match="interval"):
        Interval.parse(text)
