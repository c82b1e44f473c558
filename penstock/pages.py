"""Where the values of a Parquet column chunk lie, for chunks that can be read in place.

In an uncompressed PLAIN page a value of fixed width lies at a fixed stride: a number as its bytes, a tensor as
4 bytes of length and then its bytes. Source: Apache Parquet format, "File format", "Data Pages", "Plain encoding" and
parquet.thrift (PageHeader); Thrift compact protocol specification.
"""

from __future__ import annotations

import pyarrow.parquet as pq

from penstock.schema import Field

DATA_PAGE, PLAIN = 0, 0
TAIL_BYTES = 8  # behind the footer: its length, and the magic number
LENGTH_BYTES = 4  # in front of every BYTE_ARRAY value
PARQUET_BYTES = {"int8": 4, "int16": 4, "int32": 4, "int64": 8, "float32": 4, "float64": 8}


def chunk_range(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Where a column chunk lies in its file, the page of its dictionary included: offset and bytes."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:  # 0, where a writer means none
        start = min(start, chunk.dictionary_page_offset)
    return start, chunk.total_compressed_size


def stride(field: Field) -> int | None:
    """Bytes from one value to the next in a PLAIN page; None where values have no fixed width there."""
    if field.is_tensor:
        return LENGTH_BYTES + field.num_bytes
    return None if field.shape else PARQUET_BYTES.get(field.dtype)  # bools are bits; strings, lists, pictures vary


def footer_bytes(content: bytes | memoryview) -> int:
    """How many of a file's last bytes are its footer, the length and the magic number behind it included."""
    return int.from_bytes(content[-TAIL_BYTES:-4], "little") + TAIL_BYTES


def values_offset(chunk: memoryview, field: Field, num_rows: int) -> int | None:
    """Offset of the first value in an uncompressed chunk without nulls, or None where it must be decoded.

    None unless the chunk is one version 1 data page that is PLAIN and holds all rows. Values end where the
    page ends, whatever levels stand before them.
    """
    width = stride(field)
    if width is None or not num_rows:
        return None
    try:
        header, end_of_header = read_struct(chunk, 0)
    except (ValueError, IndexError, RecursionError):
        return None  # damaged, or of a kind that only a whole Thrift reader knows
    data_page = header.get(5)
    if header.get(1) != DATA_PAGE or not isinstance(data_page, dict):
        return None
    page_bytes = header.get(3)
    if not isinstance(page_bytes, int):
        return None
    end_of_page = end_of_header + page_bytes
    one_page = end_of_page == len(chunk) and data_page.get(1) == num_rows
    if not one_page or data_page.get(2) != PLAIN:
        return None
    start = end_of_page - num_rows * width
    levels = bytes(chunk[end_of_header : max(start, end_of_header)])
    all_there = start == end_of_header or int.from_bytes(levels[:4], "little") == len(levels) - 4
    return start if start >= end_of_header and all_there else None


def read_struct(data: memoryview, at: int) -> tuple[dict[int, object], int]:
    """One Thrift compact struct -> ({field id: value}, offset behind it). Lists do not occur in page headers
    up to the fields that are needed here; a type that is not expected ends in ValueError."""
    fields: dict[int, object] = {}
    field_id = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        delta, kind = head >> 4, head & 15
        if delta:
            field_id += delta
        else:
            field_id, at = _zigzag(data, at)
        match kind:
            case 1 | 2:
                fields[field_id] = kind == 1
            case 3:
                fields[field_id], at = data[at], at + 1
            case 4 | 5 | 6:
                fields[field_id], at = _zigzag(data, at)
            case 7:
                at += 8
            case 8:
                length, at = _varint(data, at)
                fields[field_id], at = bytes(data[at : at + length]), at + length
            case 12:
                fields[field_id], at = read_struct(data, at)
            case _:
                raise ValueError(f"unexpected Thrift type {kind} in a page header")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _zigzag(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
