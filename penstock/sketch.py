"""What many numbers are like, in a few: exact sums, a sketch of how they are spread, how many differ.

Parts merge in any order and grouping to the same result, bit for bit, on any machine: sums are whole numbers, and
what the sketch keeps follows from the set of values alone.

**Spread.** A float64's bits, turned so that they sort as numbers do, are a bin once their lowest are cut off: DDSketch
(Masson, Rim & Lee, "DDSketch", VLDB 2019) with its logarithm read off the bits instead of computed. With b bits of
the fraction left, a bin's middle is within 2**-(b + 1) of each of its values. As many bits are cut as leave
MAX_BINS bins, none where so few values differ; more are cut uniformly as values come (Epicoco et al., "UDDSketch",
IEEE Access 2020). How many depends on the set of values only, as a subset never needs more.

**Distinct values.** Exact up to MAX_BINS, each then being a bin; beyond, from the MAX_HASHES smallest of their hashes
(Bar-Yossef et al., "Counting distinct elements in a data stream", RANDOM 2002), which is 4 % off as a rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.digest import U64, distinct, splitmix64

MAX_BINS = 1024
MAX_HASHES = 512
FRACTION_BITS = 52  # of a float64
UNIT = 1074  # every float64 is a multiple of 2**-UNIT
BLOCK = 1 << 15  # values at a time: they stay in the processor's cache, and sums of products of limbs below 2**53
DENSE = 1 << 18  # keys within such a span are counted without sorting them
LIMB = 18  # bits; three limbs hold the 53 of a float64's mantissa

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of one type. NaN and infinities are counted and otherwise left out.

    `total` and `squares` are Σ x and Σ x² of integers, and of floats Σ x * 2**UNIT and Σ x² * 2**(2 UNIT). `keys` are
    the bins that hold values, rising, less their `shift` lowest bits. `hashes` are kept once `shift` is above 0.
    """

    count: int
    nan: int
    infinite: int
    total: int
    squares: int
    low: float | None  # the smallest; None where there is none
    high: float | None
    shift: int
    keys: U64
    counts: I64
    hashes: U64

    def to_json(self) -> list[Any]:
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Numbers:
        found = dict(zip(cls.__dataclass_fields__, value, strict=True))
        arrays = {"keys": np.uint64, "counts": np.int64, "hashes": np.uint64}
        return cls(**{**found, **{name: np.array(found[name], dtype) for name, dtype in arrays.items()}})

    @property
    def is_whole(self) -> bool:
        """Whether every distinct value is a bin of its own."""
        return self.shift == 0


NO_KEYS, NO_COUNTS = np.zeros(0, np.uint64), np.zeros(0, np.int64)
NONE = Numbers(0, 0, 0, 0, 0, None, None, 0, NO_KEYS, NO_COUNTS, NO_KEYS)


def sketch(values: npt.NDArray[Any], onto: Numbers | None = None) -> Numbers:
    """Of numbers of any shape and of one type; and of those that `onto` is of."""
    flat = values.reshape(-1)
    weights = None
    if flat.dtype.itemsize <= 2 and len(flat) > 256:
        flat, weights = _histogram(flat)
    nan = infinite = 0
    if flat.dtype.kind == "f" and not (is_finite := np.isfinite(flat)).all():
        is_nan = np.isnan(flat)
        ones = np.ones(len(flat), np.int64) if weights is None else weights
        nan, infinite = int(ones[is_nan].sum()), int(ones[~is_finite & ~is_nan].sum())
        flat, weights = flat[is_finite], None if weights is None else weights[is_finite]
    found = merge([onto or NONE, replace(NONE, nan=nan, infinite=infinite)])
    for start in range(0, len(flat), BLOCK):
        block = slice(start, start + BLOCK)
        found = merge([found, _of_block(flat[block], None if weights is None else weights[block], found)])
    return found


