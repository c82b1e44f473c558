"""A Keras 3 model as the `nn.Module` that is trained, saved and resumed here, on Keras' torch backend.

    from train.models.keras import KerasModel, keras

    def build_model(config, card):
        return KerasModel(keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(), …]))

Keras chooses its backend when it is imported, so a recipe takes it from here. Keras keeps weights in variables of its
own, under names that depend on what else the process has built; called by `stateless_call` it takes them from whoever
calls it. So they are plain parameters and buffers, which all that trains, shards, averages or saves a module may move
or replace.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from penstock.errors import RunError

os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_TORCH_DEVICE"] = "cpu"  # where a model is made; it then goes to its rank's

try:
    import keras
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise
    raise RunError("Keras is not installed: pip install keras") from error

__all__ = ["KerasModel", "keras"]


class KerasModel(nn.Module):
    """Keras' `training` is this module's; what Keras draws then, as Dropout does, follows from torch's generator.

    Raises: RunError where the model has no weights yet, or asks for what only Keras' own `fit` does.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if keras.backend.backend() != "torch":
            raise RunError(
                f"Keras was imported before with the backend {keras.backend.backend()!r}, expected 'torch'; set "
                f"KERAS_BACKEND=torch"
            )
        if not model.built:
            raise RunError(f"Keras model {model.name!r} has no weights yet; begin it with a keras.Input")
        if special := [weight.path for weight in model.weights if weight.regularizer or weight.constraint]:
            raise RunError(
                f"Keras model {model.name!r}: {special[0]} has a regularizer or a constraint, which only Keras' fit "
                f"applies; use the configuration's optimizer.weight_decay"
            )
        self._model = (model,)  # in a tuple: the layers' own parameters are not this module's
        for i, variable in enumerate(model.trainable_variables):
            self.register_parameter(f"{i}_{variable.name}", nn.Parameter(variable.value.detach()))
        # The others are statistics, which are kept, and seeds, which are not.
        self._statistics = {
            i: f"{i}_{variable.name}"
            for i, variable in enumerate(model.non_trainable_variables)
            if any(variable is weight for weight in model.weights)
        }
        for i, name in self._statistics.items():
            self.register_buffer(name, model.non_trainable_variables[i].value.detach())

    def forward(self, inputs: Any) -> Any:
        (model,) = self._model
        device = tree_leaves(inputs)[0].device
        others = [self._other(i, variable).to(device) for i, variable in enumerate(model.non_trainable_variables)]
        with keras.device(str(device)):
            outputs, updated = model.stateless_call([*self.parameters()], others, inputs, training=self.training)
        if self.training:
            for i, name in self._statistics.items():
                self.get_buffer(name).copy_(updated[i].detach())
        return outputs

    def _other(self, i: int, variable: Any) -> Tensor:
        if i in self._statistics:
            return self.get_buffer(self._statistics[i])
        value: Tensor = variable.value
        return torch.randint(2**31 - 1, value.shape, dtype=value.dtype) if self.training else value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KerasModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        (model,) = self._model
        for variable, value in zip(model.trainable_variables, self.parameters(), strict=True):
            if keras.backend.standardize_dtype(value.dtype) != variable.dtype:
                raise RunError(
                    f"Keras model {model.name!r} computes with {variable.dtype}, as its layers were made, and not with "
                    f"{value.dtype}; choose another precision"
                )
        return self

    def keras_model(self) -> Any:
        """The Keras model itself, with the weights that this module has now."""
        (model,) = self._model
        for variable, value in zip(model.trainable_variables, self.parameters(), strict=True):
            variable.assign(value)
        for i, name in self._statistics.items():
            model.non_trainable_variables[i].assign(self.get_buffer(name))
        return model
