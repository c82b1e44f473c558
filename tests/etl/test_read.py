"""Raw formats: idx files of every kind of damage, csv as the wild writes it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from etl import clean, read
from etl.read import idx_files
from etl.spark import user_errors
from penstock import store
from penstock.errors import RawDataError
from penstock.recipe import find


def idx(values: np.ndarray, code: int = 8) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, code, values.ndim, *values.shape) + values.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 255, (5_000, 4, 3), dtype=np.uint8)
LABELS = np.arange(5_000, dtype=np.uint8) % 10


def files(folder: Path, images: bytes, labels: bytes | None, suffix: str = "") -> dict[str, str | None]:
    folder.mkdir(exist_ok=True)
    (folder / f"i{suffix}").write_bytes(images)
    (folder / f"l{suffix}").write_bytes(labels or b"")
    return {f"file://{folder}/i{suffix}": f"file://{folder}/l{suffix}" if labels is not None else None}


def collect(spark: SparkSession, pairs: dict[str, str | None]) -> list[Any]:
    with user_errors("raw", "out"):
        return read.idx(spark, pairs, (4, 3)).orderBy("_position").collect()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_pictures_and_labels_come_as_they_are_written(
    spark: SparkSession, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    rows = collect(spark, files(tmp_path, pack(idx(IMAGES)), pack(idx(LABELS))))
    assert [row["_position"] for row in rows] == list(range(5_000))
    assert [row["label"] for row in rows] == LABELS.tolist()
    np.testing.assert_array_equal(
        np.frombuffer(b"".join(row["image"] for row in rows), np.uint8).reshape(IMAGES.shape), IMAGES
    )


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@given(count=st.integers(0, 9), parts=st.integers(1, 5))
def test_the_parts_of_a_file_hold_each_item_once(
    tmp_path_factory: pytest.TempPathFactory, pack: Callable[[bytes], bytes], count: int, parts: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "parts"
    path.write_bytes(pack(idx(IMAGES[:count])))
    found = []
    for part in range(parts):
        size, *blocks = idx_files._idx_items(f"file://{path}", (4, 3), part, parts)
        assert size == count
        found += [item for block in blocks for item in block]
    assert np.array_equal(np.array(found, np.uint8).reshape(-1, 4, 3), IMAGES[:count])


def test_big_endian_numbers_become_little_endian(spark: SparkSession, tmp_path: Path) -> None:
    numbers = np.arange(24).reshape(2, 4, 3)
    rows = collect(spark, files(tmp_path, idx(numbers.astype(">i4"), 0x0C), None))
    assert "label" not in rows[0]
    np.testing.assert_array_equal(np.frombuffer(rows[1]["image"], "<i4").reshape(4, 3), numbers[1])


good, labels = idx(IMAGES), idx(LABELS)
packed = gzip.compress(good)


@pytest.mark.parametrize(
    ("images", "label_bytes", "message"),
    [
        (labels, labels, r"expected an idx file of 3 dimensions \(magic 0x0000\?\?03\), found magic 0x00000801"),
        (b"\x89PNG" + good, labels, "found magic 0x89504e47"),
        (b"", labels, "found magic 0x;"),
        (good[:9], labels, "truncated or damaged"),
        (good[:-1], labels, "ends before item 5,000 of 5,000; the file is truncated"),
        (good + b"x", labels, "more bytes than its header's 5,000 items"),
        (packed[:-100], labels, "truncated or damaged"),
        (packed[:3000] + b"\xff" * 9 + packed[3009:], labels, "truncated or damaged|ends before|more bytes"),
        (idx(IMAGES[:, :, :2]), labels, r"expected items of shape \(4, 3\), found \(4, 2\)"),
        (good, idx(LABELS[:-1]), "holds 5000 images, but .* 4999 labels; these two files do not belong together"),
        (good, labels[:-1], "ends before item 5,000 of 5,000"),
    ],
    ids=[
        "labels",
        "png",
        "empty",
        "header",
        "cut",
        "longer",
        "gzip cut",
        "gzip damaged",
        "shape",
        "counts",
        "labels cut",
    ],
)
def test_a_damaged_idx_file_is_said(
    spark: SparkSession, tmp_path: Path, images: bytes, label_bytes: bytes, message: str
) -> None:
    with pytest.raises(RawDataError, match=message):
        collect(spark, files(tmp_path, images, label_bytes))


def test_mnist_says_which_file_is_missing(spark: SparkSession, tmp_path: Path) -> None:
    recipe = find("mnist").dataset()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(
        RawDataError, match=r"expected files named \*-images-idx3-ubyte\[.gz\], found t10k-labels-idx1-ubyte"
    ):
        recipe.read(spark, f"file://{tmp_path}", True)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(good)
    with pytest.raises(RawDataError, match="train-labels-idx1-ubyte is missing"):
        recipe.read(spark, f"file://{tmp_path}", True)


def test_csv_reads_records_as_the_wild_writes_them(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'a,b,c\r\n1,x,\r\n 2 ,"y, ""z""",7\n\n"3",,8\n')
    df = read.csv(
        spark, f"file://{tmp_path}", {"a": "int", "b": "string", "c": "int"}, header=True, nullable=["b", "c"]
    )
    found = [(row["a"], row["b"], row["c"], row["_malformed"]) for row in df.orderBy("a").collect()]
    assert found == [(1, "x", None, False), (2, 'y, "z"', 7, False), (3, None, 8, False)]


