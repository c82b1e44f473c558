"""`--profile`: a trace of a few steps, for chrome://tracing and https://ui.perfetto.dev, in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from train.distributed import World

SKIPPED, WARM_UP, TRACED = 5, 2, 5  # steps


@contextmanager
def profiling(wanted: bool, run_folder: Path, world: World) -> Iterator[Callable[[], None]]:
    """Gives what to call after each step. Writes profile/rank<n>.json.gz, one for each rank, on that rank's machine."""
    if not wanted:
        yield lambda: None
        return
    folder = run_folder / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = [ProfilerActivity.CUDA] if world.device.type == "cuda" else []

    def write(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(folder / f"rank{world.rank}.json.gz"))

    steps = schedule(skip_first=SKIPPED, wait=0, warmup=WARM_UP, active=TRACED, repeat=1)
    activities = [ProfilerActivity.CPU, *on_gpu]
    with profile(activities=activities, schedule=steps, on_trace_ready=write, record_shapes=True) as profiler:
        yield profiler.step
