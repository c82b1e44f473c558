"""Precision, memory format, compiling, operations counted, traces, and a step that never waits for the device."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.console import Console
from penstock.errors import RunError
from penstock.recipe import find
from tests.train.test_distributed import RECIPE
from train import acceleration, flops
from train import run as run_module
from train.config import Options, TrainConfig
from train.distributed import World
from train.run import train

CPU = World(torch.device("cpu"))


@pytest.fixture
def run(dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "model.py").write_text(RECIPE)
    recipe = find(str(tmp_path / "blocks"))

    def start(name: str = "run", options: Options | None = None, **config: Any) -> Path:
        configured = replace(recipe.model().config(), **config)
        train(recipe, str(dataset), tmp_path / name, configured, CPU, None, Console(quiet=True), options=options)
        return tmp_path / name

    return start


class Waits(TorchDispatchMode):
    """Counts the operations that read a value back from the device, for which a GPU's queue would have to run empty."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "item")
    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ in self.NAMES
        return function(*args, **(kwargs or {}))


def test_a_step_reads_nothing_back(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    with Waits() as waits:
        loop = run_module.train_loop

        def watched(*arguments: Any, **keywords: Any) -> None:
            *others, on_step, on_epoch = arguments

            def count(*step: Any) -> None:
                on_step(*step)
                counts.append(waits.count)

            loop(*others, count, on_epoch, **keywords)

        monkeypatch.setattr(run_module, "train_loop", watched)
        run(epochs=4, accumulate=2)
    steps_per_epoch = len(counts) // 4
    assert steps_per_epoch >= 3
    for epoch in range(1, 4):
        assert len(set(counts[epoch * steps_per_epoch : (epoch + 1) * steps_per_epoch])) == 1
    assert counts[-1] > 0  # at the end of an epoch the loss is read back: the count counts


def test_bf16_computes_products_in_bf16_and_keeps_weights(run: Callable[..., Path]) -> None:
    folder = run(precision="bf16")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float32}
    report = json.loads((folder / "report.json").read_text())
    assert report["precision"] == "bf16"
    plain = json.loads((run("plain") / "report.json").read_text())
    assert plain["precision"] == "float32"
    assert plain["test"]["loss"] != report["test"]["loss"]
    assert plain["test"]["loss"] == pytest.approx(report["test"]["loss"], rel=0.02)
    with acceleration.autocast("bf16", CPU.device):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capabilities", "fastest"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "avx2": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_fastest_precision_of_a_cpu_is_bf16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fastest: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert acceleration.resolve("fastest", CPU.device) == fastest
    assert acceleration.resolve("auto", CPU.device) == "float32"
    assert acceleration.resolve("bf16", CPU.device) == "bf16"


@pytest.mark.parametrize(
    ("recipe", "model"), [("mnist", "residual"), ("shakespeare", "characters"), ("shakespeare", "byte_pairs")]
)
def test_large_models_of_recipes_never_have_bf16_emulated(
    monkeypatch: pytest.MonkeyPatch, recipe: str, model: str
) -> None:
    asked = find(recipe).model().config(model).precision
    for has_bf16, precision in ((False, "float32"), (True, "bf16")):
        capabilities = {"avx512_bf16": has_bf16}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert acceleration.resolve(asked, CPU.device) == precision


def test_a_model_gets_the_type_and_format_that_it_has() -> None:
    seen: list[torch.Tensor] = []

    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            seen.extend(inputs.values())
            found: torch.Tensor = self.conv(inputs["image"])
            return found

    model = Look()
    acceleration.lay_out(model, torch.float64, torch.channels_last)
    model({"image": torch.zeros(2, 3, 8, 8), "features": torch.zeros(2, 5), "index": torch.zeros(2, dtype=torch.int64)})
    assert [tensor.dtype for tensor in seen] == [torch.float64, torch.float64, torch.int64]
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert model.conv.weight.is_contiguous()
    assert model.conv(seen[0]).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.soak
def test_a_compiled_run_agrees(run: Callable[..., Path]) -> None:
    plain, compiled = load_file(run() / "model.safetensors"), run("compiled", Options(compile="default"))
    for name, tensor in load_file(compiled / "model.safetensors").items():
        torch.testing.assert_close(tensor, plain[name], rtol=0, atol=1e-5)


def test_compiling_without_a_compiler_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"--compile: .* needs a C\+\+ compiler here, found no g\+\+"):
        acceleration.compile_forward(nn.Linear(2, 2), "default", CPU.device, "ddp")


def test_operations_are_those_of_the_products() -> None:
    recipe, card = find("mnist").model(), SimpleNamespace(transforms={"image": {"mean": 1.0, "std": 2.0}})
    batch = {"image": torch.zeros(8, 28, 28, dtype=torch.uint8), "_label": torch.zeros(8, dtype=torch.int64)}
    batch["_weight"] = torch.ones(8)
    found = flops.of_a_row(recipe, recipe.config("mlp"), card, batch)  # type: ignore[arg-type]
    # A product of (1, n) and (n, m) is 2 n m; backward twice that, but for the picture, which needs no gradient.
    assert found == 2 * (2 * 784 * 64 + 3 * 64 * 10)


def test_operations_of_a_model_that_asks_for_values_are_not_known() -> None:
    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    recipe = SimpleNamespace(build_model=lambda *_: Asks(), prepare=lambda batch, _: batch["x"])
    batch = {"x": torch.ones(2, 3), "_weight": torch.ones(2)}
    assert flops.of_a_row(recipe, TrainConfig(), None, batch) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla T4", None),
        ("NVIDIA A10G", None),
    ],
)
def test_a_device_has_the_peak_of_its_own_name(name: str, teraflops: int | None) -> None:
    assert flops.peak_of(name) == (teraflops and teraflops * 1e12)


def test_a_profile_lies_in_the_run_folder(run: Callable[..., Path]) -> None:
    folder = run(options=Options(profile=True), steps=14)
    trace = json.loads(gzip.decompress((folder / "profile" / "rank0.json.gz").read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "aten::addmm" in names
    assert sum(name.startswith("ProfilerStep#") for name in names if name) == 5
    report = json.loads((folder / "report.json").read_text())
    assert report["steps"] == 14
    assert report["flops_per_s"] > 0
    assert report["mfu"] is None
