"""The feed on a real HDFS, without a JVM in its process: the same batches, while daemons stop, die and lose blocks."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.__main__ import Cluster
from penstock import cli, store
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, StorageError
from penstock.gc import unneeded
from penstock.released import rollback
from penstock.verify import verify
from tests.cluster.conftest import DRAWN, blocks, corrupt, killed, put, resume, stopped
from tests.penstock.test_released import check, released_by
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from train.feed import Feed, fetch

ROWS, GROUP = 240_000, 2_500


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = numbered_files([[GROUP] * 12] * (ROWS // GROUP // 12))
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", SCHEMA, {"train": files})


@pytest.fixture(scope="session")
def far(hdfs: Cluster, local: Path) -> str:
    return put(local, f"{hdfs.hdfs_url}/user/tester/dataset")


def opened(url: str | Path, **options: Any) -> Feed:
    return Feed(str(url), global_batch_size=64, lanes=8, columns=SCHEMA.names, **options)


def ids(feed: Feed, epoch: int = 0) -> list[list[int]]:
    return [batch["id"].tolist() for batch in feed.epoch(epoch)]


def begun(far: str, rng: random.Random) -> tuple[Iterator[dict[str, Any]], list[list[int]]]:
    """An epoch of which some batches, less than half, were read, and their ids."""
    feed = opened(far, fetch_threads=2)
    batches = feed.epoch()
    return batches, [next(batches)["id"].tolist() for _ in range(rng.randrange(1, len(feed) // 2))]


def test_batches_are_those_of_local_files(far: str, local: Path) -> None:
    for mine, there in zip(opened(far).epoch(3), opened(local).epoch(3), strict=True):
        assert all(torch.equal(mine[name], there[name]) for name in there)


def test_ranks_share_an_epoch(far: str, local: Path) -> None:
    batches = [batch for rank in range(2) for batch in ids(opened(far, rank=rank, world_size=2))]
    assert sorted(chain.from_iterable(batches)) == list(range(ROWS))


def test_a_cache_makes_the_second_epoch_local(hdfs: Cluster, far: str, local: Path, tmp_path: Path) -> None:
    feed = opened(far, cache=tmp_path / "cache")
    assert ids(feed) == ids(opened(local))
    with stopped(hdfs, "datanode-0", "datanode-1"):
        assert ids(feed, 1) == ids(opened(local), 1)


def test_verify_reads_every_byte_of_it(far: str) -> None:
    card, faults = verify(far, Console())
    assert card.splits["train"].rows == ROWS
    assert not faults


def test_gc_finds_what_a_dead_job_left(far: str) -> None:
    dead = f"data/{'9' * 16}-{'d' * 8}"
    store.write(f"{far}/{dead}/split=train/part.parquet", memoryview(b"0123456789"))
    assert [(each.path, each.num_bytes) for each in unneeded(far)] == [(dead, 10)]
    assert unneeded(far, older_than_s=600) == []  # it may be of a job that still runs
    assert cli.main(["gc", far, "--remove", "--older-than", "0"]) == 0
    assert unneeded(far) == []
    assert not verify(far, Console())[1]


def test_one_of_many_writers_creates_a_file(hdfs: Cluster) -> None:
    """Also, nobody sees it before its content is there."""
    url = f"{hdfs.hdfs_url}/user/tester/cards/x.json"
    contents = [str(i).encode() * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda content: store.write_new(url, content), contents))
    assert won.count(True) == 1
    assert store.read_bytes(url) == contents[won.index(True)]
    assert store.file_names(url.rpartition("/")[0]) == ["x.json"]


def test_of_several_releases_at_once_one_wins(hdfs: Cluster) -> None:
    """Two of one run, two of others; those that were refused come again, until all are out."""
    url, runs = f"{hdfs.hdfs_url}/user/tester/releases", [f"{hdfs.hdfs_url}/runs/{name}" for name in "aabc"]
    num_out, outcomes = 0, ["refused"]
    while "refused" in outcomes:
        with ThreadPoolExecutor(4) as threads:
            outcomes = list(threads.map(lambda run: released_by(url, run), runs))
        assert "new" in outcomes
        num_out += outcomes.count("new")
        assert len(check(url)) == num_out
    assert num_out == 3
    assert rollback(url)[0].release == 2
    assert len(check(url)) == 4


def test_a_file_is_written_again_where_no_datanode_answers(
    hdfs: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """hdfs-native itself would wait for ever for some that have died, and for those that stopped until they go on."""
    monkeypatch.setattr(store, "HDFS_ANSWER_S", 1.0)
    url, content = f"{hdfs.hdfs_url}/user/tester/written-again", random.Random(0).randbytes(64 << 20)
    with stopped(hdfs, "datanode-0", "datanode-1"):
        threading.Timer(4.0, resume, [hdfs, "datanode-0", "datanode-1"]).start()
        store.write(url, memoryview(content))
    assert "TimeoutError: no DataNode answered for 1 s; trying again" in capsys.readouterr().err
    assert store.read_bytes(url) == content


@DRAWN
def test_a_namenode_and_datanodes_that_stop_are_waited_for(
    hdfs: Cluster, far: str, local: Path, times: int, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """For 4 s, and in `make soak` for 20 s."""
    rng, names = random.Random(seed), ("namenode", "datanode-0", "datanode-1")
    for _ in range(times):
        caplog.clear()
        batches, found = begun(far, rng)
        with stopped(hdfs, *names):
            going_on = threading.Timer(4.0 if times == 1 else 20.0, resume, [hdfs, *names])
            going_on.start()
            found += [batch["id"].tolist() for batch in batches]
        assert found == ids(opened(local))
        assert times == 1 or "the storage has not answered for 5 s; waiting for it" in caplog.text


@DRAWN
def test_a_datanode_that_dies_is_replaced_by_the_other(
    hdfs: Cluster, far: str, local: Path, times: int, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(times):
        batches, found = begun(far, rng)
        with killed(hdfs, f"datanode-{rng.randrange(2)}"):
            found += [batch["id"].tolist() for batch in batches]
        assert found == ids(opened(local))


def test_a_corrupt_block_is_read_from_its_replica(hdfs: Cluster, local: Path) -> None:
    before = blocks(hdfs, "datanode-1")
    url = put(local, f"{hdfs.hdfs_url}/user/tester/corrupt")
    corrupt(blocks(hdfs, "datanode-1") - before)
    assert ids(opened(url, verify="always")) == ids(opened(local))


def test_an_hdfs_that_is_gone_ends_in_a_sentence(hdfs: Cluster, far: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_S", 3.0)
    feed = opened(far, fetch_threads=2)
    batches = feed.epoch()
    next(batches)
    with killed(hdfs, "namenode", "datanode-0", "datanode-1"):
        with pytest.raises(StorageError, match=r"cannot be read, tried \d times"):
            list(batches)
        with pytest.raises(PenstockError):
            opened(far)


def test_a_dataset_that_is_not_there_is_said(hdfs: Cluster) -> None:
    with pytest.raises(DatasetError, match="no dataset here"):
        opened(f"{hdfs.hdfs_url}/user/tester/nothing")
