"""JSON lines, text, Parquet, ORC, tables, and files that are records themselves."""

from __future__ import annotations

import io
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import read
from etl.read import avro, files, idx, json_lines, orc, parquet, text
from etl.spark import user_errors
from penstock.errors import RawDataError, RecipeError
from tests.conftest import SHARED_DATA
from tests.etl.test_read_csv import refused, rows, shared, tar, write, zipped

COLUMNS = {"a": "int", "b": "string"}


def test_json_lines_give_typed_columns_or_a_reason(spark: SparkSession, tmp_path: Path) -> None:
    records = [
        '{"a": 1, "b": "x", "c": [1, 2], "d": {"e": 1.5}}',
        '  {"d": null, "c": [], "b": "", "a": 17850.0}  ',
        '{"a": "2", "b": 3, "c": null}',
        '{"a": 1.5, "b": "x"}',
        '{"a": 1}',
        '{"a": 1, "b": "x", "new": 1}',
        '{"a": 1, "b": "x"} {"a": 2, "b": "y"}',
        '{"a": 1, "b": "x"},{"a": 2, "b": "y"}',
        '[{"a": 1, "b": "x"}]',
        '{"a": 1, "b": "x"',
        "null",
        '{"a": 1, "b": "x", "c": [1, "y"]}',
    ]
    url = write(tmp_path, {"a.jsonl": "\n\n".join(records)})
    columns = COLUMNS | {"c": "array<int>", "d": "struct<e: double>"}
    df = json_lines(spark, url, columns, nullable=("c", "d"))
    found = df.where("not _malformed").orderBy("a").select(*columns).collect()
    assert [row.asDict(recursive=True) for row in found] == [
        {"a": 1, "b": "x", "c": [1, 2], "d": {"e": 1.5}},
        {"a": 2, "b": "3", "c": None, "d": None},
        {"a": 17850, "b": "", "c": [], "d": None},
    ]
    no_object = "expected one JSON object, found something else"
    assert sorted((line, why) for _, line, _, why in refused(df, url)) == [
        (7, "a must be int, found '1.5'"),
        (9, "b must be string, found nothing"),
        (11, "not expected: new"),
        *((line, no_object) for line in (13, 15, 17, 19, 21)),
        (23, "c must be array<int>, found '[1,\"y\"]'"),
    ]
    lenient = json_lines(spark, url, columns, nullable=("c", "d"), extra_columns=True)
    assert lenient.where("a = 1 and not _malformed").count() == 2


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_text_gives_every_line_its_number(spark: SparkSession, tmp_path: Path, encoding: str) -> None:
    lines = ["é", "", ' a,"b ', "\t", "ü"]
    url = write(tmp_path, {"a.txt": "\r\n".join(lines).encode(encoding), "z.tar.gz": tar({"b.txt": b"x\n"})})
    df = text(spark, url, encoding=encoding)
    found = sorted((row["_file"], row["_position"], row["text"]) for row in df.collect())
    assert found == [
        *((f"{url}/a.txt", i, line) for i, line in enumerate(lines, start=1)),
        (f"{url}/z.tar.gz!/b.txt", 1, "x"),
    ]


def test_a_whole_text_is_a_record_too(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"s/a.txt": "\ufeffx\r\ny\n", "b.txt": b"\xff\n", "z.zip": zipped({"b/c.txt": b"z"})})
    df = text(spark, url, whole=True)
    assert rows(df) == [("s/a.txt", "x\r\ny\n"), ("z.zip!/b/c.txt", "z")]
    assert refused(df, url) == [("b.txt", None, None, "expected utf-8 text, found other bytes")]
    assert rows(text(spark, f"{url}/z.zip", whole=True)) == [("b/c.txt", "z")]
    assert rows(text(spark, f"{url}/s/a.txt", whole=True)) == [("a.txt", "x\r\ny\n")]


def test_tinyshakespeare_is_all_there(spark: SparkSession) -> None:
    df = text(spark, shared("tinyshakespeare"))
    counts = df.agg(F.count("*"), F.max("_position"), F.sum(F.length("text") + 1)).collect()
    assert tuple(counts[0]) == (40_000, 40_000, 1_115_394)


TABLE = pa.table({"b": ["x", None, "z"], "a": pa.array([1, 2, 3], pa.int32()), "c": [[1], [], None]})
FORMATS: dict[str, tuple[Callable[..., DataFrame], Callable[[pa.Table, str], None]]] = {
    "parquet": (parquet, lambda rows, file: pq.write_table(rows, file)),
    "orc": (orc, lambda rows, file: pyarrow.orc.write_table(rows, file)),
}


