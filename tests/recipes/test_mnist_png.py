"""MNIST as PNG files in a tar: pixel for pixel the idx files, and small made pictures from the tar to predictions."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

import penstock
from etl.run import etl
from penstock import cli
from penstock.console import Console
from penstock.recipe import find
from tests.conftest import SHARED_DATA
from tests.recipes.resuming import train_and_resume

MNIST = SHARED_DATA / "mnist"


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (28, 28), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def archive(path: Path, pictures: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in pictures.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_tar_of_pictures_becomes_predictions(spark: SparkSession, tmp_path: Path) -> None:
    pictures = {f"test/{number % 10}/{number}.png": png(number) for number in range(400)}
    broken = {"test/3/900.png": png(900)[:-20], "test/4/901.png": png(901)[:60] + b"?" + png(901)[61:]}
    raw = archive(tmp_path / "pictures.tar.gz", {**pictures, **broken, "test/x/902.png": png(902)})
    data, run = str(tmp_path / "data"), tmp_path / "run"
    built = etl(find("mnist_png"), str(raw), data, Console(quiet=True))
    assert (built.card.counts["raw"], built.card.counts["quarantined"], built.card.counts["built"]) == (403, 3, 400)
    found = penstock.read(data, "train+val+test")
    assert sorted(found["id"]) == sorted(str(number) for number in range(400))
    for key, image, label in zip(found["id"], found["image"], found["label"], strict=True):
        assert (image == np.asarray(Image.open(io.BytesIO(pictures[f"test/{label}/{key}.png"])))).all()
    train_and_resume("mnist_png", Path(data), run, "--model", "mlp")
    assert cli.main(["predict", str(run), "--data", data, "--out", str(tmp_path / "said.parquet")]) == 0
    assert pq.read_metadata(tmp_path / "said.parquet").num_rows == 400


def test_the_pictures_are_those_of_the_idx_files(spark: SparkSession, tmp_path: Path) -> None:
    raw = MNIST / "mnist_test_png.tar.gz"
    if not raw.is_file():
        pytest.skip("MNIST as PNG files is not on this machine (expected in ../shared/data)")
    etl(find("mnist_png"), str(raw), str(tmp_path / "data"), Console(quiet=True))
    found = penstock.read(str(tmp_path / "data"), "train+val+test")
    pixels, labels = (
        np.frombuffer(gzip.decompress((MNIST / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8)[header:]
        for name, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    order = found["id"].astype(int).to_numpy() - 60_000
    assert sorted(order) == list(range(10_000))
    assert (np.stack(found["image"]) == pixels.reshape(-1, 28, 28)[order]).all()
    assert (found["label"] == labels[order]).all()
