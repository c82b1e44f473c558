"""csv as it is in the wild: headers, quotes, encodings, archives, and real files whose counts are known."""

from __future__ import annotations

import bz2
import csv as python_csv
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from etl import clean
from etl.read import csv
from etl.read.fields import as_integer
from etl.spark import user_errors
from penstock.errors import PenstockError, RawDataError, RecipeError
from tests.conftest import SHARED_DATA

PAIR = {"a": "int", "b": "string"}


def write(folder: Path, files: Mapping[str, bytes | str]) -> str:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return f"file://{folder}"


def rows(df: DataFrame) -> list[tuple[Any, ...]]:
    """The columns of the records that can be read."""
    names = [name for name in df.columns if not name.startswith("_")]
    return sorted(tuple(row) for row in df.where("not _malformed").select(*names).collect())


def refused(df: DataFrame, url: str) -> list[tuple[Any, ...]]:
    found = clean.refused(clean.check(df, (), url), (), url).collect()
    return sorted((row["file"], row["line"], row["record"], *row["reasons"]) for row in found)


def shared(name: str) -> str:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine (expected in ../shared/data)")
    return f"file://{path}"


def test_columns_are_found_by_the_names_of_each_files_header(spark: SparkSession, tmp_path: Path) -> None:
    url = write(
        tmp_path, {"x.csv": "a,b\n1,x\n", "y.csv": 'b,"a"\r\ny,2\r\nb,a\r\n', "z.csv": "", "s/w.csv": " a , b \n3,z\n"}
    )
    df = csv(spark, url, PAIR, header=True)
    assert rows(df) == [(1, "x"), (2, "y"), (3, "z")]
    assert refused(df, url) == [("y.csv", 3, "b,a", "a must be int, found 'a'")]


def test_aliases_and_extra_columns_are_what_a_recipe_allows(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"x.csv": "old.a,b\n1,x\n", "y.csv": "b,new,a\ny,?,2\nz,3\n"})
    df = csv(spark, url, PAIR, header=True, aliases={"old.a": "a"}, extra_columns=True)
    assert rows(df) == [(1, "x"), (2, "y")]
    assert refused(df, url) == [("y.csv", 3, "z,3", "expected 3 fields, found 2")]


@pytest.mark.parametrize(
    ("header", "difference"),
    [
        ("a", "missing b"),
        ("a,c", "missing b; not expected 'c'"),
        ("a,b,c", "not expected 'c'"),
        ("a,b,a", "there twice a"),
        ("1,x", "missing a, b; not expected '1', 'x'"),
        ("a;b", "missing a, b; not expected 'a;b'"),
    ],
)
def test_schema_drift_is_one_message_with_both_lists(
    spark: SparkSession, tmp_path: Path, header: str, difference: str
) -> None:
    url = write(tmp_path, {"good.csv": "a,b\n", "new.csv": f"{header}\n1,2\n", "sub/new.csv": f"{header}\n"})
    message = (
        f"raw data: 2 of 3 files have other columns than the recipe reads. Expected a, b. {tmp_path}/new.csv (and 1 "
        f"like it) has {header.replace(',', ', ')} ({difference}). Mend the files, or change the recipe's columns, "
        f"delimiter, aliases or extra_columns"
    )
    with pytest.raises(RawDataError) as raised:
        csv(spark, url, PAIR, header=True)
    assert str(raised.value) == message


def test_a_header_that_is_too_long_for_python_is_said(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match=r"the header of .*a.csv cannot be read \(field larger .*is the delimiter"):
        csv(spark, write(tmp_path, {"a.csv": "a" * 200_000 + "\n"}), PAIR, header=True)


def test_nulls_are_what_the_recipe_says_though_spark_can_read_them(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"a": "int", "b": "string", "c": "double"}
    url = write(tmp_path, {"a.csv": "1,x,NaN\n-9,y,1\n2,NA,2\n-90,N,3\n"})
    df = csv(spark, url, columns, nulls=("-9", "NaN", "NA"), nullable=("c",))
    assert rows(df) == [(-90, "N", 3.0), (1, "x", None)]
    said = [(line, why) for _, line, _, why in refused(df, url)]
    assert said == [(2, "a must be int, found '-9'"), (3, "b must be string, found 'NA'")]


