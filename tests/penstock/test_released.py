"""What is released: whole at any moment, numbers without gaps, each run once, whoever dies or comes at once."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from penstock import released as releases
from penstock import store
from penstock.errors import RunError, StorageError
from penstock.released import Switch, history, keep, release, released, rollback

OPERATIONS = ("file_names", "read_bytes", "write_new", "replace")  # of the store, that a switch is made of


@pytest.fixture
def url() -> Iterator[str]:
    with a_folder() as made:
        yield made


@contextmanager
def a_folder() -> Iterator[str]:
    yield f"memory://{uuid4().hex}/releases"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def candidate(run: str) -> Switch:
    """A run, its folder included, as `penstock release` describes it."""
    run = releases.named(run)
    store.replace(store.join(run, "model.safetensors"), run.encode())
    return Switch(
        run, releases.model_sha256(run), "made", "/data", "v1", "c", {"name": "accuracy"}, None, 0.0, "a test"
    )


def released_by(url: str, run: str) -> str:
    """What `penstock release` does, without the comparison: "new", "reused" or "refused"."""
    found = history(url)
    if any(switch.run == releases.named(run) for switch in found):
        return "reused"
    try:
        return "reused" if release(url, candidate(run), found)[1] else "new"
    except RunError as error:
        if "another process has switched to" not in str(error):
            raise
        return "refused"


def check(url: str, at_rest: bool = True) -> list[Switch]:
    """What must hold of the files at any moment; at rest, the pointer too. Returns the history."""
    names = [name for name in store.file_names(store.join(url, "history")) if not name.startswith(".")]
    assert names == [f"{i:06d}.json" for i in range(1, len(names) + 1)]
    files = [store.read_bytes(store.join(url, "history", name)) for name in names]
    found = [Switch(**{k: v for k, v in json.loads(file).items() if k != "format"}) for file in files]
    of_releases = [switch.run for switch in found if switch.kind == "release"]
    assert len(of_releases) == len(set(of_releases))
    now = released(url)
    assert now == (found[-1] if found else None)
    if store.exists(pointer := store.join(url, "released.json")):
        assert store.read_bytes(pointer) in files
        assert not at_rest or store.read_bytes(pointer) == files[-1]
    else:
        assert not at_rest or not found
    return found


def test_a_release_is_a_number_and_its_copy(url: str) -> None:
    assert released(url) is None
    for number, run in enumerate(["memory://runs/a", "memory://runs/b"], 1):
        assert released_by(url, run) == "new"
        now = check(url)[-1]
        assert (now.number, now.release, now.before, now.run) == (number, number, number - 1 or None, run)
        told = json.loads(store.read_bytes(store.join(url, "released.json")))
        assert list(told)[:4] == ["format", "number", "kind", "release"]
        assert told["run"] == run
    before = store.read_bytes(store.join(url, "released.json"))
    assert released_by(url, "memory://runs/a") == released_by(url, "memory://runs/b") == "reused"
    assert store.read_bytes(store.join(url, "released.json")) == before


@given(st.lists(st.one_of(st.just("release"), st.just("back"), st.integers(0, 9)), max_size=12))
def test_a_rollback_goes_back_one_more_each_time_or_to_any_run(asked: list[str | int]) -> None:
    """Against a model: each release remembers what it took the place of."""
    with a_folder() as url:
        before: dict[str, str | None] = {}
        now: str | None = None
        switches = 0
        for what in asked:
            kept = {n: store.read_bytes(store.join(url, "history", n)) for n in store.file_names(f"{url}/history")}
            if what == "release":
                run = f"memory://runs/{len(before)}"
                assert released_by(url, run) == "new"
                before[run], now, switches = now, run, switches + 1
            elif what == "back":
                if now is None or (to := before[now]) is None:
                    with pytest.raises(RunError, match=r"nothing is released here|was the first release"):
                        rollback(url)
                else:
                    switch, reused = rollback(url)
                    assert (switch.run, switch.kind, reused) == (to, "rollback", False)
                    now, switches = to, switches + 1
            elif f"memory://runs/{what}" not in before:
                with pytest.raises(RunError, match=r"nothing is released here|was never released here"):
                    rollback(url, f"memory://runs/{what}")
            else:
                run = f"memory://runs/{what}"
                switch, reused = rollback(url, run)
                assert (switch.run, reused) == (run, run == now)
                now, switches = run, switches + (not reused)
            found = check(url)
            assert len(found) == switches
            assert (found[-1].run if found else None) == now
            assert all(store.read_bytes(store.join(url, "history", n)) == content for n, content in kept.items())


class Turns:
    """Lets threads do one operation of the store at a time, in a given order."""

    def __init__(self, names: list[str]) -> None:
        self.condition, self.waiting, self.live = threading.Condition(), set[str](), set(names)
        self.whose: str | None = None
        self.is_free = False

    def wait(self) -> None:
        name = threading.current_thread().name
        with self.condition:
            if name not in self.live or self.is_free:
                return
            self.waiting.add(name)
            self.condition.notify_all()
            self.condition.wait_for(lambda: self.whose == name or self.is_free)
            self.whose = None
            self.waiting.remove(name)

    def over(self) -> None:
        with self.condition:
            self.live.discard(threading.current_thread().name)
            self.condition.notify_all()

    def give(self, order: Iterator[int], before_each: Callable[[], object]) -> None:
        """Until all threads are over."""
        with self.condition:
            try:
                while True:
                    assert self.condition.wait_for(lambda: self.whose is None and self.waiting == self.live, 30)
                    if not self.live:
                        return
                    before_each()
                    self.whose = sorted(self.live)[next(order) % len(self.live)]
                    self.condition.notify_all()
            finally:
                self.is_free = True
                self.condition.notify_all()


ASKED = [("a", "b"), ("a", "a"), ("a", "b", "c"), ("a", "back"), ("a", "a", "b")]


STRETCHES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), max_size=10)  # who goes on, for how long


@given(STRETCHES, st.integers(0, 2), st.sampled_from(ASKED))
def test_of_several_at_once_one_wins_and_nothing_is_half_switched(
    stretches: list[tuple[int, int]], num_before: int, asked: tuple[str, ...]
) -> None:
    """Whatever the order of their reads and writes."""
    order = [who for who, count in stretches for _ in range(count)]
    with a_folder() as url, pytest.MonkeyPatch.context() as patch:
        for i in range(num_before):
            released_by(url, f"memory://runs/before{i}")
        turns = Turns([str(i) for i in range(len(asked))])
        outcomes: dict[str, str] = {}

        def work(name: str, what: str) -> None:
            try:
                if what == "back":
                    outcomes[name] = "reused" if rollback(url)[1] else "new"
                else:
                    outcomes[name] = released_by(url, f"memory://runs/{what}")
            except RunError:
                outcomes[name] = "refused"
            finally:
                turns.over()

        def in_turn(operation: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(place: str, *arguments: Any) -> Any:
                if place.startswith(url):
                    turns.wait()
                return operation(place, *arguments)

            return wrapped

        for name in OPERATIONS:
            patch.setattr(store, name, in_turn(getattr(store, name)))
        threads = [threading.Thread(target=work, args=(str(i), what), name=str(i)) for i, what in enumerate(asked)]
        for thread in threads:
            thread.start()
        try:
            turns.give(itertools.chain(order, itertools.count()), lambda: check(url, at_rest=False))
        finally:
            for thread in threads:
                thread.join()
        found = check(url)
        assert len(outcomes) == len(asked)
        assert len(found) == num_before + list(outcomes.values()).count("new")
        assert "new" in outcomes.values()
        assert set(asked) != {"a"} or "refused" not in outcomes.values()


class Killed(BaseException):
    pass


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "back"]), st.integers(0, 3), st.booleans()), max_size=6))
def test_what_a_kill_leaves_is_mended_by_the_next_command(lives: list[tuple[str, int, bool]]) -> None:
    """Each life is killed at its n-th write, before or after it."""
    with a_folder() as url:
        for what, survived, is_after in lives:
            done = 0

            def killing(write: Callable[..., Any], survived: int = survived, is_after: bool = is_after) -> Any:
                def wrapped(place: str, *arguments: Any) -> Any:
                    nonlocal done
                    if not place.startswith(url):
                        return write(place, *arguments)
                    done += 1
                    if done > survived and not is_after:
                        raise Killed
                    result = write(place, *arguments)
                    if done > survived:
                        raise Killed
                    return result

                return wrapped

            with pytest.MonkeyPatch.context() as patch:
                for name in ("write_new", "replace"):
                    patch.setattr(store, name, killing(getattr(store, name)))
                with suppress(Killed, RunError):
                    rollback(url) if what == "back" else released_by(url, f"memory://runs/{what}")
            check(url, at_rest=False)
        assert history(url) == check(url)
        assert released_by(url, "memory://runs/last") == "new"
        assert check(url)[-1].run == "memory://runs/last"


def test_a_pointer_that_cannot_be_written_is_said_and_mended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(place: str, content: bytes) -> None:
        raise StorageError("no space left")

    made = candidate("memory://runs/a")
    with monkeypatch.context() as patch:
        patch.setattr(store, "replace", full)
        with pytest.raises(
            StorageError, match=r"number 1 is in the history.*no space left.*run the same command again"
        ):
            release(url, made, [])
    assert not store.exists(store.join(url, "released.json"))
    now = released(url)
    assert now is not None
    assert now.run == made.run
    assert released_by(url, made.run) == "reused"
    check(url)


def test_an_answer_that_comes_too_late_is_no_other_process(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver tries again what was done already, and is told that the file is there."""
    write_new = store.write_new
    monkeypatch.setattr(store, "write_new", lambda place, content: write_new(place, content) and False)
    assert release(url, candidate("memory://runs/a"), [])[1] is False
    check(url)


