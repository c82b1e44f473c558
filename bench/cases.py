"""The rows that `bench.feed` reads, the same for all systems: per case one schema and one deterministic generator.

Needs NumPy and `penstock.schema` alone, so that a peer's environment can import it for dtypes and shapes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.schema import Field, Schema

SEED = 7
ROW_GROUP_BYTES = 4 << 20
NUM_FILES = 8
NUM_LABELS = 10
MIN_TOKENS, MAX_TOKENS = 16, 256
KEY, LABEL = "id", "label"

Columns = Mapping[str, Any]  # field -> (n, *shape) array; for lists and encoded images a list of n values


@dataclass(frozen=True)
class Case:
    """`make(rng, n)` gives the features of n rows; key and label are added. `row_bytes`: about a row's in Parquet."""

    features: tuple[Field, ...]
    make: Callable[[np.random.Generator, int], Columns]
    row_bytes: int
    fixed_size: bool  # the features are tensors of one size, which can be read in place
    num_rows: int = 160_000

    @property
    def schema(self) -> Schema:
        return Schema((Field(KEY, "int64"), *self.features, Field(LABEL, "int64")), key=KEY, label=LABEL)

    @property
    def columns(self) -> list[str]:
        """What every system reads: the features and the label."""
        return [*(field.name for field in self.features), LABEL]


def group_sizes(case: Case, num_rows: int) -> list[list[int]]:
    """The rows of each row group of each file: even, and of at most `ROW_GROUP_BYTES`."""
    files = []
    for in_file in even(num_rows, min(NUM_FILES, num_rows)):
        files.append(even(in_file, -(-in_file * case.row_bytes // ROW_GROUP_BYTES)))
    return files


def even(total: int, parts: int) -> list[int]:
    """`total` cut into `parts` numbers that differ by one at most."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def row_groups(case: Case, num_rows: int) -> Iterator[Sequence[Columns]]:
    """File after file, the row groups of each. A row group's values follow from its number alone."""
    first = number = 0
    for sizes in group_sizes(case, num_rows):
        groups = []
        for size in sizes:
            rng = np.random.default_rng([SEED, number])
            keys, labels = np.arange(first, first + size), rng.integers(NUM_LABELS, size=size)
            groups.append({KEY: keys, LABEL: labels, **case.make(rng, size)})
            first, number = first + size, number + 1
        yield groups


def _images(rng: np.random.Generator, n: int) -> Columns:
    return {"image": rng.integers(256, size=(n, 28, 28), dtype=np.uint8)}


def _floats(rng: np.random.Generator, n: int) -> Columns:
    return {"x": rng.standard_normal((n, 64), dtype=np.float32)}


def _binary(rng: np.random.Generator, n: int) -> Columns:
    return {"payload": np.frombuffer(rng.bytes(n * 10_240), np.uint8).reshape(n, 10_240)}


def _lists(rng: np.random.Generator, n: int) -> Columns:
    lengths = rng.integers(MIN_TOKENS, MAX_TOKENS + 1, size=n)
    return {"tokens": np.split(rng.integers(50_000, size=lengths.sum(), dtype=np.int32), lengths.cumsum()[:-1])}


def _png(rng: np.random.Generator, n: int) -> Columns:
    """Smooth as photographs are: 8x8 random colours, enlarged."""
    from PIL import Image  # here, as a peer whose own decoder is another has none

    files = []
    for small in rng.integers(256, size=(n, 8, 8, 3), dtype=np.uint8):
        file = io.BytesIO()
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(file, "png")
        files.append(file.getvalue())
    return {"image": files}


SCALAR_DTYPES = (*["float32"] * 6, *["float64"] * 2, *["int32"] * 3, *["int64"] * 2)


def _scalars(rng: np.random.Generator, n: int) -> Columns:
    """13 columns: prices, rates, counts and codes of a table."""
    return {f"c{i:02d}": (rng.standard_normal(n) * 1000).astype(dtype) for i, dtype in enumerate(SCALAR_DTYPES)}


CASES: dict[str, Case] = {
    "images": Case((Field("image", "uint8", (28, 28)),), _images, 804, fixed_size=True),
    "floats": Case((Field("x", "float32", (64,)),), _floats, 276, fixed_size=True),
    "scalars": Case(
        tuple(Field(f"c{i:02d}", dtype) for i, dtype in enumerate(SCALAR_DTYPES)), _scalars, 84, fixed_size=False
    ),
    "lists": Case((Field("tokens", "int32", (None,)),), _lists, 572, fixed_size=False),
    "png": Case(
        (Field("image", "uint8", (64, 64, 3), encoding="png"),), _png, 8_000, fixed_size=False, num_rows=10_000
    ),
    "binary": Case((Field("payload", "uint8", (10_240,)),), _binary, 10_260, fixed_size=True),
}
