"""Which items of all come first for a row: the figures that recommending recipes share, exact over all items.

Scores are (B, items), one for every item; what is not to be ranked has -inf, and item 0, which pads lists, is never
ranked. What a row is to be given is a list (B, T) of items, padded with 0. No item is sampled: figures over samples of
items put models in another order (Krichene & Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020).

    metrics = ranking.metrics("watched", scores=lambda outputs: outputs[0])      # in a recipe's model.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

K = 10


def top(scores: Tensor, k: int = K) -> tuple[Tensor, Tensor]:
    """(B, k) the items with the highest scores, the highest first, and their scores; 0 where there are none left."""
    values, items = ranked(scores).topk(min(k, scores.shape[1]), dim=1)
    return torch.where(values == -torch.inf, 0, items), values


def ranked(scores: Tensor) -> Tensor:
    """(B, items) the scores, of item 0 -inf."""
    return torch.cat([torch.full_like(scores[:, :1], -torch.inf), scores[:, 1:]], dim=1)


def hits(items: Tensor, relevant: Tensor) -> Tensor:
    """(B, k) 1 for each of the items that is among the row's relevant ones, else 0."""
    return ((items[:, :, None] == relevant[:, None, :]) & (items != 0)[:, :, None]).any(dim=2).float()


def ndcg(scores: Tensor, relevant: Tensor, k: int = K) -> Tensor:
    """(B,) 0 to 1: Σ 1 / log2(1 + rank) of the relevant items among the first k, over that of the best order there is.

    Source: Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20(4), 2002, with gains
    of 1 and the discount from rank 2 on. A row with nothing relevant has 0.
    """
    found = hits(top(scores, k)[0], relevant)
    gains = 1 / torch.log2(torch.arange(2, found.shape[1] + 2, device=scores.device))
    num_best = (relevant != 0).sum(dim=1).clamp(min=1, max=len(gains))
    return (found @ gains) / gains.cumsum(0)[num_best - 1]


def recall(scores: Tensor, relevant: Tensor, k: int = K) -> Tensor:
    """(B,) 0 to 1: the share of a row's relevant items that is among the first k; 0 where nothing is relevant."""
    return hits(top(scores, k)[0], relevant).sum(dim=1) / (relevant != 0).sum(dim=1).clamp(min=1)


def reciprocal_rank(scores: Tensor, relevant: Tensor) -> Tensor:
    """(B,) 0 to 1: 1 over the rank, among all items, of the first relevant one; its mean over rows is the MRR.

    Of equal scores the relevant one counts as last. Source: Voorhees, "The TREC-8 Question Answering Track Report",
    1999. A row of which nothing relevant is ranked has 0.
    """
    scores = ranked(scores)
    first = scores.gather(1, relevant).max(dim=1, keepdim=True).values
    rank = (scores >= first).sum(dim=1)
    return torch.where(first[:, 0] == -torch.inf, 0.0, 1 / rank)


def coverage(items: Tensor, num_items: int) -> float:
    """The share of all items that some row has among its first ones, (B, k).

    Source: catalogue coverage, Ge, Delgado-Battenfeld & Jannach, "Beyond Accuracy", RecSys 2010.
    """
    return len({*items.flatten().tolist()} - {0}) / num_items


def metrics(
    relevant: str, scores: Callable[[Any], Tensor] = lambda outputs: outputs, k: int = K
) -> dict[str, Callable[[Any, dict[str, Any]], Tensor]]:
    """For a recipe's `metrics`: NDCG, recall and MRR of outputs, given the field that lists a row's relevant items."""
    return {
        f"ndcg_{k}": lambda outputs, batch: ndcg(scores(outputs), batch[relevant].long(), k),
        f"recall_{k}": lambda outputs, batch: recall(scores(outputs), batch[relevant].long(), k),
        "mrr": lambda outputs, batch: reciprocal_rank(scores(outputs), batch[relevant].long()),
    }
