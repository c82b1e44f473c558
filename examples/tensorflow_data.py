"""A `tf.data.Dataset` from a feed, and TensorFlow's Keras over it, that goes on where it was.

    pip install tensorflow-cpu
    python examples/tensorflow_data.py demo/dataset /tmp/data.keras       # `make demo` makes the dataset
    python examples/tensorflow_data.py demo/dataset /tmp/data.keras 100   # the same run, up to step 100

A generator of the feed's batches as NumPy arrays makes the Dataset. They come shuffled and whole: there is nothing to
shuffle or batch, and `prefetch` lets TensorFlow take the next one while it trains. The optimizer counts its steps and
is saved with the model: so the file alone says where the feed goes on.
"""

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from train.feed import Feed

SIGNATURE = (
    tf.TensorSpec((None, 8, 8), tf.uint8),
    tf.TensorSpec((None,), tf.int64),
    tf.TensorSpec((None,), tf.float32),
)


def dataset(epoch: int, first: int, count: int, keys: list[str]) -> tf.data.Dataset:
    """Of an epoch `count` batches from the `first` on; the keys of their rows are added to `keys`."""

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        for batch in islice(feed.epoch(epoch, first), count):
            keys.extend(batch["id"])
            yield tuple(batch[name].numpy() for name in ("image", "label", "_weight"))

    return tf.data.Dataset.from_generator(batches, output_signature=SIGNATURE).prefetch(2)


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
    history = model.fit(dataset(epoch, first, count, keys), epochs=epoch + 1, initial_epoch=epoch, **options)
    (loss,) = history.history["loss"]
    print(f"step {int(model.optimizer.iterations)}: {len(keys)} rows, {len(set(keys))} keys, loss {loss:.4f}")
    model.save(checkpoint)
