"""Raw files to a dataset version: `penstock etl`, `python -m etl.run` and `spark-submit etl/run.py` run this.

Two stages in one pass, read straight down in `run`. CLEAN: read, fix, check the rules, keep or refuse each row, protect
what is personal. BUILD: split, shuffle, deduplicate, write, read back, fit. The cards are published last. A version
that exists is not made again.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # started by spark-submit: the project's root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pyspark import cloudpickle
from pyspark.sql import DataFrame, Observation, SparkSession

from etl import build, clean, counts, features, privacy, publish, split, window
from etl.read import escaped
from etl.spark import RESULT_SETTINGS, progress, session, user_errors
from etl.window import Window
from penstock import card as cards
from penstock import command, compare, leakage, log, manifest, profile, shards, store
from penstock.card import Card, CleanCard
from penstock.console import Console
from penstock.digest import combine, json_digest
from penstock.errors import DatasetError, RawDataError, RecipeError
from penstock.fit import fitted
from penstock.interval import Interval
from penstock.privacy import PseudonymKey, Treatment, check_unmarked, looked_for, pseudonym_key
from penstock.published import check_whole, damaged, publish_card, remove, removed_on_failure
from penstock.recipe import DatasetRecipe, First, Last, Recipe, find
from penstock.rules import Asked, Reference, asked
from penstock.store import RawFile

REVISION = 6  # of this stage's code: raised when the same raw data would give other rows


@dataclass(frozen=True)
class Job:
    """What one ETL run is asked for, and the versions that it is to end with."""

    recipe: DatasetRecipe
    raw_url: str
    files: Sequence[RawFile]
    out: str
    labelled: bool
    keep_clean: bool
    frozen: str | None  # the version whose transforms are used
    transforms: Mapping[str, Mapping[str, Any]] | None  # its transforms; None where they are to be fitted
    key: PseudonymKey | None  # where the recipe makes pseudonyms
    interval: Interval | None  # that the raw data is about, where it comes interval by interval
    window: Window  # the other intervals that the version is built from
    settings: str  # digest of all but the raw data that decides what a clean row is
    clean_version: str
    version: str


@dataclass(frozen=True)
class Built:
    """The version that an ETL run ended with, and whether another run has made it."""

    card: Card
    clean: CleanCard
    reused: bool


def etl(
    recipe: Recipe,
    raw_url: str | None,
    out: str,
    console: Console,
    *,
    rows_of: str | None = None,
    frozen: Card | None = None,
    labelled: bool = True,
    keep_clean: bool = False,
    interval: Interval | None = None,
    master: str | None = None,
) -> Built:
    """Makes the dataset version of these raw files, unless it is there, and returns it.

    `frozen` gives the transforms of another version instead of fitting them; `labelled=False` is for raw data
    without the label, which is to be scored; `keep_clean` publishes the clean rows too, and builds from them. Where the
    raw data is that of an `interval`, its clean rows are kept, and the version is built from all clean intervals of the
    recipe's window: only this one's raw files are read. `rows_of` names a version whose rows are to be built again,
    from its clean rows where they were kept, else from the same raw files; then no `raw_url` is needed.

    Raises: RawDataError, RecipeError, DatasetError, StorageError; then nothing is published.
    """
    out = store.absolute(out)
    again = None if rows_of is None else window.made_from(out, rows_of)
    if again is not None:
        raw_url, interval, keep_clean = again.raw_url, again.interval, again.card.data is not None
    assert raw_url is not None
    raw_url = store.absolute(raw_url)
    store.check_apart(out, raw_url)
    dataset_recipe = recipe.dataset()
    key = pseudonym_key(dataset_recipe.private)
    if frozen is not None:
        _check_fields(frozen, dataset_recipe)
        privacy.check_key(frozen, key)
    clean_folder = store.join(out, "clean")
    if again is not None and again.card.data is not None:
        files = again.files
    else:
        with console.step("take stock of the raw files"):
            known = cards.versions(clean_folder)
            files = store.inventory(raw_url, _known_checksums(known, raw_url))
    transforms = None if frozen is None else {name: dict(fitted) for name, fitted in frozen.transforms.items()}
    inventory = [[file.name, file.num_bytes, file.sha256] for file in files]
    how = [cards.FORMAT, REVISION, dataset_recipe.settings, RESULT_SETTINGS, labelled]
    others = [*_tables(dataset_recipe), *([key.fingerprint] if key else [])]
    said, settings, earlier = [*how, inventory, *others], json_digest([*how, *others]), Window()
    if interval is None:
        clean_version, version = json_digest([*said, keep_clean]), json_digest([*said, transforms])
    else:
        keep_clean, clean_version = True, json_digest([*said, str(interval)])
        earlier = (
            again.window if again else window.before(known, clean_folder, interval, dataset_recipe.window, settings)
        )
        built_from = [*(card.version for card in earlier.cards), clean_version]
        version = json_digest([settings, str(interval), built_from, transforms])
    if again is not None and clean_version != again.card.version:
        raise DatasetError(
            f"{store.shown(out)}: the rows of version {rows_of} cannot be built again: its raw files, or what recipe "
            f"{recipe.name!r} does with them, have changed since; go back to them, or take a version made since"
        )
    job = Job(
        recipe=dataset_recipe,
        raw_url=raw_url,
        files=files,
        out=out,
        labelled=labelled,
        keep_clean=keep_clean,
        frozen=frozen.version if frozen else None,
        transforms=transforms,
        key=key,
        interval=interval,
        window=earlier,
        settings=settings,
        clean_version=clean_version,
        version=version,
    )
    log.about(recipe=recipe.name, version=version)

    clean_card, card = cards.find(clean_folder, clean_version), cards.find(out, version)
    if again is None and interval and (newer := window.newer(known, interval, clean_version, settings)):
        console.warn(
            f"{interval} was cleaned from other raw data since (clean version {newer}), and later intervals are built "
            f"from that; where this delivery counts, remove that card from {store.shown(clean_folder)}/cards"
        )
    if isinstance(clean_card, CleanCard) and isinstance(card, Card):
        check_whole(out, card)
        return Built(card, clean_card, reused=True)
    store.check_writable(out)
    with console.step("start Spark"):
        opened = session(f"penstock etl {recipe.name}", master, sum(file.num_bytes for file in files))
        spark = opened.__enter__()
        log.about(application=spark.sparkContext.applicationId)
    with _closing(opened), user_errors(store.shown(raw_url), store.shown(out)):
        _ship_code(dataset_recipe)
        return run(spark, job, clean_card if isinstance(clean_card, CleanCard) else None, console)


def run(spark: SparkSession, job: Job, clean_card: CleanCard | None, console: Console) -> Built:
    """Raw files -> clean rows -> shards in one pass: one raw read, one shuffle, one sort, one write, read back.

    Clean rows take the detour over files only where they are to be kept, or where rows are made of several, known by
    another key than the schema's, or transforms fitted. Refused rows cost a second read of the files that have some.
    """
    recipe, clean_folder = job.recipe, store.join(job.out, "clean")
    schema = recipe.schema if job.labelled else recipe.schema.without_label()
    attempt = _attempt(job)
    with (
        removed_on_failure(console, attempt.url(attempt.data), attempt.url(attempt.duplicates)) as urls,
        _temporary(console, attempt.rows_url),
    ):
        with removed_on_failure(console, attempt.clean_url, attempt.url(attempt.quarantine)) as clean_urls:
            cleaned = None if clean_card and clean_card.data else _clean(spark, job)
            if job.interval is not None and cleaned is not None:
                clean_card = _clean_interval(spark, cleaned, attempt, clean_urls, console)
            if clean_card and clean_card.data:
                rows = _kept_rows(spark, clean_folder, [*job.window.cards, clean_card])
            else:
                assert cleaned is not None
                is_detour = job.keep_clean or build.is_needed(recipe)
                rows = _over_files(spark, cleaned, attempt, console) if is_detour else cleaned.rows

            num_shards = shards.num_shards(sum(file.num_bytes for file in job.files) + _raw_bytes(job.window))
            store.make_private(attempt.url(attempt.duplicates))
            prepared = None
            if build.is_needed(recipe):
                clean_card = clean_card or _judge(spark, cleaned, rows.count(), attempt, console)
                places = job.raw_url, attempt.rows_url, attempt.url(attempt.duplicates)
                prepared = build.prepare(spark, rows, recipe, schema, job.labelled, job.transforms, *places, console)
                schema = prepared.schema
                placed = split.place(prepared.rows, schema, num_shards)
            else:
                assigned = split.assign(publish.conform(rows, schema), schema, recipe.split)
                placed = split.place(assigned, schema, num_shards, recipe.keep)
            with console.step("clean, shuffle, write and read back") as update, progress(spark, update):
                written = publish.write(
                    placed,
                    schema,
                    recipe.split,
                    recipe.row_group_bytes,
                    attempt.url(attempt.data),
                    duplicates_url=None if prepared else attempt.url(attempt.duplicates),
                    most_compared=leakage.MOST_COMPARED // num_shards,
                    look_for=looked_for(schema, privacy.asked(recipe, job.labelled), recipe.not_private),
                )

            check_unmarked(written.personal)
            became = build.counts(prepared, written)
            if not became["duplicates"]:
                store.remove(attempt.url(attempt.duplicates))
            clean_card = clean_card or _judge(spark, cleaned, became["clean"], attempt, console)
            sources = [*job.window.cards, clean_card]
            raw, num_clean, quarantined = (
                sum(card.counts[name] for card in sources) for name in ("raw", "clean", "quarantined")
            )
            if became["clean"] != num_clean:
                raise DatasetError(f"{num_clean:,} clean rows, but {became['clean']:,} were read; run again")
            if cleaned is not None:
                store.check_unchanged(job.raw_url, job.files)
            profiles = written.profiles(schema)
            described = {name: profile.described(found, schema) for name, found in profiles.items()}
            drift = compare.check_drift(job.out, recipe, schema, described)
            clean_card = publish_card(clean_folder, clean_card, clean_urls, console)

        transforms = job.transforms
        if transforms is None:
            transforms = {**fitted(recipe.fit, profiles), **(prepared.transforms if prepared else {})}
        tables = [audit.row_groups for audits in written.audits.values() for audit in audits]
        card = Card(
            version=job.version,
            recipe=recipe.name,
            data=attempt.data,
            manifest=manifest.write(attempt.url(attempt.data), tables, schema),
            schema=schema,
            counts={"raw": raw, "quarantined": quarantined, **became},
            splits={
                name: cards.Split(sum(a.num_rows for a in audits), combine(a.digest for a in audits))
                for name, audits in written.audits.items()
            },
            transforms=transforms,
            profile=described,
            drift=drift,
            lineage={
                "clean": [card.version for card in sources],
                **_intervals(job),
                **({"frozen": job.frozen} if job.frozen else {}),
                **_made_by(spark, recipe),
            },
            exact_duplicates=(prepared or written).exact_duplicates,
            duplicates=attempt.duplicates if became["duplicates"] else None,
            leakage=written.leakage,
            private=privacy.added(card.private for card in sources),
        )
        published = publish_card(job.out, card, urls, console)
        if published is not card:
            console.say("Another job published this version first: its files stand, and this job's are removed")
        return Built(published, clean_card, reused=published is not card)


@dataclass(frozen=True)
class Attempt:
    """Where one attempt at a version writes: folders of its own, relative to the dataset."""

    job: Job
    data: str
    clean: str  # relative to the dataset's `clean`
    quarantine: str
    duplicates: str

    def url(self, folder: str) -> str:
        return store.join(self.job.out, folder)

    @property
    def rows_url(self) -> str:
        """Of rows on their way, where a recipe's second stage needs them as files."""
        return f"{self.url(self.data)}-rows"

    @property
    def clean_url(self) -> str:
        kept = store.join(self.job.out, "clean", self.clean)
        return kept if self.job.keep_clean else store.join(self.rows_url, "clean")


