"""The best evaluation, and how long ago it was, after any sequence of evaluations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RunError
from train.config import EarlyStopping
from train.early_stopping import Best, judge, still

values = st.lists(st.sampled_from([1.0, 2.0, 3.0, 4.0, math.nan]), min_size=1, max_size=20)


@given(values, st.sampled_from(["min", "max"]))
def test_the_best_is_the_first_of_the_best_and_since_counts_what_came_after(found: list[float], mode: str) -> None:
    config = EarlyStopping("val_loss", mode)  # type: ignore[arg-type]
    best: Best | None = None
    for step, value in enumerate(found):
        best = judge(best, config, {"val_loss": value}, step)
    assert best is not None
    numbers = [value for value in found if not math.isnan(value)]
    expected = (min if mode == "min" else max)(numbers) if numbers else found[0]
    at = found.index(expected)
    assert (best.step, best.since) == (at, len(found) - 1 - at)
    assert best.value == expected or not numbers


def test_the_best_of_another_metric_is_none_any_more() -> None:
    best = judge(None, EarlyStopping("val_accuracy", "max"), {"val_accuracy": 0.98}, 1)
    assert still(best, EarlyStopping("val_accuracy", "max")) == best
    assert still(best, EarlyStopping("val_loss")) is None
    assert still(Best(0.98, 1), EarlyStopping("val_loss")) == Best(0.98, 1)  # of an old checkpoint


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(RunError, match="no 'val_f1'; there are train_loss, val_loss"):
        judge(None, EarlyStopping("val_f1"), {"train_loss": 1.0, "val_loss": 1.0}, 0)
