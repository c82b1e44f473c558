"""Raw files to a dataset version: counts that add up, the same result from the same rows, nothing half-published."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from etl.run import etl
from penstock import card as cards
from penstock import cli, store
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RawDataError, RecipeError, StorageError
from penstock.recipe import find
from penstock.verify import verify
from tests.etl.conftest import RECIPE, Run, leftovers, write_recipe


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path.parent


def rows(out: Path, card: Card, split: str | None = None) -> list[dict[str, object]]:
    """In the order of the manifest."""
    data = out / card.data
    listed = pq.read_table(data / "_manifest.parquet")
    files = [
        f for f, s in zip(listed["file"].to_pylist(), listed["split"].to_pylist(), strict=True) if split in (None, s)
    ]
    return [row for file in dict.fromkeys(files) for row in pq.ParquetFile(data / file).read().to_pylist()]


def dirty_people(count: int, seed: int) -> tuple[list[str], dict[str, dict[str, object]], list[tuple[int, str]]]:
    """Lines of csv, what must be kept by key, and (line, rule) of what must be refused: the oracle, in plain Python."""
    rng = random.Random(seed)
    lines: list[str] = []
    kept: dict[str, dict[str, object]] = {}
    refused: list[tuple[int, str]] = []
    for i in range(count):
        name, age, city = f"n{rng.randrange(count)}", rng.randrange(-20, 200), rng.choice(["Rom", "Bern", "Paris"])
        match rng.randrange(12):
            case 0:
                line, rule = f"{name},{age}", "malformed"
            case 1:
                line, rule = f"{name},{age},{city},more", "malformed"
            case 2:
                line, rule = f"{name},old,{city}", "malformed"
            case 3:
                line, rule = f",{age},{city}", "malformed"
            case 4:
                lines.append("   ")  # a blank line is no record
                continue
            case _:
                line = f"{name},{age},{city}"
                rule = "age_range" if not 0 <= age <= 150 else "city_known" if city == "Paris" else ""
        lines.append(line)
        if rule:
            refused.append((i + 1, rule))
        else:
            row: dict[str, object] = {"name": name, "age": age, "city": city}
            kept[name] = min(kept.get(name, row), row, key=lambda r: (r["age"], r["city"]))
    return lines, kept, refused


def test_the_counts_agree_with_a_plain_reading_of_the_same_file(run: Run, tmp_path: Path) -> None:
    lines, kept, refused = dirty_people(3_000, seed=1)
    raw = write(tmp_path / "raw" / "people.csv", "\n".join(lines))
    out = tmp_path / "out"
    built = run(raw, out)
    records = sum(bool(line.strip()) for line in lines)
    assert built.clean.counts == {"raw": records, "clean": records - len(refused), "quarantined": len(refused)}
    assert built.card.counts["duplicates"] == records - len(refused) - len(kept)
    assert built.card.counts["built"] == len(kept) == sum(split.rows for split in built.card.splits.values())
    assert {row["name"]: row for row in rows(out, built.card)} == kept
    assert built.clean.quarantine
    quarantine = pq.read_table(out / built.clean.quarantine).to_pylist()
    assert sorted((row["line"], row["rules"][0]) for row in quarantine) == refused
    assert all(row["record"] == lines[row["line"] - 1] and row["file"] == "people.csv" for row in quarantine)
    assert verify(str(out), Console())[1] == []


def test_quarantine_tells_why_and_is_for_its_owner_only(run: Run, tmp_path: Path) -> None:
    text = 'Ada,36,Rom\r\nBob,abc,Rom\r\n\r\nCy,200,Paris\r\nDot,,Rom\r\nEve,5\r\n"F,f",1,Bern\r\n'
    built = run(write(tmp_path / "raw" / "a b+ü.csv", text), tmp_path / "out")
    folder = tmp_path / "out" / str(built.clean.quarantine)
    found = sorted(pq.read_table(folder).to_pylist(), key=lambda row: row["line"])
    assert [(row["line"], row["rules"], row["reasons"]) for row in found] == [
        (2, ["malformed"], ["age must be int, found 'abc'"]),
        (4, ["age_range", "city_known"], ["the age must be 0 to 150", "the city must be Rom or Bern"]),
        (5, ["malformed"], ["age must be int, found nothing"]),
        (6, ["malformed"], ["expected 3 fields, found 2"]),
    ]
    assert {row["file"] for row in found} == {"a b+ü.csv"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {row["name"] for row in rows(tmp_path / "out", built.card)} == {"Ada", "F,f"}
    assert built.clean.rules == {"malformed": 3, "age_range": 1, "city_known": 1}


def test_more_bad_rows_than_allowed_publish_nothing(run: Run, tmp_path: Path) -> None:
    strict = write_recipe(tmp_path / "strict", RECIPE.replace("MAX", "0.01"))
    raw = write(tmp_path / "raw" / "p.csv", "".join(f"n{i},{i},Rom\n" for i in range(100)) + "x,1\ny,-3,Rom\n")
    message = (
        r"2 of 102 rows .* break a rule \(1.96%\), at most 1.00% may; nothing is published.*line 102: the age must be"
    )
    with pytest.raises(RawDataError, match=message):
        run(raw, tmp_path / "out", recipe=strict)
    assert leftovers(tmp_path / "out") == []


def test_the_same_rows_in_other_files_and_partitions_are_the_same_rows(
    run: Run, spark: SparkSession, tmp_path: Path
) -> None:
    lines = [f"n{i},{i % 100},{'Rom' if i % 2 else 'Bern'}" for i in range(5_000)]
    one = write(tmp_path / "one" / "a.csv", "\n".join(lines))
    random.Random(0).shuffle(lines)
    for i in range(4):
        write(tmp_path / "four" / f"{i}.csv", "\n".join(lines[i::4]))
    first = run(one, tmp_path / "out1")
    spark.conf.set("spark.sql.files.maxPartitionBytes", "20000")
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    again = run(one, tmp_path / "out2")
    other = run(tmp_path / "four", tmp_path / "out3")
    spark.conf.unset("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.shuffle.partitions", "8")
    assert first.card.version == again.card.version != other.card.version
    assert first.card.splits == again.card.splits == other.card.splits
    assert first.card.profile == again.card.profile == other.card.profile != {}
    files = [
        sorted((tmp_path / out / card.data).glob("split=*/*.parquet"))
        for out, card in (("out1", first.card), ("out2", again.card), ("out3", other.card))
    ]
    for same in zip(*files, strict=True):
        assert len({path.read_bytes() for path in same}) == 1


def test_clean_rows_are_kept_only_if_asked_and_the_detour_changes_nothing(run: Run, tmp_path: Path) -> None:
    lines, _, refused = dirty_people(1_000, seed=2)
    raw, out, kept_out = write(tmp_path / "raw" / "p.csv", "\n".join(lines)), tmp_path / "out", tmp_path / "kept"
    direct, kept = run(raw, out), run(raw, kept_out, keep_clean=True)
    assert (direct.clean.data, direct.clean.files) == (None, {})
    assert not (out / "clean" / "data").exists()
    assert len(refused) == direct.clean.counts["quarantined"]
    assert (direct.clean.counts, direct.clean.rules) == (kept.clean.counts, kept.clean.rules)
    assert direct.card.version == kept.card.version
    assert (direct.card.counts, direct.card.splits) == (kept.card.counts, kept.card.splits)
    files = [sorted((o / b.card.data).glob("split=*/*.parquet")) for o, b in ((out, direct), (kept_out, kept))]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert pq.read_table(kept_out / "clean" / str(kept.clean.data)).num_rows == kept.clean.counts["clean"]
    for folder, built in ((out, direct), (kept_out, kept)):
        assert verify(str(folder), Console())[1] == []
        (folder / "cards" / f"{built.card.version}.json").unlink()
    # Without the card: from the raw files again, or from the clean rows.
    again, from_kept = run(raw, out), run(raw, kept_out, keep_clean=True)
    assert (again.card.splits, from_kept.card.splits) == (direct.card.splits, direct.card.splits)
    assert (again.clean, from_kept.clean) == (direct.clean, kept.clean)
    assert len(list((out / "quarantine").iterdir())) == 1
    next((kept_out / "clean" / str(kept.clean.data)).glob("*.parquet")).unlink()
    (kept_out / "cards" / f"{kept.card.version}.json").unlink()
    with pytest.raises(DatasetError, match="missing or have another length"):
        run(raw, kept_out, keep_clean=True)


def test_an_equal_key_keeps_one_row_whatever_the_order(run: Run, tmp_path: Path) -> None:
    lines = ["a,5,Rom", "b,1,Bern", "a,5,Bern", "a,4,Rom", "b,1,Bern"]
    one = run(write(tmp_path / "r1" / "p.csv", "\n".join(lines)), tmp_path / "o1")
    other = run(write(tmp_path / "r2" / "p.csv", "\n".join(reversed(lines))), tmp_path / "o2")
    assert one.card.counts["duplicates"] == 3
    assert one.card.splits == other.card.splits
    assert {r["name"]: (r["age"], r["city"]) for r in rows(tmp_path / "o1", one.card)} == {
        "a": (4, "Rom"),
        "b": (1, "Bern"),
    }


def test_a_key_keeps_its_split_when_more_rows_come(run: Run, tmp_path: Path) -> None:
    lines = [f"n{i},1,Rom" for i in range(400)]
    few = run(write(tmp_path / "r1" / "p.csv", "\n".join(lines[:200])), tmp_path / "o1")
    many = run(write(tmp_path / "r2" / "p.csv", "\n".join(lines)), tmp_path / "o2")
    for name in ("train", "val", "test"):
        assert {r["name"] for r in rows(tmp_path / "o1", few.card, name)} <= {
            r["name"] for r in rows(tmp_path / "o2", many.card, name)
        }
    assert abs(many.card.splits["train"].rows / 400 - 0.6) < 0.1


def test_the_second_time_nothing_is_done(digits_csv: Path, built_digits: Path) -> None:
    before = leftovers(built_digits)
    code = "import sys; from penstock.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "etl", "digits", "--raw", digits_csv, "--out", built_digits, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nowhere"})  # no Java: no Spark
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reused"]
    assert told["counts"]["raw"] == 1797
    assert leftovers(built_digits) == before


def test_what_the_recipe_means_makes_another_version(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "a,1,Rom\nb,2,Bern\n")
    text = RECIPE.replace("MAX", "0.9")
    first = run(raw, tmp_path / "out")
    commented = write_recipe(tmp_path / "commented", text.replace("def read", "# why\n\ndef read"))
    changed = write_recipe(tmp_path / "changed", text.replace("between 0 and 150", "between 0 and 120"))
    assert run(raw, tmp_path / "out", recipe=commented).reused
    assert run(raw, tmp_path / "out", recipe=changed).card.version != first.card.version
    write(tmp_path / "raw" / "p.csv", "a,1,Rom\nb,3,Bern\n")
    assert run(raw, tmp_path / "out").card.version != first.card.version
    assert len(cards.versions(store.absolute(str(tmp_path / "out")))) == 3


def test_two_writers_of_a_version_end_with_the_first_card(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "\n".join(f"n{i},1,Rom" for i in range(50)))
    built = []
    threads = [threading.Thread(target=lambda: built.append(run(raw, tmp_path / "out"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 2
    assert built[0].card == built[1].card
    assert len(list((tmp_path / "out" / "data").iterdir())) == 1
    assert verify(str(tmp_path / "out"), Console())[1] == []


def test_a_card_whose_writer_got_an_error_keeps_its_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a NameNode that creates the file, and whose answer is lost."""
    raw, publish = write(tmp_path / "raw" / "p.csv", "a,1,Rom\nb,2,Bern\n"), cards.publish

    def lost(folder: str, card: Card) -> bool:
        if publish(folder, card):
            raise StorageError("no answer")
        return False

    monkeypatch.setattr(cards, "publish", lost)
    for _ in ("clean card", "card"):
        with pytest.raises(StorageError, match="no answer"):
            run(raw, tmp_path / "out")
    assert verify(str(tmp_path / "out"), Console())[1] == []
    assert run(raw, tmp_path / "out").reused


