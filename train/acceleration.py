"""How a model computes on its device: in which precision and memory format, with torch's kernels or compiled ones."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from penstock.errors import RunError
from train.config import Precision


def resolve(precision: Precision, device: torch.device) -> Precision:
    """ "auto" is bf16 on GPUs that compute with it, float32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Around a forward pass and its loss: with bf16, products are of bf16 and sums, norms and losses of float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve(precision, device) == "bf16")


def prepare(model: nn.Module, precision: Precision, device: torch.device, compiled: bool) -> nn.Module:
    """The model on its device; what it is called with becomes float64 or channels-last as its weights are.

    Pictures, (B, channels, height, width), lie channels-last on GPUs, as their convolutions want them.
    """
    dtype = torch.float64 if precision == "float64" else None
    memory_format = torch.channels_last if device.type == "cuda" else None
    model.to(device=device, dtype=dtype)
    if memory_format is not None:
        model.to(memory_format=memory_format)

    def fit(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(dtype=dtype, memory_format=memory_format if tensor.dim() == 4 else torch.preserve_format)

    def fit_all(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return tree_map_only(Tensor, fit, inputs)

    if dtype is not None or memory_format is not None:
        model.register_forward_pre_hook(fit_all)
    if compiled:
        if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
            raise RunError(
                "--compile: torch.compile needs a C++ compiler here, found no g++; install it, or leave it out"
            )
        model.compile()
    return model
