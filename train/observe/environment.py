"""What a run was started on: the command, the versions, the recipe's commit, the machine. One JSON line a start."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from penstock import __version__
from penstock.card import Card, now

PACKAGES = ("torch", "numpy", "pyarrow", "petastorm")


def describe(recipe_folder: Path, device: torch.device, world_size: int, num_threads: int) -> dict[str, Any]:
    """What this process can say of itself; `cuda` and `commit` are None where there is none."""
    return {
        "time": now(),
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "commit": commit(recipe_folder),
        "host": platform.node(),
        "device": device_name(device),
        "world_size": world_size,
        "num_threads": num_threads,
        "versions": {
            "penstock": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
            "cuda": torch.version.cuda if device.type == "cuda" else None,
        },
    }


def summary(described: Mapping[str, Any], card: Card) -> str:
    """What a person wants to know of it, on a line or two."""
    ranks = described["world_size"]
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items() if version)
    digests = ", ".join(f"{name} {split.digest}" for name, split in card.splits.items() if split.digest)
    head, dash, dirty = (described["commit"] or "").partition("-")
    recipe = f", recipe at commit {head[:12]}{dash}{dirty}" if head else ""
    return (
        f"On {described['host']}: {described['device']}, {ranks} rank{'s' if ranks > 1 else ''}{recipe}\n"
        f"Dataset version {card.version}{f' ({digests})' if digests else ''}\n{versions}"
    )


def device_name(device: torch.device) -> str:
    """As `NVIDIA H100 80GB HBM3`, or as `AMD EPYC, 2 cores`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.machine()}, {cores} cores"


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []  # not Linux


def commit(folder: Path) -> str | None:
    """The git commit of a recipe's folder, with `-dirty` where its files differ from it; None outside a repository."""
    if (head := _git(folder, "rev-parse", "HEAD")) is None or _git(folder, "check-ignore", ".") is not None:
        return None
    changed = _git(folder, "status", "--porcelain", "--", ".")
    return head if changed == "" else f"{head}-dirty"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is not installed."""
    try:
        told = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() if told.returncode == 0 else None
