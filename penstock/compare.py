"""Compares two dataset versions by their cards: schema, counts, and how far the values of each column have moved.

No row is read. A column's change is the population stability index of its parts, PSI = Σ (b - a) ln(b / a), with a
and b the shares of a part before and after. As a rule of thumb below 0.1 nothing has changed, above 0.25 much has
(Siddiqi, "Credit Risk Scorecards", Wiley 2006, who bins at the deciles of the version before). The parts are

    numbers   each value, where both versions have at most NUM_TOP of them; else the tenths of the version before,
              with a value that has a tenth or more standing alone
    strings   each value, likewise; else NUM_BUCKETS parts of the values by their hash, which only shows a lower bound
    NaN       and infinities are one part more

Half a row is added to each part, so that an empty one does not count as infinite. Of few rows the PSI is above 0 by
chance: without any change, PSI * n m / (n + m) of n and m rows in k parts is distributed as chi-squared with k - 1
degrees of freedom (Yurdakul, "Statistical properties of population stability index", Western Michigan University 2018).
What chance gives more often than once in a thousand times is not held against a column.

Numbers, and the lengths of all others, also have the Kolmogorov-Smirnov distance: the largest difference between the
shares of values up to x.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock import card as cards
from penstock import command, store
from penstock.card import Card
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RawDataError
from penstock.overview import say_table
from penstock.profile import NUM_TOP
from penstock.recipe import DatasetRecipe
from penstock.schema import Schema
from penstock.sketch import F64

NUM_PARTS = 10
SOME, MUCH = 0.1, 0.25
NORMAL_QUANTILE = 3.0902  # of 0.999
NUM_SHOWN = 30
NUM_NAMED = 5  # columns that an error names

Profiles = Mapping[str, Mapping[str, Mapping[str, Any]]]  # split -> field -> what a card says of it


@dataclass(frozen=True)
class Change:
    """How far one column of one split has moved."""

    split: str
    column: str
    psi: float
    ks: float | None  # of strings, bytes, lists and encoded values: of their lengths
    parts: int
    by_chance: bool  # more often than once in a thousand times without any change
    moved: str  # in words, for people
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @property
    def size(self) -> str:
        """In a word; chance is no change."""
        return "none" if self.psi < SOME or self.by_chance else "some" if self.psi <= MUCH else "much"


def changes(before: Profiles, after: Profiles, key: str | None, splits: Sequence[str] | None = None) -> list[Change]:
    """Of the columns that both have, but the key, the largest change first."""
    found = []
    for split in [name for name in after if name in before and (splits is None or name in splits)]:
        there, here = before[split], after[split]
        rows = [profile[key]["count"] if key is not None and key in profile else 0 for profile in (there, here)]
        for name in [name for name in here if name in there and name != key]:
            if there[name]["of"] == here[name]["of"] and _total(there[name]) and _total(here[name]):
                found.append(_change(split, name, there[name], here[name], rows))
    return sorted(found, key=lambda c: (c.by_chance, -c.psi, c.split, c.column))


def compare(before: Card, after: Card, splits: Sequence[str] | None = None) -> dict[str, Any]:
    """All that differs, as `--json` prints it. Raises: DatasetError for a split that neither has."""
    there, here = before.splits, after.splits
    for name in splits or ():
        if name not in there or name not in here:
            raise DatasetError(
                f"split {name!r}: expected in both versions; there are {', '.join(there)} and {', '.join(here)}"
            )
    found = changes(before.profile, after.profile, after.schema.key, splits)
    return {
        "before": _named(before),
        "after": _named(after),
        "schema": _schema_changes(before.schema, after.schema),
        "counts": _pairs(before.counts, after.counts),
        "splits": _pairs({n: s.rows for n, s in there.items()}, {n: s.rows for n, s in here.items()}),
        "columns": [{**asdict(change), "change": change.size} for change in found],
    }


def above(found: Sequence[Change], limit: float | Mapping[str, float]) -> list[Change]:
    """The changes that are larger than a limit for all columns, or than their own."""
    limits = limit if isinstance(limit, Mapping) else {change.column: limit for change in found}
    return [c for c in found if not c.by_chance and c.column in limits and c.psi > limits[c.column]]


def named(found: Sequence[Change]) -> str:
    """The largest changes, as an error names them."""
    more = f", and {len(found) - NUM_NAMED:,} more" if len(found) > NUM_NAMED else ""
    return ", ".join(f"{c.column} in {c.split} (PSI {c.psi:.2f}; {c.moved})" for c in found[:NUM_NAMED]) + more


def check_drift(folder: str, recipe: DatasetRecipe, schema: Schema, profiles: Profiles) -> dict[str, Any] | None:
    """How far new rows have moved from the newest version of the same recipe; None without such a one, or a limit.

    Raises: RawDataError where a column has moved further than the limit.
    """
    if (limit := recipe.max_drift) is None:
        return None
    versions = (card for card in reversed(cards.versions(folder)) if isinstance(card, Card) and card.kind == "dataset")
    own = (card for card in versions if "frozen" not in card.lineage)  # values of transforms fitted for others moved
    before = next((card for card in own if card.recipe == recipe.name and card.profile), None)
    if before is None:
        return None
    found = changes(before.profile, profiles, schema.key)
    if too_far := above(found, limit):
        raise RawDataError(
            f"drift: {len(too_far)} of {len(found)} columns have moved further from version {before.version} of "
            f"{before.created[:10]} than max_drift = {limit} allows: {named(too_far)}; nothing is published. "
            f"Mend the raw data, or raise max_drift in the recipe",
            values=[change.moved for change in too_far],
        )
    columns = [
        {"split": c.split, "column": c.column, "psi": c.psi, "ks": c.ks, "by_chance": c.by_chance} for c in found
    ]
    return {"against": before.version, "limit": limit, "columns": columns}


def _change(split: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any], rows: Sequence[int]) -> Change:
    a, b = _parts(before, after)
    num_parts = len(a)
    psi = stability_index(a, b)
    # Elements of one tensor are not independent of each other: rows count.
    n, m = (min(total, num_rows or total) for total, num_rows in zip((sum(a), sum(b)), rows, strict=True))
    by_chance = psi * n * m / (n + m) <= chi_squared(num_parts - 1)
    ks = _distance(before["bins"], after["bins"])
    return Change(split, name, psi, ks, num_parts, by_chance, _moved(before, after), _short(before), _short(after))


def stability_index(before: Sequence[float], after: Sequence[float]) -> float:
    """PSI of counts in the same parts, half a row added to each."""
    a, b = np.asarray(before, np.float64) + 0.5, np.asarray(after, np.float64) + 0.5
    a, b = a / a.sum(), b / b.sum()
    return float(((b - a) * np.log(b / a)).sum())


def chi_squared(degrees: int) -> float:
    """The value that chi-squared exceeds once in a thousand times, within 4 %; 0 for no degree of freedom.

    Source: Wilson & Hilferty, "The distribution of chi-square", PNAS 17, 1931.
    """
    if degrees < 1:
        return 0.0
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NORMAL_QUANTILE * math.sqrt(spread)) ** 3)


def _parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """How many values of each version are in each part."""
    if (values := _values(before, after)) is not None:
        there, here = values
        names = list(dict.fromkeys([*there, *here]))
        a, b = ([float(found.get(name, 0)) for name in names] for found in (there, here))
        a.append(before["count"] - sum(a))  # values that are there once are not listed
        b.append(after["count"] - sum(b))
        if a[-1] == b[-1] == 0:
            a.pop(), b.pop()
    elif "buckets" in before:
        a, b = list(map(float, before["buckets"])), list(map(float, after["buckets"]))
    elif not before["bins"] or not after["bins"]:
        a, b = [float(before["count"])], [float(after["count"])]
    else:
        edges = _tenths(before["bins"])
        a, b = (
            np.diff(cumulative(found["bins"], edges), prepend=0, append=found["count"]).tolist()
            for found in (before, after)
        )
    lost = [float(found["nulls"] + found["infinite"]) for found in (before, after)]
    return (a, b) if not any(lost) else ([*a, lost[0]], [*b, lost[1]])


def _values(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[Any, int], dict[Any, int]] | None:
    """Value -> how often it is there; None where there are too many to list."""
    if "buckets" in before:
        if all(found["distinct"]["exact"] and found["distinct"]["count"] <= NUM_TOP for found in (before, after)):
            return dict(map(tuple, before["top"]["values"])), dict(map(tuple, after["top"]["values"]))
        return None
    if all(len(f["bins"]) <= NUM_TOP and all(low == high for low, high, _ in f["bins"]) for f in (before, after)):
        return {low: n for low, _, n in before["bins"]}, {low: n for low, _, n in after["bins"]}
    return None


def _tenths(bins: Sequence[Sequence[float]]) -> F64:
    """Where parts of about a tenth end; a bin of a tenth or more is a part of its own."""
    lows, highs, counts = _arrays(bins)
    ends = np.cumsum(counts)
    crossing = np.searchsorted(ends, ends[-1] * np.arange(1, NUM_PARTS) / NUM_PARTS)
    heavy = np.flatnonzero(counts * NUM_PARTS >= ends[-1])
    return np.unique(np.concatenate([highs[crossing], highs[heavy], np.nextafter(lows[heavy], -np.inf)]))


def cumulative(bins: Sequence[Sequence[float]], x: F64) -> F64:
    """(n,) how many values are not above each x, those of a bin being spread evenly over it."""
    lows, highs, counts = _arrays(bins)
    if all(isinstance(edge, int) for low, high, _ in bins for edge in (low, high)):
        highs, x = highs + 1, np.floor(x) + 1  # an integer fills the place up to the next one
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        inside = np.clip((x[:, None] - lows) / (highs - lows), 0, 1)
    up_to: F64 = (np.where(highs == lows, x[:, None] >= lows, inside) * counts).sum(axis=1)
    return up_to


def _distance(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> float | None:
    """The Kolmogorov-Smirnov distance; None where a version has no number."""
    if not before or not after:
        return None
    edges = np.array([edge for low, high, _ in [*before, *after] for edge in (np.nextafter(low, -np.inf), low, high)])
    there, here = (cumulative(bins, edges) / sum(n for _, _, n in bins) for bins in (before, after))
    return float(np.abs(there - here).max())


def _arrays(bins: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    return np.array(bins, np.float64).T


def _total(found: Mapping[str, Any]) -> int:
    return int(found["count"] + found["nulls"] + found["infinite"])


def _short(found: Mapping[str, Any]) -> dict[str, Any]:
    short = {name: found[name] for name in ("count", "nulls", "min", "max", "mean", "std", "distinct")}
    return {**short, "median": found["quantiles"].get("50"), "top": found.get("top", {"values": []})["values"][:3]}


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What a person wants to know of it: of strings the value whose share changed most, of numbers the mean."""
    if "buckets" in before:
        shares = [{value: n / max(1, f["count"]) for value, n in f["top"]["values"]} for f in (before, after)]
        there, here = shares
        names = dict.fromkeys([*there, *here])
        most = max(names, key=lambda value: abs(here.get(value, 0) - there.get(value, 0)), default=None)
        return "" if most is None else f"{most!r} {there.get(most, 0):.1%} -> {here.get(most, 0):.1%}"
    if before["mean"] is None or after["mean"] is None:
        return f"values {before['count']:,} -> {after['count']:,}"
    return f"mean {before['mean']:.4g} -> {after['mean']:.4g}"


