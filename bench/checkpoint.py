"""What checkpoints cost a run: the time that one adds to the steps that it is copied and written under.

    python -m bench.checkpoint [--repeats 7] [--steps 25] [--folder DIR]

A model of 25 million float32 parameters (100 MB; 300 MB with AdamW's state) takes steps on one resident batch. A block
of steps without a checkpoint and one with a checkpoint at its beginning alternate; the median of the differences is
what one costs, and its share of the default interval is the figure that counts. A block ends when the file is synced.
"""

from __future__ import annotations

import train  # noqa: F401 - before torch, whose idle threads would else take the feed's cores

# isort: split
import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.environment import machine
from penstock import command
from penstock.console import Console
from train.checkpoint import Checkpoints
from train.config import Options

WIDTH, LAYERS, BATCH = 2048, 6, 64


def measure(repeats: int, steps: int, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = torch.randn(BATCH, WIDTH, device=device)

    def take_steps() -> None:
        for _ in range(steps):
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    plain, added, copies, writes = [], [], [], []
    with Checkpoints(folder) as checkpoints:
        for repeat in range(repeats + 1):  # the first warms up: buffers are made and states begin
            start = time.perf_counter()
            take_steps()
            without = time.perf_counter() - start
            start = time.perf_counter()
            checkpoints.save(repeat, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
            copied = time.perf_counter() - start
            take_steps()
            checkpoints.wait()
            if repeat:
                plain.append(without)
                added.append(time.perf_counter() - start - without)
                copies.append(copied)
            start = time.perf_counter()
            checkpoints.save(repeat, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
            checkpoints.wait()
            if repeat:
                writes.append(time.perf_counter() - start)
    cost = statistics.median(added)
    return {
        "cost_fraction": cost / Options.checkpoint_seconds,
        "seconds_per_checkpoint": cost,
        "seconds_per_checkpoint_range": [min(added), max(added)],
        "seconds_in_save": statistics.median(copies),
        "seconds_alone": statistics.median(writes),
        "step_s": statistics.median(plain) / steps,
        "block_s": statistics.median(plain),
        "block_s_range": [min(plain), max(plain)],
        "megabytes": next(iter((folder / "checkpoints").glob("step-*.pt"))).stat().st_size / 1e6,
        "checkpoint_seconds": Options.checkpoint_seconds,
        "device": str(device),
        "torch": torch.__version__,
        **machine(),
    }


def parser() -> argparse.ArgumentParser:
    made = command.parser("checkpoint", "What checkpoints cost a run.", "python -m bench.checkpoint")
    made.add_argument("--repeats", type=int, default=7)
    made.add_argument("--steps", type=int, default=25, help="of a block; default: 25")
    made.add_argument("--folder", help="where to write; default: a temporary folder")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(arguments.repeats, arguments.steps, Path(folder))
    low, high = found["seconds_per_checkpoint_range"]
    console.say(f"checkpoint of {found['megabytes']:,.0f} MB, steps of {found['step_s']:.3f} s on {found['device']}")
    console.say(f"  one adds {found['seconds_per_checkpoint']:.2f} s ({low:.2f} to {high:.2f})")
    console.say(f"  of which the run stands still for {found['seconds_in_save']:.3f} s, while the state is copied")
    console.say(f"  alone, copied and synced: {found['seconds_alone']:.2f} s")
    console.say(f"  of a run that saves every {found['checkpoint_seconds']:g} s: {found['cost_fraction']:.2%}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    arguments.json = True
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