def test_frozen_transforms_are_those_of_the_other_version(
    spark: SparkSession, digits_csv: Path, built_digits: Path, tmp_path: Path
) -> None:
    import gzip

    lines = gzip.decompress(digits_csv.read_bytes()).decode().splitlines()
    new = write(tmp_path / "new" / "d.csv", "\n".join(line.rpartition(",")[0] for line in lines[:300]))
    trained = cards.load(str(built_digits))
    scored = etl(find("digits"), str(new), str(tmp_path / "out"), Console(), frozen=trained, labelled=False).card
    assert scored.transforms == trained.transforms
    assert scored.contract == trained.contract
    assert scored.schema.label is None
    assert scored.counts["built"] == 300


def test_fitted_figures_are_those_of_the_training_rows(built_digits: Path) -> None:
    card = cards.load(str(built_digits))
    pixels = np.concatenate([np.frombuffer(row["image"], np.uint8) for row in rows(built_digits, card, "train")])  # type: ignore[call-overload]
    assert card.transforms["image"]["mean"] == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-12)
    assert card.transforms["image"]["std"] == pytest.approx(pixels.std(dtype=np.float64), rel=1e-12)


def test_pandas_duckdb_and_spark_read_a_version_as_it_is(spark: SparkSession, built_digits: Path) -> None:
    card = cards.load(str(built_digits))
    first = rows(built_digits, card, "test")[0]
    folder = f"{built_digits}/{card.data}"
    with_pandas = pd.read_parquet(f"{folder}/split=test")
    with_duckdb = duckdb.sql(
        f"SELECT image, label FROM '{folder}/split=*/*.parquet' WHERE id = '{first['id']}'"
    ).fetchall()
    with_spark = spark.read.parquet(folder).where(f"id = '{first['id']}' AND split = 'test'").collect()
    images = [with_pandas["image"][0], with_duckdb[0][0], bytes(with_spark[0]["image"])]
    for image in images:
        np.testing.assert_array_equal(np.frombuffer(image, np.uint8), np.frombuffer(first["image"], np.uint8))  # type: ignore[call-overload]
    assert with_pandas["label"][0] == with_duckdb[0][1] == with_spark[0]["label"] == first["label"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def clean(df):\n    return df", "def clean(df):\n    return df.drop('age')"), "age must be int, is missing"),
        (('Field("age", "int32")', 'Field("age", "int64")'), "age must be bigint, is int"),
        (("age between 0 and 150", "agee between 0 and 150"), "asks Spark for what it cannot do.*agee"),
        (("age between 0 and 150", "age between and"), "asks Spark for what it cannot do"),
        (
            ("def clean(df):\n    return df", "def clean(df):\n    df"),
            "clean.. of the recipe must return a DataFrame of Spark",
        ),
    ],
)
def test_a_recipe_that_contradicts_itself_is_said(
    run: Run, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    wrong = write_recipe(tmp_path / "wrong", RECIPE.replace("MAX", "0.9").replace(*change))
    with pytest.raises(RecipeError, match=message):
        run(write(tmp_path / "raw" / "p.csv", "a,1,Rom\n"), tmp_path / "out", recipe=wrong)
    assert not [name for name in leftovers(tmp_path / "out") if not name.startswith("clean/")]


def test_raw_data_that_is_no_data_is_said(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="nothing at"):
        run(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RawDataError, match="no file in"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(RawDataError, match="no row in the 1 files"):
        run(write(tmp_path / "blank" / "p.csv", "\n\n"), tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_a_truncated_gzip_is_said(spark: SparkSession, digits_csv: Path, tmp_path: Path) -> None:
    cut = tmp_path / "raw" / "digits.csv.gz"
    cut.parent.mkdir()
    cut.write_bytes(digits_csv.read_bytes()[:-2000])
    with pytest.raises(RawDataError, match=r"digits.csv.gz: cannot be read.*truncated or damaged"):
        etl(find("digits"), str(cut.parent), str(tmp_path / "out"), Console())
    assert leftovers(tmp_path / "out") == []


def test_a_place_that_cannot_be_written_is_said_before_the_work(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "a,1,Rom\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file is where a folder is needed"):
        run(raw, tmp_path / "file" / "out")
    with pytest.raises(PenstockError):
        run(raw, Path("/proc/out"))


def test_a_full_disk_publishes_nothing(run: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small disk")
    try:
        raw = write(tmp_path / "raw" / "p.csv", "\n".join(f"{random.random()}{i},1,Rom" for i in range(60_000)))
        with pytest.raises(StorageError, match="no space left on the device"):
            run(raw, disk / "out")
        assert leftovers(disk / "out") == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_reused_version_that_lost_a_file_is_said(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "a,1,Rom\nb,2,Bern\n")
    built = run(raw, tmp_path / "out")
    next((tmp_path / "out" / built.card.data).glob("split=*/*.parquet")).unlink()
    with pytest.raises(DatasetError, match=r"missing or have another length.*remove its card .* and run again"):
        run(raw, tmp_path / "out")
    (tmp_path / "out" / "cards" / f"{built.card.version}.json").unlink()
    assert not run(raw, tmp_path / "out").reused


def test_an_empty_split_is_in_the_card(run: Run, tmp_path: Path) -> None:
    built = run(write(tmp_path / "raw" / "p.csv", "a,1,Rom\n"), tmp_path / "out")
    assert sorted(split.rows for split in built.card.splits.values()) == [0, 0, 1]
    assert list(built.card.splits) == ["train", "val", "test"]


def test_the_known_cards_add_up(built_digits: Path) -> None:
    card = cards.load(str(built_digits))
    clean = cards.find(f"file://{built_digits}/clean", card.lineage["clean"][0])
    assert isinstance(clean, CleanCard)
    assert clean.counts == {"raw": 1797, "clean": 1797, "quarantined": 0}
    assert clean.lineage["raw_files"][0]["name"] == "digits.csv.gz"


def test_an_error_is_one_sentence_and_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["etl", "digits", "--raw", str(tmp_path / "x"), "--out", str(tmp_path / "o"), "--json"]) == 1
    output = capfd.readouterr()
    assert "error: raw data: nothing at" in output.err
    assert "Traceback" not in output.err
    assert "nothing at" in json.loads(output.out.splitlines()[-1])["error"]


# What a recipe or a user does wrong


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        (
            "return df.where('age > 0')",
            r"2 raw rows, but 1 clean .* the recipe's clean\(\) does not give one row for each",
        ),
        ("return df.union(df)", r"2 raw rows, but 4 clean .* does not give one row for each"),
        (
            "return df.selectExpr('name', 'nullif(age, 0) age', 'city')",
            r"1 nulls in column 'age', expected none; the re",
        ),
    ],
)
def test_a_clean_that_loses_rows_or_values_publishes_no_version(
    run: Run, tmp_path: Path, clean: str, message: str
) -> None:
    wrong = write_recipe(tmp_path / "wrong", RECIPE.replace("MAX", "0.9").replace("return df", clean))
    with pytest.raises(DatasetError, match=message):
        run(write(tmp_path / "raw" / "p.csv", "a,0,Rom\nb,1,Rom\n"), tmp_path / "out", recipe=wrong)
    assert not [name for name in leftovers(tmp_path / "out") if not name.startswith("clean/")]


def test_all_rows_may_be_refused_where_the_recipe_allows_it(run: Run, tmp_path: Path) -> None:
    lenient = write_recipe(tmp_path / "lenient", RECIPE.replace("MAX", "1.0"))
    built = run(write(tmp_path / "raw" / "p.csv", "a,x,Rom\n"), tmp_path / "out", recipe=lenient)
    assert built.card.counts == {"raw": 1, "quarantined": 1, "clean": 0, "duplicates": 0, "built": 0}
    assert verify(str(tmp_path / "out"), Console())[1] == []
    assert run(tmp_path / "raw", tmp_path / "out", recipe=lenient).reused


def test_a_folder_may_have_any_name(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "r[a]w {1,2}*?#%41+" / "p.csv", "a,1,Rom\nb,x,Rom\n")
    built = run(raw, tmp_path / "o[u]t {1,2}")
    assert built.clean.counts == {"raw": 2, "clean": 1, "quarantined": 1}
    assert verify(str(tmp_path / "o[u]t {1,2}"), Console())[1] == []


def test_raw_data_may_be_named_by_a_pattern(run: Run, tmp_path: Path) -> None:
    for day in ("2011-01-30", "2011-01-31", "2011-02-01"):
        write(tmp_path / "raw" / day / "p.csv", f"{day},1,Rom\nb,x,Rom\n")
    built = run(tmp_path / "raw" / "2011-01-*", tmp_path / "raw" / "dataset")
    assert built.clean.counts == {"raw": 4, "clean": 2, "quarantined": 2}
    refused = pq.read_table(tmp_path / "raw" / "dataset" / str(built.clean.quarantine)).to_pylist()
    assert {(row["file"], row["line"]) for row in refused} == {("2011-01-30/p.csv", 2), ("2011-01-31/p.csv", 2)}
    with pytest.raises(RawDataError, match=r"raw data: nothing at .*raw/2012-\*; check --raw"):
        run(tmp_path / "raw" / "2012-*", tmp_path / "out")


def test_a_dataset_is_not_made_inside_its_raw_data(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "a,1,Rom\n")
    with pytest.raises(StorageError, match="lies in the raw data's folder, and would be raw data to the next run"):
        run(raw, raw / "out")
    assert leftovers(raw) == ["p.csv"]


def test_raw_data_that_changes_while_it_is_read_is_refused(run: Run, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "a,1,Rom\n")
    text = RECIPE.replace("MAX", "0.9")
    appends = write_recipe(
        tmp_path / "appends",
        text.replace("    return csv", f"    open('{raw}/p.csv', 'a').write('b,2,Rom\\n')\n    return csv"),
    )
    with pytest.raises(RawDataError, match=r"raw data: .*raw changed while it was read; run again"):
        run(raw, tmp_path / "out", recipe=appends)
    assert leftovers(tmp_path / "out") == []


def test_transforms_of_other_fields_are_refused(run: Run, built_digits: Path, tmp_path: Path) -> None:
    raw = write(tmp_path / "raw" / "p.csv", "a,1,Rom\n")
    with pytest.raises(
        RecipeError, match=r"--frozen: version .* is of recipe 'digits' and has other fields than recipe"
    ):
        run(raw, tmp_path / "out", frozen=cards.load(str(built_digits)))


def test_no_key_is_in_two_splits(run: Run, tmp_path: Path) -> None:
    text = RECIPE.replace("MAX", "0.9").replace('"test": 0.2}', '"test": 0.2}, source="said"')
    sourced = write_recipe(
        tmp_path / "sourced",
        text.replace("return df", "return df.selectExpr('*', \"if(city = 'Bern', 'test', null) said\")"),
    )
    names = [f"n{i}" for i in range(20)]
    raw = write(tmp_path / "raw" / "p.csv", "".join(f"{name},1,Rom\n{name},1,Bern\n" for name in names))
    with pytest.raises(
        RecipeError, match=r"the rows of key 'n\d+' are in the splits .*; column 'said' must name one spl"
    ):
        run(raw, tmp_path / "out", recipe=sourced)


def test_a_rule_that_cannot_be_computed_is_named(run: Run, tmp_path: Path) -> None:
    text = RECIPE.replace("MAX", "0.9").replace("age between 0 and 150", "100 / age > 1")
    wrong = write_recipe(tmp_path / "wrong", text)
    with pytest.raises(
        RecipeError, match=r"the recipe's expression '100 / age.*' fails on this data: Division by zero"
    ):
        run(write(tmp_path / "raw" / "p.csv", "a,0,Rom\n"), tmp_path / "out", recipe=wrong)
    assert leftovers(tmp_path / "out") == []


def people_of(ages: range, first: int) -> str:
    return "".join(f"n{first + i},{age},{'Rom' if i % 3 else 'Bern'}\n" for i, age in enumerate([*ages] * 10))


def test_drift_beyond_the_limit_publishes_nothing(run: Run, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "steady", RECIPE.replace("MAX", "0.9") + "\nmax_drift = {'age': 0.25}\n")
    out = tmp_path / "out"
    first = run(write(tmp_path / "may" / "p.csv", people_of(range(20, 60), 0)), out, recipe=recipe).card
    second = run(write(tmp_path / "june" / "p.csv", people_of(range(21, 60), 1_000)), out, recipe=recipe).card
    assert first.drift is None
    assert second.drift
    assert (second.drift["against"], second.drift["limit"]) == (first.version, {"age": 0.25})
    assert {(c["split"], c["column"]) for c in second.drift["columns"]} == {
        (split, column) for split in first.splits for column in ("age", "city")
    }
    published = leftovers(out)
    message = (
        rf"drift: \d of 6 columns have moved further from version {second.version} of .* than max_drift = .* allows: "
        r"age in \w+ \(PSI \d\.\d\d; mean [34]\d.* -> [67]\d.*\).*; nothing is published\. Mend the raw data, or"
    )
    july = write(tmp_path / "july" / "p.csv", "bad line\n" + people_of(range(50, 90), 5_000))
    with pytest.raises(RawDataError, match=message):
        run(july, out, recipe=recipe)
    assert leftovers(out) == published
    other = write_recipe(tmp_path / "other", RECIPE.replace("MAX", "0.9") + "\nmax_drift = 0.25\n")
    assert run(july, out, recipe=other).card.drift is None  # the first version of this recipe
