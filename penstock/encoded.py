"""Images, sounds and NumPy's arrays that are stored encoded: what a value's header says, and what it decodes to.

`check` needs no image decoder, so that ETL can look at every value; `decode` takes imagecodecs for images.
"""

from __future__ import annotations

import ast
import io
import math
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from penstock.errors import DatasetError
from penstock.schema import Field

T = TypeVar("T")
Header = tuple[str, tuple[int, ...]]  # dtype and shape of what a value decodes to, channels always included

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; 3, a palette, is of RGB colours
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}  # markers of a frame's header
JPEG_SCAN = 0xFFDA
NPY_START = b"\x93NUMPY"
NPY_LENGTHS = {1: ("<H", 10), 2: ("<I", 12)}  # by version: how long the header is, and where it begins
NPY_HEADER_BYTES = 10_000  # about the longest that NumPy reads
WAV_TYPES = {1: "uint8", 2: "int16", 4: "int32"}  # by bytes of a sample


def check(value: bytes, field: Field) -> None:
    """Compares a value's header with its field.

    Raises: DatasetError where it is no such image or sound, ends too early, or is of another dtype or shape.
    """
    _compare(_parse(HEADERS, value, field), field)


def decode(value: bytes, field: Field) -> npt.NDArray[Any]:
    """The array of the field's dtype and shape that a value holds; read-only. Sizes of None are the value's own.

    A palette gives its colours; the rotation that EXIF asks for and a PNG's transparent colour are not applied, and the
    four colours of a JPEG for printers stay what they are.

    Raises: DatasetError where a value is damaged, or of another dtype or shape.
    """
    if field.encoding in ARRAYS:
        if field.encoding == "npz":
            check(value, field)  # before anything is inflated
        array = _parse(ARRAYS, value, field)
        _compare((array.dtype.name, array.shape), field)
        return array.reshape(array.shape[: len(field.shape)])
    import imagecodecs  # here, as ETL has none and needs none

    header = _parse(HEADERS, value, field)
    _compare(header, field)
    height, width, channels = header[1]
    try:
        pixels = imagecodecs.jpeg8_decode(value) if field.encoding == "jpeg" else imagecodecs.png_decode(value)
        # Transparency becomes a channel, the last one, also where the header names none.
        return pixels.reshape(height, width, -1)[..., :channels].reshape(header[1][: len(field.shape)])
    except (RuntimeError, ValueError) as error:
        raise DatasetError(f"column {field.name!r}: damaged {field.encoding} ({error})") from error


def _parse(parsers: Mapping[str, Callable[[bytes], T]], value: bytes, field: Field) -> T:
    assert field.encoding is not None
    try:
        return parsers[field.encoding](value)
    except ERRORS as error:
        found = f"{len(value):,} bytes that begin with {value[:8]!r}"
        raise DatasetError(
            f"column {field.name!r}: expected {field.encoding}, found {found} ({error})", values=[repr(value[:8])]
        ) from error


def _compare(found: Header, field: Field) -> None:
    dtype, shape = found
    expected = field.shape if len(field.shape) == len(shape) or field.encoding in ("npy", "npz") else (*field.shape, 1)
    as_expected = len(expected) == len(shape) and all(e in (None, f) for e, f in zip(expected, shape, strict=True))
    if dtype != field.dtype or not as_expected:
        raise DatasetError(
            f"column {field.name!r}: expected {field.encoding} of {field.dtype} {_text(expected)}, "
            f"found {dtype} {_text(shape)}"
        )


def _text(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)


def _png(value: bytes) -> Header:
    """Source: W3C, "Portable Network Graphics (PNG) Specification", 5.2 and 11.2.2 IHDR."""
    if not value.startswith(PNG_START) or value[12:16] != b"IHDR":
        raise ValueError("no PNG header")
    if PNG_END not in value:
        raise ValueError("it ends too early: IEND is missing")
    width, height, depth, colour = struct.unpack_from(">IIBB", value, 16)
    if colour not in PNG_CHANNELS:
        raise ValueError(f"unknown colour type {colour}")
    return "uint16" if depth == 16 else "uint8", (height, width, PNG_CHANNELS[colour])


