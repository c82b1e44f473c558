"""Scalars as a TensorBoard event file, written here: it is three small messages, and no package is needed for them.

A file is a sequence of records, each a protocol buffer `Event` between two checksums; one that a kill cut short is
ignored by readers. Each start of a run writes a file of its own, whose first step tells TensorBoard to forget what an
earlier file has from there on.

Source: tensorflow/core/lib/io/record_writer.h (records), tensorflow/core/util/event.proto and
tensorflow/core/framework/summary.proto (messages), RFC 3720 appendix B.4 (CRC-32C).
"""

from __future__ import annotations

import os
import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
START = 1  # SessionLog.SessionStatus


def _crc_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


CRC_TABLE = _crc_table()


def open_events(folder: Path, first_step: int) -> BinaryIO:
    """A new event file in the folder, for steps from `first_step` on."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    name = f"events.out.tfevents.{now:.6f}.{platform.node()}.{os.getpid()}"
    file = (folder / name).open("xb")
    _write(file, _event(now, 0, _bytes(3, b"brain.Event:2")))
    _write(file, _event(now, first_step, _bytes(7, _varint(1, START))))
    return file


def write_scalars(file: BinaryIO, step: int, values: Mapping[str, float]) -> None:
    """One value for each tag, at a step; TensorBoard groups tags by what is before their `/`."""
    summary = b"".join(
        _bytes(1, _bytes(1, tag.encode()) + _key(2, FIXED32) + struct.pack("<f", value))
        for tag, value in values.items()
    )
    _write(file, _event(time.time(), step, _bytes(5, summary)))


def _event(wall_time: float, step: int, what: bytes) -> bytes:
    return _key(1, FIXED64) + struct.pack("<d", wall_time) + _varint(2, step) + what


def _write(file: BinaryIO, data: bytes) -> None:
    length = struct.pack("<Q", len(data))
    file.write(length + _checksum(length) + data + _checksum(data))
    file.flush()  # a reader sees it now, and a kill loses none of it


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _number(value: int) -> bytes:
    """A whole number of 0 or more as a varint: 7 bits a byte, the lowest first."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _key(field: int, wire_type: int) -> bytes:
    return _number(field << 3 | wire_type)


def _varint(field: int, value: int) -> bytes:
    return _key(field, VARINT) + _number(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, LENGTH) + _number(len(value)) + value
