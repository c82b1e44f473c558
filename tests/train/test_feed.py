"""The feed over real files: every value right, every row once, damage found and said."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from penstock.errors import DatasetError
from penstock.schema import Field, Schema
from tests.cards import edit_card
from tests.train.conftest import IN_PLACE, SCHEMA, numbered_files, write_dataset
from train.feed import WEIGHT, Feed, row_groups
from train.feed.device import _sent
from train.feed.gather import Buffers

DECODED = {"use_dictionary": True, "compression": "zstd"}


def ids(feed: Feed, epoch: int = 0) -> list[int]:
    return [
        int(i) for batch in feed.epoch(epoch) for i, weight in zip(batch["id"], batch[WEIGHT], strict=True) if weight
    ]


def feed(dataset: Path, split: str = "train", **options: Any) -> Feed:
    return Feed(str(dataset), split, **{"global_batch_size": 16, "lanes": 4, "columns": SCHEMA.names, **options})


@pytest.mark.parametrize("options", [IN_PLACE, DECODED], ids=["in place", "decoded"])
def test_values_of_every_type_are_those_that_were_written(tmp_path: Path, options: dict[str, Any]) -> None:
    n, rng = 50, np.random.default_rng(0)
    scalars = {name: rng.integers(0, 100, n).astype(name) for name in ("int8", "int16", "int32", "int64")}
    scalars |= {name: rng.normal(size=n).astype(name) for name in ("float32", "float64")}
    tensors = {
        f"t_{d}": rng.integers(0, 100, (n, 3, 2)).astype(d) for d in ("uint8", "int16", "int64", "float16", "float64")
    }
    rows = {
        **scalars,
        **tensors,
        "bool": rng.integers(0, 2, n).astype(bool),
        "string": [f"näme {i}" * (i % 3) for i in range(n)],
    }
    rows["key"] = np.arange(n)
    fields = [Field(name, name) for name in [*scalars, "bool", "string"]]
    fields += [Field(name, name[2:], (3, 2)) for name in tensors] + [Field("key", "int64")]
    schema = Schema(tuple(fields), key="key")
    folder = write_dataset(
        tmp_path,
        schema,
        {"train": [[{k: v[:30] for k, v in rows.items()}, {k: v[30:] for k, v in rows.items()}]]},
        options,
    )
    for batch in Feed(str(folder), global_batch_size=8, lanes=2, columns=schema.names).epoch():
        for name in schema.names:
            expected = [rows[name][i] for i in batch["key"].tolist()]
            if name == "string":
                assert batch[name] == expected
            else:
                assert batch[name].numpy().dtype == np.asarray(expected).dtype
                np.testing.assert_array_equal(batch[name].numpy(), expected)


def test_what_etl_writes_is_read_in_place(dataset: Path, built_digits: Path) -> None:
    for folder, column in ((dataset, "x"), (built_digits, "image"), (built_digits, "label")):
        found = Feed(str(folder), global_batch_size=8)._row_groups._places[column].values
        assert (found > 0).all()


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_comes_once_over_all_ranks_in_as_many_steps(dataset: Path, world_size: int, shuffle: bool) -> None:
    feeds = [feed(dataset, rank=rank, world_size=world_size, shuffle=shuffle) for rank in range(world_size)]
    for epoch in range(2):
        assert sorted(i for f in feeds for i in ids(f, epoch)) == list(range(67))
    assert {len(list(f.epoch())) for f in feeds} == {len(feeds[0])}


def test_rows_stay_whole(dataset: Path) -> None:
    for batch in feed(dataset).epoch(5):
        np.testing.assert_array_equal(batch["x"][:, 1].numpy(), batch["id"].numpy() + np.float32(0.25))
        np.testing.assert_array_equal(batch["label"].numpy(), batch["id"].numpy() % 3)


PROCESSES = """
import json, os, sys
from train.feed import Feed

