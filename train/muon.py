"""Muon for the matrices of hidden layers: an update of momentum whose singular values are all made about 1.

torch's own makes its products in bf16 on every device. A CPU without instructions for bf16 takes as long for them as
for all the rest of a step, and they round away what ranks agree on. Here they are of bf16 on GPUs alone.

Source: Jordan et al., kellerjordan.github.io/posts/muon (2024); the size of an update, which is AdamW's: Liu et al.,
"Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """torch's groups and state, of parameters (rows, columns); Nesterov's momentum unless a group says otherwise."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = matrix.grad.lerp(average, momentum) if group["nesterov"] else average
                matrix.mul_(1 - lr * group["weight_decay"])
                direction = orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.add_(direction, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonalised(update: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float) -> Tensor:
    """(rows, columns) U S Vᵀ -> about U Vᵀ, by Newton and Schulz' iteration: singular values end near 1."""
    a, b, c = coefficients
    x = update.bfloat16() if update.is_cuda else update
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).type_as(update)
