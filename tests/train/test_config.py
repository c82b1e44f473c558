"""A configuration survives JSON, and is refused in a sentence when it cannot be meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from penstock.errors import RunError
from penstock.recipe import find
from train.config import EarlyStopping, Optimizer, Schedule, TrainConfig
from train.run import configure, parser


def test_it_survives_json() -> None:
    config = TrainConfig(
        optimizer=Optimizer("muon", betas=(0.9, 0.95)),
        schedule=Schedule(0.1, "wsd"),
        class_weights=(1.0, 2.5),
        clip_grad_norm=1.0,
        ema_decay=0.99,
        early_stopping=EarlyStopping("val_accuracy", "max"),
    )
    for each in (config, TrainConfig()):
        assert TrainConfig.from_json(json.loads(json.dumps(each.to_json()))) == each


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimizer("lion"), "optimizer.name must be one of adamw, sgd, muon, found 'lion'"),
        (lambda: Optimizer(lr=0), "optimizer.lr must be above 0, found 0"),
        (lambda: Optimizer(lr=float("nan")), "optimizer.lr must be above 0, found nan"),
        (lambda: Optimizer(weight_decay=-1), "optimizer.weight_decay must be 0 or more, found -1"),
        (lambda: Optimizer(betas=(0.9, 1.0)), r"optimizer.betas must be two numbers .* found \(0.9, 1.0\)"),
        (lambda: Optimizer(momentum=1.0), "optimizer.momentum must be from 0 to below 1, found 1.0"),
        (lambda: Schedule(decay="step"), "schedule.decay must be one of .* found 'step'"),
        (lambda: Schedule(warmup=2), "schedule.warmup is a share of the steps, 0 to 1, found 2"),
        (lambda: Schedule(final=-0.1), "schedule.final is a share of optimizer.lr, 0 to 1, found -0.1"),
        (
            lambda: Schedule(0.9, "wsd"),
            r"schedule.warmup \(0.9\) and schedule.cooldown \(0.2\) must not be more than 1",
        ),
        (lambda: EarlyStopping(mode="lowest"), "early_stopping.mode must be one of min, max, found 'lowest'"),
        (lambda: EarlyStopping(patience=0), "early_stopping.patience must be 1 or more, found 0"),
        (lambda: TrainConfig(epochs=0), "epochs must be 1 or more, found 0"),
        (lambda: TrainConfig(lanes=5), r"lanes \(5\) must divide the global batch size \(128\)"),
        (lambda: TrainConfig(label_smoothing=1), "label_smoothing must be 0 to below 1, found 1"),
        (
            lambda: TrainConfig(class_weights=(0.0, 0.0)),
            r"class_weights must be 0 or more, and not all 0, found \(0.0, 0.0\)",
        ),
        (lambda: TrainConfig(class_weights=(1.0, -1.0)), "class_weights must be 0 or more"),
        (lambda: TrainConfig(clip_grad_norm=0), "clip_grad_norm must be above 0, found 0"),
        (lambda: replace(TrainConfig(), ema_decay=1.0), "ema_decay must be 0 to below 1, found 1.0"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RunError, match=f"^config: {message}"):
        make()


def test_the_command_line_says_the_usual_ones() -> None:
    recipe = find("mnist")
    arguments = parser().parse_args(["mnist", "--data", "d", "--out", "o", "--lr", "0.5", "--batch-size", "64"])
    config, default = configure(recipe, arguments), recipe.model().config(None)
    assert config == replace(default, global_batch_size=64, optimizer=replace(default.optimizer, lr=0.5))
