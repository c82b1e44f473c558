"""A finished run, read back: its recipe, the card of what it was trained on, and the model with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import nn

from penstock import card as cards
from penstock import store
from penstock.card import Card
from penstock.errors import RunError
from penstock.recipe import find
from train import acceleration
from train.config import TrainConfig
from train.run import read_config


@dataclass(frozen=True)
class Finished:
    run: str  # its folder, local or a URL
    described: dict[str, Any]  # config.json
    config: TrainConfig
    recipe: Any  # the module model.py
    card: Card
    model: nn.Module  # on the CPU, in the run's precision, set to evaluate


def load(run: str) -> Finished:
    """Raises: RunError where the folder holds no run, or one that is not finished, or damaged files."""
    described = read_config(run)
    recipe, card = find(described["recipe"]).model(), _card(run)
    config = TrainConfig.from_json(described["config"])
    model: nn.Module = recipe.build_model(config, card)
    if config.precision == "float64":
        acceleration.lay_out(model, torch.float64, None)
    weights = _weights(run)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(
            f"{run}: its weights do not fit the model that {described['recipe']} makes now ({_line(error)}); go "
            f"back to the recipe's code of that run"
        ) from error
    return Finished(run, described, config, recipe, card, model.eval())


def _card(run: str) -> Card:
    try:
        found = cards.from_json(store.read_bytes(store.join(run, "card.json")), f"{run}/card.json")
    except FileNotFoundError as error:
        raise RunError(f"{run}: card.json is missing; train again into another folder") from error
    assert isinstance(found, Card)
    return found


def _weights(run: str) -> dict[str, torch.Tensor]:
    try:
        return load_tensors(store.read_bytes(store.join(run, "model.safetensors")))
    except FileNotFoundError as error:
        raise RunError(f"{run}: the run is not finished (no model.safetensors); go on with `penstock train`") from error
    except SafetensorError as error:
        raise RunError(
            f"{run}/model.safetensors: damaged ({error}); remove report.json and run `penstock train` again"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
