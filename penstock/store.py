"""Where files lie: the only place that turns URLs into filesystems, lists folders and publishes files.

Everything goes through fsspec, so a plain path, `file://` and any protocol that fsspec knows are the same
to the rest of the code.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import itertools
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

import fsspec
from fsspec.callbacks import Callback
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from penstock import log
from penstock.errors import DatasetError, Preempted, RawDataError, StorageError

LEADS_OUT = r"^$|^/|(^|/)\.\.(/|$)|://|\\"  # of a relative path that must not leave its folder
WILDCARD = re.compile(r"[*?\[]")  # of a pattern as fsspec knows them; `**` is any number of folders
CHUNK_BYTES = 4 << 20
# hdfs-native waits for a NameNode that does not answer for three minutes, silently; the feed has a patience of its own,
# and tells what it waits for.
HDFS_PATIENCE = {"dfs.client.failover.max.attempts": "5", "dfs.client.failover.sleep.max.millis": "2000"}

HDFS_WRITE_S = 120.0  # how long a file is tried to be written
HDFS_ANSWER_S = 20.0  # how long a chunk of it may take: hdfs-native may wait for ever for a DataNode that is dead

REFUSED = "permission denied"  # what a StorageError says where that is why

# Relative names in which Spark sees no data: a file or a folder above it begins with '.', or with '_' and has no '='.
# Source: HadoopFSUtils.shouldFilterOutPathName and PartitioningAwareFileIndex.isDataPath of Spark 4.3.
NO_DATA = re.compile(r"(^|/)(\.|_(?!(common_)?metadata[^/]*/)[^=/]*(/|$)|[^/]*\._COPYING_(/|$))")


@dataclass(frozen=True)
class RawFile:
    """One file of the raw data: its name relative to the raw URL, and what identifies its content."""

    name: str
    num_bytes: int
    modified: str
    sha256: str


def absolute(url: str) -> str:
    """A URL that means the same to every process and to Spark: plain paths become `file:///…`."""
    if "://" in url:
        return url.rstrip("/")
    return "file://" + os.path.abspath(os.path.expanduser(url.removeprefix("file:")))


def shown(url: str) -> str:
    """The URL as a person would type it: local files as plain paths, relative where that is shorter."""
    if not url.startswith("file://"):
        return url
    path = url.removeprefix("file://")
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else path


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL and the path in it. Raises: StorageError for a protocol that nothing here reads."""
    if "::" in url:  # to fsspec this is a chain of filesystems: the file would lie somewhere else
        raise StorageError(f"{url}: a path with '::' cannot be used; rename the folder or choose another place")
    try:
        if url.startswith("hdfs://"):
            return _hdfs(url.split("/")[2], os.getpid()), fsspec.get_filesystem_class("hdfs")._strip_protocol(url)
        fs, path = url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise StorageError(f"{url}: no filesystem for this protocol is installed ({why}); check the URL") from error
    return fs, path


@functools.cache
def _hdfs(host: str, pid: int) -> fsspec.AbstractFileSystem:
    """Kept here and not by fsspec, which drops its filesystems in a forked process: hdfs-native would wait there for
    ever, for threads that only the first process has."""
    return url_to_fs(f"hdfs://{host}", skip_instance_cache=True, **HDFS_PATIENCE)[0]


def is_local(url: str) -> bool:
    return isinstance(filesystem(url)[0], LocalFileSystem)


def join(url: str, *names: str) -> str:
    return "/".join([url.rstrip("/"), *(name.strip("/") for name in names)])


def inside(base: str, name: str) -> str:
    """`join`, for names read from a file. Raises: DatasetError where the name would lead out of `base`."""
    if re.search(LEADS_OUT, name):
        raise DatasetError(f"{shown(base)}: the path {name!r} leads out of the dataset; do not use this dataset")
    return join(base, name)


def exists(url: str) -> bool:
    fs, path = filesystem(url)
    return bool(fs.exists(path))


def read_bytes(url: str) -> bytes:
    """The whole file. Raises: FileNotFoundError, StorageError."""
    fs, path = filesystem(url)
    with _reading(url):
        return bytes(fs.cat_file(path))


