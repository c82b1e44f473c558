"""Lists, encoded pictures and bytes, the whole way from raw text to a version: whole, verified, and plain Parquet."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from etl.run import Built, etl
from penstock import manifest
from penstock.console import Console
from penstock.digest import combine, rows_digest
from penstock.encoded import decode
from penstock.errors import PenstockError
from penstock.pages import read_struct
from penstock.recipe import find
from penstock.verify import verify
from tests.etl.conftest import Run, leftovers, write_recipe
from train.feed import Feed

GROUP_BYTES = 8_192
RECIPE = f'''
"""name,tokens,photo,payload,label: tokens parted by spaces, photo and payload in base 64."""
from pyspark.sql import functions as F

from etl.read import csv
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

schema = Schema(
    (
        Field("name", "string"),
        Field("tokens", "int32", (None,)),
        Field("photo", "uint8", (8, None, 3), encoding="png"),
        Field("payload", "bytes"),
        Field("label", "int64"),
    ),
    key="name",
    label="label",
)
split = Split({{"train": 0.8, "test": 0.2}})
rules = (Rule("photo_png", "startswith(unbase64(photo), X'89504E470D0A1A0A')", "the photo must be a PNG"),)
max_quarantined = 0.5
row_group_bytes = {GROUP_BYTES}

def read(spark, raw_url, labelled):
    columns = dict.fromkeys(["name", "tokens", "photo", "payload"], "string")
    columns |= {{"label": "bigint"}} if labelled else {{}}
    return csv(spark, raw_url, columns, nullable=["tokens", "payload"])

def clean(df):
    tokens = F.expr("filter(split(coalesce(tokens, ''), ' '), token -> token <> '')").cast("array<int>")
    payload = F.expr("unbase64(coalesce(payload, ''))")
    return df.withColumns({{"tokens": tokens, "photo": F.unbase64("photo"), "payload": payload}})
'''


@dataclass(frozen=True)
class Sample:
    tokens: list[int]
    pixels: npt.NDArray[np.uint8]  # (height, width, 3)
    payload: bytes
    label: int

    @property
    def png(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.pixels).save(file, "PNG")
        return file.getvalue()

    def line(self, name: str, labelled: bool = True) -> str:
        photo, payload = (base64.b64encode(value).decode() for value in (self.png, self.payload))
        return f"{name},{' '.join(map(str, self.tokens))},{photo},{payload}" + f",{self.label}" * labelled


def sample(number: int) -> Sample:
    rng = random.Random(number)
    width = rng.randrange(1, 12)
    pixels = np.frombuffer(rng.randbytes(8 * width * 3), np.uint8).reshape(8, width, 3)
    tokens = [rng.choice([-(1 << 31), *range(9)]) for _ in range(rng.randrange(40))]
    return Sample(tokens, pixels, rng.randbytes(rng.randrange(30)), number % 2)


SAMPLES = {f"n{i}": sample(i) for i in range(800)}
LONGER = Sample([*SAMPLES["n0"].tokens, 1], SAMPLES["n0"].pixels, b"", 0)  # the smaller of both is n0's own
NO_PHOTO = f"x,1 2,{base64.b64encode(b'<html>').decode()},,1"


def write_raw(folder: Path, lines: Iterable[str]) -> Path:
    folder.mkdir()
    (folder / "samples.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    """The dataset's folder, and what ETL says of it."""
    folder = tmp_path_factory.mktemp("fields")
    recipe = write_recipe(folder / "photos", RECIPE)
    lines = [LONGER.line("n0"), *(s.line(name) for name, s in SAMPLES.items()), NO_PHOTO]
    raw = write_raw(folder / "raw", lines)
    return folder / "out", etl(find(str(recipe)), str(raw), str(folder / "out"), Console())


def test_every_value_is_published_as_it_was(made: tuple[Path, Built]) -> None:
    out, built = made
    assert built.clean.rules == {"malformed": 0, "photo_png": 1}
    assert built.card.counts == {"raw": 802, "quarantined": 1, "clean": 801, "duplicates": 1, "built": 800}
    assert verify(str(out), Console())[1] == []
    schema = built.card.schema
    table = pa.concat_tables(pq.ParquetFile(file).read() for file in (out / built.card.data).glob("split=*/*.parquet"))
    assert combine([rows_digest(table, schema)]) == combine(int(s.digest, 16) for s in built.card.splits.values())
    assert sorted(table["name"].to_pylist()) == sorted(SAMPLES)
    for row in table.to_pylist():
        expected = SAMPLES[row["name"]]
        assert (row["tokens"], row["payload"], row["label"]) == (expected.tokens, expected.payload, expected.label)
        np.testing.assert_array_equal(decode(row["photo"], schema["photo"]), expected.pixels)


