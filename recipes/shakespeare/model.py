"""A GPT of 1.2 million weights over characters, or over byte pairs; its loss is in nats per character for both.

`characters` sees 512 of them. It is judged by a passage behind the 256 characters before it; training begins each time
at another character, and learns all that it sees. `byte_pairs` sees a passage's tokens behind token 0, with which every
text begins.

`python -m bench.recipes --recipes shakespeare`, trained on train+val, three seeds: 1.448 nats on test, and 1.488 of
`byte_pairs`, where five-grams have 1.691. `characters` learnt from train alone has 1.408 on val and
1.686 on test: two thirds of the last tenth are of a play whose beginning, and so the names of who speaks, are in val.
"""

from typing import Any

import torch
from torch import Tensor, nn

from penstock import tokens
from penstock.card import Card
from penstock.errors import RecipeError
from train.config import Optimizer, Schedule, TrainConfig
from train.models.transformer import LanguageModel, Shape, next_token_loss
from train.random import Draw

__all__ = ["augment", "build_model", "config", "loss", "metrics", "predict", "prepare", "speaks"]
LAYERS, WIDTH, HEADS = 4, 160, 5
CONTEXT = 512  # characters, or tokens of a passage of half as many
DROPOUT = 0.1
BEGIN = 0
IGNORED = -100  # a target that torch's cross-entropy counts as 0


def config(model: str | None = None) -> TrainConfig:
    if model not in (None, "characters", "byte_pairs"):
        raise RecipeError(f"recipe 'shakespeare': no model {model!r}; there are characters and byte_pairs")
    return TrainConfig(
        model=model or "characters",
        epochs=4,
        global_batch_size=8,
        lanes=8,
        precision="fastest",
        optimizer=Optimizer("muon", lr=6e-3, weight_decay=0.1, betas=(0.9, 0.95), momentum=0.95),
        schedule=Schedule(warmup=0.03, decay="linear"),
        ema_decay=0.998,
    )


def speaks(config: TrainConfig) -> tuple[str, list[int]]:
    """The field whose tokeniser the model speaks, and the tokens that every text begins with."""
    return ("letters", []) if config.model == "characters" else ("tokens", [BEGIN])


class Reader(nn.Module):
    """The language model, given what it reads of a batch."""

    def __init__(self, field: str, model: LanguageModel) -> None:
        super().__init__()
        self.field, self.model = field, model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, T) -> (B, T, vocabulary)"""
        logits: Tensor = self.model(inputs[self.field])
        return logits


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    field, _ = speaks(config)
    size = tokens.vocabulary_size(card, field)
    return Reader(field, LanguageModel(Shape(size, CONTEXT, LAYERS, WIDTH, HEADS, dropout=DROPOUT)))


def augment(batch: dict[str, Any], config: TrainConfig, draw: Draw, progress: float) -> dict[str, Any]:
    """Begins each row at one of its letters behind which there are CONTEXT; all that follows is to be predicted."""
    if config.model != "characters":
        return batch
    letters, length = batch["letters"], batch["_letters_length"]
    latest = (length - CONTEXT - 1).clamp(min=0)
    first = (draw(1)[:, 0] * (latest + 1)).long()
    places = first[:, None] + torch.arange(CONTEXT + 1, device=letters.device)
    cut = letters.gather(1, places.clamp(max=letters.shape[1] - 1))
    num_letters = (length - first).clamp(max=CONTEXT + 1)
    return {**batch, "letters": cut, "num_before": torch.zeros_like(length), "num_characters": num_letters}


def prepare(batch: dict[str, Any], card: Card) -> dict[str, Tensor]:
    """For each model (B, T) tokens, each of which is followed by the target at its place."""
    letters, pairs = batch["letters"], batch["tokens"]
    begin = torch.full_like(pairs[:, :1], BEGIN)
    return {"letters": letters[:, :CONTEXT], "tokens": torch.cat([begin, pairs[:, :-1]], dim=1)}


def loss(logits: Tensor, batch: dict[str, Any], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """(B,) nats of a row's targets, (B,) the characters that they are."""
    if config.model == "byte_pairs":
        return next_token_loss(logits, batch["tokens"], batch["_tokens_length"]), batch["num_characters"].float()
    targets, before = batch["letters"][:, 1 : CONTEXT + 1], batch["num_before"][:, None]
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    is_own = (places >= before) & (places < before + batch["num_characters"][:, None])
    losses = next_token_loss(logits[:, : targets.shape[1]], targets.masked_fill(~is_own, IGNORED))
    return losses, is_own.sum(dim=1).float()


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the likeliest token after a row's, and its probability."""
    score, token = logits[:, -1].softmax(dim=1).max(dim=1)
    return token, score


metrics: dict[str, Any] = {}
