"""Raw files as streams of bytes: which ones there are, decompressed by their names, and taken out of archives.

A member of an archive has the URL `<archive>!/<its path>`, so that a path ends the same in an archive and in a folder.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from penstock import store
from penstock.errors import PenstockError, RawDataError, RecipeError, StorageError

INSIDE = "!/"  # parts the URL of an archive and the path in it
COMPRESSED = re.compile(r"\.(gz|bz2|zst|xz)$", re.IGNORECASE)
ARCHIVE = re.compile(r"\.(zip|tgz|tar|tar\.(gz|bz2|zst|xz))$", re.IGNORECASE)
MAX_PARTS = 4  # of an archive; beyond, decompressing what others read is most of what a task does
TASKS_PER_CORE = 4
CHUNK_BYTES = 4 << 20

# What the libraries raise for bytes that are not what they should be; an OSError with a number is the system's.
DAMAGES = (
    *(EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error, zlib.error),
    *(lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, pa.ArrowException),
)


@dataclass(frozen=True)
class Part:
    """What one task reads of a file: all of it, or of an archive every `parts`-th member, from the `part`-th on."""

    url: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Stream:
    """The bytes of a file or of a member of an archive, decompressed, and its URL."""

    url: str
    file: IO[bytes]

    def read(self, num_bytes: int) -> bytes:
        """Raises: RawDataError where the file is damaged."""
        with reading(self.url):
            return self.file.read(num_bytes)

    def chunks(self) -> Iterator[bytes]:
        """All of it. Raises: RawDataError where the file is damaged."""
        while chunk := self.read(CHUNK_BYTES):
            yield chunk


def listed(raw_url: str, only: str = "*", archives: bool = True) -> list[str]:
    """The URLs of the raw files whose name is like the pattern `only`, and of the archives, which may hold such.

    Raises: RawDataError where there is none.
    """
    urls = store.raw_urls(raw_url)
    found = [url for name, url in urls.items() if (archives and ARCHIVE.search(name)) or _is_like(name, only)]
    if not found:
        raise RawDataError(
            f"raw data: expected files named {only} in {store.shown(raw_url)}, found {_some(list(urls))}; check --raw"
        )
    return found


def names_all(raw_url: str, only: str) -> bool:
    """Whether Spark finds the same files at the raw URL by itself."""
    return only == "*" and store.raw_folder(raw_url) == raw_url


def _is_like(name: str, only: str) -> bool:
    names = (name.lower(), COMPRESSED.sub("", name.lower()))
    return any(fnmatch.fnmatchcase(shown, only.lower()) for shown in names)


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + more


def planned(spark: SparkSession, urls: Collection[str]) -> list[list[Part]]:
    """What each task is to read. An archive is read by several where there are more cores than files."""
    cores = spark.sparkContext.defaultParallelism
    parts = min(MAX_PARTS, max(1, cores // max(1, len(urls))))
    work = [Part(url, i, parts if ARCHIVE.search(url) else 1) for url in urls for i in range(parts)]
    work = [part for part in work if part.part < part.parts]
    num_tasks = max(1, min(len(work), TASKS_PER_CORE * cores))
    return [work[i::num_tasks] for i in range(num_tasks)]


def by_task(
    spark: SparkSession, num_tasks: int, read: Callable[[int], Iterator[pa.RecordBatch]], columns: str
) -> DataFrame:
    """What `read` gives in each of so many tasks, which it is told the number of; `columns` in Spark's SQL."""

    def read_all(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for i in (i for batch in numbers for i in batch.column(0).to_pylist()):
            yield from read(i)

    return spark.range(0, num_tasks, 1, num_tasks).mapInArrow(read_all, columns)


def streams(part: Part, only: str = "*") -> Iterator[Stream]:
    """The file, or those of an archive's members that are like `only`, each to be read before the next.

    Raises: RawDataError where the file is damaged.
    """
    with reading(part.url), opened(part.url) as raw:
        if not ARCHIVE.search(part.url):
            yield Stream(part.url, _decompressed(raw, part.url))
            return
        number = 0
        for name, file in _members(raw, part.url):
            path = re.sub(r"^(\./|/)+", "", name)
            if store.NO_DATA.search(path) or not _is_like(path, only):
                continue
            if number % part.parts == part.part:
                yield Stream(f"{part.url}{INSIDE}{path}", _decompressed(file(), path))
            number += 1


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Raises: RawDataError where the bytes of the file are damaged, StorageError where the storage fails."""
    try:
        with store.storage_errors(url):
            yield
    except FileNotFoundError as error:
        raise RawDataError(
            f"{store.shown(url)}: is no longer there; let the raw data be while it is read, and run again"
        ) from error
    except PenstockError:
        raise
    except DAMAGES as error:
        if isinstance(error, OSError) and error.errno is not None:
            where = store.shown(url)
            raise StorageError(f"{where}: cannot be read ({_why(error)}); check the storage, and run again") from error
        raise RawDataError(
            f"{store.shown(url)}: cannot be read ({_why(error)}); the file is truncated or damaged: copy it again"
        ) from error


def _why(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    fs, path = store.filesystem(url)
    with fs.open(path, "rb") as file:
        yield file


def _decompressed(file: IO[bytes], name: str) -> IO[bytes]:
    found = COMPRESSED.search(name)
    match found and found[1].lower():
        case "gz":
            return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
        case "bz2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case "zst":
            return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")  # type: ignore[no-any-return]
    return file


def _members(raw: IO[bytes], url: str) -> Iterator[tuple[str, Any]]:
    """Path of each file in an archive and the function that opens it, in the archive's order."""
    if url.lower().endswith(".zip"):
        with zipfile.ZipFile(raw) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    yield info.filename, lambda info=info: packed.open(info)
        return
    whole = gzip.GzipFile(fileobj=raw) if url.lower().endswith(".tgz") else _decompressed(raw, url)
    with tarfile.open(fileobj=whole, mode="r|") as tar:
        for member in tar:
            if member.issym() or member.islnk():  # what it leads to may be behind it, or outside
                yield member.name, lambda member=member: _refuse_link(url, member)
            elif member.isfile():
                yield member.name, lambda member=member: tar.extractfile(member)
            tar.members = []  # type: ignore[attr-defined]  # else it remembers each of a million
    while whole.read(CHUNK_BYTES):  # to its end, where its checksum is
        pass


def _refuse_link(url: str, member: tarfile.TarInfo) -> None:
    raise RawDataError(
        f"{store.shown(url)}: {member.name} is a link to {member.linkname}, and not read; pack the files themselves "
        f"(tar --dereference --hard-dereference)"
    )


def damaged(
    spark: SparkSession,
    urls: Collection[str],
    unreadable: str,
    only: str = "*",
    check: Callable[[str], object] | None = None,
) -> dict[str, str]:
    """URL -> why, of the files that cannot be read to their end, where the recipe says to quarantine these.

    `check` reads a file through; without one it is decompressed, of an archive the members that are like `only`, and a
    file that is neither compressed nor an archive has nothing to be damaged.
    """
    if unreadable not in ("fail", "quarantine"):
        raise RecipeError(f"unreadable must be 'fail' or 'quarantine', is {unreadable!r}")
    doubtful = [url for url in urls if check or COMPRESSED.search(url) or ARCHIVE.search(url)]
    if unreadable == "fail" or not doubtful:
        return {}
    num_tasks = min(len(doubtful), TASKS_PER_CORE * spark.sparkContext.defaultParallelism)
    read_through = check or partial(_decompress, only=only)

    def read(task: int) -> Iterator[pa.RecordBatch]:
        for url in doubtful[task::num_tasks]:
            try:
                with reading(url):
                    read_through(url)
            except RawDataError as error:
                yield pa.RecordBatch.from_pydict({"url": [url], "why": [str(error)]})

    found = by_task(spark, num_tasks, read, "url string, why string")
    return {row["url"]: row["why"] for row in found.collect()}


def _decompress(url: str, only: str) -> None:
    for stream in streams(Part(url), only):
        for _ in stream.chunks():
            pass


def with_damaged(df: DataFrame, spark: SparkSession, damage: Mapping[str, str]) -> DataFrame:
    """Adds one malformed row for each file that cannot be read."""
    if not damage:
        return df
    rows = spark.createDataFrame(list(damage.items()), "_file string, _why string")
    rows = rows.withColumns(
        {
            "_position": F.lit(None).cast("long"),
            "_record": F.lit(None).cast("string"),
            "_malformed": F.lit(True),
        }
    )
    return df.unionByName(rows, allowMissingColumns=True)