def _attempt(job: Job) -> Attempt:
    number = uuid.uuid4().hex[:8]
    clean_name, name = f"{job.clean_version}-{number}", f"{job.version}-{number}"
    return Attempt(job, f"data/{name}", f"data/{clean_name}", f"quarantine/{clean_name}", f"duplicates/{name}")


@dataclass(frozen=True)
class Cleaned:
    """Clean rows, which Spark has not computed yet, and what it counts while it does."""

    rows: DataFrame
    checked: DataFrame  # all raw rows, with the rules that each breaks
    asked: Asked
    private: Mapping[str, Treatment]
    counted: Observation
    treated: Observation


def _clean(spark: SparkSession, job: Job) -> Cleaned:
    """read -> fix -> check -> keep or refuse -> clean -> protect"""
    recipe = job.recipe
    ask, private = asked(recipe.fixes, recipe.rules, job.labelled), privacy.asked(recipe, job.labelled)
    raw_rows = _rows("read", recipe.read(spark, job.raw_url, job.labelled))
    if not recipe.quarantine_records:
        raw_rows = privacy.without_values(raw_rows)
    if isinstance(recipe.keep, First | Last):
        raw_rows = clean.located(raw_rows)
    if ask.expectations:
        raw_rows = clean.blank(raw_rows)
    fixed = clean.fix(raw_rows, ask.fixes)
    checked, counted, treated = clean.check(fixed, ask.rules, job.raw_url), Observation(), Observation()
    observed = checked.observe(counted, *counts.aggregates(ask))
    rows = _public(_rows("clean", recipe.clean(clean.kept(observed))))
    rows = privacy.protect(rows, private, job.key, treated)
    return Cleaned(rows, checked, ask, private, counted, treated)


