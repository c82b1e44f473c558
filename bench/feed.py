"""The feed beside every peer: rows/s of one process on two cores, local files, shuffled, batches of 1,024 tensors.

    python -m bench.feed [--cases images,floats] [--peers lance,litdata] [--repeats 5] [--out FILE]

All systems read the same rows (bench/cases.py). The peers convert them into their own format first, which is not
timed, and run one at a time in environments of their own (bench/peers/), built on the first run. Everyone warms up,
which puts the files into the page cache; ours checks its checksums then. Repeats alternate; medians count, and a ratio
is the median of the repeats' ratios. A slow system reads a part of an epoch, and its rate counts.

Beside them: raw decode, Arrow decoding the same row groups and columns in two threads, neither shuffled nor batched
(encoded images: and the images decoded), from mapped files, and from files that it reads, as it does by itself; and
copy, the same bytes copied from the page cache by two threads.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from bench import scale
from bench.cases import CASES, LABEL, SEED, Case, row_groups
from bench.clock import BATCH_ROWS, Epoch, measure, warm_up
from bench.environment import AS_FOUND, ROOT, environment, machine
from bench.publish import DATA, SPLIT, publish
from penstock import card as cards
from penstock import command, encoded, manifest, store
from penstock.console import Console
from penstock.errors import PenstockError
from train.feed import Feed
from train.feed.row_groups import Verify

BIG_ROWS = 2_000_000
BIG_CASES = {"images_2m": "images", "floats_2m": "floats"}
NUM_THREADS = 2
PREPARE_TIMEOUT_S = 900  # converting, and warming up
GRACE_S = 60  # what a repeat may take beyond its time
OURS, RAW, RAW_READ, COPY = "penstock", "raw_decode", "raw_decode_read", "copy"
IN_PROCESS = (OURS, RAW, RAW_READ, COPY)
VERIFYING: dict[str, Verify] = {"penstock, verify always": "always", "penstock, verify never": "never"}


@dataclass(frozen=True)
class Peer:
    """`folder`/feed.py, run as `system` by the environment's Python; None: by ours. In memory: reads no disk."""

    folder: str
    system: str
    environment: str | None
    in_memory: bool = False


PEERS = {
    "index_select": Peer("memory", "index_select", None, in_memory=True),
    "dataloader": Peer("memory", "dataloader", None, in_memory=True),
    "stateful_dataloader": Peer("memory", "stateful_dataloader", "feed", in_memory=True),
    "petastorm_batched": Peer("petastorm", "batched", "petastorm"),
    "petastorm_reader": Peer("petastorm", "reader", "petastorm"),
    "huggingface_streaming": Peer("huggingface", "streaming", "feed"),
    "huggingface_map": Peer("huggingface", "map", "feed"),
    "webdataset": Peer("webdataset", "webdataset", "feed"),
    "litdata": Peer("litdata", "litdata", "feed"),
    "mosaic": Peer("mosaic", "mosaic", "mosaic"),
    "ray": Peer("ray", "ray", "feed"),
    "lance": Peer("lance", "lance", "feed"),
}
IN_MEMORY_CASES = ("images", "floats", "scalars")

Repeat = Callable[[], float]  # one repeat of a system -> rows/s


class PeerFailed(PenstockError):
    """A peer cannot be measured; the bench says why and goes on."""


def ours(dataset: Path, case: Case, verify: Verify = "first") -> Epoch:
    feed = Feed(str(dataset), SPLIT, global_batch_size=BATCH_ROWS, seed=SEED, columns=case.columns, verify=verify)
    return feed.epoch


def raw_decode(dataset: Path, case: Case, threads: ThreadPoolExecutor, memory_map: bool) -> Epoch:
    """Every thread opens each file once: a reader of Arrow is for one thread at a time."""
    paths = sorted((dataset / DATA / f"split={SPLIT}").glob("*.parquet"))
    groups = [(path, group) for path in paths for group in range(pq.ParquetFile(path).num_row_groups)]
    images = [field for field in case.features if field.is_encoded]
    opened = threading.local()

    def decode(place: tuple[Path, int]) -> range:
        path, group = place
        files = opened.__dict__.setdefault("files", {})
        if path not in files:
            files[path] = pq.ParquetFile(path, memory_map=memory_map)
        rows = files[path].read_row_group(group, columns=case.columns, use_threads=False)
        for field in images:
            for value in rows[field.name]:
                encoded.decode(value.as_py(), field)
        return range(rows.num_rows)

    return lambda _number: ({LABEL: rows} for rows in threads.map(decode, groups))


