"""Schema, card, store, pages and recipes: what is accepted, what is refused, and with which words."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from penstock import card as cards
from penstock import recipe as recipes
from penstock import store, tensors
from penstock.card import Card, CleanCard, ManifestFile, Split
from penstock.errors import DatasetError, RawDataError, RecipeError, StorageError
from penstock.pages import stride, values_offset
from penstock.schema import Field, Schema

SCHEMA = Schema(
    (Field("id", "string"), Field("x", "float32", (2, 3)), Field("label", "int64")), key="id", label="label"
)


def card(**changed: Any) -> Card:
    parts: dict[str, Any] = {
        "version": "v1",
        "recipe": "r",
        "data": "data/v1-a",
        "manifest": ManifestFile("_manifest.parquet", 10, "ab"),
        "schema": SCHEMA,
        "counts": {"raw": 12, "quarantined": 1, "clean": 11, "duplicates": 1, "built": 10},
        "splits": {"train": Split(7, "00"), "test": Split(3, "11")},
        "transforms": {"x": {"kind": "standardise", "mean": 0.1, "std": 2.0}},
        "lineage": {"clean": ["c1"]},
    }
    return Card(**{**parts, **changed})


# Schema


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Field("x", "complex64", (3,)), "'complex64' is no tensor type; use one of uint8"),
        (lambda: Field("x", "uint8"), "'uint8' is no scalar type; use one of bool"),
        (lambda: Field("x", "uint8", (3, 0)), "has an empty axis"),
        (lambda: Field("_x", "int64"), "without '.', '=' or a leading '_'"),
        (lambda: Schema((Field("a", "int64"), Field("a", "int64")), key="a"), "'a' is there twice"),
        (lambda: Schema((Field("a", "int64"),), key="b"), "key='b' is not among the fields a"),
        (lambda: Schema((Field("a", "int64"),), key="a", label="c"), "label='c' is not among"),
        (lambda: Schema((Field("a", "float64"),), key="a"), "must be a string, an integer or a bool"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


def test_a_schema_survives_json() -> None:
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA
    assert SCHEMA.without_label().names == ["id", "x"]


# Card


def test_a_card_survives_json() -> None:
    assert cards.from_json(cards.to_json(card(created="t")), "here") == card(created="t")
    clean = CleanCard("v", "r", "d", None, {"f": 3}, {"raw": 3, "clean": 2, "quarantined": 1}, {"rule": 1}, {}, "t")
    assert cards.from_json(cards.to_json(clean), "here") == clean


@pytest.mark.parametrize(
    "counts",
    [
        {"raw": 12, "quarantined": 1, "clean": 12, "duplicates": 1, "built": 10},
        {"raw": 12, "quarantined": 1, "clean": 11, "duplicates": 0, "built": 11},
    ],
)
def test_counts_that_do_not_add_up_make_no_card(counts: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="counts do not add up"):
        card(counts=counts)
    with pytest.raises(DatasetError, match="counts do not add up"):
        CleanCard("v", "r", "d", None, {}, {"raw": 3, "clean": 1, "quarantined": 1}, {}, {})


def test_the_contract_is_fields_and_transforms_but_neither_label_nor_version() -> None:
    assert card(version="v2", schema=SCHEMA.without_label()).contract == card().contract
    assert card(transforms={}).contract != card().contract
    other = Schema((Field("id", "string"), Field("x", "float64", (2, 3))), key="id")
    assert card(schema=other).contract != card().contract


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a card"),
        ("[]", "not a card"),
        ('{"format": 1, "kind": "dataset"}', "not a card"),
        (
            cards.to_json(card()).replace('"format": 1', '"format": 99'),
            "card format 99, but this Penstock reads format 1",
        ),
        (cards.to_json(card())[:100], "not a card"),
    ],
)
def test_what_is_no_card_is_said(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=f"here: {message}"):
        cards.from_json(text, "here")


def test_the_first_card_of_a_version_stands(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    assert cards.publish(folder, card(recipe="first"))
    assert not cards.publish(folder, card(recipe="second"))
    assert cards.load(folder).recipe == "first"


def test_the_newest_version_is_loaded(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    cards.publish(folder, card(version="b", created="2026-01-01"))
    cards.publish(folder, card(version="a", created="2026-01-02"))
    assert cards.load(folder).version == "a"
    assert cards.load(folder, "b").version == "b"
    with pytest.raises(DatasetError, match="no version 'c'; the versions here: b, a"):
        cards.load(folder, "c")


# Store


@pytest.mark.parametrize("base", ["file://{tmp}", "memory://penstock"])
def test_one_of_many_writers_creates_a_file(base: str, tmp_path: Path) -> None:
    url = store.join(base.format(tmp=tmp_path), "cards", "x.json")
    store.remove(url)
    contents = [str(i).encode() * 100_000 for i in range(8)]
    if base.startswith("memory"):
        won = [store.write_new(url, content) for content in contents]
    else:
        won = [False] * 8
        gate = threading.Barrier(8)

        def write(i: int) -> None:
            gate.wait()
            won[i] = store.write_new(url, contents[i])

        threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert won.count(True) == 1
    assert store.read_bytes(url) == contents[won.index(True)]
    assert store.file_names(url.rpartition("/")[0]) == ["x.json"]
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "s3://b/x", "a\\..\\b"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        store.inside("file:///d", name)


def test_the_inventory_names_every_raw_file_once(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a.csv", ".hidden", "_SUCCESS", "c/_x/y", "d.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = store.inventory(f"file://{tmp_path}")
    assert [file.name for file in found] == ["a.csv", "b/2.csv", "d.csv"]
    known = {(file.name, file.num_bytes, file.modified): "remembered" for file in found[:1]}
    assert [f.sha256 == "remembered" for f in store.inventory(f"file://{tmp_path}", known)] == [True, False, False]
    (tmp_path / "a.csv").write_text("other")
    assert store.inventory(f"file://{tmp_path}", known)[0].sha256 != "remembered"


def test_raw_data_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match=r"nothing at .*/nothing; check --raw"):
        store.inventory(f"file://{tmp_path}/nothing")
    with pytest.raises(RawDataError, match="no file in"):
        store.inventory(f"file://{tmp_path}")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        store.check_writable(f"file://{tmp_path}/file/out")
    with pytest.raises(StorageError, match="no filesystem for this protocol"):
        store.check_writable("nosuch://x/y")


# Pages and tensors


@pytest.mark.parametrize("name", ["x", "label"])
def test_values_lie_where_their_offset_says(name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(100, 2, 3)).astype(np.float32)
    columns = {"x": tensors.pack(x, SCHEMA["x"]), "label": pa.array(np.arange(100))}
    field, width = SCHEMA[name], stride(SCHEMA[name])
    assert width
    expected = x if name == "x" else np.arange(100)
    plain = {"use_dictionary": False, "compression": "none", "data_page_size": 1 << 30}
    for options, nullable, in_place in [
        (plain, False, True),
        (plain, True, True),
        ({**plain, "use_dictionary": True}, False, False),
        ({**plain, "data_page_size": 100}, False, False),
        ({**plain, "data_page_version": "2.0"}, False, False),
    ]:
        column = columns[name] if name == "label" or not options["use_dictionary"] else pa.array([b"a" * 24] * 100)
        path = tmp_path / "f.parquet"
        pq.write_table(
            pa.table([column], schema=pa.schema([pa.field(name, column.type, nullable)])),
            path,
            **options,
            write_batch_size=10,
        )
        chunk = pq.read_metadata(path).row_group(0).column(0)
        start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o)
        raw = memoryview(path.read_bytes())[start : start + chunk.total_compressed_size]
        found = values_offset(raw, field, 100)
        assert (found is not None) == in_place, options
        if found is not None:
            values = np.frombuffer(raw, np.uint8, 100 * width, found).reshape(100, width)[
                :, 4 if field.is_tensor else 0 :
            ]
            np.testing.assert_array_equal(
                np.ascontiguousarray(values).view(field.numpy_dtype).reshape(expected.shape), expected
            )


@given(st.sampled_from(["uint8", "int16", "float32"]), st.integers(0, 20), st.integers(1, 4))
def test_tensors_survive_packing(dtype: str, n: int, size: int) -> None:
    field = Field("x", dtype, (size, 3))
    values = np.random.default_rng(n).integers(0, 200, (n, size, 3)).astype(dtype)
    np.testing.assert_array_equal(tensors.view(tensors.pack(values, field), field, "here"), values)


def test_what_does_not_fit_a_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="a value does not fit uint8"):
        tensors.pack(np.array([[300]]), Field("x", "uint8", (1,)))
    with pytest.raises(DatasetError, match=r"here: column 'x', row 1: expected 2 bytes \(uint8 \[2\]\), found 3"):
        tensors.view(pa.array([b"ab", b"abc"]), Field("x", "uint8", (2,)), "here")


# Recipes


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no recipe named 'mnits'; did you mean 'mnist'\? There are digits, mnist"):
        recipes.find("mnits")
    with pytest.raises(RecipeError, match=r"no folder at \./nothing"):
        recipes.find("./nothing")


def write_recipe(folder: Path, dataset: str) -> str:
    folder.mkdir(parents=True)
    (folder / "dataset.py").write_text(dataset)
    return str(folder)


WHOLE = """
from penstock.recipe import Split
from penstock.schema import Field, Schema
from .names import KEY
schema = Schema((Field(KEY, "int64"),), key=KEY)
split = Split({"train": 1.0})
def read(spark, raw_url, labelled): ...
def clean(df): ...
"""


def test_a_recipe_is_found_by_path_with_its_neighbours(tmp_path: Path) -> None:
    for key in ("a", "b"):  # two folders of one name are two recipes
        path = write_recipe(tmp_path / key / "mine", WHOLE)
        (tmp_path / key / "mine" / "names.py").write_text(f"KEY = {key!r}")
        assert recipes.find(path).dataset().schema.key == key


def test_a_recipe_that_lacks_parts_is_told_which(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r", "def read(spark, raw_url, labelled): ...")
    with pytest.raises(RecipeError, match=r"dataset\.py lacks the fields of a row.*how a raw row becomes a clean one"):
        recipes.find(path).dataset()
    with pytest.raises(RecipeError, match=r"model\.py is missing"):
        recipes.find(path).model()


def test_a_recipe_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be imported: NameError: name 'x' is not defined"):
        recipes.find(write_recipe(tmp_path / "r", "x")).dataset()


@pytest.mark.parametrize(
    ("shares", "message"),
    [({}, "above 0"), ({"train": 0.5}, "must sum to 1"), ({"train": 1.5, "val": -0.5}, "above 0")],
)
def test_shares_must_make_a_whole(shares: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.Split(shares)