def _over_files(spark: SparkSession, cleaned: Cleaned, attempt: Attempt, console: Console) -> DataFrame:
    """The clean rows, from files that hold nothing personal."""
    job, rows = attempt.job, cleaned.rows
    if not job.keep_clean:
        store.make_private(attempt.rows_url)
    with console.step("read, check, clean and keep") as update, progress(spark, update):
        rows = build.over_parquet(spark, rows, attempt.clean_url)
    check_unmarked(privacy.found(rows, cleaned.private, job.recipe.not_private))
    return rows


def _clean_interval(
    spark: SparkSession, cleaned: Cleaned, attempt: Attempt, urls: list[str], console: Console
) -> CleanCard:
    """Publishes the clean rows of the job's interval before anything is built: they serve the later ones too."""
    job = attempt.job
    rows = _over_files(spark, cleaned, attempt, console)
    card = _judge(spark, cleaned, rows.count(), attempt, console)
    store.check_unchanged(job.raw_url, job.files)
    return publish_card(store.join(job.out, "clean"), card, urls, console)


def _judge(
    spark: SparkSession, cleaned: Cleaned | None, num_clean: int, attempt: Attempt, console: Console
) -> CleanCard:
    """The card of the clean rows, once they were read; refused rows are written to quarantine.

    Raises: RawDataError where there is no row, where too many are refused, or a rule ends the job.
    """
    assert cleaned is not None  # else the card is there
    job, recipe, raw = attempt.job, attempt.job.recipe, store.shown(attempt.job.raw_url)
    found, quarantine_url = counts.counts(cleaned.counted.get, cleaned.asked), attempt.url(attempt.quarantine)
    if not found.raw:
        raise RawDataError(f"raw data: no row in the {len(job.files)} files of {raw}; check --raw")
    refused = None
    if found.quarantined:
        with console.step("look up the refused rows") as update, progress(spark, update):
            store.make_private(quarantine_url)
            there = cleaned.checked.where(counts.bucket("_file").isin(found.refused_in))  # Spark skips other files
            refused = clean.refused(there, cleaned.asked.rules, job.raw_url)
            if not recipe.quarantine_records:
                refused = privacy.without_records(refused)
            refused.write.mode("append").parquet(quarantine_url)
            refused = spark.read.parquet(escaped(quarantine_url))
    counts.check_allowed(found, cleaned.asked, refused, recipe.max_quarantined, raw)
    return CleanCard(
        version=job.clean_version,
        recipe=recipe.name,
        data=attempt.clean if job.keep_clean else None,
        quarantine=attempt.quarantine if found.quarantined else None,
        files=store.file_sizes(attempt.clean_url) if job.keep_clean else {},
        counts={"raw": found.raw, "clean": num_clean, "quarantined": found.quarantined},
        fixes=found.fixes,
        rules=found.rules,
        warnings=counts.warnings(found, cleaned.asked),
        expectations=found.expectations,
        lineage={
            "raw_url": job.raw_url,
            "raw_files": [asdict(file) for file in job.files],
            **({"interval": str(job.interval), "settings": job.settings} if job.interval else {}),
            **_made_by(spark, recipe),
        },
        private=privacy.done(cleaned.private, job.key, cleaned.treated),
    )


