"""The feed over files that are not local: the same batches, few reads, errors that pass and errors that stay."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import cli, store
from penstock.errors import DatasetError, StorageError
from penstock.schema import Field, Schema
from tests.train.conftest import IN_PLACE, SCHEMA, numbered_files, write_dataset
from tests.train.remote import Fetched, RemoteFileSystem, remote
from train.feed import Feed, fetch
from train.feed.fetch import Part, coalesce

FIELDS = Schema(
    (
        Field("id", "int64"),
        Field("wide", "uint8", (200,)),
        Field("narrow", "float32", (3,)),
        Field("tokens", "int32", (None,)),
        Field("text", "string"),
        Field("label", "int8"),
    ),
    key="id",
    label="label",
)
PACKED = {"use_dictionary": True, "compression": "zstd"}


@pytest.fixture(autouse=True)
def filesystem() -> type[RemoteFileSystem]:
    RemoteFileSystem.reset()
    return RemoteFileSystem


def rows(first: int, count: int) -> dict[str, Any]:
    ids = np.arange(first, first + count)
    return {
        "id": ids,
        "wide": (ids[:, None] + np.arange(200)).astype(np.uint8),
        "narrow": (ids[:, None] * np.array([1, 2, 3])).astype(np.float32),
        "tokens": [np.arange(i, i + i % 7) for i in ids.tolist()],
        "text": [f"row {i}" for i in ids.tolist()],
        "label": (ids % 3).astype(np.int8),
    }


def made(folder: Path, sizes: list[list[int]], options: dict[str, Any] = IN_PLACE) -> Path:
    files, first = [], 0
    for groups in sizes:
        files.append([rows(first + sum(groups[:i]), size) for i, size in enumerate(groups)])
        first += sum(groups)
    return write_dataset(folder, FIELDS, {"train": files}, options)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return made(tmp_path / "dataset", [[20, 13], [1, 17, 16]])


def opened(url: str | Path, **options: Any) -> Feed:
    return Feed(str(url), **{"global_batch_size": 16, "lanes": 4, "columns": FIELDS.names, **options})


def batches(feed: Feed, epoch: int = 0, first: int = 0) -> list[dict[str, Any]]:
    return [{name: _plain(value) for name, value in batch.items()} for batch in feed.epoch(epoch, first)]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


@given(
    st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from(FIELDS.names), min_size=1, unique=True),
    st.integers(1, 20),
)
@settings(max_examples=25)
def test_batches_do_not_depend_on_where_the_files_are(
    sizes: list[list[int]], shuffle: bool, in_place: bool, columns: list[str], threads: int
) -> None:
    RemoteFileSystem.reset()
    with tempfile.TemporaryDirectory() as folder:
        dataset = made(Path(folder) / "dataset", sizes, IN_PLACE if in_place else PACKED)
        options: dict[str, Any] = {"shuffle": shuffle, "columns": columns}
        expected = [batches(opened(dataset, **options), epoch) for epoch in range(2)]
        far = opened(remote(dataset), **options, fetch_threads=threads)
        assert [batches(far, epoch) for epoch in range(2)] == expected
        assert batches(far, 1, len(far) // 2) == expected[1][len(far) // 2 :]  # not the pass that was prepared for
        far = opened(remote(dataset), **options, cache=Path(folder) / "cache")
        assert [batches(far, epoch) for epoch in range(2)] == expected
        assert far.timings.seconds["fetch"] > 0
        RemoteFileSystem.reads.clear()
        again = opened(remote(dataset), **options, cache=Path(folder) / "cache")
        assert [batches(again, epoch) for epoch in range(2)] == expected
        assert RemoteFileSystem.reads == []  # another process, or the next run: all is local


@pytest.mark.parametrize("options", [IN_PLACE, PACKED], ids=["in place", "packed"])
def test_s3(s3: str, tmp_path: Path, options: dict[str, Any]) -> None:
    """Damaged objects, too."""
    dataset = made(tmp_path / "dataset", [[20, 13], [1, 17, 16]], options)
    url = f"{s3}/{'packed' if options is PACKED else 'in-place'}"
    fs = fsspec.filesystem("s3")
    fs.put(str(dataset), url, recursive=True)
    expected = batches(opened(dataset))
    assert batches(opened(url)) == expected
    cached = opened(url, cache=tmp_path / "cache")
    assert batches(cached) == batches(opened(url, cache=tmp_path / "cache")) == expected
    name = next(name for name in fs.find(url) if "part-00001" in name)
    whole = fs.cat_file(name)
    fs.pipe_file(name, whole[:600])
    with pytest.raises(DatasetError, match=r"part-00001.parquet: expected [\d,]+ bytes, found 600"):
        batches(opened(url))
    fs.rm_file(name)
    with pytest.raises(DatasetError, match=r"part-00001.parquet: the file is missing"):
        batches(opened(url))
    assert batches(opened(url, cache=tmp_path / "cache")) == expected


def test_a_bucket_that_is_not_there_holds_no_dataset(s3: str) -> None:
    with pytest.raises(DatasetError, match=r"s3://other/ds: no dataset here"):
        opened("s3://other/ds")


def test_the_command_keeps_what_it_read_of_a_store(s3: str, dataset: Path, tmp_path: Path) -> None:
    fsspec.filesystem("s3").put(str(dataset), f"{s3}/kept", recursive=True)
    told = ["feed", f"{s3}/kept", "--batch-size", "8", "--cache", str(tmp_path / "cache")]
    assert cli.main([*told, "--cache-bytes", "1000000"]) == 0
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert kept
    assert cli.main(told) == 0
    assert {file for file in (tmp_path / "cache").rglob("*") if file.is_file()} == set(kept)


def test_an_hdfs_url_goes_to_its_own_driver_and_a_fork_does_not_hang() -> None:
    fs, path = store.filesystem("hdfs://127.0.0.1:9/data/x")
    assert type(fs).__module__.startswith("hdfs_native")
    assert path == "/data/x"
    assert store.filesystem("hdfs://127.0.0.1:9/elsewhere")[0] is fs
    del fs  # it is dropped in a forked process, unless something holds it
    child = os.fork()
    if not child:
        os._exit(0)
    limit = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_a_row_group_is_one_read_and_is_read_once(dataset: Path, filesystem: type[RemoteFileSystem]) -> None:
    list(opened(remote(dataset), shuffle=False, columns=["id", "wide", "label"]).epoch())
    assert len(filesystem.reads) == 5


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), max_size=20))
def test_ranges_cover_the_chunks_and_read_little_more(chunks: list[tuple[int, int]]) -> None:
    chunks = [(start, start + length) for start, length in chunks]
    ranges = coalesce(chunks)
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(ranges))
    for start, stop in chunks:
        assert start == stop or any(a <= start and stop <= b for a, b in ranges)
    wanted = len(set().union(*(range(start, stop, 1000) for start, stop in chunks))) if chunks else 0
    assert bool(ranges) == bool(wanted)
    file = np.arange(2 * 10**6, dtype=np.uint32).view(np.uint8)[: 2 * 10**6]
    part = Part(np.concatenate([file[:0], *(file[a:b] for a, b in ranges)]), ranges)
    for start, stop in chunks:
        if start < stop:
            at = part.place(start)
            np.testing.assert_array_equal(part.content[at : at + stop - start], file[start:stop])


def test_far_chunks_are_read_apart(filesystem: type[RemoteFileSystem], tmp_path: Path) -> None:
    fields = Schema((Field("id", "int64"), Field("wide", "uint8", (4_000,)), Field("label", "int64")), key="id")
    ids = np.arange(100)
    group = {"id": ids, "wide": np.zeros((100, 4_000), np.uint8), "label": ids}
    folder = write_dataset(tmp_path, fields, {"train": [[group]]})
    list(Feed(remote(folder), global_batch_size=10, lanes=1, columns=["id", "label"]).epoch())
    assert len(filesystem.reads) >= 2
    assert sum(stop - start for start, stop in filesystem.reads) < 50_000


class Passing(Exception):
    """As drivers raise: of no known kind."""


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError("slow"), Passing("busy")], ids=lambda e: str(e))
def test_errors_that_pass_are_tried_again(
    dataset: Path, filesystem: type[RemoteFileSystem], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_twice(number: int) -> None:
        if number <= 2:
            raise error

    filesystem.before_read = staticmethod(fail_twice)
    assert batches(opened(remote(dataset), fetch_threads=1)) == batches(opened(dataset))
    assert caplog.text.count("trying again") == 1


@pytest.mark.parametrize("error", [None, TimeoutError("slow")])
def test_a_storage_that_is_silent_is_waited_for_aloud(
    error: Exception | None,
    dataset: Path,
    filesystem: type[RemoteFileSystem],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fetch, "SILENCE_S", 0.05)

    def silent(number: int) -> None:
        time.sleep(0.3)
        if error is not None and number == 1:
            raise error

    filesystem.before_read = staticmethod(silent)
    assert batches(opened(remote(dataset), fetch_threads=1)) == batches(opened(dataset))
    assert caplog.text.count("the storage has not answered for 0 s; waiting for it") == 1
    assert caplog.text.count("trying again") == (error is not None)


def test_errors_that_stay_end_in_a_sentence(
    dataset: Path, filesystem: type[RemoteFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        raise OSError("the network is down")

    filesystem.before_read = staticmethod(fail)
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.001)
    with pytest.raises(
        StorageError, match=r"part-0000\d.parquet: row group \d: cannot be read, tried 6 times .*network is down"
    ):
        batches(opened(remote(dataset)))
    assert no_thread("feed")


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (FileNotFoundError("gone"), DatasetError, "the file is missing"),
        (PermissionError("not yours"), StorageError, "permission denied"),
    ],
    ids=["missing", "forbidden"],
)
def test_what_cannot_pass_is_not_tried_again(
    dataset: Path,
    filesystem: type[RemoteFileSystem],
    error: Exception,
    expected: type[Exception],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(number: int) -> None:
        raise error

    filesystem.before_read = staticmethod(fail)
    with pytest.raises(expected, match=message):
        batches(opened(remote(dataset)))
    assert "trying again" not in caplog.text


def test_a_storage_that_does_not_answer_when_a_feed_is_opened(
    dataset: Path, filesystem: type[RemoteFileSystem]
) -> None:
    filesystem.refused = Passing("no route to host")
    with pytest.raises(StorageError, match=r"cards: cannot be read \(Passing: no route to host"):
        opened(remote(dataset))


def test_a_pass_that_is_abandoned_does_not_wait_for_its_tries(
    tmp_path: Path, filesystem: type[RemoteFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_later(number: int) -> None:
        if number > 3:
            raise OSError("down")

    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[16] * 20])})
    monkeypatch.setattr("train.feed.blocks.BLOCK_BYTES", 1)  # a batch each
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 25.0)
    filesystem.before_read = staticmethod(fail_later)
    passing = Feed(remote(folder), global_batch_size=16, shuffle=False, fetch_threads=1).epoch()
    next(passing)
    while len(filesystem.reads) < 4:
        time.sleep(0.01)
    begun = time.monotonic()
    passing.close()
    assert time.monotonic() - begun < 10
    assert no_thread("feed")


def no_thread(prefix: str) -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_a_pass_that_ends_leaves_no_thread(dataset: Path) -> None:
    list(opened(remote(dataset)).epoch())
    limit = time.monotonic() + 20
    while not no_thread("feed") and time.monotonic() < limit:
        time.sleep(0.01)  # the beginning of the next pass is fetched
    assert no_thread("feed")


@pytest.mark.parametrize("damage", ["shorter", "flipped"])
def test_damaged_files_are_found(dataset: Path, damage: str) -> None:
    path = sorted(dataset.glob("data/*/split=train/*.parquet"))[1]
    content = path.read_bytes()
    if damage == "shorter":
        path.write_bytes(content[:-1])
    else:
        at = content.index(rows(40, 1)["wide"].tobytes())
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    message = "bytes, found" if damage == "shorter" else "row group 1, column 'wide': expected CRC-32"
    with pytest.raises(DatasetError, match=message):
        batches(opened(remote(dataset)))


def test_a_flipped_bit_in_the_cache_is_mended(
    dataset: Path, tmp_path: Path, filesystem: type[RemoteFileSystem]
) -> None:
    expected = batches(opened(dataset))
    assert batches(opened(remote(dataset), cache=tmp_path / "cache")) == expected
    filesystem.reads.clear()
    entries = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name[0] != "."]
    for path in entries:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    for reads in (len(entries), 0):
        filesystem.reads.clear()
        assert batches(opened(remote(dataset), cache=tmp_path / "cache")) == expected
        assert len(filesystem.reads) == reads


def test_bytes_that_were_not_checked_are_never_cached(dataset: Path, tmp_path: Path) -> None:
    path = sorted(dataset.glob("data/*/split=train/*.parquet"))[1]
    content = path.read_bytes()
    at = content.index(rows(40, 1)["wide"].tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(DatasetError, match="CRC-32"):
        batches(opened(remote(dataset), cache=tmp_path / "cache", verify="never"))


def test_memory_is_bounded(tmp_path: Path, filesystem: type[RemoteFileSystem], monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the trainer is: blocks ahead, and two row groups for each lane."""
    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[10] * 200])})
    monkeypatch.setattr("train.feed.blocks.BLOCK_BYTES", 1)  # a batch each
    passing = Feed(remote(folder), global_batch_size=16, lanes=4, fetch_threads=3)
    gc.collect()
    before, most_ahead, most_alive = Fetched.alive, 0, 0
    for number, _ in enumerate(passing):
        if number in (0, 20, 50):
            time.sleep(0.3)
            most_ahead = max(most_ahead, len(filesystem.reads) - number * 16 // 10)
        most_alive = max(most_alive, Fetched.alive - before)
    most_groups = 2 * 4 + 3 * 16 / 10
    most_bytes = max(stop - start for start, stop in filesystem.reads)
    assert most_ahead <= most_groups + 5 * 16 / 10  # blocks that wait for the trainer are ahead, too
    assert most_alive <= (most_groups + 2 * 16 / 10) * most_bytes  # and what two workers have just let go of
    assert 200 <= len(filesystem.reads) <= 220
