"""The feed: a dataset version's rows as batches of tensors, exactly once per epoch.

    from train.feed import Feed
    feed = Feed("/data/mnist_dataset", split="train", global_batch_size=128)
    for batch in feed.epoch(0): ...   # {"image": (128, 28, 28) uint8, "label": (128,) int64, "_weight": (128,)}

plan.py says which rows, row_groups.py reads them, petastorm_reader.py does it ahead of time in threads, device.py
brings batches to the GPU.
"""

from train.feed.blocks import LABEL, WEIGHT
from train.feed.feed import Feed
from train.feed.petastorm_reader import Batch

__all__ = ["LABEL", "WEIGHT", "Batch", "Feed"]
