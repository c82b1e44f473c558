"""Profiles: what the values of each column of a split are like, as the card says it.

They come with the reading back of every byte, are merged from row groups, files and tasks, and are the same however
the rows were parted. Numbers are `penstock/sketch.py`'s: a scalar's values, all elements of a tensor, and the lengths
of strings, bytes, lists and encoded values. Of strings every distinct value is counted while there are no more than
MAX_VALUES; beyond, and for numbers with more values than a sketch has bins, the most frequent are estimated from
a sample: the SAMPLE_ROWS rows with the smallest hashes (Cohen & Kaplan, "Summarizing data using bottom-k
sketches", PODC 2007), which is one and the same whoever takes it.
"""

from __future__ import annotations

import heapq
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock import sketch as sketches
from penstock import tensors
from penstock.digest import U64, distinct, splitmix64
from penstock.schema import Field, Schema
from penstock.sketch import I64, Numbers

MAX_VALUES = 1024  # distinct strings that are counted one by one
SAMPLE_ROWS = 512
NUM_TOP = 20  # most frequent values in the card
SHOWN_LENGTH = 60  # characters of a string in the card
LEAST = 2  # a value that is there once says nothing of its column, and may say much of a person
LEAST_IN_SAMPLE = 10  # about 2 % of the rows
NUM_BUCKETS = 32  # of strings by their hash, which two versions share
BUCKET_SHIFT = np.uint64(64 - 5)
NUM_SLOTS = 50  # bins in the card hold about so large a part each
SHARES = {"1": 0.01, "5": 0.05, "25": 0.25, "50": 0.5, "75": 0.75, "95": 0.95, "99": 0.99}

JSON = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Texts:
    """Strings by the hashes of their values: all that are there, rising; or the smallest, if they are too many."""

    hashes: U64
    counts: I64  # [] where they are too many
    shown: list[str]  # [] where they are too many
    buckets: I64  # (NUM_BUCKETS,)

    @property
    def is_whole(self) -> bool:
        return len(self.hashes) == len(self.counts)


@dataclass(frozen=True, eq=False)
class Sample:
    """The rows with the smallest hashes, rising: of each column the values that may be named."""

    hashes: list[int]
    columns: Mapping[str, list[Any]]


@dataclass(frozen=True, eq=False)
class Profile:
    """What some rows of a schema are like."""

    numbers: Mapping[str, Numbers]  # field -> of its values, elements or lengths
    texts: Mapping[str, Texts]  # field of strings, but the key
    sample: Sample

    def to_bytes(self) -> bytes:
        numbers = {name: found.to_json() for name, found in self.numbers.items()}
        texts = {
            name: [t.hashes.tolist(), t.counts.tolist(), t.shown, t.buckets.tolist()] for name, t in self.texts.items()
        }
        return zlib.compress(json.dumps([numbers, texts, self.sample.hashes, dict(self.sample.columns)]).encode(), 1)

    @classmethod
    def from_bytes(cls, content: bytes) -> Profile:
        numbers, texts, hashes, columns = json.loads(zlib.decompress(content))
        return cls(
            {name: Numbers.from_json(found) for name, found in numbers.items()},
            {
                name: Texts(np.array(h, np.uint64), np.array(n, np.int64), shown, np.array(buckets, np.int64))
                for name, (h, n, shown, buckets) in texts.items()
            },
            Sample(hashes, columns),
        )


def empty(schema: Schema) -> Profile:
    none = Texts(sketches.NO_KEYS, sketches.NO_COUNTS, [], np.zeros(NUM_BUCKETS, np.int64))
    return Profile(
        dict.fromkeys(schema.names, sketches.NONE),
        {field.name: none for field in schema.fields if _is_named(field, schema) and field.dtype == "string"},
        Sample([], {field.name: [] for field in schema.fields if _is_named(field, schema)}),
    )


def add(before: Profile, rows: pa.Table, schema: Schema, columns: Sequence[U64], row_hashes: U64) -> Profile:
    """Of the rows before and of these; `columns` are the hashes of each field's values."""
    numbers, texts = {}, {}
    for field, hashes in zip(schema.fields, columns, strict=True):
        column = _in_one_piece(rows[field.name])
        numbers[field.name] = sketches.sketch(_measured(column, field), before.numbers[field.name])
        if (known := before.texts.get(field.name)) is not None:
            texts[field.name] = _merge_texts([known, _texts(column, splitmix64(hashes), known)])
    return Profile(numbers, texts, _merge_samples([before.sample, _sample(rows, row_hashes, before.sample)]))


