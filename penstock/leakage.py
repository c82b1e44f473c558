"""Whether the same thing is in two splits: rows that are equal in all but the key, and groups that must stay together.

Each shard sends the smallest of its rows' 64-bit hashes to the driver, all of them where there are few. Equal rows have
equal hashes, so the smallest of every shard together are all there are below some limit: of few rows every one is
compared, of many a share that is known, chosen by chance but always in the same way.

Source of the idea: Bar-Yossef et al., "Counting Distinct Elements in a Data Stream", RANDOM 2002, algorithm 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.digest import U64, distinct

MOST_COMPARED = 16_000_000  # hashes that the driver holds, 9 bytes each
ALL = 2**64


@dataclass(frozen=True)
class Sketch:
    """The hashes below `limit` of some rows, each with its split, as a number in `splits`; none twice."""

    hashes: U64
    codes: np.ndarray[tuple[int], np.dtype[np.uint8]]
    splits: tuple[str, ...]
    limit: int = ALL

    def to_bytes(self) -> bytes:
        table = pa.table({"hash": self.hashes, "code": self.codes})
        sink = pa.BufferOutputStream()
        said = json.dumps([self.splits, self.limit]).encode()
        with pa.ipc.new_stream(sink, table.schema.with_metadata({b"said": said})) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, content: bytes) -> Sketch:
        table = pa.ipc.open_stream(content).read_all()
        splits, limit = json.loads(table.schema.metadata[b"said"])
        return cls(table["hash"].to_numpy(), table["code"].to_numpy(), tuple(splits), limit)


def sketch(hashes_of: Sequence[tuple[str, U64]], most: int) -> Sketch:
    """Of the hashes of each split (it may come several times) the smallest `most`."""
    splits = tuple(sorted({name for name, _ in hashes_of}))
    unique = {name: distinct(np.concatenate([h for n, h in hashes_of if n == name])) for name in splits}
    hashes = np.concatenate([np.zeros(0, np.uint64), *unique.values()])
    codes = np.repeat(np.arange(len(splits), dtype=np.uint8), [len(h) for h in unique.values()])
    if len(hashes) <= most:
        return Sketch(hashes, codes, splits)
    limit = np.partition(hashes, most)[most]
    return Sketch(hashes[hashes < limit], codes[hashes < limit], splits, int(limit))


def in_several_splits(sketches: Sequence[Sketch]) -> tuple[int, float]:
    """How many of the hashes that were compared are in more than one split, and the share that was compared."""
    limit = min((found.limit for found in sketches), default=ALL)
    of_split: dict[str, list[U64]] = {}
    for found in sketches:
        below = found.hashes < limit if limit < ALL else np.ones(len(found.hashes), bool)
        for code, name in enumerate(found.splits):
            of_split.setdefault(name, []).append(found.hashes[below & (found.codes == code)])
    per_split = [distinct(np.concatenate(found)) for found in of_split.values()]
    times = np.unique(np.concatenate([np.zeros(0, np.uint64), *per_split]), return_counts=True)[1]
    return int((times > 1).sum()), limit / ALL
