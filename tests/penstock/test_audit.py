"""Reading a file back: what it says of a good file, and that no damage passes for a good one."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.audit import FileAudit, audit_file
from penstock.digest import rows_digest
from penstock.errors import DatasetError, StorageError
from penstock.schema import Field, Schema
from tests.penstock.conftest import SCHEMA, png, rows, write

SMALL = rows(0, 30)


def audit(path: Path, schema: Schema = SCHEMA, **options: Any) -> FileAudit:
    return audit_file(f"file://{path.parent}", path.name, "train", schema, **options)


def test_an_audit_says_what_the_file_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", SMALL, rows_per_group=12)
    content, found = path.read_bytes(), audit(path)
    assert found.num_rows == 30
    assert found.digest == rows_digest(SMALL, SCHEMA)
    groups = found.row_groups.to_pylist()
    assert [(g["row_group"], g["num_rows"], g["split"], g["file"]) for g in groups] == [
        (i, n, "train", "f.parquet") for i, n in enumerate((12, 12, 6))
    ]
    assert {(g["file_bytes"], g["file_sha256"]) for g in groups} == {
        (len(content), hashlib.sha256(content).hexdigest())
    }
    for g, start in zip(groups, (0, 12, 24), strict=True):
        for name, place in g["columns"].items():
            assert place["crc32"] == zlib.crc32(content[place["offset"] : place["offset"] + place["num_bytes"]])
            if name == "id":
                assert place["values"] is None
        values = np.frombuffer(content, "<i8", g["num_rows"], g["columns"]["label"]["values"])
        assert values.tolist() == SMALL["label"].to_pylist()[start : start + g["num_rows"]]


@pytest.mark.parametrize(
    "options",
    [{"compression": "zstd"}, {"use_dictionary": True}, {"data_page_size": 8, "write_batch_size": 3}],
    ids=["zstd", "dictionary", "pages"],
)
def test_other_encodings_hold_the_same_rows_but_nothing_in_place(tmp_path: Path, options: dict[str, Any]) -> None:
    found = audit(write(tmp_path / "f.parquet", SMALL, **options))
    assert found.digest == rows_digest(SMALL, SCHEMA)
    assert found.row_groups["columns"][0].as_py()["label"]["values"] is None


@pytest.mark.parametrize("profiled", [False, True])
def test_an_audit_survives_the_way_from_an_executor(tmp_path: Path, profiled: bool) -> None:
    found = audit(write(tmp_path / "f.parquet", SMALL), profiled=profiled)
    back = FileAudit.from_bytes(found.to_bytes())
    assert (back.num_rows, back.digest, back.row_groups) == (found.num_rows, found.digest, found.row_groups)
    assert back.row_groups.schema == found.row_groups.schema
    if not profiled:
        assert back.profile is found.profile is None
    else:
        assert back.profile
        assert back.profile.to_bytes() == found.profile.to_bytes()


def test_rows_that_differ_in_the_key_alone_have_one_content(tmp_path: Path) -> None:
    others = SMALL.set_column(SMALL.column_names.index("id"), "id", pa.array([f"other {i}" for i in range(30)]))
    first, other = (audit(write(tmp_path / f"{i}.parquet", t), profiled=True) for i, t in enumerate((SMALL, others)))
    assert first.contents is not None
    assert other.contents is not None
    assert first.contents.tolist() == other.contents.tolist()
    assert len(set(first.contents.tolist())) == 30
    assert audit(tmp_path / "0.parquet").contents is None  # verify would hold those of all files
    keys = Schema((SCHEMA["id"],), "id")
    alone = write(tmp_path / "keys.parquet", SMALL.select(["id"]))
    nothing = audit(alone, keys, profiled=True).contents
    assert nothing is not None
    assert nothing.tolist() == [0] * 30


def test_a_file_without_rows_is_whole(tmp_path: Path) -> None:
    found = audit(write(tmp_path / "f.parquet", SMALL.slice(0, 0)), profiled=True)
    assert (found.num_rows, found.digest) == (0, 0)
    assert {name: numbers.count for name, numbers in found.profile.numbers.items()} == dict.fromkeys(SCHEMA.names, 0)


def with_nulls() -> pa.Table:
    loose = pa.table(SMALL.columns, schema=pa.schema([pa.field(f.name, f.type) for f in SMALL.schema]))
    return loose.set_column(2, "n", pa.array([None, None, *range(28)], pa.int32()))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (with_nulls(), r"2 nulls in column 'n', expected none"),
        (SMALL.drop_columns(["n"]), "other columns than the schema's: n: expected int32, found none"),
        (SMALL.append_column("m", SMALL["n"]), "m: expected no such column, found int32"),
        (SMALL.set_column(2, "n", SMALL["label"]), "n: expected int32, found int64"),
        (
            SMALL.set_column(1, "x", pa.array([b"12 bytes ...", *[b"short"] * 29])),
            r"column 'x', row 1: expected 12 byt",
        ),
        (pa.table(SMALL.columns, names=["id", "x", "label", "label"]), "other columns than the schema's"),
    ],
    ids=["nulls", "missing", "more", "type", "width", "twice"],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = write(tmp_path / "f.parquet", table)
    with pytest.raises(DatasetError, match=rf"{path}: .*{message}"):
        audit(path)


VARYING = Schema(
    (
        Field("id", "int64"),
        Field("tokens", "int32", (None,)),
        Field("photo", "uint8", (None, 2, 3), "png"),
        Field("payload", "bytes"),
    ),
    key="id",
)


def varying(tokens: list[Any], element: pa.Field | None = None, photo: bytes | None = None) -> pa.Table:
    n = len(tokens)
    lists = pa.array(tokens, pa.list_(element or pa.int32()))
    columns = [pa.array(range(n)), lists, [*[png(4, 2)] * (n - 1), photo or png(3, 2)], [b"any\0"] * n]
    return pa.table(columns, names=VARYING.names)


def test_values_that_vary_have_a_place_each(tmp_path: Path) -> None:
    table = varying([[1, 2, 3], [], [4]])
    path = write(tmp_path / "f.parquet", table, rows_per_group=2)
    content, found = path.read_bytes(), audit(path, VARYING)
    assert found.digest == rows_digest(table, VARYING)
    for g, group in enumerate(found.row_groups.to_pylist()):
        chunks = [pq.read_metadata(path).row_group(g).column(i) for i in range(4)]
        assert [chunk.path_in_schema for chunk in chunks] == ["id", "tokens.list.element", "photo", "payload"]
        for chunk, (name, place) in zip(chunks, group["columns"].items(), strict=True):
            assert place["offset"] == chunk.data_page_offset
            assert place["num_bytes"] == chunk.total_compressed_size
            assert place["crc32"] == zlib.crc32(content[place["offset"] : place["offset"] + place["num_bytes"]])
            assert (place["values"] is None) == (name != "id")


def test_elements_that_may_not_be_null_are_as_good(tmp_path: Path) -> None:
    table = varying([[1, 2, 3], [], [4]], pa.field("element", pa.int32(), nullable=False))
    assert audit(write(tmp_path / "f.parquet", table), VARYING).digest == rows_digest(
        varying([[1, 2, 3], [], [4]]), VARYING
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (varying([[1], [2, None, None]]), "2 nulls in the lists of column 'tokens', expected none; the recipe's clean"),
        (varying([[1], None]), "1 nulls in column 'tokens', expected none"),
        (varying([[1]], pa.int64()), r"tokens: expected list<item: int32>, found list<item: int64>"),
        (
            varying([[1], [2]], photo=png(4, 5)),
            "row group 0, row 1: column 'photo': expected png of uint8 any x 2 x 3, found uint8 4 x 5 x 3; the rec",
        ),
        (
            varying([[1], [2]], photo=b"<html>404</html>"),
            "row 1: column 'photo': expected png, found 16 bytes that begin with b'<html>40'",
        ),
    ],
    ids=["null in a list", "no list", "type", "size", "no picture"],
)
def test_values_that_vary_are_checked(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = write(tmp_path / "f.parquet", table)
    with pytest.raises(DatasetError, match=rf"{path}[:,] .*{message}"):
        audit(path, VARYING)


def test_the_order_of_columns_is_free(tmp_path: Path) -> None:
    found = audit(write(tmp_path / "f.parquet", SMALL.select(["label", "n", "x", "id"])))
    assert found.digest == rows_digest(SMALL, SCHEMA)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.parquet: the file is missing; build the dataset again"):
        audit(tmp_path / "none.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(StorageError, match=r"folder\.parquet: a folder is where a file is needed"):
        audit(tmp_path / "folder.parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        audit(tmp_path / "file" / "f.parquet")
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        audit_file(f"file://{tmp_path}", "../f.parquet", "train", SCHEMA)


@given(st.data())
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.parquet", SMALL, rows_per_group=12)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DatasetError, match=r"cut\.parquet: cannot be read as Parquet"):
        audit(path)


@given(st.data())
def test_no_changed_bit_passes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.getbasetemp() / "bit.parquet", SMALL, rows_per_group=12)
    whole, content = audit(path), bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=10, unique=True)):
        damaged = content.copy()
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(damaged)
        try:
            found = audit(path)
        except DatasetError as error:
            assert "build the dataset again" in str(error) or "other columns" in str(error) or "expected" in str(error)  # noqa: PT017
        else:
            assert not found.row_groups.equals(whole.row_groups)


def test_a_changed_value_fails_its_page_checksum(tmp_path: Path) -> None:
    path = write(tmp_path / "f.parquet", SMALL)
    content = bytearray(path.read_bytes())
    content[content.index(SMALL["x"][20].as_py())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"f\.parquet: cannot be read as Parquet .*CRC"):
        audit(path)
    assert pq.read_table(path)["x"][20] != SMALL["x"][20]  # whoever does not check reads another value
