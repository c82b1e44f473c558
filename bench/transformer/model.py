"""A small decoder-only transformer over 128 bytes of text, for benches: each token given those before it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.card import Card
from train.config import Optimizer, Schedule, TrainConfig

VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS = 256, 128, 128, 4, 2


def config(model: str | None = None) -> TrainConfig:
    return TrainConfig(
        model="transformer",
        epochs=1,
        global_batch_size=32,
        optimizer=Optimizer(lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95)),
        schedule=Schedule(decay="cosine"),
        clip_grad_norm=1.0,
    )


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, VOCABULARY)"""
        length = tokens.shape[1]
        h = self.tokens(tokens) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        logits: Tensor = self.head(self.norm(h))
        return logits


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    return Transformer()


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, T + 1) uint8 -> (B, T) int64, all but the last token."""
    text: Tensor = batch["text"]
    return text[:, :-1].long()


def loss(logits: Tensor, batch: dict[str, Any], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """(B,) summed over the tokens of a row, (B,) their number."""
    targets = batch["text"][:, 1:].long()
    losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(dim=1)
    return losses, torch.full_like(losses, targets.shape[1])


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the likeliest next token, and its probability."""
    score, token = logits[:, -1].softmax(dim=1).max(dim=1)
    return token, score


metrics: dict[str, Any] = {}
