"""Figures that are exact in whatever order they are summed."""

from __future__ import annotations

import math
import random
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.fit import fitted
from penstock.profile import Profile, Sample
from penstock.sketch import merge, sketch

PARTS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8), max_size=6)


def train(parts: list[list[int]]) -> dict[str, Profile]:
    sketches = [sketch(np.array(part, np.int32)) for part in parts]
    return {"train": Profile({"x": merge(sketches)}, {}, Sample([], {}))}


@given(PARTS)
def test_mean_and_deviation_are_those_of_exact_arithmetic(parts: list[list[int]]) -> None:
    found = fitted({"x": "standardise"}, train(parts))["x"]
    values = [x for part in parts for x in part]
    if not values:
        assert found == {"kind": "standardise", "mean": 0.0, "std": 1.0}
        return
    mean = Fraction(sum(values), len(values))
    variance = sum((x - mean) ** 2 for x in values) / len(values)
    assert found["mean"] == float(mean)
    if variance == 0:
        assert found["std"] == 1.0  # a constant: nothing to divide by
        return
    with localcontext(prec=60):
        std = (Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt()
        assert abs(Decimal(found["std"]) - std) <= Decimal(math.ulp(found["std"]))


@given(PARTS, st.randoms(use_true_random=False))
def test_neither_order_nor_parts_matter(parts: list[list[int]], rng: random.Random) -> None:
    values = [x for part in parts for x in part]
    rng.shuffle(values)
    cut = rng.randrange(len(values) + 1)
    again = fitted({"x": "standardise"}, train([values[:cut], values[cut:]]))
    assert again == fitted({"x": "standardise"}, train(parts))
