"""penstock.read: every row once as the feed gives it, decoded; what is damaged or missing ends in a sentence."""

from __future__ import annotations

import io
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import penstock
from penstock.adopt import Columns, adopt, parse_field
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError
from penstock.schema import Field, Schema
from tests.cards import edit_card
from tests.penstock.conftest import png
from tests.train.conftest import SCHEMA, numbered_files, s3, write_dataset
from train.feed import Feed

__all__ = ["s3"]  # a fixture

SPLITS = {
    "train": numbered_files([[20, 13], [1, 17, 16]]),
    "val": numbered_files([[10]], 100),
    "test": numbered_files([[11, 12]], 200),
}
IDS = {"test": range(200, 223), "train": range(67), "val": range(100, 110)}  # in the manifest's order


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "numbers", SCHEMA, SPLITS)


def wav(frames: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, frames, "NONE", ""))
        sound.writeframes(np.arange(frames, dtype="<i2").tobytes())
    return file.getvalue()


EVERYTHING = Schema(
    (
        Field("id", "string"),
        Field("ok", "bool"),
        Field("small", "int8"),
        Field("raw", "bytes"),
        Field("half", "float16", (2, 3)),
        Field("tokens", "int32", (None,)),
        Field("icon", "uint8", (4, 5), encoding="png"),
        Field("photo", "uint8", (None, None, 3), encoding="png"),
        Field("sound", "int16", (None,), encoding="wav"),
    ),
    key="id",
)
HALVES = np.arange(24, dtype=np.float16).reshape(4, 2, 3) / 4


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """Four rows in two row groups, of every kind of field."""

    def rows(first: int, stop: int) -> dict[str, Any]:
        numbers = range(first, stop)
        return {
            "id": [f"r{i}" for i in numbers],
            "ok": [i % 2 == 0 for i in numbers],
            "small": [-i for i in numbers],
            "raw": [bytes(i) for i in numbers],
            "half": HALVES[first:stop],
            "tokens": [list(range(i)) for i in numbers],
            "icon": [png(4, 5, "L") for _ in numbers],
            "photo": [png(i + 1, 7) for i in numbers],
            "sound": [wav(10 * i) for i in numbers],
        }

    return write_dataset(tmp_path / "everything", EVERYTHING, {"train": [[rows(0, 3), rows(3, 4)]]})


def assert_as_fed(url: Path | str, split: str) -> None:
    """All rows and columns, in the feed's order without shuffling."""
    frame = penstock.read(url, split).drop(columns="split", errors="ignore")
    feed = Feed(str(url), split, global_batch_size=4, shuffle=False, columns=list(frame.columns))
    fed: dict[str, list[Any]] = {name: [] for name in frame.columns}
    for batch in feed.epoch():
        for name in fed:
            values = [value.numpy() if hasattr(value, "numpy") else value for value in batch[name]]
            if f"_{name}_length" in batch:
                values = [v[:n] for v, n in zip(values, batch[f"_{name}_length"].tolist(), strict=True)]
            fed[name] += values
    assert len(frame) == feed.num_rows > 0
    for name, values in fed.items():
        for found, expected in zip(frame[name], values, strict=True):
            assert getattr(found, "shape", ()) == getattr(expected, "shape", ())
            np.testing.assert_array_equal(found, expected)


def test_the_rows_are_those_of_the_feed(numbers: Path, everything: Path) -> None:
    assert_as_fed(numbers, "train")
    assert_as_fed(numbers, "train+val")
    assert_as_fed(everything, "train")


def test_no_split_is_all_of_them_with_a_column_that_says_which(numbers: Path) -> None:
    frame = penstock.read(numbers)
    assert list(frame.columns) == ["id", "x", "label", "split"]
    assert list(zip(frame["split"], frame["id"], strict=True)) == [(s, i) for s, ids in IDS.items() for i in ids]
    assert "split" not in penstock.read(numbers, "val")


