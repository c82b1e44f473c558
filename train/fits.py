"""Whether a recipe's model takes the rows of a dataset version that another recipe, or none, has made."""

from __future__ import annotations

from typing import Any

import torch

from penstock.card import Card
from penstock.errors import RunError
from train import acceleration
from train.config import TrainConfig
from train.feed.petastorm_reader import Batch


@torch.no_grad()
def check(recipe: Any, name: str, config: TrainConfig, card: Card, where: str, rows: Batch) -> None:
    """Computes the loss of some rows, on the CPU, with a model that is then forgotten.

    With its own dataset a recipe that fails has a bug, and shows torch's traceback. Raises: RunError.
    """
    try:
        model = acceleration.prepare(recipe.build_model(config, card).eval(), config.precision, torch.device("cpu"))
        recipe.loss(model(recipe.prepare(rows, card)), rows, config)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        fields = ", ".join(f"{field.name} {field.dtype}{list(field.shape) or ''}" for field in card.schema.fields)
        raise RunError(
            f"{where}: version {card.version} was made by {card.recipe!r} and does not fit the model of {name!r} "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); its fields are {fields}; choose the "
            f"dataset that was made for this recipe"
        ) from error
