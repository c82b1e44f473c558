"""Comparing versions: figures that agree with a direct computation, and no alarm by chance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import card as cards
from penstock import cli, compare
from penstock import profile as profiles
from penstock.card import Card, ManifestFile, Split
from penstock.compare import Change, changes
from penstock.digest import column_hashes, row_hashes
from penstock.errors import DatasetError
from penstock.schema import Field, Schema

SCHEMA = Schema((Field("id", "int64"), Field("x", "float64"), Field("n", "int64"), Field("word", "string")), key="id")


def profile(columns: Mapping[str, Any], schema: Schema = SCHEMA) -> dict[str, Any]:
    rows = pa.table([pa.array(columns[f.name], f.arrow_type) for f in schema.fields], schema.names)
    hashes = column_hashes(rows, schema)
    return profiles.described(profiles.add(profiles.empty(schema), rows, schema, hashes, row_hashes(hashes)), schema)


def rows(x: npt.NDArray[Any], n: Any = None, word: Any = None) -> dict[str, Any]:
    size = len(x)
    return {
        "id": np.arange(size),
        "x": x,
        "n": np.zeros(size, np.int64) if n is None else n,
        "word": ["a"] * size if word is None else word,
    }


def change(before: dict[str, Any], after: dict[str, Any], column: str) -> Change:
    found = changes({"train": profile(before)}, {"train": profile(after)}, "id")
    return next(c for c in found if c.column == column)


def card(version: str, columns: Mapping[str, Any], **changed: Any) -> Card:
    size = len(columns["id"])
    parts: dict[str, Any] = {
        "version": version,
        "recipe": "made",
        "data": f"data/{version}",
        "manifest": ManifestFile("_manifest.parquet", 10, "ab"),
        "schema": SCHEMA,
        "counts": {"raw": size, "quarantined": 0, "clean": size, "duplicates": 0, "built": size},
        "splits": {"train": Split(size, "00")},
        "transforms": {},
        "lineage": {},
        "profile": {"train": profile(columns)},
        "created": f"2026-01-0{version[-1]}T00:00:00.000000+00:00",
    }
    return Card(**{**parts, **changed})


def direct_psi(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    edges = np.quantile(before, np.arange(1, 10) / 10, method="inverted_cdf")
    a, b = (np.bincount(np.searchsorted(edges, x), minlength=10) + 0.5 for x in (before, after))
    a, b = a / a.sum(), b / b.sum()
    return float(((b - a) * np.log(b / a)).sum())


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "uniform", "timestamps"])
def test_psi_and_ks_agree_with_a_direct_computation(kind: str, shift: float) -> None:
    rng = np.random.default_rng(7)
    draw = {
        "normal": lambda s: rng.normal(s, 1, 20_000),
        "lognormal": lambda s: rng.lognormal(s, 1, 20_000),
        "uniform": lambda s: rng.uniform(s, s + 3, 20_000),
        "timestamps": lambda s: rng.normal(1_370_000_000 + s * 1_000_000, 1_000_000, 20_000),
    }[kind]
    before, after = draw(0), draw(shift)
    found = change(rows(before), rows(after), "x")
    assert found.psi == pytest.approx(direct_psi(before, after), rel=0.1, abs=0.01)
    assert found.ks == pytest.approx(scipy.stats.ks_2samp(before, after).statistic, abs=0.012)
    assert found.by_chance == (shift == 0)


def test_categories_are_compared_value_by_value() -> None:
    before, after = ["a"] * 700 + ["b"] * 300, ["a"] * 400 + ["b"] * 500 + ["c"] * 100
    a, b = np.array([700.5, 300.5, 0.5]) / 1001.5, np.array([400.5, 500.5, 100.5]) / 1001.5
    expected = pytest.approx(((b - a) * np.log(b / a)).sum(), rel=1e-12)
    assert change(rows(np.zeros(1000), word=before), rows(np.zeros(1000), word=after), "word").psi == expected
    codes = {"a": 1, "b": 2, "c": 3}
    there, here = ([codes[word] for word in words] for words in (before, after))
    assert change(rows(np.zeros(1000), n=there), rows(np.zeros(1000), n=here), "n").psi == expected
    assert compare.named(
        changes({"t": profile(rows(np.zeros(9), word=["a"] * 9))}, {"t": profile(rows(np.zeros(9)))}, "id")
    )


def test_a_constant_that_moves_either_way_is_seen() -> None:
    rng = np.random.default_rng(0)
    before = rows(np.where(rng.random(5_000) < 0.95, 5.0, rng.normal(size=5_000)))
    for moved in (4.0, 6.0):
        assert change(before, rows(np.where(before["x"] == 5, moved, before["x"])), "x").size == "much"


def test_many_categories_are_compared_by_their_hashes() -> None:
    words = [f"word {i}" for i in np.random.default_rng(0).integers(0, 3_000, 20_000)]
    others = [f"word {i}" for i in np.random.default_rng(1).integers(0, 3_000, 20_000)]
    assert change(rows(np.zeros(20_000), word=words), rows(np.zeros(20_000), word=others), "word").size == "none"
    spoilt = ["unknown" if i % 2 else word for i, word in enumerate(others)]
    assert change(rows(np.zeros(20_000), word=words), rows(np.zeros(20_000), word=spoilt), "word").size == "much"


def test_values_that_turn_to_nan_are_a_change() -> None:
    x = np.random.default_rng(0).normal(size=10_000)
    assert change(rows(x), rows(np.where(np.arange(10_000) % 3 == 0, np.nan, x)), "x").size == "much"
    all_nan = change(rows(x), rows(np.full(10_000, np.nan)), "x")
    assert (all_nan.size, all_nan.ks) == ("much", None)


@pytest.mark.parametrize("degrees", [1, 2, 9, 31])
def test_the_limit_of_chance_is_chi_squareds(degrees: int) -> None:
    assert compare.chi_squared(degrees) == pytest.approx(scipy.stats.chi2.ppf(0.999, degrees), rel=0.04)


@given(st.integers(0, 10_000), st.integers(30, 400))
@settings(max_examples=100)
def test_few_rows_raise_no_alarm_by_chance(seed: int, size: int) -> None:
    """PSI of two draws of 30 rows is often above 0.25."""
    rng = np.random.default_rng(seed)
    found = change(rows(rng.normal(size=size)), rows(rng.normal(size=size)), "x")
    n = size / 2  # of n and m rows, n m / (n + m)
    assert found.by_chance == (found.psi * n <= compare.chi_squared(found.parts - 1))
    assert math.isfinite(found.psi)


def test_chance_is_told_from_change() -> None:
    rng = np.random.default_rng(0)
    alarms = [not change(rows(rng.normal(size=60)), rows(rng.normal(size=60)), "x").by_chance for _ in range(300)]
    assert sum(alarms) <= 3
    seen = [not change(rows(rng.normal(size=60)), rows(rng.normal(2, 1, 60)), "x").by_chance for _ in range(30)]
    assert all(seen)


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=200), st.lists(st.integers(-50, 50), min_size=1, max_size=200)
)
@settings(max_examples=50)
def test_the_distance_of_whole_sketches_is_exact(before: list[int], after: list[int]) -> None:
    expected = scipy.stats.ks_2samp(before, after, method="asymp").statistic
    for column, dtype in (("x", np.float64), ("n", np.int64)):
        sides = (rows(np.zeros(len(v))) | {column: np.array(v, dtype)} for v in (before, after))
        assert change(*sides, column).ks == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).normal(size=2_000)
    cards.publish(f"file://{tmp_path}", card("v1", rows(x)))
    cards.publish(f"file://{tmp_path}", card("v2", rows(x[:1_500] + 3, word=["b"] * 1_500)))
    return tmp_path


def test_the_command_names_what_changed_and_in_which_order(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(two), "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out.splitlines()[-1])
    assert (told["before"]["version"], told["after"]["version"]) == ("v1", "v2")
    assert [c["column"] for c in told["columns"]] == ["word", "x", "n"]
    assert [c["change"] for c in told["columns"]] == ["much", "much", "none"]
    assert told["splits"] == {"train": [2_000, 1_500]}
    assert told["schema"] == {"added": [], "removed": [], "changed": {}}
    assert re.search(r"word +train +\d+\.\d+ +\S+ +much +'a' 100\.0% -> 0\.0%", output.err)
    assert cli.main(["compare", f"{two}@v2", f"{two}@v1", "--split", "train", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["before"]["version"] == "v2"


def test_a_limit_fails_the_command_in_a_sentence(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", f"{two}@v1", f"{two}@v2", "--fail-above", "0.25"]) == 1
    error = capsys.readouterr().err
    assert (
        "2 of 3 columns have moved further from version v1 than --fail-above 0.25 allows: word in train (PSI" in error
    )
    assert cli.main(["compare", f"{two}@v1", f"{two}@v1", "--fail-above", "0.25"]) == 0


def test_what_cannot_be_compared_is_said(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = Schema((*SCHEMA.fields[:2], Field("n", "int32"), Field("m", "int32")), key="id")
    none = card("v3", rows(np.zeros(3)), profile={}, schema=schema)
    cards.publish(f"file://{two}", none)
    assert cli.main(["compare", str(two), "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out.splitlines()[-1])
    assert told["columns"] == []
    assert (told["schema"]["added"], told["schema"]["removed"], list(told["schema"]["changed"])) == (
        ["m"],
        ["word"],
        ["n"],
    )
    assert "Version v3 has no profile: values cannot be compared" in output.err
    assert cli.main(["compare", f"{two}@v1", f"{two}@v2", "--split", "val"]) == 1
    assert "split 'val': expected in both versions" in capsys.readouterr().err
    cards.publish(f"file://{tmp_path}/one", none)
    assert cli.main(["compare", f"{tmp_path}/one"]) == 1
    assert "expected two versions to compare, found one" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="no version 'v9'"):
        compare.load(f"{two}@v9")
