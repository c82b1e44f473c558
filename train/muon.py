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
            lr = group["lr"]
            for matrices in _alike([matrix for matrix in group["params"] if matrix.grad is not None]):
                updates = [self._update(matrix, group) for matrix in matrices]
                stacked = torch.stack(updates) if len(updates) > 1 else updates[0][None]
                directions = orthogonalised(stacked, group["ns_coefficients"], group["ns_steps"], group["eps"])
                for matrix, direction in zip(matrices, directions.unbind(), strict=True):
                    matrix.mul_(1 - lr * group["weight_decay"])
                    matrix.add_(direction, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))

    def _update(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """The gradient with its momentum, whose average is moved on."""
        assert matrix.grad is not None
        state, momentum = self.state[matrix], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        average: Tensor = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum) if group["nesterov"] else average


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


def _alike(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Those whose products are made together, since many small ones take longer one by one: of one shape, and of
    AT_ONCE numbers at most. One that FSDP2 has sharded is alone."""
    found: dict[tuple[int, ...], list[Tensor]] = {}
    for i, matrix in enumerate(matrices):
        key = (i,) if is_sharded(matrix) else tuple(matrix.shape)
        together = found.setdefault(key, [])
        together.append(matrix)
        if (len(together) + 1) * matrix.numel() > AT_ONCE:
            yield found.pop(key)
    yield from found.values()