def test_any_limit_gives_the_first_rows(numbers: Path) -> None:
    whole = penstock.read(numbers, as_="arrow")
    for limit in [*range(101), 1000]:
        assert penstock.read(numbers, as_="arrow", limit=limit).equals(whole.slice(0, limit))
    files = sorted(numbers.rglob("part-*.parquet"))
    files[-1].unlink()  # of val, the last
    assert len(penstock.read(numbers, limit=90)) == 90  # no file behind them is touched
    with pytest.raises(PenstockError, match=r"limit: expected 0 rows or more, found -1"):
        penstock.read(numbers, limit=-1)


def test_columns_are_those_asked_for_and_no_other_is_read(numbers: Path) -> None:
    expected = penstock.read(numbers, "val")
    file = next((numbers / "data").rglob("split=val/*.parquet"))
    content = file.read_bytes()
    tensor = np.array([100, 100.25, 100.5], np.float32).tobytes()
    assert content.count(tensor) == 3  # as a statistic of the page, in it, and in the footer
    file.write_bytes(content.replace(tensor, bytes(12), 2))
    pd.testing.assert_frame_equal(penstock.read(numbers, "val", columns=["label", "id"]), expected[["label", "id"]])
    with pytest.raises(DatasetError, match=r"row group 0, column 'x': expected CRC-32 \w{8}, found \w{8}"):
        penstock.read(numbers, "val", columns=["x"])
    with pytest.raises(DatasetError, match=r"no column 'y'; there are id, x, label"):
        penstock.read(numbers, "val", columns=["y"])


def test_a_data_frame_holds_arrays_of_their_shapes(everything: Path) -> None:
    frame = penstock.read(everything, "train")
    assert [frame[n].dtype.name for n in ("ok", "small")] == ["bool", "int8"]
    assert frame["raw"].tolist() == [bytes(i) for i in range(4)]
    assert [(v.dtype.name, v.shape) for v in frame["half"]] == [("float16", (2, 3))] * 4
    np.testing.assert_array_equal(np.stack(frame["half"]), HALVES)
    assert [(v.dtype.name, v.tolist()) for v in frame["tokens"]] == [("int32", list(range(i))) for i in range(4)]
    assert {(v.dtype.name, v.shape) for v in frame["icon"]} == {("uint8", (4, 5))}
    assert [v.shape for v in frame["photo"]] == [(i + 1, 7, 3) for i in range(4)]
    np.testing.assert_array_equal(frame["photo"][3].ravel(), np.arange(4 * 7 * 3))
    assert [v.tolist() for v in frame["sound"]] == [list(range(10 * i)) for i in range(4)]
    frame.loc[0, "small"] = 7  # the frame is the caller's own
    assert penstock.read(everything, "train", decode=False)["icon"][0] == png(4, 5, "L")


@pytest.mark.parametrize("limit", [None, 0])
def test_an_arrow_table_has_types_that_say_the_shapes(everything: Path, limit: int | None) -> None:
    table = penstock.read(everything, "train", as_="arrow", limit=limit)
    table.validate(full=True)
    types = dict(zip(table.schema.names, table.schema.types, strict=True))
    assert types["half"] == pa.fixed_shape_tensor(pa.float16(), (2, 3))
    assert types["icon"] == pa.fixed_shape_tensor(pa.uint8(), (4, 5))
    assert types["tokens"] == pa.list_(pa.int32())
    assert types["sound"] == pa.large_list(pa.int16())
    assert types["photo"] == pa.struct({"data": pa.large_list(pa.uint8()), "shape": pa.list_(pa.int32(), 3)})
    assert table["photo"].combine_chunks().field("shape").to_pylist() == [[i + 1, 7, 3] for i in range(len(table))]
    assert list(penstock.read(everything, "train", limit=limit).columns) == table.column_names
    raw = penstock.read(everything, "train", as_="arrow", decode=False, limit=limit)
    assert [raw.schema.field(n).type for n in ("icon", "photo", "sound")] == [pa.binary()] * 3


