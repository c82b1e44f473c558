"""`penstock feed` reads a dataset version alone and says how fast; what holds a trainer back is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.feed.speed import main
from train.feed.timing import STAGES, advice


def test_the_feed_is_read_and_measured(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epochs", "3", "--batch-size", "16", "--columns", "x,label", "--device", "cpu"]
    assert main([str(dataset), *options, "--json"]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out.splitlines()[-1])
    assert told["rows"] == 3 * 67
    assert told["rows_per_s"] == pytest.approx(told["rows"] / told["seconds"])
    assert told["bytes_per_s"] == pytest.approx(3 * 67 * (12 + 8 + 8 + 4) / told["seconds"])
    assert told["first_batch_s"] <= told["seconds"]
    assert list(told["stages"]) == list(STAGES)
    assert "201 rows in" in output.err


def test_what_does_not_fit_together_is_one_sentence(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(dataset), "--batch-size", "10", "--lanes", "4"]) == 1
    assert capsys.readouterr().err == (
        "error: expected lanes that divide the global batch size, found 4 lanes and a batch of 10; choose others\n"
    )


@pytest.mark.parametrize(("stage", "change"), [("fetch", "--cache DIR"), ("decode", "fixed width"), ("copy", "uint8")])
def test_the_slowest_stage_is_named_with_what_to_change(stage: str, change: str) -> None:
    seconds = dict.fromkeys(STAGES, 1.0) | {stage: 2.0, "wait": 9.0}
    told = advice(seconds, 0.4, num_workers=1)
    assert told is not None
    assert told.startswith(f"Data stall 40%: most of the feed's time goes to {stage}")
    assert change in told
    assert advice(seconds, 0.1, num_workers=1) is None
