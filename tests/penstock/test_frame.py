"""penstock.write: every row once, where its key's hash says; what a schema does not allow ends in a sentence."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
from etl.window import made_from
from penstock import card as cards
from penstock import cli, gc, shards, show, verify
from penstock import frame as frames
from penstock.card import Card
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RawDataError, RecipeError, StorageError
from penstock.recipe import Split
from penstock.schema import Field, Schema
from tests.etl.test_split import expected_split
from tests.penstock.conftest import png
from tests.penstock.test_table import EVERYTHING, assert_as_fed, in_python, wav
from tests.train.conftest import s3

__all__ = ["s3"]  # a fixture

SCHEMA = Schema((Field("id", "int64"), Field("x", "float32", (2,)), Field("label", "int8")), key="id", label="label")
SHARES = Split({"train": 0.7, "val": 0.1, "test": 0.2})
ALL = Split({"train": 1.0})


def frame_of(ids: Any) -> pd.DataFrame:
    """Rows of SCHEMA whose values follow from their ids."""
    ids = np.array(ids, np.int64)
    frame = pd.DataFrame({"label": ids % 7, "id": ids})
    frame["x"] = [np.array([i % 1000, 0.5]) for i in ids]
    return frame


def files(out: Path) -> dict[str, bytes]:
    """What is below a folder, without the attempt's number in a path."""
    found = sorted(path for path in out.rglob("*") if path.is_file()) if out.exists() else []
    return {re.sub(r"(data/\w+)-\w+/", r"\1/", str(path.relative_to(out))): path.read_bytes() for path in found}


def data(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if name.startswith("data/")}


@settings(max_examples=25)
@given(
    st.integers(-(2**62), 2**62),
    st.integers(1, 2**53),
    st.integers(200, 300),
    st.integers(1, 5),
    st.integers(1, 2_000),
    st.randoms(use_true_random=False),
)
def test_every_row_is_there_once_in_the_split_of_its_key(
    first: int, step: int, count: int, num_shards: int, row_group_bytes: int, rng: Any
) -> None:
    ids = [first + step * i for i in range(count)]
    splits = {key: expected_split(key) for key in ids}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(shards, "num_shards", lambda num_bytes: num_shards)
        frame = frame_of(rng.sample(ids, count))
        card = penstock.write(frame, folder, SCHEMA, SHARES, row_group_bytes=row_group_bytes)
        found = penstock.read(folder)
        assert verify.verify(folder, Console(quiet=True)) == (card, [])
    assert len(found) == count
    assert dict(zip(found["id"], found["split"], strict=True)) == splits
    for key, x, label in zip(found["id"], found["x"], found["label"], strict=True):
        assert (x.tolist(), label) == ([key % 1000, 0.5], key % 7)
    assert card.counts == {"raw": count, "quarantined": 0, "clean": count, "duplicates": 0, "built": count}
    assert {name: part.rows for name, part in card.splits.items()} == Counter(splits.values())


def test_shares_are_those_of_the_split(tmp_path: Path) -> None:
    n = 20_000
    card = penstock.write(frame_of(range(n)), tmp_path, SCHEMA, SHARES)
    for name, share in SHARES.shares.items():
        assert abs(card.splits[name].rows - n * share) < 4 * math.sqrt(n * share * (1 - share))


