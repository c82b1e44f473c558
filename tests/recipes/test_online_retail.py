"""The shop's invoices: every known fact about the whole data comes out, and of a few lines each row is as expected."""

from __future__ import annotations

import itertools
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from etl.run import Built, etl
from penstock.console import Console
from penstock.recipe import find
from tests.conftest import SHARED_DATA

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
LINES = [
    '536365,22752,"BOX, ""SMALL""",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom',
    "536365,22752,LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
    "536365,22752,LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom",
    "C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527.0,United Kingdom",
    "536414,22139,,56,2010-12-01 11:52:00,0.0,,United Kingdom",
    "A563186,B,Adjust bad debt,1,2011-08-12 14:51:00,-11062.06,,United Kingdom",
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    # 200 more lines, so that one bad line is within the recipe's limit.
    more = [f"6{i:05d},{i},THING {i},1,2011-01-01 10:00:00,1.5,1{i % 9:04d}.0,France" for i in range(200)]
    for i, lines in enumerate((LINES[:2], LINES[2:], more)):
        (folder / f"{i}.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return folder


def build(raw: Path, out: Path) -> Built:
    return etl(find("online_retail"), str(raw), str(out), Console())


def test_a_few_lines_become_the_rows_they_stand_for(spark: SparkSession, raw: Path, tmp_path: Path) -> None:
    built = build(raw, tmp_path / "out")
    assert built.card.counts == {"raw": 206, "quarantined": 1, "clean": 205, "duplicates": 1, "built": 204}
    assert built.clean.fixes == {"customer_without_decimals": 204, "description_or_empty": 1}
    rows = pq.read_table(tmp_path / "out" / built.card.data).to_pylist()
    found = {(row["invoice"], row["description"]): row for row in rows}
    assert len({row["line"] for row in rows}) == len(rows) == 204
    box = found["536365", 'BOX, "SMALL"']
    told = {name: box[name] for name in ("stock_code", "quantity", "time", "price", "customer", "country")}
    assert told == {
        "stock_code": "22752",
        "quantity": 6,
        "time": 1291191960,  # date -u -d "2010-12-01 08:26" +%s
        "price": 2.55,
        "customer": 17850,
        "country": "United Kingdom",
    }
    assert found["536414", ""]["customer"] == 0
    assert found["C536379", "Discount"]["quantity"] == -1


@pytest.mark.slow
def test_the_known_facts_of_the_whole_data_come_out(spark: SparkSession, tmp_path: Path) -> None:
    archive = SHARED_DATA / "online_retail" / "online_retail_by_day_full.tar.gz"
    if not archive.is_file():
        pytest.skip("the shop's invoices are not on this machine (expected in ../shared/data/online_retail)")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "raw")
    built = build(tmp_path / "raw", tmp_path / "out")
    assert built.card.counts == {
        "raw": 541_909,
        "quarantined": 2,
        "clean": 541_907,
        "duplicates": 5_268,
        "built": 536_639,
    }
    assert built.clean.fixes == {"customer_without_decimals": 406_829, "description_or_empty": 1_454}
    assert built.clean.rules == {
        "malformed": 0,
        "invoice_number": 0,
        "customer_number": 0,
        "price_range": 2,
        "customer_known": 135_080,
        "no_cancellation": 9_288,
        "quantity_sign": 10_624,
        "price_given": 2_515,
    }
    quarantined = pq.read_table(tmp_path / "out" / str(built.clean.quarantine)).to_pylist()
    assert {row["record"].split(",")[0] for row in quarantined} == {"A563186", "A563187"}
    data = tmp_path / "out" / built.card.data
    rows = pq.read_table(data, columns=["customer", "stock_code", "country"])
    assert {name: len(rows[name].unique()) for name in rows.column_names} == {
        "customer": 4_372 + 1,
        "stock_code": 4_070,
        "country": 38,
    }
    assert built.card.exact_duplicates == 5_268
    assert pq.read_table(tmp_path / "out" / str(built.card.duplicates)).num_rows == 5_268
    assert built.card.leakage == {
        "keys": 0,
        "equal_rows": 0,
        "compared": 1.0,
        "groups": 0,
        "compared_groups": 1.0,
    }
    customers = [set(pq.read_table(data / f"split={name}")["customer"].to_pylist()) for name in built.card.splits]
    assert [a & b for a, b in itertools.combinations(customers, 2)] == [{0}] * 3
