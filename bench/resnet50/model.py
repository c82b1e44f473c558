"""ResNet-50 over pictures of 224 by 224, for benches on GPUs: what an image model asks of a feed.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1, with the stride in the
3x3 convolution (Goyal et al., arXiv:1706.02677, section 5.1).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from penstock.card import Card
from train.classification import loss, metrics, predict
from train.config import Optimizer, Schedule, TrainConfig

__all__ = ["build_model", "config", "loss", "metrics", "predict", "prepare"]
NUM_CLASSES, EXPANSION = 1000, 4
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width of the 3x3 convolutions, number of blocks


def config(model: str | None = None) -> TrainConfig:
    return TrainConfig(
        model="resnet50",
        epochs=1,
        global_batch_size=256,
        optimizer=Optimizer("sgd", lr=0.1, weight_decay=1e-4),
        schedule=Schedule(decay="cosine"),
    )


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm, of the same height and width where the stride is 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Bottleneck(nn.Module):
    """x + 1x1(3x3(1x1(x)))"""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.reduce, self.middle, self.expand = (
            conv(inputs, width, 1),
            conv(width, width, 3, stride),
            conv(width, outputs, 1),
        )
        self.shortcut = conv(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 width, H / stride, W / stride)"""
        h = F.relu(self.reduce(x))
        h = F.relu(self.middle(h))
        return F.relu(self.expand(h) + self.shortcut(x))


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]  # (B, 64, 56, 56)
    channels = 64
    for stage, (width, num_blocks) in enumerate(STAGES):
        for block in range(num_blocks):
            layers.append(Bottleneck(channels, width, 2 if stage and not block else 1))
            channels = width * EXPANSION
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, NUM_CLASSES))


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, 3, 224, 224) of 0 to 255 -> float32, about -2 to 2."""
    images: Tensor = batch["image"]
    return (images.float() - 128) / 64
