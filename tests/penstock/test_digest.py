"""Digests: the same wherever the same rows lie, another when anything of them changed."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import tensors
from penstock.digest import code_digest, combine, json_digest, rows_digest, splitmix64
from penstock.schema import Field, Schema

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMA = Schema(
    (
        Field("id", "string"),
        Field("x", "uint8", (11,)),
        Field("n", "int32"),
        Field("f", "float64"),
        Field("b", "bool"),
        Field("other", "string"),
        Field("tokens", "int16", (None,)),
        Field("photo", "uint8", (None, None), "png"),
    ),
    key="id",
)
Row = tuple[str, bytes, int, float, bool, str, list[int], bytes]
ROWS: st.SearchStrategy[list[Row]] = st.lists(
    st.tuples(
        st.text(max_size=20),
        st.binary(min_size=11, max_size=11),
        st.integers(-(2**31), 2**31 - 1),
        st.floats(),
        st.booleans(),
        st.text(max_size=3),
        st.lists(st.integers(-(2**15), 2**15 - 1), max_size=11),
        st.binary(max_size=20),
    ),
    max_size=12,
)


def table(rows: list[Row]) -> pa.Table:
    x = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, 11)
    columns = [pa.array([row[c] for row in rows], field.arrow_type) for c, field in enumerate(SCHEMA.fields)]
    columns[1] = tensors.pack(x, SCHEMA["x"])
    return pa.table(columns, names=SCHEMA.names)


def oracle(rows: list[Row]) -> int:
    """`rows_digest` as its docstring says it: plain Python, a value at a time."""

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    total = 0
    for name, x, n, f, b, other, tokens, photo in rows:
        number, real = n.to_bytes(4, "little", signed=True), np.float64(f).tobytes()
        elements = b"".join(token.to_bytes(2, "little", signed=True) for token in tokens)
        row = 0
        for c, value in enumerate((name.encode(), x, number, real, bytes([b]), other.encode(), elements, photo)):
            padded = value + bytes(-len(value) % 8)
            words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
            row += mix(len(value) * mix(0) + sum(w * mix(j + 1) for j, w in enumerate(words)) + mix(c))
        total += mix(row)
    return total % 2**64


def digest(rows: list[Row]) -> int:
    return rows_digest(table(rows), SCHEMA)


def test_splitmix64_gives_the_numbers_of_its_reference() -> None:
    states = np.array([0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % 2**64], np.uint64)
    assert [hex(x) for x in splitmix64(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(ROWS)
def test_the_digest_of_rows_is_what_its_definition_says(rows: list[Row]) -> None:
    assert digest(rows) == oracle(rows)


@given(ROWS.filter(bool), st.randoms())
def test_order_chunks_and_files_do_not_matter(rows: list[Row], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    cut = random.randrange(len(rows))
    chunked = pa.concat_tables([table(shuffled[:cut]), table(shuffled[cut:])])
    assert rows_digest(chunked, SCHEMA) == digest(rows)
    assert combine([digest(shuffled[:cut]), digest(shuffled[cut:])]) == combine([digest(rows)])
    assert rows_digest(table(rows).slice(cut), SCHEMA) == digest(rows[cut:])
    assert rows_digest(table(rows).slice(0, cut), SCHEMA) == digest(rows[:cut])


@given(ROWS.filter(bool), st.data())
def test_any_changed_value_changes_the_digest(rows: list[Row], data: st.DataObject) -> None:
    i, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 7))
    name, x, n, f, b, other, tokens, photo = row = rows[i]
    values = (
        name + "\0",  # padding is no value
        bytes([x[0] ^ 1]) + x[1:],
        n ^ 1,
        1.0 if f != 1 else -1.0,
        not b,
        other[:-1] + "x" if not other.endswith("x") else other + "x",
        [*tokens, 0],
        photo + b"\0",
    )
    changed: list[Any] = [(*row[:c], value, *row[c + 1 :]) for c, value in enumerate(values)]
    assert digest([*rows[:i], changed[column], *rows[i + 1 :]]) != digest(rows)


@given(ROWS.filter(bool))
def test_a_row_more_or_twice_changes_the_digest(rows: list[Row]) -> None:
    assert len({digest(rows), digest([*rows, rows[0]]), digest(rows[1:])}) == 3


A: Row = ("a", bytes(11), 1, 0.5, True, "u", [1, 2], b"png")
B: Row = ("b", bytes(range(11)), 2, 1.5, False, "v", [1], b"")


@pytest.mark.parametrize("column", range(8))
def test_values_swapped_between_rows_change_the_digest(column: int) -> None:
    swapped = [(*A[:column], B[column], *A[column + 1 :]), (*B[:column], A[column], *B[column + 1 :])]
    assert digest(swapped) != digest([A, B])  # type: ignore[arg-type]


def test_a_byte_moved_between_columns_changes_the_digest() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc", "")]
    rows: list[Row] = [(first, *A[1:5], second, *A[6:]) for first, second in parts]
    assert len({digest([row]) for row in rows}) == len(rows)


def code(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "dataset.py"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return code_digest([path])


def test_code_is_digested_by_what_it_means(tmp_path: Path) -> None:
    plain = code(tmp_path, "def f(x):\n    return x + 1\n")
    assert (
        code(tmp_path, '"""Doc."""\n# comment\ndef f(x):\n    """Adds."""\n    return (x +\n            1)\n') == plain
    )
    assert code(tmp_path, b"\xef\xbb\xbf# coding: utf-8\r\ndef f(x):\r\n    return x + 1\r\n") == plain
    assert code(tmp_path, "def f(x):\n    return x + 2\n") != plain
    assert code(tmp_path, "def f(x):\n    return 1 + x\n") != plain
    assert code(tmp_path, "def f(x):\n    return x + True\n") != plain
    assert code(tmp_path, "def f(x):\n    return x + 1\nrevision = 2\n") != plain


@pytest.mark.parametrize("recipe", ["digits", "mnist"])
def test_a_recipe_written_anew_keeps_its_digest_and_any_changed_constant_changes_it(
    recipe: str, tmp_path: Path
) -> None:
    source = (ROOT / "recipes" / recipe / "dataset.py").read_text()
    plain = code(tmp_path, source)
    assert code(tmp_path, ast.unparse(ast.parse(source))) == plain  # other spaces, quotes and parentheses, no comments
    tree = ast.parse(source)
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node is not tree.body[0].value]  # type: ignore[attr-defined]
    assert len(constants) > 20
    for node in constants:
        kept, node.value = node.value, "changed"
        assert code(tmp_path, ast.unparse(tree)) != plain
        node.value = kept


def test_code_names_its_files(tmp_path: Path) -> None:
    for name, text in (("a.py", "x = 1"), ("b.py", "x = 2"), ("c.py", "x = 2")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / f"{name}.py" for name in "abc")
    assert code_digest([a, b]) == code_digest([b, a])
    assert len({code_digest(paths) for paths in ([a], [a, b], [a, c], [b], [c])}) == 5


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), min_size=2))
@settings(max_examples=30)
def test_json_digests_do_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert json_digest(dict(reversed(value.items()))) == json_digest(value)
    assert json_digest([value]) != json_digest(value) != json_digest({**value, "one more": 1})


def test_json_digests_refuse_what_json_has_no_word_for() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        json_digest([float("nan")])
    assert len(json_digest([], 8)) == 8
