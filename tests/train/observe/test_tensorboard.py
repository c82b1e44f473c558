"""A run's folder as people and TensorBoard read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from penstock import cli
from tests.train.observe.conftest import arguments


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert cli.main(arguments(folder, "run")) == 0
    return folder / "run"


def test_tensorboard_shows_each_step_and_each_epoch(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert shown[name.replace("_", "/")] == [(line["step"], pytest.approx(line[name])) for line in metrics]
    assert [step for step, _ in shown["step/loss"]] == list(range(1, 11))
    losses = [value for _, value in shown["step/loss"]]
    rows = [16, 16, 16, 16, 3]  # the epoch's mean is over rows, of which the last batch has three
    mean = sum(n * loss for n, loss in zip(rows, losses[:5], strict=True)) / 67
    assert mean == pytest.approx(metrics[0]["train_loss"], rel=1e-5)
    assert max(value for _, value in shown["step/lr"]) == pytest.approx(1e-3)
    assert set(shown) > {"speed/rows_per_s", "speed/data_stall"}


def test_a_run_says_what_it_runs_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments(folder, "told")) == 0
    (started,) = [json.loads(line) for line in (folder / "told" / "starts.jsonl").read_text().splitlines()]
    assert started["step"] == 0
    card = json.loads((folder / "told" / "card.json").read_text())
    told = capsys.readouterr().out
    for what in (started["device"], started["versions"]["torch"], "version v1", card["splits"]["train"]["digest"]):
        assert what in told
