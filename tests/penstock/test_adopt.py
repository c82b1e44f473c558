"""adopt: what others wrote is fed as pandas reads it, no byte is rewritten, and what cannot be fed is said."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from penstock import card as cards
from penstock import cli, manifest, store
from penstock.adopt import Adopted, Columns, adopt, parse_field
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RecipeError
from penstock.verify import verify
from tests.cards import edit_card
from tests.penstock.conftest import IN_PLACE
from train.feed import Feed
from train.feed.petastorm_reader import _legacy_pyarrow_modules


def adopted(folder: Path, *fields: str, **options: Any) -> Adopted:
    columns = Columns({f.name: f for f in map(parse_field, fields)}, **options.pop("columns", {}))
    return adopt(str(folder), Console(), columns=columns, **options)


def rows_of(folder: Path, split: str = "train") -> dict[str, list[Any]]:
    """One epoch in the order of `id`; a list without its padding."""
    feed = Feed(str(folder), split, global_batch_size=6, lanes=2, columns=cards.load(str(folder)).schema.names)
    rows: dict[str, list[Any]] = {name: [] for name in feed.columns}
    for batch in feed.epoch():
        for name in feed.columns:
            values = [v.numpy() if hasattr(v, "numpy") else v for v in batch[name]]
            if f"_{name}_length" in batch:
                values = [v[:n] for v, n in zip(values, batch[f"_{name}_length"].tolist(), strict=True)]
            rows[name] += values
    order = np.argsort([int(i) for i in rows["id"]])
    return {name: [values[i] for i in order] for name, values in rows.items()}


def assert_fed(folder: Path, expected: pd.DataFrame, split: str = "train") -> None:
    found, expected = rows_of(folder, split), expected.sort_values("id")
    assert set(found) == set(expected.columns)
    for name, values in found.items():
        assert len(values) == len(expected)
        for value, there in zip(values, expected[name], strict=True):
            np.testing.assert_array_equal(value, there)


def frame(first: int, count: int) -> pd.DataFrame:
    ids = np.arange(first, first + count)
    lists = [np.arange(i % 4) for i in ids]
    return pd.DataFrame({"id": ids, "x": ids / 4, "name": [f"näme {i}" for i in ids], "ok": ids % 2 == 0, "n": lists})


def write_frames(folder: Path, *frames: pd.DataFrame, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate(frames):
        rows.to_parquet(folder / f"part-{i}.parquet", **{"row_group_size": 5, **options})
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """30 rows in two files of row groups of five."""
    return write_frames(tmp_path / "frames", frame(0, 18), frame(18, 12))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_pandas_wrote_is_fed_and_no_byte_of_it_is_changed(frames: Path) -> None:
    before = snapshot(frames)
    assert not adopted(frames, key="id").reused
    after = snapshot(frames)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"_cards"}
    assert_fed(frames, pd.read_parquet(frames))  # pandas sees the same files as before


SCALARS = {
    "int8": st.integers(-(2**7), 2**7 - 1),
    "uint16": st.integers(0, 2**16 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(width=32, allow_nan=False),
    "float64": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(),
    "binary": st.binary(),
    "list": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
}
ARROW = {name: pa.list_(pa.int32()) if name == "list" else pa.type_for_alias(name) for name in SCALARS}


@given(st.data())
@settings(max_examples=30)
def test_any_values_in_any_encoding_are_fed_as_they_are(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("any")
    count = data.draw(st.integers(1, 20))
    columns = {
        name: pa.array(data.draw(st.lists(values, min_size=count, max_size=count)), ARROW[name])
        for name, values in SCALARS.items()
    }
    table = pa.table({"id": pa.array(range(count)), **columns})
    options = {
        "compression": data.draw(st.sampled_from(["none", "snappy", "zstd", "gzip"])),
        "use_dictionary": data.draw(st.booleans()),
        "row_group_size": data.draw(st.integers(1, 20)),
        "data_page_size": data.draw(st.sampled_from([16, 1 << 20])),
        "data_page_version": data.draw(st.sampled_from(["1.0", "2.0"])),
        "write_page_checksum": data.draw(st.booleans()),
        "use_content_defined_chunking": False,
    }
    pq.write_table(table, folder / "part.parquet", **options)
    adopted(folder, checksum=data.draw(st.booleans()))
    assert_fed(folder, table.to_pandas())
    assert verify(str(folder), Console())[1] == []


def test_types_that_a_field_has_not_become_those_that_hold_their_values(tmp_path: Path) -> None:
    vectors = np.arange(36, dtype=np.float32).reshape(12, 3)
    flat = pa.array(vectors.reshape(-1))
    columns = {
        "id": pa.array(range(12), pa.uint32()),
        "category": pa.array(["a", "b", "c"] * 4).dictionary_encode(),
        "byte": pa.array(range(244, 256), pa.uint8()),
        "half": pa.array(np.arange(12, dtype=np.float16)),
        "text": pa.array(["x" * i for i in range(12)], pa.large_string()),
        "four": pa.array([bytes([i] * 4) for i in range(12)], pa.binary(4)),
        "vector": pa.FixedSizeListArray.from_arrays(flat, 3),
        "longs": pa.array([[i] * i for i in range(12)], pa.large_list(pa.uint16())),
        "embedding": pa.ListArray.from_arrays(pa.array(range(0, 37, 3), pa.int32()), flat),
        "tensor": pa.array([row.tobytes() for row in vectors], pa.binary(12)),
        "when": pa.array(range(12), pa.timestamp("ms")),
    }
    pq.write_table(pa.table(columns), tmp_path / "f.parquet", row_group_size=5)
    made = adopted(tmp_path, "embedding=float32:3,1", "tensor=float32:3", "when=int64", checksum=True)
    dtypes = {field.name: (field.dtype, *field.shape) for field in made.card.schema.fields}
    assert dtypes == {
        "id": ("int64",),
        "category": ("string",),
        "byte": ("int16",),
        "half": ("float32",),
        "text": ("string",),
        "four": ("bytes",),
        "vector": ("float32", 3),
        "longs": ("int32", None),
        "embedding": ("float32", 3, 1),
        "tensor": ("float32", 3),
        "when": ("int64",),
    }
    expected = {name: column.to_pylist() for name, column in columns.items()}
    rows = {name: list(vectors) for name in ("vector", "tensor")} | {"embedding": list(vectors[..., None])}
    assert_fed(tmp_path, pd.DataFrame({**expected, **rows, "when": range(12)}))


def test_a_directory_that_spark_wrote_is_fed_by_its_splits(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "spark"
    df = spark.range(200).select(
        "id",
        (F.col("id") / 8).alias("x"),
        F.concat(F.lit("row "), F.col("id").cast("string")).alias("name"),
        F.array_repeat(F.col("id").cast("float"), (F.col("id") % 3).cast("int")).alias("scores"),
        F.when(F.col("id") % 5 == 0, "val").otherwise("train").alias("split"),
        (F.col("id") % 2).alias("_day"),
    )
    df.repartition(2).write.partitionBy("split", "_day").parquet(folder.as_uri())
    (folder / "_SUCCESS").touch()  # most sessions leave one
    made = adopted(folder, key="id", checksum=True)
    assert made.card.lineage["left_out"] == ["_day"]
    assert {name: split.rows for name, split in made.card.splits.items()} == {"train": 160, "val": 40}
    # Spark still reads it, and each split is what Spark says.
    for split in ("train", "val"):
        assert_fed(
            folder,
            spark.read.parquet(folder.as_uri()).where(F.col("split") == split).drop("split", "_day").toPandas(),
            split,
        )


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def picture(i: int) -> np.ndarray[Any, Any]:
    return np.full((6, 4, 3), (i, 2 * i, 255 - i), np.uint8)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_stock_petastorm_dataset_is_fed_and_its_pickles_are_never_opened(spark: SparkSession, tmp_path: Path) -> None:
    """Rows by Petastorm's own codecs, files by Spark, as `materialize_dataset` does before it adds its pickle."""
    with _legacy_pyarrow_modules():
        from petastorm.codecs import CompressedNdarrayCodec, DataframeColumnCodec, NdarrayCodec, ScalarCodec
        from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row

    class PngCodec(DataframeColumnCodec):  # type: ignore[misc]
        """Petastorm's own needs OpenCV, and writes the same: RGB pixels as a PNG."""

        def encode(self, field: Any, value: np.ndarray[Any, Any]) -> bytearray:
            return bytearray(png(value))

        decode = __str__ = None

        def spark_dtype(self) -> T.DataType:
            return T.BinaryType()

    fields = [
        UnischemaField("id", np.int32, (), ScalarCodec(T.IntegerType()), False),
        UnischemaField("x", np.float32, (2, 3), NdarrayCodec(), False),
        UnischemaField("z", np.int64, (None,), CompressedNdarrayCodec(), False),
        UnischemaField("photo", np.uint8, (6, 4, 3), PngCodec(), False),
    ]
    unischema = Unischema("Stock", fields)
    rows = [
        {"id": i, "x": np.full((2, 3), i / 4, np.float32), "z": np.arange(i, dtype=np.int64), "photo": picture(i)}
        for i in range(23)
    ]
    encoded = [dict_to_spark_row(unischema, row) for row in rows]
    folder, sprung = tmp_path / "petastorm", tmp_path / "sprung"
    spark.createDataFrame(encoded, unischema.as_spark_schema()).repartition(3).write.parquet(folder.as_uri())
    schema = pa.schema([], metadata={b"dataset-toolkit.unischema.v1": pickle.dumps(Trap(sprung))})
    pq.write_metadata(schema, folder / "_common_metadata")

    adopted(folder, "x=float32:2,3:npy", "z=int64:any:npz", "photo=uint8:6,4,3:png", key="id")
    assert_fed(folder, pd.DataFrame(rows))
    assert verify(str(folder), Console())[1] == []
    assert not sprung.exists()


