"""Three small residual networks over log-mel spectra, which are made here of the samples: so training can change them.

For speakers whom they were not trained on (docs/log.md): recordings are played faster or slower, spectra are smoothed
until a voice's pitch is gone, and three networks err less than one. Most did batch norm, for which a run on several
ranks is not quite that on one.

`python -m bench.recipes --recipes spoken_digits`: accuracy 1.0000 on the official test rows with each of three seeds,
0.9373 over the six speakers, each held out once.
"""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from penstock.card import Card
from penstock.errors import RecipeError
from train.classification import loss, metrics, predict
from train.config import Optimizer, Schedule, TrainConfig
from train.models.ensemble import Ensemble
from train.random import Draw

__all__ = ["augment", "build_model", "config", "loss", "metrics", "predict", "prepare"]
NUM_SAMPLES, SAMPLE_RATE_HZ, WINDOW, HOP = 8000, 8000, 256, 128  # a window of 32 ms every 16 ms
NUM_MELS, LOWEST_HZ = 40, 60.0
NUM_WAVES = 13  # over the mels, that are left of a spectrum
DECIBELS = 50  # what is quieter than the loudest element by more is silence
MEMBERS = 3
SPEED = 0.15  # the logarithm of the most by which a recording is played faster or slower
STRETCH, DELAY = 0.25, 0.2  # the most that time is warped: its logarithm, and a share of half a second
SCALE, SHIFT = 0.12, 0.1  # the same of frequency, and a share of half the mels
TILT = 0.1  # 5 dB: the most that each of three waves over the frequencies adds, as another microphone would
CALM = 0.8  # from this part of the run on nothing is changed: the network ends on what it will see
NOISE = 2  # decades: the most by which a noise floor is above silence


def config(model: str | None = None) -> TrainConfig:
    if model not in (None, "cnn"):
        raise RecipeError(f"recipe 'spoken_digits': no model {model!r}; there is cnn")
    return TrainConfig(
        model="cnn",
        epochs=40,
        global_batch_size=32,
        optimizer=Optimizer(lr=3e-3, weight_decay=0.05),
        schedule=Schedule(warmup=0.1, decay="linear"),
        label_smoothing=0.1,
    )


def build_model(config: TrainConfig, card: Card) -> nn.Module:
    return Ensemble(MEMBERS, network)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2),  # (B, 32, 31, 20)
        nn.MaxPool2d(2),  # (B, 32, 15, 10)
        Residual(32),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),  # (B, 64, 8, 5)
        Residual(64),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


