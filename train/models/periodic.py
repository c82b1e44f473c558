"""Numbers for a network of tables: each is seen through waves, of which a linear layer with ReLU makes a few features.

    embedded = Periodic(num_columns=28)(numbers)     # (B, 28) -> (B, 28 * 8)

A network over the bare numbers learns functions that are too smooth for tables; through waves it comes close to trees.
Source: Gorishniy, Rubachev & Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning",
arXiv:2203.05556, section 3.3 ("PLR").
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Periodic(nn.Module):
    """relu(W_j [sin(2π c_j x_j), cos(2π c_j x_j)] + b_j) of each column j of standardised numbers."""

    def __init__(self, num_columns: int, width: int = 8, frequencies: int = 8, sigma: float = 0.2) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(num_columns, frequencies) * sigma)
        self.weight = nn.Parameter(torch.randn(num_columns, 2 * frequencies, width) / math.sqrt(2 * frequencies))
        self.bias = nn.Parameter(torch.zeros(num_columns, width))

    def forward(self, numbers: Tensor) -> Tensor:
        """(B, columns) -> (B, columns * width)"""
        angles = 2 * math.pi * numbers[:, :, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=2)  # (B, columns, 2 * frequencies)
        return F.relu(torch.einsum("bcf,cfw->bcw", waves, self.weight) + self.bias).flatten(1)
