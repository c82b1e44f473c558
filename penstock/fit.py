"""What a recipe's `fit` asks for, from exact sums over the training split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from penstock.profile import Profile
from penstock.sketch import NONE, Numbers


def fitted(fit: Mapping[str, str], profiles: Mapping[str, Profile]) -> dict[str, dict[str, Any]]:
    """What a recipe fits, from exact sums over the training split: the same wherever and in whatever order."""
    train = profiles.get("train")
    numbers = {name: train.numbers[name] if train else NONE for name in fit}
    return {name: {"kind": kind, **_mean_and_std(numbers[name])} for name, kind in fit.items()}


def _mean_and_std(numbers: Numbers) -> dict[str, float]:
    return mean_and_std(numbers.count, numbers.total, numbers.squares)


def mean_and_std(count: int, total: int | Fraction, squares: int | Fraction) -> dict[str, float]:
    """Mean and standard deviation of `count` values from Σ x and Σ x², rounded once, at the end; 0 and 1 for none.

    The deviation of a constant, 0, by which nothing can be divided, is given as 1.
    """
    if not count:
        return {"mean": 0.0, "std": 1.0}
    mean = Fraction(total) / count
    variance = Fraction(squares) / count - mean * mean
    return {"mean": float(mean), "std": math.sqrt(variance) or 1.0}
