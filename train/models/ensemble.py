"""Several networks that learn the same rows, each from weights of its own; what they say is the mean of what each says.

    model = Ensemble(4, lambda: Classifier(shape, classes=2))

With `train.classification` every member has a loss of its own in training, so that none leans on another; evaluated,
exported and predicting they are one classifier.

Source: Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles", arXiv:1612.01474, section 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """`size` networks of inputs -> logits (B, classes)."""

    def __init__(self, size: int, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(build() for _ in range(size))

    def forward(self, inputs: object) -> Tensor:
        """(B, members, classes) logits of each in training; else (B, classes), ln of their mean probabilities."""
        logits = torch.stack([member(inputs) for member in self.members], dim=1)
        if self.training:
            return logits
        return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(len(self.members))
