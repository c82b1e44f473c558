"""Runs whose folder is not local: what is there can go on wherever copying is cut, and only one process writes it."""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import store
from penstock.console import Console
from penstock.errors import RunError, StorageError
from penstock.recipe import find
from tests.train.far_runs import check_kills, fetched
from tests.train.processes import Place, assert_same
from tests.train.test_run import CPU, SMALL
from train import lease, mirror
from train.export import export
from train.lease import Lease
from train.mirror import Mirror, mirrored
from train.observe import json_lines
from train.predict import predict
from train.run import train

EPOCHS, BEST = 5, (1, 2, 4)  # of what the generated test writes
WRITES = ("put", "move", "remove", "replace")


@pytest.fixture
def url() -> Iterator[str]:
    yield f"memory://{uuid4().hex}/runs/1"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mirror, "POLL_S", 0.01)
    monkeypatch.setattr(mirror, "PATIENCE_S", 0.5)
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.1)


class Unlocked:
    def check(self) -> None:
        pass


# What is there at any moment


def written(path: Path, content: bytes) -> None:
    """As store.replace, without its fsync."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    beside.rename(path)


def writes(folder: Path, version: str) -> Iterator[None]:
    """What a run that was not finished, or is to go on as another one, writes: each `next` a file, in its order."""
    for name in ("report.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
        yield
    for name in ("card.json", "config.json", "status.json"):
        written(folder / name, version.encode())
        yield
    newest = max((int(path.stem[-8:]) for path in folder.glob("checkpoints/step-*.pt")), default=0)
    for name in ("metrics.jsonl", "timings.jsonl"):
        kept = [line for line in json_lines.read(folder / name) if line["step"] <= newest]
        written(folder / name, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        yield
    for step in range(newest + 1, EPOCHS + 1):
        for name in ("metrics.jsonl", "timings.jsonl"):
            json_lines.append(folder / name, {"step": step})
            yield
        for name in ["best.pt"] * (step in BEST) + [f"step-{step:08d}.pt"]:
            written(folder / "checkpoints" / name, str(step).encode())
            yield
        for old in sorted(folder.glob("checkpoints/step-*.pt"))[:-2]:
            old.unlink()
            yield
    for name in ("model.safetensors", "report.json", "status.json"):
        written(folder / name, version.encode() + b" finished")
        yield


def newest_there(url: str, was_finished: bool) -> int:
    """The newest checkpoint's step, once it is certain that a run can go on from what is there."""
    there = {name: store.read_bytes(store.join(url, name)) for name in store.file_names(url)}
    steps = sorted(int(name[-11:-3]) for name in there if "/step-" in name)
    newest = steps[-1] if steps else 0
    if "config.json" in there:
        assert "card.json" in there
    for name in ("metrics.jsonl", "timings.jsonl"):
        lines = [json.loads(line)["step"] for line in there.get(name, b"").splitlines()]
        assert lines[:newest] == list(range(1, newest + 1))
    if newest:
        assert int(there[f"checkpoints/step-{newest:08d}.pt"]) == newest
        assert int(there["checkpoints/best.pt"]) >= max(step for step in BEST if step <= newest)
    if "report.json" in there:
        assert newest == EPOCHS
        assert there["report.json"] == there["model.safetensors"] == there["config.json"] + b" finished"
    if there.get("status.json", b"").endswith(b"finished") and not was_finished:
        assert "report.json" in there
    return newest


