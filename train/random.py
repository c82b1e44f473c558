"""Random numbers that belong to a row, not to a rank: a function of (seed, epoch, the row's place, stream, index).

There is no generator whose state must be saved, and a row gets the same ones on any number of ranks and every device.

    keys = row_keys(seed, epoch, places)        (B,) one for each row, from its place in the epoch (Plan.places)
    draw = drawing(keys)                        draw(n) -> (B, n) uniform in [0, 1), each time the next n
    seed_dropout_by_row(model)                  nn.Dropout -> Dropout, whose masks follow from the keys it was given
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[[int], Tensor]
AUGMENTATION = 0  # the stream of `augment`; the model's Dropout modules have those from 1 on
GOLDEN, FIRST, SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def seed_of(*key: int) -> int:
    """A seed of 63 bits that follows from the key alone, such as (seed, step, rank)."""
    return _hashed(key) >> 1


def seed_torch(device: torch.device, seed: int) -> None:
    """Seeds the generators that a step may draw from; torch.manual_seed asks every kind of device, and takes 0.1 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def row_keys(seed: int, epoch: int, places: Tensor) -> Tensor:
    """(B,) places of rows in an epoch, int64 -> (B,) int64, which look unrelated to each other."""
    first = _hashed((seed, epoch))
    return _mix(places + (first - 2**64 if first >= 2**63 else first))


def drawing(keys: Tensor, stream: int = AUGMENTATION) -> Draw:
    """A function that gives each row's next `n` numbers: (B, n) float32, uniform in [0, 1)."""
    salt, taken = seed_of(stream), 0

    def draw(n: int) -> Tensor:
        nonlocal taken
        first, taken = taken, taken + n
        return ((_words(keys, salt, first, n) >> 40) & 0xFFFFFF) * 2.0**-24  # 24 bits: each a float32

    return draw


class Dropout(nn.Dropout):
    """Dropout of features whose rows are the batch's: row i's mask follows from `keys[i]`, which the loop sets.

    Elsewhere (no keys, or a first dimension that is not the batch's) the mask follows from torch's generator. One
    module that is called twice in a forward pass drops the same places twice. p is rounded to 1/65536.
    """

    keys: Tensor | None = None  # (B,)
    salt: int = 0  # the seed of this module's stream

    def forward(self, x: Tensor) -> Tensor:
        keys, dropped = self.keys, round(self.p * 65536)
        if not self.training or dropped == 0:
            return x
        if dropped == 65536:
            return x * 0
        if keys is None or x.dim() == 0 or len(x) != len(keys):
            if x.device.type != "cpu":
                return F.dropout(x, self.p)
            # torch's takes its numbers one by one, on one thread: several times as long as these.
            keys = torch.randint(-(2**63), 2**63 - 1, (1,))
        features = x.numel() // len(keys)
        numbers = _words(keys, self.salt, 0, -(-features // 4)).view(torch.int16)[:, :features]  # (B, features)
        return x * (numbers >= dropped - 32768).view(x.shape) * (65536 / (65536 - dropped))


def seed_dropout_by_row(model: nn.Module) -> None:
    """Puts `Dropout` in the place of each nn.Dropout of the model."""
    stream = AUGMENTATION
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                stream += 1
                ours = Dropout(child.p)
                ours.salt = seed_of(stream)
                setattr(module, name, ours.train(child.training))


def _words(keys: Tensor, salt: int, first: int, n: int) -> Tensor:
    """(B, n) random int64: those from `first` on of each row in the stream whose seed is `salt`."""
    return _mix(_mix(keys ^ salt)[:, None] + torch.arange(first, first + n, device=keys.device))


def _mix(x: Tensor) -> Tensor:
    """penstock.digest.splitmix64 of int64, which torch shifts with its sign."""
    x = x + GOLDEN
    x = (x ^ ((x >> 30) & (2**34 - 1))) * FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * SECOND
    return x ^ ((x >> 31) & (2**33 - 1))


def _hashed(key: tuple[int, ...]) -> int:
    """64 bits that depend on all of the key, as in train.feed.plan.permutation; Python's numbers are faster for one."""
    mixed = 0
    for part in key:
        mixed = _mix_one(mixed ^ _mix_one(part))
    return mixed


def _mix_one(x: int) -> int:
    x = (x + GOLDEN) % 2**64
    x = (x ^ (x >> 30)) * FIRST % 2**64
    x = (x ^ (x >> 27)) * SECOND % 2**64
    return x ^ (x >> 31)