def test_the_same_rows_are_the_same_version_whatever_their_order_and_types(tmp_path: Path) -> None:
    frame = frame_of(range(500))
    card = penstock.write(frame, tmp_path / "a", SCHEMA, SHARES)
    before = files(tmp_path / "a")
    others = {
        "shuffled": frame.sample(frac=1, random_state=1),
        "index": frame.set_index("label").reset_index(),
        "more": frame.assign(more="x", split="test", _row=1),
        "wider": frame.assign(id=frame["id"].astype(float), label=frame["label"].astype("Int64")),
        "arrow": pa.Table.from_pandas(frame),
        "lists": frame.assign(x=[list(x) for x in frame["x"]]),
    }
    for name, other in others.items():
        assert penstock.write(other, tmp_path / "a", SCHEMA, SHARES) == card, name
        assert penstock.write(other, tmp_path / name, SCHEMA, SHARES).version == card.version
        found = files(tmp_path / name)
        assert {file: found[file] for file in found if "data/" in file} == {
            f: before[f] for f in before if "data/" in f
        }
    assert files(tmp_path / "a") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: (frame.assign(label=frame["label"] + 1), SCHEMA, SHARES, {}),
        lambda frame: (frame[1:], SCHEMA, SHARES, {}),
        lambda frame: (frame, Schema(SCHEMA.fields, "id"), SHARES, {}),
        lambda frame: (frame, SCHEMA, Split(SHARES.shares, rotate=0.5), {}),
        lambda frame: (frame, SCHEMA, SHARES, {"row_group_bytes": 1000}),
    ],
)
def test_other_rows_or_another_contract_are_another_version(tmp_path: Path, change: Callable[..., Any]) -> None:
    frame = frame_of(range(500))
    first = penstock.write(frame, tmp_path, SCHEMA, SHARES)
    other, schema, split, options = change(frame)
    second = penstock.write(other, tmp_path, schema, split, **options)
    assert first.version != second.version
    assert {card.version for card in cards.versions(str(tmp_path))} == {first.version, second.version}


def everything() -> pd.DataFrame:
    rows = range(4)
    frame = pd.DataFrame({"id": [f"r{i}" for i in rows], "ok": [i % 2 == 0 for i in rows], "small": [-i for i in rows]})
    frame["raw"] = [bytes(i) for i in rows]
    frame["half"] = [np.full((2, 3), i / 4) for i in rows]
    frame["tokens"] = [np.arange(i) for i in rows]
    frame["icon"] = [png(4, 5, "L") for _ in rows]
    frame["photo"] = [png(i + 1, 7) for i in rows]
    frame["sound"] = [wav(10 * i) for i in rows]
    return frame


def test_every_kind_of_field_is_written_and_what_is_read_can_be_written(tmp_path: Path) -> None:
    frame = everything()
    card = penstock.write(frame, tmp_path / "a", EVERYTHING, ALL)
    assert_as_fed(tmp_path / "a", "train")
    for as_ in ("pandas", "arrow"):
        found = penstock.read(tmp_path / "a", "train", as_=as_, decode=False)
        assert penstock.write(found, tmp_path / as_, EVERYTHING, ALL).version == card.version
    found = penstock.read(tmp_path / "a", "train", decode=False).set_index("id")
    for name in ("ok", "small", "raw", "icon", "photo", "sound"):
        assert found[name].to_dict() == dict(zip(frame["id"], frame[name], strict=True))
    for row, tokens, half in zip(frame["id"], frame["tokens"], frame["half"], strict=True):
        assert found["tokens"][row].tolist() == tokens.tolist()
        np.testing.assert_array_equal(found["half"][row], half)


TEXTS = ["a", "größe", "", "𝄞"]
WORDS = Schema((Field("id", "string"),), key="id")


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="string"),
        pd.Series(TEXTS, dtype="category"),
        pd.Series(TEXTS, dtype="string[pyarrow]"),
        pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.large_string())),
    ],
    ids=lambda column: str(column.dtype),
)
def test_texts_may_be_of_any_of_pandas_types(tmp_path: Path, column: pd.Series[Any]) -> None:
    penstock.write(pd.DataFrame({"id": column}), tmp_path, WORDS, ALL)
    assert sorted(penstock.read(tmp_path, "train")["id"]) == sorted(TEXTS)
    table = pa.table({"id": pa.chunked_array([pa.array(column[:2]), pa.array(column[2:])])})
    assert [penstock.write(table, tmp_path, WORDS, ALL)] == cards.versions(f"file://{tmp_path}")


