"""Cards: the small JSON file that makes a version exist, says what is in it, and adds up its rows.

A dataset folder holds `cards/<version>.json` and `data/<version>-<attempt>/`. The card is created
exclusively and last; a folder that no card names is the rest of a job that died, and nobody reads it.

A card of kind `adopted` is of Parquet files that others wrote (`penstock adopt`). It lies in `_cards/`, which Spark
and others skip, beside the files; or elsewhere, and then it alone may name a folder outside its dataset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from penstock import store
from penstock.digest import json_digest
from penstock.errors import DatasetError, PenstockError
from penstock.schema import Schema

FORMAT = 3  # raised when a reader of the old format would misread the new one

FOLDERS = ("cards", "_cards")  # of what ETL made; of what was adopted

JSON = dict[str, Any]
PARTS: dict[str, type] = {"version": str, "recipe": str, "data": str, "created": str, "counts": dict, "lineage": dict}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True)
class CleanCard:
    """Stage 1: the rows of the raw files that broke no rule. raw = clean + quarantined."""

    version: str
    recipe: str
    data: (
        str | None
    )  # folder of the clean rows, relative to the folder that holds `cards/`; None where they were not kept
    quarantine: str | None  # folder of the refused rows, relative to the dataset; None where none was refused
    files: Mapping[str, int]  # name in `data` -> bytes
    counts: Mapping[str, int]  # raw, clean, quarantined
    rules: Mapping[str, int]  # rule -> rows that broke it; a row may break several
    lineage: Mapping[str, Any]
    fixes: Mapping[str, int] = field(default_factory=dict)  # fix -> rows that it changed
    warnings: Mapping[str, str] = field(default_factory=dict)  # rule that kept rows broke -> its reason
    expectations: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # name -> holds, shown, severity, reason
    created: str = field(default_factory=now)
    kind: str = "clean"
    format: int = FORMAT
    private: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # column -> how its values were treated

    def __post_init__(self) -> None:
        if self.counts["raw"] != self.counts["clean"] + self.counts["quarantined"]:
            raise DatasetError(
                f"counts do not add up: {self.counts['raw']:,} raw rows, but {self.counts['clean']:,} clean and "
                f"{self.counts['quarantined']:,} quarantined; either the recipe's clean() does not give one row for "
                f"each, or the raw data changed while it was read: mend clean(), or run again"
            )


@dataclass(frozen=True)
class Split:
    rows: int
    digest: str | None  # penstock.digest.rows_digest of all its rows, 16 hex digits; None where none was read


@dataclass(frozen=True)
class ManifestFile:
    path: str  # relative to the version's data folder; of an adopted version, to the dataset
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Card:
    """Stage 2: a dataset version. clean = used + left_out + duplicates, built = Σ splits.

    Where no rows are made of several, used is built, left_out is 0, and neither is said.
    """

    version: str
    recipe: str
    data: str  # folder of the version's files, relative to the dataset; adopted: "." or an absolute URL
    manifest: ManifestFile
    schema: Schema
    counts: Mapping[str, int]  # raw, quarantined, clean, duplicates, left_out, used, built
    splits: Mapping[str, Split]
    transforms: Mapping[str, Mapping[str, Any]]  # field -> what was fitted on the training split
    lineage: Mapping[str, Any]
    exact_duplicates: int = 0  # those that equal the row that was kept in all fields
    duplicates: str | None = None  # folder of the duplicates, relative to the dataset; None where there is none
    leakage: Mapping[str, int | float] = field(default_factory=dict)  # what is in several splits; equal_rows, compared
    profile: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)  # split -> field -> penstock/profile.py
    drift: JSON | None = None  # from the version before, where the recipe has a limit
    created: str = field(default_factory=now)
    kind: str = "dataset"
    format: int = FORMAT
    private: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the clean rows: column -> treatment

    def __post_init__(self) -> None:
        clean, built = self.counts["clean"], self.counts["built"]
        used, left_out = self.counts.get("used", built), self.counts.get("left_out", 0)
        in_splits = sum(split.rows for split in self.splits.values())
        if clean != used + left_out + self.counts["duplicates"] or built != in_splits or left_out < 0:
            of = f" of {used:,} used, {left_out:,} left out" if "used" in self.counts else ""
            raise DatasetError(
                f"counts do not add up: {clean:,} clean rows, but {built:,} built{of} and "
                f"{self.counts['duplicates']:,} duplicates; {in_splits:,} in the splits; do not use this "
                f"version: build the dataset again"
            )

    @property
    def contract(self) -> str:
        """The digest of what a model asks of data: the fields it reads and the transforms, not the version."""
        inputs = self.schema.without_label().to_json()["fields"]
        return json_digest({"fields": inputs, "key": self.schema.key, "transforms": dict(self.transforms)})

    @property
    def rows_contract(self) -> str:
        """The contract less what was fitted for a model's `prepare` alone, of which the rows know nothing."""
        made = {name: fitted for name, fitted in self.transforms.items() if "of" in fitted}
        return replace(self, transforms=made).contract


def to_json(card: Card | CleanCard) -> str:
    value = {f: getattr(card, f) for f in card.__dataclass_fields__}
    if isinstance(card, Card):
        value |= {
            "schema": card.schema.to_json(),
            "manifest": asdict(card.manifest),
            "splits": {name: asdict(split) for name, split in card.splits.items()},
        }
    value = {"format": value.pop("format"), "kind": value.pop("kind"), **value}
    return _text({**value, "digest": json_digest(value)}) + "\n"


