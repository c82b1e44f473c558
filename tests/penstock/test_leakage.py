"""Whether the same is in two splits, told by the smallest hashes of every shard."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock import leakage

SHARDS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["train", "val", "test"]), st.lists(st.integers(0, 40), max_size=8)), max_size=4
    ),
    max_size=4,
)


def sent(shard: list[tuple[str, list[int]]], most: int) -> leakage.Sketch:
    hashes = [(name, np.array(values, np.uint64) * np.uint64(2**58)) for name, values in shard]
    return leakage.Sketch.from_bytes(leakage.sketch(hashes, most).to_bytes())


@given(SHARDS, st.integers(1, 40))
def test_what_is_in_several_splits_is_counted_below_the_limit(
    shards: list[list[tuple[str, list[int]]]], most: int
) -> None:
    splits_of: dict[int, set[str]] = {}
    for name, values in (part for shard in shards for part in shard):
        for value in values:
            splits_of.setdefault(value % 64, set()).add(name)
    several = [value for value, names in splits_of.items() if len(names) > 1]
    assert leakage.in_several_splits([sent(shard, 1000) for shard in shards]) == (len(several), 1.0)
    found, compared = leakage.in_several_splits([sent(shard, most) for shard in shards])
    assert found == sum(value / 64 < compared for value in several)
    assert all(len(sent(shard, most).hashes) <= most for shard in shards)
