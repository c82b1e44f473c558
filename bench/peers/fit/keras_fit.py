"""Keras' `fit` over arrays, as its guides write it, on its torch or TensorFlow backend.

On torch pictures are channels first, as torch's kernels want them; TensorFlow's CPU kernels take channels last only.
"""

from __future__ import annotations

import os
import sys
import time

# Keras reads its backend when it is imported.
os.environ["KERAS_BACKEND"] = "tensorflow" if "keras_tensorflow" in sys.argv else "torch"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
from keras import layers

from bench.peers.fit.data import NUM_CLASSES, Job, serve


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, job: Job) -> None:
        num_steps = job.epochs * -(-len(job.train[1]) // job.batch_size)
        self.lr, self.num_steps, self.num_warmup = job.lr, num_steps, max(1, round(job.warmup * num_steps))

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        up, down = (step + 1) / self.num_warmup, (self.num_steps - step) / (self.num_steps - self.num_warmup)
        return self.lr * keras.ops.minimum(up, down)


class Clock(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def build(model: str, shape: tuple[int, ...]) -> keras.Model:
    hidden = [] if model == "mlp" else [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2)]
    dense = [layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(NUM_CLASSES)]
    return keras.Sequential([keras.Input(shape), *hidden, *dense])


def fit(job: Job) -> tuple[list[float], float]:
    keras.utils.set_random_seed(job.seed)
    first = keras.backend.backend() == "torch"
    keras.config.set_image_data_format("channels_first" if first else "channels_last")
    images, test_images = (x[:, None] if first else x[..., None] for x in (job.train[0], job.test[0]))
    labels, test_labels = (keras.utils.to_categorical(y, NUM_CLASSES) for y in (job.train[1], job.test[1]))
    model = build(job.model, images.shape[1:])
    optimizer = keras.optimizers.AdamW(Schedule(job), weight_decay=job.weight_decay, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=job.label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"])
    clock = Clock()
    model.fit(images, labels, job.batch_size, job.epochs, callbacks=[clock], verbose=0)
    _, accuracy = model.evaluate(test_images, test_labels, 1000, verbose=0)
    return clock.seconds, float(accuracy)


if __name__ == "__main__":
    backend = os.environ["KERAS_BACKEND"]
    packages = ["keras", "torch" if backend == "torch" else "tensorflow-cpu"]
    serve(["keras_torch", "keras_tensorflow"], fit, packages)
