"""What recommenders are compared with: biases by hand, and ALS that finds which items belong together."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from bench.recommenders import Ratings, als_ratings, als_scores, biases, popularity


def test_biases_by_hand() -> None:
    known = Ratings(np.array([1, 1, 2]), np.array([1, 2, 1]), np.array([8.0, 4.0, 9.0]))
    asked = Ratings(np.array([2, 1, 3, 3]), np.array([2, 1, 3, 1]), np.zeros(4))
    # After one round, each prior a rating: items +1, -1.5 from the mean 7; users (0 - 1.5) / 3 and 1 / 2.
    expected = [7 - 1.5 + 0.5, 7 + 1 - 0.5, 7, 8]
    assert biases(known, asked, 1.0, 1.0, rounds=1) == pytest.approx(expected)
    assert popularity(known, 3).tolist() == [0, 2, 1, 0]


@pytest.mark.slow
def test_als_knows_what_belongs_together(spark: SparkSession) -> None:
    """Users of one half rate items of one half, highly the even ones; each is asked for the item that he left out."""
    pairs = [
        (user, item)
        for user in range(1, 21)
        for item in range(1, 11)
        if (user % 2) == (item <= 5) and user % 10 != item
    ]
    users, items = (np.array(values) for values in zip(*pairs, strict=True))
    known = Ratings(users, items, np.where(items % 2, 2.0, 9.0))
    scores = als_scores(spark, known, np.arange(1, 22), 10, alpha=10.0)
    own = np.array([[(user % 2) == (item <= 5) for item in range(1, 11)] for user in range(1, 21)])
    assert scores.shape == (21, 11)
    assert scores[:20, 1:][own].min() > scores[:20, 1:][~own].max()
    assert scores[20].tolist() == popularity(known, 10).tolist()  # nobody knows him
    found = als_ratings(spark, known, Ratings(np.array([1, 1, 99]), np.array([2, 3, 2]), np.zeros(3)), 0.01)
    assert found[:2] == pytest.approx([9, 2], abs=0.5)
    assert np.isnan(found[2])
