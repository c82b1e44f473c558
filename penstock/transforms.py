"""Transforms that a recipe names: what is fitted on the training split, and what a value then becomes.

    transforms = {
        "features": (Standardise(Log("amount")), OneHot("city"), "is_new"),  # a tuple: one tensor of numbers
        "product": Ordinal("product"),                                      # one alone: a scalar, or a list of a list
    }

`of` is a column of the clean or built rows, or another transform, so that they nest: Standardise(Log("amount")). A name
in the tuple takes the column as it is. etl/features.py fits and applies them; the card keeps what was fitted as JSON.

Of numbers (integers, floats, decimals, bools; computed as float64), NaN and the infinities are null. A null stays null
through Standardise, MinMax, Log, Clip and Bucketise, and ends the job where it would be published: refuse such rows
with a rule, or say with Impute what they count as. Categories (strings, integers, bools, dates) that are null or were
not in the training split have a value of their own, which each transform names. Rows that are null are not fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from penstock.errors import RecipeError
from penstock.schema import Schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MAX_CATEGORIES = 100_000  # that a card keeps of one column, each of which the driver holds
MAX_ONE_HOT = 1_000
MAX_BORDERS = 1_000
MIN_TOKENS = 257
MAX_WORDS = 1_000_000  # different ones that byte pairs are learnt from, the most frequent; the driver holds them


@dataclass(frozen=True)
class Standardise:
    """(x - mean) / deviation, both over the training rows; the deviation of a constant is taken as 1.

    Source: z-score; the population's deviation, as scikit-learn's StandardScaler has it.
    """

    of: Of


@dataclass(frozen=True)
class MinMax:
    """(x - lowest) / (highest - lowest) of the training rows, from 0 to 1; below them 0, above them 1.

    Source: scikit-learn's MinMaxScaler with clip=True; the spread of a constant is taken as 1.
    """

    of: Of


@dataclass(frozen=True)
class Log:
    """sign(x) ln(1 + |x|): of any number, 0 stays 0. Nothing is fitted.

    Source: John & Draper, "An alternative family of transformations", Applied Statistics 29(2), 1980, λ = 0.
    """

    of: Of


@dataclass(frozen=True)
class Clip:
    """Moves what is below `low` or above `high` there; or, with `quantiles`, what is beyond these of the training rows.

    A quantile p is the smallest value that at least the share p of the values does not exceed: a value that is there.
    Source: winsorising; Hyndman & Fan, "Sample Quantiles in Statistical Packages", 1996, definition 1.
    """

    of: Of
    low: float | None = None
    high: float | None = None
    quantiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if (self.quantiles is None) == (self.low is None and self.high is None):
            raise RecipeError(f"{self}: expected low, high or both, or else quantiles")
        low, high = self.quantiles or (self.low, self.high)
        if (low is not None and high is not None and not low <= high) or any(
            x is not None and not math.isfinite(x) for x in (low, high)
        ):
            raise RecipeError(f"{self}: expected finite borders, the lower one first")
        if self.quantiles and (self.quantiles[0] < 0 or self.quantiles[1] > 1):
            raise RecipeError(f"{self}: quantiles are shares of the rows, 0 to 1")


@dataclass(frozen=True)
class Impute:
    """A null becomes the training rows' mean or median (the quantile 1/2, as Clip says), or this number."""

    of: Of
    value: Literal["mean", "median"] | float

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            if self.value not in ("mean", "median"):
                raise RecipeError(f"{self}: expected 'mean', 'median' or a number")
        elif not math.isfinite(self.value):
            raise RecipeError(f"{self}: expected a finite number")


@dataclass(frozen=True)
class Bucketise:
    """How many borders are at most x: 0 below the first one, as many as there are borders from the last one on.

    `quantiles=10` takes the training rows' deciles, as Clip says, each once: ties make fewer buckets.
    """

    of: Of
    borders: tuple[float, ...] = ()
    quantiles: int | None = None

    def __post_init__(self) -> None:
        if bool(self.borders) == (self.quantiles is not None):
            raise RecipeError(f"{self}: expected either borders or quantiles")
        if list(self.borders) != sorted({b for b in self.borders if math.isfinite(b)}):
            raise RecipeError(f"{self}: expected finite borders in rising order, each once")
        if len(self.borders) > MAX_BORDERS or not 2 <= (self.quantiles or 2) <= MAX_BORDERS:
            raise RecipeError(f"{self}: expected 2 to {MAX_BORDERS:,} quantiles or borders")


@dataclass(frozen=True)
class OneHot:
    """An element for each category of the training rows, in their order: 1 for the value's own, 0 for the others.

    Null and categories that were not there are 0 everywhere.
    """

    of: Of


@dataclass(frozen=True)
class Ordinal:
    """The category's place, from 1, among those of the training rows in their order; 0 for null and for others."""

    of: Of


@dataclass(frozen=True)
class Vocabulary:
    """A token's rank, from 1, among the `size` most frequent of the training rows; 0 for null and for all others.

    Of tokens that are equally frequent the smaller text is first. Of a list the ranks are a list of as many.
    """

    of: Of
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_CATEGORIES:
            raise RecipeError(f"{self}: expected a size of 1 to {MAX_CATEGORIES:,}")


@dataclass(frozen=True)
class Index:
    """A category's place, from 1, among the values of column `to` of a table; 0 for null and all others.

    Of a list the places are a list of as many. `table(spark, raw_url)` reads the table from the raw data, of which it
    is a part: a catalogue of all that there is, whether the training rows have it or not. The card keeps the values in
    their order and, in that order too, the table's other columns, for a model that knows things by what is said of
    them: `card.transforms[field]["values"]` and `["table"]`.
    """

    of: Of
    table: Callable[[SparkSession, str], DataFrame] = field(repr=False)  # a function's repr is another in each process
    to: str


