"""What a site says of its pipelines: one table for each in a TOML file, checked when Airflow reads dags/pipelines.py.

    [defaults]                       # what every pipeline says unless it says otherwise
    spark = "spark_default"          # Airflow's connection: master, queue, Kerberos, limits

    [pipelines.retail]
    recipe = "online_retail_customers"
    schedule = "@daily"
    start = 2010-12-01
    raw = "hdfs:///raw/retail/{{ data_interval_start | ds }}.csv"
    dataset = "hdfs:///datasets/retail"
    intervals = true                 # a version of all days up to this one
    runs = "/data/runs/retail"

`$NAME` in a text is that environment variable. Raw URLs may hold Airflow's templates.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from penstock.errors import PenstockError

VARIABLE = "PENSTOCK_PIPELINES"
SHIPPED = Path(__file__).resolve().parent / "pipelines.toml"

PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")

Made = TypeVar("Made")


@dataclass(frozen=True)
class Limits:
    """What ends a run between its stages; the recipe's own limits hold besides."""

    max_quarantined: float | None = None  # share of the raw rows
    max_drift: float | None = None  # largest PSI of a column against the version before
    min_intervals: int = 1  # clean intervals that a version is built from
    max_stall: float = 0.1  # share of the training time without data
    max_class_drop: float = 0.02  # of a class's recall against the released model


@dataclass(frozen=True)
class Launcher:
    """How commands of the trainer get to the machine that has its environment, and a GPU."""

    kind: Literal["local", "ssh", "kubernetes"] = "local"
    penstock: str = "penstock"  # the command there
    ssh: str = "ssh_default"  # Airflow's connection
    image: str | None = None
    namespace: str = "default"
    gpus: int = 1


@dataclass(frozen=True)
class Pipeline:
    name: str
    recipe: str
    raw: str
    dataset: str
    schedule: str | None = None  # cron or a preset; None: started by hand
    start: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    intervals: bool = False  # the raw data is that of the run's data interval, not all there is
    missing_raw: Literal["fail", "skip"] = "fail"  # what a run does whose raw data is not there
    spark: str = "spark_default"
    spark_options: Mapping[str, Any] = field(default_factory=dict)  # of SparkSubmitOperator
    runs: str | None = None  # where runs go; None: no training
    releases: str | None = None
    predictions: str | None = None
    train: tuple[str, ...] = ()  # further arguments of `penstock train`
    retries: int = 2
    retry_seconds: float = 60.0
    launcher: Launcher = field(default_factory=Launcher)
    limits: Limits = field(default_factory=Limits)


def default_path() -> Path:
    return Path(os.environ.get(VARIABLE) or SHIPPED)


def load(path: Path | None = None) -> list[Pipeline]:
    """Raises: PenstockError where the file is missing, is no TOML, or says something that it cannot mean."""
    path = path or default_path()
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PenstockError(f"{path}: cannot be read as settings ({error}); {VARIABLE} names the file") from error
    if unknown := said.keys() - {"defaults", "pipelines"}:
        raise PenstockError(f"{path}: expected tables [defaults] and [pipelines.NAME], found [{min(unknown)}]")
    made = []
    for name, own in said.get("pipelines", {}).items():
        where = f"{path}: pipeline {name!r}"
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise PenstockError(f"{where}: a name has letters, digits, '_', '-' and '.' only")
        pipeline = _made(Pipeline, {"name": name, **_merged(said.get("defaults", {}), own)}, where)
        _check(pipeline, where)
        made.append(pipeline)
    return made


def _check(pipeline: Pipeline, where: str) -> None:
    """What no single setting shows. Raises: PenstockError."""
    schedule = pipeline.schedule
    if schedule not in (None, "@once", *PRESETS) and not re.fullmatch(r"(\S+ ){4,5}\S+", str(schedule)):
        raise PenstockError(f"{where}: schedule {schedule!r} is no cron expression, and none of {', '.join(PRESETS)}")
    if pipeline.runs is None and (pipeline.releases or pipeline.predictions):
        raise PenstockError(f"{where}: releases and predictions are of runs; say where these go: runs = URL")
    if pipeline.predictions and not pipeline.releases:
        raise PenstockError(f"{where}: predictions are made with the released model; say releases = URL")
    if pipeline.intervals and pipeline.schedule is None:
        raise PenstockError(f'{where}: intervals are those of a schedule; say schedule = "@daily", or a cron')
    if pipeline.launcher.kind == "kubernetes" and pipeline.launcher.image is None:
        raise PenstockError(f"{where}: launcher kubernetes needs the image that has the trainer: image = NAME")


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    inner = {n: _merged(v, own[n]) for n, v in defaults.items() if isinstance(v, dict) and isinstance(own.get(n), dict)}
    return {**defaults, **own, **inner}


def _made(kind: type[Made], said: Mapping[str, Any], where: str) -> Made:
    hints, known = get_type_hints(kind), [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for name in said:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise PenstockError(f"{where}: {name!r} is no setting; {'did you mean ' + near[0] if near else known}?")
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in said]:
        raise PenstockError(f"{where}: lacks {', '.join(missing)}")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in said.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if kind in (Limits, Launcher) and isinstance(value, dict):
        return _made(kind, value, where)
    if kind is datetime and isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_value(str, each, where) for each in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise PenstockError(f"{where} must be one of {', '.join(get_args(kind))}, is {value!r}")
        return value
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    allowed = tuple(get_origin(one) or one for one in kinds)
    if float in allowed and type(value) is int:
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(one.__name__ for one in allowed if one is not NoneType)
        raise PenstockError(f"{where} must be {names}, is {value!r}")
    return _expanded(value, where)


def _expanded(value: Any, where: str) -> Any:
    """With environment variables for `$NAME`, in the texts of tables too."""
    if isinstance(value, Mapping):
        return {name: _expanded(inner, where) for name, inner in value.items()}
    if not isinstance(value, str):
        return value

    def named(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise PenstockError(f"{where} names ${found[1]}, which is not set in Airflow's environment")
        return os.environ[found[1]]

    return re.sub(r"\$\{?([A-Z_][A-Z0-9_]*)\}?", named, value)
