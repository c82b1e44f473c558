"""An ensemble: its members learn as they would alone, and together they are one classifier."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from train import optimizers
from train.classification import loss, predict
from train.config import Optimizer, TrainConfig
from train.models.ensemble import Ensemble

BATCH = {"_label": torch.tensor([0, 2, 1, 1])}
INPUTS = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
CONFIG = TrainConfig(label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def mean_loss(outputs: Tensor) -> Tensor:
    losses, weights = loss(outputs, BATCH, CONFIG)
    assert losses.shape == weights.shape == (4,)
    return losses.sum() / weights.sum()


def stepped(model: nn.Module, config: Optimizer) -> list[Tensor]:
    """The weights after three steps."""
    made = optimizers.build(model, config)
    for _ in range(3):
        mean_loss(model(INPUTS)).backward()
        for optimizer in made:
            optimizer.step()
            optimizer.zero_grad()
    return [*model.parameters()]


def test_members_learn_as_they_would_alone() -> None:
    torch.manual_seed(0)
    for config in (Optimizer(lr=0.01, weight_decay=0.1), Optimizer("muon", lr=0.01, weight_decay=0.1)):
        ensemble = Ensemble(4, network)  # a gradient's quarter has the same digits
        alone: list[Any] = [copy.deepcopy(member) for member in ensemble.members]
        expected = [weight for member in alone for weight in stepped(member, config)]
        for found, weight in zip(stepped(ensemble, config), expected, strict=True):
            # AdamW and Muon do not ask how large a gradient is, but for their eps
            torch.testing.assert_close(found, weight, rtol=0, atol=1e-3)


def test_they_say_the_mean_of_their_probabilities() -> None:
    ensemble = Ensemble(3, network).eval()
    with torch.no_grad():
        each = torch.stack([member(INPUTS).softmax(dim=1) for member in ensemble.members])
        found = ensemble(INPUTS)
    torch.testing.assert_close(found.exp(), each.mean(dim=0))
    label, score = predict(found)
    torch.testing.assert_close(score, each.mean(dim=0).amax(dim=1))
    assert label.tolist() == each.mean(dim=0).argmax(dim=1).tolist()


def test_it_is_exported_as_one_classifier(tmp_path: Path) -> None:
    ensemble = Ensemble(2, network).eval()
    exported = torch.export.export(ensemble, (INPUTS,))
    torch.testing.assert_close(exported.module()(INPUTS), ensemble(INPUTS))
