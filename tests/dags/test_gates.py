"""Which versions are announced, and which is trained: by cards alone, in whatever order Airflow tells of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dags import gates
from dags.settings import Limits, Pipeline
from penstock import card as cards
from penstock.card import Card, CleanCard, ManifestFile, Split
from penstock.errors import DatasetError
from penstock.schema import Field, Schema

SCHEMA = Schema((Field("id", "string"), Field("x", "float32")), key="id")


def publish(folder: Path, version: str, *, day: int | None = None, refused: int = 0, **lineage: Any) -> Card:
    """A version of one clean interval, or of raw data that is no interval's."""
    counts = {"raw": 10 + refused, "clean": 10, "quarantined": refused}
    if day is not None:
        lineage["interval"] = f"2026-01-{day:02}/2026-01-{day + 1:02}"
    clean = CleanCard(f"c{version}", "r", "data/c", None, {}, counts, {}, lineage=dict(lineage))
    cards.publish(str(folder / "clean"), clean)
    card = Card(
        version=version,
        recipe="r",
        data=f"data/{version}",
        manifest=ManifestFile("_manifest.parquet", 1, ""),
        schema=SCHEMA,
        counts={"raw": 10 + refused, "quarantined": refused, "clean": 10, "duplicates": 0, "built": 10},
        splits={"train": Split(10, "0" * 16)},
        transforms={},
        lineage={"clean": [f"c{version}"], **lineage},
    )
    cards.publish(str(folder), card)
    return card


def pipeline(folder: Path, **limits: Any) -> Pipeline:
    return Pipeline("p", "r", "/raw", str(folder / "d"), runs=str(folder / "runs"), limits=Limits(**limits))


def test_a_version_within_the_limits_is_announced_with_its_figures(tmp_path: Path) -> None:
    publish(tmp_path / "d", "v", day=3, refused=1)
    told = gates.check(pipeline(tmp_path, max_quarantined=0.1), "v")
    assert (told["version"], told["quarantined"], told["intervals"]) == ("v", round(1 / 11, 6), 1)
    assert told["interval"] == "2026-01-03/2026-01-04"
    assert Path(told["card"]).is_file()


def test_every_limit_that_is_exceeded_is_told(tmp_path: Path) -> None:
    publish(tmp_path / "d", "v", refused=1)
    with pytest.raises(DatasetError, match=r"9.09% of the raw rows were refused.*; built from 1 clean intervals"):
        gates.check(pipeline(tmp_path, max_quarantined=0.09, min_intervals=2), "v")


def test_counts_that_do_not_add_up_to_those_of_the_clean_rows_are_told(tmp_path: Path) -> None:
    publish(tmp_path / "d", "v")
    (tmp_path / "d" / "clean" / "cards" / "cv.json").unlink()
    with pytest.raises(DatasetError, match="10 raw rows, but 0 in the 0 cards of its clean rows"):
        gates.check(pipeline(tmp_path), "v")


@given(
    days=st.lists(st.integers(1, 9), min_size=1, max_size=6, unique=True),
    merges=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    again=st.booleans(),
)
def test_each_announced_version_is_trained_or_told_to_be_superseded(
    days: Sequence[int], merges: Sequence[int], again: bool
) -> None:
    """Versions are announced in the order of `days`; one training run stands for as many of them as `merges` says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site, waiting, merges = pipeline(folder), [f"v{day}" for day in days], list(merges)
        for day in days:
            publish(folder / "d", f"v{day}", day=day)
        trained: list[str] = []
        while waiting:
            count = merges.pop(0)
            announced, waiting = waiting[:count], waiting[count:]
            version, _ = gates.choose(site, announced + announced * again)
            if version in announced:
                assert version not in trained
                trained.append(version)
                (folder / "runs" / version).mkdir(parents=True)
            assert version == max([*trained, *announced])  # never an older one after a newer one
        superseded = {path.stem for path in (folder / "runs" / "superseded").glob("*.json")}
        assert set(trained) | superseded == {f"v{day}" for day in days}
        assert not set(trained) & superseded
        assert trained == sorted(trained)


def test_without_intervals_the_version_that_was_made_last_is_the_newest(tmp_path: Path) -> None:
    for version in ("b", "c", "a"):
        publish(tmp_path / "d", version)
    assert gates.choose(pipeline(tmp_path), ["a", "b", "c"]) == ("a", ["b", "c"])
    assert gates.choose(pipeline(tmp_path), ["b"])[0] == "b"


def test_a_version_that_is_gone_is_told(tmp_path: Path) -> None:
    publish(tmp_path / "d", "a")
    with pytest.raises(DatasetError, match="no version gone, which was announced"):
        gates.choose(pipeline(tmp_path), ["a", "gone"])


def test_rows_made_once_more_for_a_released_model_are_no_version_to_drift_from(tmp_path: Path) -> None:
    publish(tmp_path / "d", "first")
    publish(tmp_path / "d", "again", frozen="old")
    publish(tmp_path / "d", "second")
    assert gates.check(pipeline(tmp_path), "second")["drift"]["against"] == "first"
