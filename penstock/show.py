"""`penstock show`: what is in a dataset version, from its card, for people. `--html` writes it as a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock import card as cards
from penstock import command, show_html, store
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError
from penstock.overview import Overview, Refused, figure, kind, lines, look, most_frequent, say_table
from penstock.schema import Field

HEADER = ("column", "type", "", "of", "NaN", "distinct", "min", "median", "max", "mean", "std", "most frequent")
TEXT_LENGTH = 60  # of a refused row and of its reason


def say(shown: Overview, split: str | None, console: Console) -> None:
    card = shown.card
    console.say(f"Version {card.version} of recipe {card.recipe}, made {card.created[:19].replace('T', ' ')} UTC")
    console.say(store.shown(shown.url))
    console.say()
    console.table([[n, card.counts[n]] for n in card.counts] + [[f"  {n}", s.rows] for n, s in card.splits.items()])
    if shown.refused:
        console.say("\nRefused rows, by the rule that they broke")
        say_table([[r.rule, f"{r.num_rows:,}", *_short(r)] for r in shown.refused], console)
    roles = {card.schema.key: "key", card.schema.label: "label"}
    name = split or next(iter(card.profile), None)
    if name is None:
        console.say("\nColumns (this version has no profile of its values)")
        say_table([[f.name, kind(f), roles.get(f.name, "")] for f in card.schema.fields], console)
    else:
        others = ", ".join(other for other in card.profile if other != name)
        console.say(f"\nColumns, of split {name}" + (f" (--split shows {others})" if others else ""))
        rows = [_row(field, card.profile[name][field.name], roles) for field in card.schema.fields]
        say_table([HEADER, *rows], console)
    for part, found in shown.rest.items():
        console.say()
        for line in lines(part, found):
            console.say(line)


def _short(refused: Refused) -> tuple[str, str]:
    place, record, reason = refused.examples[0] if refused.examples else ("", "", "")
    return reason[:TEXT_LENGTH], f"{place}  {record[:TEXT_LENGTH]}".strip()


def _row(field: Field, found: Mapping[str, Any], roles: Mapping[str | None, str]) -> list[str]:
    distinct = ("" if found["distinct"]["exact"] else "about ") + figure(found["distinct"]["count"])
    figures = [found["min"], found["quantiles"].get("50"), found["max"], found["mean"], found["std"]]
    of = "" if found["of"] == "values" else found["of"]
    role, nulls = roles.get(field.name, ""), figure(found["nulls"]) if found["nulls"] else ""
    return [
        field.name,
        kind(field),
        role,
        of,
        nulls,
        distinct,
        *map(figure, figures),
        most_frequent(found, field),
    ]


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "show",
        "What is in a dataset version: counts, refused rows, columns and their values, where it comes from.",
        "penstock show /data/shop\n"
        "  penstock show /data/shop --version b2ddcfb6ba0d1a48 --split val\n"
        "  penstock show /data/shop --html shop.html",
    )
    made.add_argument("data", metavar="URL", help="the dataset's folder")
    made.add_argument("--version", help="dataset version; default: the newest")
    made.add_argument("--split", help="whose values are shown; default: the first, mostly train")
    made.add_argument(
        "--html", metavar="FILE", type=Path, help="write one page with pictures, which needs no other file"
    )
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    shown = look(arguments.data, arguments.version)
    if arguments.split is not None and arguments.split not in shown.card.profile:
        there = ", ".join(shown.card.profile) or "none"
        raise DatasetError(f"{arguments.data}: no profile of a split {arguments.split!r}; the splits: {there}")
    if arguments.html:
        try:
            arguments.html.write_text(show_html.page(shown), encoding="utf-8")
        except OSError as error:
            raise PenstockError(f"--html {arguments.html}: cannot be written ({error.strerror})") from error
        console.say(f"Version {shown.card.version}: {arguments.html}")
    else:
        say(shown, arguments.split, console)
    made: dict[str, Any] = json.loads(cards.to_json(shown.card))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work, shows_values=True)


if __name__ == "__main__":
    sys.exit(main())
