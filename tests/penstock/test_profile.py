"""Profiles: what they say agrees with plain Python over the same rows, in whatever parts these were read."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import profile as profiles
from penstock import tensors
from penstock.audit import audit_file
from penstock.digest import column_hashes, row_hashes
from penstock.profile import Profile
from penstock.schema import Field, Schema
from tests.penstock.conftest import png, write

SCHEMA = Schema(
    (
        Field("id", "int64"),
        Field("price", "float64"),
        Field("flag", "bool"),
        Field("word", "string"),
        Field("x", "float32", (2,)),
        Field("image", "uint8", (3, 3)),
        Field("tokens", "int32", (None,)),
        Field("payload", "bytes"),
    ),
    key="id",
)


def table(n: int, seed: int = 0, words: int = 40) -> pa.Table:
    rng = np.random.default_rng(seed)
    price = np.round(rng.lognormal(2, 1, n), 2)
    price[rng.random(n) < 0.2] = -999
    price[rng.random(n) < 0.05] = np.nan
    columns = [
        pa.array(rng.permutation(n)),
        pa.array(price),
        pa.array(rng.random(n) < 0.3),
        pa.array([f"word {int(i)}" + "y" * (i % 3) * 40 for i in rng.integers(0, words, n) ** 2 // words]),
        tensors.pack(rng.normal(size=(n, 2)).astype(np.float32), SCHEMA["x"]),
        tensors.pack(rng.integers(0, 256, (n, 3, 3)).astype(np.uint8), SCHEMA["image"]),
        pa.array([list(range(i % 7)) for i in range(n)], pa.list_(pa.int32())),
        pa.array([b"b" * (i % 5) for i in range(n)]),
    ]
    return pa.table([column.cast(f.arrow_type) for column, f in zip(columns, SCHEMA.fields, strict=True)], SCHEMA.names)


def profile(parts: list[pa.Table]) -> Profile:
    found = profiles.empty(SCHEMA)
    for part in parts:
        columns = column_hashes(part, SCHEMA)
        found = profiles.add(found, part, SCHEMA, columns, row_hashes(columns))
    return found


def described(parts: list[pa.Table]) -> dict[str, Any]:
    return profiles.described(profile(parts), SCHEMA)


@given(
    st.integers(0, 4_000),
    st.sampled_from([3, 5_000]),
    st.lists(st.integers(0, 4_000), max_size=4),
    st.integers(0, 9),
)
@settings(max_examples=40)
def test_parts_in_any_order_have_the_same_profile(n: int, words: int, cuts: list[int], order: int) -> None:
    whole = table(n, words=words)
    shuffled = whole.take(pa.array(np.random.default_rng(order).permutation(n)))
    edges = [0, *sorted(cut % (n + 1) for cut in cuts), n]
    parts = [shuffled.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    files = [profile(parts[:2]), *(profile([part]) for part in parts[2:])]
    merged = profiles.merge([Profile.from_bytes(file.to_bytes()) for file in reversed(files)], SCHEMA)
    assert json.dumps(profiles.described(merged, SCHEMA)) == json.dumps(described([whole]))


def test_what_a_profile_says_is_so() -> None:
    rows = table(700)
    found = described([rows])
    price = rows["price"].to_numpy()
    finite = price[np.isfinite(price)]
    assert (found["price"]["count"], found["price"]["nulls"]) == (len(finite), int(np.isnan(price).sum()))
    assert found["price"]["mean"] == pytest.approx(finite.mean(), rel=1e-14)
    assert found["price"]["std"] == pytest.approx(finite.std(), rel=1e-13)
    assert (
        list(found["price"]["quantiles"].values())
        == np.quantile(finite, list(profiles.SHARES.values()), method="inverted_cdf").tolist()
    )
    assert found["price"]["distinct"] == {"count": len(set(finite.tolist())), "exact": True}
    assert found["price"]["top"]["values"][0] == [-999.0, int((finite == -999).sum())]
    words = Counter(rows["word"].to_pylist())
    top = sorted(((w, n) for w, n in words.items() if n > 1), key=lambda pair: (-pair[1], pair[0]))
    assert found["word"]["distinct"] == {"count": len(words), "exact": True}
    assert [n for _, n in found["word"]["top"]["values"]] == [n for _, n in top[: profiles.NUM_TOP]]
    assert all(any(w.startswith(v.rstrip("…")) for w in words) for v, _ in found["word"]["top"]["values"])
    assert found["word"]["max"] == max(map(len, words))
    assert sum(found["word"]["buckets"]) == 700
    pixels = np.stack([np.frombuffer(v, np.uint8) for v in rows["image"].to_pylist()])
    assert (found["image"]["count"], found["image"]["of"]) == (pixels.size, "elements")
    assert found["image"]["mean"] == pixels.mean()
    assert found["tokens"]["max"] == 6
    assert found["payload"]["mean"] == pytest.approx(np.mean([i % 5 for i in range(700)]))
    assert found["flag"]["top"]["values"][0] == [0, int((~rows["flag"].to_numpy()).sum())]
    assert found["id"]["distinct"] == {"count": 700, "exact": True}
    assert "top" not in found["id"]  # a key's values name rows


def test_frequent_values_of_many_are_estimated() -> None:
    rows = table(60_000, words=4_000_000)
    found = described([rows.slice(i, 10_000) for i in range(0, 60_000, 10_000)])
    assert not found["price"]["top"]["exact"]
    value, count = found["price"]["top"]["values"][0]
    assert value == -999.0
    assert count == pytest.approx(np.sum(rows["price"].to_numpy() == -999), rel=0.3)
    distinct = len(set(rows["word"].to_pylist()))
    assert not found["word"]["distinct"]["exact"]
    assert found["word"]["distinct"]["count"] == pytest.approx(distinct, rel=0.14)
    assert found["word"]["top"] == {"values": [], "exact": False}


@pytest.mark.parametrize("column", ["price", "x", "image", "word"])
def test_bins_in_the_card_are_few_and_hold_every_value(column: str) -> None:
    rows = table(30_000, words=4_000)
    found = described([rows])[column]
    lows, highs, counts = (np.array(part) for part in zip(*found["bins"], strict=True))
    assert len(counts) <= 2 * profiles.NUM_SLOTS
    assert counts.sum() == found["count"]
    assert (lows <= highs).all()
    assert (highs[:-1] <= lows[1:]).all()
    if column == "price":
        assert (lows[0], counts[0]) == (-999, (rows["price"].to_numpy() == -999).sum())  # a spike stands alone


def test_values_that_are_no_numbers_and_no_json_are_left_out() -> None:
    rows = table(2_000)
    price = rows["price"].to_numpy().copy()
    price[:1_500:3] = np.inf
    price[1:1_500:3] = -np.inf
    rows = rows.set_column(1, "price", pa.array(price))
    found = described([rows])["price"]
    assert found["infinite"] == 1_000
    assert found["count"] + found["nulls"] + found["infinite"] == 2_000
    json.dumps(found, allow_nan=False)


def test_no_rows_have_a_profile_too() -> None:
    found = described([table(0)])
    assert found["price"]["count"] == found["price"]["distinct"]["count"] == 0
    assert (found["price"]["min"], found["price"]["mean"], found["price"]["quantiles"]) == (None, None, {})
    assert found["word"]["top"] == {"values": [], "exact": True}


def test_an_audit_profiles_what_it_reads(tmp_path: Path) -> None:
    schema = Schema((*SCHEMA.fields, Field("photo", "uint8", (None, None, 3), "png")), key="id")
    photos = [png(2 + i % 3, 2) for i in range(500)]
    rows = table(500).append_column("photo", pa.array(photos))
    path = write(tmp_path / "f.parquet", rows, rows_per_group=120)
    found = audit_file(f"file://{tmp_path}", path.name, "train", schema, profiled=True).profile
    assert found
    told = profiles.described(found, schema)
    assert told["photo"]["of"] == "num_bytes"
    assert told["photo"]["max"] == max(map(len, photos))
    assert {name: told[name] for name in SCHEMA.names} == described([table(500)])