def file_names(url: str) -> list[str]:
    """Names of the files below a folder, relative to it and sorted; [] where the folder is not there.

    Raises: StorageError.
    """
    return list(file_sizes(url))


def file_sizes(url: str, data_only: bool = False) -> dict[str, int]:
    """Names of the files below a folder, as `file_names`, with their bytes. `data_only`: none that NO_DATA matches."""
    fs, path = filesystem(url)
    try:
        with _reading(url):
            found = _find(fs, path, data_only)
    except FileNotFoundError:  # of a bucket that is not there; other filesystems find nothing
        return {}
    names = {str(PurePosixPath(file).relative_to(path)): int(info["size"]) for file, info in sorted(found.items())}
    return {name: size for name, size in names.items() if name == "." or not (data_only and NO_DATA.search(name))}


def _find(fs: fsspec.AbstractFileSystem, root: str, data_only: bool = False) -> dict[str, dict[str, Any]]:
    """fsspec's `find`, which leaves out what it cannot list, and all of an HDFS that does not answer: here that raises.

    Only a folder that is gone by the time that it is looked into is left out, if it is not `root` itself. With
    `data_only` nobody looks into folders that NO_DATA matches.
    """
    if not (isinstance(fs, LocalFileSystem) or _is_hdfs(fs)):
        return dict(fs.find(root, detail=True))
    found: dict[str, dict[str, Any]] = {}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            listed = fs.ls(folder, detail=True)
        except FileNotFoundError:
            if folder == root or fs.exists(folder):
                raise
            continue
        except NotADirectoryError:  # a part of its path is a file: there is no such folder
            continue
        folders += [
            info["name"]
            for info in listed
            if info["type"] == "directory"
            and not (data_only and NO_DATA.search(f"{PurePosixPath(info['name']).relative_to(root)}/"))
        ]
        found |= {info["name"]: info for info in listed if info["type"] != "directory"}
    return found


def folders(url: str) -> dict[str, tuple[int, float]]:
    """The folders directly below one: name -> bytes of all that is in it, and when it last changed, as `_modified`.

    Raises: StorageError.
    """
    fs, path = filesystem(url)
    with _reading(url):
        below = fs.find(path, withdirs=True, detail=True) if fs.exists(path) else {}
    found: dict[str, tuple[int, float]] = {}
    for at, info in below.items():
        name, *rest = PurePosixPath(at).relative_to(path).parts or [""]
        if rest or (name and info["type"] == "directory"):
            num_bytes, modified = found.get(name, (0, 0.0))
            size = int(info["size"]) if info["type"] == "file" else 0
            found[name] = (num_bytes + size, max(modified, _modified(info)))
    return dict(sorted(found.items()))


def files_in(url: str, folder: str) -> dict[str, tuple[int, float]]:
    """The files directly in a folder below the URL: path relative to the URL -> as `folders` has it.

    Raises: StorageError.
    """
    fs, root = filesystem(url)
    try:
        with _reading(url):
            found = fs.ls(f"{root}/{folder}".rstrip("/"), detail=True)
    except FileNotFoundError:
        return {}
    paths = {str(PurePosixPath(info["name"]).relative_to(root)): info for info in found if info["type"] == "file"}
    return {path: (int(info["size"]), _modified(info)) for path, info in paths.items()}


def _modified(info: Mapping[str, Any]) -> float:
    """When a file or folder changed, in seconds since 1970, by fsspec's info of it; 0 where that says nothing."""
    if "modification_time" in info:  # hdfs-native, in ms
        return float(info["modification_time"]) / 1000
    time = info.get("mtime") or info.get("last_modified") or info.get("LastModified") or 0.0
    return time.timestamp() if isinstance(time, datetime) else float(time)


def read_range(url: str, start: int, stop: int) -> bytes:
    """Some bytes of a file. Raises: FileNotFoundError, StorageError."""
    fs, path = filesystem(url)
    with _reading(url):
        return bytes(fs.cat_file(path, start=start, end=stop))


