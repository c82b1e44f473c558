"""One label of several: the loss, the prediction and the metric that classifying recipes share.

A recipe's model.py imports the names that it wants: `from train.classification import loss, metrics, predict`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from penstock.errors import RunError
from train.config import TrainConfig
from train.feed import LABEL


def loss(logits: Tensor, batch: dict[str, Any], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """Cross-entropy of (B, classes) logits with the label: (B,) summed loss and (B,) weight, that of the row's class.

    One sum divided by the other is what torch's `cross_entropy` calls the mean, also with both settings together.
    Source of label smoothing: Szegedy et al., arXiv:1512.00567, section 7. Of an ensemble in training, whose logits
    are (B, members, classes), it is the mean of the members' losses.

    Raises: RunError where there are not as many class weights as classes.
    """
    if logits.dim() == 3:
        of_members = [loss(member, batch, config) for member in logits.unbind(dim=1)]
        return torch.stack([losses for losses, _ in of_members]).mean(dim=0), of_members[0][1]
    labels: Tensor = batch[LABEL]
    if not config.class_weights:
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
        return losses, torch.ones_like(losses)
    if len(config.class_weights) != logits.shape[1]:
        raise RunError(
            f"config: expected a class weight for each of the model's {logits.shape[1]} classes, found "
            f"{len(config.class_weights)}"
        )
    weights = _on_device(config.class_weights, logits.device, logits.dtype)
    losses = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=config.label_smoothing)
    return losses, weights[labels]


@cache  # a copy in each step would make the host wait for the device
def _on_device(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the likeliest class, and (B,) its probability."""
    score, label = logits.softmax(dim=1).max(dim=1)
    return label, score


def predict_binary(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2) logits -> (B,) 1 where the second class is likelier, else 0, and (B,) its probability.

    With that as the score, ROC AUC follows from predictions and labels; being no mean over rows, it is no metric.
    """
    probability = logits.softmax(dim=1)[:, 1]
    return (probability > 0.5).long(), probability


def brier(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """(B,) (p - y)² of the second class of two, 0 to 1, the lower the better.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78(1), 1950,
    halved.
    """
    labels: Tensor = batch[LABEL]
    return (logits.softmax(dim=1)[:, 1] - labels.float()) ** 2


def accuracy(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """(B,) 1 where the likeliest class is the label, else 0."""
    labels: Tensor = batch[LABEL]
    return (logits.argmax(dim=1) == labels).float()


lower_is_better = {"brier"}  # a recipe that has such metrics says so, for `penstock release`
metrics = {"accuracy": accuracy}
binary_metrics = {"accuracy": accuracy, "brier": brier}
