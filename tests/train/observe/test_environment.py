"""What a run says of where it was started, against git itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from train.observe.environment import commit, describe

IDENTITY = dict.fromkeys(("user.name", "user.email"), "t")


def git(folder: Path, *arguments: str) -> str:
    options = [option for name, value in IDENTITY.items() for option in ("-c", f"{name}={value}")]
    told = subprocess.run(["git", *options, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return told.stdout.strip()


def test_the_commit_is_of_the_recipes_folder(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "model.py").write_text("1\n")
    git(tmp_path, "init", "-q")
    assert commit(folder) is None  # no commit yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "elsewhere").write_text("not the recipe's\n")
    assert commit(folder) == head
    (folder / "model.py").write_text("2\n")
    assert commit(folder) == f"{head}-dirty"
    (tmp_path / ".gitignore").write_text("/site/\n")
    (tmp_path / "site").mkdir()
    assert commit(tmp_path / "site") is None  # as an environment's packages inside a repository


def test_a_start_says_what_it_runs_on(tmp_path: Path) -> None:
    told = describe(tmp_path, torch.device("cpu"), 2, 1)
    assert told["world_size"] == 2
    assert told["device"].endswith("cores")
    assert told["versions"]["numpy"] == np.__version__
    assert set(told["versions"]) == {"python", "torch", "numpy", "pyarrow", "petastorm", "penstock", "cuda"}
    assert told["command"].startswith(sys.orig_argv[0])
