"""What is released: `released.json` of a release folder, the history that it is a copy of, and `penstock rollback`.

    released.json             the newest switch: the run, its dataset version and figures, when, why; read by everybody
    history/000001.json, …    each switch, by its number; created exclusively, never changed or removed
    kept/…                    the decision on each run that was compared and not released

The history is the truth: what is released is what its highest number says. To switch is to create the next number, so
that of two at once one wins; then `released.json` is replaced by a copy. Who dies in between leaves an older copy
there, which `released` does not go by, and which the next release or rollback mends.

A run is released once: what goes back to it later is a rollback, a switch that names an earlier release. Nothing here
needs torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from penstock import card as cards
from penstock import command, store
from penstock.console import Console
from penstock.digest import json_digest
from penstock.errors import RunError, StorageError

FORMAT = 1
POINTER, HISTORY, KEPT = "released.json", "history", "kept"
NUMBERED = re.compile(r"\d{6,}\.json")


@dataclass(frozen=True)
class Switch:
    """From here on a run is the released one. `release` is the number of the switch that released it first."""

    run: str  # its folder, a path or a URL
    model_sha256: str  # of its model.safetensors
    recipe: str
    dataset: str
    dataset_version: str  # that it was trained on
    contract: str  # of that version's card: what it asks of data
    metric: Mapping[str, Any]  # name, value, low, high (95 %), dataset, dataset_version, split and rows
    comparison: Mapping[str, Any] | None  # with what was released then; None for the first
    data_stall: float | None
    why: str
    forced: bool = False
    number: int = 0
    kind: Literal["release", "rollback"] = "release"
    release: int = 0
    before: int | None = None  # the release that this release took the place of
    at: str = field(default_factory=cards.now)
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)

    def to_json(self) -> bytes:
        first = {name: getattr(self, name) for name in ("number", "kind", "release", "before", "at", "why")}
        return json.dumps({"format": FORMAT, **first, **asdict(self)}, indent=1).encode() + b"\n"


def released(url: str) -> Switch | None:
    """What is released in a release folder, by its history; None where nothing is. Raises: RunError, StorageError."""
    url = store.absolute(url)
    numbers = _numbers(url)
    return _read(url, numbers[-1]) if numbers else None


def history(url: str) -> list[Switch]:
    """All switches, oldest first, after `released.json` was made a copy of the last one.

    Raises: RunError where one is missing or damaged; StorageError.
    """
    url = store.absolute(url)
    last = max(_numbers(url), default=0)
    found = [_read(url, number) for number in range(1, last + 1)]
    if found:
        _point(url)
    return found


def release(url: str, run: Switch, after: Sequence[Switch]) -> tuple[Switch, bool]:
    """Releases a run that was compared with the end of the history `after`. Returns the switch, and whether it was made
    by another process, for the same run.

    Raises: RunError where another run was released meanwhile; StorageError.
    """
    now = after[-1].release if after else None
    number = len(after) + 1
    return _switch(store.absolute(url), replace(run, number=number, release=number, before=now, at=cards.now()))


def rollback(url: str, run: str | None = None) -> tuple[Switch, bool]:
    """Goes back to the release before the present one, or to that of `run`. Returns the switch, and whether that was
    released already.

    Raises: RunError where there is none to go back to, or its model is not there any more; StorageError.
    """
    url = store.absolute(url)
    found, where = history(url), store.shown(url)
    if not found:
        raise RunError(f"{where}: nothing is released here; release a run with `penstock release RUN --to {where}`")
    now, releases = found[-1], {switch.number: switch for switch in found if switch.kind == "release"}
    if run is None:
        before = releases[now.release].before
        if before is None:
            raise RunError(f"{where}: {now.run} was the first release; there is none before it to go back to")
        to = releases[before]
    else:
        of_run = [switch for switch in releases.values() if switch.run == named(run)]
        if not of_run:
            there = ", ".join(dict.fromkeys(switch.run for switch in releases.values()))
            raise RunError(f"{where}: {named(run)} was never released here; the runs that were: {there}")
        to = of_run[0]
        if to.number == now.release:
            return now, True
    check_model(to, "name another with --run")
    made = replace(
        to,
        number=len(found) + 1,
        kind="rollback",
        why=f"rolled back from number {now.release}, {now.run}",
        at=cards.now(),
        host=platform.node(),
        pid=os.getpid(),
    )
    return _switch(url, made)


def keep(url: str, decision: Mapping[str, Any], after: Sequence[Switch]) -> str:
    """Writes why a run is not released, beside the history whose end it was compared with. Returns the file's URL.

    The same decision, made twice, is one file.
    """
    file = store.join(store.absolute(url), KEPT, f"{len(after):06d}-{json_digest(decision)}.json")
    store.write_new(file, json.dumps({**decision, "at": cards.now()}, indent=1).encode() + b"\n")
    return file


def named(run: str) -> str:
    """A run as the history names it: an absolute path, or a URL."""
    return store.absolute(run).removeprefix("file://")


def model_sha256(run: str) -> str:
    """Raises: RunError where the run is not finished; StorageError."""
    try:
        return hashlib.sha256(store.read_bytes(store.join(run, "model.safetensors"))).hexdigest()
    except FileNotFoundError as error:
        raise RunError(f"{run}: no finished run (no model.safetensors); go on with `penstock train`") from error


def check_model(of: Switch, else_do: str) -> None:
    """Raises: RunError where the run's folder does not hold the model that was released."""
    try:
        found = model_sha256(of.run)
    except RunError:
        found = None
    if found != of.model_sha256:
        what = "its model is not there" if found is None else "it holds another model now"
        raise RunError(
            f"{of.run}: {what} (expected the model.safetensors that was released as number {of.release}, of SHA-256 "
            f"{of.model_sha256[:16]}…); put it back, or {else_do}"
        )