class Killed(Exception):
    pass


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 40), max_size=4))
def test_a_run_goes_on_from_what_is_there_wherever_copying_is_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lives: list[int]
) -> None:
    """Each life writes its run while that is looked at and copied, and is killed after so many copies."""
    url, draw, newest = f"memory://{uuid4().hex}/1", random.Random(seed), 0

    def live(version: str, num_writes: float, folder: Path) -> None:
        run, done, stamp = writes(folder, version), 0, mirror._stamp
        one = Mirror(url, folder, Unlocked())  # type: ignore[arg-type]
        one.fetch()
        was_finished = store.exists(store.join(url, "status.json")) and b"fin" in (folder / "status.json").read_bytes()

        def then_look(write: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any) -> None:
                nonlocal newest, done
                for _ in range(draw.randint(0, 3)):
                    next(run, None)
                if done == num_writes:
                    raise Killed
                done += 1
                write(*arguments)
                before, newest = newest, newest_there(url, was_finished)
                assert newest >= before

            return wrapped

        def between(path: Path) -> Any:
            for _ in range(draw.randint(0, 2) * (draw.random() < 0.05)):
                next(run, None)
            return stamp(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mirror, "_stamp", between)
            for name in WRITES:
                patch.setattr(store, name, then_look(getattr(store, name)))
            is_over = False
            while not is_over:
                is_over = next(run, one) is one
                with suppress(FileNotFoundError):
                    one.copy()

    try:
        for i, num_writes in enumerate(lives):
            with suppress(Killed):
                live(f"v{i}", num_writes, tmp_path_factory.mktemp("life") / "1")
        live("last", math.inf, tmp_path_factory.mktemp("life") / "1")
        assert newest_there(url, False) == EPOCHS
        assert len([name for name in store.file_names(url) if "/step-" in name]) == 2
        assert store.read_bytes(store.join(url, "status.json")) == b"last finished"
    finally:
        MemoryFileSystem.store.clear()


# Whole runs


