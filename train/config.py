"""The configuration of a run: frozen, complete, checked when made, and saved as JSON beside what it led to.

A recipe's `config(model)` returns it; the command line replaces single values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from penstock.errors import RunError

OptimizerName = Literal["adamw", "sgd", "muon"]
Decay = Literal["linear", "cosine", "constant", "wsd"]
Mode = Literal["min", "max"]
Compile = Literal["default", "reduce-overhead", "max-autotune"]
Precision = Literal["auto", "fastest", "float32", "bf16", "float64"]


@dataclass(frozen=True)
class Optimizer:
    """What moves the weights: train/optimizers.py, which names the sources."""

    name: OptimizerName = "adamw"  # muon: for the matrices of hidden layers, adamw for the rest
    lr: float = 1e-3  # the highest that the schedule reaches
    weight_decay: float = 0.0  # on matrices and kernels, not on biases and norms
    decay_embeddings: bool = True
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw
    eps: float = 1e-8  # of adamw
    momentum: float = 0.9  # of sgd and muon; muon's source has 0.95
    nesterov: bool = True  # of sgd and muon

    def __post_init__(self) -> None:
        _check_choice("optimizer.name", self.name, OptimizerName)
        _check(0 < self.lr < math.inf, f"optimizer.lr must be above 0, found {self.lr}")
        for name in ("weight_decay", "eps"):
            value = getattr(self, name)
            _check(0 <= value < math.inf, f"optimizer.{name} must be 0 or more, found {value}")
        _check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optimizer.betas must be two numbers from 0 to below 1, found {self.betas}",
        )
        _check(0 <= self.momentum < 1, f"optimizer.momentum must be from 0 to below 1, found {self.momentum}")


@dataclass(frozen=True)
class Schedule:
    """The learning rate rises linearly over the first `warmup` of all steps, then falls as `decay` says."""

    warmup: float = 0.1
    decay: Decay = "linear"
    final: float = 0.0  # where it falls to, as a share of the highest; "constant" does not fall
    cooldown: float = 0.2  # of "wsd" (warm-up, stable, decay): the last share of the steps, in which it falls

    def __post_init__(self) -> None:
        _check_choice("schedule.decay", self.decay, Decay)
        for name in ("warmup", "cooldown"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"schedule.{name} is a share of the steps, 0 to 1, found {value}")
        _check(0 <= self.final <= 1, f"schedule.final is a share of optimizer.lr, 0 to 1, found {self.final}")
        _check(
            self.decay != "wsd" or self.warmup + self.cooldown <= 1,
            f"schedule.warmup ({self.warmup}) and schedule.cooldown ({self.cooldown}) must not be more than 1 together",
        )


@dataclass(frozen=True)
class EarlyStopping:
    """Stops when `patience` evaluations in a row brought no better `metric`; the run ends with its best weights."""

    metric: str = "val_loss"  # as in metrics.jsonl
    mode: Mode = "min"
    patience: int = 3

    def __post_init__(self) -> None:
        _check_choice("early_stopping.mode", self.mode, Mode)
        _check(self.patience >= 1, f"early_stopping.patience must be 1 or more, found {self.patience}")


@dataclass(frozen=True)
class Options:
    """How a run computes, not what: a run may go on with others, and its figures agree up to rounding."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: Compile | None = None  # a mode of torch.compile
    profile: bool = False  # write a trace of a few steps
    checkpoint_seconds: float = 60.0  # between two of them
    timeout: float = 600.0  # seconds after which a run that stands still is ended
    resume_anyway: bool = False  # go on though the folder's run was another one


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a run's result depends on, beside the recipe's code and the data."""

    model: str = "default"
    epochs: int = 5
    steps: int | None = None  # this many steps, whatever the epochs
    global_batch_size: int = 128
    lanes: int = 32  # of the feed's plan; world sizes must divide it
    accumulate: int = 1  # micro-batches that a rank's batch is cut into: less memory, the same gradient
    precision: Precision = "auto"  # bf16 on GPUs that compute with it; "fastest": on such CPUs too; float32 elsewhere
    seed: int = 0
    train_split: str = "train"  # "train+val" for a last fit, once every choice is made
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    label_smoothing: float = 0.0  # in training only: figures of val and test are without
    class_weights: tuple[float, ...] = ()  # of a row's loss, by its label; () is 1 for all
    clip_grad_norm: float | None = None  # the most that the norm of all gradients together may be
    ema_decay: float | None = None  # evaluate and export this moving average of the weights (train/ema.py)
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        _check_choice("precision", self.precision, Precision)
        for name in ("epochs", "steps", "global_batch_size", "lanes", "accumulate"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"{name} must be 1 or more, found {value}")
        _check(
            self.global_batch_size % self.lanes == 0,
            f"lanes ({self.lanes}) must divide the global batch size ({self.global_batch_size})",
        )
        _check(0 <= self.label_smoothing < 1, f"label_smoothing must be 0 to below 1, found {self.label_smoothing}")
        _check(
            all(0 <= weight < math.inf for weight in self.class_weights)
            and any((*self.class_weights, not self.class_weights)),
            f"class_weights must be 0 or more, and not all 0, found {self.class_weights}",
        )
        if self.clip_grad_norm is not None:
            _check(self.clip_grad_norm > 0, f"clip_grad_norm must be above 0, found {self.clip_grad_norm}")
        if self.ema_decay is not None:
            _check(0 <= self.ema_decay < 1, f"ema_decay must be 0 to below 1, found {self.ema_decay}")

    def num_steps(self, steps_per_epoch: int) -> int:
        """Of the whole run, unless it stops early."""
        return self.steps or self.epochs * steps_per_epoch

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainConfig:
        optimizer, stopping = value["optimizer"], value.get("early_stopping")
        nested = {
            "optimizer": Optimizer(**{**optimizer, "betas": tuple(optimizer["betas"])}),
            "schedule": Schedule(**value["schedule"]),
            "class_weights": tuple(value.get("class_weights", ())),
            "early_stopping": EarlyStopping(**stopping) if stopping else None,
        }
        return cls(**{**value, **nested})


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RunError(f"config: {otherwise}")


def _check_choice(name: str, found: str, choices: Any) -> None:
    _check(found in get_args(choices), f"{name} must be one of {', '.join(get_args(choices))}, found {found!r}")
