"""The losses of the first steps of each shipped recipe, pinned: a change of the mathematics shows here.

Torch sums in another order on other CPUs: without AVX (ATEN_CPU_CAPABILITY=default, ONEDNN_MAX_CPU_ISA=SSE41) and with
one thread they moved by 1.3e-6 at most. A change that is meant shows the new ones in the failure.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from penstock import cli
from penstock.digest import splitmix64
from penstock.schema import Field, Schema
from tests.train.conftest import write_dataset

TOLERANCE = 1e-4  # relative
STEPS = 10
GOLDEN = {
    ("mnist", "mlp"): "2.34938 2.23081 3.03848 3.50704 3.11507 3.37084 2.60726 2.13147 1.88014 1.83204",
    ("mnist", "cnn"): "2.24427 3.43291 2.82793 3.23651 2.60027 2.47073 2.19266 1.72204 1.46658 1.25488",
    ("mnist_keras", "mlp"): "2.89769 5.93102 4.49723 5.55667 6.49026 6.99531 5.78900 5.28896 4.37992 3.43881",
    ("mnist_keras", "cnn"): "2.34299 2.64450 2.62710 2.54608 2.62900 2.30786 1.85828 1.71310 1.82119 1.64714",
    ("digits", "cnn"): "2.31004 2.25766 2.23230 2.23736 2.10106 1.99688 1.99765 1.97705 1.83590 1.75925",
}
MNIST = Schema(
    (Field("id", "string"), Field("image", "uint8", (28, 28)), Field("label", "int64")), key="id", label="label"
)


def losses(recipe: str, model: str, dataset: Path, run: Path) -> list[float]:
    options = ["--data", str(dataset), "--out", str(run), "--model", model, "--steps", str(STEPS), "--device", "cpu"]
    assert cli.main(["train", recipe, *options]) == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars("step/loss")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def write_pictures(folder: Path) -> Path:
    """1,280 pictures of noise, the brighter the higher their label: ten batches."""
    n = 1280
    labels = np.arange(n) * 7 % 10
    noise = (splitmix64(np.arange(n * 784, dtype=np.uint64)) % np.uint64(76)).astype(np.uint8).reshape(n, 28, 28)
    images = noise + (20 * labels[:, None, None]).astype(np.uint8)
    rows = {"id": [f"p{i:04d}" for i in range(n)], "image": images, "label": labels}
    fitted = {"kind": "standardise", "mean": float(images.mean()), "std": float(images.std())}
    return write_dataset(folder / "dataset", MNIST, {"train": [[rows]]}, transforms={"image": fitted})


def golden(recipe: str, model: str) -> object:
    return pytest.approx([float(loss) for loss in GOLDEN[recipe, model].split()], rel=TOLERANCE)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_mnist(pictures: Path, tmp_path: Path, model: str) -> None:
    assert losses("mnist", model, pictures, tmp_path / "run") == golden("mnist", model)


@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed: pip install keras")
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_mnist_keras(pictures: Path, tmp_path: Path, model: str) -> None:
    assert losses("mnist_keras", model, pictures, tmp_path / "run") == golden("mnist_keras", model)


def test_digits(built_digits: Path, tmp_path: Path) -> None:
    assert losses("digits", "cnn", built_digits, tmp_path / "run") == golden("digits", "cnn")
