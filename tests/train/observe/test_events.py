"""Event files, read back by TensorBoard itself."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event

from train.observe.events import _event, _number, open_events, write_scalars


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    read = EventAccumulator(str(folder))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    with open_events(tmp_path, 0) as file:
        for step in (1, 130, 2**40):
            write_scalars(file, step, {"train/loss": 1 / step, "val/Genauigkeit_ä": -0.5})
        write_scalars(file, 2**41, {"train/loss": math.inf})
    assert scalars(tmp_path, "val/Genauigkeit_ä") == [(1, -0.5), (130, -0.5), (2**40, -0.5)]
    loss = scalars(tmp_path, "train/loss")
    assert [step for step, _ in loss] == [1, 130, 2**40, 2**41]
    assert math.isclose(loss[1][1], 1 / 130, rel_tol=1e-6)
    assert loss[3][1] == math.inf


def test_a_run_that_goes_on_replaces_what_came_after(tmp_path: Path) -> None:
    """Killed after step 3 with its last record cut; the checkpoint was of step 1."""
    with open_events(tmp_path, 0) as file:
        for step in (1, 2, 3):
            write_scalars(file, step, {"loss": 10.0 + step})
    first = next(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-5])
    with open_events(tmp_path, 2) as file:
        for step in (2, 3):
            write_scalars(file, step, {"loss": 20.0 + step})
    assert scalars(tmp_path, "loss") == [(1, 11.0), (2, 22.0), (3, 23.0)]


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_as_protocol_buffers_have_them(step: int) -> None:
    assert Event.FromString(_event(1.5, step, b"")) == Event(wall_time=1.5, step=step)
    assert len(_number(step)) == max(1, -(-step.bit_length() // 7))