@contextmanager
def _temporary(console: Console, url: str) -> Iterator[None]:
    try:
        yield
    finally:
        remove(console, url)


@contextmanager
def _closing(opened: Any) -> Iterator[None]:
    try:
        yield
    finally:
        opened.__exit__(None, None, None)


def _ship_code(recipe: DatasetRecipe) -> None:
    # Executors cannot import a recipe from a user's folder: its functions travel with the job.
    package = recipe.module.__name__.rpartition(".")[0]
    if not package.startswith("recipes."):
        for name, module in list(sys.modules.items()):
            if name.startswith(f"{package}."):
                cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]


def _tables(recipe: DatasetRecipe) -> list[list[tuple[str, str]]]:
    """What lies where a rule's table does, outside the raw data: other values are another version."""
    urls = [rule.url for rule in recipe.rules if isinstance(rule, Reference) and rule.url is not None]
    return [[(file.name, file.sha256) for file in store.inventory(store.absolute(url))] for url in urls]


def _rows(function: str, found: object) -> DataFrame:
    if not isinstance(found, DataFrame):
        raise RecipeError(f"{function}() of the recipe must return a DataFrame of Spark, found {type(found).__name__}")
    return found


def _public(df: DataFrame) -> DataFrame:
    return df.select(*(name for name in df.columns if not name.startswith("_") or name == clean.PLACE))


