"""Losses of rows that add up to torch's own mean, with class weights and label smoothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RunError
from train.classification import brier, loss, predict_binary
from train.config import TrainConfig

LOGITS = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BATCH = {"_label": torch.arange(50) % 3}
weights = st.just(()) | st.tuples(*[st.floats(0.1, 10)] * 3)


@given(weights, st.floats(0, 0.9), st.integers(1, 49))
def test_sums_of_parts_make_torchs_mean_of_the_whole(
    class_weights: tuple[float, ...], label_smoothing: float, cut: int
) -> None:
    config = TrainConfig(class_weights=class_weights, label_smoothing=label_smoothing)
    parts = [
        loss(logits, {"_label": labels}, config)
        for logits, labels in ((LOGITS[:cut], BATCH["_label"][:cut]), (LOGITS[cut:], BATCH["_label"][cut:]))
    ]
    mean = sum(losses.sum() for losses, _ in parts) / sum(weight.sum() for _, weight in parts)
    as_tensor = torch.tensor(class_weights, dtype=torch.float64) if class_weights else None
    expected = torch.nn.functional.cross_entropy(LOGITS, BATCH["_label"], as_tensor, label_smoothing=label_smoothing)
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)


def test_there_is_a_weight_for_each_class() -> None:
    with pytest.raises(RunError, match="each of the model's 3 classes, found 2"):
        loss(LOGITS, BATCH, TrainConfig(class_weights=(1.0, 2.0)))


def test_two_classes_are_told_by_the_probability_of_the_second() -> None:
    logits = LOGITS[:, :2]
    labels, probability = predict_binary(logits)
    odds = (logits[:, 1] - logits[:, 0]).exp()
    torch.testing.assert_close(probability, odds / (1 + odds))
    assert labels.tolist() == (logits[:, 1] > logits[:, 0]).tolist()
    truth = (BATCH["_label"] > 0).long()
    torch.testing.assert_close(brier(logits, {"_label": truth}), (probability - truth) ** 2)