def test_a_history_that_people_changed_is_refused(tmp_path: Path) -> None:
    url = str(tmp_path)
    for run in ("memory://runs/a", "memory://runs/b", "memory://runs/c"):
        released_by(url, run)
    second = tmp_path / "history" / "000002.json"
    content = second.read_text()
    for edited, message in [
        (content[:100], r"history/000002.json: damaged \(JSONDecodeError"),
        (content.replace('"format": 1', '"format": 7'), "format 7, but this Penstock reads format 1"),
        (content.replace('"number": 2', '"number": 3'), "it says number 3"),
        (content.replace('"run"', '"walk"'), r"damaged \(TypeError"),
        ("[]", "damaged"),
    ]:
        second.write_text(edited)
        with pytest.raises(RunError, match=message):
            history(url)
    second.unlink()
    with pytest.raises(RunError, match=r"000002.json: is missing, and the history has all numbers; put it back"):
        rollback(url)
    second.write_text(content)
    (tmp_path / "history" / ".000004.json.half").write_text("of a writer that was killed")
    assert rollback(url)[0].run == "memory://runs/b"
    check(url)
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("gone", [True, False])
def test_no_rollback_to_a_model_that_is_not_there_any_more(url: str, gone: bool) -> None:
    for run in ("memory://runs/a", "memory://runs/b"):
        released_by(url, run)
    file = "memory://runs/a/model.safetensors"
    store.remove(file) if gone else store.replace(file, b"another")
    what = "its model is not there" if gone else "it holds another model now"
    with pytest.raises(
        RunError, match=rf"^memory://runs/a: {what} .* number 1.*put it back, or name another with --run"
    ):
        rollback(url)
    assert len(check(url)) == 2


def test_decisions_are_kept_once_each(url: str) -> None:
    released_by(url, "memory://runs/a")
    found = history(url)
    file = keep(url, {"run": "b", "reasons": ["worse"]}, found)
    assert file.startswith(f"{url}/kept/000001-")
    told = store.read_bytes(file)
    assert json.loads(told)["reasons"] == ["worse"]
    assert keep(url, {"run": "b", "reasons": ["worse"]}, found) == file
    assert store.read_bytes(file) == told
    assert keep(url, {"run": "b", "reasons": ["slow"]}, found) != file
    check(url)


def test_a_run_is_one_by_whatever_path() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert released_by("releases", "runs/1") == "new"
        assert released_by(f"file://{folder}/releases", f"{folder}/runs/../runs/1/") == "reused"
        assert released("releases") == replace(history(f"{folder}/releases")[0])