def test_names_and_nulls_may_be_any_text(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"it's": "int", "a`b.c": "double", "d\\n": "string", "${env:HOME}": "int", 'say "x"': "date"}
    nulls = ("n'a", "\\N", "${env:HOME}")
    lines = ["1,2.5,x,3,2020-01-02", "n'a,1,x,1,2020-01-02", "1,1,\\N,1,2020-01-02", "1,1,${env:HOME},y,2020-01-02"]
    url = write(tmp_path, {"a.csv": "\n".join(lines)})
    df = csv(spark, url, columns, nulls=nulls)
    assert df.columns[:5] == [*columns]
    assert [tuple(row)[:3] for row in df.where("not _malformed").collect()] == [(1, 2.5, "x")]
    assert [why for _, _, _, why in refused(df, url)] == [
        "it's must be int, found 'n'a'",
        "d\\n must be string, found '\\N'",
        "d\\n must be string, found '${env:HOME}'; ${env:HOME} must be int, found 'y'",
    ]


def test_links_in_an_archive_are_said(spark: SparkSession, tmp_path: Path) -> None:
    file = tmp_path / "raw" / "x.tar"
    file.parent.mkdir()
    with tarfile.open(file, "w") as archive:
        for name, kind in (("a.csv", tarfile.REGTYPE), ("b.csv", tarfile.LNKTYPE), ("c.txt", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "" if kind == tarfile.REGTYPE else "a.csv"
            archive.addfile(member)
    with pytest.raises(RawDataError, match=r"x.tar: b.csv is a link to a.csv, and not read; pack the files themselves"):
        csv(spark, str(file), PAIR, header=True, only="*.csv").collect()


def test_a_nullable_column_that_is_none_is_said(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nullable: there is no column 'B' among a, b; mend the name"):
        csv(spark, write(tmp_path, {"a.csv": "1,x\n"}), PAIR, nullable=("B",))


def test_bytes_in_a_header_do_not_reach_the_terminal(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match=r"has 'PK\\x03\\x1b' \(missing"):
        csv(spark, write(tmp_path, {"book.csv": "PK\x03\x1b\n"}), PAIR, header=True)


def test_fields_that_lack_are_too_many_or_are_of_another_type_are_said(spark: SparkSession, tmp_path: Path) -> None:
    records = [
        "1,x",
        "1",
        "1,x,y",
        "1.5,x",
        ",x",
        '1,"x',
        '1,"a,b"',
        'x"",y',
        "NA,NA",
        f"2,{'z' * 300}",
        f"y{'z' * 300},1",
        '"1',
    ]
    several = "has it a value of several lines (`quoted_newlines`)?"
    url = write(tmp_path, {"a.csv": "\n".join(records)})
    df = csv(spark, url, PAIR, nulls=("NA",), nullable=("b",))
    assert rows(df) == [(1, "a,b"), (1, "x"), (2, "z" * 300)]
    assert [(line, why) for _, line, _, why in refused(df, url)] == [
        (2, "expected 2 fields, found 1"),
        (3, "expected 2 fields, found 3"),
        (4, "a must be int, found '1.5'"),
        (5, "a must be int, found nothing"),
        (6, f"expected quotes in pairs, found one that nothing closes; {several}"),
        (8, "a must be int, found 'x\"\"'"),
        (9, "a must be int, found 'NA'"),
        (11, f"a must be int, found 'y{'z' * 99}'"),
        (12, f"expected 2 fields, found 1, and a quote that nothing closes; {several}"),
    ]


@given(
    st.lists(
        st.decimals(-1000, 1000, places=3)
        | st.integers(-(1 << 64), 1 << 64).map(Decimal)
        | st.builds(Decimal, st.sampled_from(["1E-19", "5.00E+05", "1.2345E+3", "1.5E0", "1E+30", "0E-3", "17850.0"])),
        min_size=1,
    ),
    st.sampled_from(["{}", "{:f}", "{:E}", "{:+.2f}", "{:.0f}.", "{:.5E}"]),
)
@settings(max_examples=15, deadline=None)
def test_an_integer_may_be_written_as_a_decimal_that_is_one(
    spark: SparkSession, values: Sequence[Decimal], form: str
) -> None:
    texts = [form.format(value) for value in values]
    kinds = {"int": 31, "bigint": 63}
    df = spark.createDataFrame(pa.table({"text": texts}))
    found = df.select("text", *(F.expr(as_integer("text", kind)).alias(kind) for kind in kinds)).collect()
    for row in found:
        number = Decimal(row["text"])
        for kind, bits in kinds.items():
            fits = number == int(number) and -(1 << bits) <= number < 1 << bits
            assert row[kind] == (int(number) if fits else None)


def test_integral_decimals_are_read_and_others_refused(spark: SparkSession, tmp_path: Path) -> None:
    lines = ["17850.0,5.00E+05", "17850,1e3", "17850.5,1", "1,5.55E+01", "1.,-2.0E0", "3000000000.0,1", "0x1,1"]
    url = write(tmp_path, {"a.csv": "\n".join(lines)})
    df = csv(spark, url, {"a": "int", "b": "bigint"})
    assert rows(df) == [(1, -2), (17850, 1000), (17850, 500_000)]
    assert [why for *_, why in refused(df, url)] == [
        "a must be int, found '17850.5'",
        "b must be bigint, found '5.55E+01'",
        "a must be int, found '3000000000.0'",
        "a must be int, found '0x1'",
    ]


@pytest.mark.parametrize("quoted_newlines", [False, True])
@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        (
            '1\t say "hi"\n2\t"open\n',
            {"delimiter": "\t", "quote": None, "trim": False},
            [(1, ' say "hi"'), (2, '"open')],
        ),
        (
            "1::0012 ::\n2::x:y::z\n",
            {"delimiter": "::", "quote": None, "extra": True},
            [(1, "0012", None), (2, "x:y", "z")],
        ),
        ("1|'a|b'\n2|it''s\n", {"delimiter": "|", "quote": "'"}, [(1, "a|b"), (2, "it''s")]),
        ('1, "x ""y"" "\n 2 , y \n', {}, [(1, 'x "y" '), (2, "y")]),
    ],
)
def test_delimiters_and_quotes_are_what_the_recipe_says(
    spark: SparkSession, tmp_path: Path, quoted_newlines: bool, text: str, options: dict[str, Any], found: list[Any]
) -> None:
    url = write(tmp_path, {"a.csv": text})
    more = {"c": "string"} if options.pop("extra", False) else {}
    df = csv(spark, url, PAIR | more, nullable=tuple(more), quoted_newlines=quoted_newlines, **options)
    assert rows(df) == found
    options["extra"] = bool(more)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), st.sampled_from(["utf-8", "utf-16"]))
