"""Stage 1, row by row: raw records become clean rows, or refused ones with every reason.

Pure DataFrame functions; etl/run.py calls them in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from penstock import store
from penstock.recipe import Rule

MALFORMED = "malformed"  # the rule that every record must be readable
REFUSED_COLUMNS = "file string, line long, record string, rules array<string>, reasons array<string>"
REFUSED_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "line": pa.int64(),
        "record": pa.string(),
        "rules": pa.list_(pa.string()),
        "reasons": pa.list_(pa.string()),
    }
)


def check(raw: DataFrame, rules: Sequence[Rule], labelled: bool) -> DataFrame:
    """Adds `_rules`, the names of the rules that a row breaks, and `_reasons`, why, in the same order.

    A record that could not be read is asked nothing else: its columns would break rules for that reason alone.
    """
    asked = [rule for rule in rules if labelled or not rule.label]
    readable = ~F.col("_malformed")
    broken = [(F.lit(MALFORMED), F.col("_why"), F.col("_malformed"))]
    for rule in asked:
        holds = F.coalesce(F.expr(rule.expression), F.lit(False))
        broken.append((F.lit(rule.name), F.lit(rule.reason), readable & ~holds))

    def where_broken(values: list[tuple[Column, Column]]) -> Column:
        return F.array_compact(F.array(*(F.when(is_broken, value) for value, is_broken in values)))

    return raw.withColumns(
        {
            "_rules": where_broken([(name, is_broken) for name, _, is_broken in broken]),
            "_reasons": where_broken([(reason, is_broken) for _, reason, is_broken in broken]),
        }
    )


def kept(checked: DataFrame) -> DataFrame:
    return checked.where(F.size("_rules") == 0).drop("_rules", "_reasons", "_record", "_malformed", "_why")


def refused(checked: DataFrame, raw_url: str) -> DataFrame:
    """The refused rows as quarantine keeps them: file, line, record, rules, reasons.

    The line of a text record is looked up here, by reading once more the files that have refused rows.
    """
    rows = checked.where(F.size("_rules") > 0).select(*("_file", "_position", "_record", "_rules", "_reasons"))
    return rows.groupBy("_file").applyInArrow(_with_lines(raw_url), REFUSED_COLUMNS)


def _with_lines(raw_url: str) -> Callable[[pa.Table], pa.Table]:
    def with_lines(rows: pa.Table) -> pa.Table:
        url = store.absolute(rows["_file"][0].as_py())
        lines, records = rows["_position"].to_pylist(), rows["_record"].to_pylist()
        if any(line is None and record is not None for line, record in zip(lines, records, strict=True)):
            lines = _lines(url, records)
        name = url.removeprefix(store.absolute(raw_url)).strip("/") or url.rsplit("/", 1)[-1]
        columns = [[name] * len(lines), lines, records, rows["_rules"].to_pylist(), rows["_reasons"].to_pylist()]
        return pa.table(columns, schema=REFUSED_SCHEMA)

    return with_lines


def _lines(url: str, records: Sequence[str]) -> list[int | None]:
    """The number, from 1, of the line that each record is; equal records take their lines in turn."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for i in reversed(range(len(records))):
        wanted[records[i]].append(i)
    found: list[int | None] = [None] * len(records)
    fs, path = store.filesystem(url)
    # As Spark reads text: a line ends with CR, LF or both, a byte order mark is none of it, other bytes become U+FFFD.
    with fs.open(path, "rt", compression="infer", encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if waiting := wanted.get(line.removesuffix("\n")):
                found[waiting.pop()] = number
    return found
