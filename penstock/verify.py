"""Recounts and re-checksums a dataset version against its card, and names all that differs.

Every byte is read: the manifest, each file's length, SHA-256 and rows, each split's digest, the clean rows'
files, and the number of quarantined rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import card as cards
from penstock import command, log, manifest, store
from penstock.adopt import Columns, data_files, scan
from penstock.audit import FileAudit, audit_file
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.digest import combine
from penstock.errors import DatasetError, StorageError


def verify(dataset_url: str, console: Console, version: str | None = None) -> tuple[Card, list[str]]:
    """The card, and a sentence for each thing that differs from it; [] for a version that is whole.

    Raises: DatasetError where there is no card that can be read.
    """
    url = store.absolute(dataset_url)
    card = cards.load(url, version)
    log.about(recipe=card.recipe, version=card.version)
    try:
        listed = manifest.read(url, card)
    except DatasetError as error:
        return card, [str(error)]
    splits = dict(zip(listed.table["file"].to_pylist(), listed.table["split"].to_pylist(), strict=True))

    if card.kind == "adopted":
        return card, list(_compare_adopted(card, listed))

    def audit(file: str) -> FileAudit | str:
        try:
            return audit_file(listed.data_url, file, splits[file], card.schema)
        except DatasetError as error:
            return str(error)

    with console.step("read every byte") as update, ThreadPoolExecutor() as threads:
        audits: dict[str, FileAudit | str] = {}
        for done, (file, found) in enumerate(zip(splits, threads.map(audit, splits), strict=True), start=1):
            audits[file] = found
            update(f"{done:,} of {len(splits):,} files")
    differs = list(_compare(card, listed, splits, audits))
    for clean_version in card.lineage.get("clean", []):
        clean_card = cards.find(store.join(url, "clean"), clean_version)
        differs += _compare_clean(url, clean_card, clean_version, console)
    if card.duplicates:
        folder = store.inside(url, card.duplicates)
        differs += _compare_kept(folder, card.counts["duplicates"], f"duplicates {card.version}", console)
    return card, differs


def _compare(
    card: Card, listed: manifest.Manifest, splits: dict[str, str], audits: dict[str, FileAudit | str]
) -> Iterator[str]:
    for file in store.file_names(listed.data_url):
        if file not in splits and file != manifest.NAME:
            yield f"{store.shown(store.join(listed.data_url, file))}: not in the manifest; remove it"
    for file, found in audits.items():
        if isinstance(found, str):
            yield found
            continue
        expected = listed.table.filter(pc.field("file") == file)
        if not found.row_groups.equals(expected.cast(found.row_groups.schema)):
            yield f"{store.shown(store.join(listed.data_url, file))}: {_first_difference(expected, found.row_groups)}"
    for name, split in card.splits.items():
        whole = [a for file, a in audits.items() if splits[file] == name and isinstance(a, FileAudit)]
        rows, digest = sum(a.num_rows for a in whole), combine(a.digest for a in whole)
        if (rows, digest) != (split.rows, split.digest):
            yield (
                f"split {name!r}: the card says {split.rows:,} rows with digest {split.digest}, "
                f"the files that can be read hold {rows:,} with {digest}"
            )


def _compare_adopted(card: Card, listed: manifest.Manifest) -> Iterator[str]:
    """Footers and sizes, and every byte of the files whose checksum is known; who wrote the files left no more."""
    fields = Columns({field.name: field for field in card.schema.fields}, card.schema.names)
    files, adopted, rows = data_files(listed.data_url), listed.files, dict.fromkeys(card.splits, 0)
    for file in sorted({*files, *adopted}):
        where, expected = store.shown(store.join(listed.data_url, file)), listed.table.filter(pc.field("file") == file)
        if file not in files:
            yield f"{where}: the file is missing; bring it back, or adopt what is there"
            continue
        split = expected["split"][0].as_py() if len(expected) else ""
        checksum = bool(len(expected)) and adopted[file][1] is not None
        try:
            found = scan(listed.data_url, file, split, files[file], card.schema, fields, checksum)
        except DatasetError as error:
            yield str(error)
            continue
        if found.num_rows and not len(expected):
            yield f"{where}: not there when the files were adopted; remove it, or adopt what is there"
        elif not found.row_groups.equals(expected):
            yield f"{where}: {_first_difference(expected, found.row_groups)}"
        elif len(expected):
            rows[split] += found.num_rows
    for name, split in card.splits.items():
        if split.rows != rows[name]:
            yield f"split {name!r}: the card says {split.rows:,} rows, the files as adopted hold {rows[name]:,}"


def _first_difference(expected: pa.Table, found: pa.Table) -> str:
    for name in ("file_bytes", "file_sha256", "row_group", "num_rows", "columns"):
        there, here = expected[name].to_pylist(), found[name].to_pylist()
        if there != here:
            if name == "columns":
                return "the column chunks have other places or checksums than in the manifest"
            there, here = sorted(set(map(str, there))), sorted(set(map(str, here)))
            return f"{name}: the manifest says {', '.join(there)[:80]}, found {', '.join(here)[:80]}"
    return "differs from the manifest"


def _compare_clean(url: str, card: Card | CleanCard | None, version: str, console: Console) -> Iterator[str]:
    if not isinstance(card, CleanCard):
        return  # clean rows may be removed once a dataset is built from them
    if card.data is not None:
        yield from _compare_clean_rows(store.inside(store.join(url, "clean"), card.data), card)
    if card.quarantine:
        yield from _compare_kept(
            store.inside(url, card.quarantine), card.counts["quarantined"], f"quarantine {version}", console
        )


def _compare_kept(folder: str, expected: int, what: str, console: Console) -> Iterator[str]:
    """Refused rows, or duplicates: no reader needs them, so who has looked at them may remove the folder.

    Only their owner may read them: another one is told that they were not looked at.
    """
    try:
        names = [name for name in store.file_names(folder) if name.endswith(".parquet")]
        if not names and not store.exists(folder):
            console.say(f"Not looked at: {what}, which was removed since")
            return
        contents = [store.read_bytes(store.join(folder, name)) for name in names]
        found = sum(pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows for content in contents)
    except StorageError as error:
        if store.REFUSED not in str(error):
            raise
        console.say(f"Not looked at: {what}: {error}")
        return
    except (pa.ArrowException, OSError) as error:
        yield f"{what}: {store.shown(folder)} cannot be read ({error})"
        return
    if found != expected:
        yield f"{what}: the card says {expected:,} rows, the files hold {found:,}"


def _compare_clean_rows(data_url: str, card: CleanCard) -> Iterator[str]:
    clean_rows = 0
    for file, num_bytes in card.files.items():
        try:
            content = store.read_bytes(store.inside(data_url, file))
            if len(content) != num_bytes:
                yield f"{store.shown(data_url)}/{file}: expected {num_bytes:,} bytes, found {len(content):,}"
            clean_rows += pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows
        except (FileNotFoundError, pa.ArrowException, OSError) as error:
            yield f"{store.shown(data_url)}/{file}: clean rows cannot be read ({error})"
            return
    if clean_rows != card.counts["clean"]:
        yield f"clean rows {card.version}: the card says {card.counts['clean']:,}, the files hold {clean_rows:,}"


def _checked(card: Card) -> str:
    if card.kind != "adopted":
        return "every byte as published"
    if card.lineage["checksum"]:
        return "every byte as adopted"
    return "footers and sizes as adopted; bytes cannot be checked, as `penstock adopt --checksum` was not asked for"


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "verify",
        "Recount and re-checksum a dataset version against its card; what differs is named and the exit code is 1.",
        "penstock verify /data/mnist_dataset",
    )
    made.add_argument("data", metavar="URL", help="the dataset's folder")
    made.add_argument("--version", help="dataset version; default: the newest")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    card, differs = verify(arguments.data, console, arguments.version)
    if differs:
        raise DatasetError(
            f"version {card.version} of {arguments.data} differs from its card in {len(differs)} places:\n  "
            + "\n  ".join(differs)
        )
    console.table(
        [[name, split.rows, split.digest or "not known"] for name, split in card.splits.items()],
        ["split", "rows", "digest"],
    )
    console.say(f"Version {card.version} is whole: {card.counts['built']:,} rows, {_checked(card)}")
    splits = {name: {"rows": split.rows, "digest": split.digest} for name, split in card.splits.items()}
    return {"version": card.version, "whole": True, "splits": splits, "counts": dict(card.counts)}


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
