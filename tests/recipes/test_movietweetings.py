"""What a row knows is older than what it asks for: against plain Python. And a slice that trains, goes on, predicts."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from etl.run import Built, etl
from penstock import cli
from penstock.console import Console
from penstock.recipe import find
from recipes.movietweetings.dataset import DAY_S, DAYS, NUM_RECENT, PERIOD_S, TEST, VAL, build
from tests.conftest import SHARED_DATA
from tests.recipes.resuming import train_and_resume

COLUMNS = pa.schema({"user": pa.int64(), "film": pa.int32(), "rating": pa.int32(), "time": pa.int64()})
EDGES = [edge + step for edge in (VAL - PERIOD_S, VAL, TEST) for step in (-7 * DAY_S - 1, -7 * DAY_S, -1, 0)]
RATING = st.fixed_dictionaries(
    {
        "user": st.integers(1, 3),
        "film": st.integers(1, 9),
        "rating": st.integers(0, 10),
        "time": st.one_of(st.sampled_from(EDGES), st.integers(VAL - 9 * PERIOD_S, TEST + 20 * DAY_S)),
    }
)
RATINGS = st.lists(RATING, min_size=8, max_size=40, unique_by=lambda rating: (rating["user"], rating["film"]))
Rating = dict[str, Any]
# Each film by three users in turn, each time at another side of a border.
AT_EDGES: list[Rating] = [
    {"user": 1 + i % 3, "film": 1 + i // 3, "rating": i % 11, "time": time} for i, time in enumerate(EDGES)
]


def built_of(spark: SparkSession, ratings: list[Rating], labelled: bool = True) -> dict[str, dict[str, Any]]:
    rows = build(spark.createDataFrame(pa.Table.from_pylist(ratings, schema=COLUMNS)), labelled)
    return {row["id"]: row.asDict() for row in rows.collect()}


def expected(ratings: list[Rating], moments: dict[int, int | None]) -> dict[str, dict[str, Any]]:
    """`moments` says until when each of them lasts."""
    rows = {}
    first = {film: min(r["time"] for r in ratings if r["film"] == film) for film in {r["film"] for r in ratings}}

    def until(time: int) -> float:
        """The moment after a time."""
        return next((m for m in sorted(moments) if m > time), math.inf)

    def known(film: int, before: float) -> list[int]:
        return [r["rating"] for r in ratings if r["film"] == film and r["time"] < before]

    def mean(film: int, before: float) -> float:
        return sum(known(film, before)) / max(1, len(known(film, before)))

    for moment, end in moments.items():
        users = {rating["user"] for rating in ratings if end is None or moment <= rating["time"] < end}
        ages: dict[int, list[int]] = defaultdict(list)
        for rating in ratings:
            if rating["time"] < moment:
                ages[rating["film"]].append(moment - rating["time"])
        counts = {film: [sum(a <= days * DAY_S for a in of) for days in DAYS] for film, of in ages.items()}
        lately = sorted((-counts[film][DAYS.index(7)], film) for film in ages)
        recent = [film for less, film in lately if less < 0][:NUM_RECENT]
        for user in users:
            own = sorted((r["time"], r["film"], r["rating"]) for r in ratings if r["user"] == user)
            before = [rating for rating in own if rating[0] < moment]
            after = [rating for rating in own if end is not None and moment <= rating[0] < end]
            late = [math.log1p((time - first[film]) / DAY_S) for time, film, _ in before]
            rows[f"{user}@{moment}"] = {
                "id": f"{user}@{moment}",
                "user": user,
                "moment": moment,
                "history": [film for _, film, _ in before],
                "history_ratings": [rating for _, _, rating in before],
                "history_means": pytest.approx([mean(film, until(time)) for time, film, _ in before]),
                "history_nums": [len(known(film, until(time))) for time, film, _ in before],
                "num_rated": len(before),
                "num_rated_28_days": sum(moment - time <= 28 * DAY_S for time, _, _ in before),
                "days_since_last": (moment - before[-1][0]) / DAY_S if before else 0.0,
                "lateness": pytest.approx(sum(late) / max(1, len(late))),
                "is_new": not before,
                "recent": recent,
                "counts": [n for f in recent for n in (*counts[f], len(ages[f]), max(ages[f]) // DAY_S)],
                "watched": [film for _, film, _ in after],
                "watched_means": pytest.approx([mean(film, moment) for _, film, _ in after]),
                "watched_nums": [len(known(film, moment)) for _, film, _ in after],
                "ratings": [rating for _, _, rating in after],
                "_rows": len(before) if end is None else len(after),
            }
    return rows


@pytest.mark.slow
@settings(max_examples=3)
@example(AT_EDGES)
@given(RATINGS)
def test_what_a_row_knows_is_older_than_what_it_asks_for(spark: SparkSession, ratings: list[Rating]) -> None:
    starts = [*(VAL - i * PERIOD_S for i in range(9, 0, -1)), VAL, TEST]
    moments = dict(zip(starts, [*starts[1:], 2 * TEST], strict=True))
    rows = built_of(spark, ratings)
    assert rows == expected(ratings, {**moments})
    assert sum(row["_rows"] for row in rows.values()) == len(ratings)

    # Without what comes after a border: the same rows before it.
    past = built_of(spark, [rating for rating in ratings if rating["time"] < TEST])
    assert past == {name: row for name, row in rows.items() if row["moment"] < TEST}

    # To be scored: each user once, after everything.
    end = max(rating["time"] for rating in ratings) + 1
    assert built_of(spark, ratings, labelled=False) == expected(ratings, {end: None})


FILMS = [
    f"{i:07d}::Film, the {i}th (201{i % 4})::{'|'.join(['Drama', 'Horror', 'Short'][: i % 4])}" for i in range(1, 40)
] + ["0000040::Film (2000) of no year::Drama"]


@pytest.fixture(scope="module")
def slice_(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    """4,000 ratings by 200 users, of 39 of the 40 films, and one of a film that the catalogue lacks."""
    folder, rng = tmp_path_factory.mktemp("films"), random.Random(0)
    lines = ["7::9999999::5::1365029107"]
    for user in range(1, 201):
        for film in rng.sample(range(1, 40), 20):
            lines.append(
                f"{user}::{film:07d}::{rng.randrange(11)}::{rng.randrange(VAL - 21 * PERIOD_S, TEST + 9 * DAY_S)}"
            )
    (folder / "raw").mkdir()
    (folder / "raw/ratings.dat").write_text("\n".join(lines) + "\n")
    (folder / "raw/movies.dat").write_text("\n".join(FILMS) + "\n")
    return folder, etl(find("movietweetings"), str(folder / "raw"), str(folder / "dataset"), Console())


def test_a_slice_is_split_by_time_and_knows_films_that_nobody_has_rated(slice_: tuple[Path, Built]) -> None:
    folder, card = slice_[0], slice_[1].card
    assert (card.counts["raw"], card.counts["quarantined"]) == (4001, 1)
    assert card.counts["used"] == card.counts["clean"] == 4000
    assert slice_[1].clean.rules["film_known"] == 1
    rows = pq.read_table(folder / "dataset" / card.data).to_pylist()
    assert sum(len(row["watched"]) for row in rows) == 4000
    for row in rows:
        assert row["split"] == ("train" if row["moment"] < VAL else "val" if row["moment"] < TEST else "test")
        assert not {*row["history"]} & {*row["watched"]}
    for name in ("history", "recent", "watched"):
        fitted = card.transforms[name]
        assert fitted["values"] == [str(i) for i in range(1, 41)]
        assert fitted["table"]["genres"][:5] == [
            ["Drama"],
            ["Drama", "Horror"],
            ["Drama", "Horror", "Short"],
            [],
            ["Drama"],
        ]
        assert fitted["table"]["year"] == [2010 + i % 4 for i in range(1, 40)] + [0]


def test_it_trains_goes_on_and_names_ten_films_that_a_user_has_not_rated(
    slice_: tuple[Path, Built], tmp_path: Path
) -> None:
    folder, built = slice_
    data, run = folder / "dataset", tmp_path / "run"
    train_and_resume("movietweetings", data, run)
    assert cli.main(["predict", str(run), "--data", str(data), "--split", "test", "--out", str(tmp_path / "p")]) == 0
    predictions = pq.read_table(tmp_path / "p").to_pylist()
    assert len(predictions) == built.card.splits["test"].rows
    seen = defaultdict(set)
    for line in (folder / "raw/ratings.dat").read_text().splitlines():
        user, film, _, time = line.split("::")
        if int(time) < TEST:
            seen[int(user)].add(int(film))
    for row in predictions:
        user = int(row["id"].split("@")[0])
        assert len({*row["prediction"]}) == 10
        assert {*row["prediction"]} <= {*range(1, 41)} - seen[user]
        assert row["score"] == sorted(row["score"], reverse=True)


@pytest.mark.slow
def test_users_are_scored_after_all_their_ratings(slice_: tuple[Path, Built], tmp_path: Path) -> None:
    folder, _ = slice_
    scored = tmp_path / "scored"
    said = ["etl", "movietweetings", "--raw", str(folder / "raw"), "--out", str(scored), "--unlabelled"]
    assert cli.main([*said, "--frozen", str(folder / "dataset")]) == 0
    (rows,) = [pq.read_table(path).to_pylist() for path in (scored / "data").iterdir()]
    assert {row["user"] for row in rows} == {*range(1, 201)}
    assert all(len(row["history"]) == 20 and not row["watched"] for row in rows)
    assert {row["split"] for row in rows} == {"test"}


@pytest.mark.soak
def test_the_films_are_those_that_are_known(spark: SparkSession, tmp_path: Path) -> None:
    raw = SHARED_DATA / "movietweetings"
    if not raw.is_dir():
        pytest.skip("the ratings are not on this machine (expected in ../shared/data/movietweetings)")
    card = etl(find("movietweetings"), str(raw), str(tmp_path / "out"), Console()).card
    assert card.counts["raw"] == card.counts["used"] == 100_000
    assert card.counts["quarantined"] == card.counts["duplicates"] == card.counts["left_out"] == 0
    genres, years = (card.transforms["watched"]["table"][name] for name in ("genres", "year"))
    assert (len(genres), sum(not of_film for of_film in genres)) == (10_506, 66)
    assert (len(years), min(years), max(years)) == (10_506, 1898, 2013)
    rows = pq.read_table(tmp_path / "out" / card.data, columns=["user", "watched", "split"]).to_pylist()
    of = {split: [row for row in rows if row["split"] == split] for split in ("train", "val", "test")}
    assert {split: sum(len(row["watched"]) for row in of[split]) for split in of} == {
        "train": 80_000,
        "val": 10_000,
        "test": 10_000,
    }
    assert len({row["user"] for row in rows}) == 16_554