def test_files_that_are_no_data_are_not_even_opened(frames: Path) -> None:
    for name in ("_common_metadata", "_metadata", ".hidden"):
        os.mkfifo(frames / name)  # who opens it waits for ever
    command = [sys.executable, "-m", "penstock.cli", "adopt", frames, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["splits"] == {"train": 30}


def test_no_page_is_read(frames: Path, tmp_path: Path) -> None:
    """Pages of noise make no difference, as long as nobody asks for checksums."""
    noise = Path(shutil.copytree(frames, tmp_path / "noise"))
    for path in noise.glob("*.parquet"):
        content = bytearray(path.read_bytes())
        footer = int.from_bytes(content[-8:-4], "little") + 8
        content[:-footer] = os.urandom(len(content) - footer)
        path.write_bytes(content)
    assert adopted(noise).card.version == adopted(frames).card.version
    assert adopted(noise, checksum=True).card.version != adopted(frames, checksum=True).card.version


def test_a_long_footer_is_read_whole(tmp_path: Path) -> None:
    table = pa.table({"id": range(9)}).replace_schema_metadata({"notes": "x" * 100_000})
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=2)
    adopted(tmp_path)
    assert_fed(tmp_path, table.to_pandas())


def test_adopting_twice_does_nothing_and_another_input_is_another_version(frames: Path) -> None:
    first = adopted(frames, key="id")
    there = snapshot(frames)
    again = adopted(frames, key="id")
    assert (again.reused, again.card) == (True, first.card)
    assert snapshot(frames) == there
    versions = {first.card.version}
    for options in ({}, {"key": "id", "label": "ok"}, {"columns": {"without": ["n"]}}, {"checksum": True}):
        versions.add(adopted(frames, **options).card.version)
    write_frames(frames, frame(0, 17))
    versions.add(adopted(frames, key="id").card.version)
    assert len(versions) == 6
    assert cards.load(str(frames)).counts["built"] == 29


