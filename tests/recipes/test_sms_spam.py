"""The text messages: counts that agree with what is known of the collection, and none of its phone numbers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from tokenizers import Tokenizer

from etl.run import Built, etl
from penstock import cli
from penstock.console import Console
from penstock.recipe import find
from tests.conftest import SHARED_DATA
from tests.recipes.resuming import train_and_resume

LINES = [
    'ham\tHe said "call 07700 900123" twice',
    'ham\the said  "CALL 07700 900456" TWICE ',  # but for case, blanks and the number the same
    'spam\tWin £1000 now! Ring 447700900789 or mail win@example.org"',
    'ham\tWin £250 now! Ring 447700900789 or mail me@example.org"',  # of two labels that of the smaller text stays
    "ham\tSee you at 10:30 on 21/05/2005, gate 12",
    "eggs\tno label of ours",
    "ham",
]


def build(raw: Path, out: Path) -> Built:
    return etl(find("sms_spam"), str(raw), str(out), Console())


def rows(out: Path, built: Built) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(out / built.card.data).to_pylist()
    return table


def test_messages_that_differ_in_case_blanks_and_numbers_are_one(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    good = [f"ham\tmessage {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(300)]
    (tmp_path / "raw" / "sms").write_text("\n".join([*LINES, *good]) + "\n")
    built = build(tmp_path / "raw", tmp_path / "out")
    assert built.card.counts == {"raw": 307, "quarantined": 2, "clean": 305, "duplicates": 2, "built": 303}
    found = {row["text"]: row for row in rows(tmp_path / "out", built)}
    assert {text for text in found if "message" not in text} == {
        'He said "call <phone>" twice',
        'Win £1000 now! Ring <phone> or mail <email>"',
        "See you at 10:30 on 21/05/2005, gate 12",
    }
    assert found['Win £1000 now! Ring <phone> or mail <email>"']["label"] == 1
    bpe = Tokenizer.from_str(json.dumps(built.card.transforms["tokens"]["tokenizer"]))
    assert all(bpe.decode(row["tokens"]) == text for text, row in found.items())


@pytest.mark.slow
def test_a_slice_trains_goes_on_and_predicts(spark: SparkSession, tmp_path: Path) -> None:
    said = [("spam\tWIN", "ham\tsee you")[i % 3 > 0] + f" {chr(97 + i % 26)} {'x' * (i % 40)}y" for i in range(400)]
    (tmp_path / "sms").write_text("\n".join(said) + "\n")
    built = build(tmp_path / "sms", tmp_path / "out")
    run = tmp_path / "run"
    train_and_resume("sms_spam", tmp_path / "out", run)
    predictions = tmp_path / "predictions.parquet"
    assert cli.main(["predict", str(run), "--data", str(tmp_path / "out"), "--out", str(predictions)]) == 0
    assert pq.read_table(predictions).num_rows == built.card.counts["built"]
    # Without labels, as a day's new messages come; one is longer than what the model reads.
    (tmp_path / "new").write_text("\n".join(["WIN " * 500, "see you"]) + "\n")
    new, scored = tmp_path / "new_dataset", tmp_path / "scored.parquet"
    etl(find("sms_spam"), str(tmp_path / "new"), str(new), Console(), frozen=built.card, labelled=False)
    assert cli.main(["predict", str(run), "--data", str(new), "--out", str(scored)]) == 0
    scores = pq.read_table(scored)["score"].to_pylist()
    assert len(scores) == 2
    assert all(0 <= score <= 1 for score in scores)


def test_the_collection_is_what_its_authors_say(spark: SparkSession, tmp_path: Path) -> None:
    raw = SHARED_DATA / "sms_spam"
    if not raw.is_dir():
        pytest.skip("the SMS Spam Collection is not on this machine (expected in ../shared/data/sms_spam)")
    lines = (raw / "SMSSpamCollection").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert len(lines) == 5_574
    assert len(lines) - len(set(lines)) == 403
    built = build(raw, tmp_path / "out")
    assert built.card.counts == {"raw": 5_574, "quarantined": 0, "clean": 5_574, "duplicates": 436, "built": 5_138}
    assert built.clean.rules == {"malformed": 0, "label_known": 0}
    assert built.card.private["text"]["values"] == {"email": 7, "iban": 0, "card": 0, "ip": 0, "phone": 433}
    found = rows(tmp_path / "out", built)
    assert Counter(row["label"] for row in found) == {0: 4_517, 1: 621}
    assert sum("<phone>" in row["text"] for row in found) == 347
    splits: dict[str, set[str]] = {}
    for row in found:
        normal = re.sub(r"\s+", " ", re.sub("[0-9]+", "0", row["text"])).strip().lower()
        splits.setdefault(normal, set()).add(row["split"])
    assert len(splits) == 5_138
    assert all(len(names) == 1 for names in splits.values())
    numbers = {number for line in lines for number in re.findall(r"(?<![0-9])0[1-9][0-9]{9}(?![0-9])", line)}
    assert len(numbers) > 200
    text = "\n".join(row["text"] for row in found)
    assert [number for number in numbers if number in text] == []
    for file in (tmp_path / "out").rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(number.encode() in content for number in numbers), file
