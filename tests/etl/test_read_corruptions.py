"""Raw files damaged in every way that comes to mind: each ends in rows and refused rows that add up, or in a sentence.

Files that are damaged at random lie beside each other in a folder, so that one job reads many.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import clean
from etl.read import csv, files, json_lines, parquet, text
from etl.spark import user_errors
from penstock.errors import RawDataError
from tests.etl.conftest import Run
from tests.etl.test_read_csv import tar, write
from tests.etl.test_read_formats import png, wav

LINE_END = re.compile(rb"\r\n|\r|\n")
LONG = 10 << 20


def flip(rng: random.Random, content: bytearray) -> None:
    for _ in range(rng.randrange(1, 9)):
        content[rng.randrange(len(content))] = rng.randrange(256)


def cut(rng: random.Random, content: bytearray) -> None:
    del content[rng.randrange(len(content)) :]


def cut_out(rng: random.Random, content: bytearray) -> None:
    start = rng.randrange(len(content))
    del content[start : start + rng.randrange(1, 200)]


def insert(what: bytes) -> Callable[[random.Random, bytearray], None]:
    def inserted(rng: random.Random, content: bytearray) -> None:
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(content))
            content[at:at] = what

    return inserted


def replace(old: bytes, new: bytes) -> Callable[[random.Random, bytearray], None]:
    def replaced(rng: random.Random, content: bytearray) -> None:
        content[:] = content.replace(old, new, rng.randrange(1, 20))

    return replaced


def encoded(encoding: str) -> Callable[[random.Random, bytearray], None]:
    def changed(rng: random.Random, content: bytearray) -> None:
        content[:] = content.decode(errors="replace").encode(encoding, errors="replace")

    return changed


def shuffled(rng: random.Random, content: bytearray) -> None:
    lines = content.split(b"\n")
    rng.shuffle(lines)
    content[:] = b"\n".join(lines)


DAMAGES = [
    *(flip, flip, cut, cut_out, shuffled),
    *map(
        insert, [b"\0", b'"', b'""', b'"' * 1000, b",", b",," * 20_000, b"\n", b"\r", b"\r\n", b"\xff", b"\xef\xbb\xbf"]
    ),
    *map(insert, [b"\xed\xa0\x80", "\u2028".encode(), b"\\", b"{" * 2000, b"x" * 70_000, b"\x1a", b"  \t "]),
    *(replace(b",", b""), replace(b",", b";"), replace(b"\n", b""), replace(b"\n", b"\r"), replace(b"1", b"1e999")),
    *map(encoded, ["utf-16", "utf-8-sig", "cp1252", "utf-32"]),
]
ROWS = [(i, f'n{i}, "é" {i % 7}', i / 8) for i in range(60)]
COLUMNS = {"id": "bigint", "name": "string", "x": "double"}
CSV = "".join('{},"{}",{}\n'.format(i, name.replace('"', '""'), x) for i, name, x in ROWS).encode()
JSON = "".join(f'{{"id": {i}, "name": "{i}\\"", "x": {x}}}\n' for i, _, x in ROWS).encode()
Reader = Callable[[SparkSession, str], DataFrame]


def table() -> bytes:
    file = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(zip(COLUMNS, zip(*ROWS, strict=True), strict=True))), file, row_group_size=20)
    return bytes(file.getvalue())


def lenient(read: Callable[..., DataFrame], *arguments: Any, **options: Any) -> Reader:
    return lambda spark, url: read(spark, url, *arguments, unreadable="quarantine", **options)


# name of a file, its bytes, what reads it, whether a record is a line
CASES: dict[str, tuple[str, bytes, Reader, bool]] = {
    "csv": ("a.csv", CSV, lenient(csv, COLUMNS), True),
    "csv of several lines": ("a.csv", CSV, lenient(csv, COLUMNS, quoted_newlines=True), False),
    "csv without quotes": ("a.csv", CSV, lenient(csv, COLUMNS, quote=None, trim=False), True),
    "csv of another encoding": ("a.csv", CSV, lenient(csv, COLUMNS, encoding="utf-16-le"), False),
    "csv in gzip": ("a.csv.gz", gzip.compress(CSV), lenient(csv, COLUMNS), False),
    "csv in tar.gz": ("a.tar.gz", tar({"a.csv": CSV, "b.csv": CSV}), lenient(csv, COLUMNS), False),
    "csv in tar": ("a.tar", tar({"a.csv": CSV, "b.csv": CSV}, "w"), lenient(csv, COLUMNS), False),
    "json": ("a.jsonl", JSON, lenient(json_lines, COLUMNS), True),
    "text": ("a.txt", CSV, lenient(text), True),
    "pictures": ("a.png", png(), lenient(files, "png"), False),
    "sounds": ("a.wav", wav(), lenient(files, "wav"), False),
}


def check(spark: SparkSession, folder: Path, case: str, seeds: range) -> None:
    name, content, read, by_line = CASES[case]
    damaged = {}
    for seed in seeds:
        rng, found = random.Random(f"{case} {seed}"), bytearray(content)
        for damage in rng.choices(DAMAGES, k=rng.randrange(1, 4)):
            if found:
                damage(rng, found)
        damaged[f"{seed:03d}/{name}"] = bytes(found)
    url = write(folder, damaged)
    checked = clean.check(read(spark, url), (), url)
    num_bad = F.count_if("_malformed").alias("bad")
    with user_errors(url, "out"):
        counts = checked.groupBy("_file").agg(F.count("*").alias("raw"), num_bad).collect()
        kept = clean.kept(checked).count()
        refused = clean.refused(checked, (), url).collect()
    assert sum(row["raw"] for row in counts) == kept + len(refused)
    assert sum(row["bad"] for row in counts) == len(refused)
    assert all(row["reasons"] and all(row["reasons"]) for row in refused)
    if not by_line:
        return
    raw = {row["_file"].removeprefix(f"{url}/"): row["raw"] for row in counts}
    for file, found in damaged.items():
        lines = LINE_END.split(found.removeprefix(b"\xef\xbb\xbf"))
        counted = lines if lines[-1] else lines[:-1]
        assert raw.get(file, 0) == sum(case == "text" or line.strip(b" ") != b"" for line in counted)
        places = [(row["line"], row["record"]) for row in refused if row["file"] == file]
        assert len(set(places)) == len(places)
        assert all(record == lines[line - 1].decode(errors="replace") for line, record in places)


SEEDS = 300 // len(CASES) + 1


@pytest.mark.parametrize("case", ["csv", "csv of several lines", "json", "csv in tar.gz"])
def test_damaged_files_end_in_rows_that_add_up(spark: SparkSession, tmp_path: Path, case: str) -> None:
    check(spark, tmp_path, case, range(5))


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_three_hundred_damaged_files_end_in_rows_that_add_up(spark: SparkSession, tmp_path: Path, case: str) -> None:
    check(spark, tmp_path, case, range(5, 5 + SEEDS))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_parquet_file_or_header_ends_in_rows_or_a_sentence(
    spark: SparkSession, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    content = bytearray(table() if seed % 2 else b"id,name,x\n" + CSV)
    rng.choice(DAMAGES)(rng, content)
    url = write(tmp_path, {"a.parquet" if seed % 2 else "a.csv": bytes(content)})
    said = ""
    try:
        with user_errors(url, "out"):
            df = parquet(spark, url, COLUMNS) if seed % 2 else csv(spark, url, COLUMNS, header=True)
            df.collect()
    except RawDataError as error:
        said = str(error)
    assert not said or str(tmp_path) in said


@pytest.mark.parametrize("quoted_newlines", [False, True])
def test_values_of_ten_megabytes_are_values(spark: SparkSession, tmp_path: Path, quoted_newlines: bool) -> None:
    long = {
        "text.csv": f'1,{"x" * LONG},1\n2,"{"y" * LONG}",2\n{"3" * LONG},z,3\n',
        "quotes.csv": "4," + '"' * LONG + ",4\n",
        "fields.csv": f"5,{',' * 100_000}\n6,z,6\n",
    }
    df = csv(spark, write(tmp_path, long), COLUMNS, quoted_newlines=quoted_newlines)
    why = F.left("_why", F.lit(150)).alias("why")
    found = df.select("id", F.length("name").alias("n"), "_malformed", why).collect()
    assert sorted((row["id"], row["n"]) for row in found if not row["_malformed"] and row["n"] < LONG / 4) == [(6, 1)]
    assert {(row["id"], row["n"]) for row in found if not row["_malformed"]} >= {(1, LONG), (2, LONG)}
    assert len(found) == 6
    assert {row["why"] for row in found if row["_malformed"]} >= {
        f"id must be bigint, found '{'3' * 100}'",
        "expected 3 fields, found 100002",
    }


def test_a_whole_job_over_damaged_files_keeps_its_books(run: Run, tmp_path: Path) -> None:
    rng, damaged = random.Random(0), {}
    people = "".join(f"p{i},{i % 90},Rom\n" for i in range(100)).encode()
    for i in range(12):
        content = bytearray(people)
        rng.choice(DAMAGES)(rng, content)
        damaged[f"{i}.csv"] = bytes(content)
    write(tmp_path / "raw", {**damaged, "good.csv": people})
    counts = run(tmp_path / "raw", tmp_path / "out").card.counts
    assert counts["raw"] == counts["quarantined"] + counts["duplicates"] + counts["built"]
    assert counts["built"] >= 100
    assert counts["quarantined"] > 0
