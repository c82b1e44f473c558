"""Muon for the matrices of hidden layers: an update of momentum whose singular values are all made about 1.

torch's own makes its products in bf16 on every device. A CPU without instructions for bf16 takes as long for them as
for all the rest of a step, and they round away what ranks agree on. Here they are of bf16 on GPUs alone.

Source: Jordan et al., kellerjordan.github.io/posts/muon (2024); the size of an update, which is AdamW's: Liu et al.,
"Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from train.distributed import is_sharded

AT_ONCE = 2**22  # numbers of the matrices that are copied together for their products


class Muon(torch.optim.Muon):
    """torch's groups and state, of parameters (rows, columns); Nesterov's momentum unless a group says otherwise."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            updates = []
            for matrix in matrices:
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                updates.append(matrix.grad.lerp(average, momentum) if group["nesterov"] else average)
            for alike in _alike(updates):
                update = torch.stack([updates[i] for i in alike]) if len(alike) > 1 else updates[alike[0]][None]
                directions = orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                for i, direction in zip(alike, directions.unbind(), strict=True):
                    matrices[i].mul_(1 - lr * group["weight_decay"])
                    matrices[i].add_(direction, alpha=-lr * 0.2 * math.sqrt(max(direction.shape)))


def orthogonalised(updates: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float) -> Tensor:
    """(n, rows, columns) U S Vᵀ each -> about U Vᵀ, by Newton and Schulz' iteration: singular values end near 1."""
    a, b, c = coefficients
    x = updates.bfloat16() if updates.is_cuda else updates
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).type_as(updates)


def _alike(updates: list[Tensor]) -> Iterator[list[int]]:
    """The places of matrices whose products are made together, since many small ones take longer one by one: those of
    one shape, of AT_ONCE numbers at most. One that FSDP2 has sharded is alone."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i, update in enumerate(updates):
        key = (i,) if is_sharded(update) else tuple(update.shape)
        places = found.setdefault(key, [])
        places.append(i)
        if (len(places) + 1) * update.numel() > AT_ONCE:
            yield found.pop(key)
    yield from found.values()
