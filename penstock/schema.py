"""What a row of a dataset holds: named fields with a dtype and a shape.

    scalar    Field("label", "int64")                                    the native Parquet column
    tensor    Field("image", "uint8", (28, 28))                          binary: elements in C order, little endian
    list      Field("tokens", "int32", (None,))                          a list of numbers of any length, 0 included
              Field("tokens", "int32", (None,), buckets=(16, 64))        in row groups of about one length
    encoded   Field("photo", "uint8", (None, None, 3), encoding="png")   binary: the file as it is; dtype and shape
                                                                         are those of the array that it decodes to

No field holds nulls, nor does a list. A size of None varies from row to row.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
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
    "bytes": pa.binary(),
}
VARYING_TYPES = ("string", "bytes")  # scalars without a fixed width
TENSOR_TYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
LIST_TYPES = ("int8", "int16", "int32", "int64", "float32", "float64")  # those of both Spark and NumPy
SPLIT_COLUMN = "split"  # the folders of a version, `split=train`, are a column to those who read it as plain Parquet


@dataclass(frozen=True)
class Encoding:
    """What a value may decode to: an array of one of the dtypes, and of `num_axes` axes or one more, of channels."""

    dtypes: tuple[str, ...]
    num_axes: int | None  # None: any number but none
    channels: Collection[int]
    shapes: str  # as a sentence names them


ENCODINGS = {
    "png": Encoding(("uint8",), 2, (1, 2, 3, 4), "(height, width) or (height, width, 1 to 4)"),  # 2, 4: with alpha
    "jpeg": Encoding(("uint8",), 2, (1, 3), "(height, width) or (height, width, 1 or 3)"),
    "wav": Encoding(("uint8", "int16", "int32"), 1, range(1, 1 << 16), "(frames,) or (frames, channels)"),
    "npy": Encoding(TENSOR_TYPES, None, (), "one size or more"),  # as numpy.save writes
    "npz": Encoding(TENSOR_TYPES, None, (), "one size or more"),  # as numpy.savez_compressed writes a single array
}


@dataclass(frozen=True)
class Field:
    """One column: `Field("image", "uint8", (28, 28))`, `Field("label", "int64")`."""

    name: str
    dtype: str
    shape: tuple[Any, ...] = ()  # of int or None; None, the rarer, only in lists and encoded fields
    encoding: str | None = None  # one of ENCODINGS
    buckets: tuple[int, ...] = ()  # of a list: lengths up to which row groups hold lists of about one length

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith("_") or "." in self.name or "=" in self.name:
            raise RecipeError(
                f"field name {self.name!r}: expected a name without '.', '=' or a leading '_'; rename the field"
            )
        if self.name.lower() == SPLIT_COLUMN:
            raise RecipeError(f"field name {self.name!r}: this column says which split a row is in; rename the field")
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "buckets", tuple(self.buckets))
        if self.buckets and not (self.is_list and list(self.buckets) == sorted({max(1, b) for b in self.buckets})):
            raise RecipeError(
                f"field {self.name!r}: buckets are lengths of a list in rising order, found {self.buckets} of shape "
                f"{self.shape}"
            )
        if self.is_encoded:
            self._check_encoding()
        elif None in self.shape and not self.is_list:
            raise RecipeError(
                f"field {self.name!r}: shape {self.shape} varies; without an encoding only a list, (None,), may: "
                f"store the elements as a list, and the sizes as fields of their own"
            )
        elif self.dtype not in (allowed := self._allowed_types):
            kind = "list" if self.is_list else "tensor" if self.shape else "scalar"
            raise RecipeError(f"field {self.name!r}: {self.dtype!r} is no {kind} type; use one of {', '.join(allowed)}")
        if any(size is not None and size < 1 for size in self.shape):
            raise RecipeError(
                f"field {self.name!r}: shape {self.shape} has an empty axis; every size must be 1 or more"
            )

    @property
    def _allowed_types(self) -> tuple[str, ...]:
        if self.is_list:
            return LIST_TYPES
        return TENSOR_TYPES if self.shape else tuple(SCALAR_TYPES)

    def _check_encoding(self) -> None:
        known = ENCODINGS.get(self.encoding or "")
        if known is None:
            raise RecipeError(
                f"field {self.name!r}: unknown encoding {self.encoding!r}; use one of {', '.join(ENCODINGS)}, "
                f"or dtype 'bytes' and no encoding for bytes that nobody decodes"
            )
        if self.dtype not in known.dtypes:
            raise RecipeError(
                f"field {self.name!r}: {self.encoding} does not decode to {self.dtype!r}; "
                f"use one of {', '.join(known.dtypes)}"
            )
        more = len(self.shape) - known.num_axes if known.num_axes is not None else 0
        if not self.shape or more not in (0, 1) or (more and self.shape[-1] not in known.channels):
            raise RecipeError(
                f"field {self.name!r}: {self.encoding} does not decode to shape {self.shape}; use {known.shapes}"
            )

    @cached_property
    def is_tensor(self) -> bool:
        return bool(self.shape) and None not in self.shape and not self.is_encoded

    @property
    def is_list(self) -> bool:
        return self.shape == (None,) and not self.is_encoded

    @property
    def is_encoded(self) -> bool:
        return self.encoding is not None

    @cached_property
    def is_varying(self) -> bool:
        """Whether values have no fixed width: strings, bytes, lists and encoded values."""
        return self.is_list or self.is_encoded or self.dtype in VARYING_TYPES

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little endian; of the elements. Raises: TypeError for strings and bytes, which have none."""
        if self.dtype in VARYING_TYPES:
            raise TypeError(f"field {self.name!r} is of {self.dtype}")
        return np.dtype(self.dtype).newbyteorder("<")

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of one value. Raises: TypeError where values have no fixed width."""
        if self.is_varying:
            raise TypeError(f"the values of field {self.name!r} have no fixed width")
        return int(math.prod(self.shape) * self.numpy_dtype.itemsize)

    @property
    def arrow_type(self) -> pa.DataType:
        if self.is_list:
            return pa.list_(SCALAR_TYPES[self.dtype])
        return pa.binary() if self.shape else SCALAR_TYPES[self.dtype]


@dataclass(frozen=True)
class Schema:
    """The fields of a dataset's rows. `key` names the field that identifies a row, `label` what a model learns.

    Only adopted rows may have no key: nothing but a prediction needs to name them.
    """

    fields: tuple[Field, ...]
    key: str | None
    label: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        names = self.names
        lower = [name.lower() for name in names]  # Spark does not tell `Age` from `age`
        twice = sorted(name for name in names if lower.count(name.lower()) > 1)
        if twice:
            raise RecipeError(f"schema: field {twice[-1]!r} is there twice; give every field its own name")
        for role, name in (("key", self.key), ("label", self.label)):
            if name is not None and name not in names:
                raise RecipeError(f"schema: {role}={name!r} is not among the fields {', '.join(names)}")
        bucketed = [field.name for field in self.fields if field.buckets]
        if len(bucketed) > 1:
            raise RecipeError(f"schema: {' and '.join(bucketed)} have buckets; row groups go by one field's lengths")
        if self.key is None:
            return
        if self.label == self.key:
            raise RecipeError(f"schema: {self.key!r} is both key and label; a label cannot name its row")
        if self[self.key].shape or self[self.key].dtype in ("float32", "float64", "bytes"):
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
    def bucketed(self) -> Field | None:
        """The list by whose lengths rows are put into row groups."""
        return next((field for field in self.fields if field.buckets), None)

    def without_label(self) -> Schema:
        """The schema of rows that are to be scored: the same fields, less the label."""
        return Schema(tuple(f for f in self.fields if f.name != self.label), key=self.key)

    def to_json(self) -> dict[str, Any]:
        fields = [
            {"name": f.name, "dtype": f.dtype, "shape": list(f.shape)}
            | ({"encoding": f.encoding} if f.encoding is not None else {})
            | ({"buckets": list(f.buckets)} if f.buckets else {})
            for f in self.fields
        ]
        return {"fields": fields, "key": self.key, "label": self.label}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Schema:
        fields = tuple(
            Field(f["name"], f["dtype"], tuple(f["shape"]), f.get("encoding"), tuple(f.get("buckets", ())))
            for f in value["fields"]
        )
        return cls(fields, key=value["key"], label=value["label"])
