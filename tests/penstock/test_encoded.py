"""Encoded pictures and sounds: they decode to what was encoded, and what is no such thing is said to be none."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from penstock.encoded import check, decode
from penstock.errors import DatasetError
from penstock.schema import Field
from tests.penstock.conftest import png

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's names by number of channels
PIXELS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3, 4])).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape)
)
SAMPLES = st.tuples(
    st.sampled_from(["uint8", "<i2", "<i4"]), st.tuples(st.integers(0, 20), st.sampled_from([1, 2, 6]))
).flatmap(lambda made: hnp.arrays(*made))


def image(pixels: npt.NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    """(height, width, channels) pixels as an image file."""
    height, width, channels = pixels.shape
    file = io.BytesIO()
    Image.frombytes(MODES[channels], (width, height), pixels.tobytes()).save(file, kind, **options)
    return file.getvalue()


def wav(samples: npt.NDArray[Any]) -> bytes:
    """(frames, channels) samples as a sound file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((samples.shape[1], samples.itemsize, 16_000, 0, "NONE", ""))
        sound.writeframes(samples.tobytes())
    return file.getvalue()


@given(PIXELS, st.booleans())
def test_a_png_decodes_to_its_pixels(pixels: npt.NDArray[np.uint8], varies: bool) -> None:
    value, (height, width, channels) = image(pixels, "PNG"), pixels.shape
    field = Field("x", "uint8", (None, width, channels) if varies else pixels.shape, "png")
    check(value, field)
    np.testing.assert_array_equal(decode(value, field), pixels)
    if channels == 1:
        np.testing.assert_array_equal(decode(value, Field("x", "uint8", (height, width), "png")), pixels[..., 0])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(300)}])
def test_a_jpeg_decodes_to_what_its_decoder_gives(channels: int, mode: str, options: dict[str, Any]) -> None:
    pixels = (np.indices((20, 30)).sum(axis=0)[..., None] * 5 + np.arange(channels)).astype(np.uint8)
    value, field = image(pixels, "JPEG", quality=95, **options), Field("x", "uint8", (20, 30, channels), "jpeg")
    check(value, field)
    found = decode(value, field)
    assert found.shape == (20, 30, channels)
    assert np.abs(found.astype(int) - pixels).max() < 12  # lossy
    np.testing.assert_array_equal(np.squeeze(found), np.asarray(Image.open(io.BytesIO(value))))


@given(SAMPLES, st.booleans())
def test_a_wav_decodes_to_its_samples(samples: npt.NDArray[Any], varies: bool) -> None:
    frames, channels = samples.shape
    field = Field("x", samples.dtype.name, (None if varies or not frames else frames, channels), "wav")
    check(wav(samples), field)
    np.testing.assert_array_equal(decode(wav(samples), field), samples)
    if channels == 1:
        np.testing.assert_array_equal(decode(wav(samples), Field("x", field.dtype, (None,), "wav")), samples[:, 0])


ARRAYS = st.tuples(
    st.sampled_from(["uint8", "<i2", ">i4", "<i8", "<f2", ">f4", "<f8"]),
    hnp.array_shapes(max_dims=4, min_side=0, max_side=4),
).flatmap(lambda made: hnp.arrays(*made))


def saved(array: npt.NDArray[Any], encoding: str) -> bytes:
    file = io.BytesIO()
    np.save(file, array) if encoding == "npy" else np.savez_compressed(file, arr=array)
    return file.getvalue()


