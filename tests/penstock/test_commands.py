"""The commands as a user calls them: verify finds every damage, doctor answers, help shows an example."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import cli


def parquet(dataset: Path) -> Path:
    return sorted(dataset.glob("data/*/split=train/*.parquet"))[0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit_card(dataset: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = next((dataset / "cards").iterdir())
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def set_rows(card: dict[str, Any]) -> None:
    card["splits"]["train"]["rows"] -= 1
    card["splits"]["val"]["rows"] += 1


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing file": (lambda d: parquet(d).unlink(), "the file is missing"),
    "shorter file": (lambda d: cut(parquet(d)), "cannot be read as Parquet"),
    "bit in a page": (lambda d: flip(parquet(d), 60_000), r"cannot be read as Parquet|file_sha256"),
    "bit in the footer": (lambda d: flip(parquet(d), -100), r"cannot be read|file_sha256|other columns"),
    "strange file": (lambda d: (parquet(d).parent / "extra").write_text("x"), "extra: not in the manifest"),
    "manifest": (lambda d: cut(next(d.glob("data/*/_manifest.parquet"))), "the manifest was changed"),
    "no manifest": (lambda d: next(d.glob("data/*/_manifest.parquet")).unlink(), "the manifest is missing"),
    "rows in the card": (lambda d: edit_card(d, set_rows), "split 'train': the card says 1,241 rows"),
    "counts in the card": (lambda d: edit_card(d, lambda c: c["counts"].update(built=1)), "counts do not add up"),
    "card format": (lambda d: edit_card(d, lambda c: c.update(format=2)), "card format 2"),
    "data outside": (lambda d: edit_card(d, lambda c: c.update(data="../..")), "leads out of the dataset"),
    "no card": (lambda d: next((d / "cards").iterdir()).unlink(), "no dataset here"),
    "clean rows": (lambda d: cut(next(d.glob("clean/data/*/*.parquet"))), "expected [0-9,]+ bytes, found"),
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


def test_doctor_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ready"] == {"etl": True, "train": True}
    assert {"Python", "Java", "pyspark", "torch", "file://"} <= {check["name"] for check in told["checks"]}


@pytest.mark.parametrize("name", ["etl", "train", "run", "predict", "verify", "doctor"])
def test_help_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert f"example:\n  penstock {name}" in capsys.readouterr().out


def test_wrong_words_are_told_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err
    assert cli.main([]) == 0
    assert cli.main(["verify", "/nothing", "--json"]) == 1
    assert "no dataset here" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
