"""The jars of Hadoop's daemons: pinned in ivy.xml, fetched from Maven Central by the Ivy in pyspark's wheel, checked
against jars.sha256. What pyspark brings itself (Hadoop's client, Snappy) is taken from there.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pyspark

from etl import java
from penstock.errors import PenstockError

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent / ".cluster-jars"
SPARK_JARS = Path(pyspark.__file__).parent / "jars"
SHARED = ("hadoop-client-api-*.jar", "hadoop-client-runtime-*.jar", "snappy-java-*.jar")
FETCH_TIMEOUT_S = 300


def fetch(folder: Path = KEPT) -> list[Path]:
    """All jars of the daemons' class path; those of ivy.xml lie in `folder` afterwards, for all clusters.

    Raises: PenstockError where they cannot be fetched, or are not what was pinned.
    """
    expected = {name: digest for digest, name in (line.split() for line in (HERE / "jars.sha256").open())}
    if any(not (folder / name).exists() for name in expected):
        _retrieve(folder)
    for name, digest in expected.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != digest:
            raise PenstockError(f"{folder / name}: expected SHA-256 {digest}, found {found}; remove it and try again")
    return [*(folder / name for name in sorted(expected)), *(one for x in SHARED for one in SPARK_JARS.glob(x))]


def _retrieve(folder: Path) -> None:
    ivy, pattern = next(SPARK_JARS.glob("ivy-*.jar")), f"{folder}/[artifact]-[revision].[ext]"
    arguments = ["-ivy", HERE / "ivy.xml", "-types", "jar", "-cache", folder / "ivy", "-retrieve", pattern]
    command = [java.find().home / "bin" / "java", "-jar", ivy, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise PenstockError(f"jars of the cluster: cannot be fetched from Maven Central; Ivy says: {last}")
