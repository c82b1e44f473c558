"""The averages are those of the formula, and a model is lent them and gets its own weights back."""

from __future__ import annotations

import torch
from torch import nn

from train import ema


def test_the_average_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    averages = ema.start(model)
    expected = [p.detach().clone() for p in model.parameters()]
    for step in range(50):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        decay = ema.decay_at(0.9, step)
        ema.update(averages, model, decay)
        expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, model.parameters(), strict=True)]
    torch.testing.assert_close(averages, expected, rtol=1e-12, atol=1e-12)


def test_the_first_steps_count_more() -> None:
    decays = [ema.decay_at(0.99, step) for step in range(2000)]
    assert decays[0] == 0.1
    assert decays == sorted(decays)
    assert decays[889] < decays[891] == decays[-1] == 0.99


def test_a_model_is_lent_the_averages_and_gets_its_weights_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    averages = ema.start(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    kept = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 3))
    statistics = model[1].running_mean.clone()
    try:
        with ema.averaged(model, averages):
            for p, own in zip(model.parameters(), kept, strict=True):
                torch.testing.assert_close(p.detach(), own - 1)
            assert torch.equal(model[1].running_mean, statistics)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert all(torch.equal(p, own) for p, own in zip(model.parameters(), kept, strict=True))