def merge(parts: Sequence[Profile], schema: Schema) -> Profile:
    first = empty(schema)
    return Profile(
        {name: sketches.merge([part.numbers[name] for part in parts]) for name in first.numbers},
        {name: _merge_texts([part.texts[name] for part in [first, *parts]]) for name in first.texts},
        _merge_samples([first.sample, *(part.sample for part in parts)]),
    )


def described(profile: Profile, schema: Schema) -> JSON:
    """Field -> what the card says of it; docs/data_format.md names each part."""
    return {field.name: _described(profile, field, schema) for field in schema.fields}


def _is_named(field: Field, schema: Schema) -> bool:
    """Whether the card may name values of this field: of a key, each is there once."""
    return not field.shape and field.dtype != "bytes" and field.name != schema.key


def measured(field: Field) -> str:
    """What of a field's values the numbers are."""
    if field.is_tensor:
        return "elements"
    if field.is_list:
        return "lengths"
    if field.is_encoded or field.dtype == "bytes":
        return "num_bytes"
    return "characters" if field.dtype == "string" else "values"


def _measured(column: pa.Array, field: Field) -> npt.NDArray[Any]:
    match measured(field):
        case "elements":
            return tensors.view(column, field, "")
        case "lengths":
            column = pc.list_value_length(column)
        case "num_bytes":
            column = pc.binary_length(column)
        case "characters":
            column = pc.utf8_length(column)
    numbers = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
    return np.asarray(numbers.to_numpy(zero_copy_only=False))


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _texts(column: pa.Array, hashes: U64, before: Texts) -> Texts:
    """Of strings that are to be merged with `before`: without what that has no place for any more."""
    buckets = np.bincount((hashes >> BUCKET_SHIFT).view(np.int64), minlength=NUM_BUCKETS)
    if not before.is_whole:
        return Texts(sketches.smallest(distinct(hashes[hashes < before.hashes[-1]])), sketches.NO_COUNTS, [], buckets)
    encoded = pa.array(hashes).dictionary_encode()
    indices, unique = encoded.indices.to_numpy(), encoded.dictionary.to_numpy()
    if len(unique) > MAX_VALUES:
        return Texts(sketches.smallest(unique), sketches.NO_COUNTS, [], buckets)
    first = np.zeros(len(unique), np.int64)
    first[indices[::-1]] = np.arange(len(indices))[::-1]  # any of them: values of one hash are one value
    order = np.argsort(unique)
    counts = np.bincount(indices, minlength=len(unique))[order]
    return Texts(unique[order], counts, _short(column.take(pa.array(first[order]))).to_pylist(), buckets)


def _merge_texts(parts: Sequence[Texts]) -> Texts:
    hashes = np.concatenate([part.hashes for part in parts])
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    buckets = np.sum([part.buckets for part in parts], axis=0)
    if len(distinct) > MAX_VALUES or not all(part.is_whole for part in parts):
        return Texts(sketches.smallest(distinct), sketches.NO_COUNTS, [], buckets)
    counts = np.zeros(len(distinct), np.int64)
    np.add.at(counts, inverse, np.concatenate([part.counts for part in parts]))
    shown = [text for part in parts for text in part.shown]
    return Texts(distinct, counts, [shown[i] for i in first], buckets)


def _sample(rows: pa.Table, hashes: U64, before: Sample) -> Sample:
    chosen = np.flatnonzero(hashes < before.hashes[-1]) if len(before.hashes) == SAMPLE_ROWS else np.arange(len(hashes))
    chosen = chosen[np.argsort(hashes[chosen])][:SAMPLE_ROWS]
    columns = {name: _short(rows[name].take(pa.array(chosen))).to_pylist() for name in before.columns}
    return Sample(hashes[chosen].tolist(), columns)


