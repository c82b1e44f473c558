"""A Keras model in the trainer: the same run for a seed, resumed, on two ranks, and as a file that Keras opens."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from penstock import cli
from penstock.errors import RunError
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from train.finished import load

if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed: pip install keras", allow_module_level=True)

from train.models.keras import KerasModel, keras

RECIPE = '''
"""Predicts x's first value modulo 3 from x."""
from train.classification import loss, metrics, predict
from train.config import TrainConfig
from train.models.keras import KerasModel, keras

def config(model=None):
    return TrainConfig(model=model or "noisy", epochs=3, global_batch_size=64, lanes=4)

def build_model(config, card):
    layers = keras.layers
    noisy = [layers.BatchNormalization(), layers.Dropout(0.5)] if config.model == "noisy" else []
    scaled = [layers.Rescaling(1 / 100, -5)] if config.model != "unscaled" else []
    hidden = layers.Dense(8, activation="relu")
    return KerasModel(keras.Sequential([keras.Input((3,)), *scaled, hidden, *noisy, layers.Dense(3)]))

def prepare(batch, card):
    return batch["x"] / 100 - 5 if CONFIG_SCALES else batch["x"]
'''
NEW_PROCESS = """
import sys
import keras
import numpy as np

np.save(sys.argv[3], keras.saving.load_model(sys.argv[1]).predict(np.load(sys.argv[2]), verbose=0))
"""


def seeded(seed: int) -> KerasModel:
    random.seed(seed)
    layers = keras.layers
    noisy = [layers.Dense(8, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.5)]
    return KerasModel(keras.Sequential([keras.Input((3,)), *noisy, layers.Dense(2)]))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def command(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes, one of which standardises in `prepare`, and a dataset."""
    folder = tmp_path_factory.mktemp("keras")
    for name, scales in (("recipe", "False"), ("scales", "True")):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(RECIPE.replace("CONFIG_SCALES", scales))
    splits = {
        "train": numbered_files([[100, 60]]),
        "val": numbered_files([[30]], 300),
        "test": numbered_files([[700, 500]], 400),
    }
    write_dataset(folder / "dataset", SCHEMA, splits)
    return folder


def trained(folder: Path, out: str, *options: object, recipe: str = "recipe") -> Path:
    run = folder / out
    data = ["--data", folder / "dataset", "--out", run, "--device", "cpu"]
    assert command("train", folder / recipe, *data, *options) == 0
    return run


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return trained(folder, "run")


def test_first_weights_and_their_names_follow_from_the_seed_alone() -> None:
    first = seeded(1).state_dict()
    assert list(first) == [
        *("0_kernel", "1_bias", "2_gamma", "3_beta", "4_kernel", "5_bias"),
        *("0_moving_mean", "1_moving_variance"),
    ]
    assert same(first, seeded(1).state_dict())
    assert not torch.equal(first["0_kernel"], seeded(2).state_dict()["0_kernel"])


def test_it_computes_what_keras_does_with_the_same_weights() -> None:
    model = seeded(1).eval()
    x = torch.randn(5, 3)
    before = model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    found = model(x)
    assert not torch.allclose(found, before)
    torch.testing.assert_close(torch.as_tensor(model.keras_model()(x, training=False)), found)


def test_training_is_the_modules_and_what_is_drawn_is_torchs() -> None:
    model, x = seeded(1).eval(), torch.randn(64, 3)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert torch.equal(model(x), model(x))
    assert same(statistics, dict(model.named_buffers()))
    model.train()
    torch.manual_seed(7)
    once, again = model(x), model(x)
    assert not torch.equal(once, again)  # other masks each time
    assert not any(torch.equal(statistics[name], buffer) for name, buffer in model.named_buffers())
    torch.manual_seed(7)
    assert torch.equal(model(x), once)


def test_every_weight_gets_a_gradient() -> None:
    model = seeded(1).train()
    model(torch.randn(64, 3)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "begin it with a keras.Input"),
        (
            lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_regularizer="l2")]),
            "dense.*/kernel has a regularizer or a constraint",
        ),
    ],
)
def test_what_the_trainer_does_not_do_is_refused(made: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        KerasModel(made())


def test_another_precision_than_the_layers_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", folder / "dataset", "--out", folder / "float64", "--device", "cpu"]
    assert command("train", folder / "recipe", *data, "--precision", "float64") == 1
    assert "computes with float32, as its layers were made, and not with torch.float64" in capsys.readouterr().err


def test_a_run_that_goes_on_ends_as_one_that_was_not_interrupted(folder: Path, run: Path) -> None:
    begun = trained(folder, "begun", "--checkpoint-seconds", 0)
    told = [(begun / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl")]
    assert told == [(run / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl")]
    for name in ("model.safetensors", "report.json"):
        (begun / name).unlink()
    checkpoints = sorted((begun / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 2
    checkpoints[-1].unlink()  # as if it had been killed before the last one
    assert trained(folder, "begun", "--checkpoint-seconds", 0) == begun
    assert told == [(begun / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl")]


@pytest.mark.soak
def test_two_ranks_end_as_one_does_with_ddp_and_fsdp(folder: Path) -> None:
    expected = load_file(trained(folder, "one", "--model", "plain") / "model.safetensors")
    for parallel in ("ddp", "fsdp"):
        two = trained(folder, parallel, "--model", "plain", "--nproc-per-node", 2, "--parallel", parallel)
        found = load_file(two / "model.safetensors")
        assert found.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_a_keras_file_is_opened_by_keras_alone_and_takes_raw_fields(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", run, "--to", "keras", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["file"] == str(run / "model.keras")
    assert told["rows_compared"] == 1000
    x = np.random.default_rng(0).uniform(0, 1000, (70, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command_line = [sys.executable, "-c", NEW_PROCESS, run / "model.keras", tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command_line, env={**os.environ, "KERAS_BACKEND": "torch"}, cwd=tmp_path, check=True)
    model = load(str(run)).model
    with torch.no_grad():
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(torch.from_numpy(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_a_keras_model_is_exported_to_other_formats_too(run: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("export", run, "--to", to) == 0
    assert "Same outputs as the model on 1,000 rows" in capsys.readouterr().out


def test_a_prepare_that_computes_is_no_part_of_a_keras_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(folder, "scales_run", "--model", "unscaled", recipe="scales")
    capsys.readouterr()
    assert command("export", run, "--to", "keras") == 1
    assert "gives other outputs than the model" in capsys.readouterr().err
    assert not (run / "model.keras").exists()
