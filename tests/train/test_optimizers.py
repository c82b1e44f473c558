"""Which parameter is moved by what, and that the steps are those of the sources."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from train import muon, optimizers
from train.config import Optimizer


class Language(nn.Module):
    """An embedding, a hidden block with all kinds of parameters, and a head that may be tied to the embedding."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.hidden = nn.Linear(6, 6)
        self.norm = nn.LayerNorm((1, 6))  # its scale has two dimensions, and is no matrix
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(self.tokens(x)[:, :, None]).transpose(1, 2)  # (B, 1, 6)
        return self.head(self.norm(self.hidden(h).relu()))[:, 0]


def held(model: nn.Module, built: list[torch.optim.Optimizer]) -> dict[str, tuple[str, float]]:
    """Parameter -> (its optimizer, its weight decay)."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [
        (names[p], (type(optimizer).__name__, group["weight_decay"]))
        for optimizer in built
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len(found) == len(dict(found))  # each once
    return dict(found)


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("sgd", "SGD")])
def test_matrices_and_kernels_decay_and_nothing_else_does(name: Any, kind: str) -> None:
    model = Language()
    assert held(model, optimizers.build(model, Optimizer(name, weight_decay=0.1))) == {
        "tokens.weight": (kind, 0.1),
        "conv.weight": (kind, 0.1),
        "hidden.weight": (kind, 0.1),
        "head.weight": (kind, 0.1),
        "conv.bias": (kind, 0.0),
        "hidden.bias": (kind, 0.0),
        "norm.weight": (kind, 0.0),
        "norm.bias": (kind, 0.0),
    }
    without = held(model, optimizers.build(model, Optimizer(name, weight_decay=0.1, decay_embeddings=False)))
    assert without["tokens.weight"] == (kind, 0.0)


@pytest.mark.parametrize("tied", [False, True])
def test_muon_has_the_hidden_matrices_and_adamw_the_rest(tied: bool) -> None:
    model = Language(tied)
    found = held(model, optimizers.build(model, Optimizer("muon", weight_decay=0.1)))
    assert [name for name, (kind, _) in found.items() if kind == "Muon"] == ["hidden.weight"]
    others = {"tokens.weight": 0.1, "conv.weight": 0.1, "head.weight": 0.1}
    others |= dict.fromkeys(["conv.bias", "hidden.bias", "norm.weight", "norm.bias"], 0.0)
    if tied:
        del others["head.weight"]
    assert {name: decay for name, (kind, decay) in found.items() if kind == "AdamW"} == others


def loss(model: Language) -> torch.Tensor:
    """Of predicting a token from itself."""
    x = torch.arange(11)
    return nn.functional.cross_entropy(model(x), x)


def steps(model: Language, built: list[torch.optim.Optimizer], count: int) -> None:
    for _ in range(count):
        loss(model).backward()
        for optimizer in built:
            optimizer.step()
            optimizer.zero_grad()


def test_adamw_steps_as_its_paper_says() -> None:
    """Against the paper's algorithm 2, in float64."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    model = nn.Module()
    model.register_parameter("w", w)
    config = Optimizer(lr=0.1, weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3)
    (optimizer,) = optimizers.build(model, config)
    expected, m, v = w.detach().clone(), torch.zeros(()), torch.zeros(())
    for t in range(1, 6):
        gradient = torch.randn(3, 2, dtype=torch.float64)
        w.grad = gradient
        optimizer.step()
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        expected -= 0.1 * 0.3 * expected
        expected -= 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-3)
    torch.testing.assert_close(w.detach(), expected, rtol=1e-12, atol=1e-12)


def test_muon_moves_a_matrix_by_its_orthogonal_part_as_far_as_adamw_would() -> None:
    """For the first gradient G = U S V': about lr * 0.2 * sqrt(max(A, B)) * U V', whatever the singular values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64, bias=False), nn.Linear(64, 2))
    u, _, v = torch.linalg.svd(torch.randn(64, 32), full_matrices=False)
    before = model[0].weight.detach().clone()
    optimizer, _ = optimizers.build(model, Optimizer("muon", lr=0.5))
    model[0].weight.grad = u @ torch.diag(torch.linspace(0.1, 5, 32)) @ v
    optimizer.step()
    moved = (before - model[0].weight.detach()) / (0.5 * 0.2 * 64**0.5)
    along = u.T @ moved @ v.T
    assert all(0.6 < value < 1.3 for value in along.diag().tolist())  # the post: singular values of 0.7 to 1.2
    assert (along - torch.diag(along.diag())).abs().max() < 0.05
    assert float(moved.square().mean().sqrt()) == pytest.approx(1 / 64**0.5, rel=0.3)  # so 0.2 as RMS of the update


def test_muon_moves_matrices_together_as_it_would_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "AT_ONCE", 2 * 12 * 8)
    torch.manual_seed(0)
    shapes = [(12, 8), (8, 8), (12, 8), (8, 12), (12, 8), (40, 40), (12, 8), (8, 8), (12, 8)]
    together = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    alone = [nn.Parameter(matrix.detach().clone()) for matrix in together]
    optimizer = muon.Muon(together, lr=0.1, weight_decay=0.1)
    others = [muon.Muon([matrix], lr=0.1, weight_decay=0.1) for matrix in alone]
    for _ in range(3):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for each in (optimizer, *others):
            each.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_each_learns_and_goes_on_bit_for_bit_from_its_state(name: Any) -> None:
    def start() -> Language:
        torch.manual_seed(1)
        return Language()

    config = Optimizer(name, lr=0.05, weight_decay=0.01)
    whole, cut = start(), start()
    before = loss(whole)
    steps(whole, optimizers.build(whole, config), 30)
    assert loss(whole) < before / 2

    built = optimizers.build(cut, config)
    steps(cut, built, 15)
    again = start()
    again.load_state_dict(cut.state_dict())
    restored = optimizers.build(again, config)
    for new, old in zip(restored, built, strict=True):
        new.load_state_dict(old.state_dict())
    steps(again, restored, 15)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_learning_rate_reaches_every_group() -> None:
    built = optimizers.build(Language(), Optimizer("muon", weight_decay=0.1))
    optimizers.set_lr(built, 0.25)
    assert [group["lr"] for optimizer in built for group in optimizer.param_groups] == [0.25] * 3
