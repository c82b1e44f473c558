"""What goes wrong around a feed ends in an error of the training process: no hang, no short epoch, no crash.

Damage, interrupts, dying workers, forks, spawned processes and threads are real.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from penstock.errors import DatasetError, RunError
from tests.cards import edit_card
from tests.train import corruption
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from train.feed import Feed

PATIENCE_S = 60  # for processes on a busy machine: what hangs, hangs longer


def feed(dataset: Path, **options: Any) -> Feed:
    return Feed(str(dataset), **{"global_batch_size": 16, "lanes": 4, "columns": SCHEMA.names, **options})


def shown(batches: Any) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def corrupted(folder: Path, count: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.corruption", folder, str(seed), str(count)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["detected"] + told["equal"] == count
    assert min(told["detected"], told["equal"]) > count / 20  # the damage reaches what is read, and not always


def test_200_corruptions_are_detected_or_harmless(tmp_path: Path) -> None:
    corrupted(tmp_path, 200, seed=0)


@pytest.mark.soak
def test_1000_corruptions_are_detected_or_harmless(tmp_path: Path) -> None:
    corrupted(tmp_path, 1000, seed=1)


def test_other_counts_than_the_cards_are_refused(dataset: Path) -> None:
    def move_a_row(card: dict[str, Any]) -> None:
        card["splits"]["train"]["rows"] += 1
        card["splits"]["test"]["rows"] -= 1

    edit_card(dataset / "cards" / "v1.json", move_a_row)
    with pytest.raises(DatasetError, match="split 'train': the card says 68 rows, the manifest 67"):
        feed(dataset)


def test_a_column_of_another_type_is_named_with_its_file_and_row_group(tmp_path: Path) -> None:
    whole = corruption.made(tmp_path)
    edit_card(whole / "cards" / "v1.json", lambda card: card["schema"]["fields"][2].update(dtype="int64"))
    with pytest.raises(DatasetError, match=r"part-0000\d.parquet: row group \d, column 'score': .* to int64"):
        corruption.read(whole)


RUN = """
import sys
from train.feed import Feed, blocks

feed = Feed(sys.argv[1], global_batch_size=16, lanes=4, columns=["id", "x"])
"""


def test_a_changed_footer_is_not_read(tmp_path: Path) -> None:
    """Even where nothing would come of it: another footer may make Arrow read other rows and say nothing."""
    whole = corruption.made(tmp_path)
    path = next(whole.glob("data/*/split=train/part-00001.parquet"))
    path.write_bytes(path.read_bytes().replace(b"parquet-cpp", b"parquet-c--"))
    with pytest.raises(DatasetError, match=r"part-00001.parquet: the footer, which row group \d needs: expected"):
        corruption.read(whole)


def test_a_file_that_is_cut_while_it_is_mapped_ends_the_pass(tmp_path: Path) -> None:
    """To read the mapping behind the file's new end would kill the process."""
    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[200] * 40, [200] * 40])})
    cut = """
import os, time
batches = iter(feed)
next(batches)
ahead = 0
while ahead != feed.timings.num_rows:  # until the workers are as far ahead as they may be
    ahead = feed.timings.num_rows
    time.sleep(0.5)
for path in sys.argv[2:]:
    os.truncate(path, 100)
for batch in batches:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", RUN + cut, folder, *folder.glob("data/*/*/*.parquet")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert re.search(r"DatasetError: .*part-0000\d.parquet: expected [\d,]+ bytes, found 100", done.stderr)


def test_a_worker_that_dies_takes_the_run_down_with_its_own_traceback(dataset: Path) -> None:
    dies = "def dies(*_): 1 / 0\nblocks.BlockReader._shuffle = dies\nfor batch in feed: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", RUN + dies, dataset], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "in dies" in done.stderr
    assert "Fatal" not in done.stderr


@pytest.mark.parametrize(("block_s", "step_s"), [(0, 0.01), (0.3, 0)], ids=["in a step", "waiting for a batch"])
def test_ctrl_c_ends_at_once(dataset: Path, block_s: float, step_s: float) -> None:
    """Also where the workers are slow: the ones that are at work are waited for, no more."""
    code = f"""
