"""MNIST's well-known pair of networks as Keras has them: `mlp`, Dense-Dense, and `cnn`, Conv2D-MaxPool-Dense-Dense.

They take the pictures as they are, 0 to 255, and standardise them in their first layer: so does the `.keras` file that
`penstock export RUN --to keras` writes. The figures are made by `python -m bench.mnist --recipe mnist_keras`.
"""

from typing import Any

from torch import Tensor, nn

from penstock.card import Card
from penstock.errors import RecipeError
from recipes.mnist import model as mnist
from recipes.mnist.model import NUM_CLASSES, augment
from train.classification import loss, metrics, predict
from train.config import TrainConfig
from train.models.keras import KerasModel, keras

__all__ = ["augment", "build_model", "config", "loss", "metrics", "predict", "prepare"]


def config(model: str | None = None) -> TrainConfig:
    """As the recipe `mnist` has it."""
    if model not in (None, "mlp", "cnn"):
        raise RecipeError(f"recipe 'mnist_keras': no model {model!r}; there are mlp and cnn")
    return mnist.config(model)


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    layers, fitted = keras.layers, card.transforms["image"]
    convolution = [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)]  # (B, 13, 13, 32)
    return KerasModel(
        keras.Sequential(
            [
                keras.Input((28, 28)),
                layers.Rescaling(1 / fitted["std"], -fitted["mean"] / fitted["std"]),
                layers.Reshape((28, 28, 1)),
                *(convolution if config.model == "cnn" else []),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(NUM_CLASSES),
            ]
        )
    )


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, 28, 28) of 0 to 255 -> float32: the rest is layers."""
    images: Tensor = batch["image"]
    return images.float()
