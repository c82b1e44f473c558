"""The optimizer of a configuration: AdamW, SGD or Muon, as one or two.

    optimizers = build(model, config.optimizer)
    for optimizer in optimizers: optimizer.step()

Weight decay is for matrices and kernels, not for biases, scales and norms. Muon is for the matrices of hidden layers:
embeddings, the head (the last `nn.Linear` of the model, or of each member of an ensemble), kernels and vectors are
AdamW's, in a second optimizer. The updates of both have the same size, so that one learning rate and one weight decay
serve both.
All of them step parameters that FSDP2 has sharded; Muon gathers a matrix for its products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from train.config import Optimizer
from train.distributed import is_sharded
from train.models.ensemble import Ensemble
from train.muon import Muon

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def build(model: nn.Module, config: Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that together hold each trained parameter once; build them after the model is on its device.

    Source: AdamW: Loshchilov & Hutter, arXiv:1711.05101. SGD with momentum: Sutskever et al., ICML 2013, as torch has
    it. Muon: train/muon.py.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    by_muon = _hidden_matrices(model) if config.name == "muon" else set()
    undecayed = _undecayed(model, config)
    hidden = [p for p in trained if p in by_muon]
    decayed = [p for p in trained if p not in by_muon and p not in undecayed]
    others = [p for p in trained if p not in by_muon and p in undecayed]
    groups = [
        {"params": parameters, "weight_decay": weight_decay}
        for parameters, weight_decay in ((decayed, config.weight_decay), (others, 0.0))
        if parameters
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if hidden:
        optimizers.append(_muon(hidden, config))
    if groups:
        optimizers.append(_sgd(groups, config) if config.name == "sgd" else _adamw(groups, config))
    return optimizers


def set_lr(optimizers: list[torch.optim.Optimizer], lr: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def _muon(matrices: list[nn.Parameter], config: Optimizer) -> torch.optim.Optimizer:
    return Muon(
        matrices, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum, nesterov=config.nesterov
    )


# `fused` is one kernel for all parameters, on GPUs and on CPUs.
def _adamw(groups: list[dict[str, Any]], config: Optimizer) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _sgd(groups: list[dict[str, Any]], config: Optimizer) -> torch.optim.Optimizer:
    nesterov = config.nesterov and config.momentum > 0
    # torch 2.15 has no fused SGD for the parameters of FSDP2.
    fused = None if any(is_sharded(p) for group in groups for p in group["params"]) else True
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)


def _undecayed(model: nn.Module, config: Optimizer) -> set[nn.Parameter]:
    left_out = NORMS if config.decay_embeddings else (*NORMS, *EMBEDDINGS)
    vectors = {parameter for parameter in model.parameters() if parameter.dim() < 2}
    return vectors | {p for module in model.modules() if isinstance(module, left_out) for p in module.parameters()}


def _hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    members = [m for module in model.modules() if isinstance(module, Ensemble) for m in module.members] or [model]
    heads = [[m.weight for m in member.modules() if isinstance(m, nn.Linear)][-1:] for member in members]
    embeddings = [module.weight for module in model.modules() if isinstance(module, EMBEDDINGS)]
    norms = [p for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()]
    return {p for p in model.parameters() if p.dim() == 2}.difference(*heads, embeddings, norms)