def trained(recipe: Path, dataset: Path, out: str | Path, config: Any = SMALL, say: Any = None) -> dict[str, Any]:
    console = Console(quiet=True)
    console.say = say or console.say  # type: ignore[method-assign]
    return dict(train(find(str(recipe)), str(dataset), out, config, CPU, None, console).report)


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 8, 12, 16, 20, 1000])
def test_a_run_whose_storage_goes_away_ends_in_a_sentence_and_goes_on(
    cut: int, url: str, recipe: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_cut(cut, url, recipe, dataset, tmp_path, monkeypatch)


def test_the_same_on_s3(s3: str, recipe: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_cut(9, f"{s3}/runs/1", recipe, dataset, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_s3_on_another_machine(s3: str, tmp_path: Path) -> None:
    place, url = Place.made(tmp_path), f"{s3}/runs/killed"
    place.finish("whole")
    check_kills(place, url, tmp_path)
    assert_same(place.folder / "whole", fetched(url, tmp_path / "there"))


def check_cut(cut: int, url: str, recipe: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All writes fail after so many."""
    trained(recipe, dataset, tmp_path / "whole")
    number = 0

    def failing(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> None:
            nonlocal number
            is_there = any(isinstance(place, str) and place.startswith(url) for place in arguments)
            number += is_there
            if is_there and number > cut:
                raise StorageError("the storage is gone")
            write(*arguments)

        return wrapped

    with monkeypatch.context() as patch:
        for name in WRITES:
            patch.setattr(store, name, failing(getattr(store, name)))
        if cut < 1000:
            with pytest.raises(StorageError, match=rf"{url}: nothing could be written .*the storage is gone.*again"):
                trained(recipe, dataset, url)
        else:
            trained(recipe, dataset, url)
    trained(recipe, dataset, url)
    assert trained(recipe, dataset, url)["test"] == json.loads((tmp_path / "whole" / "report.json").read_text())["test"]
    found = fetched(url, tmp_path / "found")
    assert_same(tmp_path / "whole", found)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in found.iterdir()} == names
    assert json.loads((found / "status.json").read_text())["state"] == "finished"
    assert not mirror.local_folder(url).exists()


def test_a_storage_that_does_not_answer_ends_the_run(
    url: str, recipe: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, put, said = threading.Event(), store.put, []

    def waiting(file: Path, to: str, moved: Any) -> None:
        if "checkpoints" in to:
            answers.wait(60)
        put(file, to, moved)

    monkeypatch.setattr(store, "put", waiting)
    begun = time.monotonic()
    with pytest.raises(StorageError, match=rf"{url}: nothing could be written for .*\(no answer\)"):
        trained(recipe, dataset, url, say=said.append)
    assert time.monotonic() - begun < 30
    answers.set()


def test_predictions_and_exports_are_those_of_the_local_run(
    url: str, recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    trained(recipe, dataset, tmp_path / "run")
    trained(recipe, dataset, url)
    predict(tmp_path / "run", str(dataset), str(tmp_path / "p.parquet"), Console(quiet=True))
    predict(url, str(dataset), store.join(url, "p.parquet"), Console(quiet=True))
    store.get(store.join(url, "p.parquet"), tmp_path / "there.parquet")
    assert pq.read_table(tmp_path / "there.parquet").equals(pq.read_table(tmp_path / "p.parquet"))
    told = export(url, "torch", store.join(url, "model.pt2"), Console(quiet=True))
    assert told["rows_compared"] == 100
    assert store.exists(store.join(url, "model.pt2"))


def test_what_is_wrong_with_a_run_is_said_of_its_url(url: str, recipe: Path, dataset: Path) -> None:
    trained(recipe, dataset, url)
    with pytest.raises(RunError, match=rf"^{url}: holds another run \(seed: 0 there, 5 now\)"):
        trained(recipe, dataset, url, replace(SMALL, seed=5))
    store.remove(store.join(url, "model.safetensors"))
    with pytest.raises(RunError, match=rf"^{url}: the run is not finished"):
        predict(url, str(dataset), store.join(url, "p.parquet"), Console(quiet=True))


# One process writes it


def test_another_machine_waits_for_a_holder_that_is_gone_and_not_for_one_that_is_there(url: str) -> None:
    refused = pytest.raises(RunError, match=rf"{url}: another process \(one\) is training here")
    with Lease(url, "one", None, print), refused:
        Lease(url, "other", None, print).__enter__()
    with Lease(url, "other", None, print):  # at once: it was given back
        pass
    store.write_new(store.join(url, lease.FILE), b"killed\n7\n")
    begun, said = time.monotonic(), []
    with Lease(url, "heir", None, said.append) as held:
        assert time.monotonic() - begun >= lease.LEASE_S
        held.check()
    assert "to see whether killed still trains here" in said[0]
    store.write_new(store.join(url, lease.FILE), b"killed\n7\n")
    begun = time.monotonic()
    with Lease(url, "heir", "killed", print):  # whose local lock was free
        assert time.monotonic() - begun < lease.LEASE_S / 2
    assert not store.file_names(url)


def test_who_was_away_for_too_long_ends_and_writes_nothing_more(url: str) -> None:
    def away() -> None:
        with mirrored(url, print) as one:
            store.replace(store.join(url, lease.FILE), b"heir\n0\n")
            (one.folder / "metrics.jsonl").write_text("late")
            one.flush()

    with pytest.raises(RunError, match=rf"{url}: another process \(heir\) has taken it over"):
        away()
    assert store.file_names(url) == [lease.FILE]
    assert store.read_bytes(store.join(url, lease.FILE)) == b"heir\n0\n"


def test_a_holder_keeps_a_file_that_cannot_be_read_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(url: str) -> bytes:
        raise StorageError(f"{url}: no DataNode gives one of its blocks")

    monkeypatch.setattr(lease, "RENEW_S", 60.0)
    with Lease(str(tmp_path), "one", None, print) as held:
        held.check()
        with monkeypatch.context() as broken:
            broken.setattr(store, "read_bytes", unreadable)
            held.check()  # as old as when it was read
            store.replace(tmp_path / lease.FILE, b"heir\n0\n")
            with pytest.raises(StorageError, match="no DataNode gives"):
                held.check()
        with pytest.raises(RunError, match="heir"):
            held.check()


def test_a_second_process_of_the_machine_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.checkpoint.LOCK_S", 0.1)
    refused = pytest.raises(RunError, match=rf"another process \({os.getpid()} on .* is training")
    with mirrored(url, print), refused:
        mirrored(url, print).__enter__()
