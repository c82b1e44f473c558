"""Checkpoints: the whole state of a run in one file, written beside, synced, renamed, and read without pickled code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from penstock import store
from penstock.errors import RunError

KEPT = 2


def save(run_folder: Path, position: Mapping[str, int], state: Mapping[str, Any]) -> Path:
    """Writes `checkpoints/epoch-<n>.pt`, `n` the number of epochs that are done, and keeps the newest two."""
    path = run_folder / "checkpoints" / f"epoch-{position['epoch']:04d}.pt"
    content = io.BytesIO()
    torch.save({"position": dict(position), "rng": torch.get_rng_state(), **state}, content)
    store.replace(path, content.getvalue())
    for old in _paths(run_folder)[:-KEPT]:
        old.unlink()
    return path


def latest(run_folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, on the CPU, or None where there is none. Raises: RunError where it cannot be read."""
    paths = _paths(run_folder)
    if not paths:
        return None
    try:
        found: dict[str, Any] = torch.load(paths[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RunError(
            f"{paths[-1]}: not a checkpoint that can be read ({error}); remove it to use the one before"
        ) from error
    return found


def _paths(run_folder: Path) -> list[Path]:
    return sorted((run_folder / "checkpoints").glob("epoch-*.pt"))