NUMBERS = Schema((Field("id", "int64"), Field("n", "int32"), Field("x", "float32")), key="id")


@pytest.mark.parametrize(
    ("n", "x"),
    [
        (np.array([1, 2], np.uint64), [1, 2]),
        ([1.0, 2.0], np.array([1, 2], np.float16)),
        ([True, False], pd.array([0.5, 0.25], dtype="Float64")),
        (pd.array([1, 2], dtype="Int8"), [np.inf, -np.inf]),
        ([-(2**31), 2**31 - 1], [0.1, 1e-60]),
    ],
)
def test_numbers_of_any_type_that_fit_are_the_fields(tmp_path: Path, n: Any, x: Any) -> None:
    frame = pd.DataFrame({"id": [1, 2], "n": n, "x": x})
    penstock.write(frame, tmp_path, NUMBERS, ALL)
    found = penstock.read(tmp_path, "train").sort_values("id")
    assert found["n"].tolist() == np.array(frame["n"]).astype(np.int32).tolist()
    assert found["x"].tolist() == np.array(frame["x"], np.float64).astype(np.float32).tolist()


def test_nan_is_missing_in_a_data_frame_and_a_number_in_a_table(tmp_path: Path) -> None:
    columns = {"id": [1, 2], "n": [1, 2], "x": [np.nan, np.inf]}
    with pytest.raises(RawDataError, match="column 'x': 1 of 2 rows have no value, row 0 the first; fill them"):
        penstock.write(pd.DataFrame(columns), tmp_path, NUMBERS, ALL)
    card = penstock.write(pa.table(columns), tmp_path, NUMBERS, ALL)
    assert (card.profile["train"]["x"]["nulls"], card.profile["train"]["x"]["infinite"]) == (1, 1)
    table = penstock.read(tmp_path, as_="arrow")
    assert penstock.write(table, tmp_path / "again", NUMBERS, ALL).version == card.version


def test_a_split_can_be_said_or_follow_a_group_or_a_time(tmp_path: Path) -> None:
    frame = frame_of(range(300)).assign(group=[f"g{i % 9}" for i in range(300)], day=pd.Timestamp("2026-01-01"))
    frame["said"] = [None, "held_out", None] * 100
    frame["day"] += pd.to_timedelta(frame["id"], "D")
    penstock.write(frame, tmp_path / "said", SCHEMA, Split(SHARES.shares, source="said"))
    found = penstock.read(tmp_path / "said")
    assert {i: expected_split(i) if i % 3 != 1 else "held_out" for i in range(300)} == dict(
        zip(found["id"], found["split"], strict=True)
    )
    by_group = Split({"train": 0.5, "test": 0.5}, by="group")
    card = penstock.write(frame, tmp_path / "group", SCHEMA, by_group)
    found = penstock.read(tmp_path / "group")
    assert set(zip(found["id"] % 9, found["split"], strict=True)) == {
        (i, expected_split(f"g{i}", by_group)) for i in range(9)
    }
    assert card.leakage == {"keys": 0, "equal_rows": 0, "compared": 1.0, "groups": 0, "compared_groups": 1.0}
    by_time = Split(by="day", before={"train": "2026-03-01", "val": "2026-04-01 00:00", "test": None})
    for name, other in {"naive": frame, "utc": frame.assign(day=frame["day"].dt.tz_localize("UTC"))}.items():
        penstock.write(other, tmp_path / name, SCHEMA, by_time)
        found = penstock.read(tmp_path / name).groupby("split", observed=True)["id"].agg(["min", "max", "count"])
        assert found.T.to_dict("list") == {"train": [0, 58, 59], "val": [59, 89, 31], "test": [90, 299, 210]}


def bad(**columns: Any) -> pd.DataFrame:
    return frame_of(range(20)).assign(**columns)