def _named(card: Card) -> dict[str, Any]:
    return {"version": card.version, "recipe": card.recipe, "created": card.created, "profiled": bool(card.profile)}


def _pairs(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, list[int | None]]:
    return {name: [before.get(name), after.get(name)] for name in dict.fromkeys([*before, *after])}


def _schema_changes(before: Schema, after: Schema) -> dict[str, Any]:
    there, here = ({f["name"]: f for f in schema.to_json()["fields"]} for schema in (before, after))
    return {
        "added": [name for name in here if name not in there],
        "removed": [name for name in there if name not in here],
        "changed": {n: [there[n], here[n]] for n in here if n in there and there[n] != here[n]},
        **{
            role: [old, new]
            for role in ("key", "label")
            if (old := getattr(before, role)) != (new := getattr(after, role))
        },
    }


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "compare",
        "What changed from one dataset version to another: schema, counts, and each column's values (PSI: below 0.1\n"
        "nothing, above 0.25 much; KS distance). Only cards are read. One dataset: its newest version and that before.",
        "penstock compare /data/shop\n"
        "  penstock compare /data/shop@b2ddcfb6ba0d1a48 /data/shop\n"
        "  penstock compare /data/shop_may /data/shop_june --split train --fail-above 0.25 --json",
    )
    made.add_argument("before", metavar="URL[@VERSION]", help="a dataset; without a version its newest")
    made.add_argument("after", metavar="URL[@VERSION]", nargs="?", help="the other; default: BEFORE's newest version")
    made.add_argument("--split", action="append", help="only this split; may be given several times")
    made.add_argument("--fail-above", type=float, metavar="PSI", help="exit code 1 where a column changed by more")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    before, after = _cards(arguments.before, arguments.after)
    compared = compare(before, after, arguments.split)
    found = changes(before.profile, after.profile, after.schema.key, arguments.split)
    say(compared, found, console)
    if arguments.fail_above is not None and (too_far := above(found, arguments.fail_above)):
        raise DatasetError(
            f"version {after.version}: {len(too_far)} of {len(found)} columns have moved further from version "
            f"{before.version} than --fail-above {arguments.fail_above} allows: {named(too_far)}",
            values=[change.moved for change in too_far],
        )
    return compared


