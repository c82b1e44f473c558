"""Which clean intervals a dataset version is built from, where raw data comes interval by interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from penstock import card as cards
from penstock import store
from penstock.card import Card, CleanCard
from penstock.errors import DatasetError
from penstock.interval import Interval
from penstock.store import RawFile


@dataclass(frozen=True)
class Window:
    """The clean intervals of a recipe's window besides the one that a job cleans itself, oldest first."""

    cards: Sequence[CleanCard] = ()
    otherwise: Sequence[Interval] = ()  # not among them: what cleaned them would clean otherwise now


@dataclass(frozen=True)
class MadeFrom:
    """What a version was made from, to be built again: its last clean rows with their raw files, and the others."""

    card: CleanCard
    raw_url: str
    files: Sequence[RawFile]
    interval: Interval | None
    window: Window


def made_from(dataset_url: str, version: str) -> MadeFrom:
    """Raises: DatasetError where the version, or a card of its clean rows, is not there any more."""
    card = cards.load(dataset_url, version)
    found = [cards.find(store.join(dataset_url, "clean"), name) for name in card.lineage.get("clean", [])]
    if not found:
        raise DatasetError(
            f"{store.shown(dataset_url)}: version {version} was not made of raw files, from which its rows could be "
            f"built again; name one that `penstock etl` made"
        )
    clean = [one for one in found if isinstance(one, CleanCard)]
    if len(clean) != len(found):
        where = store.shown(dataset_url)
        raise DatasetError(f"{where}: cards of the clean rows of version {version} are missing; build it from raw data")
    *others, last = clean
    interval = Interval.parse(card.lineage["interval"]) if "interval" in card.lineage else None
    files = [RawFile(**file) for file in last.lineage["raw_files"]]
    otherwise = [Interval.parse(text) for text in card.lineage.get("cleaned_otherwise", [])]
    return MadeFrom(last, last.lineage["raw_url"], files, interval, Window(others, otherwise))


def newer(known: Sequence[Card | CleanCard], interval: Interval, version: str, settings: str) -> str | None:
    """The clean version of an interval that `before` takes, of the cards `known`, where another one is older."""
    of_interval = [
        card.version
        for card in known
        if isinstance(card, CleanCard)
        and (card.lineage.get("interval"), card.lineage.get("settings")) == (str(interval), settings)
    ]
    return of_interval[-1] if version in of_interval[:-1] else None


def before(
    known: Sequence[Card | CleanCard], clean_folder: str, interval: Interval, length: timedelta | None, settings: str
) -> Window:
    """Of the cards `known` in `clean_folder`, oldest first, those of the clean intervals within `length` of the
    end of `interval`; None: all that end by then.

    Of an interval that was cleaned several times, as where its raw data came anew, the newest counts. `settings` is
    the digest of all but the raw data that decides what a clean row is.

    Raises: DatasetError where two intervals overlap: their rows would be there twice.
    """
    newest: dict[Interval, CleanCard] = {}
    others: set[Interval] = set()
    for card in known:
        if not isinstance(card, CleanCard) or card.data is None or "interval" not in card.lineage:
            continue
        found = Interval.parse(card.lineage["interval"])
        if found == interval or found.end > interval.end:
            continue
        if length is not None and found.start < interval.end - length:
            continue
        if card.lineage["settings"] == settings:
            newest[found] = card
        else:
            others.add(found)
    in_order = sorted(newest)
    for first, second in pairwise([*in_order, interval]):
        if first.overlaps(second):
            raise DatasetError(
                f"{clean_folder}: {first} and {second} overlap, so that rows would be there twice; remove the card of "
                f"one of them from its folder `cards`, and run again"
            )
    return Window([newest[found] for found in in_order], sorted(others - newest.keys()))
