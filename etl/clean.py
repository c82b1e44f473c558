"""Stage 1, row by row: raw records become clean rows, or refused ones with every reason.

Pure DataFrame functions; etl/run.py calls them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from etl import positions
from penstock.rules import MALFORMED, Fix, Reference, RowRule, Unique

PLACE = "_place"
SOURCE = ("_file", "_position", PLACE)  # where a row came from


def blank(raw: DataFrame) -> DataFrame:
    """Nothing is in the columns of a record that could not be read, whatever of it the reader could."""
    names = [name for name in raw.columns if not name.startswith("_")]
    return raw.withColumns({name: F.when(~F.col("_malformed"), F.col(f"`{name}`")) for name in names})


def fix(raw: DataFrame, fixes: Sequence[Fix]) -> DataFrame:
    """Takes each step in turn, and adds for the i-th `_changed_<i>`: whether it changed the row.

    A record that could not be read is left alone, but for the type of a column.
    """
    readable = ~F.col("_malformed")
    for i, step in enumerate(fixes):
        before, after = F.col(f"`{step.column}`"), F.when(readable, F.expr(step.expression))
        was, now = (field.dataType for field in raw.select(before, after).schema.fields)
        if was != now:  # "17850.0" as the number 17850 is another text; "17850" is not
            same = before.cast("string").eqNullSafe(after.cast("string"))
        else:
            after = F.when(readable, F.expr(step.expression)).otherwise(before)
            same = before.eqNullSafe(after)
        raw = raw.withColumns({f"_changed_{i}": readable & ~same, step.column: after})
    return raw


def located(raw: DataFrame) -> DataFrame:
    """Adds `_place`: the order of its values is that of the rows in the source, whatever the partitions are.

    The row's number where the reader knows it. Else Spark reads files in blocks, one after the other, so that within a
    block the rows' numbers of the task rise. To be asked of what a reader gives, before any shuffle.
    """
    number = F.coalesce("_position", F.monotonically_increasing_id())
    return raw.withColumn(PLACE, F.struct("_file", F.input_file_block_start().alias("block"), number.alias("number")))


def check(fixed: DataFrame, rules: Sequence[RowRule], raw_url: str) -> DataFrame:
    """Adds for the i-th rule `_breaks_<i>`, whether a row breaks it, and `_refused`, whether one of them refuses it.

    A record that could not be read is refused and asked nothing else: its columns would break rules for that reason
    alone.
    """
    checked = fixed
    for i, rule in enumerate(rules):
        if isinstance(rule, Unique):
            checked = checked.join(F.broadcast(_repeated(fixed, rule, i)), _same(rule, i), "left")
        elif isinstance(rule, Reference):
            known = rule.table(fixed.sparkSession, rule.url or raw_url).select(F.col(rule.to).alias(f"_to_{i}"))
            known = known.distinct().withColumn(f"_found_{i}", F.lit(True))
            checked = checked.join(F.broadcast(known), F.col(rule.column) == F.col(f"_to_{i}"), "left")
    readable = ~F.col("_malformed")
    broken = {f"_breaks_{i}": readable & _broken(rule, i) for i, rule in enumerate(rules)}
    refusing = [F.col(f"_breaks_{i}") for i, rule in enumerate(rules) if rule.severity != "warn"]
    return checked.withColumns(broken).withColumn("_refused", reduce(or_, refusing, F.col("_malformed")))


def _broken(rule: RowRule, i: int) -> Column:
    if isinstance(rule, Unique):
        return F.col(f"_repeated_{i}").isNotNull()
    if isinstance(rule, Reference):
        return F.col(rule.column).isNotNull() & F.col(f"_found_{i}").isNull()
    return ~F.coalesce(F.expr(rule.expression), F.lit(False))


def _repeated(fixed: DataFrame, rule: Unique, i: int) -> DataFrame:
    """The values that several rows have in the rule's columns."""
    columns = [F.col(name).alias(f"_of_{i}_{j}") for j, name in enumerate(rule.columns)]
    known = fixed.where(~F.col("_malformed")).select(*columns).dropna()
    counted = known.groupBy(*known.columns).count().where("count > 1")
    return counted.select(*known.columns, F.lit(True).alias(f"_repeated_{i}"))


def _same(rule: Unique, i: int) -> list[Column]:
    return [F.col(name) == F.col(f"_of_{i}_{j}") for j, name in enumerate(rule.columns)]


def kept(checked: DataFrame) -> DataFrame:
    """The rows that are not refused: the record's columns, and where each came from."""
    rows = checked.where(~F.col("_refused"))
    return rows.select(*(f"`{name}`" for name in rows.columns if not name.startswith("_") or name in SOURCE))


def refused(checked: DataFrame, rules: Sequence[RowRule], raw_url: str) -> DataFrame:
    """The refused rows as quarantine keeps them: file, line, record, every rule that a row broke, with its reason.

    The line of a text record is looked up here, by reading once more the files that have refused rows.
    """
    broken = [(F.lit(MALFORMED), F.col("_why"), F.col("_malformed"))]
    broken += [(F.lit(rule.name), F.lit(rule.reason), F.col(f"_breaks_{i}")) for i, rule in enumerate(rules)]
    names, reasons = (
        F.array_compact(F.array(*(F.when(values[-1], values[which]) for values in broken))) for which in (0, 1)
    )
    rows = checked.where("_refused").select(
        "_file", "_position", "_record", names.alias("_rules"), reasons.alias("_reasons")
    )
    return rows.groupBy("_file").applyInArrow(positions.look_up(raw_url), positions.REFUSED_COLUMNS)
