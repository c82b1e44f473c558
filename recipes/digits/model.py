"""A small convolutional network for the 8x8 digits: two layers of convolution, one hidden layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from penstock.card import Card
from penstock.errors import RecipeError
from train.classification import loss, metrics, predict
from train.config import Optimizer, Schedule, TrainConfig

__all__ = ["build_model", "config", "loss", "metrics", "predict", "prepare"]
NUM_CLASSES = 10


def config(model: str | None = None) -> TrainConfig:
    if model not in (None, "cnn"):
        raise RecipeError(f"recipe 'digits': no model {model!r}; there is cnn")
    return TrainConfig(
        model="cnn",
        epochs=15,
        global_batch_size=64,
        optimizer=Optimizer(lr=4e-3, weight_decay=0.01),
        schedule=Schedule(warmup=0.1, decay="linear"),
    )


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),  # (B, 32, 4, 4)
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, NUM_CLASSES),
    )


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """uint8 (B, 8, 8) -> float32 (B, 1, 8, 8), standardised as the training split was."""
    fitted: Mapping[str, float] = card.transforms["image"]
    images: Tensor = batch["image"]
    pixels = images[:, None].float()
    return (pixels - fitted["mean"]) / fitted["std"]
