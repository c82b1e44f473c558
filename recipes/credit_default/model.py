"""A network of two hidden layers over the features, whose numbers it sees through waves too; `score` of a prediction is
the probability of default.

Its figures, beside gradient boosting and logistic regression on the same columns and rows, are made by
`python -m bench.recipes --recipes credit_default`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from penstock.card import Card
from penstock.errors import RecipeError
from train.classification import binary_metrics as metrics
from train.classification import loss, lower_is_better
from train.classification import predict_binary as predict
from train.config import Optimizer, Schedule, TrainConfig
from train.models.periodic import Periodic

__all__ = ["build_model", "config", "loss", "lower_is_better", "metrics", "predict", "prepare"]
HIDDEN, WIDTH, DROPOUT = 128, 8, 0.5


def config(model: str | None = None) -> TrainConfig:
    if model not in (None, "mlp"):
        raise RecipeError(f"recipe 'credit_default': no model {model!r}; there is mlp")
    return TrainConfig(
        model="mlp",
        epochs=10,
        global_batch_size=256,
        optimizer=Optimizer(lr=2e-3, weight_decay=0.01),
        schedule=Schedule(warmup=0.1, decay="linear"),
    )


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    """Categories are one-hot: their embedding is the first layer's weights."""
    elements: list[str] = card.transforms["features"]["elements"]
    return Network(len(elements), [i for i, name in enumerate(elements) if not name.startswith("one_hot")])


class Network(nn.Module):
    numbers: Tensor  # where they are among the features

    def __init__(self, num_features: int, numbers: list[int]) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.tensor(numbers), persistent=False)
        self.periodic = Periodic(len(numbers), WIDTH)
        self.layers = nn.Sequential(
            nn.Linear(num_features + len(numbers) * WIDTH, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, 2),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) -> (B, 2)"""
        embedded = self.periodic(features[:, self.numbers])
        logits: Tensor = self.layers(torch.cat([features, embedded], dim=1))
        return logits


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, elements) as the card's transforms made them, and names them."""
    features: Tensor = batch["features"]
    return features
