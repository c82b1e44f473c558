"""Keras' `fit` over a feed, that goes on where it was.

    python examples/keras_fit.py demo/dataset /tmp/fit.keras       # `make demo` makes the dataset
    python examples/keras_fit.py demo/dataset /tmp/fit.keras 100   # the same run, up to step 100

`fit` takes a generator of (inputs, labels, weights), here one epoch at a time. The optimizer counts its steps and is
saved with the model: so the file alone says where the feed goes on.
"""

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers
from torch import Tensor

from train.feed import Feed


def batches(epoch: int, first: int, count: int, keys: list[str]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of an epoch `count` batches from the `first` on; the keys of their rows are added to `keys`."""
    for batch in islice(feed.epoch(epoch, first), count):
        keys += batch["id"]
        yield batch["image"], batch["label"], batch["_weight"]


dataset_url, checkpoint, num_steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 60

feed = Feed(dataset_url, split="train", global_batch_size=64, columns=["id", "image", "label"])
if checkpoint.exists():
    model = keras.saving.load_model(checkpoint)
else:
    keras.utils.set_random_seed(0)
    hidden = [layers.Rescaling(1 / 16), layers.Flatten(), layers.Dense(64, activation="relu")]
    model = keras.Sequential([keras.Input((8, 8)), *hidden, layers.Dense(10)])
    model.compile(keras.optimizers.AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

while (step := int(model.optimizer.iterations)) < num_steps:
    epoch, first = divmod(step, len(feed))
    keys: list[str] = []
    count = min(len(feed) - first, num_steps - step)
    options = {"steps_per_epoch": count, "shuffle": False, "verbose": 0}
    history = model.fit(batches(epoch, first, count, keys), epochs=epoch + 1, initial_epoch=epoch, **options)
    (loss,) = history.history["loss"]
    print(f"step {int(model.optimizer.iterations)}: {len(keys)} rows, {len(set(keys))} keys, loss {loss:.4f}")
    model.save(checkpoint)
