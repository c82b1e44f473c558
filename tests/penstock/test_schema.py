"""Schemas: what a recipe may declare, what is refused, and with which words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RecipeError
from penstock.schema import ENCODINGS, LIST_TYPES, SCALAR_TYPES, TENSOR_TYPES, Field, Schema

NAMES = st.text(st.characters(exclude_characters="._="), min_size=1, max_size=9).filter(lambda n: n.lower() != "split")
LISTS = [pa.list_(SCALAR_TYPES[dtype]) for dtype in LIST_TYPES]
SIZES = st.integers(1, 9)
BUCKETED = Field("x", "int32", (None,), buckets=(3,))


@st.composite
def encoded_fields(draw: st.DrawFn) -> Field:
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    known = ENCODINGS[encoding]
    axes = draw(st.lists(st.none() | SIZES, min_size=known.num_axes or 1, max_size=known.num_axes or 4))
    channels = draw(st.lists(st.sampled_from(known.channels), max_size=1)) if known.channels else []
    return Field(draw(NAMES), draw(st.sampled_from(known.dtypes)), (*axes, *channels), encoding)


FIELDS = st.one_of(
    st.builds(Field, NAMES, st.sampled_from(sorted(SCALAR_TYPES))),
    st.builds(Field, NAMES, st.sampled_from(TENSOR_TYPES), st.lists(SIZES, min_size=1, max_size=4)),
    st.builds(Field, NAMES, st.sampled_from(LIST_TYPES), st.just((None,))),
    st.builds(Field, st.just("text"), st.just("int8"), st.just((None,)), st.none(), st.sampled_from([(1,), (3, 9)])),
    encoded_fields(),
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    fields = draw(st.lists(FIELDS, max_size=5, unique_by=lambda field: field.name.lower()))
    key = Field("a key", draw(st.sampled_from(["string", "bool", "int8", "int64"])))
    named = draw(st.sampled_from([key.name, None]))
    label = draw(st.sampled_from([None, *(field.name for field in fields if field.name.lower() != key.name)]))
    return Schema((*(field for field in fields if field.name.lower() != key.name), key), key=named, label=label)


@given(schemas())
def test_a_schema_survives_json(schema: Schema) -> None:
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_card_from_before_there_were_encodings_is_read_and_written_as_it_was() -> None:
    old = {
        "fields": [
            {"name": "id", "dtype": "string", "shape": []},
            {"name": "image", "dtype": "uint8", "shape": [28, 28]},
        ],
        "key": "id",
        "label": None,
    }
    assert Schema.from_json(old).to_json() == old
    assert Schema.from_json(old)["image"].is_tensor


@given(schemas())
def test_rows_to_be_scored_have_all_fields_but_the_label(schema: Schema) -> None:
    scored = schema.without_label()
    assert scored.names == [name for name in schema.names if name != schema.label]
    assert (scored.key, scored.label) == (schema.key, None)


@given(FIELDS)
def test_a_field_is_of_one_kind(field: Field) -> None:
    assert field.is_tensor + field.is_list + field.is_encoded + (field.shape == ()) == 1
    assert field.is_varying == (not field.is_tensor and field.arrow_type in (pa.string(), pa.binary(), *LISTS))


@given(FIELDS.filter(lambda field: not field.is_varying))
def test_a_field_weighs_as_much_as_its_array(field: Field) -> None:
    assert field.num_bytes == np.zeros(field.shape, field.numpy_dtype).nbytes
    assert field.numpy_dtype.newbyteorder("<") == field.numpy_dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Field("x", "complex64", (3,)), "'complex64' is no tensor type; use one of uint8"),
        (lambda: Field("x", "uint8"), "'uint8' is no scalar type; use one of bool"),
        (lambda: Field("x", "uint8", (3, 0)), "has an empty axis; every size must be 1 or more"),
        (lambda: Field("x", "uint8", (None,)), "'uint8' is no list type; use one of int8"),
        (lambda: Field("x", "string", (None,)), "'string' is no list type; use one of int8"),
        (lambda: Field("x", "int32", (None, 3)), r"shape \(None, 3\) varies; without an encoding only a list"),
        (lambda: Field("x", "int32", (0,)), "has an empty axis"),
        (lambda: Field("x", "bytes", (3,)), "'bytes' is no tensor type; use one of uint8"),
        (lambda: Field("x", "uint8", (8, 8), "gif"), "unknown encoding 'gif'; use one of png, jpeg, wav, npy, npz, or"),
        (lambda: Field("x", "float32", (8, 8), "png"), "png does not decode to 'float32'; use one of uint8"),
        (lambda: Field("x", "bytes", (), "png"), "png does not decode to 'bytes'; use one of uint8"),
        (lambda: Field("x", "uint8", (), "png"), r"png does not decode to shape \(\); use \(height, width\) or \(hei"),
        (lambda: Field("x", "uint8", (8, 8, 5), "png"), r"shape \(8, 8, 5\); use .* or \(height, width, 1 to 4\)"),
        (lambda: Field("x", "uint8", (8, 8, 4), "jpeg"), r"shape \(8, 8, 4\); use .* or \(height, width, 1 or 3\)"),
        (lambda: Field("x", "uint8", (8, 8, None), "jpeg"), r"jpeg does not decode to shape \(8, 8, None\)"),
        (lambda: Field("x", "uint8", (0, 8), "jpeg"), "has an empty axis"),
        (
            lambda: Field("x", "int16", (9, 2, 1), "wav"),
            r"wav does not decode to shape .*; use \(frames,\) or \(frames,",
        ),
        (lambda: Field("x", "float32", (), "npy"), r"npy does not decode to shape \(\); use one size or more"),
        (lambda: Field("x", "bool", (3,), "npz"), "npz does not decode to 'bool'; use one of uint8"),
        (lambda: Field("x", "int32", (None,), buckets=(9, 3)), "buckets are lengths of a list in rising order"),
        (lambda: Field("x", "int32", (None,), buckets=(0,)), "buckets are lengths of a list in rising order"),
        (lambda: Field("x", "int32", (3,), buckets=(3,)), "buckets are lengths of a list in rising order"),
        (
            lambda: Schema((BUCKETED, replace(BUCKETED, name="y")), key=None),
            "x and y have buckets; row groups go by one",
        ),
        (lambda: Field("", "int64"), "without '.', '=' or a leading '_'; rename the field"),
        (lambda: Field("_x", "int64"), "without '.', '=' or a leading '_'"),
        (lambda: Field("a.b", "int64"), "without '.', '=' or a leading '_'"),
        (lambda: Field("Split", "string"), "'Split': this column says which split a row is in; rename the field"),
        (lambda: Schema((Field("a", "int64"), Field("a", "int64")), key="a"), "'a' is there twice"),
        (lambda: Schema((Field("a", "int64"), Field("A", "int64")), key="a"), "is there twice; give every field its"),
        (lambda: Schema((Field("a", "int64"),), key="b"), "key='b' is not among the fields a"),
        (lambda: Schema((), key="a"), "key='a' is not among the fields"),
        (lambda: Schema((Field("a", "int64"),), key="a", label="c"), "label='c' is not among"),
        (lambda: Schema((Field("a", "int64"),), key="a", label="a"), "'a' is both key and label"),
        (lambda: Schema((Field("a", "float64"),), key="a"), "must be a string, an integer or a bool"),
        (lambda: Schema((Field("a", "uint8", (2,)),), key="a"), "must be a string, an integer or a bool"),
        (lambda: Schema((Field("a", "int64", (None,)),), key="a"), "must be a string, an integer or a bool"),
        (lambda: Schema((Field("a", "uint8", (2, 2), "png"),), key="a"), "must be a string, an integer or a bool"),
        (lambda: Schema((Field("a", "bytes"),), key="a"), "must be a string, an integer or a bool"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize(
    "field",
    [Field("s", "string"), Field("s", "bytes"), Field("s", "int32", (None,)), Field("s", "uint8", (2, 2), "png")],
)
def test_what_varies_has_no_fixed_width(field: Field) -> None:
    with pytest.raises(TypeError, match="the values of field 's' have no fixed width"):
        _ = field.num_bytes
    if not field.shape:
        with pytest.raises(TypeError, match="field 's' is of "):
            _ = field.numpy_dtype


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="no field 'b'; there are a"):
        Schema((Field("a", "int64"),), key="a")["b"]
