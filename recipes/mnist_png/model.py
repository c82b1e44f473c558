"""MNIST's networks on decoded PNG files, of whose pixels ETL saw none: what standardises them is not fitted."""

from typing import Any

from torch import Tensor

from penstock.card import Card
from recipes.mnist.model import augment, build_model, config, loss, metrics, predict

__all__ = ["augment", "build_model", "config", "loss", "metrics", "predict", "prepare"]


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, 28, 28) of 0 to 255 -> float32 (B, 1, 28, 28), -0.4 to 2.8: most of a picture is black."""
    images: Tensor = batch["image"]
    return images[:, None].float() / 80 - 0.4
