"""How a CPU should compute a step: with how many threads, how they wait, and whether freed memory is kept.

    python -m bench.threads [--repeats 3] [--busy]

Steps of networks of growing size on one resident batch of MNIST's shape: forward, backward, AdamW. Each figure is the
fastest of the repeats' means, each repeat a process of its own, as OpenMP and malloc read their settings once. With
--busy as many other processes as there are cores compute meanwhile, which is when it matters how threads wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.environment import AS_FOUND, ROOT, machine
from penstock import command
from penstock.console import Console

HIDDEN = (64, 256, 512, 1024)  # of mlps, 784 - hidden - 10
NETWORKS = (*(f"mlp {hidden}" for hidden in HIDDEN), "cnn")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# One thread; all, which sleep while they wait, as `train` says; all, which spin; all, with memory that is given back.
SETTINGS: dict[str, dict[str, str]] = {
    "one": {"OMP_NUM_THREADS": "1"},
    "all": {},
    "spin briefly": {"GOMP_SPINCOUNT": "10000"},
    "spin": {"OMP_WAIT_POLICY": "active"},
    "give back": {"KEEP_MEMORY": ""},
}
BATCH, SECONDS = 128, 1.0


def steps(network: str) -> dict[str, float]:
    """In a process of its own: milliseconds a step, and the operations of its products."""
    import train  # noqa: F401 - before torch

    # isort: split
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from recipes.mnist.model import build_model, config
    from train import acceleration, cpu

    if os.environ.get("KEEP_MEMORY", "1"):
        cpu.keep_memory()
    name, _, hidden = network.partition(" ")
    if name == "mlp":
        model: nn.Module = nn.Sequential(nn.Linear(784, int(hidden)), nn.ReLU(), nn.Linear(int(hidden), 10))
        inputs = torch.rand(BATCH, 784)
    else:
        model, inputs = build_model(config("cnn"), None), torch.rand(BATCH, 1, 28, 28)  # type: ignore[arg-type]
    acceleration.prepare(model, "float32", torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    labels = torch.arange(BATCH) % 10

    def step() -> None:
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    number, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS:
        if number == 20:  # the first ones warm up
            start = time.perf_counter()
        step()
        number += 1
    return {"ms": seconds / (number - 20) * 1e3, "flops": counter.get_total_flops()}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes that compute while the context is open."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(repeats: int, console: Console) -> dict[str, dict[str, Any]]:
    """network -> the operations of a step, and for each setting its milliseconds."""
    found: dict[str, dict[str, Any]] = {network: {"ms": {}} for network in NETWORKS}
    for number in range(repeats):
        for network in NETWORKS:
            for name, setting in SETTINGS.items():
                told = in_a_process(network, setting)
                best = found[network]["ms"]
                best[name] = min(told["ms"], best.get(name, told["ms"]))
                found[network]["flops"] = told["flops"]
        console.say(f"  {number + 1} of {repeats}")
    return found


def in_a_process(network: str, setting: Mapping[str, str]) -> dict[str, Any]:
    code = f"import json; from bench.threads import steps; print(json.dumps(steps({network!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**AS_FOUND, **setting}, cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(done.stdout))


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    with busy(CORES if arguments.busy else 0):
        found = measure(arguments.repeats, console)
    rows = [
        [network, f"{told['flops'] / 1e6:,.0f}", *(f"{told['ms'][name]:.2f}" for name in SETTINGS)]
        for network, told in found.items()
    ]
    console.table(rows, ["ms a step", "MFLOP", *SETTINGS])
    return {"steps": found, "busy": arguments.busy, "repeats": arguments.repeats, "machine": machine()}


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench threads", __doc__ or "", "python -m bench.threads")
    made.prog = "python -m bench.threads"
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--busy", action="store_true", help="beside as many computing processes as there are cores")
    arguments = made.parse_args(argv)
    arguments.json = True  # the JSON object is all of standard output; the table goes to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
