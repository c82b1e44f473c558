"""The mnist recipe without augmentation, which the peers of bench.fit do not have."""

from recipes.mnist.model import build_model, config, loss, metrics, predict, prepare

__all__ = ["build_model", "config", "loss", "metrics", "predict", "prepare"]