def _of_block(x: npt.NDArray[Any], weights: I64 | None, before: Numbers) -> Numbers:
    """Of numbers that are to be merged with `before`: without what that has no place for any more."""
    sums, keys, shift = _sums(x, weights), _keys(x.astype(np.float64)), before.shift
    if shift == 0:
        keys, counts = _grouped(keys, weights)
        hashes = smallest(splitmix64(keys)) if len(keys) > MAX_BINS else NO_KEYS
        shift, keys, counts = _collapsed(0, keys, counts)
    else:
        hashes = splitmix64(keys)
        hashes = smallest(distinct(hashes[hashes < before.hashes[-1]]))
        keys, counts = _grouped(keys >> np.uint64(shift), weights)
    count = len(x) if weights is None else int(weights.sum())
    low, high = x.min().item() + 0, x.max().item() + 0  # so that -0.0 is 0.0
    return Numbers(count, 0, 0, *sums, low, high, shift, keys, counts, hashes)


def merge(parts: Sequence[Numbers]) -> Numbers:
    """Of all their numbers together; of none, no number."""
    there = [part for part in parts if part.count or part.nan or part.infinite]
    if len(there) == 1:
        return there[0]
    shift = max((part.shift for part in there), default=0)
    keys = np.concatenate([NO_KEYS, *(part.keys >> np.uint64(shift - part.shift) for part in there)])
    weights = np.concatenate([NO_COUNTS, *(part.counts for part in there)])
    order = np.argsort(keys, kind="stable")
    shift, keys, counts = _collapsed(shift, *_runs(keys[order], weights[order]))
    hashes = NO_KEYS
    if shift:
        all_hashes = [splitmix64(part.keys) if part.is_whole else part.hashes for part in there]
        hashes = smallest(distinct(np.concatenate(all_hashes)))
    return Numbers(
        count=sum(part.count for part in there),
        nan=sum(part.nan for part in there),
        infinite=sum(part.infinite for part in there),
        total=sum(part.total for part in there),
        squares=sum(part.squares for part in there),
        low=min((part.low for part in there if part.low is not None), default=None),
        high=max((part.high for part in there if part.high is not None), default=None),
        shift=shift,
        keys=keys,
        counts=counts,
        hashes=hashes,
    )


def num_distinct(numbers: Numbers) -> tuple[int, bool]:
    """How many values differ, and whether that is exact."""
    return (len(numbers.keys), True) if numbers.is_whole else (from_hashes(numbers.hashes, numbers.count), False)


