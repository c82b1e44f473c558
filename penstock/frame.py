"""`penstock.write`: the rows of a DataFrame or an Arrow table as a dataset version, without Spark and without Java.

For small data that is clean already: it is in memory, and there is no quarantine, so that a row which is not as the
schema says ends the call with a sentence. Else the version is as one of ETL's. Files, read back, profile, leakage and
card are the same code; the places of the rows are computed by NumPy instead of Spark (penstock/places.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock import card as cards
from penstock import columns, leakage, manifest, places, profile, shards, store
from penstock.card import Card
from penstock.columns import Column
from penstock.console import Console
from penstock.digest import column_hashes, combine, json_digest, row_hashes, sum_of
from penstock.errors import RawDataError, RecipeError
from penstock.fit import fitted
from penstock.places import I64
from penstock.privacy import check_unmarked, looked_for
from penstock.published import check_whole, publish_card, removed_on_failure
from penstock.recipe import ROW_GROUP_BYTES, Split, check_fit
from penstock.schema import Schema
from penstock.shards import Layout, Written

REVISION = 1  # raised when the same rows would give other files
MADE_BY = "penstock.write"  # in the place of a recipe's name
MEND = 'mask it or leave the column out, or say not_private={{"{name}": "why it is none"}}'


def write(
    frame: Any,
    url: str | Path,
    schema: Schema,
    split: Split,
    *,
    fit: Mapping[str, str] | None = None,
    frozen: str | Path | None = None,
    not_private: Mapping[str, str] | None = None,
    row_group_bytes: int = ROW_GROUP_BYTES,
) -> Card:
    """Publishes the rows as a version of the dataset at `url`, unless it is there, and returns its card.

    `frame` is a DataFrame of pandas or a Table of pyarrow. `schema`, `split`, `fit`, `not_private` and
    `row_group_bytes` mean what they mean in a recipe's dataset.py; a column that none of them names is left out, and so
    is the index. `frozen` is a dataset, or a card, whose transforms are used: for rows to be scored. A column has

        scalar     values of the field's kind; numbers of any type that fit it, floats are rounded to the nearest
        tensor     in each row an array of its shape, or lists in lists
        list       in each row an array or a list of any length
        encoded    in each row the bytes of a file

    None may be missing: NaN in a DataFrame's column of scalars is, in arrays and in a Table it is a number. No two rows
    may have one key, and every split needs one. The order of the rows does not matter.

    Raises: RawDataError, RecipeError, DatasetError, StorageError; then nothing is published.
    """
    fit, url = fit or {}, store.absolute(str(url))
    _check(schema, split, fit, row_group_bytes)
    transforms, used = (None, {}) if frozen is None else _frozen(str(frozen), schema)
    rows, hashed = _rows(frame, schema, split)
    said = [schema.to_json(), asdict(split), dict(fit), transforms, row_group_bytes, _contents(rows, schema)]
    version = json_digest([cards.FORMAT, MADE_BY, REVISION, *said])
    if isinstance(known := cards.find(url, version), Card):
        check_whole(url, known)
        return known

    store.check_writable(url)
    console, data = Console(), f"data/{version}-{uuid.uuid4().hex[:8]}"
    looked = looked_for(schema, {}, not_private or {})
    layout = Layout(schema, split, row_group_bytes, store.join(url, data), look_for=looked)
    with removed_on_failure(console, layout.data_url) as urls:
        written = _write(rows, hashed, layout)
        check_unmarked(written.personal, MEND)
        profiles, num_rows = written.profiles(schema), rows.num_rows
        tables = [audit.row_groups for audits in written.audits.values() for audit in audits]
        card = Card(
            version=version,
            recipe=MADE_BY,
            data=data,
            manifest=manifest.write(layout.data_url, tables, schema),
            schema=schema,
            counts={"raw": num_rows, "quarantined": 0, "clean": num_rows, "duplicates": 0, "built": written.num_rows},
            splits={
                name: cards.Split(sum(a.num_rows for a in audits), combine(a.digest for a in audits))
                for name, audits in written.audits.items()
            },
            transforms=fitted(fit, profiles) if transforms is None else transforms,
            profile={name: profile.described(found, schema) for name, found in profiles.items()},
            lineage={"clean": [], **used},
            leakage=written.leakage,
        )
        return publish_card(url, card, urls, console)


def _check(schema: Schema, split: Split, fit: Mapping[str, str], row_group_bytes: int) -> None:
    for name, found, kind in (("schema", schema, Schema), ("split", split, Split)):
        if not isinstance(found, kind):
            raise RecipeError(
                f"{name}: expected a {kind.__name__}, found {found!r}; a recipe needs Spark: give its schema, split "
                f"and fit instead"
            )
    if schema.key is None:
        raise RecipeError("schema: expected a key, found none; name the field that identifies a row")
    if not isinstance(row_group_bytes, int) or row_group_bytes < 1:
        raise RecipeError(f"row_group_bytes: expected a whole number above 0, found {row_group_bytes!r}")
    if other := [border for border in split.before.values() if not isinstance(border, str | int | float | None)]:
        raise RecipeError(f"split: expected borders that are texts or numbers, found {other[0]!r}; write it as text")
    check_fit(fit, schema, split)


def _frozen(url: str, schema: Schema) -> tuple[dict[str, Any], dict[str, str]]:
    """The transforms of another version, and what the lineage says of it.

    Raises: DatasetError; RecipeError where they make fields, or the fields are others.
    """
    card = cards.frozen(url, "frozen")
    if made := [name for name, transform in card.transforms.items() if "of" in transform]:
        raise RecipeError(
            f"frozen: version {card.version} makes field {made[0]!r} by transforms, which need Spark: build these rows "
            f"with `penstock etl … --frozen`"
        )
    if card.schema.without_label() != schema.without_label():
        raise RecipeError(
            f"frozen: version {card.version} has other fields than the schema; name the dataset that the model was "
            f"trained on, or mend the schema"
        )
    return {name: dict(transform) for name, transform in card.transforms.items()}, {"frozen": card.version}


def _rows(frame: Any, schema: Schema, split: Split) -> tuple[pa.Table, I64]:
    """The rows as Parquet keeps them, with what `places.assign` says of each; and (n,) the hashes of their keys."""
    assert schema.key is not None
    there = columns.select(frame, list(dict.fromkeys([*schema.names, *filter(None, [split.by, split.source])])))
    rows = pa.table({field.name: columns.values(there[field.name], field) for field in schema.fields})
    keys = rows[schema.key].combine_chunks()
    _check_each_once(keys, schema.key)
    hashed = places.hashes(keys)
    assigned = _assigned(rows, there, hashed, split)
    if nowhere := assigned["split"].null_count:
        raise RawDataError(
            f"frame: column {split.by!r} says the split, but {nowhere:,} rows have nothing there; leave them out"
        )
    found = assigned["split"].unique().to_pylist()
    if empty := [name for name in split.names if name not in found]:
        raise RawDataError(
            f"split: expected a row in each, found none of {rows.num_rows:,} in {empty[0]!r}; give it a larger "
            f"share, or more rows"
        )
    for name, column in assigned.items():
        rows = rows.append_column(name, column)
    return rows, hashed


def _check_each_once(keys: pa.Array, name: str) -> None:
    codes = keys.dictionary_encode().indices.to_numpy()
    again = np.setdiff1d(np.arange(len(codes)), np.unique(codes, return_index=True)[1])
    if len(again):
        key = keys[int(again[0])].as_py()
        raise RawDataError(
            f"frame: column {name!r}, the key: expected each value once, but {len(again):,} rows have one that an "
            f"earlier row has, row {again[0]:,} with {key!r} the first; leave them out (drop_duplicates), or choose "
            f"another key",
            values=[repr(key)],
        )


def _assigned(rows: pa.Table, there: Mapping[str, Column], hashed: I64, split: Split) -> dict[str, pa.Array]:
    def asked(name: str | None) -> pa.Array | None:
        if name is None:
            return None
        return rows[name].combine_chunks() if name in rows.column_names else columns.scalars(there[name], name)

    by, source = asked(split.by), asked(split.source)
    if split.is_by_group:
        columns.check_kind(by, str(split.by), (*columns.STRINGS, *columns.WHOLE), "strings, integers or bools")
    if source is not None:
        columns.check_kind(source, str(split.source), columns.STRINGS, "names of splits")
    return places.assign(hashed, split, by, source)


def _contents(rows: pa.Table, schema: Schema) -> dict[str, tuple[int, str]]:
    """Of each split how many rows, and their digest: whatever the order, the same rows are the same version."""
    hashed, names = row_hashes(column_hashes(rows, schema)), rows["split"].to_numpy()
    found = ((name, hashed[names == name]) for name in sorted(set(names)))
    return {name: (len(hashes), combine([sum_of(hashes)])) for name, hashes in found}


def _write(rows: pa.Table, hashed: I64, layout: Layout) -> Written:
    """One shard after the other, as tasks of Spark do it."""
    num_shards = shards.num_shards(int(shards.row_bytes(rows, layout.schema).sum()))
    layout = replace(layout, most_compared=leakage.MOST_COMPARED // num_shards)
    records: list[dict[str, Any]] = []
    for number, shard in enumerate(places.in_order(rows, str(layout.schema.key), hashed, num_shards)):
        for record in shards.write_shard(shard.combine_chunks().to_batches(), f"part-{number:05d}-0", layout):
            records += record.to_pylist()
    return shards.written(records, layout)