class Residual(nn.Module):
    """x + branch(x), which normalises before each of two convolutions: (B, C, H, W) -> the same.

    Source: He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, figure 1 (b).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
        self.branch = nn.Sequential(
            *(nn.BatchNorm2d(channels), nn.ReLU(), conv[0]),
            *(nn.BatchNorm2d(channels), nn.ReLU(), conv[1]),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


def log_mel(samples: Tensor) -> Tensor:
    """(B, 8000) -> (B, 1, 61, 40) by time and frequency: about 0 for the loudest, -1 for DECIBELS below it."""
    frames = samples.float().unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW, device=samples.device)
    power = torch.fft.rfft(frames).abs().square()  # (B, 61, 129)
    mels = power @ mel_filters(samples.device)
    loudest = mels.amax(dim=(1, 2), keepdim=True).clamp(min=1.0)  # of silence nothing is
    return logarithm(mels / loudest, noise=10 ** (-DECIBELS / 10))[:, None] @ smoothing(samples.device)


def logarithm(power: Tensor, noise: float | Tensor) -> Tensor:
    """Of power, relative to the loudest, and noise: in units of DECIBELS."""
    return (power + noise).log10() * (10 / DECIBELS)


@cache
def mel_filters(device: torch.device) -> Tensor:
    """(129, 40) triangles over the frequencies, each from its neighbours' tops, which are evenly spaced in mel.

    Source: mel = 2595 log10(1 + Hz / 700): O'Shaughnessy, "Speech Communication: Human and Machine", 1987, p. 150.
    """
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (LOWEST_HZ, SAMPLE_RATE_HZ / 2))
    tops = 700 * (10 ** (torch.linspace(lowest, highest, NUM_MELS + 2, device=device) / 2595) - 1)  # (42,) Hz
    hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, WINDOW // 2 + 1, device=device)[:, None]
    before, top, after = tops[:-2], tops[1:-1], tops[2:]
    return torch.minimum((hz - before) / (top - before), (after - hz) / (after - top)).clamp(min=0)


@cache
def smoothing(device: torch.device) -> Tensor:
    """(40, 40) what the NUM_WAVES longest cosines over the mels say of a spectrum: that of a mouth, not of its pitch.

    Source: Davis & Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition", IEEE
    Trans. ASSP 28(4), 1980, eq. 1: these are its cepstral coefficients, made a spectrum again.
    """
    mels, waves = torch.arange(NUM_MELS, device=device) + 0.5, torch.arange(NUM_WAVES, device=device)
    cosines = F.normalize(torch.cos(math.pi / NUM_MELS * torch.outer(mels, waves)), dim=0)  # (40, waves), orthogonal
    return cosines @ cosines.T


def augment(batch: dict[str, Any], config: TrainConfig, draw: Draw, progress: float) -> dict[str, Any]:
    """Plays each recording faster or slower, warps its spectrum as another mouth, tilts it as another microphone, and
    adds noise.

    Source: Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015, section 2.1; frequency is warped
    as in Jaitly & Hinton, "Vocal Tract Length Perturbation Improves Speech Recognition", ICML workshop 2013.
    """
    if progress >= CALM:
        return batch
    spectra = log_mel(played(batch["samples"], ((draw(1) * 2 - 1) * SPEED).exp()))
    n, _, _, num_mels = spectra.shape
    scale, shift, stretch, delay = (draw(4) * 2 - 1).unbind(dim=1)  # each (B,), -1 to 1
    zero = torch.zeros_like(scale)
    by_mel = torch.stack([(scale * SCALE).exp(), zero, shift * SHIFT], dim=1)
    by_time = torch.stack([zero, (stretch * STRETCH).exp(), delay * DELAY], dim=1)
    grid = F.affine_grid(torch.stack([by_mel, by_time], dim=1), [*spectra.shape], align_corners=False)
    warped = F.grid_sample(spectra + 1, grid, align_corners=False) - 1  # what comes in from outside is silence
    angles = torch.linspace(0, math.pi, num_mels, device=spectra.device)
    waves = torch.stack([angles, 2 * angles, 3 * angles]).cos()  # (3, mels)
    tilted = warped + ((draw(3) * 2 - 1) * TILT @ waves).view(n, 1, 1, num_mels)
    noise = 10 ** (NOISE * draw(1) - DECIBELS / 10)
    return {**batch, "log_mel": logarithm(10 ** (tilted * DECIBELS / 10), noise.view(n, 1, 1, 1))}


def played(samples: Tensor, speed: Tensor) -> Tensor:
    """(B, 8000) at (B, 1) times its speed, and so of higher pitch: from its beginning, with zeros behind its end."""
    places = (torch.linspace(-1, 1, NUM_SAMPLES, device=samples.device) + 1) * speed - 1  # (B, 8000), within -1 to 1
    grid = torch.stack([places, torch.zeros_like(places)], dim=2)[:, None]
    found: Tensor = F.grid_sample(samples.float()[:, None, None], grid, align_corners=True)[:, 0, 0]
    return found


def prepare(batch: dict[str, Any], card: Card) -> Tensor:
    """(B, 1, 61, 40), of samples or of what `augment` made of them."""
    spectra: Tensor = batch["log_mel"] if "log_mel" in batch else log_mel(batch["samples"])
    return spectra
