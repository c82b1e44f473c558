"""What recommenders are compared with: popularity, biases of users and films, and Spark's ALS.

Ratings are arrays (n,) of users, items and ratings. A ranking is scores (users, items + 1), as train/ranking.py has
them, of which item 0 is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession

Whole = npt.NDArray[np.int64]
Real = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    users: Whole
    items: Whole
    ratings: Real


def popularity(known: Ratings, num_items: int) -> Real:
    """(items + 1,) how often each item was rated."""
    return np.bincount(known.items, minlength=num_items + 1).astype(np.float64)


def biases(known: Ratings, asked: Ratings, user_prior: float, item_prior: float, rounds: int = 10) -> Real:
    """(n,) mean + bias of the item + bias of the user, each a mean of what is left, drawn to 0 by so many ratings.

    Source: Koren, Bell & Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 42(8),
    2009, by alternating means.
    """
    num_users, num_items = (
        1 + max(a.max(), b.max()) for a, b in ((known.users, asked.users), (known.items, asked.items))
    )
    mean, of_user, of_item = known.ratings.mean(), np.zeros(num_users), np.zeros(num_items)
    for _ in range(rounds):
        left = known.ratings - mean - of_user[known.users]
        of_item = _mean(known.items, left, num_items, item_prior)
        of_user = _mean(known.users, known.ratings - mean - of_item[known.items], num_users, user_prior)
    found: Real = np.clip(mean + of_user[asked.users] + of_item[asked.items], known.ratings.min(), known.ratings.max())
    return found


def _mean(groups: Whole, values: Real, size: int, prior: float) -> Real:
    found: Real = np.bincount(groups, values, size) / np.maximum(np.bincount(groups, minlength=size) + prior, 1)
    return found


def als_scores(spark: SparkSession, known: Ratings, users: Whole, num_items: int, alpha: float) -> Real:
    """(users, items + 1) by implicit feedback: that a film was rated. Users who are not known have popularity's scores.

    Source: Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.
    """
    factors = ALS(rank=32, maxIter=10, regParam=0.1, implicitPrefs=True, alpha=alpha, seed=0)
    model = factors.setParams(userCol="user", itemCol="item", ratingCol="rating").fit(
        _frame(spark, known, implicit=True)
    )
    of_user, of_item = (
        {row["id"]: row["features"] for row in df.collect()} for df in (model.userFactors, model.itemFactors)
    )
    items = np.array([of_item.get(item, [0.0] * 32) for item in range(num_items + 1)])
    scores: Real = np.array([of_user.get(user, [0.0] * 32) for user in users.tolist()]) @ items.T
    scores[[user not in of_user for user in users.tolist()]] = popularity(known, num_items)
    return scores


def als_ratings(spark: SparkSession, known: Ratings, asked: Ratings, reg: float) -> Real:
    """(n,) by explicit feedback; NaN for users and items that are not known.

    Source: Zhou et al., "Large-scale Parallel Collaborative Filtering for the Netflix Prize", AAIM 2008.
    """
    factors = ALS(rank=16, maxIter=10, regParam=reg, seed=0)
    model = factors.setParams(userCol="user", itemCol="item", ratingCol="rating").fit(_frame(spark, known))
    rows = model.transform(_frame(spark, asked)).select("place", "prediction").orderBy("place").collect()
    found = np.array([row["prediction"] for row in rows])
    ratings: Real = np.clip(found, known.ratings.min(), known.ratings.max())
    return ratings


def _frame(spark: SparkSession, of: Ratings, implicit: bool = False):  # type: ignore[no-untyped-def]
    ratings = np.ones_like(of.ratings) if implicit else of.ratings
    rows = zip(range(len(of.users)), of.users.tolist(), of.items.tolist(), ratings.tolist(), strict=True)
    return spark.createDataFrame(list(rows), "place int, user int, item int, rating double").repartition(2).cache()