def from_hashes(smallest: U64, at_most: int) -> int:
    """The number of values whose k smallest hashes, of 64 bits, these are: (k - 1) / the largest as a share of 2**64.

    Source: Beyer et al., "On synopses for distinct-value estimation under multiset operations", SIGMOD 2007, whose
    estimate has no bias and a standard error of 1 / sqrt(k - 2).
    """
    return min(at_most, ((len(smallest) - 1) << 64) // max(1, int(smallest[-1])))


def mean_and_std(numbers: Numbers, is_integer: bool) -> tuple[float | None, float | None]:
    """Of the population, rounded once, from exact sums."""
    if not numbers.count:
        return None, None
    unit = 1 if is_integer else 1 << UNIT
    mean = Fraction(numbers.total, numbers.count * unit)
    variance = Fraction(numbers.squares, numbers.count * unit * unit) - mean * mean
    return float(mean), _sqrt(variance)


def bins(numbers: Numbers, is_integer: bool) -> tuple[F64, F64]:
    """(n,) the smallest and the largest value that each bin may hold."""
    shift = np.uint64(numbers.shift)
    lows, highs = _values(numbers.keys << shift), _values(((numbers.keys + np.uint64(1)) << shift) - np.uint64(1))
    if numbers.low is not None and numbers.high is not None:
        # not `maximum`: the outermost bins may end in the bits of a NaN
        lows, highs = np.fmax(lows, numbers.low), np.fmin(highs, numbers.high)
    return (np.ceil(lows), np.floor(highs)) if is_integer else (lows, highs)


def quantiles(numbers: Numbers, shares: Sequence[float], is_integer: bool) -> list[float]:
    """For each share q the smallest value that at least q of all are not above: NumPy's `inverted_cdf`.

    Within `relative_error` of it. [] for no numbers.
    """
    if not numbers.count:
        return []
    lows, highs = bins(numbers, is_integer)
    middles = lows / 2 + highs / 2
    ranks = [max(1, math.ceil(Fraction(q).limit_denominator(1000) * numbers.count)) for q in shares]
    found = middles[np.searchsorted(np.cumsum(numbers.counts), ranks)]
    return [float(value) for value in (np.floor(found) if is_integer else found)]


def relative_error(numbers: Numbers) -> float:
    """Bound on |quantile - value| / |value|, for values that are not subnormal."""
    return 0.0 if numbers.is_whole else 2.0 ** (numbers.shift - FRACTION_BITS - 1)


def _histogram(flat: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], I64]:
    """The values of one or two bytes that are there, and how often each is."""
    if flat.dtype.itemsize == 1 and len(flat) % 2 == 0:  # counted in pairs, which is half the work
        pairs = _bincount(np.ascontiguousarray(flat).view(np.uint16)).reshape(256, 256)
        counts = pairs.sum(axis=0) + pairs.sum(axis=1)
    else:
        counts = _bincount(np.ascontiguousarray(flat).view(f"u{flat.dtype.itemsize}"))
    codes = np.flatnonzero(counts)
    return codes.astype(f"u{flat.dtype.itemsize}").view(flat.dtype), counts[codes]


def _bincount(codes: npt.NDArray[Any]) -> I64:
    counts = np.zeros(1 << 8 * codes.dtype.itemsize, np.int64)
    step = max(BLOCK, 4 * len(counts))
    for start in range(0, len(codes), step):
        counts += np.bincount(codes[start : start + step], minlength=len(counts))
    return counts


def _keys(x: F64) -> U64:
    """Finite numbers as integers that sort as they do; -0.0 is 0.0."""
    bits = (x + 0.0).view(np.int64)
    return (bits ^ ((bits >> 63) | np.int64(-(2**63)))).view(np.uint64)


def _values(keys: U64) -> F64:
    """What `_keys` made them of."""
    bits = keys.view(np.int64)
    return (bits ^ (~(bits >> 63) | np.int64(-(2**63)))).view(np.float64)


def _grouped(keys: U64, weights: I64 | None) -> tuple[U64, I64]:
    """Distinct keys, rising, and how often each is."""
    if weights is not None:
        order = np.argsort(keys)
        return _runs(keys[order], weights[order])
    if len(keys) and (span := int(keys.max() - (first := keys.min()))) < DENSE:
        counts = np.bincount((keys - first).view(np.int64), minlength=span + 1)
        there = np.flatnonzero(counts)
        return first + there.astype(np.uint64), counts[there]
    keys = np.sort(keys)
    return _runs(keys, np.ones(len(keys), np.int64))


def _runs(keys: U64, weights: I64) -> tuple[U64, I64]:
    """Distinct keys of sorted ones, and the sum of each one's weights."""
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(weights, starts) if len(starts) else weights


def _collapsed(shift: int, keys: U64, counts: I64) -> tuple[int, U64, I64]:
    """The same with as many more bits cut off as leave MAX_BINS."""
    if len(keys) <= MAX_BINS:
        return shift, keys, counts
    # Neighbours part as long as the highest bit in which they differ is there: MAX_BINS - 1 of them may.
    differ = keys[1:] ^ keys[:-1]
    more = int(np.partition(differ, len(differ) - MAX_BINS)[len(differ) - MAX_BINS]).bit_length()
    return shift + more, *_runs(keys >> np.uint64(more), counts)