@dataclass(frozen=True)
class Hashing:
    """1 + hash mod `buckets` of any category's text, seen before or not; 0 for null. Nothing is fitted.

    The hash is the 64-bit xxHash, seed 42, taken as a signed number; the remainder is not negative.
    Source: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009, without its sign.
    """

    of: Of
    buckets: int

    def __post_init__(self) -> None:
        if not 1 <= self.buckets < 2**31:
            raise RecipeError(f"{self}: expected 1 or more buckets, below 2**31")


@dataclass(frozen=True)
class TargetMean:
    """(n m + s M) / (n + s): the mean label m of a category's n training rows, drawn to that of all categories, M.

    `smoothing` is s, in rows. Null and categories that were not there get M. The label must be an integer or a bool.
    A training row's own label is in the mean of its category: with few rows for each category and little smoothing a
    model learns from it what no new row has.
    Source: Micci-Barreca, "A Preprocessing Scheme for High-Cardinality Categorical Attributes in Classification and
    Prediction Problems", SIGKDD Explorations 3(1), 2001, equation 3 with λ(n) = n / (n + s).
    """

    of: Of
    smoothing: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < math.inf:
            raise RecipeError(f"{self}: expected a smoothing of 0 rows or more")


@dataclass(frozen=True)
class Characters:
    """A text as a list of its characters' numbers, from 2, in the order of those that the training rows have.

    1 is a character that they lack, 0 none: it pads. penstock/tokens.py has both tokenisers.
    """

    of: str


@dataclass(frozen=True)
class BytePairs:
    """A text as a list of tokens, of which there are at most `size`: the 256 bytes, and what follows each other often.

    Source: Sennrich, Haddow & Birch, arXiv:1508.07909; penstock/tokens.py says how words are cut.
    """

    of: str
    size: int

    def __post_init__(self) -> None:
        if not MIN_TOKENS <= self.size <= MAX_CATEGORIES:
            raise RecipeError(f"{self}: expected a size of {MIN_TOKENS} (all bytes, and none) to {MAX_CATEGORIES:,}")


Transform: TypeAlias = (
    Standardise
    | MinMax
    | Log
    | Clip
    | Impute
    | Bucketise
    | OneHot
    | Ordinal
    | Vocabulary
    | Index
    | Hashing
    | TargetMean
    | Characters
    | BytePairs
)
Of: TypeAlias = str | Transform
Transforms: TypeAlias = Mapping[str, Transform | tuple[Of, ...]]  # field -> what it is made of

OF_NUMBERS = (Standardise, MinMax, Log, Clip, Impute, Bucketise)


def check(transforms: Transforms, schema: Schema) -> None:
    """Raises: RecipeError where a field is not in the schema, or is of a kind that its transforms do not give."""
    for name, made_of in transforms.items():
        if name not in schema.names:
            raise RecipeError(f"transforms: {name!r} is no field of the schema; there are {', '.join(schema.names)}")
        if name in (schema.key, schema.label):
            raise RecipeError(f"transforms: {name!r} is the key or the label, which stay as they are")
        field, parts = schema[name], made_of if isinstance(made_of, tuple) else (made_of,)
        if isinstance(made_of, tuple) and (len(field.shape) != 1 or not field.dtype.startswith("float")):
            raise RecipeError(
                f"transforms: a tuple makes a tensor, but field {name!r} is {field.dtype} of shape {field.shape}; "
                f"make it float32 of shape (None,): the number of elements follows from what is fitted"
            )
        if not isinstance(made_of, tuple) and isinstance(made_of, OneHot):
            raise RecipeError(f"transforms: {name!r}: OneHot makes several elements; write a tuple, (OneHot(…),)")
        if isinstance(made_of, Characters | BytePairs) and not field.is_list:
            raise RecipeError(f"transforms: {made_of}: gives a list; make field {name!r} int32 of shape (None,)")
        for part in parts:
            if isinstance(made_of, tuple) and isinstance(part, Characters | BytePairs):
                raise RecipeError(f"transforms: {part}: gives a list, which cannot be in a tensor; write it alone")
            _check_nesting(part, name, schema)


def _check_nesting(part: Of, name: str, schema: Schema) -> None:
    if isinstance(part, str):
        return
    if not isinstance(part, Transform):
        raise RecipeError(f"transforms: {name!r}: expected a column's name or a transform, found {part!r}")
    if isinstance(part, Characters | BytePairs) and not isinstance(part.of, str):
        raise RecipeError(f"transforms: {part}: is made of a column of texts, not of another transform")
    if isinstance(part.of, Characters | BytePairs):
        raise RecipeError(f"transforms: {part}: Characters and BytePairs cannot be inside another transform")
    if isinstance(part.of, OneHot):
        raise RecipeError(f"transforms: {part}: OneHot makes several elements and cannot be inside another transform")
    if isinstance(part.of, Vocabulary | Index) and not isinstance(part, OneHot):
        raise RecipeError(f"transforms: {part}: only OneHot may be around a Vocabulary or an Index")
    if isinstance(part, TargetMean):
        label = schema[schema.label] if schema.label else None
        if label is None or label.shape or not label.dtype.startswith(("int", "bool")):
            raise RecipeError(f"transforms: {part}: needs a label that is an integer or a bool")
    _check_nesting(part.of, name, schema)
