"""The store: files that are there whole or not at all, names that stay inside, and what raw folders hold."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from penstock import store
from penstock.errors import DatasetError, RawDataError, StorageError

WRITER = """
import sys, time
from pathlib import Path
from penstock import store
url, gate, number = sys.argv[1:]
content = number.encode() * 3_000_000
print("ready", flush=True)
while not Path(gate).exists():
    time.sleep(0.001)
print(store.write_new(url, content))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


# Writing


@pytest.mark.parametrize("base", ["file://{tmp}", "memory://penstock"])
def test_one_of_many_writers_creates_a_file(base: str, tmp_path: Path) -> None:
    url = store.join(base.format(tmp=tmp_path), "cards", "x.json")
    store.remove(url)
    contents = [str(i).encode() * 100_000 for i in range(8)]
    if base.startswith("memory"):
        won = [store.write_new(url, content) for content in contents]
    else:
        won = [False] * 8
        gate = threading.Barrier(8)

        def write(i: int) -> None:
            gate.wait()
            won[i] = store.write_new(url, contents[i])

        threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert won.count(True) == 1
    assert store.read_bytes(url) == contents[won.index(True)]
    assert store.file_names(url.rpartition("/")[0]) == ["x.json"]
    MemoryFileSystem.store.clear()


def test_one_of_several_processes_creates_a_file(tmp_path: Path) -> None:
    url, gate = f"file://{tmp_path}/cards/x.json", tmp_path / "gate"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, gate, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    gate.touch()
    told = [writer.communicate()[0].strip() for writer in writers]
    assert sorted(told) == ["False", "False", "True"]
    assert store.read_bytes(url) == str(told.index("True")).encode() * 3_000_000
    assert os.listdir(tmp_path / "cards") == ["x.json"]


def test_a_full_disk_leaves_no_part_of_a_file(small_disk: Path) -> None:
    kept = small_disk / "kept"
    kept.write_bytes(b"as it was")
    with pytest.raises(StorageError, match=r"new: no space left on the device; free some or choose another place"):
        store.write_new(f"file://{small_disk}/new", b"x" * 200_000)
    with pytest.raises(StorageError, match="no space left"):
        store.replace(kept, b"x" * 200_000)
    assert os.listdir(small_disk) == ["kept"]
    assert kept.read_bytes() == b"as it was"


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write_new(f"file://{tmp_path}/new", b"x")
    with pytest.raises(KeyboardInterrupt):
        store.replace(tmp_path / "new", b"x")
    assert os.listdir(tmp_path) == []


def test_replacing_goes_over_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    for content in (b"first", b"second"):
        store.replace(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file"]


def test_files_have_the_mode_that_the_user_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store.write_new(f"file://{tmp_path}/new", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    store.make_private(f"file://{tmp_path}/private")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


@pytest.mark.parametrize("base", ["file://{tmp}/a b#1 [x]?*%41+ü", "memory://penstock"])
def test_what_is_written_is_listed_read_and_removed(base: str, tmp_path: Path) -> None:
    url = base.format(tmp=tmp_path)
    assert store.file_names(url) == []
    names = ["b.txt", "c/d.txt", "c/é [1].txt"]
    for name in reversed(names):
        assert store.write_new(store.join(url, name), name.encode())
    assert store.file_names(url) == names
    assert [store.read_bytes(store.join(url, name)) for name in names] == [name.encode() for name in names]
    store.check_writable(url)
    assert store.file_names(url) == names
    store.remove(store.join(url, "c"))
    assert store.file_names(url) == ["b.txt"]
    store.remove(url)
    store.remove(url)
    assert not store.exists(url)
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file://{tmp}/file/out", "file/out.*: a file is where a folder is needed; choose another place"),
        ("file://{tmp}/file", "a file is where a folder is needed"),
        ("file:///proc/out", r"/proc/out.*: cannot be created \(No such file or directory\); choose another place"),
        ("file:///sys/out", "/sys/out.*: permission denied|read-only"),
        ("nosuch://x/y", r"nosuch://x/y.*: no filesystem for this protocol is installed .* check the URL"),
        ("file://{tmp}/a::b", "a path with '::' cannot be used; rename the folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_said(place: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = place.format(tmp=tmp_path)
    for write in (lambda: store.check_writable(url), lambda: store.write_new(store.join(url, "x"), b"")):
        with pytest.raises(StorageError, match=message):
            write()
    assert os.listdir(tmp_path) == ["file"]


def test_a_read_only_file_system_is_said(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError, match="the file system is read-only; choose another place"):
        store.check_writable(f"file://{small_disk}/out")


# Names


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "/etc/passwd", "", "s3://b/x", "a\\..\\b"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match=r"/d: the path .* leads out of the dataset; do not use this dataset"):
        store.inside("file:///d", name)


@given(st.text(st.sampled_from("./\\:a~"), max_size=12) | st.text(max_size=12))
def test_a_name_that_is_accepted_stays_inside(name: str) -> None:
    try:
        path = store.filesystem(store.inside("file:///data/set", name))[1]
    except (DatasetError, StorageError):
        return
    assert os.path.normpath(path).startswith("/data/set")


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("a/b/", "file://{cwd}/a/b"),
        ("~/x", "file://{home}/x"),
        ("file:/tmp/x", "file:///tmp/x"),
        ("file:///tmp/x/", "file:///tmp/x"),
        ("hdfs://host/x/", "hdfs://host/x"),
    ],
)
def test_a_url_means_the_same_to_every_process(url: str, means: str) -> None:
    found = store.absolute(url)
    assert found == means.format(cwd=os.getcwd(), home=Path.home())
    assert store.absolute(found) == found