ARRAYS = [np.zeros(2)] * 20
BAD: dict[str, tuple[Any, str]] = {
    "no column": (frame_of(range(9)).drop(columns="x"), r"no column 'x'; there are label, id; rename one, or mend"),
    "index": (
        frame_of(range(9)).set_index("id"),
        r"no column 'id'; there are label, x; the index has that name",
    ),
    "twice": (pd.concat([frame_of([1]), frame_of([1])], axis=1), r"column 'id' is there 2 times; rename the others"),
    "no rows": (frame_of([]), r"frame: expected rows, found none"),
    "no frame": ([{"id": 1}], r"expected a DataFrame of pandas or a Table of pyarrow, found builtins.list"),
    "series": (pd.Series([1]), r"expected a DataFrame of pandas or a Table of pyarrow, found pandas.Series"),
    "null": (bad(label=[1, None] * 10), r"column 'label': 10 of 20 rows have no value, row 1 the first; fill them"),
    "null tensor": (bad(x=[*ARRAYS[:-1], None]), r"column 'x': 1 of 20 rows have no value, row 19 the first"),
    "null in one": (
        bad(x=[*ARRAYS[:-1], [1, None]]),
        r"column 'x', row 19: expected float32 of shape \(2,\)",
    ),
    "null in Arrow": (
        pa.table({"id": [1, 2], "x": [[1.0, 2.0], [None, 1.0]], "label": [1, 2]}),
        r"column 'x', row 1: expected float32 of shape \(2,\), found object",
    ),
    "text": (bad(label="1"), r"column 'label': expected int8, found string; mend the column, or the schema"),
    "mixed": (bad(label=["1", 2] * 10), r"column 'label': expected int8, found others .*; mend them"),
    "huge": (bad(label=[2**70] * 20), r"column 'label': expected int8, found others"),
    "time": (bad(label=pd.Timestamp("2026-01-01")), r"column 'label': expected int8, found timestamp"),
    "range": (bad(label=[1] * 19 + [128]), r"column 'label', row 19: the value 128 does not fit int8; choose another"),
    "fraction": (bad(label=[1.0] * 19 + [0.5]), r"column 'label', row 19: the value 0.5 does not fit int8"),
    "unsigned": (
        bad(id=np.array([2**63 + i for i in range(20)], np.uint64)),
        r"column 'id', row 0: the value 9223372036854775808 does not fit int64",
    ),
    "infinite": (bad(x=[*ARRAYS[:-1], [1e39, 0]]), r"column 'x', row 19: the value 1e\+39 does not fit float32"),
    "shape": (bad(x=[*ARRAYS[:-1], np.zeros(3)]), r"row 19: expected float32 of shape \(2,\), found shape \(3,\)"),
    "scalar": (bad(x=1.5), r"column 'x', row 0: expected float32 of shape \(2,\), found shape \(\)"),
    "ragged": (bad(x=[[[1], [1, 2]]] * 20), r"row 0: expected float32 of shape \(2,\), found arrays of several"),
    "words": (bad(x=[["a", "b"]] * 20), r"column 'x', row 0: expected float32 of shape \(2,\), found <U1"),
    "key": (
        bad(id=[*range(18), 3, 3]),
        r"'id', the key: expected each value once, but 2 rows .* row 18 with 3",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_as_the_schema_says_is_a_sentence_and_publishes_nothing(name: str, tmp_path: Path) -> None:
    frame, message = BAD[name]
    with pytest.raises(RawDataError, match=message) as raised:
        penstock.write(frame, tmp_path / "out", SCHEMA, ALL)
    assert "\n" not in str(raised.value)
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        (Field("v", "string"), [1, 2], r"column 'v': expected string, found int64"),
        (Field("v", "string"), ["\ud800", "a"], r"column 'v': expected string, found others .*surrogates"),
        (Field("v", "bool"), [0, 1], r"column 'v': expected bool, found int64"),
        (Field("v", "bytes"), ["a", "b"], r"column 'v': expected bytes, found string"),
        (Field("v", "int32", (None,)), [[1], [2.5]], r"column 'v', row 1: the value 2.5 does not fit int32"),
        (
            Field("v", "int32", (None,)),
            [[1], [[1]]],
            r"column 'v', row 1: expected a list of int32, found shape",
        ),
        (Field("v", "int32", (None,)), ["a", "b"], r"column 'v', row 0: expected a list of int32, found <U1"),
        (Field("v", "uint8", (4, 5), "png"), [png(4, 5, "L"), png(5, 4, "L")], r"row 1: column 'v': .*; mend"),
        (Field("v", "uint8", (4, 5), "png"), [np.zeros((4, 5))] * 2, r"column 'v': expected the bytes of a png file"),
    ],
)
def test_each_kind_of_field_says_what_it_expects(field: Field, values: list[Any], message: str, tmp_path: Path) -> None:
    schema = Schema((Field("id", "int64"), field), key="id")
    with pytest.raises(RawDataError, match=message):
        penstock.write(pd.DataFrame({"id": [1, 2], "v": pd.Series(values)}), tmp_path / "out", schema, ALL)
    assert files(tmp_path / "out") == {}


