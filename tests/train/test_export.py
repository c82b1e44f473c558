"""Exported models, opened as a serving process opens them: without this project, on the dataset's raw fields."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from penstock import cli
from penstock.schema import Field, Schema
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from train.finished import load

RECIPE = '''
"""Predicts x's first value modulo 3 from x."""
import torch
from torch import nn
from train.classification import loss, metrics, predict
from train.config import TrainConfig

def config(model=None):
    return TrainConfig(model=model or "linear", epochs=1, global_batch_size=64, lanes=4)

class Net(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        if self.name == "branches" and x.sum() > 0:
            x = x * 2
        y = self.layers(x)
        return y + 0.01 if self.name == "differs" and torch.compiler.is_exporting() else y

def build_model(config, card):
    return Net(config.model)

def prepare(batch, card):
    return (batch["x"] - 500) / 100
'''
TEXTS = Schema(
    (
        Field("id", "int64"),
        Field("tokens", "int32", (None,)),
        Field("day", "int8"),
        Field("unused", "string"),
        Field("label", "int64"),
    ),
    key="id",
    label="label",
)
TEXT_RECIPE = '''
"""The mean of a text's embedded words, and the day."""
import torch
from torch import nn
from train.classification import loss, metrics, predict
from train.config import TrainConfig

def config(model=None):
    return TrainConfig(model=model or "text", epochs=1, global_batch_size=16, lanes=4)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.classes = nn.Embedding(50, 4), nn.Linear(5, 3)

    def forward(self, inputs):
        tokens, lengths, day = inputs
        there = torch.arange(tokens.shape[1])[None] < lengths[:, None]  # (B, T)
        mean = (self.words(tokens) * there[..., None]).sum(1) / lengths[:, None].clamp(min=1)
        return self.classes(torch.cat([mean, day[:, None]], dim=1))

def build_model(config, card):
    return Net()

def prepare(batch, card):
    return batch["tokens"].long(), batch["_tokens_length"], batch["day"].float()
'''


def command(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def trained(folder: Path, code: str, dataset: Path, *options: str) -> Path:
    (folder / "recipe").mkdir(exist_ok=True)
    (folder / "recipe" / "model.py").write_text(code)
    run = folder / f"run{''.join(options)}"
    assert command("train", folder / "recipe", "--data", dataset, "--out", run, "--device", "cpu", *options) == 0
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def numbers(folder: Path) -> Path:
    splits = {"train": numbered_files([[100, 60]]), "test": numbered_files([[700, 500]], 200)}
    return write_dataset(folder / "numbers", SCHEMA, splits)


@pytest.fixture(scope="module")
def run(folder: Path, numbers: Path) -> Path:
    return trained(folder, RECIPE, numbers)


def outputs(file: Path, fields: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if file.suffix == ".onnx":
        found: np.ndarray[Any, Any] = onnxruntime.InferenceSession(file).run(None, fields)[0]
        return found
    program = torch.export.load(file).module()
    with torch.no_grad():
        return np.asarray(program({name: torch.from_numpy(value) for name, value in fields.items()}))


@pytest.mark.parametrize(("to", "name"), [("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_an_exported_model_predicts_from_raw_fields_as_the_run_does(
    run: Path, numbers: Path, tmp_path: Path, to: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export", run, "--to", to, "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["file"] == str(run / name)
    assert told["rows_compared"] == 1000
    assert told["largest_difference"] < 1e-5
    assert told["inputs"] == {"x": ["float32", 3]}
    assert command("predict", run, "--data", numbers, "--split", "test", "--out", tmp_path / "p.parquet") == 0
    predictions = pq.read_table(tmp_path / "p.parquet").to_pydict()
    x = (np.array(predictions["id"])[:, None] + np.array([0, 0.25, 0.5])).astype(np.float32)
    for rows in (slice(0, 1), slice(1, 8), slice(0, 1200)):  # any batch
        logits = outputs(run / name, {"x": x[rows]})
        assert logits.argmax(axis=1).tolist() == predictions["prediction"][rows]
        score = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
        assert score == pytest.approx(np.array(predictions["score"][rows]), abs=1e-5)


@pytest.mark.parametrize(("to", "name"), [("onnx", "model.onnx"), ("torch", "model.pt2")])
def test_a_run_in_float64_is_exported_in_float64(folder: Path, numbers: Path, to: str, name: str) -> None:
    run = trained(folder, RECIPE, numbers, "--precision", "float64")
    assert command("export", run, "--to", to) == 0
    model = load(str(run)).model
    x = np.array([[3.1, 500.7, 90.3], [1, 2, 3]], np.float32)
    with torch.no_grad():
        expected = model((torch.from_numpy(x) - 500) / 100).numpy()
    found = outputs(run / name, {"x": x})
    assert found.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_an_onnx_file_says_where_it_is_from(run: Path, tmp_path: Path) -> None:
    assert command("export", run, "--to", "onnx", "--out", tmp_path / "m.onnx") == 0
    model = onnx.load(tmp_path / "m.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["penstock.dataset_version"] == "v1"
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.fixture(scope="module")
def texts(folder: Path) -> Path:
    rows = [
        {
            "id": np.arange(n),
            "tokens": [[(i * 7 + k) % 50 for k in range(i % 6)] for i in range(n)],
            "day": (np.arange(n) % 7).astype(np.int8),
            "unused": [f"t{i}" for i in range(n)],
            "label": np.arange(n) % 3,
        }
        for n in (64, 40)
    ]
    return write_dataset(folder / "texts", TEXTS, {"train": [[rows[0]]], "val": [[rows[1]]]})


def test_lists_of_any_length_are_exported(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, TEXT_RECIPE, texts)
    assert command("export", run, "--to", "onnx") == 0
    inputs = onnxruntime.InferenceSession(run / "model.onnx").get_inputs()
    assert "Same outputs as the model on 104 rows of val+train" in capsys.readouterr().out  # all there are
    assert {found.name: found.shape for found in inputs} == {
        "tokens": ["batch", "tokens_length"],
        "_tokens_length": ["batch"],
        "day": ["batch"],
    }


def test_a_prepare_that_reads_strings_is_not_exported(
    tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, TEXT_RECIPE.replace("return batch[", 'batch["unused"]; return batch['), texts)
    assert command("export", run, "--to", "torch") == 1
    assert "prepare reads 'unused', which is neither a tensor" in capsys.readouterr().err


def test_rows_that_cannot_be_reached_are_not_compared_and_it_is_said(
    run: Path, folder: Path, numbers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = numbers.rename(folder / "away")
    try:
        assert command("export", run, "--to", "torch", "--out", folder / "unchecked.pt2") == 0
        assert "Not compared with the model: " in capsys.readouterr().out
        assert (folder / "unchecked.pt2").exists()
        assert command("export", run, "--to", "torch", "--data", folder / "nothing") == 1
        assert command("export", run, "--to", "torch", "--version", "v2") == 1
        assert command("export", run, "--to", "torch", "--data", away) == 0
        assert "Same outputs as the model on 1,000 rows" in capsys.readouterr().out
    finally:
        away.rename(numbers)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("differs", r"gives other outputs than the model: on rows of test they differ by 0\.0"),
        ("branches", "cannot trace the recipe's prepare and model"),
    ],
)
def test_a_model_that_cannot_be_exported_leaves_no_file(
    folder: Path, numbers: Path, model: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(folder, RECIPE, numbers, "--model", model)
    capsys.readouterr()
    assert command("export", run, "--to", "torch") == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
    assert not [path for path in run.iterdir() if "pt2" in path.name]


def test_what_cannot_be_exported_gets_a_sentence(
    run: Path, folder: Path, numbers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*arguments: object) -> str:
        capsys.readouterr()
        assert command("export", *arguments) == 1
        return capsys.readouterr().err

    assert "not a run folder" in error(folder, "--to", "onnx")
    assert "found a folder" in error(run, "--to", "onnx", "--out", folder)
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as Python marks what may not be imported
    assert "--to onnx needs onnxscript; install with: pip install" in error(run, "--to", "onnx")
    weights = run / "model.safetensors"
    weights.rename(run / "away")
    assert "the run is not finished" in error(run, "--to", "torch")
    (run / "away").rename(weights)
    with pytest.raises(SystemExit):
        command("export", run, "--to", "tflite")