def test_pandas_duckdb_and_spark_read_them_as_they_are(spark: SparkSession, made: tuple[Path, Built]) -> None:
    out, built = made
    folder, columns = f"{out}/{built.card.data}", ["tokens", "photo", "payload"]
    with_pandas = pd.read_parquet(f"{folder}/split=test").set_index("name")
    name = with_pandas.index[0]
    chosen = f"name = '{name}'"
    rows = [
        with_pandas.loc[name, columns],
        *duckdb.sql(f"SELECT {', '.join(columns)} FROM '{folder}/split=*/*.parquet' WHERE {chosen}").fetchall(),
        *spark.read.parquet(folder).where(chosen).select(*columns).collect(),
    ]
    assert len(rows) == 3
    for tokens, photo, payload in rows:
        expected = SAMPLES[name]
        assert (list(tokens), bytes(photo), bytes(payload)) == (expected.tokens, expected.png, expected.payload)


def test_the_feed_reads_them(made: tuple[Path, Built]) -> None:
    out, built = made
    names = set()
    for batch in Feed(str(out), "train", global_batch_size=64, columns=built.card.schema.names).epoch():
        lists = [row[:n].tolist() for row, n in zip(batch["tokens"], batch["_tokens_length"].tolist(), strict=True)]
        for name, tokens, photo, payload in zip(batch["name"], lists, batch["photo"], batch["payload"], strict=True):
            expected = SAMPLES[name]
            assert (tokens, payload) == (expected.tokens, expected.payload)
            np.testing.assert_array_equal(photo.numpy(), expected.pixels)
            names.add(name)
    assert len(names) == built.card.splits["train"].rows


def test_row_groups_are_as_large_as_asked(made: tuple[Path, Built]) -> None:
    out, built = made
    listed = manifest.read(str(out), built.card).table
    train = listed.filter(pa.compute.field("split") == "train")
    rows, largest = sum(train["num_rows"].to_pylist()), max(train["num_rows"].to_pylist())
    num_bytes = sum(
        len(s.png) + 4 * len(s.tokens) + len(s.payload) + len(name) + 8 for name, s in SAMPLES.items()
    ) / len(SAMPLES)
    assert rows == built.card.splits["train"].rows
    assert 0.7 < largest * num_bytes / GROUP_BYTES < 1.3


def test_they_are_plain_pages_with_small_footers(made: tuple[Path, Built]) -> None:
    out, built = made
    listed = manifest.read(str(out), built.card).table
    for file, group, places in zip(*(listed[n].to_pylist() for n in ("file", "row_group", "columns")), strict=True):
        found = pq.read_metadata(out / built.card.data / file).row_group(group)
        for chunk in (found.column(i) for i in range(found.num_columns)):
            name = chunk.path_in_schema.split(".")[0]
            assert chunk.compression == "UNCOMPRESSED"
            assert not chunk.has_dictionary_page
            assert (chunk.data_page_offset, chunk.total_compressed_size) == (
                places[name]["offset"],
                places[name]["num_bytes"],
            )
            assert (places[name]["values"] is not None) == (name == "label")
            raw = memoryview((out / built.card.data / file).read_bytes())[chunk.data_page_offset :]
            header, end = read_struct(raw[: chunk.total_compressed_size], 0)
            assert end + header[3] == chunk.total_compressed_size  # one page
            if name in ("photo", "payload"):
                assert not chunk.is_stats_set or not chunk.statistics.has_min_max


def test_rows_to_be_scored_have_the_contract_of_those_that_trained(
    run: Run, made: tuple[Path, Built], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "photos", RECIPE)
    raw = write_raw(tmp_path / "raw", (s.line(name, labelled=False) for name, s in list(SAMPLES.items())[:20]))
    scored = run(raw, tmp_path / "out", recipe=recipe, frozen=made[1].card, labelled=False).card
    assert scored.contract == made[1].card.contract


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "(8, None, 3)",
            "(9, None, 3)",
            r"parquet, row group 0, row 0: column 'photo': expected png of .* a rule refuse",
        ),
        (
            '.cast("array<int>")',
            '.cast("array<int>"); tokens = F.array_append(tokens, F.lit(None))',
            "nulls in the lists",
        ),
        ('.cast("array<int>")', '.cast("array<bigint>")', "tokens must be array<int>, is array<bigint>"),
        ('"photo": F.unbase64("photo"), ', "", "photo must be binary, is string"),
    ],
    ids=["size", "null", "type", "text"],
)
def test_values_of_another_kind_publish_nothing(run: Run, tmp_path: Path, old: str, new: str, message: str) -> None:
    recipe = write_recipe(tmp_path / "photos", RECIPE.replace(old, new))
    raw = write_raw(tmp_path / "raw", (s.line(name) for name, s in list(SAMPLES.items())[:20]))
    with pytest.raises(PenstockError, match=message):
        run(raw, tmp_path / "out", recipe=recipe)
    assert not [name for name in leftovers(tmp_path / "out") if not name.startswith("clean/")]