def test_integers_stay_what_they_are_beside_empty_lists(tmp_path: Path) -> None:
    schema = Schema((Field("id", "int64"), Field("v", "int64", (None,))), key="id")
    penstock.write(pd.DataFrame({"id": [1, 2], "v": [[], [2**62 + 1]]}), tmp_path, schema, ALL)
    assert sorted(v.tolist() for v in penstock.read(tmp_path)["v"]) == [[], [2**62 + 1]]


SPLIT_ERRORS: dict[str, tuple[Split, str]] = {
    "empty": (Split({"train": 0.999, "val": 0.001}), r"split: expected a row in each, found none of 20 in 'val'; give"),
    "no column": (Split(ALL.shares, source="said"), r"no column 'said'; there are"),
    "source": (Split(ALL.shares, source="label"), r"column 'label': expected names of splits, found int8"),
    "name": (Split(ALL.shares, source="path"), r"split: 'a/b' cannot name a split; use letters"),
    "group": (Split(ALL.shares, by="real"), r"column 'real': expected strings, integers or bools, found double"),
    "nowhere": (Split(by="day", before={"train": 9, "test": None}), r"'day' says the split, but 1 rows have nothing"),
    "kind": (
        Split(by="day", before={"train": pd.Timestamp(0), "test": None}),
        r"borders that are texts or numbers, found Timestamp",
    ),  # type: ignore[dict-item]
    "border": (
        Split(by="day", before={"train": "May", "test": None}),
        r"borders that compare with column 'day', of",
    ),
    "torn": (Split(ALL.shares, source="name", by="label"), r"split: 7 groups of 'label' have rows in several splits"),
}


@pytest.mark.parametrize("name", SPLIT_ERRORS)
def test_a_split_that_cannot_be_is_a_sentence(name: str, tmp_path: Path) -> None:
    split, message = SPLIT_ERRORS[name]
    day = pd.array([None, *range(1, 20)], dtype="Int64")
    frame = frame_of(range(20)).assign(path=["a/b", None] * 10, real=0.5, day=day, name=["a", None] * 10)
    with pytest.raises(PenstockError, match=message):
        penstock.write(frame, tmp_path / "out", SCHEMA, split)
    assert [file for file in files(tmp_path / "out") if not file.startswith(".")] == []


