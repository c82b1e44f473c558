"""Schemas: what a recipe may declare, what is refused, and with which words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import RecipeError
from penstock.schema import SCALAR_TYPES, TENSOR_TYPES, Field, Schema

NAMES = st.text(st.characters(exclude_characters="._="), min_size=1, max_size=9).filter(lambda n: n.lower() != "split")
FIELDS = st.one_of(
    st.builds(Field, NAMES, st.sampled_from(sorted(SCALAR_TYPES))),
    st.builds(Field, NAMES, st.sampled_from(TENSOR_TYPES), st.lists(st.integers(1, 9), min_size=1, max_size=4)),
)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    fields = draw(st.lists(FIELDS, max_size=5, unique_by=lambda field: field.name.lower()))
    key = Field("a key", draw(st.sampled_from(["string", "bool", "int8", "int64"])))
    label = draw(st.sampled_from([None, *(field.name for field in fields if field.name.lower() != key.name)]))
    return Schema((*(field for field in fields if field.name.lower() != key.name), key), key=key.name, label=label)


@given(schemas())
def test_a_schema_survives_json(schema: Schema) -> None:
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@given(schemas())
def test_rows_to_be_scored_have_all_fields_but_the_label(schema: Schema) -> None:
    scored = schema.without_label()
    assert scored.names == [name for name in schema.names if name != schema.label]
    assert (scored.key, scored.label) == (schema.key, None)


@given(FIELDS.filter(lambda field: field.dtype != "string"))
def test_a_field_weighs_as_much_as_its_array(field: Field) -> None:
    assert field.num_bytes == np.zeros(field.shape, field.numpy_dtype).nbytes
    assert field.numpy_dtype.newbyteorder("<") == field.numpy_dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Field("x", "complex64", (3,)), "'complex64' is no tensor type; use one of uint8"),
        (lambda: Field("x", "uint8"), "'uint8' is no scalar type; use one of bool"),
        (lambda: Field("x", "uint8", (3, 0)), "has an empty axis; every size must be 1 or more"),
        (lambda: Field("", "int64"), "without '.', '=' or a leading '_'; rename the field"),
        (lambda: Field("_x", "int64"), "without '.', '=' or a leading '_'"),
        (lambda: Field("a.b", "int64"), "without '.', '=' or a leading '_'"),
        (lambda: Field("Split", "string"), "'Split': this column says which split a row is in; rename the field"),
        (lambda: Schema((Field("a", "int64"), Field("a", "int64")), key="a"), "'a' is there twice"),
        (lambda: Schema((Field("a", "int64"), Field("A", "int64")), key="a"), "is there twice; give every field its"),
        (lambda: Schema((Field("a", "int64"),), key="b"), "key='b' is not among the fields a"),
        (lambda: Schema((Field("a", "int64"),), key=None), "key=None is not among the fields a"),  # type: ignore[arg-type]
        (lambda: Schema((), key="a"), "key='a' is not among the fields"),
        (lambda: Schema((Field("a", "int64"),), key="a", label="c"), "label='c' is not among"),
        (lambda: Schema((Field("a", "int64"),), key="a", label="a"), "'a' is both key and label"),
        (lambda: Schema((Field("a", "float64"),), key="a"), "must be a string, an integer or a bool"),
        (lambda: Schema((Field("a", "uint8", (2,)),), key="a"), "must be a string, an integer or a bool"),
    ],
)
def test_a_schema_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()


def test_a_string_has_no_fixed_width() -> None:
    with pytest.raises(TypeError, match="'s' is a string"):
        _ = Field("s", "string").numpy_dtype


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="no field 'b'; there are a"):
        Schema((Field("a", "int64"),), key="a")["b"]
