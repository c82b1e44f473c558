"""The manifest: the same from any order of its tables, and none that was changed or leads outside is read."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from penstock import manifest
from penstock.audit import audit_file
from penstock.card import Card, ManifestFile, Split
from penstock.errors import DatasetError
from tests.penstock.conftest import SCHEMA, rows, write


def card(listed: ManifestFile, data: str = "data/v") -> Card:
    counts = {"raw": 0, "quarantined": 0, "clean": 0, "duplicates": 0, "built": 0}
    return Card("v", "r", data, listed, SCHEMA, counts, {"train": Split(0, "0" * 16)}, {}, {})


def tables(folder: Path) -> list[pa.Table]:
    """Of five files, train and val, of two row groups each."""
    found = []
    for i in range(5):
        split = "train" if i < 3 else "val"
        name = f"split={split}/part-{i}.parquet"
        write(folder / "data" / "v" / name, rows(i * 10, 10), rows_per_group=6)
        found.append(audit_file(f"file://{folder}/data/v", name, split, SCHEMA).row_groups)
    return found


def test_a_manifest_is_the_same_from_any_order(tmp_path: Path) -> None:
    made = tables(tmp_path)
    shuffled = random.Random(0).sample(made, len(made))
    first = manifest.write(f"file://{tmp_path}/a", made, SCHEMA)
    assert manifest.write(f"file://{tmp_path}/b", shuffled, SCHEMA) == first
    listed = manifest.read(str(tmp_path), card(first, "b"))
    assert listed.table["row_group"].to_pylist() == [0, 1] * 5
    assert listed.table["num_rows"].to_pylist() == [6, 4] * 5


def test_splits_and_files_are_those_of_the_tables(tmp_path: Path) -> None:
    made = tables(tmp_path)
    listed = manifest.read(str(tmp_path), card(manifest.write(f"file://{tmp_path}/data/v", made, SCHEMA)))
    assert listed.splits(["val"]).num_rows == 4
    assert listed.splits(["val", "train"])["split"].to_pylist() == ["val"] * 4 + ["train"] * 6
    for name, (num_bytes, _) in listed.files.items():
        assert (tmp_path / "data" / "v" / name).stat().st_size == num_bytes
    assert len(listed.files) == 5


def test_a_version_without_rows_has_a_manifest(tmp_path: Path) -> None:
    listed = manifest.read(str(tmp_path), card(manifest.write(f"file://{tmp_path}/data/v", [], SCHEMA)))
    assert listed.table.schema == manifest.arrow_schema(SCHEMA)
    assert listed.files == {}


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    made = card(manifest.write(f"file://{tmp_path}/data/v", tables(tmp_path), SCHEMA))
    path = tmp_path / "data" / "v" / "_manifest.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(
        DatasetError, match=r"expected \d+ bytes with SHA-256 .*, found \d+ bytes .* was changed: build"
    ):
        manifest.read(str(tmp_path), made)
    path.unlink()
    with pytest.raises(DatasetError, match=r"_manifest\.parquet: the manifest is missing; build the dataset again"):
        manifest.read(str(tmp_path), made)


@pytest.mark.parametrize(
    ("data", "path", "file"),
    [("..", "_manifest.parquet", "f"), ("data/v", "../m", "f"), ("data/v", "_manifest.parquet", "../../f")],
    ids=["data folder", "manifest", "file"],
)
def test_nothing_outside_the_dataset_is_read(tmp_path: Path, data: str, path: str, file: str) -> None:
    listed = tables(tmp_path)[0]
    elsewhere = listed.set_column(1, "file", pa.array([file] * listed.num_rows))
    made = manifest.write(f"file://{tmp_path}/data/v", [elsewhere], SCHEMA)
    with pytest.raises(DatasetError, match="leads out of the dataset; do not use this dataset"):
        manifest.read(str(tmp_path), card(ManifestFile(path, made.num_bytes, made.sha256), data))
