"""How bench.feed runs another system: it converts the rows once, warms up, then reads an epoch for each line it gets.

    python -m bench.peers.memory.feed --system index_select --case images --parquet FOLDER --out FOLDER

in the environment of the peer, from the root of the project. Prints a JSON object a line: first the versions, then
`rows` and `seconds` of each repeat. Without --stdin it makes --repeats of them and ends.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from bench.cases import CASES, LABEL, Case
from bench.clock import Epoch, measure, warm_up
from penstock import tensors
from penstock.schema import Field

NUM_WORKERS = 2

# (the case, its Parquet files, a folder that is empty or holds what was converted before) -> epochs of batches
Prepare = Callable[[Case, Sequence[Path], Path], Epoch]


def serve(systems: Mapping[str, Prepare], packages: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=list(systems), default=next(iter(systems)))
    parser.add_argument("--case", choices=list(CASES), required=True)
    parser.add_argument("--parquet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="scratch; what was converted there is used again")
    parser.add_argument("--seconds", type=float, default=20.0, help="a repeat stops after these")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--stdin", action="store_true", help="one repeat for each line of standard input")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # libraries print to standard output
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    case = CASES[arguments.case]
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = sorted(arguments.parquet.absolute().glob("*.parquet"))
    epoch = systems[arguments.system](case, files, arguments.out.absolute())
    numbers = itertools.count()
    warm_up(epoch, numbers, case)
    say({"versions": {name: version(name) for name in packages}})
    for _ in sys.stdin if arguments.stdin else range(arguments.repeats):
        rows, seconds = measure(epoch, numbers, arguments.seconds)
        say({"rows": rows, "seconds": seconds})


def converted(folder: Path, convert: Callable[[Path], None]) -> Path:
    """The folder, which `convert` fills where it is not there yet, whole or not at all."""
    if not folder.exists():
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        convert(partial)
        partial.rename(folder)
    return folder


def read_columns(case: Case, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Row group after row group: field -> (n, *shape) array; a list of arrays for lists, of bytes for images."""
    for path in files:
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=case.columns)
            yield {name: values_of(case.schema[name], table[name].combine_chunks()) for name in case.columns}


def values_of(field: Field, column: Any) -> Any:
    if field.is_tensor:
        return tensors.view(column, field, field.name)
    if field.is_list:
        return list(column.to_numpy(zero_copy_only=False))
    return column.to_pylist() if field.is_encoded else column.to_numpy()


def read_rows(case: Case, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Row after row: field -> array of its shape, scalar, or bytes."""
    for columns in read_columns(case, files):
        for i in range(len(columns[LABEL])):
            yield {name: values[i] for name, values in columns.items()}


def to_arrow(case: Case, files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Row group after row group, with a fixed-size list for a tensor of any shape."""
    for columns in read_columns(case, files):
        yield pa.RecordBatch.from_pydict({name: arrow_column(case.schema[name], columns[name]) for name in columns})


def arrow_column(field: Field, values: Any) -> pa.Array:
    if field.is_tensor:
        return pa.FixedSizeListArray.from_arrays(values.reshape(-1), values[0].size)
    return pa.array(values, field.arrow_type)


def from_arrow(case: Case, table: pa.Table) -> dict[str, torch.Tensor]:
    """A batch of what `to_arrow` gave."""
    batch = {}
    for name in case.columns:
        field, column = case.schema[name], table[name].combine_chunks()
        if field.is_tensor:
            batch[name] = torch.from_numpy(column.flatten().to_numpy().reshape(-1, *field.shape))
        else:
            values = column.to_pylist() if field.is_encoded else column.to_numpy(zero_copy_only=False)
            batch[name] = collate(case, name, values)
    return batch


def collate(case: Case, name: str, values: Sequence[Any]) -> torch.Tensor:
    """The values of one column as a tensor: lists padded with zeros, encoded images decoded."""
    field = case.schema[name]
    if field.is_list:
        return pad_sequence([torch.as_tensor(value) for value in values], batch_first=True)
    if field.is_encoded:
        return torch.from_numpy(np.stack([decode(value) for value in values]))
    return torch.as_tensor(np.asarray(values, field.dtype))


def collate_rows(case: Case, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: collate(case, name, [row[name] for row in rows]) for name in case.columns}


def decode(value: bytes) -> np.ndarray:
    """(height, width, channels) uint8."""
    with Image.open(io.BytesIO(value)) as image:
        return np.asarray(image)
