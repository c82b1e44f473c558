"""One label of several: the loss, the prediction and the metric that classifying recipes share.

A recipe's model.py imports the names that it wants: `from train.classification import loss, metrics, predict`.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from train.feed import LABEL


def loss(logits: Tensor, batch: dict[str, Any], label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of (B, classes) logits with the label: (B,) summed loss and (B,) weight, 1 per row.

    Source of label smoothing: Szegedy et al., arXiv:1512.00567, section 7.
    """
    losses = F.cross_entropy(logits, batch[LABEL], reduction="none", label_smoothing=label_smoothing)
    return losses, losses.new_ones(len(losses))


def predict(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) the likeliest class, and (B,) its probability."""
    score, label = logits.softmax(dim=1).max(dim=1)
    return label, score


def accuracy(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    """(B,) 1 where the likeliest class is the label, else 0."""
    labels: Tensor = batch[LABEL]
    return (logits.argmax(dim=1) == labels).float()


metrics = {"accuracy": accuracy}