def test_a_folder_that_is_moved_is_still_whole(frames: Path, tmp_path: Path) -> None:
    adopted(frames)
    moved = frames.rename(tmp_path / "moved")
    assert_fed(moved, pd.read_parquet(moved))


def test_the_card_may_lie_elsewhere(frames: Path, tmp_path: Path) -> None:
    before, out = snapshot(frames), tmp_path / "out"
    made = adopted(frames, key="id", out=str(out))
    assert snapshot(frames) == before
    assert made.card.data == f"file://{frames}"
    assert_fed(out, pd.read_parquet(frames))
    assert verify(str(out), Console())[1] == []


def change_card(folder: Path, **changed: Any) -> None:
    edit_card(next((folder / "_cards").glob("*.json")), lambda card: card.update(changed))


def test_only_an_adopted_card_names_a_folder_elsewhere(frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = adopted(frames, out=str(out))
    change_card(out, kind="dataset")
    with pytest.raises(DatasetError, match="leads out of the dataset; do not use this dataset"):
        Feed(str(out), global_batch_size=8)
    for data in ("..", "../frames", "/etc", "a/../.."):
        change_card(out, kind="adopted", data=data)
        with pytest.raises(DatasetError, match="leads out of the dataset; do not use this dataset"):
            Feed(str(out), global_batch_size=8)
    # And a store that others write to names no file of this machine.
    assert cards.files_url("s3://bucket/x", cards.Card(**{**vars(made.card), "data": "s3://other/y"})) == "s3://other/y"
    with pytest.raises(DatasetError, match=r"bucket/x: version \w+ names files of one machine"):
        cards.files_url("s3://bucket/x", made.card)


def test_a_manifest_that_leads_out_of_the_adopted_folder_is_refused(frames: Path) -> None:
    made = adopted(frames)
    table = manifest.read(str(frames), made.card).table
    wrong = table.set_column(1, "file", pa.array(["../part-0.parquet"] * len(table)))
    listed = manifest.write(f"file://{frames}", [wrong], made.card.schema, "_cards/x")
    change_card(frames, manifest=vars(listed))
    with pytest.raises(DatasetError, match=r"'../part-0.parquet' leads out of the dataset"):
        Feed(str(frames), global_batch_size=8)


def test_a_manifest_that_is_gone_is_said(frames: Path) -> None:
    adopted(frames)
    next((frames / "_cards").glob("*.manifest")).unlink()
    with pytest.raises(DatasetError, match="the manifest is missing; remove its card and adopt the files again"):
        adopted(frames)


def write(folder: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), folder / f"part-{len(list(folder.iterdir()))}.parquet", row_group_size=5)


