"""All that is shown of a dataset version: its card, those of its clean rows, and some of the rows that were refused.

Also how figures and values are written for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock import card as cards
from penstock import store
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.errors import StorageError
from penstock.schema import Field

EXAMPLES = 3  # refused rows shown for each rule
MAX_READ = 20_000  # refused rows that are looked through for examples
# What is shown in a place of its own; whatever else a card has is listed as it is.
PLACED = {"version", "recipe", "data", "manifest", "schema", "counts", "splits", "profile", "created", "kind", "format"}
PLACED_CLEAN = {"version", "recipe", "data", "files", "counts", "rules", "created", "kind", "format"}


@dataclass(frozen=True)
class Refused:
    """A rule, the rows that broke it, and a few of them: place, text, reason."""

    rule: str
    num_rows: int
    examples: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Overview:
    """All that is shown of a version."""

    card: Card
    url: str
    refused: Sequence[Refused]
    rest: Mapping[str, Any]  # what the cards say beyond that, by name


def look(dataset_url: str, version: str | None = None) -> Overview:
    """Raises: DatasetError where there is no such version."""
    url = store.absolute(dataset_url)
    card = cards.load(url, version)
    clean = clean_cards(url, card)
    rest = {n: getattr(card, n) for n in card.__dataclass_fields__ if n not in PLACED}
    for one in clean:
        of = "" if len(clean) == 1 else f" {one.version}"
        rest |= {f"clean rows{of}: {n}": getattr(one, n) for n in one.__dataclass_fields__ if n not in PLACED_CLEAN}
    refused = [found for one in clean for found in refused_rows(url, one)]
    return Overview(
        card, url, refused, {name: value for name, value in rest.items() if value not in (None, {}, [], 0, "")}
    )


def clean_cards(url: str, card: Card) -> list[CleanCard]:
    """Those of the clean rows that a version was built from, as far as they are there."""
    found = (cards.find(store.join(url, "clean"), version) for version in card.lineage.get("clean", []))
    return [clean for clean in found if isinstance(clean, CleanCard)]


def refused_rows(url: str, clean: CleanCard) -> list[Refused]:
    """The rules that were broken, the most often broken first, with examples where these can be read."""
    examples: dict[str, list[tuple[str, str, str]]] = {rule: [] for rule in clean.rules}
    if clean.quarantine:
        for row in _quarantined(store.inside(url, clean.quarantine)):
            place = row["file"] if row["line"] is None else f"{row['file']}:{row['line']}"
            for rule, reason in zip(row["rules"], row["reasons"], strict=True):
                if len(examples.setdefault(rule, [])) < EXAMPLES:
                    examples[rule].append((place, row["record"] or "", reason or ""))
    counts = sorted(clean.rules.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Refused(rule, n, examples[rule]) for rule, n in counts]


def _quarantined(url: str) -> Iterator[dict[str, Any]]:
    """Refused rows, up to MAX_READ; none where they are gone, or not for whoever asks."""
    seen = 0
    try:
        for name in store.file_names(url):
            if name.endswith(".parquet") and seen < MAX_READ:
                parquet = pq.ParquetFile(pa.BufferReader(store.read_bytes(store.join(url, name))))
                for batch in parquet.iter_batches(1_000, columns=["file", "line", "record", "rules", "reasons"]):
                    yield from batch.to_pylist()
                    seen += batch.num_rows
    except (FileNotFoundError, StorageError, pa.ArrowException, OSError):
        return


def figure(value: Any) -> str:
    """A number as a person reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def kind(field: Field) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in field.shape)
    shape = f" ({sizes})" if field.shape else ""
    return f"{field.dtype}{shape}" + (f" as {field.encoding}" if field.encoding else "")


def most_frequent(found: Mapping[str, Any], field: Field, count: int = 3) -> str:
    top = found.get("top", {"values": [], "exact": True})
    about = "" if top["exact"] else "about "
    return ", ".join(f"{value(v, field)} ({about}{n:,})" for v, n in top["values"][:count])


def value(found: Any, field: Field) -> str:
    if field.dtype == "bool" and isinstance(found, int):
        return "true" if found else "false"
    return repr(found) if isinstance(found, str) else figure(found)


def lines(name: str, value: Any, indent: str = "") -> Iterator[str]:
    """Anything that a card may hold, a line for each of its parts."""
    if isinstance(value, Mapping) and value:
        yield f"{indent}{name}"
        for inner, part in value.items():
            yield from lines(str(inner), part, indent + "  ")
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        yield f"{indent}{name}"
        for part in value:
            yield (
                indent
                + "  "
                + ", ".join(f"{k} {figure(v) if isinstance(v, int | float) else v}" for k, v in part.items())
            )
    else:
        text = (
            ", ".join(map(str, value))
            if isinstance(value, list | tuple)
            else figure(value)
            if isinstance(value, int | float)
            else str(value)
        )
        yield f"{indent}{name}: {text}"


def say_table(rows: Sequence[Sequence[str]], console: Console) -> None:
    """Not the console's table, which breaks what is wider than the terminal into columns of letters."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        console.say(("  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))).rstrip())
