"""Digests: a short name for a JSON value, for the meaning of Python code, and for a set of rows.

The digest of rows depends on neither order, file nor storage, so that the same rows have the same digest on
a laptop and on a cluster. It guards against accidents, not against somebody who wants two data sets to collide.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.schema import Schema

U64 = npt.NDArray[np.uint64]
WORD_BYTES = 8


def json_digest(value: Mapping[str, Any] | Sequence[Any], length: int = 16) -> str:
    """The first hex digits of the SHA-256 of the value's canonical JSON text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def code_digest(paths: Iterable[Path]) -> str:
    """What Python files mean: comments, formatting and docstrings change nothing."""
    return json_digest([[path.name, _meaning(ast.parse(path.read_bytes(), path))] for path in sorted(paths)])


def _meaning(node: object) -> Any:
    # Empty fields are left out because Python versions differ in which empty fields they have.
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            fields["body"] = fields["body"][1:]
        return [
            type(node).__name__,
            *([name, _meaning(value)] for name, value in fields.items() if value not in (None, [])),
        ]
    if isinstance(node, list):
        return [_meaning(item) for item in node]
    return repr(node)


def splitmix64(x: U64) -> U64:
    """Mixes 64-bit integers so that every input bit moves every output bit.

    Source: Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; the constants
    are those of David Stafford's variant 13, as in Java's SplittableRandom.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def distinct(hashes: U64) -> U64:
    """The hashes in order, none twice: as `np.unique` gives them, whose table of hashes takes 20 times longer."""
    ordered = np.sort(hashes)
    firsts: U64 = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]
    return firsts


def rows_digest(rows: pa.Table, schema: Schema) -> int:
    """The sum over all rows, mod 2**64, of a mixed 64-bit hash of the row's values; 0 for no rows.

    A value is its bytes (tensors, encoded values and bytes as stored, strings as UTF-8, scalars and the elements of
    a list little endian, a bool one byte), padded with zeros to 8-byte words w_0, w_1, …; with S = `splitmix64`
    and n the number of bytes, its hash is n S(0) + Σ w_j S(j + 1). A row's hash is S(Σ_c S(hash of field c + S(c))),
    c counting the schema's fields from 0.
    """
    return sum_of(row_hashes(column_hashes(rows, schema)))


def column_hashes(rows: pa.Table, schema: Schema) -> list[U64]:
    """For each field the (n,) hashes of its values. They are linear in the value's words: mix them before use."""
    hashes = ([_value_hashes(chunk) for chunk in rows[field.name].chunks] for field in schema.fields)
    return [np.concatenate(chunks) if chunks else np.zeros(0, np.uint64) for chunks in hashes]


def row_hashes(columns: Sequence[U64]) -> U64:
    """(n,) hashes of the rows, from those of each field's values."""
    total = np.zeros(len(columns[0]), np.uint64)
    for c, hashes in enumerate(columns):
        total += splitmix64(hashes + splitmix64(np.array([c], np.uint64)))
    return splitmix64(total)


def sum_of(hashes: U64) -> int:
    return int(hashes.sum(dtype=np.uint64))


def combine(digests: Iterable[int]) -> str:
    """The digest of several sets of rows together, as 16 hex digits."""
    return f"{sum(digests) % 2**64:016x}"


def _value_hashes(values: pa.Array) -> U64:
    """(n,) hashes of the values of one Arrow array without nulls."""
    n = len(values)
    if pa.types.is_list(values.type) or pa.types.is_binary(values.type) or pa.types.is_string(values.type):
        offsets = np.frombuffer(values.buffers()[1], np.int32, n + 1, values.offset * 4).astype(np.int64)
        data = np.frombuffer(values.buffers()[-1] or b"", np.uint8)
        if pa.types.is_list(values.type):
            width = values.type.value_type.bit_width // 8
            offsets = (offsets + values.values.offset) * width
        return _varying_hashes(data[offsets[0] : offsets[-1]], offsets - offsets[0])
    numbers = values.cast(pa.uint8()) if pa.types.is_boolean(values.type) else values
    column = np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False))
    return _fixed_hashes(column.view(np.uint8).reshape(n, column.itemsize))


def _varying_hashes(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> U64:
    """(n,) hashes of the values `data[offsets[i]:offsets[i + 1]]`."""
    n, lengths = len(offsets) - 1, np.diff(offsets)
    if n and (lengths == lengths[0]).all():
        return _fixed_hashes(data.reshape(n, lengths[0]))
    # Eight bytes from any place on, read at once: with zeros behind the last value each place has that many.
    padded = np.concatenate([data, np.zeros(WORD_BYTES, np.uint8)])
    word_at = np.ndarray((len(data) + 1,), "<u8", padded.data, strides=(1,))
    weights = _weights(lengths.max(initial=0))
    hashes = np.empty(n, np.uint64)
    for length in np.unique(lengths):  # values of one length are a matrix: no Python per row
        rows = np.flatnonzero(lengths == length)
        words = word_at[offsets[rows][:, None] + np.arange(0, length, WORD_BYTES)]  # (rows, words)
        if rest := length % WORD_BYTES:
            words[:, -1] &= np.uint64((1 << 8 * rest) - 1)
        hashes[rows] = _word_hashes(words, length, weights)
    return hashes


def _fixed_hashes(raw: npt.NDArray[np.uint8]) -> U64:
    """(n, length) bytes -> (n,) hashes."""
    n, length = raw.shape
    if length % WORD_BYTES:
        padded = np.zeros((n, _num_words(length) * WORD_BYTES), np.uint8)
        padded[:, :length] = raw
        raw = padded
    return _word_hashes(np.ascontiguousarray(raw).view("<u8"), length, _weights(length))


def _num_words(length: int) -> int:
    return -(-length // WORD_BYTES)


def _weights(length: int) -> U64:
    """S(0), S(1), …, as many as a value of `length` bytes needs."""
    return splitmix64(np.arange(_num_words(length) + 1, dtype=np.uint64))


def _word_hashes(words: U64, length: int, weights: U64) -> U64:
    """(n, words) of values of `length` bytes -> (n,) hashes."""
    n, num_words = words.shape
    hashes: U64 = words @ weights[1 : num_words + 1] + np.full(n, length, np.uint64) * weights[0]
    return hashes
