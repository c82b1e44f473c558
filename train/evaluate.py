"""Evaluates a model on a split: every row once, in file order, means weighted as the loss is."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from train.config import TrainConfig
from train.feed import WEIGHT, Feed
from train.feed.device import to_device


@torch.no_grad()
def evaluate(model: nn.Module, recipe: Any, feed: Feed, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """The mean loss and the mean of each of the recipe's metrics over all rows of the split."""
    model.eval()
    plain = replace(config, label_smoothing=0.0)
    sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=device))
    for batch in to_device(feed.epoch(), device, feed.timings):
        outputs = model(recipe.prepare(batch, feed.card))
        loss, weight = recipe.loss(outputs, batch, plain)  # (B,), (B,)
        sums["loss"] += (loss * batch[WEIGHT]).sum(dtype=torch.float64)
        sums["weight"] += (weight * batch[WEIGHT]).sum(dtype=torch.float64)
        sums["rows"] += batch[WEIGHT].sum(dtype=torch.float64)
        for name, metric in recipe.metrics.items():
            sums[name] += (metric(outputs, batch) * batch[WEIGHT]).sum(dtype=torch.float64)
    rows, weight_sum = float(sums["rows"]), float(sums["weight"])
    means = {name: float(sums[name]) / max(rows, 1.0) for name in recipe.metrics}
    return {"loss": float(sums["loss"]) / max(weight_sum, 1e-12), **means}
