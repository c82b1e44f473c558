"""Floating-point operations of a model, and what share of the device's peak a run reaches (MFU).

MFU: model FLOPs utilisation, Chowdhery et al., "PaLM", arXiv:2204.02311, appendix B: the operations that the model's
products need, forward and backward, over the time and the peak. Recomputed ones do not count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from penstock.card import Card
from train.config import TrainConfig
from train.feed.petastorm_reader import Batch

# bf16 products, dense, FLOP/s of one device. The makers' data sheets, as torchtitan has them
# (https://github.com/pytorch/torchtitan, torchtitan/tools/utils.py, get_peak_flops); L4 and A10: NVIDIA's data sheets.
PEAKS = {
    "A100": 312e12,
    "A10": 125e12,
    "L4": 121e12,
    "L40S": 362e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def of_a_row(recipe: Any, config: TrainConfig, card: Card, batch: Batch) -> float | None:
    """Of the forward and backward pass of a row such as those of `batch`, without computing anything.

    None where a model does what tensors without values cannot, such as asking for a value.
    """
    try:
        with torch.device("meta"):
            model = recipe.build_model(config, card).train()
        meta = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), batch)
        inputs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), recipe.prepare(batch, card))
        with FlopCounterMode(display=False) as counter:
            loss, _ = recipe.loss(model(inputs), meta, config)
            loss.sum().backward()
    except Exception:  # a model may do anything; a run does not fail for a figure
        return None
    total: int = counter.get_total_flops()
    return total / len(batch["_weight"])


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of one device; None where it is not known, as for CPUs, and for other products than bf16's."""
    if device.type != "cuda" or precision != "bf16":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """By the longest name in the table that a device's name, such as "NVIDIA H100 80GB HBM3", has as words."""
    words = f" {name.replace('-', ' ')} "
    known = [of for of in PEAKS if all(f" {word} " in words for word in of.split())]
    return PEAKS[max(known, key=len)] if known else None
