"""How two models differ on the same rows, with intervals. A figure is what each row gave: a value and its weight.

Shares, whose rows give 0 or 1 each (accuracy, recall), have intervals that also hold where rows are few or all alike;
all other figures the normal one of a mean, or of a ratio where weights differ. A row is the unit that was drawn: rows
that belong together (of one patient, one day) make intervals too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """Σ values / Σ weights of n rows; `weights` are None where each counts as 1."""

    values: Values  # (n,)
    weights: Values | None = None  # (n,)

    @property
    def value(self) -> float:
        return float(self.values.sum() / (len(self.values) if self.weights is None else self.weights.sum()))

    @property
    def is_share(self) -> bool:
        return self.weights is None and bool(np.isin(self.values, (0.0, 1.0)).all())

    def influences(self) -> Values:
        """(n,) how far each row moves the figure, times n; their mean is 0.

        Source of the ratio's: linearisation, Cochran, "Sampling Techniques", 3rd ed., Wiley 1977, section 6.4.
        """
        if self.weights is None:
            return self.values - self.value
        found: Values = (self.values - self.value * self.weights) / self.weights.mean()
        return found


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


@np.errstate(all="ignore")  # of what is not finite
def interval(figure: Figure, level: float = LEVEL) -> Interval:
    """Source of a share's: Wilson, "Probable Inference", J. Am. Stat. Assoc. 22(158), 1927."""
    n, z, value = len(figure.values), _z(level), figure.value
    if not figure.is_share:
        return _normal(value, figure.influences(), z)
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return Interval(value, min(value, middle - half), max(value, middle + half))


@np.errstate(all="ignore")
def difference(one: Figure, other: Figure, level: float = LEVEL) -> Interval:
    """`one` - `other` of two models, row by row.

    Source of that of two shares: Agresti & Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24(5), 2005: half a row is added to each of the four cells.
    """
    n, z, value = len(one.values), _z(level), one.value - other.value
    if not (one.is_share and other.is_share):
        return _normal(value, one.influences() - other.influences(), z)
    won, lost = (float((sign * (one.values - other.values) > 0).sum()) + 0.5 for sign in (1, -1))
    middle = (won - lost) / (n + 2)
    half = z * math.sqrt(won + lost - (won - lost) ** 2 / (n + 2)) / (n + 2)
    return Interval(value, max(-1.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def _normal(value: float, influences: Values, z: float) -> Interval:
    half = z * float(influences.std(ddof=1)) / math.sqrt(len(influences))
    return Interval(value, value - half, value + half)


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
