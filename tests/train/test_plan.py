"""The plan's promises, over generated row groups: exactly once, the same at any world size, seekable."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.feed.plan import Plan, permutation

Row = tuple[int, int]  # row group, row in it


@st.composite
def plans(draw: st.DrawFn, shuffle: bool = True) -> Plan:
    groups = draw(st.lists(st.integers(0, 40), min_size=1, max_size=30))
    lanes = draw(st.integers(1, 64))
    share = draw(st.integers(1, 5))
    return Plan(np.array(groups), lanes * share, lanes, draw(st.integers(0, 2**40)), draw(st.integers(0, 9)), shuffle)


def rows(plan: Plan, number: int, rank: int = 0, world_size: int = 1) -> list[Row]:
    pieces = plan.pieces(number, 1, rank, world_size)
    return [(p.group, int(row)) for p in pieces for row in plan.rows_of(p.group)[p.start : p.stop]]


def all_rows(plan: Plan) -> list[Row]:
    return [(g, row) for g, size in enumerate(plan.rows_per_group) for row in range(size)]


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@given(plans())
def test_every_row_comes_exactly_once_per_epoch(plan: Plan) -> None:
    seen = [row for number in range(plan.num_batches) for row in rows(plan, number)]
    assert sorted(seen) == all_rows(plan)


@given(plans(), st.data())
def test_a_global_batch_is_the_same_at_any_world_size(plan: Plan, data: st.DataObject) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.lanes)))
    share = plan.global_batch_size // plan.lanes
    for number in range(plan.num_batches):
        whole = rows(plan, number)
        ranks = [rows(plan, number, rank, world_size) for rank in range(world_size)]
        assert sorted(row for rank in ranks for row in rank) == sorted(whole)
        if len(whole) == plan.global_batch_size:  # lanes are whole: merge the ranks lane by lane
            merged = [
                row
                for lane in range(plan.lanes)
                for row in ranks[lane % world_size][(lane // world_size) * share : (lane // world_size + 1) * share]
            ]
            assert merged == whole


@given(plans())
def test_only_the_last_batch_is_short(plan: Plan) -> None:
    sizes = [len(rows(plan, number)) for number in range(plan.num_batches)]
    assert [plan.rows_before(number) for number in range(len(sizes) + 1)] == [0, *itertools.accumulate(sizes)]
    assert all(size > 0 for size in sizes)
    assert sum(sizes) == plan.num_rows
    assert all(size == plan.global_batch_size for size in sizes[:-1])


@given(plans(shuffle=False))
def test_unshuffled_lanes_hold_file_order(plan: Plan) -> None:
    one_lane = Plan(plan.rows_per_group, plan.global_batch_size, 1, shuffle=False)
    seen = [row for number in range(one_lane.num_batches) for row in rows(one_lane, number)]
    assert seen == all_rows(plan)


@st.composite
def bucketed(draw: st.DrawFn) -> Plan:
    plan = draw(plans())
    buckets = draw(st.lists(st.integers(0, 3), min_size=len(plan.rows_per_group), max_size=len(plan.rows_per_group)))
    return replace(plan, buckets=np.array(buckets))


@given(bucketed(), st.data())
def test_with_buckets_every_row_comes_once_in_a_batch_of_its_bucket(plan: Plan, data: st.DataObject) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.lanes)))
    assert plan.buckets is not None
    seen, places, short, of = [], [], Counter[int](), []
    for number in range(plan.num_batches):
        whole = rows(plan, number)
        ranks = [rows(plan, number, rank, world_size) for rank in range(world_size)]
        assert sorted(row for rank in ranks for row in rank) == sorted(whole)
        (bucket,) = {int(plan.buckets[group]) for group, _ in whole}
        of.append(bucket)
        short[bucket] += len(whole) < plan.global_batch_size
        assert len(plan.places(number)) == len(whole)
        assert plan.rows_before(number) == len(seen)
        seen, places = seen + whole, places + plan.places(number).tolist()
    assert sorted(seen) == all_rows(plan)
    assert sorted(places) == list(range(plan.num_rows))
    assert plan.rows_before(plan.num_batches) == plan.num_rows
    assert all(count <= 1 for count in short.values())
    again = replace(plan)  # seeking needs nothing that came before
    if plan.num_batches:
        last = plan.num_batches - 1
        assert rows(again, last) == rows(plan, last)


def test_batches_of_all_buckets_are_mixed_anew_each_epoch() -> None:
    orders = set()
    for epoch in range(3):
        plan = Plan(np.full(60, 16), 16, 4, seed=1, epoch=epoch, buckets=np.arange(60) // 20)
        of = [rows(plan, n)[0][0] // 20 for n in range(plan.num_batches)]
        assert Counter(of) == {0: 20, 1: 20, 2: 20}
        assert sum(a != b for a, b in itertools.pairwise(of)) > 20
        orders.add(tuple(of))
    assert len(orders) == 3


def test_order_changes_with_epoch_and_seed() -> None:
    sizes = np.full(50, 20)
    orders = {
        tuple(rows(Plan(sizes, 100, 10, seed, epoch), 0))
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2**40, 0)]
    }
    assert len(orders) == 5


def test_the_permutation_never_changes_between_releases() -> None:
    assert permutation(10, 0, 0).tolist() == [9, 6, 4, 1, 3, 7, 0, 2, 5, 8]
    assert permutation(8, 7, 3, 11).tolist() == [7, 4, 3, 5, 0, 2, 6, 1]


@given(st.integers(0, 500), st.lists(st.integers(-(2**62), 2**62), max_size=3))
def test_a_permutation_holds_each_number_once(n: int, key: list[int]) -> None:
    assert sorted(permutation(n, *key).tolist()) == list(range(n))


def test_lanes_must_divide_the_batch_and_ranks_the_lanes() -> None:
    with pytest.raises(ValueError, match="found 8 lanes and a batch of 100"):
        Plan(np.array([10]), 100, 8)
    with pytest.raises(ValueError, match="divides the 8 lanes, and a rank below it, found rank 0 of 3"):
        Plan(np.array([10]), 16, 8).pieces(0, 1, 0, 3)


@given(plans(), st.data())
def test_several_batches_at_once_are_the_rows_that_the_definition_names(plan: Plan, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, max(0, plan.num_batches - 1)))
    count = data.draw(st.integers(1, 5))
    share = plan.global_batch_size // plan.lanes
    laid = [(int(group), int(row)) for group in plan.groups for row in plan.rows_of(int(group))]
    expected = []
    for lane in range(plan.lanes):  # as the plan's docstring says it
        rows = laid[plan.num_rows * lane // plan.lanes : plan.num_rows * (lane + 1) // plan.lanes]
        expected += rows[first * share : (first + count) * share]
    pieces = plan.pieces(first, count)
    assert [(p.group, int(row)) for p in pieces for row in plan.rows_of(p.group)[p.start : p.stop]] == expected