def copy(dataset: Path, case: Case, threads: ThreadPoolExecutor) -> Epoch:
    """Copies the column chunks into memory that is used again: the least that any reader has to do."""
    rows = manifest.read(store.absolute(str(dataset)), cards.load(str(dataset))).table.to_pylist()
    files = {row["file"]: np.memmap(dataset / DATA / row["file"], np.uint8, "r") for row in rows}
    buffers = threading.local()

    def copy_group(row: Mapping[str, Any]) -> range:
        for name in case.columns:
            place = row["columns"][name]
            chunk = files[row["file"]][place["offset"] : place["offset"] + place["num_bytes"]]
            buffer = getattr(buffers, "buffer", None)
            if buffer is None or len(buffer) < len(chunk):
                buffer = buffers.buffer = np.empty(len(chunk), np.uint8)
            np.copyto(buffer[: len(chunk)], chunk)
        return range(row["num_rows"])

    return lambda _number: ({LABEL: done} for done in threads.map(copy_group, rows))


def in_process(epoch: Epoch, seconds: float) -> Repeat:
    numbers = itertools.count()

    def repeat() -> float:
        rows, took = measure(epoch, numbers, seconds)
        return rows / took

    return repeat


@contextmanager
def peer_process(peer: Peer, name: str, parquet: Path, scratch: Path, seconds: float) -> Iterator[tuple[Repeat, Any]]:
    """A peer that has converted and warmed up, as (its repeat, its versions). Raises: PeerFailed."""
    python = environment(peer.environment) if peer.environment else sys.executable
    module = f"bench.peers.{peer.folder}.feed"
    arguments = ["--system", peer.system, "--case", name, "--parquet", parquet, "--out", scratch / peer.folder]
    line = [python, "-m", module, *arguments, "--seconds", seconds, "--stdin"]
    (scratch / peer.folder).mkdir(parents=True, exist_ok=True)
    log = scratch / f"{peer.folder}-{peer.system}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            list(map(str, line)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=AS_FOUND | {"PYTHONWARNINGS": "ignore"},  # so that a log ends with the error
            start_new_session=True,  # a peer is stopped with its workers
        )

    def answer(within_s: float) -> dict[str, Any]:
        watchdog = threading.Timer(within_s, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            found = process.stdout.readline()  # type: ignore[union-attr]
        finally:
            watchdog.cancel()
        if not found:
            code = process.wait()
            last = (log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
            why = f"no answer within {within_s:.0f} s" if code == -signal.SIGKILL else last
            raise PeerFailed(why[:300])
        return dict(json.loads(found))

    def repeat() -> float:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        found = answer(seconds + GRACE_S)
        return float(found["rows"] / found["seconds"])

    try:
        yield repeat, answer(PREPARE_TIMEOUT_S)["versions"]
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_case(
    name: str, num_rows: int, peers: Sequence[str], arguments: Namespace, folder: Path, console: Console
) -> dict[str, Any]:
    """All systems on one case: rows/s of every repeat, the peers' versions, and why a peer could not be measured."""
    case, dataset = CASES[name], folder / "dataset"
    publish(dataset, case.schema, row_groups(case, num_rows))
    parquet = dataset / DATA / f"split={SPLIT}"
    versions: dict[str, Any] = {}
    failed: dict[str, str] = {}
    repeats: dict[str, Repeat] = {}
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(NUM_THREADS))
        epochs = {
            OURS: ours(dataset, case),
            RAW: raw_decode(dataset, case, threads, memory_map=True),
            RAW_READ: raw_decode(dataset, case, threads, memory_map=False),
            COPY: copy(dataset, case, threads),
        }
        if name == "images":  # what looking at checksums costs
            epochs |= {system: ours(dataset, case, verify) for system, verify in VERIFYING.items()}
        warm_up(epochs[OURS], itertools.count(), case)
        for system, epoch in epochs.items():
            repeats[system] = in_process(epoch, arguments.seconds)
            repeats[system]()
        for peer in peers:
            with console.step(f"{peer}: convert and warm up"):
                try:
                    repeats[peer], found = stack.enter_context(
                        peer_process(PEERS[peer], name, parquet, folder, arguments.seconds)
                    )
                    versions |= found
                except PenstockError as error:
                    failed[peer] = str(error)
                    console.say(f"  {peer}: {error}")
        rates: dict[str, list[float]] = {system: [] for system in repeats}
        for number in range(arguments.repeats):
            for system, repeat in repeats.items():
                if system not in failed:
                    try:
                        rates[system].append(repeat())
                    except PenstockError as error:
                        failed[system] = str(error)
            done = [f"{system} {found[-1]:,.0f}" for system, found in rates.items() if system not in failed]
            console.say(f"  repeat {number + 1}, rows/s: {', '.join(done)}")
    measured = {system: found for system, found in rates.items() if system not in failed}
    return {"rates": measured, "versions": versions, "failed": failed}


def summary(case: Case, rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    medians = {system: statistics.median(found) for system, found in rates.items()}
    ratios = {
        system: statistics.median(our / their for our, their in zip(rates[OURS], found, strict=True))
        for system, found in rates.items()
    }
    return {
        **{system: rate for system, rate in medians.items() if system not in PEERS},
        "fixed_size": case.fixed_size,
        "peers": {system: rate for system, rate in medians.items() if system in PEERS},
        "ratios": ratios,
        "spread": {system: [min(found), max(found)] for system, found in rates.items()},
    }


def work(arguments: Namespace, console: Console) -> dict[str, Any]:
    result: dict[str, Any] = {"cases": {}, "failed": {}, "versions": {"torch": torch.__version__}}
    for name in chosen(arguments.cases, [*CASES, *BIG_CASES], "--cases"):
        base = BIG_CASES.get(name, name)
        num_rows = arguments.rows or (BIG_ROWS if name in BIG_CASES else CASES[base].num_rows)
        peers = chosen(arguments.peers, list(PEERS), "--peers")
        if base not in IN_MEMORY_CASES:
            peers = [peer for peer in peers if not PEERS[peer].in_memory]
        if name in BIG_CASES and base in result["cases"]:  # those that can read it whole
            small = result["cases"][base]["peers"]
            peers = [peer for peer in peers if small.get(peer, 0) * arguments.seconds >= num_rows]
        console.say(f"{name}: {num_rows:,} rows")
        folder = Path(tempfile.mkdtemp(prefix="bench-feed-"))
        try:
            found = run_case(base, num_rows, peers, arguments, folder, console)
        finally:
            rmtree(folder)
        result["cases"][name] = summary(CASES[base], found["rates"])
        result["versions"] |= found["versions"]
        result["failed"] |= {f"{peer}, {name}": why for peer, why in found["failed"].items()}
        console.table(table_rows(result["cases"][name]), [name, "rows/s", "lowest", "highest", "ours is x times"])
    for where, why in result["failed"].items():
        console.say(f"not measured: {where}: {why}")
    result |= {"repeats": arguments.repeats, "machine": machine()}
    if arguments.out:
        store.replace(arguments.out.absolute(), (json.dumps(result, indent=1) + "\n").encode())
    return result


def table_rows(case: Mapping[str, Any]) -> list[list[object]]:
    rates = {system: case[system] for system in (*IN_PROCESS, *VERIFYING) if system in case} | case["peers"]
    return [
        [system, round(rate), *map(round, case["spread"][system]), f"{case['ratios'][system]:.2f}"]
        for system, rate in rates.items()
    ]


def chosen(asked: str, there: Sequence[str], option: str) -> list[str]:
    """The names of a list with commas; "all", or "none". Raises: PenstockError."""
    names = {"all": list(there), "none": []}.get(asked, asked.split(","))
    if unknown := [name for name in names if name not in there]:
        raise PenstockError(f"{option}: no {unknown[0]!r}; there are {', '.join(there)}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    made = command.parser("bench feed", __doc__ or "", "python -m bench.feed --cases images --peers lance,litdata")
    made.prog = "python -m bench.feed"
    made.add_argument("--cases", default="all", help=f"with commas: {', '.join([*CASES, *BIG_CASES])}")
    made.add_argument("--peers", default="all", help=f"with commas, or none: {', '.join(PEERS)}")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--seconds", type=float, default=20.0, help="what a system gets for a repeat")
    made.add_argument("--rows", type=int, help="rows of each case instead of its own number")
    made.add_argument("--out", type=Path, help="write the JSON object there as well")
    made.add_argument("--scale", action="store_true", help="instead: what grows with a dataset (bench/scale.py)")
    arguments = made.parse_args(argv)
    if arguments.scale:
        return scale.main([])
    arguments.json = True  # the JSON object is all of standard output; the tables go to standard error
    return command.execute(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