def test_places_are_shown_as_a_person_types_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.shown(f"file://{tmp_path}/a/b") == "a/b"
    assert store.shown("file:///elsewhere") == "/elsewhere"
    assert store.shown("hdfs://host/x") == "hdfs://host/x"


# Raw files


def fill(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return f"file://{folder}"


def test_the_inventory_names_every_raw_file_once(tmp_path: Path) -> None:
    url = fill(tmp_path, "b/2.csv", "a.csv", ".hidden", "_SUCCESS", "c/_x/y", "d.csv", "e.csv._COPYING_")
    found = store.inventory(url)
    assert [file.name for file in found] == ["a.csv", "b/2.csv", "d.csv"]
    assert [file.num_bytes for file in found] == [5, 7, 5]
    assert found[0].sha256 == hashlib.sha256(b"a.csv").hexdigest()
    assert [file.name for file in store.inventory(f"{url}/b/2.csv")] == ["2.csv"]


@pytest.mark.parametrize("listing", [lambda url: store.inventory(url), lambda url: store.file_names(url)])
def test_a_folder_that_cannot_be_listed_is_said(
    listing: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ls = fill(tmp_path, "a.csv", "b/2.csv"), LocalFileSystem.ls

    def refuse(self: LocalFileSystem, path: str, **options: Any) -> Any:
        if path.endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return ls(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", refuse)
    with pytest.raises(StorageError, match="permission denied"):
        listing(url)


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    url = fill(tmp_path, "a.csv", "b.csv", "c.csv")
    first = store.inventory(url)
    known = {(file.name, file.num_bytes, file.modified): "remembered" for file in first[:2]}
    (tmp_path / "b.csv").write_text("B.csv")  # of the same length
    os.utime(tmp_path / "b.csv", (1, 1))
    assert [file.sha256 == "remembered" for file in store.inventory(url, known)] == [True, False, False]


def test_what_a_link_leads_to_is_read_each_time(tmp_path: Path) -> None:
    fill(tmp_path, "target")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").symlink_to(tmp_path / "target")
    before = store.inventory(f"file://{tmp_path}/raw")
    (tmp_path / "target").write_text("TARGET")  # the link's own time stays
    known = {(file.name, file.num_bytes, file.modified): file.sha256 for file in before}
    assert store.inventory(f"file://{tmp_path}/raw", known)[0].sha256 != before[0].sha256


def test_raw_files_have_urls(tmp_path: Path) -> None:
    url = fill(tmp_path / "a b", "b/2.csv", "_no")
    assert store.raw_urls(url) == {"b/2.csv": f"{url}/b/2.csv"}
    assert store.raw_urls(f"{url}/b/2.csv") == {"2.csv": f"{url}/b/2.csv"}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("2011-*", ["2011-01/1.csv", "2011-01/deep/2.csv", "2011-02.csv"]),
        ("2011-0[2-9]*", ["2011-02.csv"]),
        ("201*/?.csv", ["2010-12/3.csv", "2011-01/1.csv"]),
        ("**/2.csv", ["2011-01/deep/2.csv"]),
        ("[x]", ["4.csv"]),  # what is there is no pattern
    ],
)
def test_a_pattern_names_files_and_folders(pattern: str, names: list[str], tmp_path: Path) -> None:
    files = ["2010-12/3.csv", "2011-01/1.csv", "2011-01/deep/2.csv", "2011-01/_no", "2011-02.csv", "[x]/4.csv"]
    url = fill(tmp_path / "raw", *files)
    assert [file.name for file in store.inventory(f"{url}/{pattern}")] == names
    for name, at in store.raw_urls(f"{url}/{pattern}").items():
        assert store.read_bytes(at) == store.read_bytes(f"{store.raw_folder(f'{url}/{pattern}')}/{name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: (raw / "b").write_text("more"), "b in .*raw changed while it was read; run again"),
        (lambda raw: os.utime(raw / "b", (1, 1)), None),  # another time, but the same bytes: read and found equal
        (lambda raw: (raw / "c").write_text(""), "c in .*raw changed while it was read; run again"),
        (lambda raw: (raw / "b").unlink(), "b in .*raw changed while it was read; run again"),
        (lambda raw: [(raw / name).unlink() for name in "ab"], r"raw changed while it was read; run again \(.*no file"),
        (lambda raw: (raw / "_new").write_text(""), None),
    ],
    ids=["content", "time", "new", "gone", "all gone", "no data"],
)
def test_raw_data_that_changes_is_seen(change: Callable[[Path], object], message: str | None, tmp_path: Path) -> None:
    url = fill(tmp_path / "raw", "a", "b")
    files = store.inventory(url)
    store.check_unchanged(url, files)
    change(tmp_path / "raw")
    if message is None:
        store.check_unchanged(url, files)
    else:
        with pytest.raises(RawDataError, match=message):
            store.check_unchanged(url, files)


