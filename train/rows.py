"""A rank's rows of a step: their places in the epoch, and the parts in which they go through the model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from train.distributed import World
from train.feed import WEIGHT
from train.feed.petastorm_reader import Batch
from train.feed.plan import Plan


def places(plan: Plan, batch: int, world: World) -> torch.Tensor:
    """(B,) the places of a rank's rows in the epoch's order; where it has none left, one for the row of padding."""
    found = torch.from_numpy(plan.places(batch, world.rank, world.size))
    found = found if len(found) else torch.tensor([plan.num_rows])
    return found.pin_memory().to(world.device, non_blocking=True) if world.device.type == "cuda" else found


def micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """A rank's batch in `count` parts; where it has fewer rows, some parts are a row that counts for nothing."""
    if count == 1:
        yield batch
        return
    num_rows = len(batch[WEIGHT])
    for number in range(count):
        start, stop = num_rows * number // count, num_rows * (number + 1) // count
        if start < stop:
            yield {name: values[start:stop] for name, values in batch.items()}
        else:
            part = {name: values[:1] for name, values in batch.items()}
            yield {**part, WEIGHT: torch.zeros_like(part[WEIGHT])}
