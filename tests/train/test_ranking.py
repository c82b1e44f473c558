"""Ranking's figures against plain Python that sorts all items, on generated scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import ranking

ITEMS = 12  # and item 0, which pads


@st.composite
def ranked(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Scores of all items, no two alike but -inf, and the relevant items of a row, some of which may be masked."""
    order = draw(st.permutations(range(ITEMS + 1)))
    masked = draw(st.sets(st.integers(1, ITEMS), max_size=ITEMS))
    relevant = draw(st.lists(st.integers(1, ITEMS), unique=True, max_size=6))
    return [-math.inf if i in masked else float(place) for i, place in enumerate(order)], relevant


@given(st.lists(ranked(), min_size=1, max_size=4), st.integers(1, ITEMS + 3))
def test_figures_are_those_of_the_sorted_list(rows: list[tuple[list[float], list[int]]], k: int) -> None:
    longest = max(1, *(len(relevant) for _, relevant in rows))
    scores = torch.tensor([scores for scores, _ in rows])
    padded = torch.tensor([relevant + [0] * (longest - len(relevant)) for _, relevant in rows])
    lists, values = ranking.top(scores, k)
    figures = [ranking.ndcg(scores, padded, k), ranking.recall(scores, padded, k)]
    for i, (row, relevant) in enumerate(rows):
        whole = sorted((item for item in range(1, ITEMS + 1) if row[item] > -math.inf), key=lambda item: -row[item])
        first = whole[:k]
        assert [item for item in lists[i].tolist() if item] == first
        assert values[i, : len(first)].tolist() == [row[item] for item in first]
        gained = sum(1 / math.log2(rank + 1) for rank, item in enumerate(first, 1) if item in relevant)
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
        assert figures[0][i].item() == pytest.approx(gained / best if relevant else 0, abs=1e-6)
        share = len({*first} & {*relevant}) / len(relevant) if relevant else 0
        assert figures[1][i].item() == pytest.approx(share, abs=1e-6)
        rank = next((rank for rank, item in enumerate(whole, 1) if item in relevant), math.inf)
        assert ranking.reciprocal_rank(scores, padded)[i].item() == pytest.approx(1 / rank, abs=1e-6)
    some = {item for row in lists.tolist() for item in row if item}
    assert ranking.coverage(lists, ITEMS) == pytest.approx(len(some) / ITEMS)


def test_equal_scores_are_no_hit_for_free() -> None:
    """A model that says nothing does not rank the relevant item first."""
    assert ranking.reciprocal_rank(torch.zeros(1, ITEMS + 1), torch.tensor([[3]])).item() == pytest.approx(1 / ITEMS)


def test_a_recipe_names_the_field_and_the_scores() -> None:
    metrics = ranking.metrics("watched", scores=lambda outputs: outputs[0], k=2)
    assert metrics.keys() == {"ndcg_2", "recall_2", "mrr"}
    outputs, batch = (torch.tensor([[0.0, 1.0, 3.0, 2.0]]), None), {"watched": torch.tensor([[3]], dtype=torch.int32)}
    figures = {name: metric(outputs, batch).item() for name, metric in metrics.items()}
    assert figures == pytest.approx({"ndcg_2": 1 / math.log2(3), "recall_2": 1, "mrr": 1 / 2})