def _cards(before: str, after: str | None) -> tuple[Card, Card]:
    if after is not None:
        return load(before), load(after)
    if "@" in before.rpartition("/")[2]:
        return load(before), load(before.rpartition("@")[0])
    newest = cards.load(before)
    earlier = [c for c in cards.versions(store.absolute(before)) if isinstance(c, Card) and c.version != newest.version]
    if not earlier:
        raise PenstockError(f"{before}: expected two versions to compare, found one; name another dataset")
    return earlier[-1], newest


def load(name: str) -> Card:
    """The card of `URL`, the newest, or of `URL@VERSION`. Raises: DatasetError."""
    url, at, version = name.rpartition("@")
    return cards.load(url, version) if at and "/" not in version else cards.load(name)


def say(compared: Mapping[str, Any], found: Sequence[Change], console: Console) -> None:
    for side in ("before", "after"):
        card = compared[side]
        console.say(f"{side:<7} version {card['version']} of recipe {card['recipe']}, {card['created'][:19]}")
    console.say()
    for what in ("added", "removed", "changed"):
        if names := compared["schema"][what]:
            console.say(f"Fields {what}: {', '.join(names)}")
    counts = {**compared["counts"], **{f"  {name}": pair for name, pair in compared["splits"].items()}}
    console.table([[name, *("none" if n is None else f"{n:,}" for n in pair)] for name, pair in counts.items()])
    console.say()
    for side in ("before", "after"):
        if not compared[side]["profiled"]:
            console.say(f"Version {compared[side]['version']} has no profile: values cannot be compared")
    if not found:
        return
    shown = [[c.column, c.split, f"{c.psi:.3f}", "" if c.ks is None else f"{c.ks:.3f}", c.size, c.moved] for c in found]
    say_table([["column", "split", "PSI", "KS", "change", ""], *shown[:NUM_SHOWN]], console)
    if len(shown) > NUM_SHOWN:
        console.say(f"and {len(shown) - NUM_SHOWN:,} more, which changed less; --json has all")


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work, shows_values=True)


if __name__ == "__main__":
    sys.exit(main())