import time
read = blocks.BlockReader.read
def slowly(self, block):
    time.sleep({block_s})
    return read(self, block)
blocks.BlockReader.read = slowly
print("ready", flush=True)
while True:
    for batch in feed:
        time.sleep({step_s})
"""
    running = subprocess.Popen(
        [sys.executable, "-c", RUN + code, dataset], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(0.5)
    start = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - start < 10
    assert running.returncode == -signal.SIGINT  # as Python ends after a KeyboardInterrupt
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert "Fatal" not in told
    assert "Exception ignored" not in told


def test_ctrl_c_while_the_workers_are_started_ends_too(dataset: Path) -> None:
    code = """
from threading import Thread
start = Thread.start
def interrupted(thread):
    start(thread)
    if thread.name.startswith("feed"):
        raise KeyboardInterrupt
Thread.start = interrupted
for batch in feed: pass
"""
    ended = subprocess.run(
        [sys.executable, "-c", RUN + code, dataset], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")


def in_a_fork(work: Callable[[], Any]) -> Any:
    """What `work` gives or raises in a forked child. A child that hangs is killed, and fails the test."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:  # never returns into pytest
        try:
            try:
                result = work()
            except BaseException as error:
                result = error
            os.write(writable, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(writable)
    try:
        assert select.select([readable], [], [], PATIENCE_S)[0], "the forked child hangs"
        with open(readable, "rb") as told:
            return pickle.loads(told.read())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_feed_works_in_a_forked_process(dataset: Path) -> None:
    opened = feed(dataset)
    expected = [shown(feed(dataset).epoch(epoch)) for epoch in range(2)]
    assert in_a_fork(lambda: shown(opened.epoch())) == expected[0]
    assert shown(opened.epoch(1)) == expected[1]
    assert in_a_fork(lambda: shown(opened)) == expected[0]


def test_a_fork_in_the_middle_of_a_pass_hangs_nowhere(tmp_path: Path) -> None:
    """The workers of the parent may hold any lock at that moment, and are not there in the child."""
    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[50] * 20, [50] * 20])})
    expected = shown(feed(folder).epoch(1))
    for moment in range(1, 10):
        opened = feed(folder)
        batches = opened.epoch()
        for _ in range(moment):
            next(batches)
        assert in_a_fork(lambda opened=opened: shown(opened.epoch(1))) == expected  # type: ignore[misc]
        refused = in_a_fork(lambda batches=batches: shown(batches))  # type: ignore[misc]
        assert isinstance(refused, RunError)
        assert "begun in another process" in str(refused)
        batches.close()


def shown_to(queue: Any, opened: Feed) -> None:
    queue.put(shown(opened.epoch(1)))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_feed_can_be_sent_to_another_process(dataset: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=shown_to, args=(queue, feed(dataset)))
    process.start()
    assert queue.get(timeout=PATIENCE_S) == shown(feed(dataset).epoch(1))
    process.join(PATIENCE_S)
    assert process.exitcode == 0


def test_two_threads_can_pass_over_one_feed_at_once(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, SCHEMA, {"train": numbered_files([[50, 70, 13], [90, 11]])})
    expected = [shown(feed(folder).epoch(epoch)) for epoch in range(8)]
    opened = feed(folder)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda epoch: shown(opened.epoch(epoch)), range(8))) == expected


class Rows(IterableDataset[dict[str, Any]]):
    """A feed in torch's DataLoader: each of its workers must be a rank, or each would give every row."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        assert worker is not None
        return feed(self.dataset, rank=worker.id, world_size=worker.num_workers).epoch(1)


def test_a_data_loader_has_its_workers_as_ranks(dataset: Path) -> None:
    loader = DataLoader(Rows(dataset), batch_size=None, num_workers=2, timeout=PATIENCE_S)
    seen = [i for batch in loader for i in batch["id"].tolist()]
    assert sorted(seen) == list(range(67))
