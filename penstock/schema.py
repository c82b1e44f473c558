"""What a row of a dataset holds: named fields with a dtype and a shape.

A field of shape `()` is a native Parquet column. A field with a shape is a tensor: one binary column whose
values are the tensor's bytes in C order, little endian. No field holds nulls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import RecipeError

SCALAR_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}
TENSOR_TYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
SPLIT_COLUMN = "split"  # the folders of a version, `split=train`, are a column to those who read it as plain Parquet
STRING_BYTES = 24  # what a string is taken to weigh when row groups are planned


@dataclass(frozen=True)
class Field:
    """One column: `Field("image", "uint8", (28, 28))`, `Field("label", "int64")`."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        allowed = TENSOR_TYPES if self.shape else tuple(SCALAR_TYPES)
        kind = "tensor" if self.shape else "scalar"
        if not self.name or self.name.startswith("_") or "." in self.name or "=" in self.name:
            raise RecipeError(
                f"field name {self.name!r}: expected a name without '.', '=' or a leading '_'; rename the field"
            )
        if self.name.lower() == SPLIT_COLUMN:
            raise RecipeError(f"field name {self.name!r}: this column says which split a row is in; rename the field")
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.dtype not in allowed:
            raise RecipeError(f"field {self.name!r}: {self.dtype!r} is no {kind} type; use one of {', '.join(allowed)}")
        if any(size < 1 for size in self.shape):
            raise RecipeError(
                f"field {self.name!r}: shape {self.shape} has an empty axis; every size must be 1 or more"
            )

    @property
    def is_tensor(self) -> bool:
        return bool(self.shape)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little endian. Raises: TypeError for strings, which have no fixed width."""
        if self.dtype == "string":
            raise TypeError(f"field {self.name!r} is a string")
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def num_bytes(self) -> int:
        """Bytes of one value; an estimate for strings."""
        if self.dtype == "string":
            return STRING_BYTES
        return math.prod(self.shape) * self.numpy_dtype.itemsize

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.binary() if self.is_tensor else SCALAR_TYPES[self.dtype]


@dataclass(frozen=True)
class Schema:
    """The fields of a dataset's rows. `key` names the field that identifies a row, `label` what a model learns."""

    fields: tuple[Field, ...]
    key: str
    label: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        names = self.names
        lower = [name.lower() for name in names]  # Spark does not tell `Age` from `age`
        twice = sorted(name for name in names if lower.count(name.lower()) > 1)
        if twice:
            raise RecipeError(f"schema: field {twice[-1]!r} is there twice; give every field its own name")
        for role, name in (("key", self.key), *([] if self.label is None else [("label", self.label)])):
            if name not in names:
                raise RecipeError(f"schema: {role}={name!r} is not among the fields {', '.join(names)}")
        if self.label == self.key:
            raise RecipeError(f"schema: {self.key!r} is both key and label; a label cannot name its row")
        if self[self.key].is_tensor or self[self.key].dtype.startswith("float"):
            raise RecipeError(f"schema: the key {self.key!r} must be a string, an integer or a bool")

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"no field {name!r}; there are {', '.join(self.names)}")

    @property
    def names(self) -> list[str]:
        return [field.name for field in self.fields]

    @property
    def row_bytes(self) -> int:
        return sum(field.num_bytes for field in self.fields)

    def without_label(self) -> Schema:
        """The schema of rows that are to be scored: the same fields, less the label."""
        return Schema(tuple(f for f in self.fields if f.name != self.label), key=self.key)

    def to_json(self) -> dict[str, Any]:
        fields = [{"name": f.name, "dtype": f.dtype, "shape": list(f.shape)} for f in self.fields]
        return {"fields": fields, "key": self.key, "label": self.label}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        fields = tuple(Field(f["name"], f["dtype"], tuple(f["shape"])) for f in value["fields"])
        return cls(fields, key=value["key"], label=value["label"])
