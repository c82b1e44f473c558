"""Where refused rows are: every file, every line, as a person would count them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl import positions

# Of a text file: no line ends, as Spark cuts there, and no byte order mark, which it drops.
LINES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), max_size=5)
    | st.sampled_from(["a,1", "a,1", " a,1 ", ""]),
    max_size=20,
)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.data())
@settings(max_examples=50)
def test_every_refused_record_gets_its_physical_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, packed: bool, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / ("lines.csv.gz" if packed else "lines.csv")
    text = end.join(lines).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    chosen = {line: data.draw(st.integers(0, lines.count(line))) for line in set(lines)}
    # Of equal records a rule refuses all or none; those that are refused take their lines in turn.
    records = [line for line in lines if chosen[line]]
    expected = [number for number, line in enumerate(lines, start=1) if chosen[line]]
    if lines and lines[-1] == "":  # an empty last line is none
        return
    assert positions._lines(f"file://{path}", records) == expected


def test_lines_are_those_that_spark_reads(tmp_path: Path) -> None:
    """A byte order mark is no text; a line ends with one or the other or both."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,x\rb\xe9,x\r\n\nc,x\n")
    assert positions._lines(f"file://{tmp_path}/a.csv", ["a,x", "b\ufffd,x", "c,x"]) == [1, 2, 4]


def test_what_quarantine_holds_has_one_schema() -> None:
    assert [(f.name, str(f.type)) for f in positions.REFUSED_SCHEMA] == [
        ("file", "string"),
        ("line", "int64"),
        ("record", "string"),
        ("rules", f"{pa.list_(pa.string())}"),
        ("reasons", f"{pa.list_(pa.string())}"),
    ]
