"""Typed sources that Spark reads itself: Parquet, ORC and Avro files, and tables of its catalog."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
from pyspark.errors import AnalysisException, PySparkTypeError
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import DataType, StructType

from etl.read import drift
from etl.read.fields import must_be_there
from etl.read.files import damaged, listed, opened, reading, with_damaged
from etl.read.records import escaped, file_url
from penstock import store
from penstock.errors import RawDataError, RecipeError

FILES_AT_ONCE = 16
PLACES = {"parquet": "_metadata.row_index"}  # the other formats do not count their rows


def parquet(
    spark: SparkSession,
    raw_url: str,
    columns: Mapping[str, str],
    *,
    nullable: Collection[str] = (),
    extra_columns: bool = False,
    only: str = "*",
    unreadable: str = "fail",
) -> DataFrame:
    """Parquet files whose columns, found by name, are of these Spark SQL types; `_position` is a row's place from 0.

    A row is malformed if it has nothing in a column that is not `nullable`; `_record` is the row as JSON. Columns that
    are not in `columns` are left out with `extra_columns`.

    Raises: RawDataError where a file has other columns, or columns of other types (schema drift).
    """
    return _typed_files(spark, raw_url, "parquet", columns, nullable, extra_columns, only, unreadable)


def orc(
    spark: SparkSession,
    raw_url: str,
    columns: Mapping[str, str],
    *,
    nullable: Collection[str] = (),
    extra_columns: bool = False,
    only: str = "*",
    unreadable: str = "fail",
) -> DataFrame:
    """ORC files, as `parquet`, without `_position`."""
    return _typed_files(spark, raw_url, "orc", columns, nullable, extra_columns, only, unreadable)


def avro(
    spark: SparkSession,
    raw_url: str,
    columns: Mapping[str, str],
    *,
    nullable: Collection[str] = (),
    extra_columns: bool = False,
    only: str = "*",
) -> DataFrame:
    """Avro files, as `parquet`, without `_position`, where the session has Spark's package org.apache.spark:spark-avro.

    Raises: RecipeError where it has not.
    """
    return _typed_files(spark, raw_url, "avro", columns, nullable, extra_columns, only, "fail")


def table(
    spark: SparkSession,
    raw_url: str,
    name: str,
    columns: Mapping[str, str],
    *,
    nullable: Collection[str] = (),
    extra_columns: bool = False,
) -> DataFrame:
    """A table or view of Spark's catalog, of Hive's where Spark is set to use it, by its name.

    Its files must lie below the raw URL, as their checksums are part of what names a version. `_record` is the row as
    JSON, `_file` the row's file, or the table's name where Spark does not say it.

    Raises: RawDataError where there is no such table, it lies elsewhere, or has other columns than these.
    """
    try:
        df = spark.table(name)
    except AnalysisException as error:
        raise RawDataError(f"raw data: Spark's catalog has no table {name!r}; check its name") from error
    drift.check_types({f"table {name}": _types(df.schema)}, _types(_struct(columns)), extra_columns)
    inside = store.raw_folder(store.absolute(raw_url))
    files = [store.absolute(unquote(file)) for file in df.inputFiles()]
    if not files or any(file != inside and not file.startswith(f"{inside}/") for file in files):
        found = store.shown(files[0].rpartition("/")[0]) if files else "no files"
        raise RawDataError(f"raw data: table {name} lies at {found}, not in {store.shown(raw_url)}; check --raw")
    try:
        df = df.select("*", file_url().alias("_file"))
    except AnalysisException:
        df = df.withColumn("_file", F.lit(f"table {name}"))
    return _rows(df.withColumn("_position", F.lit(None).cast("long")), columns, nullable)


def _typed_files(
    spark: SparkSession,
    raw_url: str,
    kind: str,
    columns: Mapping[str, str],
    nullable: Collection[str],
    extra_columns: bool,
    only: str,
    unreadable: str,
) -> DataFrame:
    urls = listed(raw_url, only, archives=False)
    check = {"parquet": _read_parquet, "orc": _read_orc}.get(kind)
    damage = damaged(spark, urls, unreadable, check=check)
    whole = [url for url in urls if url not in damage]
    schema = _struct(columns)
    drift.check_types(_file_types(spark, whole, kind), _types(schema), extra_columns)
    source = spark.read.format(kind).schema(schema)
    df = source.load([escaped(url) for url in whole]) if whole else spark.createDataFrame([], schema)
    position = F.col(PLACES[kind]) if kind in PLACES and whole else F.lit(None).cast("long")
    path = file_url() if whole else F.lit(None).cast("string")
    df = df.select("*", path.alias("_file"), position.alias("_position"))
    return with_damaged(_rows(df, columns, nullable), spark, damage)


def _rows(df: DataFrame, columns: Mapping[str, str], nullable: Collection[str]) -> DataFrame:
    values = [_column(name) for name in columns]
    missing = [
        F.when(_column(name).isNull(), f"{name} must be {columns[name]}, found nothing")
        for name in must_be_there(columns, nullable)
    ]
    why = F.nullif(F.concat_ws("; ", *missing), F.lit(""))
    return df.select(
        *values,
        "_file",
        "_position",
        F.to_json(F.struct(*values), {"ignoreNullFields": "false"}).alias("_record"),
        why.isNotNull().alias("_malformed"),
        why.alias("_why"),
    )


def _column(name: str) -> Column:
    quoted = name.replace("`", "``")
    return F.col(f"`{quoted}`")


def _struct(columns: Mapping[str, str]) -> StructType:
    names = (name.replace("`", "``") for name in columns)
    ddl = ", ".join(f"`{name}` {kind}" for name, kind in zip(names, columns.values(), strict=True))
    schema = StructType.fromDDL(ddl)
    assert isinstance(schema, StructType)
    return schema


def _types(schema: StructType) -> dict[str, str]:
    return {field.name: _type_name(field.dataType) for field in schema.fields}


def _type_name(kind: DataType) -> str:
    return kind.simpleString().replace("timestamp_ntz", "timestamp")  # Parquet's oldest timestamps do not say which


def _file_types(spark: SparkSession, urls: Collection[str], kind: str) -> dict[str, dict[str, str]]:
    """What each file's footer says of its columns."""
    if kind == "avro":
        try:
            return {url: _types(spark.read.format(kind).load(escaped(url)).schema) for url in urls}
        except AnalysisException as error:
            raise RecipeError(
                f"avro: this session has no Avro source; start it with spark-submit --packages "
                f"org.apache.spark:spark-avro_2.13:{spark.version}"
            ) from error
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return dict(zip(urls, pool.map(_parquet_types if kind == "parquet" else _orc_types, urls), strict=True))


def _parquet_types(url: str) -> dict[str, str]:
    with reading(url), opened(url) as file:
        return _arrow_types(pq.read_schema(file))


def _orc_types(url: str) -> dict[str, str]:
    with reading(url), opened(url) as file:
        return _arrow_types(pyarrow.orc.ORCFile(file).schema)


def _arrow_types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: _spark_type(field.type) for field in schema}


def _spark_type(kind: pa.DataType) -> str:
    try:
        return _type_name(from_arrow_type(kind))
    except PySparkTypeError:
        return str(kind)


def _read_parquet(url: str) -> None:
    with opened(url) as file, pq.ParquetFile(file) as table:
        for _ in table.iter_batches():
            pass


def _read_orc(url: str) -> None:
    with opened(url) as file:
        table = pyarrow.orc.ORCFile(file)
        for i in range(table.nstripes):
            table.read_stripe(i)
