"""Text files cut into records: the same as Python's own csv writer put there, whatever the blocks and the encoding."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.read import records
from etl.read.records import Format
from penstock.errors import RecipeError

QUOTED = Format(quote=b'"')
LINES = Format()
FIELDS = st.text('ab",;\n\r ', max_size=6)


def cut(text: bytes, form: Format, block_bytes: int = 1 << 20) -> list[tuple[int, bytes]]:
    blocks = records.records(io.BytesIO(text), form, block_bytes)
    return [pair for b in blocks for pair in zip(b.positions.tolist(), b.values.to_pylist(), strict=True)]


def num_lines(text: str) -> int:
    return len(re.findall("\r\n|\r|\n", text))


@given(
    st.lists(st.lists(FIELDS, min_size=2, max_size=2), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([b",", b";"]),
    st.sampled_from([1, 2, 3, 7, 1000]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
)
def test_records_are_what_a_csv_writer_wrote_and_know_their_line(
    rows: Sequence[Sequence[str]], end: str, delimiter: bytes, block_bytes: int, encoding: str
) -> None:
    file, expected = io.StringIO(newline=""), []
    # With another line end than CR LF, Python's writer leaves values unquoted that hold half of one.
    quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
    writer = csv.writer(file, lineterminator=end, delimiter=delimiter.decode(), quoting=quoting)
    for row in rows:
        written = file.tell()
        writer.writerow(row)
        record = file.getvalue()[written:].removesuffix(end)
        expected.append((1 + num_lines(file.getvalue()[:written]), record.encode()))
    form = Format(encoding.removesuffix("-sig"), b'"', delimiter)
    assert cut(file.getvalue().encode(encoding), form, block_bytes) == expected


@given(st.lists(st.sampled_from(b'a,"\r\n'), max_size=20).map(bytes), st.sampled_from([1, 2, 5]))
def test_any_bytes_are_cut_the_same_in_any_blocks_and_no_line_is_lost(text: bytes, block_bytes: int) -> None:
    lines = [line.rstrip(b"\r\n") for line in re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text)]
    assert cut(text, LINES, block_bytes) == list(enumerate(lines, start=1))
    quoted = cut(text, QUOTED, block_bytes)
    assert quoted == cut(text, QUOTED)
    next_line = 1
    for number, record in quoted:
        assert number == next_line
        next_line += 1 + num_lines(record.decode())
    assert next_line == len(lines) + 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'5" pipe,1\n6" pipe,2\n', [(1, b'5" pipe,1'), (2, b'6" pipe,2')]),  # a quote within a value is a character
        (b'1,"open\n2,x\n3,y\n', [(1, b'1,"open'), (2, b"2,x"), (3, b"3,y")]),  # swallows nothing
        (b'1, "a\nb"\n2,c', [(1, b'1, "a\nb"'), (3, b"2,c")]),
        (b'1,"a ""b\nc"""\n2,c', [(1, b'1,"a ""b\nc"""'), (3, b"2,c")]),
        (b'1,a"b,"c\nd"\n', [(1, b'1,a"b,"c'), (2, b'd"')]),  # an even number of quotes closes what it opens
        (b"\xef\xbb\xbfa,b\r\n\r\n1,2\r", [(1, b"a,b"), (2, b""), (3, b"1,2")]),
    ],
)
def test_quotes_that_do_not_pair_up(text: bytes, found: list[tuple[int, bytes]]) -> None:
    assert cut(text, QUOTED) == cut(text, QUOTED, 1) == found


def test_without_trimming_only_a_first_quote_opens() -> None:
    assert cut(b'1, "a\nb"\n', Format(quote=b'"', trim=False)) == [(1, b'1, "a'), (2, b'b"')]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_of_a_record_that_is_too_long_the_beginning_is_kept(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    monkeypatch.setattr(records, "LONGEST_BYTES", 20)
    monkeypatch.setattr(records, "SHOWN_BYTES", 5)
    text = end.join([b"a,b", b"x" * 100, b"c,d", b'1,"' + b"y\n" * 20, b"e,f"])
    for block_bytes in (1, 2, 4, 9):
        blocks = list(records.records(io.BytesIO(text), QUOTED, block_bytes))
        problems = [block.problem for block in blocks for _ in range(len(block.values))]
        found = cut(text, QUOTED, block_bytes)
        assert found[:4] == [(1, b"a,b"), (2, b"xxxxx"), (3, b"c,d"), (4, b'1,"y')]
        assert found[-1][1] == b"e,f"
        assert problems[:3] == [None, "expected a record of at most 20 bytes", None]


def test_bytes_that_are_not_of_the_encoding_make_no_text() -> None:
    [(_, first), (_, second)] = cut(b"a\x81b\nc\x80d", Format("cp1252"))
    assert second.decode() == "c€d"
    with pytest.raises(UnicodeDecodeError):
        first.decode()


def test_an_encoding_that_is_none_is_said() -> None:
    with pytest.raises(RecipeError, match="Python knows none named 'utf-9'"):
        Format("utf-9")
