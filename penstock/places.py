"""Which split and shard each row of an Arrow table goes to, and in which order: what etl/split.py says to Spark.

docs/data_format.md, "Order of rows", has the arithmetic; a test compares the two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from penstock.errors import RecipeError
from penstock.recipe import HASHES, Split

SEED = 42  # of Spark's `xxhash64`

I64 = npt.NDArray[np.int64]


def hashes(values: pa.Array) -> I64:
    """(n,) the 64-bit xxHash of the text of each string, integer or bool; of a null that of no text."""
    texts = values.cast(pa.string()).fill_null("").to_pylist()
    found = np.fromiter((xxhash.xxh64_intdigest(text.encode(), SEED) for text in texts), np.uint64, len(texts))
    return found.view(np.int64)


def assign(hashed: I64, split: Split, by: pa.Array | None, source: pa.Array | None) -> dict[str, pa.Array]:
    """For each row its `split`, null where nothing says one, and in splits by group `_group`, null where that is.

    `hashed` is of the keys; `by` and `source` are the columns that the split names. Raises: RecipeError where a border
    cannot be compared with `by`.
    """
    assigned = {}
    if split.before:
        chosen = _by_time(by, split)
    elif split.is_by_group:
        assert by is not None
        assigned["_group"] = pc.if_else(by.is_valid(), hashes(by), None)
        chosen = _by_hash(assigned["_group"].fill_null(pa.array(hashed)), split)
    else:
        chosen = _by_hash(pa.array(hashed), split)
    if source is not None:
        chosen = pc.coalesce(source.cast(pa.string()), chosen)
    return {"split": chosen, **assigned}


def _by_hash(hashed: pa.Array, split: Split) -> pa.Array:
    bucket = (hashed.to_numpy() % HASHES + round(split.rotate * HASHES)) % HASHES
    *others, _ = split.limits.values()
    return pa.array(list(split.limits)).take(pa.array(np.searchsorted(others, bucket, side="right")))


def _by_time(times: pa.Array, split: Split) -> pa.Array:
    """The first split whose border the row is before; null where its time is."""
    if pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp(times.type.unit))  # one with a zone is compared as UTC
    *others, (last, _) = split.before.items()
    chosen = pa.array([last] * len(times))
    try:
        for name, border in reversed(others):
            chosen = pc.if_else(pc.less(times, pa.scalar(border).cast(times.type)), name, chosen)
    except pa.ArrowException as error:
        raise RecipeError(
            f"split: expected borders that compare with column {split.by!r}, of {times.type}, found "
            f"{tuple(split.before.values())} ({error}); say them in that type"
        ) from error
    return chosen


def in_order(rows: pa.Table, key: str, hashed: I64, num_shards: int) -> list[pa.Table]:
    """The rows of each shard, in the order in which they are written: by hash, then key."""
    shard = (hashed.view(np.uint64) >> np.uint64(32)) % np.uint64(num_shards)
    places = pa.table({"shard": shard, "hash": hashed, "key": rows[key]})
    order = pc.sort_indices(places, sort_keys=[(name, "ascending") for name in places.column_names])
    ends = np.cumsum(np.bincount(shard.astype(np.int64), minlength=num_shards)).tolist()
    return [rows.take(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