@settings(max_examples=8, deadline=None)
def test_whatever_a_csv_writer_quotes_comes_back(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, cells: Sequence[tuple[str, str]], encoding: str
) -> None:
    file = io.StringIO(newline="")
    python_csv.writer(file, quoting=python_csv.QUOTE_ALL).writerows((i, *pair) for i, pair in enumerate(cells))
    url = write(tmp_path_factory.mktemp("cells"), {"a.csv": file.getvalue().encode(encoding)})
    columns = {"n": "int", "a": "string", "b": "string"}
    df = csv(spark, url, columns, nullable=("a", "b"), quoted_newlines=True, encoding=encoding)
    assert rows(df) == [(i, a or None, b or None) for i, (a, b) in enumerate(cells)]


def test_a_record_of_several_lines_is_found_by_its_first(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"a.csv": 'a,b\r\n1,"x\r\ny"\r\n\r\nz,"u\nv"\r\n2,w\r\n'})
    df = csv(spark, url, PAIR, header=True, quoted_newlines=True)
    assert rows(df) == [(1, "x\r\ny"), (2, "w")]
    assert refused(df, url) == [("a.csv", 5, 'z,"u\nv"', "a must be int, found 'z'")]


def tar(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


GOOD, BAD = b"a,b\n1,x\n", b"b,a\ny,2\n\nz,q\n"
MEMBERS = {"./day/1.csv": GOOD, "day/2.csv": BAD, "day/README": b"no data", "._1.csv": b"\0\1"}
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "x.tar": lambda: tar(MEMBERS, "w"),
    "x.tar.gz": lambda: tar(MEMBERS),
    "x.TGZ": lambda: tar(MEMBERS),
    "x.tar.bz2": lambda: tar(MEMBERS, "w:bz2"),
    "x.tar.xz": lambda: tar(MEMBERS, "w:xz"),
    "x.tar.zst": lambda: zstd(tar(MEMBERS, "w")),
    "x.zip": lambda: zipped(MEMBERS),
}
COMPRESSED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


