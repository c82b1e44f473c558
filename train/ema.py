"""An exponential moving average of the weights, which is evaluated and exported in their place.

averages = start(model)
… after each step: update(averages, model, decay_at(config.ema_decay, step))
with averaged(model, averages): evaluate(model, …)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from train import distributed


def start(model: nn.Module) -> list[Tensor]:
    """The averages, in the order of `model.parameters()`, sharded as these are."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def decay_at(decay: float, step: int) -> float:
    """The share of the average that a step (from 0) keeps: less at first, so that the first weights are soon forgotten.

    Source: `num_updates` of TensorFlow's ExponentialMovingAverage; the average itself: Polyak & Juditsky, SIAM J.
    Control Optim. 30, 1992.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update(averages: list[Tensor], model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * weight"""
    torch._foreach_lerp_(averages, list(model.parameters()), 1 - decay)


@contextmanager
def averaged(model: nn.Module, averages: list[Tensor] | None) -> Iterator[None]:
    """Inside, the model has the averages, if there are any, for its weights; its buffers stay its own."""
    if averages is not None:
        _swap(averages, model)
    try:
        yield
    finally:
        if averages is not None:
            _swap(averages, model)


@torch.no_grad()
def _swap(averages: list[Tensor], model: nn.Module) -> None:
    distributed.reshard(model)
    for average, parameter in zip(averages, model.parameters(), strict=True):
        kept = average.clone()
        average.copy_(parameter)
        parameter.copy_(kept)


@torch.no_grad()
def assign(model: nn.Module, averages: list[Tensor]) -> None:
    """The averages become the model's weights."""
    for average, parameter in zip(averages, model.parameters(), strict=True):
        parameter.copy_(average)
