"""The recipes' bench: its n-grams by hand, and folds that are the recipe with other test rows."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from bench.ngrams import NGrams
from bench.recipes import calibration_error, nearest_recordings, rotated
from penstock.recipe import find
from tests.train.conftest import write_dataset


def test_n_grams_by_hand() -> None:
    grams = NGrams("abab", 2, discount=0.5)
    before_b = (2 - 0.5) / 4 + 0.5 * 2 / 4 / 2  # of no character: 2 of 4 are b, two kinds, else 1 of 2
    assert grams.p("b", "") == pytest.approx(before_b)
    assert grams.p("b", "a") == pytest.approx((2 - 0.5) / 2 + 0.5 * 1 / 2 * before_b)
    assert grams.p("b", "xa") == grams.p("b", "a")
    assert grams.p("b", "x") == grams.p("b", "")


def test_n_grams_are_probabilities_and_know_what_they_have_seen() -> None:
    rng = random.Random(0)
    text = "".join(rng.choice("aaabbc") for _ in range(500)) + "abc" * 200
    grams = NGrams(text, 4)
    for before in ("", "a", "abc", "zzz", "cab"):
        assert sum(grams.p(c, before) for c in "abc") == pytest.approx(1)
    assert grams.nats_per_character("abc" * 50) < 0.5 < grams.nats_per_character("cba" * 50)
    assert NGrams("ab" * 9, 1, 0.0).nats_per_character("ab") == pytest.approx(math.log(2))


def test_folds_are_the_recipe_with_other_test_rows(tmp_path: Path) -> None:
    whole = find("sms_spam").dataset()
    folds = [rotated(find("sms_spam"), tmp_path, fold) for fold in range(5)]
    assert [fold.dataset().split.rotate for fold in folds] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert folds[3].dataset().schema == whole.schema
    assert folds[3].dataset().private == whole.private
    assert folds[3].model().config() == find("sms_spam").model().config()


def test_calibration_error_by_hand() -> None:
    labels, scores = np.array([0, 0, 0, 1, 1, 0]), np.array([0.1, 0.0, 0.2, 0.9, 0.7, 0.8])
    assert calibration_error(labels, scores, num_bins=2) == pytest.approx((3 * 0.1 + 3 * abs(2 / 3 - 0.8)) / 6)
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=100_000)
    assert calibration_error(rng.uniform(size=100_000) < scores, scores) < 0.01
    assert calibration_error(rng.uniform(size=100_000) < scores**2, scores) > 0.1


def test_the_nearest_recordings_know_tones_and_no_other_digit_s(tmp_path: Path) -> None:
    schema = find("spoken_digits").dataset().schema

    def rows(first: int, digits: list[int], tones: list[int]) -> dict[str, object]:
        hz = 200 + 300 * np.array(tones)[:, None] + first
        samples = (9000 * np.sin(2 * np.pi * hz * np.arange(8000) / 8000)).astype(np.int16)
        return {"id": [f"{first}-{i}" for i in range(len(digits))], "samples": samples, "digit": np.array(digits)}

    every = list(range(10))
    test = rows(20, every, [*every[:7], 9, 8, 7])  # of the last three, 9 and 7 sound like each other
    splits = {"train": [[rows(0, every, every)]], "val": [[rows(10, every, every)]], "test": [[test]]}
    found = nearest_recordings(str(write_dataset(tmp_path / "dataset", schema, splits)))
    assert found == {"centroid": pytest.approx(0.8), "neighbour": pytest.approx(0.8)}
