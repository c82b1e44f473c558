"""The learning rate's way over a run, for any length and any shares."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import Decay, Schedule
from train.schedule import lr_factor

shares = st.floats(0, 0.5)
schedules = st.builds(Schedule, shares, st.sampled_from(get_args(Decay)), st.floats(0, 1), shares)


def factors(schedule: Schedule, num_steps: int) -> list[float]:
    """Of all steps, and of the one that would come after the last."""
    return [lr_factor(schedule, step, num_steps) for step in range(num_steps + 1)]


@given(schedules, st.integers(1, 300))
def test_it_rises_to_one_and_falls_to_the_final_share(schedule: Schedule, num_steps: int) -> None:
    found = factors(schedule, num_steps)
    top = max(round(schedule.warmup * num_steps) - 1, 0)
    assert found[top] == max(found) == 1 or num_steps == top + 1
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert all(0 < factor <= 1 for factor in found[:-1])
    if schedule.decay != "constant" and not (schedule.decay == "wsd" and round(schedule.cooldown * num_steps) == 0):
        assert found[-1] == pytest.approx(schedule.final)


@given(schedules, st.integers(200, 2000))
def test_it_makes_no_jump(schedule: Schedule, num_steps: int) -> None:
    """No step is steeper than the straight way up, or than half a cosine down."""
    num_warmup = round(schedule.warmup * num_steps)
    num_falling = num_steps - num_warmup
    if schedule.decay == "wsd":
        num_falling = min(num_falling, round(schedule.cooldown * num_steps))
    steepest = max(1 / max(1, num_warmup), 1.5708 * (1 - schedule.final) / max(1, num_falling))
    found = factors(schedule, num_steps)
    assert max(abs(b - a) for a, b in pairwise(found)) <= steepest + 1e-12


def test_known_values() -> None:
    assert factors(Schedule(0.2, "linear"), 10) == pytest.approx(
        [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]
    )
    assert factors(Schedule(0, "cosine", final=0.1), 4) == pytest.approx([1, 0.868198, 0.55, 0.231802, 0.1], abs=1e-6)
    assert factors(Schedule(0.25, "wsd", cooldown=0.5), 8) == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert factors(Schedule(0.25, "constant"), 8) == [0.5] + [1.0] * 8