def _short(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings as the card shows them: long ones are cut and end in `…`."""
    if not pa.types.is_string(column.type):
        return column
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(column, 0, SHOWN_LENGTH), "…", "")
    return pc.if_else(pc.greater(pc.utf8_length(column), SHOWN_LENGTH), cut, column)


def _merge_samples(parts: Sequence[Sample]) -> Sample:
    places = [(h, p, i) for p, part in enumerate(parts) for i, h in enumerate(part.hashes)]
    chosen = heapq.nsmallest(SAMPLE_ROWS, places)
    columns = {name: [parts[p].columns[name][i] for _, p, i in chosen] for name in parts[0].columns}
    return Sample([h for h, _, _ in chosen], columns)


def _described(profile: Profile, field: Field, schema: Schema) -> JSON:
    numbers, texts, is_integer = profile.numbers[field.name], profile.texts.get(field.name), _is_integer(field)
    mean, std = sketches.mean_and_std(numbers, is_integer)
    quantiles = sketches.quantiles(numbers, list(SHARES.values()), is_integer)
    made: JSON = {
        "of": measured(field),
        "count": numbers.count,
        "nulls": numbers.nan,
        "infinite": numbers.infinite,
        "min": numbers.low,
        "max": numbers.high,
        "mean": mean,
        "std": std,
        "quantiles": dict(zip(SHARES, map(_number(is_integer), quantiles), strict=False)),
        "relative_error": sketches.relative_error(numbers),
        "distinct": dict(zip(("count", "exact"), _distinct(numbers, texts, field.name == schema.key), strict=True)),
    }
    if _is_named(field, schema):
        made["top"] = _top(numbers, texts, profile.sample.columns[field.name], is_integer)
    if texts is not None:
        made["buckets"] = texts.buckets.tolist()
    return {**made, "bins": _bins(numbers, is_integer)}


def _is_integer(field: Field) -> bool:
    return measured(field) not in ("values", "elements") or field.numpy_dtype.kind in "biu"


def _distinct(numbers: Numbers, texts: Texts | None, is_key: bool) -> tuple[int, bool]:
    if is_key:
        return numbers.count, True
    if texts is None:
        return sketches.num_distinct(numbers)
    return (len(texts.hashes) if texts.is_whole else sketches.from_hashes(texts.hashes, numbers.count)), texts.is_whole


def _number(is_integer: bool) -> Any:
    return int if is_integer else float


def _top(numbers: Numbers, texts: Texts | None, sample: Sequence[Any], is_integer: bool) -> JSON:
    """The most frequent values, the most frequent first, equal ones by value; of a sample, scaled to all rows."""
    exact = numbers.is_whole if texts is None else texts.is_whole
    if exact:
        values = map(_number(is_integer), sketches.bins(numbers, is_integer)[0]) if texts is None else texts.shown
        counts = numbers.counts if texts is None else texts.counts
        counted = [pair for pair in zip(values, counts.tolist(), strict=True) if pair[1] >= LEAST]
    else:
        there = Counter(value for value in sample if isinstance(value, str) or np.isfinite(value))
        num_rows = numbers.count + numbers.nan + numbers.infinite
        counted = [(v, round(n * num_rows / len(sample))) for v, n in there.items() if n >= LEAST_IN_SAMPLE]
    top = sorted(counted, key=lambda pair: (-pair[1], pair[0]))[:NUM_TOP]
    return {"values": [list(pair) for pair in top], "exact": exact}


def _bins(numbers: Numbers, is_integer: bool) -> list[list[float]]:
    """[smallest value, largest value, how many] of bins of about a fiftieth each; one with more stands alone."""
    lows, highs = sketches.bins(numbers, is_integer)
    counts = numbers.counts
    if len(counts) > 2 * NUM_SLOTS:
        slots = (np.cumsum(counts) - counts) * NUM_SLOTS // numbers.count
        is_heavy = counts * NUM_SLOTS >= numbers.count
        starts = np.flatnonzero(np.diff(slots, prepend=-1) | is_heavy | np.roll(is_heavy, 1))
        ends = np.append(starts[1:], len(counts)) - 1
        lows, highs, counts = lows[starts], highs[ends], np.add.reduceat(counts, starts)
    number = _number(is_integer) if is_integer else lambda x: float(f"{x:.9g}")
    return [[number(low), number(high), n] for low, high, n in zip(lows, highs, counts.tolist(), strict=True)]