for world_size in (1, 2, 3, 4, 8):
    for rank in range(world_size):
        if not os.fork():
            options = {"rank": rank, "world_size": world_size, "columns": ["id"]}
            feed = Feed(sys.argv[1], global_batch_size=48, lanes=24, **options)
            batches = [batch["id"][batch["_weight"] > 0].tolist() for batch in feed.epoch(1)]
            with open(f"{sys.argv[2]}/{world_size}-{rank}", "w") as file:
                json.dump(batches, file)
            os._exit(0)
while True:
    try:
        assert os.wait()[1] == 0
    except ChildProcessError:
        break
"""


def test_any_number_of_processes_reads_the_same_batches(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset", SCHEMA, {"train": numbered_files([[50, 1, 70], [200, 9]])})
    subprocess.run([sys.executable, "-c", PROCESSES, folder, tmp_path], check=True, timeout=300)
    whole = json.loads((tmp_path / "1-0").read_text())
    assert sorted(i for batch in whole for i in batch) == list(range(330))
    for world_size in (2, 3, 4, 8):
        ranks = [json.loads((tmp_path / f"{world_size}-{rank}").read_text()) for rank in range(world_size)]
        assert {len(batches) for batches in ranks} == {len(whole)}
        for number, batch in enumerate(whole):
            parts = [rank[number] for rank in ranks]
            if len(batch) == 48:  # two rows of each lane: lane l is the (l // W)-th of rank l % W
                lanes = [parts[lane % world_size][lane // world_size * 2 :][:2] for lane in range(24)]
                assert [i for lane in lanes for i in lane] == batch
            assert sorted(i for part in parts for i in part) == sorted(batch)


def test_unshuffled_rows_come_in_file_order(dataset: Path) -> None:
    assert ids(feed(dataset, "test", shuffle=False)) == list(range(200, 223))


def test_epochs_and_seeds_differ_and_threads_change_nothing(dataset: Path) -> None:
    first = ids(feed(dataset, num_workers=1))
    assert ids(feed(dataset, num_workers=7)) == first
    assert ids(feed(dataset), epoch=1) != first
    assert ids(feed(dataset, seed=1)) != first


def test_a_pass_can_start_at_any_batch(dataset: Path) -> None:
    whole = [batch["id"].tolist() for batch in feed(dataset).epoch(2)]
    for start in range(len(whole) + 1):
        assert [batch["id"].tolist() for batch in feed(dataset).epoch(2, first_batch=start)] == whole[start:]


def test_splits_can_be_joined(dataset: Path) -> None:
    assert sorted(ids(feed(dataset, "train+val"))) == [*range(67), *range(100, 110)]


def test_a_rank_with_nothing_left_gets_one_row_of_weight_zero(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[5]])})
    ranks = [list(feed(folder, rank=rank, world_size=4).epoch()) for rank in range(4)]
    assert [len(batches) for batches in ranks] == [1, 1, 1, 1]
    folder = write_dataset(tmp_path / "2", SCHEMA, {"train": numbered_files([[2]])})
    weights = [
        float(batch[WEIGHT].sum()) for rank in range(4) for batch in feed(folder, rank=rank, world_size=4).epoch()
    ]
    assert sorted(weights) == [0, 0, 1, 1]


def test_an_empty_split_has_no_batch(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[3]]), "val": []})
    assert list(feed(folder, "val").epoch()) == []


def test_a_feed_shows_what_it_is(dataset: Path) -> None:
    assert "'train', version v1, 67 rows, 5 batches" in repr(feed(dataset))


def files(dataset: Path) -> list[Path]:
    return sorted(dataset.glob("data/*/split=train/*.parquet"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(np.float32(40.25).tobytes())  # in column x of a row of the second file
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"expected [\d,]+ bytes, found"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), r"expected [\d,]+ bytes, found"),
        (lambda path: path.write_bytes(b""), "found 0"),
        (flip, r"part-00001.parquet: row group \d, column 'x': expected CRC-32 \w+, found"),
    ],
    ids=["missing", "shorter", "longer", "empty", "flipped bit"],
)
def test_a_damaged_file_ends_the_pass_with_a_sentence(
    dataset: Path, damage: Callable[[Path], Any], message: str
) -> None:
    opened = feed(dataset)
    damage(files(dataset)[1])
    with pytest.raises(DatasetError, match=message):
        list(opened.epoch())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_bytes_are_checked_first_always_or_never(dataset: Path) -> None:
    first, always, never = (feed(dataset, verify=verify) for verify in ("first", "always", "never"))
    for opened in (first, always, never):
        assert len(ids(opened)) == 67
    flip(files(dataset)[1])  # the files stay mapped
    assert len(ids(first)) == len(ids(never)) == 67
    with pytest.raises(DatasetError, match="CRC-32"):
        ids(always)


def test_a_pass_that_is_abandoned_leaves_no_thread(dataset: Path) -> None:
    batches = feed(dataset).epoch()
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_the_folder_is_never_opened(dataset: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for folder in (dataset, next((dataset / "data").iterdir())):
        (folder / "_common_metadata").write_bytes(pickle.dumps(Trap(sprung)))
    assert len(ids(feed(dataset))) == 67
    assert not sprung.exists()


def test_wrong_questions_get_the_names_that_there_are(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'dev'; there are train, val, test"):
        feed(dataset, "dev")
    with pytest.raises(DatasetError, match="no field 'y'; there are id, x, label"):
        feed(dataset, columns=["y"])
    with pytest.raises(DatasetError, match="no dataset here"):
        feed(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="no version 'v2'; the versions here: v1"):
        feed(dataset, version="v2")


def test_a_manifest_that_was_changed_is_refused(dataset: Path) -> None:
    path = next(dataset.glob("data/*/_manifest.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match="the manifest was changed"):
        feed(dataset)


@pytest.mark.parametrize("data", ["../elsewhere", "/etc", "data/../../x", "s3://bucket/x"])
def test_a_card_that_points_outside_is_refused(dataset: Path, data: str) -> None:
    path = dataset / "cards" / "v1.json"
    edit_card(path, lambda card: card.update(data=data))
    with pytest.raises(DatasetError, match="leads out of the dataset"):
        feed(dataset)


def lists_of(lengths: list[int], dtype: str) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 100, length).astype(dtype) for length in lengths]


@pytest.mark.parametrize("options", [IN_PLACE, DECODED], ids=["in place", "decoded"])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "float32", "float64"])
def test_lists_are_padded_with_zeros_to_the_longest_of_their_batch(
    tmp_path: Path, options: dict[str, Any], dtype: str
) -> None:
    """Also the last list of a row group, behind which there is nothing to copy, and lists of nothing."""
    lists = lists_of([3, 0, 7, 1, 2, 40, 5, 300, 1, 0, 0, 2, 9, 1, 4, 1], dtype)
    groups = [{"key": np.arange(a, b), "tokens": lists[a:b]} for a, b in ((0, 6), (6, 9), (9, 11), (11, 16))]
    schema = Schema((Field("key", "int64"), Field("tokens", dtype, (None,))), key="key")
    folder = write_dataset(tmp_path, schema, {"train": [groups[:2], groups[2:]]}, options)
    for lanes, size in ((1, 4), (4, 4), (2, 16), (3, 3)):
        seen = []
        for batch in Feed(str(folder), global_batch_size=size, lanes=lanes, columns=schema.names).epoch():
            expected = [lists[key] for key in batch["key"].tolist()]
            assert batch["tokens"].shape == (len(expected), max(map(len, expected)))
            assert batch["_tokens_length"].tolist() == [len(values) for values in expected]
            for row, values in zip(batch["tokens"].numpy(), expected, strict=True):
                assert row.dtype == np.dtype(dtype)
                assert row.tolist() == [*values.tolist(), *[0] * (len(row) - len(values))]
            seen += batch["key"].tolist()
        assert sorted(seen) == list(range(16))


def test_pictures_are_decoded_and_bytes_are_as_they_were(tmp_path: Path) -> None:
    pictures = [np.full((6, 4, 3), i, np.uint8) for i in range(10)]
    rows = {"key": np.arange(10), "photo": list(map(png, pictures)), "payload": [bytes(i) for i in range(10)]}
    fields = (Field("key", "int64"), Field("photo", "uint8", (6, 4, 3), encoding="png"), Field("payload", "bytes"))
    for sizes, kind in (((6, 4, 3), torch.Tensor), ((None, None, 3), list)):
        schema = Schema((fields[0], Field("photo", "uint8", sizes, encoding="png"), fields[2]), key="key")
        folder = write_dataset(tmp_path / str(kind), schema, {"train": [[rows]]})
        for batch in Feed(str(folder), global_batch_size=4, lanes=2, columns=schema.names).epoch():
            assert isinstance(batch["photo"], kind)
            for key, photo, payload in zip(batch["key"].tolist(), batch["photo"], batch["payload"], strict=True):
                np.testing.assert_array_equal(photo.numpy(), pictures[key])
                assert payload == bytes(key)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_each_pass_is_the_next_epoch_and_its_position_can_be_saved(dataset: Path) -> None:
    def shown(batches: Iterable[dict[str, Any]]) -> list[list[int]]:
        return [batch["id"].tolist() for batch in batches]

    whole = [shown(feed(dataset).epoch(epoch)) for epoch in range(3)]
    passes = feed(dataset)
    assert [shown(passes) for _ in range(3)] == whole
    for stop in range(6):
        first = feed(dataset)
        shown(itertools.islice(first, stop))
        state = json.loads(json.dumps(first.state_dict()))
        later = feed(dataset, num_workers=5)
        later.load_state_dict(state)
        assert shown(later) == (whole[0][stop:] if stop < 5 else whole[1])
        assert shown(later) == whole[2 if stop == 5 else 1]
    ranks = [feed(dataset, rank=rank, world_size=2) for rank in range(2)]  # on two ranks from one rank's position
    for rank in ranks:
        rank.load_state_dict({**passes.state_dict(), "epoch": 1, "batch": 2})
    for whole_batch, *parts in zip(whole[1][2:], *map(shown, ranks), strict=True):
        assert sorted(whole_batch) == sorted(i for part in parts for i in part)


def test_the_position_of_another_feed_is_refused(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="of another feed: seed is 0 here and 1 there"):
        feed(dataset).load_state_dict(feed(dataset, seed=1).state_dict())


def test_a_feed_can_be_pickled_and_goes_on_where_it_was(dataset: Path) -> None:
    first = feed(dataset)
    list(first)
    assert [b["id"].tolist() for b in pickle.loads(pickle.dumps(first))] == [b["id"].tolist() for b in first]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_unshuffled_ranks_have_ranges_in_file_order(dataset: Path, world_size: int) -> None:
    """Also where the number of ranks does not divide the batch."""
    ranks = [feed(dataset, shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [i for rank in ranks for i in ids(rank)] == list(range(67))
    assert len({len(list(rank.epoch())) for rank in ranks}) == 1


def test_what_was_done_is_counted(dataset: Path) -> None:
    opened = feed(dataset)
    list(opened.epoch())
    assert opened.timings.num_rows == 67
    assert opened.timings.num_bytes == 67 * (8 + 12 + 8 + 8 + 4)  # id, x, label, label again, weight
    assert all(opened.timings.seconds[stage] > 0 for stage in ("fetch", "assemble", "wait"))


@pytest.mark.parametrize("options", [IN_PLACE, DECODED], ids=["in place", "decoded"])
def test_a_huge_row_group_is_cut_and_read_once(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 24 bytes and lists, 300 in one row group that counts as several; ragged small ones around it."""
    lists = lists_of([i % 5 for i in range(310)], "int32")
    fields = (Field("key", "int64"), Field("x", "uint8", (200,)), Field("tokens", "int32", (None,)))
    rows = [
        {"key": np.arange(a, b), "x": np.arange(a, b)[:, None].repeat(200, 1) % 251, "tokens": lists[a:b]}
        for a, b in ((0, 4), (4, 304), (304, 310))
    ]
    folder = write_dataset(tmp_path, Schema(fields, key="key"), {"train": [rows]}, options)
    whole = Feed(str(folder), global_batch_size=8, columns=["key"])
    monkeypatch.setattr(row_groups, "CUT_BYTES", 700)
    cut = Feed(str(folder), global_batch_size=8, lanes=4, columns=["key", "x", "tokens"], num_workers=3)
    assert whole.plan(0).rows_per_group.tolist() == [4, 300, 6]
    assert len(cut.plan(0).rows_per_group) > 5
    decoded = Counter[tuple[int, str]]()
    decode = cut._row_groups._decoded._compute
    monkeypatch.setattr(
        cut._row_groups._decoded, "_compute", lambda key, part: decoded.update([key]) or decode(key, part)
    )
    seen = []
    for batch in cut.epoch():
        for key, x, tokens, length in zip(*(batch[n] for n in ("key", "x", "tokens", "_tokens_length")), strict=True):
            assert x.tolist() == [int(key) % 251] * 200
            assert tokens[:length].tolist() == lists[int(key)].tolist()
        seen += batch["key"].tolist()
    assert sorted(seen) == list(range(310))
    assert set(decoded.values()) == {1}  # shared by lanes, and by the parts that it is cut into