def test_a_folder_is_read_as_it_is_counted_and_its_name_is_no_pattern(spark: SparkSession, tmp_path: Path) -> None:
    raw, decoy = tmp_path / "ra[1]w", tmp_path / "ra1w" / "z.csv"
    names = ["a.csv", "sub/b.csv", "day=1/c.csv", "_no/d.csv", ".e.csv", "sub/_f.csv", "g._COPYING_"]
    names += ["_k=v/h.csv", "_k=v.csv", "_metadata/i.csv", "_common_metadata_x/j.csv"]  # data to Spark
    names += ["sub/_metadata", "_metadata.csv", "sub/._k=v.csv", "_x/_metadata/k.csv"]  # no data
    for path in (decoy, *(raw / name for name in names)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.stem}\n")
    rows = read.csv(spark, f"file://{raw}", {"name": "string"}).collect()
    assert sorted(row["name"] for row in rows) == ["_k=v", "a", "b", "c", "h", "i", "j"]
    counted = {f"file://{raw}/{file.name}" for file in store.inventory(f"file://{raw}")}
    assert {store.absolute(row["_file"]) for row in rows} == counted


def test_bytes_that_are_no_text_are_refused_and_no_key_is_changed(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a\xe9,1\na\xe8,2\nb,3\n\xff\xfe,x\n")
    df = read.csv(spark, f"file://{tmp_path}", {"name": "string", "n": "int"})
    refused = clean.refused(clean.check(df, (), ""), (), f"file://{tmp_path}").orderBy("line").collect()
    assert [(row["line"], row["record"]) for row in refused] == [
        (1, "a\ufffd,1"),
        (2, "a\ufffd,2"),
        (4, "\ufffd\ufffd,x"),
    ]
    assert {reason for row in refused for reason in row["reasons"]} == {
        "expected UTF-8 text, found other bytes; is it another `encoding`?"
    }
    assert [row["name"] for row in df.where("not _malformed").collect()] == ["b"]


ENDS = [b"\n", b"\r\n", b"\r"]
OTHER_THAN_TEXT = st.binary(min_size=1, max_size=6).map(lambda b: bytes(x for x in b if x > 32 and x not in b'",')) | (
    st.text(st.characters(min_codepoint=0x80, max_codepoint=0x10FFFF, exclude_categories=["C", "Z"]), max_size=3).map(
        str.encode
    )
)


@given(st.lists(st.tuples(OTHER_THAN_TEXT, st.sampled_from(ENDS)), max_size=200))
@settings(max_examples=8, deadline=None)
def test_every_line_of_any_bytes_is_kept_as_it_is_or_refused_with_its_number(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[bytes, bytes]]
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "a.csv").write_bytes(
        b"".join([b"\xef\xbb\xbffirst,x\r\n", *(b"x%b,%d%b" % (b, i, e) for i, (b, e) in enumerate(lines))])
    )
    df = read.csv(spark, f"file://{folder}", {"name": "string", "n": "int"})
    kept, refused = {}, {(1, "first,x")}
    for i, (name, _) in enumerate(lines):
        try:
            kept[f"x{name.decode()}"] = i
        except UnicodeDecodeError:
            refused.add((i + 2, f"x{name.decode(errors='replace')},{i}"))
    assert {row["name"]: row["n"] for row in df.where("not _malformed").collect()} == kept
    found = clean.refused(clean.check(df, (), ""), (), f"file://{folder}").collect()
    assert {(row["line"], row["record"]) for row in found} == refused