def frames(folder: Path) -> Path:
    ids = np.arange(30)
    rows = pd.DataFrame({"id": ids.astype(np.uint16), "name": pd.Categorical([f"n{i % 3}" for i in ids])})
    rows["n"] = [np.arange(i % 4) for i in ids]
    rows["xy"] = [np.arange(i, i + 4, dtype=np.float32) for i in ids]
    for split, part in {"train": rows[:18], "test": rows[18:]}.items():
        (folder / f"split={split}").mkdir(parents=True)
        part.to_parquet(folder / f"split={split}" / "a.parquet", row_group_size=5)
    return folder


@pytest.mark.parametrize("checksum", [False, True])
def test_an_adopted_version_is_read_as_its_fields_say(tmp_path: Path, checksum: bool) -> None:
    folder = frames(tmp_path / "frames")
    stated = Columns({"xy": parse_field("xy=float32:2,2")})
    adopt(str(folder), Console(), columns=stated, key="id", checksum=checksum)
    assert_as_fed(folder, "train")
    frame = penstock.read(folder)
    assert frame["id"].tolist() == [*range(18, 30), *range(18)]
    assert (frame["id"].dtype.name, frame["name"][0], frame["xy"][0].shape) == ("int32", "n0", (2, 2))
    assert penstock.read(folder, as_="arrow").schema.field("xy").type == pa.fixed_shape_tensor(pa.float32(), (2, 2))


def test_nulls_and_values_that_are_not_as_stated_are_said(tmp_path: Path) -> None:
    for name, values in {"nulls": [[1.0], [2.0, None]], "sizes": [[1.0, 2.0], [1.0]]}.items():
        folder = tmp_path / name
        folder.mkdir()
        pd.DataFrame({"x": values}).to_parquet(folder / "a.parquet")
        size = "any" if name == "nulls" else "2"
        adopt(str(folder), Console(), columns=Columns({"x": parse_field(f"x=float64:{size}")}))
    with pytest.raises(DatasetError, match=r"column 'x': expected 2 values and no null, found 2 and 1 nulls; adopt"):
        penstock.read(tmp_path / "nulls")
    with pytest.raises(DatasetError, match=r"a.parquet: cannot be read.*row 1: expected 2 numbers, found 1.*; adopt"):
        penstock.read(tmp_path / "sizes")


def test_s3_is_read_like_a_disk_adopted_or_not(numbers: Path, tmp_path: Path, s3: str) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(f"{numbers}/", f"{s3}/numbers", recursive=True)
    assert penstock.read(f"{s3}/numbers", as_="arrow").equals(penstock.read(numbers, as_="arrow"))
    fs.put(f"{frames(tmp_path / 'frames')}/", f"{s3}/frames", recursive=True)
    adopt(f"{s3}/frames", Console())
    assert penstock.read(f"{s3}/frames", "test")["id"].tolist() == list(range(18, 30))


def test_a_version_is_read_by_its_name_and_the_missing_is_said(numbers: Path) -> None:
    assert len(penstock.read(numbers, "val", version="v1")) == 10
    with pytest.raises(DatasetError, match=r"no version 'v2'; the versions here: v1"):
        penstock.read(numbers, version="v2")
    with pytest.raises(DatasetError, match=r"no split 'tests'; there are train, val, test"):
        penstock.read(numbers, "tests")
    with pytest.raises(DatasetError, match=r"no dataset here"):
        penstock.read(numbers / "nothing")
    with pytest.raises(PenstockError, match=r"as_: expected one of pandas, arrow, found 'polars'"):
        penstock.read(numbers, as_="polars")  # type: ignore[call-overload]


