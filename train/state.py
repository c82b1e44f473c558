"""What a run is between two steps: all that a checkpoint holds, and all that it needs to go on as if nothing was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from penstock.errors import RunError
from train import distributed, ema
from train.config import TrainConfig
from train.distributed import World
from train.early_stopping import Best
from train.epoch_times import EpochTimes
from train.optimizers import build as build_optimizers


@dataclass
class State:
    """The loop changes it in place, as torch does the weights in it."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    averages: list[torch.Tensor] | None  # of the weights, as train/ema.py
    sums: torch.Tensor  # (2,) float64: loss and weight of the epoch's rows so far, of all ranks
    step: int = 0  # that are done
    evaluated: bool = True  # False from the last step of an epoch until its evaluation is over
    times: EpochTimes | None = None  # of the epoch that is not evaluated yet
    best: Best | None = None  # evaluation so far


def start(model: nn.Module, config: TrainConfig, device: torch.device) -> State:
    return State(
        model,
        build_optimizers(model, config.optimizer),
        ema.start(model) if config.ema_decay is not None else None,
        torch.zeros(2, dtype=torch.float64, device=device),
    )


def load(state: State, saved: Mapping[str, Any]) -> None:
    """Goes on from a checkpoint. Raises: RunError where it is of another model."""
    try:
        distributed.load_model(state.model, saved["model"])
        for optimizer, of_optimizer in zip(state.optimizers, saved["optimizers"], strict=True):
            distributed.load_optimizer(optimizer, of_optimizer)
        if state.averages is not None and saved["ema"] is not None:
            distributed.load_each(state.averages, saved["ema"])
        elif state.averages is not None:  # the run had none until now
            state.averages = ema.start(state.model)
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(
            f"the checkpoint does not fit the model that the recipe makes now ({' '.join(str(error).split())}); go "
            f"back to the recipe's code of that run, or choose another --out"
        ) from error
    state.step, state.evaluated = saved["position"]["step"], saved["position"]["evaluated"]
    state.times = EpochTimes(**saved["times"]) if saved.get("times") else None
    state.sums.copy_(saved["sums"])
    state.best = Best(**saved["best"]) if saved["best"] else None


def full(state: State, world: World) -> dict[str, Any]:
    """For a checkpoint: what ranks have parts of is put together, on rank 0's CPU. All ranks must call it."""
    whole = {
        "position": {"step": state.step, "evaluated": state.evaluated},
        "model": state.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "ema": state.averages,
        "sums": state.sums,
        "times": asdict(state.times) if state.times else None,
        "best": asdict(state.best) if state.best else None,
    }
    return distributed.full(whole, world)
