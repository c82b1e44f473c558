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
    metric: str | None = None  # what it is of; a checkpoint of before this was noted does not say


def still(best: Best | None, config: EarlyStopping) -> Best | None:
    """The best so far, for a run that goes on with this configuration: of another metric there is none yet."""
    return best if best is not None and best.metric in (None, config.metric) else None


def judge(best: Best | None, config: EarlyStopping, metrics: Mapping[str, float], step: int) -> Best:
    """The best after one more evaluation; its `since` is 0 where that is this one. NaN is never the best.

    Raises: RunError for a metric that is not among these.
    """
    if config.metric not in metrics:
        raise RunError(f"config: early_stopping.metric: no {config.metric!r}; there are {', '.join(metrics)}")
    value = metrics[config.metric]
    now = Best(value, step, metric=config.metric)
    if best is None:
        return now
    better = value < best.value if config.mode == "min" else value > best.value
    if better or (math.isnan(best.value) and not math.isnan(value)):
        return now
    return replace(best, since=best.since + 1)