def test_a_card_that_counts_other_rows_is_not_believed(numbers: Path) -> None:
    def one_less(card: dict[str, Any]) -> None:
        card["splits"]["val"]["rows"] -= 1
        for count in ("raw", "clean", "built"):
            card["counts"][count] -= 1

    edit_card(numbers / "cards" / "v1.json", one_less)
    with pytest.raises(DatasetError, match=r"val: the card says 9 rows, the manifest 10"):
        penstock.read(numbers, "val")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-9]), r"expected [\d,]+ bytes, found [\d,]+; build"),
    "longer": (lambda file: file.write_bytes(file.read_bytes() + b"x"), r"expected [\d,]+ bytes, found [\d,]+; build"),
    "footer": (
        lambda file: file.write_bytes(file.read_bytes().replace(b"parquet-cpp", b"parquet-CPP")),
        r"part-00000.parquet: the footer: expected CRC-32 \w{8}, found \w{8}; the file was changed: build",
    ),
    "empty": (lambda file: file.write_bytes(b""), r"expected [\d,]+ bytes, found 0; build the dataset again"),
    "gone": (lambda file: file.unlink(), r"part-00000.parquet: the file is missing; build the dataset again"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_named(how: str, numbers: Path) -> None:
    damage, message = DAMAGE[how]
    damage(next((numbers / "data").rglob("split=val/*.parquet")))
    with pytest.raises(DatasetError, match=message):
        penstock.read(numbers)
    assert len(penstock.read(numbers, "train")) == 67


@pytest.mark.parametrize("checksums", [True, False])
def test_no_changed_byte_gives_other_rows(everything: Path, tmp_path: Path, checksums: bool) -> None:
    """Without checksums the pages have theirs, if the writer gave them any, and the footer has its own."""
    folder, file = everything, next((everything / "data").rglob("part-*.parquet"))
    if not checksums:
        folder = tmp_path / "adopted"
        folder.mkdir()
        table = penstock.read(everything, "train", as_="arrow", decode=False, columns=["id", "small", "tokens"])
        file = folder / "a.parquet"
        pa.parquet.write_table(table, file, write_page_checksum=True)
        adopt(str(folder), Console())
    expected, content = penstock.read(folder, as_="arrow", decode=False), file.read_bytes()
    found = 0
    for at in range(0, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[at] ^= 0x55
        file.write_bytes(changed)
        try:
            assert penstock.read(folder, as_="arrow", decode=False).equals(expected)
        except DatasetError as error:
            assert file.name in str(error)  # noqa: PT017
            found += 1
    assert found > 100


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    whole = png(4, 5)
    damaged = whole[:45] + bytes(8) + whole[53:]  # header and end are as they were, so that it is published
    schema = Schema((Field("id", "int64"), Field("p", "uint8", (4, 5, 3), encoding="png")), key="id")
    folder = write_dataset(tmp_path / "d", schema, {"train": [[{"id": [0, 1], "p": [whole, damaged]}]]})
    with pytest.raises(DatasetError, match=r"row group 0, column 'p', row 1: column 'p': damaged png"):
        penstock.read(folder)
    assert penstock.read(folder, decode=False)["p"][1] == damaged


WITHOUT = """
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
"""


def in_python(code: str, *without: str) -> str:
    """The last line of what a Python prints that has not these packages."""
    done = subprocess.run([sys.executable, "-c", WITHOUT + code, *without], capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()[-1]


def test_only_a_data_frame_needs_pandas_and_nothing_needs_torch_or_spark(numbers: Path) -> None:
    without = ("pandas", "torch", "pyspark")
    rows = in_python(f"import penstock; print(penstock.read({str(numbers)!r}, as_='arrow').num_rows)", *without)
    assert rows == "100"
    error = in_python(f"import penstock; penstock.read({str(numbers)!r})", *without)
    assert error == (
        "penstock.errors.PenstockError: a DataFrame needs pandas, which is not installed: pip install pandas, "
        'or read with as_="arrow"'
    )


def test_only_decoding_pictures_needs_a_decoder(everything: Path) -> None:
    call = f"import penstock; print(len(penstock.read({str(everything)!r}, columns=['icon', 'sound'], decode=%s)))"
    assert in_python(call % False, "imagecodecs") == "4"
    error = in_python(call % True, "imagecodecs")
    assert error == (
        "penstock.errors.PenstockError: column 'icon', png, needs imagecodecs, which is not installed: "
        "pip install imagecodecs, or read with decode=False"
    )


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = in_python("import penstock; print(sorted({'numpy', 'pyarrow', 'fsspec', 'pandas'} & set(sys.modules)))")
    assert loaded == "[]"
    assert in_python("import penstock; penstock.nothing").endswith("module 'penstock' has no attribute 'nothing'")
