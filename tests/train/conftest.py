"""Dataset versions made with pyarrow alone, so that the tests of the training side need no Spark."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import card as cards
from penstock import manifest, tensors
from penstock.audit import audit_file
from penstock.card import Card
from penstock.digest import combine
from penstock.schema import Field, Schema

# As ETL writes: values of fixed width lie in place.
IN_PLACE = {"use_dictionary": False, "compression": "none", "data_page_size": 1 << 30, "column_encoding": None}
Rows = Mapping[str, Any]
MakeDataset = Callable[..., Path]


def write_dataset(
    folder: Path,
    schema: Schema,
    splits: Mapping[str, Sequence[Sequence[Rows]]],
    options: Mapping[str, Any] = IN_PLACE,
    transforms: Mapping[str, Any] | None = None,
) -> Path:
    """Publishes a version whose splits hold files, a file row groups, a row group columns of numpy arrays or lists."""
    data_url = f"file://{folder}/data/v1-test"
    audits: dict[str, list[Any]] = {}
    for split, files in splits.items():
        audits[split] = []
        for i, groups in enumerate(files):
            name = f"split={split}/part-{i:05d}.parquet"
            path = folder / "data" / "v1-test" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            arrow = pa.schema([pa.field(f.name, f.arrow_type, nullable=False) for f in schema.fields])
            with pq.ParquetWriter(path, arrow, **options) as writer:
                for group in groups:
                    writer.write_table(pa.table([_column(group[f.name], f) for f in schema.fields], schema=arrow))
            audits[split].append(audit_file(data_url, name, split, schema))
    rows = {split: sum(a.num_rows for a in found) for split, found in audits.items()}
    total = sum(rows.values())
    card = Card(
        version="v1",
        recipe="made",
        data="data/v1-test",
        manifest=manifest.write(data_url, [a.row_groups for found in audits.values() for a in found], schema),
        schema=schema,
        counts={"raw": total, "quarantined": 0, "clean": total, "duplicates": 0, "built": total},
        splits={s: cards.Split(rows[s], combine(a.digest for a in audits[s])) for s in splits},
        transforms=transforms or {},
        lineage={},
    )
    assert cards.publish(f"file://{folder}", card)
    return folder


def _column(values: Any, field: Field) -> pa.Array:
    return tensors.pack(values, field) if field.is_tensor else pa.array(values, field.arrow_type)


SCHEMA = Schema((Field("id", "int64"), Field("x", "float32", (3,)), Field("label", "int64")), key="id", label="label")


def numbered(first: int, count: int) -> dict[str, Any]:
    """Rows whose values all follow from their id: a row that is mixed up shows."""
    ids = np.arange(first, first + count)
    return {"id": ids, "x": (ids[:, None] + np.array([0, 0.25, 0.5])).astype(np.float32), "label": ids % 3}


def numbered_files(group_sizes: Sequence[Sequence[int]], first: int = 0) -> list[list[dict[str, Any]]]:
    files = []
    for sizes in group_sizes:
        groups = []
        for size in sizes:
            groups.append(numbered(first, size))
            first += size
        files.append(groups)
    return files


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """67 training rows in ragged row groups, 10 val, 23 test; the ids of the splits do not overlap."""
    splits = {
        "train": numbered_files([[20, 13], [1, 17, 16]]),
        "val": numbered_files([[10]], 100),
        "test": numbered_files([[11, 12]], 200),
    }
    return write_dataset(tmp_path / "dataset", SCHEMA, splits)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    told = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    told["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    before = dict(os.environ)
    os.environ.update(told)
    try:
        for _ in range(600):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    finally:
        fsspec.filesystem("s3").clear_instance_cache()  # the next server has another port
        server.terminate()
        server.wait()
        os.environ.clear()
        os.environ.update(before)


RECIPE = '''
"""Predicts x's first value modulo 3 from x: a small thing to train."""
import torch
from torch import nn
from train.classification import loss, metrics, predict
from train.config import TrainConfig

def config(model=None):
    return TrainConfig(model="linear", epochs=3, global_batch_size=16, lanes=4)

def build_model(config, card):
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 3))

def prepare(batch, card):
    return batch["x"] / 100
'''


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "linear"
    folder.mkdir()
    (folder / "model.py").write_text(RECIPE)
    return folder
