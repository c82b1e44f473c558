"""How bench.feed runs another system: it converts the rows once, warms up, then reads an epoch for each line it gets.

    python -m bench.peers.memory.feed --system index_select --case images --parquet FOLDER --out FOLDER

in the environment of the peer, from the root of the project. Prints a JSON object a line: first the versions, then
`rows` and `seconds` of each repeat. Without --stdin it makes --repeats of them and ends.
"""

from __future__ import annotations

import argparse
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
import pyarrow.parquet as pq

from bench.cases import CASES, Case
from bench.clock import Epoch, measure, warm_up
from penstock import tensors

NUM_WORKERS = 2

# (the case, the folder of Parquet files, an empty or already converted folder) -> epochs of batches
Prepare = Callable[[Case, Path, Path], Epoch]


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
    epoch = systems[arguments.system](case, arguments.parquet.absolute(), arguments.out.absolute())
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


def read_columns(case: Case, parquet: Path) -> Iterator[dict[str, np.ndarray]]:
    """Row group after row group: field -> (n, *shape)."""
    for path in sorted(parquet.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=case.columns)
            yield {name: as_array(case, name, table[name].combine_chunks()) for name in case.columns}


def as_array(case: Case, name: str, column: Any) -> np.ndarray:
    field = case.schema[name]
    return tensors.view(column, field, name) if field.is_tensor else column.to_numpy(zero_copy_only=False)


def read_rows(case: Case, parquet: Path) -> Iterator[dict[str, Any]]:
    """Row after row: field -> array of its shape, or a scalar."""
    for columns in read_columns(case, parquet):
        for i in range(len(columns[case.columns[0]])):
            yield {name: values[i] for name, values in columns.items()}


def read_whole(case: Case, parquet: Path) -> dict[str, np.ndarray]:
    """All rows in memory: field -> (N, *shape)."""
    parts = list(read_columns(case, parquet))
    return {name: np.concatenate([part[name] for part in parts]) for name in case.columns}
