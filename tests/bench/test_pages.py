"""A recipe's page is made of its run: with the errors that the run makes, and no others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest

import penstock
from bench import pages
from penstock import cli


def test_a_page_shows_what_is_wrong(digits_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGES", tmp_path)
    run, data, said = str(tmp_path / "run"), str(digits_dataset), str(tmp_path / "said")
    assert cli.main(["train", "digits", "--data", data, "--out", run, "--steps", "30", "--device", "cpu"]) == 0
    assert pages.main([run, "--data", data]) == 0
    page = (tmp_path / "digits.md").read_text()
    for name in ("curve", "data", "wrong"):
        assert f"](digits-{name}.png)" in page
        assert (tmp_path / f"digits-{name}.png").stat().st_size > 5_000
    assert cli.main(["predict", run, "--data", data, "--split", "val", "--out", said]) == 0
    rows = penstock.read(data, "val").merge(pq.read_table(said).to_pandas(), on="id")
    found = pages.worst(rows, "label")
    assert 0 < len(found) <= pages.SHOWN
    assert (found["prediction"] != found["label"]).all()
    assert found["score"].max() == rows[rows["prediction"] != rows["label"]]["score"].max()


def test_of_two_classes_the_surest_is_the_farthest_from_a_half() -> None:
    rows = pd.DataFrame({"label": [0, 1, 0, 1], "prediction": [1, 0, 1, 1], "score": [0.7, 0.05, 0.9, 0.9]})
    assert [*pages.worst(rows, "label").index] == [1, 2, 0]


def test_of_many_classes_an_unsure_error_is_not_sure() -> None:
    rows = pd.DataFrame({"label": [5, 1, 0], "prediction": [3, 0, 2], "score": [0.2, 0.4, 0.6]})
    assert [*pages.worst(rows, "label").index] == [2, 1, 0]


def test_a_cell_stays_in_its_cell() -> None:
    assert pages._cell("a | b\n  c") == "a \\| b c"
    assert len(pages._cell("word " * 100)) == pages.LONGEST_TEXT
    assert pages._cell(0.12345) == "0.123"
    assert pages._some([7, None]) == "7, None"
    assert pages._some(range(9)) == "0, 1, 2, 3, 4, … (9)"
