"""A bag of words: the mean of its words' vectors, then one hidden layer."""

from typing import Any

from torch import Tensor, nn

from penstock.card import Card
from penstock.errors import RecipeError
from train.classification import loss, metrics, predict
from train.config import Optimizer, Schedule, TrainConfig

__all__ = ["build_model", "config", "loss", "metrics", "predict", "prepare"]
WORDS = 1 << 14  # hashed to 1 … 16,384 by dataset.py; 0 is padding, which no mean counts
WIDTH = 64


def config(model: str | None = None) -> TrainConfig:
    if model not in (None, "words"):
        raise RecipeError(f"recipe 'sms_spam': no model {model!r}; there is words")
    return TrainConfig(
        model="words",
        epochs=10,
        global_batch_size=64,
        optimizer=Optimizer(lr=5e-3),
        schedule=Schedule(warmup=0.1, decay="linear"),
    )


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    return nn.Sequential(
        nn.EmbeddingBag(WORDS + 1, WIDTH, padding_idx=0),  # (B, words) -> (B, WIDTH)
        nn.Linear(WIDTH, 32),
        nn.ReLU(),
        nn.Linear(32, 2),
    )


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, longest) int32, padded with 0."""
    words: Tensor = batch["words"]
    return words