def test_what_is_asked_for_is_checked(tmp_path: Path) -> None:
    def asked(schema: Any = SCHEMA, split: Any = ALL, **options: Any) -> Card:
        return penstock.write(frame_of(range(9)), tmp_path / "out", schema, split, **options)

    with pytest.raises(RecipeError, match=r"schema: expected a Schema, found 'digits'; a recipe needs Spark: give its"):
        asked("digits")
    with pytest.raises(RecipeError, match=r"split: expected a Split, found {'train': 1.0}"):
        asked(split={"train": 1.0})
    with pytest.raises(RecipeError, match=r"schema: expected a key, found none"):
        asked(Schema(SCHEMA.fields, None))
    with pytest.raises(RecipeError, match=r"fit: 'x' is no tensor of integers"):
        asked(fit={"x": "standardise"})
    with pytest.raises(RecipeError, match=r"row_group_bytes: expected a whole number above 0, found 0"):
        asked(row_group_bytes=0)
    with pytest.raises(DatasetError, match=r"no dataset here"):
        asked(frozen=tmp_path / "nothing")
    assert files(tmp_path / "out") == {}


def test_what_looks_personal_is_not_published(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [f"p{i}@mail.example" for i in range(9)]})
    with pytest.raises(RecipeError, match=r"has what looks like an e-mail address in 9 .*not_private=") as told:
        penstock.write(frame, tmp_path, WORDS, ALL)
    assert "mail.example" not in str(told.value)
    assert files(tmp_path) == {}
    penstock.write(frame, tmp_path, WORDS, ALL, not_private={"id": "made up"})
    assert len(penstock.read(tmp_path)) == 9


@pytest.mark.parametrize("where", ["manifest.write", "shards.written", "publish_card"])
def test_what_fails_on_the_way_leaves_nothing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        assert any(file.endswith(".parquet") for file in files(tmp_path))
        raise StorageError("no space left")

    owner, _, name = where.rpartition(".")
    monkeypatch.setattr(getattr(frames, owner) if owner else frames, name, fails)
    with pytest.raises(StorageError, match="no space left"):
        penstock.write(frame_of(range(50)), tmp_path, SCHEMA, SHARES)
    assert files(tmp_path) == {}
    with pytest.raises(DatasetError, match="no dataset here"):
        penstock.read(tmp_path)
    monkeypatch.undo()
    penstock.write(frame_of(range(50)), tmp_path, SCHEMA, SHARES)


def test_of_two_writers_the_first_card_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, publish, first = frame_of(range(50)), cards.publish, []

    def late(folder: str, card: Card) -> bool:
        monkeypatch.undo()
        first.append(penstock.write(frame, tmp_path, SCHEMA, SHARES))
        return publish(folder, card)

    monkeypatch.setattr(cards, "publish", late)
    assert penstock.write(frame, tmp_path, SCHEMA, SHARES) == first[0]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [Path(first[0].data).name]
    assert verify.verify(str(tmp_path), Console(quiet=True))[1] == []


def test_a_damaged_version_is_not_taken_for_whole(tmp_path: Path) -> None:
    penstock.write(frame_of(range(50)), tmp_path, SCHEMA, SHARES)
    next((tmp_path / "data").rglob("split=val/*.parquet")).unlink()
    with pytest.raises(DatasetError, match=r"files of version \w+ are missing or have another length"):
        penstock.write(frame_of(range(50)), tmp_path, SCHEMA, SHARES)


def test_a_large_frame_has_several_shards_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "FEW_BYTES", 4_000)
    card = penstock.write(frame_of(range(1_000)), tmp_path, SCHEMA, SHARES)
    names = [path.name for path in sorted((tmp_path / card.data / "split=train").iterdir())]
    assert [name[:12] for name in names] == [f"part-{shard:05d}-0" for shard in range(5)]
    assert sorted(penstock.read(tmp_path)["id"]) == list(range(1_000))


def test_commands_know_the_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [penstock.write(frame_of(range(n)), tmp_path, SCHEMA, SHARES) for n in (50, 60)]
    assert_as_fed(tmp_path, "train+val")
    assert show.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"Version {kept[1].version} of recipe penstock.write" in said
    assert re.search(r"clean +60\s+duplicates +0\s+built +60\s", said)
    assert verify.main([str(tmp_path), "--version", kept[0].version]) == 0
    with pytest.raises(DatasetError, match=r"version \w+ was not made of raw files, .*name one that"):
        made_from(str(tmp_path), kept[0].version)
    assert gc.main([str(tmp_path), "--keep", "1", "--remove"]) == 0
    assert cards.versions(f"file://{tmp_path}") == kept[1:]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [Path(kept[1].data).name]


