"""Which clean intervals a dataset version is built from, where raw data comes interval by interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from penstock import card as cards
from penstock.card import CleanCard
from penstock.errors import DatasetError
from penstock.interval import Interval


@dataclass(frozen=True)
class Window:
    """The clean intervals of a recipe's window besides the one that a job cleans itself, oldest first."""

    cards: Sequence[CleanCard] = ()
    otherwise: Sequence[Interval] = ()  # not among them: what cleaned them would clean otherwise now


def before(clean_folder: str, interval: Interval, length: timedelta | None, settings: str) -> Window:
    """The clean intervals that lie within `length` of the end of `interval`; None: all that end by then.

    Of an interval that was cleaned several times, as where its raw data came anew, the newest counts. `settings` is
    the digest of all but the raw data that decides what a clean row is.

    Raises: DatasetError where two intervals overlap: their rows would be there twice.
    """
    newest: dict[Interval, CleanCard] = {}
    others: set[Interval] = set()
    for card in cards.versions(clean_folder):
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