def num_bytes(url: str) -> int:
    """The size of a file. Raises: FileNotFoundError, StorageError."""
    fs, path = filesystem(url)
    with _reading(url):
        return int(fs.size(path))


def stamp(url: str) -> tuple[int, float]:
    """The size of a file, and when it changed, 0 where the storage does not say. Raises: as `num_bytes`."""
    fs, path = filesystem(url)
    with _reading(url):
        fs.invalidate_cache(path)  # of what an object store was last known to have
        info = fs.info(path)
        return int(info["size"]), _modified(info)


def remove(url: str) -> None:
    """Removes a file or a folder with all that is in it; nothing happens where there is none."""
    fs, path = filesystem(url)
    if fs.exists(path):
        with storage_errors(url):
            fs.rm(path, recursive=True)


def make_private(url: str) -> None:
    """Lets only the owner into a folder, where the filesystem has modes: local disks and HDFS."""
    fs, path = filesystem(url)
    with storage_errors(url):
        fs.makedirs(path, exist_ok=True)
        if isinstance(fs, LocalFileSystem):
            os.chmod(path, 0o700)
        elif url.startswith("hdfs://"):
            fs.client.set_permission(path, 0o700)


def write_new(url: str, content: bytes) -> bool:
    """Creates a file, whole or not at all, and never replaces one. False where the file is there already."""
    fs, path = filesystem(url)
    with _writing(url):
        if _is_hdfs(fs):
            return _write_new_to_hdfs(fs, path, content)
        if not isinstance(fs, LocalFileSystem):
            try:
                fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            return True
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _written_beside(Path(path), io.BytesIO(content)) as written:
            try:
                os.link(written, path)  # unlike a rename, fails where the name is taken
            except FileExistsError:
                return False
            sync_folder(Path(path).parent)
        return True


def _write_new_to_hdfs(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
    """By a rename, since HDFS shows a file from its creation on, and a writer may die before its content is there.

    A rename whose answer is lost is tried again by the driver: so it is the content that says whose file it is.
    """
    beside = _name_beside(path)
    _write_to_hdfs(fs, beside, io.BytesIO(content))
    try:
        fs.mv(beside, path)  # fails where the name is taken
    except FileExistsError:
        fs.rm_file(beside)
    except FileNotFoundError:  # it was renamed before
        pass
    return bool(fs.cat_file(path) == content)


def write(url: str, content: memoryview) -> None:
    """Writes a file and syncs nothing: for what does not exist until a card names it."""
    fs, path = filesystem(url)
    with _writing(url):
        fs.makedirs(os.path.dirname(path), exist_ok=True)
        _write(fs, path, content)


def _write(fs: fsspec.AbstractFileSystem, path: str, content: memoryview | bytes) -> None:
    if _is_hdfs(fs):
        _write_to_hdfs(fs, path, io.BytesIO(content))
        return
    with fs.open(path, "wb") as file:
        file.write(content if isinstance(fs, LocalFileSystem) else bytes(content))


def _write_to_hdfs(
    fs: fsspec.AbstractFileSystem, path: str, source: BinaryIO, moved: Callable[[], object] = lambda: None
) -> None:
    """Tries again where a DataNode does not take a new block, since hdfs-native asks the NameNode for no other one.

    The NameNode offers a dead DataNode until it has missed its heartbeats for a while; of one that dies later
    hdfs-native takes leave by itself.
    """
    begun = time.monotonic()
    for tried in itertools.count(1):
        file = fs.open(path, "wb")
        source.seek(0)
        try:
            while chunk := source.read(CHUNK_BYTES):
                _answered(file.write, chunk)
                moved()
            _answered(file.close)
            return
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, RuntimeError) as error:  # not closed: that would wait for blocks that nobody has
            if str(error).startswith("RPCError") or time.monotonic() - begun > HDFS_WRITE_S:  # the NameNode refuses
                with suppress(Exception):
                    fs.rm_file(path)  # empty, or as far as it came
                raise
            if tried == 1:
                log.warning(f"{path}: {_why(error)}; trying again, for {HDFS_WRITE_S:.0f} s at most")
        time.sleep(1)


