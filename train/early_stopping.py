"""When to stop early, as a pure function of one evaluation after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.errors import RunError
from train.config import EarlyStopping


@dataclass(frozen=True)
class Best:
    """The best evaluation so far, and how many came since. A checkpoint holds it as the dict of its fields."""

    value: float = math.nan
    step: int = 0
    since: int = 0
    metric: str = EarlyStopping.metric


def judge(best: Best | None, config: EarlyStopping, metrics: Mapping[str, float], step: int) -> Best:
    """The best after one more evaluation; its `since` is 0 where that is this one. NaN is never the best.

    What was the best of another metric is none any more.

    Raises: RunError for a metric that is not among these.
    """
    if config.metric not in metrics:
        raise RunError(f"config: early_stopping.metric: no {config.metric!r}; there are {', '.join(metrics)}")
    value = metrics[config.metric]
    now = Best(value, step, metric=config.metric)
    if best is None or best.metric != config.metric:
        return now
    better = value < best.value if config.mode == "min" else value > best.value
    if better or (math.isnan(best.value) and not math.isnan(value)):
        return now
    return replace(best, since=best.since + 1)