def _made_by(spark: SparkSession, recipe: DatasetRecipe) -> dict[str, str]:
    return {"code": recipe.code, "spark": spark.version, "application": spark.sparkContext.applicationId}


def _intervals(job: Job) -> dict[str, Any]:
    """What the card says of the window that the version was built from."""
    if job.interval is None:
        return {}
    told = {"interval": str(job.interval), "intervals": [*(c.lineage["interval"] for c in job.window.cards)]}
    return told | {"cleaned_otherwise": [str(found) for found in job.window.otherwise]}


def _raw_bytes(earlier: Window) -> int:
    return sum(file["num_bytes"] for card in earlier.cards for file in card.lineage["raw_files"])


def _known_checksums(known: Sequence[Card | CleanCard], raw_url: str) -> dict[tuple[str, int, str], str]:
    """What the clean cards say of the raw files there: an unchanged file is not read again for its checksum."""
    raw_files = [file for card in known if card.lineage["raw_url"] == raw_url for file in card.lineage["raw_files"]]
    return {(f["name"], f["num_bytes"], f["modified"]): f["sha256"] for f in raw_files if f["modified"]}


def _kept_rows(spark: SparkSession, clean_folder: str, clean_cards: Sequence[CleanCard]) -> DataFrame:
    clean_urls = [store.join(clean_folder, str(card.data)) for card in clean_cards]
    for clean_url, card in zip(clean_urls, clean_cards, strict=True):
        if store.file_sizes(clean_url) != card.files:
            raise DatasetError(damaged(clean_url, clean_folder, card.version))
    return spark.read.parquet(*map(escaped, clean_urls))


def _check_fields(frozen: Card, recipe: DatasetRecipe) -> None:
    if missing := [name for name in recipe.transforms if name not in frozen.transforms]:
        raise RecipeError(
            f"--frozen: version {frozen.version} has no transforms of field {missing[0]!r}, which recipe "
            f"{recipe.name!r} makes; name a dataset that this recipe made"
        )
    schema = features.resolved(recipe.schema, {name: frozen.transforms[name] for name in recipe.transforms})
    if frozen.schema.without_label() != schema.without_label():
        raise RecipeError(
            f"--frozen: version {frozen.version} is of recipe {frozen.recipe!r} and has other fields than recipe "
            f"{recipe.name!r}; name a dataset that this recipe made"
        )


