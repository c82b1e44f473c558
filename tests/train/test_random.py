"""Random numbers of rows: the same for any number of ranks, uniform, and unrelated between rows, streams and epochs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from penstock.digest import splitmix64
from train import random
from train.feed.plan import Plan

PLACES = torch.arange(4000)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.sampled_from([(12, 1), (12, 2), (12, 3), (24, 1)]),
    st.integers(0, 2**31),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_row_has_one_place_for_any_number_of_ranks(
    groups: list[int], shape: tuple[int, int], seed: int, shuffle: bool
) -> None:
    lanes, share = shape
    plan = Plan(np.array(groups), lanes * share, lanes, seed, shuffle=shuffle)
    for world_size in (1, 2, 3, 4):
        seen: dict[tuple[int, int], int] = {}
        for batch in range(plan.num_batches):
            for rank in range(world_size):
                rows = [
                    (p.group, row) for p in plan.pieces(batch, 1, rank, world_size) for row in range(p.start, p.stop)
                ]
                places = plan.places(batch, rank, world_size).tolist()
                assert len(rows) == len(places)
                seen |= dict(zip(rows, places, strict=True))
        assert sorted(seen.values()) == list(range(plan.num_rows))
        if world_size == 1:
            alone = seen
        assert seen == alone


def test_numbers_stay_the_same_for_ever() -> None:
    keys = random.row_keys(7, 3, torch.tensor([0, 1, 10**12]))
    assert keys.tolist() == [-3982259485656054960, -9142341834652944930, 2607011018605679594]
    assert random.seed_of(1, 2, 3) == 4906264314479254948


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_mixing_is_splitmix64(values: list[int]) -> None:
    found = random._mix(torch.tensor(values)).numpy().view(np.uint64)
    assert (found == splitmix64(np.array(values, np.int64).view(np.uint64))).all()


def test_a_draw_gives_the_next_numbers() -> None:
    keys = random.row_keys(0, 0, PLACES[:5])
    one, both = random.drawing(keys), random.drawing(keys)
    assert torch.equal(torch.cat([one(2), one(3)], dim=1), both(5))


def test_a_rows_numbers_do_not_depend_on_the_rows_beside_it() -> None:
    keys = random.row_keys(0, 0, PLACES[:10])
    assert torch.equal(random.drawing(keys[4:7])(3), random.drawing(keys)(3)[4:7])


@pytest.mark.parametrize(("seed", "epoch", "stream"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63, 10**6, 5)])
def test_numbers_are_uniform(seed: int, epoch: int, stream: int) -> None:
    numbers = random.drawing(random.row_keys(seed, epoch, PLACES), stream)(25).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = torch.histc(numbers, 100, 0, 1)
    expected = numbers.numel() / 100
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - 99) < 5 * math.sqrt(2 * 99)


def test_rows_streams_epochs_and_seeds_are_unrelated() -> None:
    def numbers(seed: int, epoch: int, stream: int) -> torch.Tensor:
        return random.drawing(random.row_keys(seed, epoch, PLACES), stream)(5).double() - 0.5

    first = numbers(0, 0, 0)
    others = [numbers(1, 0, 0), numbers(0, 1, 0), numbers(0, 0, 1), first.roll(1, 0), first.roll(1, 1)]
    for other in others:
        assert abs(float((first * other).mean()) * 12) < 5 / math.sqrt(first.numel())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_drops_that_share_and_keeps_the_mean(p: float) -> None:
    model = nn.Sequential(nn.Dropout(p), nn.Dropout(p))
    random.seed_dropout_by_row(model)
    first, second = model
    assert isinstance(first, random.Dropout)
    first.keys = second.keys = random.row_keys(0, 0, PLACES)
    ones = torch.ones(4000, 7, 3, dtype=torch.float64)
    one, other = first(ones), second(ones)
    assert float((one == 0).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / ones.numel()))
    if p < 1:
        assert float(one.max()) == pytest.approx(1 / (1 - p), rel=1e-4)
    if 0 < p < 1:
        assert not torch.equal(one, other)
        assert torch.equal(first(ones), one)
    assert torch.equal(first.eval()(ones), ones)


@pytest.mark.parametrize("shape", [(8, 64), (3, 5, 7), ()])
def test_dropout_without_rows_follows_from_torchs_generator(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    random.seed_dropout_by_row(model)
    ones = torch.ones(shape)

    def masks() -> torch.Tensor:
        torch.manual_seed(0)
        return torch.stack([model(ones) for _ in range(100)])

    without = masks()
    assert set(without.unique().tolist()) == {0.0, 2.0}
    share = float((without == 0).double().mean())
    assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(without.numel()))
    model[0].keys = random.row_keys(0, 0, PLACES[:2])  # another number of rows: (sequence, batch, features), or packed
    assert torch.equal(masks(), without)
