"""MovieTweetings: 100,000 ratings of films from 0 to 10, found in tweets of 2013: which films does a user rate next?

`ratings.dat` has a line `user::film::rating::seconds since 1970` for each rating, `movies.dat` a line `film::Title
(year)::Genre|Genre` for each of 10,506 films; 66 have no genre. A film is known by its number at IMDb, which is written
with leading zeros: ids are read as numbers. Ratings of films that `movies.dat` lacks are refused.

A row is a user at a moment: what he rated before (`history`) and his habits, the films that everyone rated most in the
week before (`recent`) and how they fare (`counts`), and what he rates after, until the next moment (`watched`). The
last moments are the borders of the splits: the last tenth of the ratings is the test split, the tenth before it val,
as the raw data has them; before that there is one a day. So a model is trained as it is tested: knowing the past, it
says what comes. Each rating is in one row's `watched`, and nothing else in a row is younger than its moment. One moment
a week would always be the same weekday, and what the last days say depends on it: films start on Fridays.

To be scored, each user is one row, whose moment is after all ratings. `watched` is empty.

Films are numbered by the catalogue, from 1, so that one which nobody has rated yet is known by its genres.

Source: Dooms, De Pessemier & Martens, "MovieTweetings: a Movie Rating Dataset Collected From Twitter", CrowdRec 2013.
"""

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from etl.read import csv
from penstock.recipe import Split
from penstock.rules import Reference, Rule
from penstock.schema import Field, Schema
from penstock.transforms import Index, Log, Standardise

DAY_S = 86_400
PERIOD_S = DAY_S  # between two moments before the borders
DAYS = (1, 3, 7, 14, 28)  # before a moment, in which ratings are counted
RECENT_DAYS, NUM_RECENT = 7, 100  # in which `recent` films have most ratings, and how many films those are
VAL, TEST = 1_375_229_568, 1_376_776_237  # 2013-07-31 and 2013-08-17: 80 % and 90 % of the ratings are older

schema = Schema(
    (
        Field("id", "string"),
        Field("user", "int64"),
        Field("moment", "int64"),  # seconds since 1970
        Field("history", "int32", (None,)),  # films in the order of their ratings
        Field("history_ratings", "float32", (None,)),
        Field("history_means", "float32", (None,)),  # of all ratings of the film until the moment after
        Field("history_nums", "int32", (None,)),  # how many these are
        Field("habits", "float32", (None,)),
        Field("recent", "int32", (None,)),
        Field("counts", "int32", (None,)),  # of each recent film: ratings in DAYS, of all time, days since the first
        Field("watched", "int32", (None,)),
        Field("watched_means", "float32", (None,)),  # of the film's ratings before the moment, 0 where there are none
        Field("watched_nums", "int32", (None,)),
        Field("ratings", "float32", (None,)),
    ),
    key="id",
)
split = Split(by="moment", before={"train": VAL, "val": TEST, "test": None})
clean_key = ("user", "film")


def films(spark: SparkSession, raw_url: str) -> DataFrame:
    """The catalogue: the number of each film, its genres, and its year, 0 where the title has none."""
    columns = {"film": "int", "title": "string", "genres": "string"}
    found = csv(spark, raw_url, columns, only="movies.dat", delimiter="::", quote=None, nullable=("genres",))
    genres = F.split(F.coalesce("genres", F.lit("")), r"\|")
    year = F.coalesce(F.expr(r"try_cast(regexp_extract(title, '\\((\\d{4})\\)$', 1) as int)"), F.lit(0))
    return found.where("not _malformed").select("film", F.array_remove(genres, "").alias("genres"), year.alias("year"))


rules = (
    Rule("rating_range", "rating between 0 and 10", "the rating must be 0 to 10"),
    Rule("time_range", "time > 0", "the time must be seconds since 1970"),
    Reference("film_known", "film", films, "film", "movies.dat has no such film"),
)
transforms = {
    **{name: Index(name, films, "film") for name in ("history", "recent", "watched")},
    "habits": (
        *(Standardise(Log(name)) for name in ("num_rated", "num_rated_28_days", "days_since_last")),
        Standardise("lateness"),
        "is_new",
    ),
}


def read(spark: SparkSession, raw_url: str, labelled: bool) -> DataFrame:
    columns = {"user": "bigint", "film": "int", "rating": "int", "time": "bigint"}
    return csv(spark, raw_url, columns, only="ratings.dat", delimiter="::", quote=None)