def _switch(url: str, made: Switch) -> tuple[Switch, bool]:
    content, at = made.to_json(), _entry(url, made.number)
    if not store.write_new(at, content) and store.read_bytes(at) != content:  # equal: our own, answered too late
        found = history(url)
        if made.kind == "release" and found[-1].run == made.run:
            return found[-1], True
        raise RunError(
            f"{store.shown(url)}: another process has switched to {found[-1].run} meanwhile (number {made.number}): "
            f"{made.run} is not released; run the same command again, which goes by what is released now"
        )
    try:
        _point(url)
    except StorageError as error:
        raise StorageError(
            f"number {made.number} is in the history, but {POINTER} is not its copy yet ({error}); run the same "
            f"command again"
        ) from error
    return made, False


def _point(url: str) -> None:
    """Makes `released.json` a copy of the history's end. Of several at once the last to write looks once more."""
    pointer = store.join(url, POINTER)
    while True:
        newest = store.read_bytes(_entry(url, _numbers(url)[-1]))
        try:
            if store.read_bytes(pointer) == newest:
                return
        except FileNotFoundError:
            pass
        store.replace(pointer, newest)


def _numbers(url: str) -> list[int]:
    names = store.file_names(store.join(url, HISTORY))
    return sorted(int(name.partition(".")[0]) for name in names if NUMBERED.fullmatch(name))


def _entry(url: str, number: int) -> str:
    return store.join(url, HISTORY, f"{number:06d}.json")


def _read(url: str, number: int) -> Switch:
    file = _entry(url, number)
    where = store.shown(file)
    try:
        value = json.loads(store.read_bytes(file))
        if (found := value.pop("format")) != FORMAT:
            raise RunError(f"{where}: format {found!r}, but this Penstock reads format {FORMAT}; install a newer one")
        switch = Switch(**value)
        if switch.number != number:
            raise ValueError(f"it says number {switch.number}")
        return switch
    except FileNotFoundError as error:
        raise RunError(f"{where}: is missing, and the history has all numbers; put it back from a copy") from error
    except RunError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise RunError(f"{where}: damaged ({type(error).__name__}: {error}); put it back from a copy") from error


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "rollback",
        "Release again what was released before. A switch like a release: at once, with a number of its own in the\n"
        "history, from which nothing is removed. A second rollback goes back one more; --run goes forward again too.",
        "penstock rollback --to /data/releases/mnist\n"
        "  penstock rollback --to hdfs://namenode:8020/releases/mnist --run hdfs://namenode:8020/runs/7",
    )
    made.add_argument("--to", required=True, metavar="URL", help="the release folder; a path, hdfs:// or s3://")
    made.add_argument("--run", help="go to this run, which was released before; default: the one before the present")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    url = store.absolute(arguments.to)
    switch, reused = rollback(url, arguments.run)
    if reused:
        console.say(f"Released already, as number {switch.number}: {switch.run}")
    else:
        console.say(f"Number {switch.number}: {switch.why}, to {switch.run} (number {switch.release})")
    pointer = store.join(url, POINTER).removeprefix("file://")
    return {"released": True, "reused": reused, "pointer": pointer, **asdict(switch)}


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
