"""Ranks that train several runs one after the other: `torchrun … -m tests.train.ranks RUNS.json`.

Starting a process costs more than a tiny run, so that a test starts each number of ranks once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.console import Console
from penstock.errors import PenstockError
from penstock.recipe import find
from train import distributed
from train.config import Options, TrainConfig
from train.distributed import World
from train.run import train

TIMEOUT_S = 240
# Folder -> recipe, data, config (values to replace, as JSON), options; error: what rank 0 says where the run must fail.
Runs = Mapping[str, Mapping[str, Any]]


def train_all(runs: Runs, world: World) -> None:
    for folder, run in runs.items():
        recipe = find(run["recipe"])
        config = TrainConfig.from_json({**recipe.model().config(None).to_json(), **run["config"]})
        options = Options(**run.get("options", {}))
        try:
            train(recipe, run["data"], Path(folder), config, world, None, Console(quiet=True), options=options)
        except (PenstockError, SystemExit) as error:
            said = str(error) if world.rank == 0 else run.get("error")  # the other ranks end without a word
            if said != run.get("error") or said is None:
                raise
            continue
        assert "error" not in run


def start(runs: Mapping[int, Path]) -> list[subprocess.Popen[bytes]]:
    """For each number of ranks as many, with torchrun's environment, but forked: a start takes seconds, a fork none."""
    arguments = [f"{size}:{file}" for size, file in runs.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [subprocess.Popen([sys.executable, "-m", "tests.train.ranks", *arguments], env=environment)]


def fork(size: int, runs: Path) -> list[int]:
    port, children = free_port(), []
    for rank in range(size):
        if not (child := os.fork()):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
            code = 1
            try:
                main(runs)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        children.append(child)
    return children


def main(runs: Path) -> None:
    with distributed.joined("cpu") as world:
        train_all(json.loads(runs.read_text()), world)


def start_nodes(nodes: int, ranks: int, runs: Path) -> list[subprocess.Popen[bytes]]:
    """A torchrun for each node, all of them on loopback."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(ranks)]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    script = ["-m", "tests.train.ranks", str(runs)]
    return [subprocess.Popen([*command, *meeting, *script]) for _ in range(nodes)]


def finish(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    try:
        assert [process.wait(TIMEOUT_S) for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    if "RANK" in os.environ:
        main(Path(sys.argv[1]))
        sys.exit()
    import torch._dynamo  # an optimizer's first step imports it, and FSDP the other
    import torch.distributed.fsdp  # noqa: F401

    for argument in sys.argv[1:]:
        size, _, file = argument.partition(":")
        for child in fork(int(size), Path(file)):
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