def clean(df: DataFrame) -> DataFrame:
    return df.select("user", "film", "rating", "time")


def build(rows: DataFrame, labelled: bool) -> DataFrame:
    """A row for each user and moment after which he rates something; `_rows` is how many ratings that are."""
    first = F.min("time").over(Window.partitionBy("film"))
    late = F.log1p((F.col("time") - first) / DAY_S)  # of the days since somebody rated the film first
    if labelled:
        moments = rows.withColumns({"late": late, "moment": moment_before(F.col("time"))})
    else:
        moments = rows.withColumn("late", late).crossJoin(rows.agg((F.max("time") + 1).alias("moment")))
    of_film = Window.partitionBy("film").orderBy("moment")
    for name, last in (("until", 0), ("before", -1)):
        known = of_film.rangeBetween(Window.unboundedPreceding, last)
        mean = F.coalesce(F.mean("rating").over(known), F.lit(0.0)).cast("float")
        moments = moments.withColumns({f"mean_{name}": mean, f"num_{name}": F.count("*").over(known).cast("int")})
    of_rating = ("late", "mean_until", "num_until", "mean_before", "num_before")
    rating = F.struct("time", "film", F.col("rating").cast("float").alias("rating"), *of_rating)
    users = moments.groupBy("user", "moment").agg(F.sort_array(F.collect_list(rating)).alias("after"))
    popular = most_rated(rows, users.select("moment").distinct())
    if labelled:
        earlier = Window.partitionBy("user").orderBy("moment").rowsBetween(Window.unboundedPreceding, -1)
        users = users.withColumn("before", F.flatten(F.collect_list("after").over(earlier)))
    else:
        users = users.withColumns({"before": F.col("after"), "after": F.slice("after", 1, 0)})
    nothing = F.array().cast("array<int>")
    num_rated = F.size("before")

    def age(time: Column) -> Column:
        return (F.col("moment") - time) / DAY_S

    def mean_of(values: Column) -> Column:
        return F.aggregate(values, F.lit(0.0), lambda total, x: total + x) / F.greatest(num_rated, F.lit(1))

    return users.join(F.broadcast(popular), "moment", "left").select(
        F.concat_ws("@", "user", "moment").alias("id"),
        "user",
        "moment",
        F.col("before.film").alias("history"),
        F.col("before.rating").alias("history_ratings"),
        F.col("before.mean_until").alias("history_means"),
        F.col("before.num_until").alias("history_nums"),
        num_rated.alias("num_rated"),
        F.size(F.filter("before", lambda rating: age(rating["time"]) <= 28)).alias("num_rated_28_days"),
        F.coalesce(age(F.array_max("before.time")), F.lit(0.0)).alias("days_since_last"),
        mean_of(F.col("before.late")).alias("lateness"),
        (num_rated == 0).alias("is_new"),
        F.coalesce("recent", nothing).alias("recent"),
        F.coalesce("counts", nothing).alias("counts"),
        F.col("after.film").alias("watched"),
        F.col("after.mean_before").alias("watched_means"),
        F.col("after.num_before").alias("watched_nums"),
        F.col("after.rating").alias("ratings"),
        F.size("after" if labelled else "before").alias("_rows"),
    )


def moment_before(time: Column) -> Column:
    """The last moment that is not after a time: a border, or a number of whole periods before the first one."""
    periods = F.floor((time - VAL) / PERIOD_S)
    return F.when(time >= TEST, TEST).when(time >= VAL, VAL).otherwise(VAL + periods * PERIOD_S).cast("bigint")


def most_rated(rows: DataFrame, moments: DataFrame) -> DataFrame:
    """For each moment the films with most ratings in the days before it; of equals the smaller number comes first."""
    age = F.col("moment") - F.col("time")
    counted = {f"in_{days}": F.count_if(age <= days * DAY_S) for days in DAYS}
    films = (
        rows.join(F.broadcast(moments), age > 0)
        .groupBy("moment", "film")
        .agg(
            F.array(*counted.values(), F.count("*"), F.floor(F.max(age) / DAY_S)).cast("array<int>").alias("counts"),
            (-counted[f"in_{RECENT_DAYS}"]).alias("less"),
        )
    )
    recent = F.sort_array(F.collect_list(F.struct("less", "film", "counts")))
    top = films.where("less < 0").groupBy("moment").agg(F.slice(recent, 1, NUM_RECENT).alias("top"))
    return top.select("moment", F.col("top.film").alias("recent"), F.flatten("top.counts").alias("counts"))
