"""Evaluates a model on a split: every row once over all ranks, in file order, means weighted as the loss is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from train import acceleration, distributed
from train.config import TrainConfig
from train.control import Control
from train.distributed import World
from train.feed import WEIGHT, Feed
from train.feed.device import to_device


@torch.no_grad()
def evaluate(
    model: nn.Module,
    recipe: Any,
    feed: Feed,
    config: TrainConfig,
    world: World,
    control: Control | None = None,
) -> dict[str, float]:
    """The mean loss and the mean of each of the recipe's metrics over all rows of the split; the same on every rank.

    Raises: Preempted where `control` says so.
    """
    model.eval()
    distributed.share_buffers(model, world)
    plain = replace(config, label_smoothing=0.0)
    names = ("loss", "weight", "rows", *recipe.metrics)
    sums = {name: torch.zeros((), dtype=torch.float64, device=world.device) for name in names}
    for batch in to_device(feed.epoch(), world.device, feed.timings):
        if control is not None:
            control.during_evaluation()
        with acceleration.autocast(config.precision, world.device):
            outputs = model(recipe.prepare(batch, feed.card))
            loss, weight = recipe.loss(outputs, batch, plain)  # (B,), (B,)
        sums["loss"] += (loss * batch[WEIGHT]).sum(dtype=torch.float64)
        sums["weight"] += (weight * batch[WEIGHT]).sum(dtype=torch.float64)
        sums["rows"] += batch[WEIGHT].sum(dtype=torch.float64)
        for name, metric in recipe.metrics.items():
            sums[name] += (metric(outputs, batch) * batch[WEIGHT]).sum(dtype=torch.float64)
    totals = dict(zip(sums, distributed.all_reduce(torch.stack([*sums.values()]), world).tolist(), strict=True))
    means = {name: totals[name] / max(totals["rows"], 1.0) for name in recipe.metrics}
    return {"loss": totals["loss"] / max(totals["weight"], 1e-12), **means}
