"""Cards: what they survive, what is no card, and which card of several counts."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import card as cards
from penstock import cli
from penstock.card import Card, CleanCard, ManifestFile, Split
from penstock.errors import DatasetError
from penstock.schema import Field, Schema

SCHEMA = Schema(
    (
        Field("id", "string"),
        Field("x", "float32", (2, 3)),
        Field("tokens", "int32", (None,)),
        Field("photo", "uint8", (8, None), "png"),
        Field("label", "int64"),
    ),
    key="id",
    label="label",
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
        "created": "2026-01-01T00:00:00.000000+00:00",
    }
    return Card(**{**parts, **changed})


CLEAN = CleanCard("v", "r", "d", None, {"f": 3}, {"raw": 3, "clean": 2, "quarantined": 1}, {"rule": 1}, {}, "t")


@pytest.mark.parametrize("whole", [card(), CLEAN], ids=["dataset", "clean"])
def test_a_card_survives_json(whole: Card | CleanCard) -> None:
    assert cards.from_json(cards.to_json(whole), "here") == whole


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.lists(st.integers(0, 10**12), max_size=4), st.integers(-2, 2))
def test_counts_make_a_card_where_they_add_up_and_only_there(
    quarantined: int, duplicates: int, rows: list[int], off: int
) -> None:
    built = sum(rows)
    clean = built + duplicates + off
    counts = {"raw": clean, "quarantined": quarantined, "clean": clean, "duplicates": duplicates, "built": built}
    splits = {f"s{i}": Split(n, "00") for i, n in enumerate(rows)}
    refused = {"raw": clean + quarantined + off, "clean": clean, "quarantined": quarantined}
    if off:
        with pytest.raises(DatasetError, match=r"counts do not add up: .* clean rows, but .* built .* build the"):
            card(counts=counts, splits=splits)
        with pytest.raises(DatasetError, match=r"counts do not add up: .* raw rows, but .* clean .* run again"):
            CleanCard("v", "r", "d", None, {}, refused, {}, {})
    else:
        assert card(counts=counts, splits=splits).counts == counts
        assert CleanCard("v", "r", "d", None, {}, refused, {}, {}).counts == refused


def test_the_contract_is_fields_and_transforms_but_neither_label_nor_version() -> None:
    assert card(version="v2", schema=SCHEMA.without_label()).contract == card().contract
    assert card(transforms={}).contract != card().contract
    *fields, _ = SCHEMA.fields
    others = [
        Field("x", "float64", (2, 3)),
        Field("tokens", "int64", (None,)),
        Field("photo", "uint8", (8, None), "jpeg"),
    ]
    for other in others:
        changed = Schema(tuple(other if field.name == other.name else field for field in fields), key="id")
        assert card(schema=changed).contract != card().contract


def test_the_contract_of_a_run_from_before_there_were_encodings_is_still_its_own() -> None:
    schema = Schema((Field("id", "string"), Field("x", "float32", (2, 3)), Field("label", "int64")), "id", "label")
    assert card(schema=schema).contract == "eac6e9ef09bbcd25"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a card"),
        ("", "not a card"),
        ("[]", "not a card"),
        (b"\xff", "not a card"),
        ("[" * 100_000, "not a card"),
        ('{"format": 3, "kind": "dataset", "digest": ""}', r"not a card .*version.*; build the dataset again"),
        (cards.to_json(card()).replace('"kind": "dataset"', '"kind": "stream"'), "not a card .*unknown kind 'stream'"),
        (cards.to_json(card()).replace('"format": 3', '"format": 99'), "card format 99, but this Penstock reads form"),
        (cards.to_json(card()).replace('"built": 10', '"built": 9'), "counts do not add up: 11 clean rows, but 9 buil"),
        (cards.to_json(card()).replace('"float32"', '"float8"'), "field 'x': 'float8' is no tensor type"),
    ],
)
def test_what_is_no_card_is_said(text: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=f"^here: {message}"):
        cards.from_json(text, "here")


@given(st.integers(0, 2_000), st.sampled_from([card(), CLEAN]))
def test_a_truncated_card_is_no_card(length: int, whole: Card | CleanCard) -> None:
    text = cards.to_json(whole).rstrip()
    if length < len(text):
        with pytest.raises(DatasetError, match=r"^here: not a card"):
            cards.from_json(text[:length], "here")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from places(inner, (*path, name))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@given(st.sampled_from([card(), CLEAN]), st.data())
@settings(max_examples=400)
def test_a_card_with_any_part_replaced_is_refused_with_a_sentence(whole: Card | CleanCard, data: st.DataObject) -> None:
    value = json.loads(cards.to_json(whole))
    *parents, last = data.draw(st.sampled_from([path for path in places(value) if path]))
    changed = inner = copy.deepcopy(value)
    for name in parents:
        inner = inner[name]
    inner[last] = data.draw(JSON_VALUES)
    if json.dumps(changed) == json.dumps(value):
        assert cards.from_json(json.dumps(changed), "here") == whole
    else:
        with pytest.raises(DatasetError, match=r"^here: "):
            cards.from_json(json.dumps(changed), "here")


def test_the_first_card_of_a_version_stands(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    assert cards.publish(folder, card(recipe="first"))
    assert not cards.publish(folder, card(recipe="second"))
    assert cards.load(folder).recipe == "first"


def test_the_newest_version_is_loaded(tmp_path: Path) -> None:
    folder = f"file://{tmp_path}"
    cards.publish(folder, card(version="b", created="2026-01-01"))
    cards.publish(folder, card(version="a", created="2026-01-02"))
    (tmp_path / "cards" / ".c.json.tmp").write_text("of a writer that died")
    (tmp_path / "cards" / "notes.txt").write_text("no card")
    assert cards.load(folder).version == "a"
    assert cards.load(folder, "b").version == "b"
    with pytest.raises(DatasetError, match="no version 'c'; the versions here: b, a"):
        cards.load(folder, "c")


def test_a_folder_without_a_card_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(DatasetError, match=r"no dataset here .* make one with `penstock etl`"):
            cards.load(str(place))
    assert cards.find(f"file://{tmp_path}", "v1") is None


def test_clean_rows_are_no_dataset(tmp_path: Path) -> None:
    cards.publish(f"file://{tmp_path}", CLEAN)
    with pytest.raises(DatasetError, match="holds clean rows, not a dataset; name the folder above it"):
        cards.load(str(tmp_path))


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    cards.publish(f"file://{tmp_path}", card())
    (tmp_path / "cards" / "v2.json").write_text("{")
    with pytest.raises(DatasetError, match=r"cards/v2\.json: not a card"):
        cards.load(str(tmp_path))
    assert cards.load(str(tmp_path), "v1") == card()


def test_beside_a_card_of_another_format_every_command_ends_and_changes_nothing(
    digits_dataset: Path, digits_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = cards.load(str(digits_dataset)).version
    for folder in (digits_dataset, digits_dataset / "clean"):
        (written,) = (folder / "cards").iterdir()
        (folder / "cards" / "old.json").write_text(written.read_text().replace('"format": 3', '"format": 2'))
    before = sorted(digits_dataset.rglob("*"))
    data, run = str(digits_dataset), str(tmp_path / "run")
    for asked in (
        ["etl", "digits", "--raw", str(digits_csv), "--out", data],
        ["train", "digits", "--data", data, "--out", run],
        ["verify", data],
        ["show", data],
        ["compare", data],
        ["gc", data, "--remove", "--older-than", "0"],
    ):
        assert cli.main(asked) == 1
        sentence = "old.json: card format 2, but this Penstock reads format 3; install the Penstock that wrote it, or"
        assert sentence in capsys.readouterr().err
    assert sorted(digits_dataset.rglob("*")) == before
    assert cli.main(["verify", data, "--version", newest]) == 0