def _text(value: Any, indent: str = "\n") -> str:
    """JSON with a line for each name; a list without names in it stays on its line."""
    deeper = indent + " "
    if isinstance(value, Mapping) and value:
        lines = (f"{deeper}{json.dumps(name)}: {_text(inner, deeper)}" for name, inner in value.items())
        return "{" + ",".join(lines) + indent + "}"
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return "[" + ",".join(deeper + _text(v, deeper) for v in value) + indent + "]"
    return json.dumps(value)


def from_json(text: str | bytes, where: str) -> Card | CleanCard:
    """Raises: DatasetError where the text is no card of a format and kind that this code knows, or was changed."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise TypeError("no JSON object")
        found = value["format"]
        if found != FORMAT:
            raise DatasetError(
                f"card format {found!r}, but this Penstock reads format {FORMAT}; "
                f"install the Penstock that wrote it, or build the dataset again, into another folder"
            )
        for name, kind in PARTS.items():
            if (name, value[name], value["kind"]) == ("data", None, "clean"):
                continue
            if not isinstance(value[name], kind):
                raise TypeError(f"{name} must be {kind.__name__}, is {type(value[name]).__name__}")
        expected, found = value.pop("digest"), json_digest(value)
        if value["kind"] == "clean":
            card: Card | CleanCard = CleanCard(**value)
        elif value["kind"] in ("dataset", "adopted"):
            value["schema"] = Schema.from_json(value["schema"])
            value["manifest"] = ManifestFile(**value["manifest"])
            value["splits"] = {name: Split(**split) for name, split in value["splits"].items()}
            card = Card(**value)
        else:
            raise TypeError(f"unknown kind {value['kind']!r}")
        if expected != found:  # last, as what is wrong says more than that something is
            raise DatasetError(
                f"the card was changed: it says digest {expected}, its content has {found}; build the dataset again"
            )
        return card
    except PenstockError as error:
        raise DatasetError(f"{where}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DatasetError(f"{where}: not a card ({type(error).__name__}: {error}); build the dataset again") from error


def find(folder: str, version: str) -> Card | CleanCard | None:
    """The card of a version, or None where that version does not exist."""
    for cards in FOLDERS:
        url = store.join(folder, cards, f"{version}.json")
        try:
            return from_json(store.read_bytes(url), store.shown(url))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


def publish(folder: str, card: Card | CleanCard) -> bool:
    """Creates the card, which makes the version exist. False where another writer was first: its card stands."""
    cards = FOLDERS[card.kind == "adopted"]
    return store.write_new(store.join(folder, cards, f"{card.version}.json"), to_json(card).encode())


def versions(folder: str) -> list[Card | CleanCard]:
    """All cards of a folder, oldest first."""
    urls = [
        store.join(folder, cards, name)
        for cards in FOLDERS
        for name in store.file_names(store.join(folder, cards))
        if name.endswith(".json") and not name.startswith(".")
    ]
    found = [from_json(store.read_bytes(url), store.shown(url)) for url in urls]
    return sorted(found, key=lambda card: (card.created, card.version))


def load(dataset_url: str, version: str | None = None) -> Card:
    """The card of a dataset version; the newest where none is named.

    Raises: DatasetError where there is no such version.
    """
    url = store.absolute(dataset_url)
    where = store.shown(url)
    if version is None:
        found = versions(url)
        if not found:
            raise DatasetError(
                f"{where}: no dataset here (no card in {where}/cards); make one with `penstock etl`, or of "
                f"plain Parquet with `penstock adopt`"
            )
        card: Card | CleanCard | None = found[-1]
    else:
        card = find(url, version)
        if card is None:
            there = ", ".join(c.version for c in versions(url)) or "none"
            raise DatasetError(f"{where}: no version {version!r}; the versions here: {there}")
    if not isinstance(card, Card):
        raise DatasetError(f"{where}: holds clean rows, not a dataset; name the folder above it")
    return card


def frozen(url: str, asked: str) -> Card:
    """The card whose transforms are to be used again: of a dataset's newest version, or the file that is named.

    Raises: DatasetError, which says by what it was `asked` for.
    """
    if not url.endswith(".json"):
        return load(url)
    try:
        found = from_json(store.read_bytes(store.absolute(url)), url)
    except FileNotFoundError as error:
        raise DatasetError(f"{asked}: no card at {url}") from error
    if not isinstance(found, Card):
        raise DatasetError(f"{asked}: {url} is the card of clean rows; name one of the dataset's cards")
    return found


def files_url(dataset_url: str, card: Card) -> str:
    """The folder that the files of a version lie in.

    Raises: DatasetError where it is outside the dataset, unless the card is of an adopted version. That one names
    the very folder; but a card in a remote store, which others may have written, names none on this machine.
    """
    url = store.absolute(dataset_url)
    if card.kind != "adopted" or "://" not in card.data:
        return url if card.data == "." else store.inside(url, card.data)
    if card.data.startswith("file://") and not url.startswith("file://"):
        raise DatasetError(
            f"{store.shown(url)}: version {card.version} names files of one machine, {store.shown(card.data)}; "
            f"do not use this dataset, or adopt files that lie in a store themselves"
        )
    return card.data
