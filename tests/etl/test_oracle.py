"""Both stages beside a plain-Python reading of the same generated files: rules, fixes, duplicates, splits, counts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from etl.run import Built
from penstock.errors import RawDataError
from penstock.recipe import Split
from tests.etl.conftest import Run, write_recipe
from tests.etl.test_split import expected_split

RECIPE = """
from etl.read import csv
from penstock.recipe import First, Greatest, Last, Smallest, Split
from penstock.rules import Expect, Fix, Rule, Unique
from penstock.schema import Field, Schema

schema = Schema((Field("id", "string"), Field("n", "int32"), Field("word", "string")), key="id")
split = SPLIT
keep = KEEP
fixes = (Fix("trim", "word", "trim(word)"), Fix("lower", "word", "lower(word)"), Fix("clip", "n", "least(n, 50)"))
rules = (
    Rule("above", "n > 0", "n must be above 0"),
    Rule("short", "length(word) < 4", "the word must be short"),
    Rule("no_z", "word <> 'z'", "z is odd", severity="warn"),
    Unique("one_n", ("n", "word"), "a pair should be there once", severity="warn"),
    Expect("most", "count_if(n > 0) >= 0.5 * count(*)", "half must be above 0", severity="warn"),
)
max_quarantined = 1.0


def read(spark, raw_url, labelled):
    return csv(spark, raw_url, {"id": "string", "n": "int", "word": "string"})


def clean(df):
    return df.withColumn("day", df.n)
