"""gc: it lists what no version needs, removes it only when told to, and never a file that a card still names."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from penstock import card as cards
from penstock import cli
from penstock.card import Card, CleanCard, ManifestFile, Split
from penstock.gc import unneeded
from tests.penstock.conftest import SCHEMA

DEAD = f"{'9' * 16}-{'d' * 8}"  # as ETL names the folders of an attempt


def version(out: Path, name: str, clean: str, attempt: str = "a") -> None:
    """A version as ETL publishes it, with files of 10 bytes, made of the clean rows of `clean`."""
    folder, kept, refused = f"data/{name}-{attempt}", f"data/{clean}-{attempt}", f"quarantine/{clean}-{attempt}"
    for path in (f"{folder}/split=train/part.parquet", f"clean/{kept}/part.parquet", f"{refused}/part.parquet"):
        file(out / path)
    lineage = {"raw_files": [], "clean": [clean]}
    counts = {"raw": 2, "clean": 1, "quarantined": 1}
    cards.publish(str(out / "clean"), CleanCard(clean, "r", kept, refused, {"part.parquet": 10}, counts, {}, lineage))
    counts |= {"duplicates": 0, "built": 1}
    manifest, splits = ManifestFile("_manifest.parquet", 10, "0"), {"train": Split(1, None)}
    cards.publish(str(out), Card(name, "r", folder, manifest, SCHEMA, counts, splits, {}, lineage))


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0123456789")
    return path


def there(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three versions, the first two made of the same clean rows, and what three jobs left that died."""
    for name, clean in (("v1", "c1"), ("v2", "c1"), ("v3", "c3")):
        version(tmp_path, name, clean)
    for path in (f"data/{DEAD}/split=train/part.parquet", f"quarantine/{DEAD}/part.parquet", f"clean/data/{DEAD}/x"):
        file(tmp_path / path)
    return tmp_path


def test_orphans_are_listed_and_nothing_else(out: Path) -> None:
    before = there(out)
    found = unneeded(str(out))
    assert [each.path for each in found] == [f"data/{DEAD}", f"quarantine/{DEAD}", f"clean/data/{DEAD}"]
    assert all((each.num_bytes, each.why) == (10, "no card names it") for each in found)
    assert cli.main(["gc", str(out), "--older-than", "0"]) == 0
    assert there(out) == before


def test_files_that_never_got_their_name_are_orphans_too(out: Path) -> None:
    for path in (".penstock-0123", "cards/.v9.json.a1", "clean/cards/.c9.json.a1", ".DS_Store", "cards/.hidden"):
        file(out / path)
    found = [each.path for each in unneeded(str(out)) if each.why == "its writer died"]
    assert found == [".penstock-0123", "cards/.v9.json.a1", "clean/cards/.c9.json.a1"]
    assert not [each for each in unneeded(str(out), older_than_s=60) if each.path in found]


def test_folders_that_etl_did_not_name_are_left(out: Path) -> None:
    """As of an adopted dataset, whose files may lie in `data`, or of a URL that holds none."""
    mine = file(out / "data" / "day=1" / "part.parquet"), file(out / "quarantine" / "photos" / "1.png")
    assert cli.main(["gc", str(out), "--remove", "--older-than", "0"]) == 0
    assert all(path.exists() for path in mine)
    assert not (out / f"data/{DEAD}").exists()


def test_what_a_job_may_be_writing_is_left(out: Path) -> None:
    assert cli.main(["gc", str(out), "--remove"]) == 0
    assert (out / f"data/{DEAD}").exists()
    for path in [*(out / f"data/{DEAD}").rglob("*"), out / f"data/{DEAD}"]:
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    assert cli.main(["gc", str(out), "--remove"]) == 0
    assert not (out / f"data/{DEAD}").exists()
    assert (out / f"quarantine/{DEAD}").exists()


def test_old_versions_go_with_all_that_only_they_are_made_of(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gc", str(out), "--keep", "2", "--remove", "--older-than", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    paths = [each["path"] for each in result["unneeded"]]
    assert paths.index("cards/v1.json") < paths.index("data/v1-a")
    assert {card.version for card in cards.versions(str(out))} == {"v2", "v3"}
    assert {card.version for card in cards.versions(str(out / "clean"))} == {"c1", "c3"}  # v2 is made of c1
    assert cli.main(["gc", str(out), "--keep", "1", "--remove", "--older-than", "0"]) == 0
    left = {"cards/v3.json", "data/v3-a/split=train/part.parquet", "quarantine/c3-a/part.parquet"}
    assert there(out) == left | {"clean/cards/c3.json", "clean/data/c3-a/part.parquet"}
    assert unneeded(str(out), keep=1) == []


def test_keeping_none_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gc", str(out), "--keep", "0"]) == 1
    assert "--keep: expected 1 or more, found 0" in capsys.readouterr().err
    assert cli.main(["gc", str(out / "nowhere")]) == 1
    assert "nowhere: nothing is here; check the URL" in capsys.readouterr().err
