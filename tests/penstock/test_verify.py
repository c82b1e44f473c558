"""verify: it names every damage, passes none, and runs nothing that lies in a dataset."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from etl.run import etl
from penstock import cli, store
from penstock.console import Console
from penstock.errors import DatasetError, StorageError
from penstock.recipe import find
from penstock.verify import verify
from tests.cards import edit_card
from train.feed.feed import Feed


def parquet(dataset: Path, split: str = "train") -> Path:
    return sorted(dataset.glob(f"data/*/split={split}/*.parquet"))[0]


def cut(path: Path, num_bytes: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change_card(dataset: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit_card(next((dataset / "cards").iterdir()), change)


def move_a_row(card: dict[str, Any]) -> None:
    card["splits"]["train"]["rows"] -= 1
    card["splits"]["val"]["rows"] += 1


def swap(a: Path, b: Path) -> None:
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing file": (lambda d: parquet(d).unlink(), r"split=train/part-.*\.parquet: the file is missing"),
    "shorter file": (lambda d: cut(parquet(d)), r"split=train/part-.*: cannot be read as Parquet"),
    "empty file": (lambda d: parquet(d).write_bytes(b""), "cannot be read as Parquet"),
    "bit in a page": (lambda d: flip(parquet(d), 60_000), r"cannot be read as Parquet|file_sha256"),
    "bit in the footer": (lambda d: flip(parquet(d), -100), r"cannot be read|file_sha256|other columns"),
    "files swapped": (
        lambda d: swap(parquet(d, "val"), parquet(d, "test")),
        "file_bytes: the manifest says [0-9]+, fo",
    ),
    "strange file": (lambda d: (parquet(d).parent / "extra").write_text("x"), r"extra: not in the manifest; remove it"),
    "manifest": (lambda d: cut(next(d.glob("data/*/_manifest.parquet"))), "the manifest was changed"),
    "no manifest": (lambda d: next(d.glob("data/*/_manifest.parquet")).unlink(), "the manifest is missing"),
    "rows in the card": (lambda d: change_card(d, move_a_row), "split 'train': the card says 1,241 rows .* hold 1,242"),
    "digest in the card": (
        lambda d: change_card(d, lambda c: c["splits"]["val"].update(digest="0" * 16)),
        "split 'val': the card says 160 rows with digest 0000000000000000, the files that can be read hold 160 with",
    ),
    "counts in the card": (
        lambda d: change_card(d, lambda c: c["counts"].update(built=1)),
        r"json: counts do not add up",
    ),
    "card format": (lambda d: change_card(d, lambda c: c.update(format=9)), r"json: card format 9, but this .* reads"),
    "data outside": (lambda d: change_card(d, lambda c: c.update(data="../..")), "leads out of the dataset"),
    "no card": (lambda d: next((d / "cards").iterdir()).unlink(), "no dataset here"),
    "cut card": (lambda d: cut(next((d / "cards").iterdir()), 3), r"json: not a card"),
}


def test_a_whole_version_is_verified(built_digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(built_digits), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["whole"]
    assert sum(split["rows"] for split in told["splits"].values()) == told["counts"]["raw"] == 1797


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_names_what_differs(damage: str, digits_dataset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    do, message = DAMAGE[damage]
    do(digits_dataset)
    assert cli.main(["verify", str(digits_dataset)]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert "Traceback" not in error


def test_each_of_several_damages_is_named(digits_dataset: Path) -> None:
    parquet(digits_dataset, "val").unlink()
    (parquet(digits_dataset).parent / "extra").write_text("x")
    card, differs = verify(str(digits_dataset), Console())
    assert len(differs) == 3
    for message in ("extra: not in the manifest", "split=val/.* the file is missing", r"split 'val': .* hold 0 with"):
        assert any(re.search(message, sentence) for sentence in differs), differs
    with pytest.raises(DatasetError, match=f"no version 'x'; the versions here: {card.version}"):
        verify(str(digits_dataset), Console(), "x")


def test_clean_rows_that_were_kept_are_verified(spark: SparkSession, digits_csv: Path, tmp_path: Path) -> None:
    etl(find("digits"), str(digits_csv), str(tmp_path), Console(), keep_clean=True)
    assert verify(str(tmp_path), Console())[1] == []
    cut(next(tmp_path.glob("clean/data/*/*.parquet")))
    assert re.search("expected [0-9,]+ bytes, found", verify(str(tmp_path), Console())[1][0])
    shutil.rmtree(tmp_path / "clean" / "data")
    assert "clean rows cannot be read" in verify(str(tmp_path), Console())[1][0]


def test_clean_rows_may_be_removed(digits_dataset: Path) -> None:
    shutil.rmtree(digits_dataset / "clean")
    assert verify(str(digits_dataset), Console())[1] == []


@pytest.fixture(scope="module")
def scratch(built_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(built_digits, tmp_path_factory.mktemp("scratch") / "dataset"))


@given(st.data())
@settings(max_examples=25)
def test_no_changed_bit_of_a_version_passes(scratch: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in scratch.glob("data/**/*") if p.is_file())))
    kept = path.read_bytes()
    changed = bytearray(kept)
    changed[data.draw(st.integers(0, len(kept) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(changed)
        assert verify(str(scratch), Console(as_json=True))[1]
    finally:
        path.write_bytes(kept)


def quarantined(dataset: Path, refused: int) -> Path:
    """Says in the clean card that one of the rows was refused, and writes as many into quarantine."""
    path = next((dataset / "clean" / "cards").iterdir())
    counts = {"raw": 1798, "clean": 1797, "quarantined": 1}
    edit_card(path, lambda card: card.update(quarantine="quarantine/a", counts=counts))
    file = dataset / "quarantine" / "a" / "part-0.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"record": ["x"] * refused}), file)
    return file


def test_refused_rows_are_counted(digits_dataset: Path) -> None:
    file = quarantined(digits_dataset, refused=1)
    assert verify(str(digits_dataset), Console())[1] == []
    pq.write_table(pa.table({"record": ["x"] * 2}), file)
    assert re.search(
        r"quarantine .*: the card says 1 rows, the files hold 2", *verify(str(digits_dataset), Console())[1]
    )
    cut(file)
    assert re.search(r"quarantine .*: .* cannot be read", *verify(str(digits_dataset), Console())[1])
    file.unlink()
    assert re.search(r"the card says 1 rows, the files hold 0", *verify(str(digits_dataset), Console())[1])


def test_refused_rows_may_be_removed_and_are_their_owners(
    digits_dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = quarantined(digits_dataset, refused=1)

    read_bytes, why = store.read_bytes, "permission denied"

    def refuse(url: str) -> bytes:
        if "quarantine" in url:
            raise StorageError(f"{url}: {why}")
        return read_bytes(url)

    with monkeypatch.context() as patch:
        patch.setattr(store, "read_bytes", refuse)
        assert verify(str(digits_dataset), Console())[1] == []
        why = "cannot be read"
        with pytest.raises(StorageError, match="cannot be read"):
            verify(str(digits_dataset), Console())
    assert re.search("Not looked at: quarantine .*: permission denied", capsys.readouterr().out)
    shutil.rmtree(file.parent.parent)
    assert verify(str(digits_dataset), Console())[1] == []
    assert re.search("Not looked at: quarantine .*, which was removed since", capsys.readouterr().out)


def test_duplicates_are_counted(digits_dataset: Path) -> None:
    path = next((digits_dataset / "cards").iterdir())
    counts = {"raw": 1799, "quarantined": 0, "clean": 1799, "duplicates": 2, "built": 1797}
    edit_card(path, lambda card: card.update(duplicates="duplicates/a", counts=counts))
    file = digits_dataset / "duplicates" / "a" / "part-0.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"exact": [True, False, False]}), file)
    said = r"duplicates .*: the card says 2 rows, the files hold 3"
    assert re.search(said, *verify(str(digits_dataset), Console())[1])
    pq.write_table(pa.table({"exact": [True, False]}), file)
    assert verify(str(digits_dataset), Console())[1] == []


class Opens:
    """Pickled: creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_nothing_pickled_beside_a_dataset_is_opened(digits_dataset: Path, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    pickled = pickle.dumps(Opens(opened))
    pickle.loads(pickled)  # whoever unpickles it makes the folder …
    opened.rmdir()
    keys = (b"dataset-toolkit.unischema.v1", b"dataset-toolkit.num_row_groups_per_file.v1")
    schema = pa.schema([("image", pa.binary())], metadata=dict.fromkeys(keys, pickled))
    places = [digits_dataset, *digits_dataset.glob("data/*"), parquet(digits_dataset).parent]
    for place in places:
        for name in ("_common_metadata", "_metadata"):
            pq.write_metadata(schema, place / name)
    differs = verify(str(digits_dataset), Console())[1]
    assert len(differs) == 4
    assert all("not in the manifest; remove it" in sentence for sentence in differs)
    feed = Feed(str(digits_dataset), "train", global_batch_size=256)
    assert sum(len(batch["label"]) for batch in feed.epoch()) == 1242
    assert not opened.exists()  # … and nobody did
