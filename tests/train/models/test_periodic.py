"""Numbers through waves: by hand, and each column by itself."""

from __future__ import annotations

import math

import pytest
import torch

from train.models.periodic import Periodic


def test_a_number_by_hand() -> None:
    module = Periodic(num_columns=1, width=2, frequencies=1)
    with torch.no_grad():
        module.frequencies.fill_(0.5)
        module.weight.copy_(torch.tensor([[[2.0, -1.0], [3.0, 0.0]]]))
        module.bias.copy_(torch.tensor([[0.25, 0.5]]))
    sine, cosine = math.sin(math.pi * 0.3), math.cos(math.pi * 0.3)
    expected = [2 * sine + 3 * cosine + 0.25, max(0.0, 0.5 - sine)]
    assert module(torch.tensor([[0.3]]))[0].tolist() == pytest.approx(expected)


def test_a_column_reaches_its_own_features_only() -> None:
    module, numbers = Periodic(num_columns=3, width=4), torch.randn(5, 3)
    before, changed = module(numbers), module(numbers + torch.tensor([0.0, 1.0, 0.0]))
    same = (before == changed).view(5, 3, 4).all(dim=2)
    assert before.shape == (5, 12)
    assert same[:, [0, 2]].all()
    assert not same[:, 1].any()