def _answered(call: Callable[..., object], *arguments: object) -> None:
    """Calls it, and leaves it to itself where it does not return. Raises: TimeoutError, or what it raises."""
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            call(*arguments)
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        error = ended.get(timeout=HDFS_ANSWER_S)
    except Empty:
        raise TimeoutError(f"no DataNode answered for {HDFS_ANSWER_S:.0f} s") from None
    if error is not None:
        raise error


def replace(url: str | Path, content: bytes) -> None:
    """Writes a file, whole or not at all, over what was there."""
    fs, path = filesystem(str(url))
    with _writing(str(url)):
        if isinstance(fs, LocalFileSystem):
            _replace_local(Path(path), io.BytesIO(content))
        else:
            with _beside(fs, path) as beside:
                _write(fs, beside, content) if _is_hdfs(fs) else fs.pipe_file(beside, content)


def put(file: Path, url: str, moved: Callable[[], object] = lambda: None) -> None:
    """Copies a local file, whole or not at all, over what was there. `moved` is called now and then as bytes go.

    Raises: FileNotFoundError where there is no such local file; StorageError.
    """
    fs, path = filesystem(url)
    with file.open("rb") as source, _writing(url):
        if isinstance(fs, LocalFileSystem):
            _replace_local(Path(path), source)
        else:
            with _beside(fs, path) as beside:
                if _is_hdfs(fs):
                    _write_to_hdfs(fs, beside, source, moved)
                else:
                    fs.put_file(str(file), beside, callback=_Moved(moved))


class _Moved(Callback):  # type: ignore[misc]
    def __init__(self, moved: Callable[[], object]) -> None:
        super().__init__()
        self._moved = moved

    def relative_update(self, inc: int = 1) -> None:
        self._moved()


def get(url: str, file: Path) -> None:
    """Copies a file to a local one. Raises: FileNotFoundError, StorageError."""
    fs, path = filesystem(url)
    with _reading(url), storage_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(path, str(file))


def move(url: str, to: str) -> None:
    """Gives a file that is not local another name, over what was there; an object store copies it for that."""
    (fs, path), (_, there) = filesystem(url), filesystem(to)
    with _writing(to):
        if _is_hdfs(fs):
            fs.mv(path, there, overwrite=True)
        else:
            fs.cp_file(path, there)
            fs.rm_file(path)


def _is_hdfs(fs: fsspec.AbstractFileSystem) -> bool:
    return bool(fs.protocol == "hdfs")


