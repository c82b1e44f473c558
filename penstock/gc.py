"""Lists, and removes where told to, what takes space in a dataset's folder and no version needs.

Orphans are the folders of jobs that died: no card names them, so nobody reads them; and files that never got their
name. What changed a short while ago may be of a job that still runs, and is left. With `keep`, the versions before the
newest so many go too: the card first, which ends the version at once, then its files; and the clean rows that no other
version is made of.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock import card as cards
from penstock import command, store
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError

# Each version that ETL makes has folders of its own in these, and they are named so: a folder with another name is not
# ours, as where a dataset was adopted whose files lie in `data`.
PLACES = ("data", "quarantine", "duplicates", "clean/data")
OURS = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}(-rows)?")
# What `store` writes before a file has its name, and to see whether it may write; and where.
NAMELESS, NAMELESS_IN = re.compile(r"\.(penstock-|\w+\.json\.)"), ("", "cards", "clean/cards")
OLDER_THAN_H = 24.0


@dataclass(frozen=True)
class Unneeded:
    """A card or a folder that can go."""

    path: str  # relative to the dataset
    why: str
    num_bytes: int


def unneeded(dataset_url: str, keep: int | None = None, older_than_s: float = 0) -> list[Unneeded]:
    """What can go, in the order in which it has to: cards before the folders that they name.

    Adopted versions stay: their files are not ours. Raises: DatasetError where a card cannot be read.
    """
    url = store.absolute(dataset_url)
    versions = [card for card in cards.versions(url) if isinstance(card, Card)]
    clean = [card for card in cards.versions(store.join(url, "clean")) if isinstance(card, CleanCard)]
    made = [card for card in versions if card.kind == "dataset"]
    old = made[:-keep] if keep else []
    needed = {version for card in versions if card not in old for version in card.lineage.get("clean", [])}
    freed = {version for card in old for version in card.lineage.get("clean", [])} - needed
    old_clean = [card for card in clean if card.version in freed]

    why = f"older than the newest {keep}"
    found = [Unneeded(f"cards/{card.version}.json", why, 0) for card in old]
    found += [Unneeded(f"clean/cards/{card.version}.json", "of no version that is kept", 0) for card in old_clean]
    going = _folders([*old, *old_clean])
    named = _folders([*versions, *clean]) - going
    return found + list(_nameless(url, named, going, why, time.time() - older_than_s))


def _folders(named_by: Iterable[Card | CleanCard]) -> set[str]:
    """The folders that cards name, relative to the dataset."""
    folders = set()
    for card in named_by:
        for name in ("data", "quarantine", "duplicates"):
            if isinstance(folder := getattr(card, name, None), str):
                folders.add(f"clean/{folder}" if isinstance(card, CleanCard) and name == "data" else folder)
    return folders


def _nameless(url: str, named: set[str], going: set[str], why: str, changed_before: float) -> Iterator[Unneeded]:
    for place in PLACES:
        for name, (num_bytes, modified) in store.folders(store.join(url, place)).items():
            path = f"{place}/{name}"
            if path in going:
                yield Unneeded(path, why, num_bytes)
            elif path not in named and OURS.fullmatch(name) and modified <= changed_before:
                yield Unneeded(path, "no card names it", num_bytes)
    for place in NAMELESS_IN:
        for path, (num_bytes, modified) in store.files_in(url, place).items():
            if NAMELESS.match(path.rpartition("/")[2]) and modified <= changed_before:
                yield Unneeded(path, "its writer died", num_bytes)


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "gc",
        "List what no version of a dataset needs: the folders of jobs that died and, where asked, old versions.",
        "penstock gc /data/mnist_dataset --keep 3 --remove",
    )
    made.add_argument("data", metavar="URL", help="the dataset's folder")
    made.add_argument("--keep", type=int, metavar="N", help="also all versions but the newest N; default: keep all")
    made.add_argument(
        "--older-than",
        type=float,
        default=OLDER_THAN_H,
        metavar="HOURS",
        help="leave folders without a card that changed since: a job may be writing them; default: %(default)g",
    )
    made.add_argument("--remove", action="store_true", help="remove it; without this it is only listed")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    if arguments.keep is not None and arguments.keep < 1:
        raise PenstockError(f"--keep: expected 1 or more, found {arguments.keep}; to drop all, remove the folder")
    if not store.exists(store.absolute(arguments.data)):
        raise DatasetError(f"{arguments.data}: nothing is here; check the URL")
    found = unneeded(arguments.data, arguments.keep, 3600 * arguments.older_than)
    if arguments.remove:
        with console.step("remove") as update:
            for number, each in enumerate(found, start=1):
                store.remove(store.join(store.absolute(arguments.data), each.path))
                update(f"{number:,} of {len(found):,}")
    total = sum(each.num_bytes for each in found)
    if found:
        console.table([[each.path, each.num_bytes, each.why] for each in found], ["what", "bytes", "why"])
    what = "removed" if arguments.remove else "nothing is removed without --remove"
    console.say(f"{len(found):,} to go, {total:,} bytes: {what}" if found else "Nothing that no version needs")
    return {"removed": arguments.remove, "num_bytes": total, "unneeded": [asdict(each) for each in found]}


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