TIMES = pa.array([1], pa.timestamp("us"))
REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "nothing there": (lambda f: f.rmdir(), {}, r"no Parquet file \(names with a leading '.' or '_' are no data\)"),
    "no data": (lambda f: (f / "_SUCCESS").touch(), {}, "no Parquet file"),
    "a dataset": (lambda f: store.write_new(f"{f.as_uri()}/cards/v.json", b"{}"), {}, "a dataset already, with cards"),
    "no Parquet": (
        lambda f: (write(f, a=[1]), (f / "notes.txt").write_text("notes")),
        {},
        r"notes.txt: cannot be read as Parquet \(it does not end as Parquet does\); mend it, or remove it",
    ),
    "empty file": (lambda f: (f / "a.parquet").touch(), {}, "a.parquet: cannot be read as Parquet"),
    "damaged footer": (lambda f: (f / "a.parquet").write_bytes(b"x" * 50 + b"\x20\0\0\0PAR1"), {}, "a.parquet: cannot"),
    "footer too long": (lambda f: (f / "a.parquet").write_bytes(b"x" * 50 + b"\xff\0\0\0PAR1"), {}, "a.parquet: can"),
    "types": (
        lambda f: write(f, a=[1], when=TIMES, s=[{"x": 1}], t=[["a"]]),
        {},
        r"part-0.parquet: columns that cannot be fed: when of timestamp\[us\], s of struct<x: int64>, "
        r"t of list<element: string> \(field 't': 'string' is no list type.*\); leave them out with --without when,s,t",
    ),
    "name": (lambda f: write(f, a=[1], **{"b.c": [1], "_d": [1]}), {}, r"b.c of int64 \(field name 'b.c': .* _d of"),
    "split column": (lambda f: write(f, a=[1], split=["x"]), {}, "split of string .*this column says which split"),
    "other type": (
        lambda f: (write(f, a=[1], b=["x"]), write(f, a=[1.5], b=["x"])),
        {},
        "part-1.parquet: other columns than in the first file: a: expected int64, found float64; leave them out",
    ),
    "missing column": (lambda f: (write(f, a=[1], b=[1]), write(f, a=[1])), {}, "b: expected int64, found no such"),
    "another column": (lambda f: (write(f, a=[1]), write(f, a=[1], c=[1])), {}, "c: expected no such column, found"),
    "nulls": (
        lambda f: (write(f, a=[1, 2], b=[1, 2]), write(f, a=[1, None], b=pa.nulls(2, pa.int64()))),
        {},
        r"columns with nulls, which no batch can hold: a \(1, the first in part-1.parquet\), b \(2, .*--without a,b,",
    ),
    "mixed splits": (
        lambda f: (write(f, a=[1]), (f / "split=val").mkdir(), write(f / "split=val", a=[1])),
        {},
        "split=val/part-0.parquet lies in a folder that names its split, part-0.parquet does not",
    ),
    "stated too much": (
        lambda f: write(f, a=[b"x"]),
        {"columns": {"without": ["b"]}},
        "part-0.parquet: no column 'b'; there are a",
    ),
    "key": (lambda f: write(f, a=[1]), {"key": "b"}, "key='b' is not among the fields a"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_fed_is_said(what: str, tmp_path: Path) -> None:
    make, options, message = REFUSED[what]
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    with pytest.raises(PenstockError, match=message):
        adopted(folder, **options)
    assert not (folder / "_cards").exists()


def test_a_stated_field_that_the_column_cannot_be_is_said(tmp_path: Path) -> None:
    write(tmp_path, a=[1], t=TIMES)
    with pytest.raises(DatasetError, match=r"cannot be fed: a of int64 as uint8 \[2\], t of timestamp\[us\]; leave"):
        adopted(tmp_path, "a=uint8:2")


def test_every_file_that_differs_is_named_up_to_a_number(tmp_path: Path) -> None:
    write(tmp_path, a=[1])
    for i in range(12):
        (tmp_path / f"x{i:02d}.parquet").touch()
    with pytest.raises(DatasetError) as error:
        adopted(tmp_path)
    assert [f"x{i:02d}.parquet" in str(error.value) for i in range(12)] == [True] * 10 + [False] * 2
    assert "and 2 more files" in str(error.value)


def test_columns_can_be_chosen_or_left_out(frames: Path) -> None:
    assert adopted(frames, columns={"only": ["ok", "id"]}).card.schema.names == ["id", "ok"]
    assert adopted(frames, columns={"without": ["ok", "n"]}).card.schema.names == ["id", "x", "name"]


@pytest.mark.parametrize("values", [[1, None], [[1], [1, None]], [[1], None]], ids=["nulls", "in a list", "list"])
def test_nulls_that_no_footer_counts_end_the_pass(tmp_path: Path, values: list[Any]) -> None:
    pq.write_table(pa.table({"id": [1, 2], "a": values}), tmp_path / "f.parquet", write_statistics=False)
    adopted(tmp_path)
    with pytest.raises(DatasetError, match=r"f.parquet: row group 0, column 'a': expected 2 values .* 1 nulls"):
        rows_of(tmp_path)


def test_a_value_that_is_not_as_stated_ends_the_pass(tmp_path: Path) -> None:
    write(tmp_path, id=[1, 2], t=[b"1234", b"123"], v=[[1.0, 2.0], [1.0]], n=[1, 2**40])
    for field, message in (
        ("t=uint8:4", "column 't', row 1: expected 4 bytes"),
        ("v=float64:2", r"column 'v'.*row 1: expected 2 numbers, found 1"),
        ("n=int32", "column 'n'.*not in range|column 'n'.*1099511627776"),
        ("t=float32:1:npy", "column 't': expected npy, found 4 bytes"),
    ):
        adopted(tmp_path, field)
        with pytest.raises(DatasetError, match=message):
            rows_of(tmp_path)


def test_uneven_tensors_of_the_right_sum_are_not_read_in_place(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "t": [b"123", b"12345"]}), tmp_path / "f.parquet", **IN_PLACE)
    made = adopted(tmp_path, "t=uint8:4", checksum=True)
    assert manifest.read(str(tmp_path), made.card).table["columns"][0].as_py()["t"]["values"] is None
    with pytest.raises(DatasetError, match="row 0: expected 4 bytes"):
        rows_of(tmp_path)


