"""The learning rate as a pure function of how far the run is."""

from __future__ import annotations

import math

from train.config import Schedule


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """The factor, 0 to 1, on the highest learning rate at a step (from 0). It reaches 1 at the end of the warm-up.

    Source: linear warm-up after Goyal et al., arXiv:1706.02677; cosine decay after Loshchilov & Hutter,
    arXiv:1608.03983, eq. 5, without restarts.
    """
    num_warmup = round(schedule.warmup * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    left = (num_steps - step) / max(1, num_steps - num_warmup)  # 1 after the warm-up, 1 / n at the last step
    match schedule.decay:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        case "constant":
            return 1.0