def write_tables(folder: Path, kind: str, **tables: pa.Table) -> str:
    (folder / "sub").mkdir()
    for name, found in tables.items():
        FORMATS[kind][1](found, str(folder / "sub" / f"{name}.{kind}"))
    return f"file://{folder}"


@pytest.mark.parametrize("kind", FORMATS)
def test_typed_files_are_read_by_name_and_refused_rows_shown(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    url = write_tables(tmp_path, kind, x=TABLE, y=TABLE.select(["a", "c", "b"]).slice(0, 1))
    df = FORMATS[kind][0](spark, url, COLUMNS, extra_columns=True)
    assert rows(df) == [(1, "x"), (1, "x"), (3, "z")]
    place = 1 if kind == "parquet" else None
    assert refused(df, url) == [(f"sub/x.{kind}", place, '{"a":2,"b":null}', "b must be string, found nothing")]
    nullable = FORMATS[kind][0](spark, url, COLUMNS, extra_columns=True, nullable=("b",))
    assert nullable.where("not _malformed").count() == 4


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda rows: rows, "not expected 'c'"),
        (lambda rows: rows.select(["b"]), "missing a"),
        (lambda rows: rows.select(["a", "b"]).set_column(0, "a", [[1, 2, 3]]), "a is bigint, not int"),
        (lambda rows: rows.select(["a", "b"]).rename_columns(["A", "b"]), "missing a; not expected 'A'"),
    ],
    ids=["extra", "missing", "retyped", "renamed"],
)
def test_typed_files_that_drift_are_said(
    spark: SparkSession, tmp_path: Path, kind: str, change: Callable[[pa.Table], pa.Table], difference: str
) -> None:
    url = write_tables(tmp_path, kind, good=TABLE.select(["a", "b"]), new=change(TABLE))
    message = rf"1 of 2 files have other .* Expected a int, b string. \S*/sub/new.{kind} has .* \({difference}\)"
    with pytest.raises(RawDataError, match=message):
        FORMATS[kind][0](spark, url, COLUMNS)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_typed_file_that_cannot_be_read(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    url = write_tables(tmp_path, kind, good=TABLE.select(["a", "b"]), cut=TABLE.select(["a", "b"]))
    file = tmp_path / "sub" / f"cut.{kind}"
    file.write_bytes(file.read_bytes()[:-10])
    with (
        pytest.raises(RawDataError, match=rf"sub/cut.{kind}: cannot be read \(.*copy it again"),
        user_errors(url, "out"),
    ):
        FORMATS[kind][0](spark, url, COLUMNS).collect()
    df = FORMATS[kind][0](spark, url, COLUMNS, unreadable="quarantine", nullable=("b",))
    assert df.where("not _malformed").count() == 3
    assert [(name, line) for name, line, *_ in refused(df, url)] == [(f"sub/cut.{kind}", None)]


def test_timestamps_of_spark_and_of_arrow_are_both_timestamps(spark: SparkSession, tmp_path: Path) -> None:
    df = spark.sql("select timestamp'2020-01-01 00:00:01' t")
    df.write.parquet(f"{tmp_path}/a")
    (tmp_path / "b").mkdir()
    pq.write_table(pa.table({"t": pa.array([df.collect()[0]["t"]], pa.timestamp("us"))}), tmp_path / "b" / "x.parquet")
    found = parquet(spark, f"file://{tmp_path}", {"t": "timestamp"})
    assert found.agg(F.count("*"), F.countDistinct("t")).collect()[0][:] == (2, 1)


def test_a_table_of_the_catalog_is_read_where_its_files_are_raw_data(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"other/x": ""})
    spark.sql(f"create table people (a int, b string) using parquet location '{tmp_path}/people'")
    try:
        spark.sql("insert into people values (1, 'x'), (2, null)")
        df = read.table(spark, url, "people", COLUMNS)
        assert rows(df) == [(1, "x")]
        [(file, line, record, why)] = refused(df, url)
        assert file.startswith("people/part-")
        assert (line, record, why) == (None, '{"a":2,"b":null}', "b must be string, found nothing")
        with pytest.raises(
            RawDataError, match=r"table people has a int, b string \(missing z; not expected 'a', 'b'\)"
        ):
            read.table(spark, url, "people", {"z": "int"}, extra_columns=True)
        with pytest.raises(RawDataError, match=r"table people lies at .*people, not in .*other; check --raw"):
            read.table(spark, f"{url}/other", "people", COLUMNS)
    finally:
        spark.sql("drop table people")
    with pytest.raises(RawDataError, match="catalog has no table 'people'"):
        read.table(spark, url, "people", COLUMNS)