def smallest(distinct_hashes: U64) -> U64:
    """The MAX_HASHES smallest, rising; all where there are fewer."""
    if len(distinct_hashes) > MAX_HASHES:
        distinct_hashes = np.partition(distinct_hashes, MAX_HASHES)[:MAX_HASHES]
    return np.sort(distinct_hashes)


def _sums(block: npt.NDArray[Any], weights: I64 | None) -> tuple[int, int]:
    """Σ x and Σ x², as `Numbers` has them."""
    if weights is not None:  # of one or two bytes, each value once
        is_float = block.dtype.kind == "f"
        total = squares = 0
        exact = np.ldexp(block.astype(np.float64), 24) if is_float else block  # float16 is a multiple of 2**-24
        for x, n in zip(exact.astype(np.int64).tolist(), weights.tolist(), strict=True):
            total += n * x
            squares += n * x * x
        return (total << UNIT - 24, squares << 2 * (UNIT - 24)) if is_float else (total, squares)
    return _float_sums(block) if block.dtype.kind == "f" else _integer_sums(block)


def _integer_sums(block: npt.NDArray[Any]) -> tuple[int, int]:
    x = block.astype(np.int64)
    high, low = x >> 32, x & 0xFFFFFFFF
    if not high.any():
        return int(x.sum()), _sum64((x * x).view(np.uint64))
    total = (int(high.sum()) << 32) + int(low.sum())
    squares = (_sum64(high * high) << 64) + (_sum64(high * low) << 33) + _sum64((low * low).view(np.uint64))
    return total, squares


def _sum64(x: npt.NDArray[Any]) -> int:
    """The sum of 64-bit integers in halves, which cannot overflow."""
    half = x.dtype.type(32)
    return (int((x >> half).sum()) << 32) + int((x & x.dtype.type(0xFFFFFFFF)).sum())


def _float_sums(block: npt.NDArray[Any]) -> tuple[int, int]:
    """Mantissas are summed by exponent, in limbs whose sums float64 holds exactly.

    The idea is that of Kulisch's accumulator; source: Neal, "Fast exact summation using small and large
    superaccumulators", arXiv:1505.05571.
    """
    mantissas, exponents = np.frexp(block.astype(np.float64))
    m = np.ldexp(mantissas, 53).astype(np.int64)  # x = m * 2**(exponent - 53)
    first = int(exponents.min())
    exponents -= first

    def by_exponent(limbs: I64, place: int) -> int:
        sums = np.bincount(exponents, limbs)  # of integers below 2**38, so exact
        return sum(int(value) << place + scale * int(e) for e, value in enumerate(sums) if value)

    c2, c1, c0 = m >> 2 * LIMB, (m >> LIMB) & (1 << LIMB) - 1, m & (1 << LIMB) - 1
    scale = 1
    total = by_exponent(m >> LIMB, LIMB) + by_exponent(c0, 0)
    scale = 2
    squares = by_exponent(c2 * c2, 4 * LIMB) + by_exponent(2 * c2 * c1, 3 * LIMB) + by_exponent(c1 * c1, 2 * LIMB)
    if c0.any():  # not of float32
        squares += by_exponent(2 * c2 * c0, 2 * LIMB) + by_exponent(2 * c1 * c0, LIMB) + by_exponent(c0 * c0, 0)
    return _shifted(total, first - 53 + UNIT), _shifted(squares, 2 * (first - 53 + UNIT))


def _shifted(value: int, bits: int) -> int:
    return value << bits if bits >= 0 else value >> -bits  # to the right only zeros are lost


def _sqrt(x: Fraction) -> float:
    """Rounded from 64 bits or more, also where x is beyond the range of floats."""
    half = max(0, 64 - (x.numerator.bit_length() - x.denominator.bit_length()) // 2)
    return math.isqrt((x.numerator << 2 * half) // x.denominator) / (1 << half)
