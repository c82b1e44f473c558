"""The learning rate as a pure function of how far the run is."""

from __future__ import annotations

import math

from train.config import Schedule


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """The factor, 0 to 1, on the highest learning rate at a step (from 0).

    It reaches 1 at the end of the warm-up, and `final` where the step after the last one would be. "wsd" (warm-up,
    stable, decay) stays at 1 until the last `cooldown` of all steps, in which it falls linearly.

    Source: linear warm-up after Goyal et al., arXiv:1706.02677; cosine decay after Loshchilov & Hutter,
    arXiv:1608.03983, eq. 5, without restarts; wsd after Hu et al., arXiv:2404.06395, section 4, its linear cooldown
    after Hägele et al., arXiv:2405.18392.
    """
    num_warmup = round(schedule.warmup * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    num_falling = num_steps - num_warmup
    if schedule.decay == "wsd":
        num_falling = min(num_falling, round(schedule.cooldown * num_steps))
    left = min(1.0, (num_steps - step) / max(1, num_falling))  # 1 where it begins to fall, 1 / n at the last step
    match schedule.decay:
        case "linear" | "wsd":
            shape = left
        case "cosine":
            shape = 0.5 * (1 - math.cos(math.pi * left))
        case "constant":
            return 1.0
    return schedule.final + (1 - schedule.final) * shape
