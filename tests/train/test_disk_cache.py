"""The cache on a local disk: whole entries or none, within its limit, for several processes, whatever kills them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import StorageError
from train.feed.disk_cache import CRC_BYTES, U8, DiskCache


def content(number: int, num_bytes: int) -> U8:
    return np.random.default_rng(number).integers(0, 256, num_bytes, np.uint8)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in entries(folder))


@given(st.integers(0, 3_000), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40))
def test_what_is_there_is_right_and_within_the_limit(limit: int, uses: list[tuple[int, bool]]) -> None:
    sizes = [0, 1, 40, 200, 200, 200, 500, 700, 1_000, 2_000]
    with tempfile.TemporaryDirectory() as folder:
        cache = DiskCache(Path(folder), limit)
        for number, is_put in uses:
            if is_put:
                cache.put(f"a/{number}", content(number, sizes[number]))
                assert (cache.get(f"a/{number}", sizes[number]) is not None) == (sizes[number] + CRC_BYTES <= limit)
            elif (found := cache.get(f"a/{number}", sizes[number])) is not None:
                np.testing.assert_array_equal(found, content(number, sizes[number]))
            assert bytes_of(Path(folder)) <= limit


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * (100 + CRC_BYTES))
    for number in range(10):
        cache.put(str(number), content(number, 100))
        time.sleep(0.01)  # times of files are coarse
    assert cache.get("0", 100) is not None
    cache.put("10", content(10, 100))
    there = {path.name for path in entries(tmp_path)}
    assert {"0", "9", "10"} <= there
    assert "1" not in there


def test_entries_of_another_user_are_read_or_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path, 1000)
    cache.put("a", content(0, 100))

    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    np.testing.assert_array_equal(cache.get("a", 100), content(0, 100))
    monkeypatch.setattr(Path, "open", refuse)
    assert cache.get("a", 100) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_entry_is_found_and_removed(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    DiskCache(tmp_path, 10_000).put("a", content(1, 1_000))
    DiskCache(tmp_path, 10_000).put("b", content(2, 1_000))
    found = bytearray((tmp_path / "a").read_bytes())
    found[500] ^= 1
    damaged = {"flip": bytes(found), "cut": bytes(found[:-1]), "empty": b"", "other": (tmp_path / "b").read_bytes()}
    (tmp_path / "a").write_bytes(damaged[damage])
    cache = DiskCache(tmp_path, 10_000)
    assert cache.get("a", 1_000) is None
    assert "damaged" in caplog.text
    assert not (tmp_path / "a").exists()
    cache.put("a", content(1, 1_000))
    np.testing.assert_array_equal(cache.get("a", 1_000), content(1, 1_000))


def test_an_entry_that_goes_while_it_is_in_use_stays_readable(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1_200)
    cache.put("a", content(1, 1_000))
    found = cache.get("a", 1_000)
    cache.put("b", content(2, 1_000))
    assert not (tmp_path / "a").exists()
    np.testing.assert_array_equal(found, content(1, 1_000))


def fill(folder: Path, seed: int, count: int) -> None:
    cache = DiskCache(folder, 100_000)
    for number in np.random.default_rng(seed).integers(0, 60, count).tolist():
        found = cache.get(f"x/{number}", 5_000)
        if found is None:
            cache.put(f"x/{number}", content(number, 5_000))
        else:
            np.testing.assert_array_equal(found, content(number, 5_000))


def filling(folder: Path, seed: int, count: int) -> Any:
    process = multiprocessing.get_context("fork").Process(target=fill, args=(folder, seed, count))
    process.start()
    return process


def test_processes_share_a_cache(tmp_path: Path) -> None:
    processes = [filling(tmp_path, seed, 300) for seed in range(3)]
    while any(process.is_alive() for process in processes):
        assert bytes_quietly(tmp_path) <= 100_000
        time.sleep(0.001)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert all(DiskCache(tmp_path, 100_000).get(f"x/{path.name}", 5_000) is not None for path in entries(tmp_path))


def bytes_quietly(folder: Path) -> int:
    try:
        return bytes_of(folder)
    except FileNotFoundError:  # an entry went between the list and the look
        return 0


def test_a_process_that_is_killed_leaves_nothing_that_harms(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        process = filling(tmp_path, seed, 1_000_000)
        time.sleep(float(rng.uniform(0, 0.1)))
        process.kill()
        process.join()
        (tmp_path / ".new").write_bytes(b"half an entry")  # wherever the signal found it
        cache = DiskCache(tmp_path, 100_000)
        for number in range(60):
            if (found := cache.get(f"x/{number}", 5_000)) is not None:
                np.testing.assert_array_equal(found, content(number, 5_000))
        cache.put(f"new/{seed}", content(seed, 5_000))
        assert cache.get(f"new/{seed}", 5_000) is not None
        assert bytes_of(tmp_path) <= 100_000


@pytest.mark.parametrize("number", [b"", b"99999999999999999999", b"nonsense", b"0" * 20])
def test_a_wrong_number_in_the_lock_file_is_mended_by_counting(tmp_path: Path, number: bytes) -> None:
    cache = DiskCache(tmp_path, 10_000)
    for i in range(5):
        cache.put(str(i), content(i, 1_000))
    (tmp_path / ".lock").write_bytes(number)
    cache.put("5", content(5, 1_000))
    assert len(entries(tmp_path)) == 6


def test_a_folder_that_cannot_be_written_is_said_when_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file is where a folder is needed"):
        DiskCache(tmp_path / "file" / "cache", 1_000)


def test_a_disk_that_refuses_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = DiskCache(tmp_path / "cache", 10_000)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("")  # no folder any more; root may write anywhere else
    with caplog.at_level(logging.WARNING):
        cache.put("a", content(1, 100))
        cache.put("b", content(1, 100))
    assert caplog.text.count("goes on without") == 1
    assert os.path.getsize(tmp_path / "cache") == 0
