"""What is counted of the raw rows while they are cleaned, and the sentences of a job that the counts end.

Counting rides along with the pass that reads the rows: an aggregate over what passes by, no second read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from penstock.errors import RawDataError
from penstock.rules import MALFORMED, Asked

WORST_RULES_SHOWN = 5
BUCKETS = 1 << 15  # bits of Spark's bitmap


@dataclass(frozen=True)
class Counts:
    """Rows by what happened to them, each fix and rule by its name, those that met no row included."""

    raw: int
    quarantined: int
    fixes: Mapping[str, int]  # rows that a fix changed
    rules: Mapping[str, int]  # rows that broke a rule, MALFORMED first; a row may break several
    expectations: Mapping[str, Mapping[str, Any]]  # whether each holds, and the figure that it shows
    refused_in: Sequence[int]  # the `bucket` of each file that has refused rows


def bucket(file: str) -> Column:
    """A number for a file's URL: a small bitmap of them says which files have refused rows, and perhaps a few more."""
    return F.pmod(F.xxhash64(file), F.lit(BUCKETS))


def aggregates(ask: Asked) -> list[Column]:
    """What `Observation` is to count of checked rows, for `counts` to read."""
    counted = {"raw": F.count(F.lit(1)), "quarantined": F.count_if("_refused"), MALFORMED: F.count_if("_malformed")}
    counted["refused_in"] = F.bitmap_construct_agg(F.when(F.col("_refused"), bucket("_file")))
    counted |= {f"changed_{i}": F.count_if(f"_changed_{i}") for i in range(len(ask.fixes))}
    counted |= {f"breaks_{i}": F.count_if(f"_breaks_{i}") for i in range(len(ask.rules))}
    for i, expect in enumerate(ask.expectations):
        counted[f"holds_{i}"] = F.coalesce(F.expr(expect.expression), F.lit(False))
        if expect.shown is not None:
            counted[f"shown_{i}"] = F.expr(expect.shown).cast("string")
    return [column.alias(name) for name, column in counted.items()]


def counts(observed: Mapping[str, Any], ask: Asked) -> Counts:
    return Counts(
        raw=observed["raw"],
        quarantined=observed["quarantined"],
        fixes={step.name: observed[f"changed_{i}"] for i, step in enumerate(ask.fixes)},
        rules={MALFORMED: observed[MALFORMED]} | {r.name: observed[f"breaks_{i}"] for i, r in enumerate(ask.rules)},
        expectations={
            expect.name: {
                "holds": observed[f"holds_{i}"],
                "shown": observed.get(f"shown_{i}"),
                "severity": expect.severity,
                "reason": expect.reason,
            }
            for i, expect in enumerate(ask.expectations)
        },
        refused_in=_set_bits(observed["refused_in"]),
    )


def _set_bits(bitmap: bytes) -> list[int]:
    numbers: list[int] = np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")).tolist()
    return numbers


def warnings(found: Counts, ask: Asked) -> dict[str, str]:
    """The reasons of the rules that kept rows broke."""
    return {rule.name: rule.reason for rule in ask.rules if rule.severity == "warn" and found.rules[rule.name]}


def check_allowed(found: Counts, ask: Asked, refused: DataFrame | None, max_quarantined: float, raw: str) -> None:
    """Raises: RawDataError where a rule or an expectation of severity `fail` is broken, or too many rows are refused.

    `refused` is what quarantine holds, if any row was refused.
    """
    broken = [name for name, count in found.rules.items() if count]
    failing = [rule.name for rule in ask.rules if rule.severity == "fail" and rule.name in broken]
    unmet = [not_held(name, said) for name, said in found.expectations.items() if said["severity"] == "fail"]
    broken_once = _examples(refused, failing, found) if refused is not None and failing else {}
    if wrong := [*broken_once, *filter(None, unmet)]:
        raise RawDataError(
            f"raw data: {raw} must not break {'; '.join(wrong)}. Nothing is published: mend the raw data, or change "
            f"the recipe's rules",
            values=broken_once.values(),
        )
    if refused is not None and found.quarantined > max_quarantined * found.raw:
        warned = warnings(found, ask)
        worst = sorted((name for name in broken if name not in warned), key=lambda name: (-found.rules[name], name))
        examples = _examples(refused, worst[:WORST_RULES_SHOWN], found)
        raise RawDataError(
            f"raw data: {found.quarantined:,} of {found.raw:,} rows of {raw} break a rule "
            f"({found.quarantined / found.raw:.2%}), at most {max_quarantined:.2%} may; nothing is published. "
            f"Most frequent: {'; '.join(examples)}. Mend the raw data, or raise max_quarantined in the recipe",
            values=examples.values(),
        )


def not_held(name: str, said: Mapping[str, Any]) -> str | None:
    """What is to be said of an expectation, or None where it holds."""
    shown = "" if said["shown"] is None else f", found {said['shown']}"
    return None if said["holds"] else f"{name}, of all rows together: {said['reason']}{shown}"


def _examples(refused: DataFrame, names: Sequence[str], found: Counts) -> dict[str, str]:
    """For each rule its count and an example, the first by file and line -> what of that is the example's value."""
    pairs = refused.select("file", "line", F.explode(F.arrays_zip("rules", "reasons")).alias("broken"))
    first = F.min(F.struct("file", "line", "broken.reasons")).alias("first")
    firsts = pairs.where(F.col("broken.rules").isin(*names)).groupBy(F.col("broken.rules").alias("rule")).agg(first)
    example = {row["rule"]: row["first"] for row in firsts.collect()}
    places = {name: file if line is None else f"{file}, line {line}" for name, (file, line, _) in example.items()}
    said = {name: f"{name} ({found.rules[name]:,} rows), such as {places[name]}: {example[name][2]}" for name in names}
    return {text: example[name][2] if name == MALFORMED else "" for name, text in said.items()}