def _jpeg(value: bytes) -> Header:
    """Source: ITU-T T.81, B.1.1 (markers) and B.2.2 (frame header)."""
    if not value.startswith(JPEG_START):
        raise ValueError("no JPEG header")
    if JPEG_END not in value:
        raise ValueError("it ends too early: EOI is missing")
    at = len(JPEG_START)
    while True:
        marker, length = struct.unpack_from(">HH", value, at)
        if marker in JPEG_FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", value, at + 4)
            return "uint8" if depth == 8 else "uint16", (height, width, channels)
        if marker < 0xFF00 or marker == JPEG_SCAN:
            raise ValueError("no frame header")
        at += 1 if marker == 0xFFFF else 2 + length  # bytes of 0xFF may stand before a marker


def _wav(value: bytes) -> npt.NDArray[Any]:
    """(frames, channels) samples of a PCM sound."""
    with wave.open(io.BytesIO(value)) as sound:
        channels, width, frames = sound.getnchannels(), sound.getsampwidth(), sound.getnframes()
        samples = sound.readframes(frames)
    if width not in WAV_TYPES:
        raise ValueError(f"samples of {8 * width} bits; 8, 16 and 32 can be decoded")
    if len(samples) != frames * channels * width:
        raise ValueError(f"it ends too early: {frames:,} frames are said to follow")
    return np.frombuffer(samples, np.dtype(WAV_TYPES[width]).newbyteorder("<")).reshape(frames, channels)


def _wav_header(value: bytes) -> Header:
    samples = _wav(value)
    return samples.dtype.name, samples.shape


def _npy(value: bytes) -> npt.NDArray[Any]:
    """Source: NumPy, "numpy.lib.format", format version 1.0 and 2.0."""
    start = _npy_start(value)
    dtype, shape, order = _npy_parsed(value[:start])
    if len(value) != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(value) - start:,} bytes of elements, expected {math.prod(shape) * dtype.itemsize:,}")
    array = np.frombuffer(value, dtype, math.prod(shape), start).reshape(shape, order=order)
    return array.astype(dtype.newbyteorder("<"), copy=False)


def _npy_header(value: bytes) -> Header:
    dtype, shape, _ = _npy_parsed(value[: _npy_start(value)])
    return dtype.name, shape


def _npy_start(value: bytes) -> int:
    """Where the elements begin."""
    kind, start = NPY_LENGTHS.get(value[6] if len(value) > 6 else 0, ("", 0))
    if not kind:
        raise ValueError("no .npy header of version 1 or 2")
    return start + int(struct.unpack_from(kind, value, 8)[0])


@lru_cache(256)  # the arrays of a column have few headers, and each is Python's text of a dict
def _npy_parsed(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    if not header.startswith(NPY_START) or len(header) > NPY_HEADER_BYTES:
        raise ValueError("no .npy header")
    found = ast.literal_eval(header[NPY_LENGTHS[header[6]][1] :].decode("latin1"))
    dtype, shape = np.dtype(found["descr"]), found["shape"]
    if dtype.hasobject or dtype.names:
        raise ValueError("it holds Python objects or records, which are never opened")
    if not isinstance(shape, tuple) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"the header says the shape {shape!r}")
    return dtype, shape, "F" if found["fortran_order"] else "C"


def _npz(value: bytes) -> npt.NDArray[Any]:
    dtype, shape, _ = _npy_parsed((head := _npz_start(value))[: _npy_start(head)])
    return _npy(_npz_start(value, _npy_start(head) + math.prod(shape) * dtype.itemsize))


def _npz_header(value: bytes) -> Header:
    return _npy_header(_npz_start(value))


def _npz_start(value: bytes, num_bytes: int = NPY_HEADER_BYTES) -> bytes:
    """The first bytes of the one .npy file in a .npz file; no more are inflated."""
    with zipfile.ZipFile(io.BytesIO(value)) as archive:
        if len(names := archive.namelist()) != 1:
            raise ValueError(f"expected one array, found {len(names)}")
        with archive.open(names[0]) as file:
            return file.read(max(0, num_bytes))


HEADERS = {"png": _png, "jpeg": _jpeg, "wav": _wav_header, "npy": _npy_header, "npz": _npz_header}
ARRAYS = {"wav": _wav, "npy": _npy, "npz": _npz}
# What `wave`, `zipfile` and `ast` raise on bytes that are no such file.
ERRORS = (
    *(ValueError, TypeError, LookupError, EOFError, RuntimeError, SyntaxError, MemoryError),
    *(struct.error, wave.Error, zipfile.BadZipFile, zlib.error),
)
