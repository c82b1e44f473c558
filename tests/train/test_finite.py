"""A loss that is not finite is noticed at its step, at the latest when it would be saved, and its rows are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import RunError
from train import finite
from train.distributed import World
from train.feed import Feed


@pytest.fixture
def feed(dataset: Path) -> Feed:
    return Feed(str(dataset), global_batch_size=16, lanes=4)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 230), st.integers(0, 229), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_the_first_bad_step_is_named_within_the_steps_between_two_looks(
    feed: Feed, tmp_path: Path, steps: int, bad: int, value: float
) -> None:
    losses, taken = finite.Losses(feed, tmp_path, World(torch.device("cpu"))), []

    def take() -> None:
        for step in range(steps):
            taken.append(step)
            losses.add(step, torch.tensor([value if step == bad else math.nan if step > bad else 1.0, 1.0]))
        losses.check()

    if bad >= steps:
        take()
        return
    with pytest.raises(RunError, match=f"not finite at step {bad + 1};"):
        take()
    assert 0 <= taken[-1] - bad < finite.EVERY


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_keys_of_a_step_are_those_of_all_ranks_rows(dataset: Path, tmp_path: Path, shuffle: bool) -> None:
    options: dict[str, Any] = {"global_batch_size": 16, "lanes": 4, "shuffle": shuffle, "world_size": 2}
    feeds = [Feed(str(dataset), rank=rank, **options) for rank in range(2)]
    ids = [
        [feed.card.schema.key and round(float(x[0])) for batch in feed.epoch(1, 2) for x in batch["x"]][:8]
        for feed in feeds
    ]
    step = len(feeds[0]) + 2
    with pytest.raises(RunError, match=rf"the loss was not finite at step {step + 1}; the keys of its rows"):
        finite.stop(step, feeds[1], tmp_path)
    told = json.loads((tmp_path / "nonfinite.json").read_text())["steps"]
    assert [(line["step"], line["epoch"]) for line in told] == [(step, 2), (step + 1, 2)]
    assert sorted(told[1]["keys"]) == sorted(ids[0] + ids[1])
    assert not set(told[0]["keys"]) & set(told[1]["keys"])