@pytest.mark.parametrize(
    ("out", "raw", "apart"),
    [
        ("raw/out", "raw", False),
        ("raw", "raw", False),
        ("all", "all/data", False),  # the dataset's own folder `data`
        ("link/out", "raw", False),
        ("all", "all/raw", True),
        ("raw2", "raw", True),
        ("raw", "raw/*.csv", True),  # what is like the pattern is apart
        ("raw", "ra*", False),
        ("out", "raw/a.csv", True),
    ],
)
def test_a_dataset_lies_apart_from_its_raw_data(out: str, raw: str, apart: bool, tmp_path: Path) -> None:
    fill(tmp_path / "raw", "a.csv")
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    urls = (f"file://{tmp_path}/{out}", f"file://{tmp_path}/{raw}")
    if apart:
        store.check_apart(*urls)
    else:
        with pytest.raises(StorageError, match=f"{out}: the dataset lies in the raw data's folder"):
            store.check_apart(*urls)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda raw: None, r"raw data: no file in .*raw \(names with a leading '\.' or '_' are no data\); check --raw"),
        (lambda raw: raw.rmdir(), r"raw data: nothing at .*raw; check --raw"),
        (lambda raw: (raw / "_x.csv").write_text(""), "raw data: no file in"),
        (
            lambda raw: (raw / "a").symlink_to("/nowhere"),
            r"a in .*raw cannot be read \(No such file.*\); remove it, or",
        ),
        (lambda raw: (raw / "a").symlink_to(raw), r"a in .*raw cannot be read \(Is a directory\); remove it, or mend"),
        (lambda raw: os.mkfifo(raw / "a"), r"a in .*raw is a pipe or a device, no file; remove it"),
    ],
    ids=["empty", "missing", "hidden", "broken link", "loop", "pipe"],
)
def test_raw_data_that_is_none_is_said(make: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    make(tmp_path / "raw")  # type: ignore[operator]
    with pytest.raises(RawDataError, match=message):
        store.inventory(f"file://{tmp_path}/raw")