def test_values_that_are_stored_as_something_else_are_not_read_in_place(tmp_path: Path) -> None:
    prices = pa.array([0.5, 1.25, 3]).cast(pa.decimal128(18, 2))  # as 64-bit integers: as wide as what they are fed as
    options = {"store_decimal_as_integer": True, **IN_PLACE}
    pq.write_table(pa.table({"id": range(3), "price": prices}), tmp_path / "f.parquet", **options)
    adopted(tmp_path, "price=float64", checksum=True)
    assert rows_of(tmp_path)["price"] == [0.5, 1.25, 3]


def test_with_checksums_values_lie_in_place_and_bytes_are_checked(tmp_path: Path) -> None:
    tensors = np.random.default_rng(0).integers(0, 256, (40, 200), np.uint8)
    path = tmp_path / "f.parquet"
    table = pa.table({"id": range(40), "t": [row.tobytes() for row in tensors]})
    pq.write_table(table, path, row_group_size=15, **IN_PLACE)
    made = adopted(tmp_path, "t=uint8:200", checksum=True)
    for place in manifest.read(str(tmp_path), made.card).table["columns"].to_pylist():
        assert None not in (place["id"]["values"], place["t"]["values"])
    np.testing.assert_array_equal(rows_of(tmp_path)["t"], tensors)
    flip(path, path.read_bytes().index(tensors[20].tobytes()))
    with pytest.raises(DatasetError, match="row group 1, column 't': expected CRC-32"):
        rows_of(tmp_path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_page_that_has_a_checksum_is_checked_by_it(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"id": range(10), "t": [b"needle"] * 10}), path, write_page_checksum=True, **IN_PLACE)
    adopted(tmp_path)
    flip(path, path.read_bytes().index(b"\6\0\0\0needle") + 4)
    with pytest.raises(DatasetError, match=r"column 't': cannot be read as Parquet .*CRC"):
        rows_of(tmp_path)


