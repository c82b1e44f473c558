"""Features of customers lie before the cut-off, their label after it: against plain Python on generated lines."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from penstock.transforms import Of
from recipes.online_retail_customers.dataset import DAY_S, LATER_S, build, transforms

COLUMNS = pa.schema(
    {
        "line": pa.string(),
        "invoice": pa.string(),
        "stock_code": pa.string(),
        "quantity": pa.int32(),
        "time": pa.int64(),
        "price": pa.float64(),
        "customer": pa.int64(),
        "country": pa.string(),
    }
)
LAST = 200 * DAY_S + 40_000  # a line that every table has: the cut-off is 90 days before the end of its day
CUT_OFF = 201 * DAY_S - LATER_S
LINE = st.fixed_dictionaries(
    {
        "invoice": st.sampled_from(["1", "2", "3", "4"]),
        "stock_code": st.sampled_from("abc"),
        "quantity": st.sampled_from([-2, 1, 5]),
        "time": st.one_of(st.integers(0, LAST), st.sampled_from([CUT_OFF - 1, CUT_OFF, CUT_OFF - 30 * DAY_S])),
        "price": st.sampled_from([0.0, 0.1, 2.55, 11062.06]),
        "customer": st.sampled_from([0, 1, 2, 3]),
        "country": st.sampled_from(["United Kingdom", "France"]),
    }
)
Line = dict[str, Any]


def built(spark: SparkSession, lines: list[Line], labelled: bool = True) -> dict[int, dict[str, Any]]:
    table = pa.Table.from_pylist([{"line": str(i), **line} for i, line in enumerate(lines)], schema=COLUMNS)
    return {row["customer"]: row.asDict() for row in build(spark.createDataFrame(table), labelled).collect()}


def expected(lines: list[Line], customer: int, cut_off: int) -> dict[str, Any] | None:
    own = [line for line in lines if line["customer"] == customer]
    before = [line for line in own if line["time"] < cut_off]
    bought, returned = ([x for x in before if (x["quantity"] > 0) == sign] for sign in (True, False))
    if not bought:
        return None
    times = [line["time"] for line in bought]
    invoices = {line["invoice"] for line in bought}

    def recent(days: int) -> int:
        return len({line["invoice"] for line in bought if cut_off - line["time"] <= days * DAY_S})

    def money(lines: list[Line]) -> float:
        return float(sum(Decimal(str(line["price"])) * line["quantity"] for line in lines))

    later = [line for line in own if line["time"] >= cut_off and line["quantity"] > 0]
    return {
        "customer": customer,
        "cut_off": cut_off,
        "recency_days": (cut_off - max(times)) / DAY_S,
        "tenure_days": (cut_off - min(times)) / DAY_S,
        "days_between": (max(times) - min(times)) / max(len(invoices) - 1, 1) / DAY_S,
        "invoices": len(invoices),
        "invoices_30_days": recent(30),
        "invoices_90_days": recent(90),
        "lines": len(bought),
        "products": len({line["stock_code"] for line in bought}),
        "spent": money(bought),
        "spent_per_invoice": money(bought) / len(invoices),
        "returns": len(returned),
        "returned": -money(returned),
        "is_british": any(line["country"] == "United Kingdom" for line in before),
        "buys_again": int(bool(later)),
        "_rows": len(before) + len(later),
    }


@settings(max_examples=2)
@given(st.lists(LINE, min_size=15, max_size=40))
def test_features_are_of_earlier_lines_and_the_label_of_later_ones(spark: SparkSession, lines: list[Line]) -> None:
    end: Line = {**lines[0], "time": LAST, "customer": 9}
    rows = built(spark, [*lines, end])
    oracle = {c: row for c in (1, 2, 3, 9) if (row := expected([*lines, end], c, CUT_OFF)) is not None}
    assert rows.keys() == oracle.keys()
    for customer, row in rows.items():
        assert row == pytest.approx(oracle[customer], rel=1e-12)

    # Without the later lines, or with others: the same features. Without the earlier ones: no row that could tell.
    label = ("buys_again", "_rows")
    features = {c: {k: v for k, v in row.items() if k not in label} for c, row in rows.items()}
    past = built(spark, [*(line for line in lines if line["time"] < CUT_OFF), end])
    assert {c: {k: v for k, v in row.items() if k not in label} for c, row in past.items()} == features
    assert not any(row["buys_again"] for row in past.values())
    assert built(spark, [*(line for line in lines if line["time"] >= CUT_OFF), end]) == {}

    # To be scored: everything is before the end, and there is no label.
    scored = built(spark, [*lines, end], labelled=False)
    assert all("buys_again" not in row and row["cut_off"] == CUT_OFF + LATER_S for row in scored.values())


def test_what_is_transformed_is_no_label() -> None:
    def columns(part: Of) -> str:
        return part if isinstance(part, str) else columns(part.of)

    named = {columns(part) for part in transforms["features"]}
    row = expected(
        [{"invoice": "1", "stock_code": "a", "quantity": 1, "time": 0, "price": 1.0, "customer": 1, "country": ""}],
        1,
        5,
    )
    assert row is not None
    assert named == row.keys() - {"customer", "cut_off", "buys_again", "_rows"}