def report(built: Built, out: str, console: Console) -> None:
    """What a person wants to know of a version: whether the counts add up, and where it lies."""
    card = built.card
    console.say()
    console.table(
        [[name, card.counts[name]] for name in card.counts] + [[f"  {n}", s.rows] for n, s in card.splits.items()]
    )
    console.say()
    for name, reason in built.clean.warnings.items():
        console.warn(f"{built.clean.rules[name]:,} rows break {name}: {reason}")
    for name, said in built.clean.expectations.items():
        if unmet := counts.not_held(name, said):
            console.warn(unmet)
    if "interval" in card.lineage:
        intervals, otherwise = card.lineage["intervals"], card.lineage["cleaned_otherwise"]
        console.say(f"Built from {len(intervals) + 1:,} clean intervals, the last {card.lineage['interval']}")
        if otherwise:
            console.warn(
                f"{len(otherwise):,} clean intervals of the window are left out, {otherwise[0]} the first: the recipe "
                f"would clean them otherwise now; clean them again"
            )
    if card.leakage.get("equal_rows"):
        console.warn(f"{card.leakage['equal_rows']:,} kinds of rows, alike but for their keys, are in several splits")
    if card.duplicates:
        where = store.shown(store.join(out, card.duplicates))
        console.say(f"Duplicates, {card.exact_duplicates:,} of them exact: {where}")
    if built.clean.quarantine:
        console.say(f"Quarantined rows, with reasons: {store.shown(store.join(out, built.clean.quarantine))}")
    for column, treated in card.private.items():
        console.say(f"Personal data: column {column!r} {privacy.told(treated)}")
    state = "reused: it was built before from the same raw files and code" if built.reused else "published"
    console.say(f"Dataset version {card.version} {state}: {store.shown(store.join(out, card.data))}")


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "etl",
        "Clean raw files with Spark and publish them as a dataset version: Parquet shards and a card.",
        "penstock etl mnist --raw /data/mnist --out /data/mnist_dataset",
    )
    made.add_argument("recipe", help="a shipped recipe's name, or the path of a folder with dataset.py")
    raw = made.add_mutually_exclusive_group(required=True)
    raw.add_argument("--raw", metavar="URL", help="a raw file, a folder, or a pattern such as 'raw/2011-*'")
    raw.add_argument(
        "--rows-of",
        metavar="VERSION",
        help="instead: build this version's rows again, as with --frozen; from its clean rows where they were kept",
    )
    made.add_argument("--out", required=True, metavar="URL", help="the dataset's folder; versions are added to it")
    made.add_argument("--frozen", metavar="URL", help="use the transforms of this dataset (or card file), fit nothing")
    made.add_argument("--unlabelled", action="store_true", help="the raw data has no label: rows to be scored")
    made.add_argument("--keep-clean", action="store_true", help="publish the clean rows too, before they are shuffled")
    made.add_argument(
        "--interval",
        metavar="DAY|START/END",
        help="the raw data is of this day or interval: build from all clean ones of the recipe's window",
    )
    command.add_result(made)
    made.add_argument("--master", help="Spark master; default: spark-submit's, or local[*]")
    return made


def work(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    frozen = cards.frozen(arguments.frozen, "--frozen") if arguments.frozen else None
    built = etl(
        find(arguments.recipe),
        arguments.raw,
        arguments.out,
        console,
        rows_of=arguments.rows_of,
        frozen=frozen,
        labelled=not arguments.unlabelled,
        keep_clean=arguments.keep_clean,
        interval=Interval.parse(arguments.interval) if arguments.interval else None,
        master=arguments.master,
    )
    report(built, store.absolute(arguments.out), console)
    return summary(built, arguments.out)


def summary(built: Built, out: str) -> dict[str, Any]:
    card = built.card
    splits = {name: asdict(found) for name, found in card.splits.items()}
    dataset = store.absolute(out)
    return {
        "dataset": dataset,
        "version": card.version,
        "reused": built.reused,
        "counts": card.counts,
        "splits": splits,
    }


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