def test_members_of_archives_are_read_as_files_of_a_folder(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {name: pack() for name, pack in ARCHIVES.items()})
    df = csv(spark, url, PAIR, header=True, only="*.csv")
    assert rows(df) == [(1, "x")] * len(ARCHIVES) + [(2, "y")] * len(ARCHIVES)
    said = (4, "z,q", "a must be int, found 'q'")
    assert refused(df, url) == sorted((f"{name}!/day/2.csv", *said) for name in ARCHIVES)
    one = csv(spark, f"{url}/x.tar.gz", PAIR, header=True, only="*.csv")
    assert rows(one) == [(1, "x"), (2, "y")]
    assert refused(one, f"{url}/x.tar.gz") == [("x.tar.gz!/day/2.csv", *said)]


def test_compressed_files_are_read_by_their_names(spark: SparkSession, tmp_path: Path) -> None:
    for kinds in (list(COMPRESSED), ["gz", "bz2", "zst"]):  # with .xz not by Spark
        folder = tmp_path / "".join(kinds)
        packed = {f"b.csv.{kind}": COMPRESSED[kind](BAD) for kind in kinds}
        url = write(folder, {**packed, "sub/c.csv": GOOD, "d.txt": "?"})
        df = csv(spark, url, PAIR, header=True, only="*.csv")
        assert rows(df) == [(1, "x"), *[(2, "y")] * len(kinds)]
        said = (4, "z,q", "a must be int, found 'q'")
        assert refused(df, url) == sorted((f"b.csv.{kind}", *said) for kind in kinds)


BROKEN: dict[str, bytes] = {
    "cut.csv.gz": gzip.compress(GOOD * 9)[:-5],
    "no.csv.gz": GOOD,
    "flipped.csv.bz2": bz2.compress(GOOD)[:-9] + b"123456789",
    "cut.csv.zst": zstd(GOOD * 9)[:-6],
    "cut.csv.xz": lzma.compress(GOOD)[:-6],
    "cut.tar.gz": tar(MEMBERS)[:-30],
    "cut.tar": tar(MEMBERS, "w")[:1800],
    "no.zip": GOOD,
    "cut.zip": zipped(MEMBERS)[:-30],
}


@pytest.mark.parametrize("name", ["cut.csv.gz", "cut.csv.xz", "cut.tar.gz", "no.zip"])
def test_a_file_that_cannot_be_read_ends_the_job_and_is_named(spark: SparkSession, tmp_path: Path, name: str) -> None:
    url = write(tmp_path, {"good.csv": GOOD, name: BROKEN[name]})
    with pytest.raises(RawDataError, match=rf"{name}\S*: cannot be read.*copy it again"), user_errors(url, "out"):
        csv(spark, url, PAIR, header=True).collect()


def test_or_is_one_quarantined_row_if_the_recipe_says_so(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"good.csv": GOOD, **BROKEN})
    df = csv(spark, url, PAIR, header=True, unreadable="quarantine")
    assert rows(df) == [(1, "x")]
    found = refused(df, url)
    assert [(file, line, record) for file, line, record, _ in found] == [(name, None, None) for name in sorted(BROKEN)]
    assert all(f"{name}: cannot be read (" in why for name, _, _, why in found)


def test_only_unreadable_files_give_only_quarantined_rows(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"no.csv.gz": GOOD})
    df = csv(spark, url, PAIR, unreadable="quarantine")
    assert rows(df) == []
    assert [file for file, *_ in refused(df, url)] == ["no.csv.gz"]


def test_what_a_recipe_says_wrongly_is_said(spark: SparkSession, tmp_path: Path) -> None:
    url = write(tmp_path, {"a.csv": GOOD})
    for options, message in [
        ({"quote": "«"}, "one ASCII character"),
        ({"delimiter": ""}, "expected a delimiter"),
        ({"encoding": "klingon"}, "none named 'klingon'"),
        ({"unreadable": "ignore"}, "'fail' or 'quarantine'"),
    ]:
        with pytest.raises(RecipeError, match=message):
            csv(spark, url, PAIR, **options)
    with pytest.raises(PenstockError, match=r"expected files named \*.tsv in .*, found a.csv; check --raw"):
        csv(spark, url, PAIR, only="*.tsv")


