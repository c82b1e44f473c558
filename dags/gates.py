"""What a version must pass before it is announced, and which of the announced ones is trained. Files decide: cards,
run folders and the release folder, so that it does not matter how often Airflow asks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dags.settings import Pipeline
from penstock import card as cards
from penstock import compare, overview, store
from penstock.card import Card
from penstock.errors import DatasetError
from penstock.interval import Interval
from penstock.released import released


def check(pipeline: Pipeline, version: str) -> dict[str, Any]:
    """The figures of a version that may be announced. Raises: DatasetError with every limit that it is beyond."""
    url, limits = store.absolute(pipeline.dataset), pipeline.limits
    card = cards.load(url, version)
    counts, clean = card.counts, overview.clean_cards(url, card)
    wrong = []
    for name in ("raw", "clean", "quarantined"):
        total = sum(one.counts[name] for one in clean)
        if total != counts[name]:
            wrong.append(f"{counts[name]:,} {name} rows, but {total:,} in the {len(clean):,} cards of its clean rows")
    quarantined = counts["quarantined"] / max(1, counts["raw"])
    if limits.max_quarantined is not None and quarantined > limits.max_quarantined:
        wrong.append(
            f"{quarantined:.2%} of the raw rows were refused, above max_quarantined = {limits.max_quarantined:.2%}"
        )
    if len(clean) < limits.min_intervals:
        wrong.append(f"built from {len(clean):,} clean intervals, below min_intervals = {limits.min_intervals}")
    before, changes = _before(url, card), []
    if before is not None:
        changes = compare.changes(before.profile, card.profile, card.schema.key)
        if limits.max_drift is not None and (too_far := compare.above(changes, limits.max_drift)):
            wrong.append(
                f"drift from version {before.version} above max_drift = {limits.max_drift}: {compare.named(too_far)}"
            )
    if wrong:
        raise DatasetError(f"version {version} of {store.shown(url)} is not announced: {'; '.join(wrong)}")
    drift = max((change.psi for change in changes if not change.by_chance), default=0.0)
    return {
        "version": version,
        "card": store.shown(store.join(url, "cards", f"{version}.json")),
        "counts": dict(counts),
        "splits": {name: split.rows for name, split in card.splits.items()},
        "quarantined": round(quarantined, 6),
        "drift": None if before is None else {"against": before.version, "largest_psi": round(drift, 4)},
        "interval": card.lineage.get("interval"),
        "intervals": len(clean),
    }


def _before(url: str, card: Card) -> Card | None:
    """The newest version of the same recipe that is older than this one, and whose transforms are its own."""
    versions = [one for one in cards.versions(url) if isinstance(one, Card) and one.created < card.created]
    return next((one for one in reversed(versions) if one.recipe == card.recipe and "frozen" not in one.lineage), None)


@dataclass(frozen=True, order=True)
class Age:
    """Of two versions the newer one is that of the later data; of the same data, that which was made later."""

    until: str
    created: str

    @classmethod
    def of(cls, card: Card) -> Age:
        interval = card.lineage.get("interval")
        return cls(Interval.parse(interval).end.isoformat() if interval else "", card.created)


def choose(pipeline: Pipeline, announced: Iterable[str]) -> tuple[str, list[str]]:
    """The version to train, and those that it supersedes, each of which a file `superseded/VERSION.json` tells.

    A version that was trained before counts too: where it is newer than all that are announced, it is the answer.
    """
    url, runs = store.absolute(pipeline.dataset), store.absolute(str(pipeline.runs))
    asked, trained = set(announced), set(store.folders(runs))
    ages = {
        card.version: Age.of(card)
        for card in cards.versions(url)
        if isinstance(card, Card) and card.version in asked | trained
    }
    if missing := sorted(asked - ages.keys()):
        raise DatasetError(f"{store.shown(url)}: no version {missing[0]}, which was announced; was it removed?")
    newest = max(ages, key=lambda version: ages[version])
    superseded = sorted(asked - {newest} - trained)
    for version in superseded:
        told = {"version": version, "by": newest, "at": cards.now()}
        store.write_new(store.join(runs, "superseded", f"{version}.json"), json.dumps(told).encode())
    return newest, superseded


def for_released(pipeline: Pipeline, version: str) -> str | None:
    """The card with whose transforms a version's rows are to be built once more for the released model.

    None where that one reads the version as it is, or nothing is released.
    """
    now = released(str(pipeline.releases))
    if now is None or now.contract == cards.load(store.absolute(pipeline.dataset), version).contract:
        return None
    return store.join(now.run, "card.json")


@dataclass(frozen=True)
class ToPredict:
    run: str
    version: str


def to_predict(pipeline: Pipeline, version: str, for_released_one: str) -> ToPredict | None:
    """The released model, and which of the two versions with the same rows it reads; None while nothing is released."""
    now = released(str(pipeline.releases))
    if now is None:
        return None
    return ToPredict(now.run, version if now.dataset_version == version else for_released_one)