"""
SPLITS = {
    "key": 'Split({"train": 0.6, "test": 0.4})',
    "group": 'Split({"train": 0.6, "test": 0.4}, by="word")',
    "time": 'Split(by="day", before={"train": 5, "val": 20, "test": None})',
}
SHARES = Split({"train": 0.6, "test": 0.4})
KEEPS = ("Smallest()", "First()", "Last()", 'Greatest("n")')
RECORDS = st.one_of(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.integers(-1, 60).map(str) | st.sampled_from(["", "x"]),
        st.sampled_from([" a", "A", "a", "z", "b", "bbbbb", '" B"']),
    ).map(",".join),
    st.sampled_from(["a,1", "a,1,b,c", "   "]),
)


@dataclass(frozen=True)
class Expected:
    """What plain Python makes of the records, in the order of the source."""

    counts: dict[str, int]
    rules: dict[str, int]
    fixes: dict[str, int]
    holds: bool
    exact: int
    rows: dict[str, tuple[str, int, str]]  # id -> split, n, word


def oracle(records: Sequence[str], split: str, keep: str) -> Expected:
    records = [record for record in records if record.strip()]
    readable: list[tuple[str, int, str]] = []
    fixes = dict.fromkeys(("trim", "lower", "clip"), 0)
    for record in records:
        values = [value.strip() for value in record.split(",")]
        if len(values) != 3 or not values[1].removeprefix("-").isdigit():
            continue
        raw = values[2][1:-1] if values[2].startswith('"') else values[2]
        word, n = raw.strip(), int(values[1])
        fixes["trim"] += word != raw
        fixes["lower"] += word != word.lower()
        fixes["clip"] += n > 50
        readable.append((values[0], min(n, 50), word.lower()))
    pairs = [row[1:] for row in readable]
    rules = {
        "malformed": len(records) - len(readable),
        "above": sum(n <= 0 for _, n, _ in readable),
        "short": sum(len(word) >= 4 for _, _, word in readable),
        "no_z": sum(word == "z" for _, _, word in readable),
        "one_n": sum(pairs.count(pair) > 1 for pair in pairs),
    }
    good = [row for row in readable if row[1] > 0 and len(row[2]) < 4]
    of_key: dict[str, list[tuple[str, int, str]]] = {}
    for row in good:
        of_key.setdefault(row[0], []).append(row)
    choose = {
        "Smallest()": min,
        "First()": lambda rows: rows[0],
        "Last()": lambda rows: rows[-1],
        'Greatest("n")': lambda rows: min(rows, key=lambda row: (-row[1], row[2])),
    }[keep]
    kept = {key: choose(rows) for key, rows in of_key.items()}
    exact = sum(row == kept[key] for key, rows in of_key.items() for row in rows) - len(kept)
    shares = {"key": lambda row: row[0], "group": lambda row: row[2]}
    side = {
        key: ("train" if row[1] < 5 else "val" if row[1] < 20 else "test")
        if split == "time"
        else expected_split(shares[split](row), SHARES)
        for key, row in kept.items()
    }
    return Expected(
        counts={
            "raw": len(records),
            "quarantined": len(records) - len(good),
            "clean": len(good),
            "duplicates": len(good) - len(kept),
            "built": len(kept),
        },
        rules=rules,
        fixes=fixes,
        holds=sum(n > 0 for _, n, _ in readable) >= 0.5 * len(records),
        exact=exact,
        rows={key: (side[key], *row[1:]) for key, row in kept.items()},
    )


def rows_of(out: Path, built: Built) -> dict[str, tuple[str, int, str]]:
    files = (out / built.card.data).glob("split=*/*.parquet")
    rows = [(f.parent.name.removeprefix("split="), row) for f in files for row in pq.ParquetFile(f).read().to_pylist()]
    assert len({row["id"] for _, row in rows}) == len(rows)
    return {row["id"]: (split, row["n"], row["word"]) for split, row in rows}


def build(run: Run, folder: Path, files: Sequence[Sequence[str]], split: str, keep: str) -> tuple[Path, Built]:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    for i, records in enumerate(files):
        (folder / "raw" / f"{i:03d}.csv").write_text("".join(f"{record}\n" for record in records))
    # One folder for each recipe: what Python has imported from a folder stays.
    recipe = folder.parent / f"{split}_{KEEPS.index(keep)}"
    if not recipe.exists():
        write_recipe(recipe, RECIPE.replace("SPLIT", SPLITS[split]).replace("KEEP", keep))
    return folder / "out", run(folder / "raw", folder / "out", recipe=recipe)


def check(run: Run, spark: SparkSession, folder: Path, data: st.DataObject) -> None:
    records = data.draw(st.lists(RECORDS, max_size=40), "records")
    split, keep = data.draw(st.sampled_from(list(SPLITS)), "split"), data.draw(st.sampled_from(KEEPS), "keep")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=3), "cuts"))
    files = [records[a:b] for a, b in zip([0, *cuts], [*cuts, len(records)], strict=True)]
    expected = oracle(records, split, keep)
    # Blocks of a few records, so that a file is read by several tasks.
    spark.conf.set("spark.sql.files.maxPartitionBytes", str(data.draw(st.sampled_from([40, 1 << 20]), "block")))
    spark.conf.set("spark.sql.files.openCostInBytes", str(data.draw(st.sampled_from([1, 1 << 20]), "open cost")))
    try:
        if not expected.counts["raw"]:
            with pytest.raises(RawDataError, match="no row in"):
                build(run, folder / "a", files, split, keep)
            return
        out, built = build(run, folder / "a", files, split, keep)
        assert built.card.counts == expected.counts
        assert (built.clean.rules, built.clean.fixes) == (expected.rules, expected.fixes)
        assert built.clean.expectations["most"]["holds"] == expected.holds
        assert rows_of(out, built) == expected.rows
        assert built.card.exact_duplicates == expected.exact
        contents: dict[tuple[int, str], set[str]] = {}
        for side, n, word in expected.rows.values():
            contents.setdefault((n, word), set()).add(side)
        assert built.card.leakage["equal_rows"] == sum(len(sides) > 1 for sides in contents.values())
        if keep not in ("First()", "Last()"):
            again = data.draw(st.permutations(records), "another order")
            out, built = build(run, folder / "b", [again], split, keep)
            assert rows_of(out, built) == expected.rows
            assert built.card.counts == expected.counts
    finally:
        spark.conf.unset("spark.sql.files.maxPartitionBytes")
        spark.conf.unset("spark.sql.files.openCostInBytes")


# An example takes seconds, and shrinking one minutes.
FEW = settings(
    max_examples=3, phases=[Phase.explicit, Phase.reuse, Phase.generate], suppress_health_check=list(HealthCheck)
)


@given(data=st.data())
@FEW
def test_generated_files_become_what_plain_python_makes_of_them(
    run: Run, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    check(run, spark, tmp_path_factory.getbasetemp() / "oracle" / "data", data)


@pytest.mark.soak
@given(data=st.data())
@settings(FEW, max_examples=40)
def test_many_generated_files_become_what_plain_python_makes_of_them(
    run: Run, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    check(run, spark, tmp_path_factory.getbasetemp() / "oracle" / "data", data)
