from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cases import CASES, KEY, ROW_GROUP_BYTES, group_sizes, row_groups
from bench.publish import publish
from penstock import card, manifest
from penstock.console import Console
from penstock.verify import verify


@given(name=st.sampled_from(sorted(CASES)), num_rows=st.integers(1, 200_000))
def test_row_groups_hold_all_rows_and_are_even(name: str, num_rows: int) -> None:
    sizes = [size for in_file in group_sizes(CASES[name], num_rows) for size in in_file]
    assert sum(sizes) == num_rows
    assert min(sizes) >= 1
    assert max(sizes) * CASES[name].row_bytes <= ROW_GROUP_BYTES + CASES[name].row_bytes


@pytest.mark.parametrize("name", CASES)
def test_what_is_published_is_a_dataset_of_the_rows(name: str, tmp_path: Path, console: Console) -> None:
    case = CASES[name]
    parquet = publish(tmp_path, case.schema, row_groups(case, 50))
    _, differences = verify(str(tmp_path), console)
    assert differences == []
    keys = pq.read_table(parquet, columns=[KEY])[KEY].to_numpy()
    assert (keys == np.arange(50)).all()
    places = manifest.read(f"file://{tmp_path}", card.load(str(tmp_path))).table["columns"].combine_chunks()
    in_place = {column for column in case.columns if places.field(column).field("values").null_count == 0}
    assert in_place == {column for column in case.columns if not case.schema[column].is_varying}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_same_each_time_and_weigh_what_is_said(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    first = publish(tmp_path / "first", case.schema, row_groups(case, 400))
    second = publish(tmp_path / "second", case.schema, row_groups(case, 400))
    files = sorted(first.glob("*.parquet"))
    assert [file.read_bytes() for file in files] == [(second / file.name).read_bytes() for file in files]
    groups = [pq.ParquetFile(file).metadata.row_group(0) for file in files]
    row_bytes = sum(group.total_byte_size for group in groups) / sum(group.num_rows for group in groups)
    assert row_bytes == pytest.approx(case.row_bytes, rel=0.3)
