import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cases import NUM_LABELS
from bench.clock import BATCH_ROWS
from bench.shuffle import buffered, chi_square, deviation, expectation, main


def labels_of(num_rows: int) -> np.ndarray:
    return np.repeat(np.arange(NUM_LABELS), num_rows // NUM_LABELS)


def test_the_formula_is_what_permutations_give() -> None:
    labels, rng = labels_of(20_000), np.random.default_rng(0)
    found = [chi_square(rng.permutation(labels)) for _ in range(300)]
    assert np.mean(found) == pytest.approx(expectation(20_000), abs=5 * deviation(labels) / 300**0.5)


def test_a_batch_of_one_class_is_the_farthest() -> None:
    assert chi_square(labels_of(BATCH_ROWS * NUM_LABELS)) == pytest.approx((NUM_LABELS - 1) * BATCH_ROWS)


@given(num_rows=st.integers(1, 300), buffer_rows=st.integers(1, 400), seed=st.integers(0, 9))
def test_a_buffer_gives_every_row_once(num_rows: int, buffer_rows: int, seed: int) -> None:
    given_rows = buffered(np.arange(num_rows), buffer_rows, np.random.default_rng(seed))
    assert (np.sort(given_rows) == np.arange(num_rows)).all()
    late = given_rows - np.arange(num_rows)
    assert late.max() < buffer_rows  # no row comes before it can be in the buffer


def test_ours_on_published_rows_is_like_a_permutation(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "50000", "--epochs", "4", "--peers", "none"]) == 0
    systems = json.loads(capfd.readouterr().out.strip().splitlines()[-1])["systems"]
    assert abs(systems["ours, published"]["z"]) < 4
    assert systems["ours, adopted"]["rows"] == [50_000] * 4
    assert systems["ours, adopted"]["chi_square"] < systems["buffer of 10,000 rows, file order"]["chi_square"]