def test_verify_says_what_it_can_check(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adopted(frames)
    assert cli.main(["verify", str(frames)]) == 0
    assert "30 rows, footers and sizes as adopted; bytes cannot be checked" in capsys.readouterr().out
    adopted(frames, checksum=True)
    assert cli.main(["verify", str(frames)]) == 0
    assert "30 rows, every byte as adopted" in capsys.readouterr().out


def test_verify_names_each_file_that_differs(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", *(frame(i * 5, 5) for i in range(5)))
    pq.write_table(pq.read_table(folder / "part-0.parquet").slice(0, 0), folder / "part-5.parquet")
    (folder / "part-4.parquet").rename(folder / "late.parquet")
    late = (folder / "late.parquet").read_bytes()
    (folder / "late.parquet").unlink()
    adopted(folder, checksum=True)
    assert verify(str(folder), Console())[1] == []  # the file without rows is in no manifest, and whole
    (folder / "part-0.parquet").unlink()
    (folder / "part-1.parquet").write_bytes(late)
    flip(folder / "part-2.parquet", 20)
    (folder / "part-3.parquet").write_bytes(b"")
    (folder / "late.parquet").write_bytes(late)
    differs = "\n".join(verify(str(folder), Console())[1])
    for message in (
        "part-0.parquet: the file is missing; bring it back, or adopt what is there",
        "part-1.parquet: file_",
        "part-2.parquet: file_sha256: the manifest says",
        "part-3.parquet: cannot be read as Parquet",
        "late.parquet: not there when the files were adopted; remove it, or adopt what is there",
        "split 'train': the card says 20 rows, the files as adopted hold 0",
    ):
        assert message in differs


@pytest.mark.parametrize("text", ["x", "x=", "=int64", "x=uint8:a", "x=uint8:1:png:2"])
def test_a_field_that_is_no_statement_is_said(text: str) -> None:
    with pytest.raises(PenstockError, match=rf"--field {text}: expected NAME=DTYPE, .* such as image=uint8:28,28"):
        parse_field(text)


def test_a_field_of_an_unknown_dtype_is_said() -> None:
    with pytest.raises(RecipeError, match="field 'x': 'int65' is no scalar type"):
        parse_field("x=int65")


def test_the_command_tells_columns_splits_and_what_is_left_out(
    frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adopt", str(frames), "--key", "id", "--label", "ok", "--without", "n", "--field", "x=float32"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "float32" in told
    assert "Left out: n" in told
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["reused"]
    assert found["splits"] == {"train": 30}
    assert found["fields"] == {"id": "int64", "x": "float32", "name": "string", "ok": "bool"}
    assert found["left_out"] == ["n"]


def test_a_store_is_adopted_like_a_disk(frames: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(frames), "/adopted", recursive=True)
    made = adopt("memory://adopted", Console(), key="id")
    assert_fed("memory://adopted", pd.read_parquet(frames))  # type: ignore[arg-type]
    assert verify("memory://adopted", Console())[1] == []
    with pytest.raises(DatasetError, match="names files of one machine"):
        adopt(str(frames), Console(), out="memory://cards")
    assert made.folder == "memory://adopted"
