"""A GPT of GPT-2's smallest size, 12 layers of 768, over 1,024 tokens, for benches on GPUs: what a text model asks of a
feed, which is little.

Source of the size: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, table 2; a vocabulary
of 50,304, a multiple of 64.
"""

from typing import Any

import torch
from torch import Tensor, nn

from penstock.card import Card
from train.config import Optimizer, Schedule, TrainConfig
from train.models.transformer import LanguageModel, Shape, next_token_loss

VOCABULARY, CONTEXT = 50_304, 1_024


def config(model: str | None = None) -> TrainConfig:
    return TrainConfig(
        model="gpt2",
        epochs=1,
        global_batch_size=32,
        optimizer=Optimizer(lr=6e-4, weight_decay=0.1, betas=(0.9, 0.95)),
        schedule=Schedule(decay="cosine"),
        clip_grad_norm=1.0,
    )


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    return LanguageModel(Shape(VOCABULARY, CONTEXT, layers=12, width=768, heads=12))


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, T + 1) int32 -> (B, T), all but the last token."""
    tokens: Tensor = batch["tokens"]
    return tokens[:, :-1]


def loss(logits: Tensor, batch: dict[str, Any], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """(B,) nats of a row's tokens, (B,) their number."""
    losses = next_token_loss(logits, batch["tokens"][:, 1:])
    return losses, torch.full_like(losses, CONTEXT)


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the likeliest next token, and its probability."""
    score, token = logits[:, -1].softmax(dim=1).max(dim=1)
    return token, score


metrics: dict[str, Any] = {}