def test_transforms_are_fitted_or_taken_from_another_version(tmp_path: Path) -> None:
    schema = Schema((Field("id", "int64"), Field("x", "int16", (3,)), Field("y", "bool")), key="id", label="y")
    frame = frame_of(range(400)).assign(y=True)
    frame["x"] = [[i, -i, i * i % 99] for i in frame["id"]]
    fit = {"x": "standardise"}
    card = penstock.write(frame, tmp_path / "a", schema, SHARES, fit=fit)
    train = np.stack(penstock.read(tmp_path / "a", "train")["x"].to_list()).astype(np.float64)
    assert card.transforms["x"]["mean"] == pytest.approx(train.mean(), rel=1e-15)
    assert card.transforms["x"]["std"] == pytest.approx(train.std(), rel=1e-14)
    new = frame[:50].drop(columns="y")
    to_score = penstock.write(new, tmp_path / "b", schema.without_label(), ALL, fit=fit, frozen=tmp_path / "a")
    assert (to_score.transforms, to_score.contract) == (card.transforms, card.contract)
    assert to_score.lineage == {"clean": [], "frozen": card.version}
    card_file = tmp_path / "a" / "cards" / f"{card.version}.json"
    assert penstock.write(new, tmp_path / "b", schema.without_label(), ALL, frozen=card_file).contract == card.contract
    with pytest.raises(RecipeError, match=r"frozen: version \w+ has other fields than the schema; name"):
        penstock.write(frame_of([1]), tmp_path / "c", SCHEMA, ALL, frozen=tmp_path / "a")


def test_s3_is_written_like_a_disk(tmp_path: Path, s3: str) -> None:
    card = penstock.write(frame_of(range(100)), f"{s3}/frame", SCHEMA, SHARES)
    assert penstock.write(frame_of(range(100)), f"{s3}/frame", SCHEMA, SHARES) == card
    penstock.write(frame_of(range(100)), tmp_path, SCHEMA, SHARES)
    assert penstock.read(f"{s3}/frame").equals(penstock.read(tmp_path))


@pytest.mark.slow
def test_the_examples_give_the_files_of_etl_and_are_trained_on_and_scored(
    tmp_path: Path, built_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "penstock.write" in block
    )
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    ours, etls = (
        [path.read_bytes() for path in sorted(folder.rglob("split=*/*.parquet"))]
        for folder in (tmp_path / "digits_frame", built_digits / "data")
    )
    assert ours == etls
    train = ["train", "digits", "--data", "digits_frame", "--out", "run", "--epochs", "1"]
    assert cli.main(train) == 0
    assert (
        cli.main(["predict", "run", "--data", "digits_frame", "--split", "test", "--out", "predictions.parquet"]) == 0
    )
    predicted = pd.read_parquet("predictions.parquet")
    assert sorted(predicted["id"]) == sorted(penstock.read("digits_frame", "test")["id"])


WRITES = """
import pyarrow, penstock, sys
from penstock.recipe import Split
from penstock.schema import Field, Schema
card = penstock.write(pyarrow.table({"id": [1, 2]}), %r, Schema((Field("id", "int64"),), "id"), Split({"train": 1.0}))
print(card.counts["built"], {"pandas", "pyspark", "torch"} & set(sys.modules))
"""


def test_a_table_is_written_where_neither_spark_nor_torch_nor_pandas_is(tmp_path: Path) -> None:
    assert in_python(WRITES % str(tmp_path), "pyspark", "torch", "pandas", "petastorm") == "2 set()"