def test_memory_of_batches_of_any_size_is_used_again() -> None:
    buffers = Buffers()
    for num_bytes in range(1 << 17, 1 << 18, 999):
        buffers.take(num_bytes)
    assert sum(map(len, buffers._free.values())) <= 2


def test_pictures_that_vary_in_size_go_to_the_device_too() -> None:
    found = _sent([torch.zeros(2, 3), torch.zeros(4)], torch.device("meta"))
    assert [(tensor.device.type, tuple(tensor.shape)) for tensor in found] == [("meta", (2, 3)), ("meta", (4,))]


def test_batches_of_bucketed_lists_are_of_one_bucket_and_go_on_anywhere(tmp_path: Path) -> None:
    borders, rng = (4, 9), np.random.default_rng(0)
    schema = Schema((Field("id", "int64"), Field("tokens", "int32", (None,), buckets=borders)), key="id")
    lengths = {0: (0, 4), 1: (5, 9), 2: (10, 30)}
    files, first = [], 0
    for sizes in ([(0, 30), (1, 11), (2, 17)], [(0, 9), (2, 3)]):
        groups = []
        for bucket, size in sizes:
            low, high = lengths[bucket]
            ids = list(range(first, first + size))
            groups.append({"id": ids, "tokens": [[i] * int(rng.integers(low, high + 1)) for i in ids]})
            first += size
        files.append(groups)
    folder = write_dataset(tmp_path / "dataset", schema, {"train": files})
    options: dict[str, Any] = {"global_batch_size": 8, "lanes": 4, "columns": schema.names}
    whole = list(Feed(str(folder), **options).epoch(3))
    assert sorted(i for batch in whole for i in batch["id"].tolist()) == list(range(first))
    for batch in whole:
        found = np.searchsorted(borders, batch["_tokens_length"].numpy())
        assert len(set(found.tolist())) == 1
        for i, length, tokens in zip(
            batch["id"].tolist(), batch["_tokens_length"].tolist(), batch["tokens"], strict=True
        ):
            assert tokens.tolist() == [i] * length + [0] * (len(tokens) - length)
    assert sum(batch["tokens"].numel() for batch in whole) < 1.5 * sum(int(b["_tokens_length"].sum()) for b in whole)
    resumed = list(Feed(str(folder), **options).epoch(3, 4))
    assert [b["id"].tolist() for b in resumed] == [b["id"].tolist() for b in whole[4:]]
    ranks = [list(Feed(str(folder), **options, rank=rank, world_size=2).epoch(3)) for rank in range(2)]
    for b, batch in enumerate(whole):
        parts = [i for rank in ranks for i, w in zip(rank[b]["id"].tolist(), rank[b][WEIGHT], strict=True) if w]
        assert sorted(parts) == sorted(batch["id"].tolist())
    in_order = list(Feed(str(folder), shuffle=False, **options).epoch())
    assert [i for batch in in_order for i in batch["id"].tolist()] == list(range(first))
    for batch in in_order:
        assert len(set(np.searchsorted(borders, batch["_tokens_length"].numpy()).tolist())) == 1