CREDIT = (
    "ID,LIMIT_BAL,SEX,EDUCATION,MARRIAGE,AGE,PAY_0,PAY_2,PAY_3,PAY_4,PAY_5,PAY_6,BILL_AMT1,BILL_AMT2,BILL_AMT3,"
    "BILL_AMT4,BILL_AMT5,BILL_AMT6,PAY_AMT1,PAY_AMT2,PAY_AMT3,PAY_AMT4,PAY_AMT5,PAY_AMT6,default_payment_next_month"
)
CREDIT_COLUMNS = dict.fromkeys(CREDIT.split(","), "int")
ALIASES = {"default.payment.next.month": "default_payment_next_month"}


@pytest.mark.slow
def test_credit_default_and_its_split_record(spark: SparkSession) -> None:
    good = csv(spark, shared("credit_default"), CREDIT_COLUMNS, header=True)
    dirty_url = shared("dirty")
    dirty = csv(spark, dirty_url, CREDIT_COLUMNS, header=True, aliases=ALIASES)
    names = list(CREDIT_COLUMNS)
    good_rows, dirty_rows = (df.where("not _malformed").select(*names) for df in (good, dirty))
    assert good_rows.count() == 30_000
    assert dirty_rows.count() == 29_999
    assert [row["ID"] for row in good_rows.exceptAll(dirty_rows).collect()] == [1]
    assert refused(dirty, dirty_url) == [
        ("credit_split_record.csv", 2, "1,2", "expected 25 fields, found 2"),
        (
            "credit_split_record.csv",
            3,
            "0000,2,2,1,24,2,2,-1,-1,-2,-2,3913,3102,689,0,0,0,0,689,0,0,0,0,1",
            "expected 25 fields, found 24",
        ),
    ]
    with pytest.raises(RawDataError, match=r"missing default_payment_next_month; not expected 'default.payment.next"):
        csv(spark, dirty_url, CREDIT_COLUMNS, header=True)


RETAIL = {
    "InvoiceNo": "string",
    "StockCode": "string",
    "Description": "string",
    "Quantity": "int",
    "InvoiceDate": "timestamp",
    "UnitPrice": "double",
    "CustomerID": "bigint",
    "Country": "string",
}


@pytest.mark.slow
@pytest.mark.parametrize("unpacked", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["tar.gz", "folder"])
def test_online_retail_of_305_days(spark: SparkSession, tmp_path: Path, unpacked: bool) -> None:
    url = shared("online_retail")
    if unpacked:
        with tarfile.open(SHARED_DATA / "online_retail" / "online_retail_by_day_full.tar.gz") as archive:
            archive.extractall(tmp_path)
        url = f"file://{tmp_path}"
    df = csv(spark, url, RETAIL, header=True, nullable=("Description", "CustomerID"), only="*.csv")
    counts = df.agg(
        F.count("*"),
        F.count_if("_malformed"),
        F.countDistinct("_file"),
        F.count_if(F.col("CustomerID").isNull()),
        F.count_if(F.col("Description").isNull()),
        F.countDistinct("CustomerID"),
        F.count_if(F.expr("Quantity < 0")),
    )
    assert tuple(counts.collect()[0]) == (541_909, 0, 305, 135_080, 1_454, 4_372, 10_624)


def test_texts_whose_quotes_mean_nothing(spark: SparkSession) -> None:
    sms = csv(spark, shared("sms_spam"), {"label": "string", "text": "string"}, delimiter="\t", quote=None, trim=False)
    ratings = csv(
        spark,
        shared("movietweetings/ratings.dat"),
        {"user": "int", "movie": "string", "rating": "int", "at": "bigint"},
        delimiter="::",
        quote=None,
    )
    found = {row["label"]: row["count"] for row in sms.where("not _malformed").groupBy("label").count().collect()}
    assert found == {"ham": 4_827, "spam": 747}
    assert sms.where(F.contains("text", F.lit('"'))).count() == 145
    assert tuple(ratings.agg(F.count_if(~F.col("_malformed")), F.countDistinct("movie")).collect()[0]) == (
        100_000,
        10_506,
    )