def _name_beside(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.{uuid.uuid4().hex}"


@contextmanager
def _beside(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """Where to write a far file so that it has its name when it is whole: of object stores that is true of any file."""
    if not _is_hdfs(fs):
        yield path
        return
    beside = _name_beside(path)
    try:
        yield beside
        fs.mv(beside, path, overwrite=True)
    except BaseException:
        with suppress(Exception):  # nothing may answer there
            fs.rm_file(beside)
        raise


@contextmanager
def _writing(url: str) -> Iterator[None]:
    """`storage_errors`, and whatever else a driver raises; also for a place where missing folders cannot be made, as in
    /proc."""
    try:
        with storage_errors(url):
            yield
    except (StorageError, Preempted):
        raise
    except FileNotFoundError as error:
        why = error.strerror or str(error).partition("\n")[0]
        raise StorageError(f"{shown(url)}: cannot be created ({why}); choose another place") from error
    except Exception as error:
        raise StorageError(
            f"{shown(url)}: cannot be written ({_why(error)}); check the URL, and whether the storage answers"
        ) from error


def _replace_local(path: Path, source: BinaryIO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written_beside(path, source) as beside:
        os.replace(beside, path)
        sync_folder(path.parent)


@contextmanager
def _written_beside(path: Path, source: BinaryIO) -> Iterator[str]:
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        yield beside
    finally:
        Path(beside).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(url: str) -> None:
    """Fails before the work starts, not after. Raises: StorageError."""
    probe = join(url, f".penstock-{uuid.uuid4().hex}")
    fs, path = filesystem(probe)
    with _writing(url):
        fs.makedirs(os.path.dirname(path), exist_ok=True)
        _write(fs, path, b"penstock")
        fs.rm_file(path)


def check_apart(out: str, raw_url: str) -> None:
    """Raises: StorageError where a dataset at `out` would lie among its raw files."""
    raw_fs, raw_path = filesystem(raw_url)
    roots = _raw_roots(raw_url) or [raw_path]
    for name in ("cards", "data", "clean", "quarantine"):
        fs, path = filesystem(join(out, name))
        if fs == raw_fs and any(_lies_in(path, root, fs) for root in roots):
            raise StorageError(
                f"{shown(out)}: the dataset lies in the raw data's folder, and would be raw data to the next run; "
                f"choose another place"
            )


def _lies_in(path: str, folder: str, fs: fsspec.AbstractFileSystem) -> bool:
    if isinstance(fs, LocalFileSystem):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    return PurePosixPath(path).is_relative_to(folder)


def raw_folder(raw_url: str) -> str:
    """What the names of raw files are relative to: the URL, or of a pattern the folder above its first wildcard.

    A URL that names what is there is none, whatever signs are in it.
    """
    fs, path = filesystem(raw_url)
    if not WILDCARD.search(path) or fs.exists(path):
        return raw_url
    return WILDCARD.split(raw_url)[0].rpartition("/")[0]


def _raw_roots(raw_url: str) -> dict[str, dict[str, Any]]:
    """Path -> fsspec's info of what the raw URL names: a file, a folder, or all that are like a pattern."""
    fs, path = filesystem(raw_url)
    with storage_errors(raw_url):
        if raw_folder(raw_url) != raw_url:
            return dict(fs.glob(path, detail=True))
        return {path: fs.info(path)} if fs.exists(path) else {}


def raw_urls(raw_url: str) -> dict[str, str]:
    """The raw files that a URL or pattern names: name -> URL, sorted, as `inventory` has them."""
    path, folder = filesystem(raw_url)[1], raw_folder(raw_url)
    return {name: raw_url if at == path else join(folder, name) for name, at, _ in _raw_files(raw_url)}


def _raw_files(raw_url: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Name relative to `raw_folder`, path and fsspec's info of each raw file that Spark would read, also in folders."""
    fs, folder = filesystem(raw_folder(raw_url))
    if not (roots := _raw_roots(raw_url)):
        raise RawDataError(f"raw data: nothing at {shown(raw_url)}; check --raw")
    found: dict[str, dict[str, Any]] = {}
    try:
        with storage_errors(raw_url):
            for root, info in roots.items():
                found |= _find(fs, root, data_only=True) if info["type"] == "directory" else {root: info}
    except FileNotFoundError as error:
        raise RawDataError(f"raw data: {shown(raw_url)} changed while it was listed ({error}); run again") from error
    names = {at: os.path.basename(at) if at == folder else str(PurePosixPath(at).relative_to(folder)) for at in found}
    return [(name, at, found[at]) for at, name in sorted(names.items()) if not NO_DATA.search(name)]


def check_unchanged(raw_url: str, files: Sequence[RawFile]) -> None:
    """Raises: RawDataError where the raw files are not, or no longer, those of an inventory."""
    known = {(file.name, file.num_bytes, file.modified): file.sha256 for file in files if file.modified}
    try:
        now = inventory(raw_url, known)
    except RawDataError as error:
        raise RawDataError(f"raw data: {shown(raw_url)} changed while it was read; run again ({error})") from error
    if changed := {(f.name, f.sha256) for f in files} ^ {(f.name, f.sha256) for f in now}:
        name, _ = min(changed)
        raise RawDataError(f"raw data: {name} in {shown(raw_url)} changed while it was read; run again")


def inventory(raw_url: str, known: Mapping[tuple[str, int, str], str] | None = None) -> list[RawFile]:
    """The raw files below a URL (or the one file that it names), with the SHA-256 of each.

    `known` maps (name, bytes, time of change) to checksums that an earlier inventory computed, so that an
    unchanged file is read once in its life. Hidden files and those that start with `_` are no data, as to Spark.

    Raises: RawDataError where there is nothing at the URL, or no file in the folder.
    """
    fs, _ = filesystem(raw_url)
    files = []
    for name, path, info in _raw_files(raw_url):
        link = bool(info.get("islink"))
        if info.get("type") == "other" and not link:  # a pipe would be waited for for ever
            raise RawDataError(f"raw data: {name} in {shown(raw_url)} is a pipe or a device, no file; remove it")
        # The time of a link is not that of the file it leads to.
        modified = "" if link else str(_modified(info) or "")
        size = int(info["size"])
        try:
            sha256 = (modified and (known or {}).get((name, size, modified))) or _sha256(fs, path)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise RawDataError(
                f"raw data: {name} in {shown(raw_url)} cannot be read ({error.strerror}); remove it, or mend the link"
            ) from error
        except RuntimeError as error:  # hdfs-native's
            raise RawDataError(
                f"raw data: {name} in {shown(raw_url)} cannot be read ({_why(error)}); check the storage, or copy the "
                f"file again"
            ) from error
        files.append(RawFile(name, size, modified, sha256))
    if not files:
        raise RawDataError(
            f"raw data: no file in {shown(raw_url)} (names with a leading '.' or '_' are no data); check --raw"
        )
    return files


def _sha256(fs: fsspec.AbstractFileSystem, path: str) -> str:
    checksum = hashlib.sha256()
    with storage_errors(path), fs.open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum.update(chunk)
    return checksum.hexdigest()


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """`storage_errors`, and whatever else a driver raises: those of object stores have errors of their own."""
    try:
        with storage_errors(url):
            yield
    except (FileNotFoundError, StorageError, Preempted):
        raise
    except IsADirectoryError as error:
        raise StorageError(f"{shown(url)}: a folder is where a file is needed; remove it, or check the URL") from error
    except Exception as error:
        raise StorageError(
            f"{shown(url)}: cannot be read ({_why(error)}); check the URL, and whether the storage answers"
        ) from error


def _why(error: Exception) -> str:
    if "All DataNodes failed" in str(error):  # and then all that is known of each of them
        return "no DataNode gives one of its blocks: they are gone or damaged; `hdfs fsck` says which"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns what a filesystem refuses into a sentence. A missing file stays a FileNotFoundError."""
    try:
        yield
    except RuntimeError as error:  # hdfs-native's
        if (sentence := hdfs_refusal(str(error), shown(url))) is None:
            raise
        raise StorageError(sentence) from error
    except PermissionError as error:
        raise StorageError(f"{shown(url)}: {REFUSED}; choose another place or change its mode") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{shown(url)}: no space left on the device; free some or choose another place"
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"{shown(url)}: a file would be larger than is allowed here; raise the limit (ulimit -f)"
            ) from error
        if error.errno == errno.EROFS:
            raise StorageError(f"{shown(url)}: the file system is read-only; choose another place") from error
        if isinstance(error, NotADirectoryError | FileExistsError) and error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StorageError(f"{shown(url)}: a file is where a folder is needed; choose another place") from error
        raise


def hdfs_refusal(text: str, where: str) -> str | None:
    """What HDFS refuses for good, in a sentence, from the text of its Java exceptions; None for all else."""
    if found := re.search(r"AccessControlException.*?Permission denied: ([^\n]*?)(?:\\n|\n|$)", text, re.DOTALL):
        why = found[1].replace('\\"', '"')
        return f"{where}: {REFUSED} ({why}); choose another place or change its mode"
    # HDFS asks for the room of a whole block where a file is begun.
    if found := re.search(r"QuotaExceededException.*?The (\w+ quota of [^\\\n]*)", text, re.DOTALL):
        return f"{where}: no space left: the {found[1]}; free some, or have the quota raised"
    if found := re.search(r"could only be written to \d+ of the \d+ [^\\\n]*", text):
        why = found[0].rstrip(".")
        return f"{where}: no DataNode takes another block (it {why}); free some space, or see `hdfs dfsadmin -report`"
    return None