@given(ARRAYS, st.sampled_from(["npy", "npz"]), st.booleans(), st.booleans())
def test_an_array_that_numpy_saved_is_itself(
    array: npt.NDArray[Any], encoding: str, varies: bool, fortran: bool
) -> None:
    value = saved(np.asfortranarray(array) if fortran else array, encoding)
    shape = tuple(None if varies or not size else size for size in array.shape)
    field = Field("x", array.dtype.newbyteorder("=").name, shape, encoding)
    check(value, field)
    found = decode(value, field)
    assert (found.dtype, found.shape) == (field.numpy_dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("encoding", ["npy", "npz"])
def test_an_array_of_python_objects_is_never_unpickled(encoding: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    value = saved(np.array([Trap()], object), encoding)
    for look in (check, decode):
        with pytest.raises(DatasetError, match=rf"column 'x': expected {encoding}, found .* Python objects"):
            look(value, Field("x", "float32", (1,), encoding))
    assert not (tmp_path / "sprung").exists()


def test_no_more_is_inflated_than_the_field_holds() -> None:
    bomb = saved(np.zeros(1 << 26, np.uint8), "npz")
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"expected npz of uint8 4, found uint8 67108864"):
        decode(bomb, Field("x", "uint8", (4,), "npz"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["1", "P"])
def test_few_colours_are_pixels_too(mode: str) -> None:
    grey = Image.frombytes("L", (4, 2), bytes([0, 255, 0, 0, 255, 255, 0, 255]))
    file = io.BytesIO()
    grey.convert(mode).save(file, "PNG")
    channels = 1 if mode == "1" else 3
    found = decode(file.getvalue(), Field("x", "uint8", (2, 4, channels), "png"))
    np.testing.assert_array_equal(found, np.repeat(np.asarray(grey)[..., None], channels, axis=2))


@pytest.mark.parametrize(("mode", "transparent"), [("L", 7), ("RGB", (7, 7, 7)), ("P", 7)])
def test_a_transparent_colour_is_a_colour(mode: str, transparent: Any) -> None:
    colours = Image.frombytes("L", (4, 2), bytes(range(8))).convert(mode)
    file = io.BytesIO()
    colours.save(file, "PNG", transparency=transparent)
    channels = 1 if mode == "L" else 3
    found = decode(file.getvalue(), Field("x", "uint8", (2, 4, channels), "png"))
    np.testing.assert_array_equal(found, np.repeat(np.arange(8).reshape(2, 4, 1), channels, axis=2))


RGB = Field("x", "uint8", (8, 8, 3), "png")
DEEP = io.BytesIO()
Image.new("I;16", (8, 8)).save(DEEP, "PNG")
MATRIX = Field("x", "float32", (2, 2), "npy")
SOUND = Field("x", "int16", (None,), "wav")


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (png(8, 9), RGB, "column 'x': expected png of uint8 8 x 8 x 3, found uint8 8 x 9 x 3"),
        (png(8, 8, "RGBA"), RGB, "expected png of uint8 8 x 8 x 3, found uint8 8 x 8 x 4"),
        (png(8, 8), Field("x", "uint8", (None, 8), "png"), "expected png of uint8 any x 8 x 1, found uint8 8 x 8 x 3"),
        (DEEP.getvalue(), Field("x", "uint8", (8, 8), "png"), "found uint16 8 x 8 x 1"),
        (b"", RGB, r"expected png, found 0 bytes that begin with b'' \(no PNG header\)"),
        (png(8, 8)[:-1], RGB, "it ends too early: IEND is missing"),
        (png(8, 8)[:20], RGB, "it ends too early"),
        (png(8, 8), Field("x", "uint8", (8, 8, 3), "jpeg"), "expected jpeg, found .* bytes .*no JPEG header"),
        (b"\xff\xd8\xff\xd9", Field("x", "uint8", (8, 8, 3), "jpeg"), "expected jpeg, found 4 bytes"),
        (b"\xff\xd8\xff\xda\0\2\xff\xd9", Field("x", "uint8", (8, 8, 3), "jpeg"), "no frame header"),
        (wav(np.zeros((5, 2), "<i2")), SOUND, "expected wav of int16 any x 1, found int16 5 x 2"),
        (wav(np.zeros((5, 1), "<i4")), SOUND, "expected wav of int16 any x 1, found int32 5 x 1"),
        (wav(np.zeros((5, 1), "<i2"))[:-2], SOUND, "it ends too early: 5 frames are said to follow"),
        (
            wav(np.zeros((5, 3), "u1")).replace(b"\3\0\x08\0", b"\1\0\x18\0"),
            SOUND,
            "samples of 24 bits; 8, 16 and 32",
        ),
        (saved(np.zeros((2, 3), "f4"), "npy"), MATRIX, "expected npy of float32 2 x 2, found float32 2 x 3"),
        (saved(np.zeros((2, 2, 1), "f4"), "npy"), MATRIX, "expected npy of float32 2 x 2, found float32 2 x 2 x 1"),
        (saved(np.zeros((2, 2)), "npy"), MATRIX, "expected npy of float32 2 x 2, found float64 2 x 2"),
        (saved(np.zeros((2, 2), "i4,f4"), "npy"), MATRIX, "expected npy, found .* records"),
        (b"\x93NUMPY\1\0", MATRIX, "expected npy, found 8 bytes that begin with"),
        (b"", MATRIX, "expected npy, found 0 bytes .*no .npy header"),
        (
            saved(np.zeros((2, 2), "f4"), "npy"),
            Field("x", "float32", (2, 2), "npz"),
            "expected npz, found .* not a zip",
        ),
        (b"RIFF", SOUND, "expected wav, found 4 bytes that begin with b'RIFF'"),
    ],
)
def test_what_is_something_else_is_said(value: bytes, field: Field, message: str) -> None:
    for look in (check, decode):
        with pytest.raises(DatasetError, match=message):
            look(value, field)


def test_a_cut_array_is_said() -> None:
    value = saved(np.zeros((2, 2), "f4"), "npy")
    for cut in (value[:-1], value + b"x"):
        with pytest.raises(DatasetError, match=r"expected npy, found .* bytes of elements, expected 16"):
            decode(cut, MATRIX)


def test_a_damaged_picture_is_said() -> None:
    value = bytearray(png(8, 8))
    value[50] ^= 1
    check(bytes(value), RGB)  # its header is whole
    with pytest.raises(DatasetError, match="column 'x': damaged png"):
        decode(bytes(value), RGB)


GRADIENT = np.indices((8, 8)).sum(axis=0)[..., None].repeat(3, axis=2).astype(np.uint8)
FILES = {
    Field("x", "uint8", (None, None, 3), "png"): image(GRADIENT, "PNG"),
    Field("x", "uint8", (None, None, 3), "jpeg"): image(GRADIENT, "JPEG"),
    Field("x", "float32", (None, 3), "npy"): saved(np.ones((2, 3), "f4"), "npy"),
    Field("x", "float32", (None, 3), "npz"): saved(np.ones((2, 3), "f4"), "npz"),
    Field("x", "int16", (None,), "wav"): wav(np.arange(40, dtype="<i2")[:, None]),
}


@given(st.sampled_from(sorted(FILES, key=str)), st.data())
def test_any_damage_ends_in_a_sentence_or_an_array_of_the_field(field: Field, data: st.DataObject) -> None:
    value = bytearray(FILES[field])
    for at in data.draw(st.lists(st.integers(0, len(value) - 1), max_size=3)):
        value[at] = data.draw(st.integers(0, 255))
    cut = bytes(value[: data.draw(st.integers(0, len(value)))])
    for damaged in (bytes(value), cut):
        try:
            found = decode(damaged, field)
        except DatasetError as error:
            assert str(error).startswith("column 'x': ")  # noqa: PT017
        else:
            assert found.dtype == field.dtype
            assert len(found.shape) == len(field.shape)


def test_headers_are_checked_without_an_image_decoder() -> None:
    code = "import sys; sys.modules['imagecodecs'] = None; from penstock.audit import audit_file"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
