"""Says what this machine has for each side of Penstock, what is missing, and how to mend it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fsspec import get_filesystem_class

from penstock import command
from penstock.console import Console
from penstock.errors import PenstockError


@dataclass(frozen=True)
class Check:
    side: str  # both, etl or train
    name: str
    found: str
    mend: str = ""  # empty where nothing is wrong

    @property
    def ok(self) -> bool:
        return not self.mend


def checks() -> Iterator[Check]:
    version = platform.python_version()
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Check("both", "Python", version, "" if supported else "use Python 3.11 (3.12 is expected to work)")
    yield Check(
        "both", "cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    )
    for name in ("pyarrow", "numpy", "fsspec", "xxhash"):
        yield _package("both", name, "etl.lock")
    for protocol in ("file", "hdfs", "s3"):
        yield _filesystem(protocol)
    for name in ("pyspark", "pandas", "tokenizers"):
        yield _package("etl", name, "etl.lock")
    yield _java()
    for name in ("torch", "petastorm", "imagecodecs", "safetensors", "threadpoolctl", "tokenizers"):
        yield _package("train", name, "train.lock")
    for name in ("onnx", "onnxscript", "onnxruntime", "keras", "mlflow-skinny"):
        yield _optional("train", name)
    yield from _devices()


def _optional(side: str, name: str) -> Check:
    found = _package(side, name, "")
    return found if found.ok else Check(side, name, f"not installed; pip install {name} if you need it")


def _package(side: str, name: str, lock: str) -> Check:
    try:
        return Check(side, name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        how = f"pip install --no-deps --require-hashes -r requirements/{lock}"
        return Check(side, name, "not installed", how)


def _filesystem(protocol: str) -> Check:
    if protocol == "file":
        return Check("both", "file://", f"temporary files in {tempfile.gettempdir()}")
    try:
        return Check("both", f"{protocol}://", get_filesystem_class(protocol).__module__.partition(".")[0])
    except (ImportError, ValueError, OSError):
        package = {"hdfs": "hdfs-native", "s3": "s3fs"}[protocol]
        return Check("both", f"{protocol}://", f"not installed; pip install {package} if you need it")


def _java() -> Check:
    from etl import java

    try:
        found = java.find()
    except PenstockError as error:
        return Check("etl", "Java", "none that runs Spark", str(error))
    return Check("etl", "Java", f"{found.version} from {found.source}: {found.home}")


def _devices() -> Iterator[Check]:
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        yield Check("train", "devices", "cpu (torch sees no GPU)")
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield Check("train", f"cuda:{i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")


def parser() -> argparse.ArgumentParser:
    return command.parser("doctor", "Say what is installed, what is missing and how to mend it.", "penstock doctor")


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    found = list(checks())
    console.table([[check.name, check.found, check.mend] for check in found], ["", "found", "to mend it"])
    sides = {side: all(check.ok for check in found if check.side in ("both", side)) for side in ("etl", "train")}
    for side, ready in sides.items():
        console.say(f"{'ETL' if side == 'etl' else 'Training'} side: {'ready' if ready else 'not ready, see above'}")
    if not any(sides.values()):
        raise PenstockError("neither side is ready: mend what the table says")
    listed = [{"side": c.side, "name": c.name, "found": c.found, "mend": c.mend} for c in found]
    return {"ready": sides, "checks": listed}


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