def test_avro_without_sparks_package_is_said(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"a.avro": b"Obj\1"})
    with pytest.raises(RecipeError, match=r"--packages org.apache.spark:spark-avro_2.13:4"):
        avro(spark, url, COLUMNS)


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def wav(frames: int = 10) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\1\2" * frames)
    return file.getvalue()


def test_pictures_come_as_they_are_from_folders_and_archives(spark: SparkSession, tmp_path: Path) -> None:
    damaged = bytearray(png())
    damaged[damaged.index(b"IDAT") + 6] ^= 1
    bad = {"0/cut.png": png()[:-5], "0/flipped.PNG": bytes(damaged), "1/html.png": b"<html>"}
    url = write(
        tmp_path, {"0/a.png": png(), "x.txt": "no", **bad, "z.tar": tar({"./1/a.png": png(1), "t.csv": b""}, "w")}
    )
    df = files(spark, url, "png")
    assert {row["path"]: bytes(row["content"]) for row in df.where("not _malformed").collect()} == {
        "0/a.png": png(),
        "z.tar!/1/a.png": png(1),
    }
    found = refused(df, url)
    assert [(name, line, record) for name, line, record, _ in found] == [(name, None, None) for name in sorted(bad)]
    assert [why.rsplit("(", 1)[1] for *_, why in found] == [
        "it ends too early: IEND is missing)",
        f"its chunk IDAT at byte {damaged.index(b'IDAT') - 4} is damaged)",
        "no PNG header)",
    ]


@pytest.mark.parametrize(
    ("encoding", "good", "bad"),
    [
        ("jpeg", {"a.jpg": jpeg(), "b.JPEG": jpeg()}, {"c.jpg": jpeg()[:-9]}),
        ("wav", {"a.wav": wav()}, {"b.wav": wav()[:-3], "c.wav": b"RIFF"}),
    ],
)
def test_pictures_and_sounds_that_are_none_are_malformed(
    spark: SparkSession, tmp_path: Path, encoding: str, good: dict[str, bytes], bad: dict[str, bytes]
) -> None:
    url = write(tmp_path, {**good, **bad, "a.csv": b"", "z.zip": zipped(good)})
    df = files(spark, url, encoding)
    assert sorted(row["path"] for row in df.where("not _malformed").collect()) == sorted(
        [*good, *(f"z.zip!/{name}" for name in good)]
    )
    found = refused(df, url)
    assert [name for name, *_ in found] == sorted(bad)
    assert all(f"expected {encoding}, found " in why for *_, why in found)


@pytest.mark.soak
def test_mnists_pictures_are_those_of_its_idx_files(spark: SparkSession, mnist_raw: Path) -> None:
    df = files(spark, f"file://{mnist_raw}/mnist_test_png.tar.gz", "png")
    found = df.where("not _malformed").select("path", "content").collect()
    pairs = {f"file://{mnist_raw}/t10k-{part}.gz": None for part in ["images-idx3-ubyte"]}
    expected = {bytes(row["image"]) for row in idx(spark, pairs, (28, 28)).collect()}
    assert len(found) == 10_000
    pixels = {np.asarray(Image.open(io.BytesIO(row["content"]))).tobytes() for row in found}
    assert pixels == expected
    labels = df.groupBy(F.split("path", "/")[1].alias("label")).count().collect()
    assert sorted((row["label"], row["count"]) for row in labels)[:2] == [("0", 980), ("1", 1_135)]


@pytest.mark.parametrize("unpacked", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["tar.gz", "folder"])
def test_spoken_digits_are_all_there(spark: SparkSession, tmp_path: Path, unpacked: bool) -> None:
    url = shared("spoken_digits")
    if unpacked:
        with tarfile.open(SHARED_DATA / "spoken_digits" / "recordings.tar.gz") as archive:
            archive.extractall(tmp_path)
        url = f"file://{tmp_path}"
    df = files(spark, url, "wav")
    digit = F.regexp_extract("path", r"([0-9])_[a-z]+_[0-9]+\.wav$", 1)
    counts = df.where("not _malformed").groupBy(digit.alias("digit")).count().collect()
    assert {row["digit"]: row["count"] for row in counts} == dict.fromkeys("0123456789", 300)
