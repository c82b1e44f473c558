"""How a model computes on its device: in which precision and memory format, with torch's kernels or compiled ones."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from penstock.errors import RunError
from train.config import Compile, Precision
from train.distributed import Parallel, blocks


def resolve(precision: Precision, device: torch.device) -> Precision:
    """ "auto" is bf16 on GPUs that compute with it, "fastest" is that on CPUs too; float32 elsewhere."""
    if precision not in ("auto", "fastest"):
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if precision == "fastest" and computes_bf16() else "float32"


def computes_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16: others take many times as long for them as in float32."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Around a forward pass and its loss: with bf16, products are of bf16 and sums, norms and losses of float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve(precision, device) == "bf16")


def prepare(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """The model on its device; pictures, (B, channels, height, width), reach convolutions channels-last.

    Tensor cores want them so, and on CPUs pooling and its gradient are several times faster. What a convolution is
    given decides for all that follows. Its weights stay as they are: FSDP takes no others, and the fused optimizers
    pair a weight with its saved state by their places in memory.
    """
    dtype = torch.float64 if precision == "float64" else None
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    lay_out(model.to(device), dtype, torch.channels_last if convolves else None)
    return model


def compile_forward(model: nn.Module, mode: Compile | None, device: torch.device, parallel: Parallel) -> None:
    """Lets torch.compile make kernels of the model, or with FSDP of each of its blocks, which it gathers one by one.

    Hooks stay outside, and so do those of DDP and FSDP. Raises: RunError where this machine has no compiler.
    """
    if mode is None:
        return
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise RunError("--compile: torch.compile needs a C++ compiler here, found no g++; install it, or leave it out")
    for module in (parallel == "fsdp" and blocks(model)) or [model]:
        module.forward = torch.compile(module.forward, mode=mode)


def lay_out(model: nn.Module, dtype: torch.dtype | None, memory_format: torch.memory_format | None) -> None:
    """Changes the model's floating-point weights to a type, and what it is called with to that and a memory format."""
    if dtype is None and memory_format is None:
        return

    def fit(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        lies = memory_format if memory_format is not None and tensor.dim() == 4 else torch.preserve_format
        return tensor.to(dtype=dtype or tensor.dtype, memory_format=lies)

    def fit_all(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return tree_map_only(Tensor, fit, inputs)

    model.to(dtype=dtype)
    model.register_forward_pre_hook(fit_all)
