"""The configuration of a run: frozen, complete, checked when made, and saved as JSON beside what it led to.

A recipe's `config(model)` returns it; the command line replaces single values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from penstock.errors import RunError


@dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter, ICLR 2019); with `weight_decay` 0 it is Adam (Kingma & Ba, ICLR 2015)."""

    lr: float = 1e-3  # the highest that the schedule reaches
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # on weights of two or more dimensions


@dataclass(frozen=True)
class Schedule:
    """The learning rate rises linearly over the first `warmup` of all steps, then falls to 0 as `decay` says."""

    warmup: float = 0.1
    decay: Literal["linear", "cosine", "constant"] = "linear"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run's result depends on, beside the recipe's code and the data."""

    model: str = "default"
    epochs: int = 5
    global_batch_size: int = 128
    lanes: int = 32  # of the feed's plan; world sizes must divide it
    seed: int = 0
    train_split: str = "train"  # "train+val" for a last fit, once every choice is made
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    label_smoothing: float = 0.0  # in training only: figures of val and test are without

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch_size", "lanes"):
            if getattr(self, name) < 1:
                raise RunError(f"config: {name} must be 1 or more, found {getattr(self, name)}")
        if self.global_batch_size % self.lanes:
            raise RunError(f"config: lanes ({self.lanes}) must divide the global batch size ({self.global_batch_size})")
        if not 0 <= self.schedule.warmup <= 1:
            raise RunError(f"config: schedule.warmup is a share of the steps, 0 to 1, found {self.schedule.warmup}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainConfig:
        optimizer = Optimizer(**{**value["optimizer"], "betas": tuple(value["optimizer"]["betas"])})
        return cls(**{**value, "optimizer": optimizer, "schedule": Schedule(**value["schedule"])})
