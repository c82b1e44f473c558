"""Digests: the same wherever the same rows lie, another when anything of them changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import tensors
from penstock.digest import code_digest, json_digest, rows_digest, splitmix64
from penstock.schema import Field, Schema

SCHEMA = Schema((Field("id", "string"), Field("x", "uint8", (11,)), Field("n", "int32"), Field("b", "bool")), key="id")
Row = tuple[str, bytes, int, bool]
ROWS = st.lists(st.tuples(st.text(max_size=20), st.binary(min_size=11, max_size=11), st.integers(-9, 9), st.booleans()))


def table(rows: list[Row]) -> pa.Table:
    x = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, 11)
    columns = [pa.array([r[0] for r in rows], pa.string()), tensors.pack(x, SCHEMA["x"])]
    columns += [pa.array([r[2] for r in rows], pa.int32()), pa.array([r[3] for r in rows], pa.bool_())]
    return pa.table(columns, names=SCHEMA.names)


def oracle(rows: list[Row]) -> int:
    """`rows_digest` as its docstring says it, a value at a time."""

    def mix(x: int) -> int:
        return int(splitmix64(np.array([x % 2**64], np.uint64))[0])

    total = 0
    for name, x, n, b in rows:
        row = 0
        for c, value in enumerate((name.encode(), x, n.to_bytes(4, "little", signed=True), bytes([b]))):
            padded = value + bytes(-len(value) % 8)
            words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
            row += mix(len(value) * mix(0) + sum(w * mix(j + 1) for j, w in enumerate(words)) + mix(c))
        total += mix(row)
    return total % 2**64


def test_splitmix64_gives_the_numbers_of_its_reference() -> None:
    states = np.array([0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % 2**64], np.uint64)
    assert [hex(x) for x in splitmix64(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(ROWS)
def test_the_digest_of_rows_is_what_its_definition_says(rows: list[Row]) -> None:
    assert rows_digest(table(rows), SCHEMA) == oracle(rows)


@given(ROWS.filter(bool), st.randoms())
def test_order_and_chunks_do_not_matter(rows: list[Row], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    cut = random.randrange(len(rows))
    chunked = pa.concat_tables([table(shuffled[:cut]), table(shuffled[cut:])])
    assert rows_digest(chunked, SCHEMA) == rows_digest(table(rows), SCHEMA)
    assert rows_digest(table(rows).slice(cut), SCHEMA) == rows_digest(table(rows[cut:]), SCHEMA)


@given(ROWS.filter(bool), st.data())
def test_any_changed_value_changes_the_digest(rows: list[Row], data: st.DataObject) -> None:
    i, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 3))
    name, x, n, b = rows[i]
    changed = [(name + "x", x, n, b), (name, bytes([x[0] ^ 1]) + x[1:], n, b), (name, x, n + 1, b), (name, x, n, not b)]
    assert rows_digest(table([*rows[:i], changed[column], *rows[i + 1 :]]), SCHEMA) != rows_digest(table(rows), SCHEMA)


def test_values_swapped_between_rows_change_the_digest() -> None:
    a, b = ("a", bytes(11), 1, True), ("b", bytes(range(11)), 2, True)
    swapped = [("a", bytes(range(11)), 1, True), ("b", bytes(11), 2, True)]
    assert rows_digest(table([a, b]), SCHEMA) != rows_digest(table(swapped), SCHEMA)


def code(tmp_path: Path, text: str) -> str:
    path = tmp_path / "dataset.py"
    path.write_text(text)
    return code_digest([path])


def test_code_is_digested_by_what_it_means(tmp_path: Path) -> None:
    plain = code(tmp_path, "def f(x):\n    return x + 1\n")
    assert (
        code(tmp_path, '"""Doc."""\n# comment\ndef f(x):\n    """Adds."""\n    return (x +\n            1)\n') == plain
    )
    assert code(tmp_path, "def f(x):\n    return x + 2\n") != plain
    assert code(tmp_path, "def f(x):\n    return x + 1\nrevision = 2\n") != plain


def test_json_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert json_digest({"a": 1, "b": [1, 2]}) == json_digest({"b": [1, 2], "a": 1})
    assert json_digest([1, 2]) != json_digest([2, 1])
    with pytest.raises(ValueError, match="JSON compliant"):
        json_digest([float("nan")])
