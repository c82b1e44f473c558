"""What a recipe says about raw rows: fixes that mend them, rules that judge each, expectations of them all.

All are Spark SQL over the columns of `read`, and named, since the card counts each by its name. Fixes come first, in
their order; rules and expectations see what they left. What has `label=True` is left out for raw data without labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from penstock.errors import RecipeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Severity = Literal["quarantine", "warn", "fail"]
MALFORMED = "malformed"  # the rule that every record must be readable
NAME = r"[A-Za-z0-9_.-]+"


@dataclass(frozen=True)
class Fix:
    """A step that keeps a row: `column` becomes `expression`, which may give it another type.

    Counted are the rows whose value, or where the type changes its text, is another afterwards.
    """

    name: str
    column: str
    expression: str
    label: bool = False


@dataclass(frozen=True)
class Rule:
    """`expression` must be true of a row; null counts as broken.

    A row that breaks it is refused (`quarantine`), kept and counted (`warn`), or ends the job (`fail`).
    """

    name: str
    expression: str
    reason: str
    label: bool = False
    severity: Severity = "quarantine"


@dataclass(frozen=True)
class Unique:
    """No other row may have the same values in `columns`; rows with a null in one of them are not compared.

    Where some do, all of them break the rule: which one is right is not known. Costs one more read of the raw data.
    """

    name: str
    columns: tuple[str, ...]
    reason: str
    label: bool = False
    severity: Severity = "quarantine"


@dataclass(frozen=True)
class Reference:
    """A value of `column`, unless null, must be one of those of column `to` of `table(spark, url)`.

    `url` is where the table lies, whose files then count for the version; without it `table` is given the raw data's.
    Its values are sent to every executor.
    """

    name: str
    column: str
    table: Callable[[SparkSession, str], DataFrame]
    to: str
    reason: str
    url: str | None = None
    label: bool = False
    severity: Severity = "quarantine"


@dataclass(frozen=True)
class Expect:
    """`expression`, of aggregates over all raw rows, must be true; null counts as not.

    The columns of a record that could not be read are null. `shown`, another aggregate, is the figure that the card and
    the message give.
    """

    name: str
    expression: str
    reason: str
    shown: str | None = None
    label: bool = False
    severity: Literal["warn", "fail"] = "fail"


RowRule = Rule | Unique | Reference
Check = RowRule | Expect


@dataclass(frozen=True)
class Asked:
    """What raw data, with or without labels, is to be asked."""

    fixes: tuple[Fix, ...]
    rules: tuple[RowRule, ...]
    expectations: tuple[Expect, ...]


def asked(fixes: Sequence[Fix], checks: Sequence[Check], labelled: bool) -> Asked:
    of_data = [check for check in checks if labelled or not check.label]
    return Asked(
        tuple(fix for fix in fixes if labelled or not fix.label),
        tuple(check for check in of_data if not isinstance(check, Expect)),
        tuple(check for check in of_data if isinstance(check, Expect)),
    )


def check_names(fixes: Sequence[Fix], checks: Sequence[Check]) -> None:
    """Raises: RecipeError for names that cannot be told apart in a card, and for severities that there are not."""
    for what, names in (("fixes", [fix.name for fix in fixes]), ("rules", [MALFORMED, *(c.name for c in checks)])):
        for name in names:
            if not re.fullmatch(NAME, name):
                raise RecipeError(f"{what}: {name!r} is no name; use letters, digits, '_', '-' and '.'")
            if names.count(name) > 1:
                raise RecipeError(f"{what}: {name!r} names {names.count(name)} of them; each needs a name of its own")
    for check in checks:
        known = ("warn", "fail") if isinstance(check, Expect) else ("quarantine", "warn", "fail")
        if check.severity not in known:
            raise RecipeError(
                f"rules: the severity of {check.name!r} must be {' or '.join(map(repr, known))}, is {check.severity!r}"
            )
