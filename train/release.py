"""From a run to a release: `penstock release` compares it with the released one on the same test rows, then switches.

A run is released unless its data stall is above a limit, a figure of it is not finite, its metric is worse, or it finds
less of a class. Worse is what chance does not explain: the interval of the paired difference lies wholly on the wrong
side of zero. A run that is not released is kept, with the reasons (penstock/released.py).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from penstock import command, log, store
from penstock import released as releases
from penstock.console import Console
from penstock.errors import NOT_RELEASED, PenstockError, RunError
from penstock.overview import say_table
from penstock.released import POINTER, Switch
from train import paired
from train.comparison import JSON, LOSS, Rows, Tested, by_key, check_same, compare, finite, on_rows, plain, rows_of
from train.distributed import choose_device
from train.finished import Finished, load
from train.paired import Interval

NUM_SHOWN = 10  # classes


@dataclass(frozen=True)
class Gates:
    metric: str | None = None  # None: the recipe's first
    max_stall: float = 0.1  # share of the run's time
    max_class_drop: float = 0.02  # of a class's recall

    def __post_init__(self) -> None:
        for name in ("max_stall", "max_class_drop"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise RunError(f"--{name.replace('_', '-')}: expected a share from 0 to 1, found {share}")


def release(
    run: str,
    to: str,
    console: Console,
    *,
    data_url: str | None = None,
    version: str | None = None,
    released_data_url: str | None = None,
    released_version: str | None = None,
    split: str = "test",
    gates: Gates | None = None,
    force: bool = False,
    device: torch.device | None = None,
) -> JSON:
    """Releases a finished run in the folder `to`, or keeps it and says why. A run that is released already stays so.

    `data_url` and `version` have the rows to test on; default: those the run was trained on. `released_data_url` and
    `released_version` have the same rows for the released run, where it needs other transforms.

    Raises: RunError where the run is not finished, or another was released meanwhile; DatasetError where there are no
    such rows; StorageError.
    """
    run, to, gates, device = releases.named(run), store.absolute(to), gates or Gates(), device or choose_device("auto")
    finished, data_stall, sha256 = load(run), _data_stall(run), releases.model_sha256(run)
    log.about(recipe=finished.card.recipe, version=finished.card.version, run=run)
    found = releases.history(to)
    now = found[-1] if found else None
    told: JSON = {"run": run, "pointer": store.join(to, POINTER).removeprefix("file://"), "reused": False}
    if (before := next((s for s in found if s.kind == "release" and s.run == run), None)) is not None:
        releases.check_model(before, "train into another folder")
        return told | _said_of(before, found[-1])

    store.check_writable(to)
    rows, metric = rows_of(finished, data_url, version, split), _metric(finished, gates.metric)
    comparison, reasons = None, []
    with console.step("test on the same rows" if now else "test"):
        if now is None:
            (tested,) = on_rows([finished], rows, device)
        else:
            try:
                tested, other = _both(finished, now, rows, released_data_url, released_version, device)
                comparison = compare(tested, other, metric, _lower_is_better(finished))
                comparison["with"] = {"number": now.number, "run": now.run, "dataset_version": now.dataset_version}
            except PenstockError as error:
                if not force:
                    raise
                (tested,) = on_rows([finished], rows, device)
                reasons.append(f"it could not be compared with the released run: {error}")
    measured = {name: paired.interval(figure) for name, figure in tested.figures.items()}
    reasons += judge(data_stall, measured, comparison, gates)
    say(console, metric, measured, comparison, rows)

    on = {"dataset": rows.url.removeprefix("file://"), "dataset_version": rows.card.version, "split": split}
    facts: JSON = {
        "run": run,
        "model_sha256": sha256,
        "recipe": finished.described["recipe"],
        "dataset": finished.described["dataset"].removeprefix("file://"),
        "dataset_version": finished.card.version,
        "contract": finished.card.contract,
        "metric": {"name": metric, **plain(measured[metric]), **on, "rows": rows.count},
        "comparison": comparison,
        "data_stall": finite(data_stall),
    }
    if reasons and not force:
        file = releases.keep(to, {**facts, "gates": asdict(gates), "reasons": reasons}, found)
        return {
            **told,
            "released": False,
            "number": None,
            "reasons": reasons,
            "kept": file.removeprefix("file://"),
            **facts,
        }
    made = Switch(**facts, why=_why(reasons, comparison), forced=bool(reasons))
    switch, reused = releases.release(to, made, found)
    return {**told, "released": True, "reused": reused, "reasons": reasons, **asdict(switch)}


def _said_of(before: Switch, now: Switch) -> JSON:
    """Of a run that was released before, which it is once."""
    if now.release == before.number:
        return {"released": True, "reused": True, "reasons": [], **asdict(before)}
    reason = (
        f"it was released before, as number {before.number}, and number {now.number} took its place ({now.kind}, "
        f"{now.run}); `penstock rollback --run` goes back to it"
    )
    return {"released": False, "number": before.number, "reasons": [reason]}


def _data_stall(run: str) -> float:
    try:
        return float(json.loads(store.read_bytes(store.join(run, "report.json")))["data_stall"])
    except FileNotFoundError as error:
        raise RunError(f"{run}: the run is not finished (no report.json); go on with `penstock train`") from error
    except (ValueError, TypeError, LookupError) as error:
        raise RunError(f"{run}/report.json: damaged ({type(error).__name__}: {error}); train again") from error


def _metric(finished: Finished, asked: str | None) -> str:
    there = [*finished.recipe.metrics, LOSS]
    if asked is not None and asked not in there:
        raise RunError(f"--metric: {finished.described['recipe']} has no {asked!r}; there are {', '.join(there)}")
    return asked or str(there[0])


def _lower_is_better(finished: Finished) -> set[str]:
    return {LOSS, *getattr(finished.recipe, "lower_is_better", ())}


def _both(
    finished: Finished, now: Switch, rows: Rows, url: str | None, version: str | None, device: torch.device
) -> tuple[Tested, Tested]:
    """The run and the released one, tested on the same rows, in the same order. Raises: RunError, DatasetError."""
    releases.check_model(now, "release this run with --force, or go back with `penstock rollback`")
    other, frozen = load(now.run), f"`penstock etl {now.recipe} … --frozen {now.run}/card.json`"
    if url is not None or version is not None:
        its_rows = rows_of(other, url, version, rows.split)
        (one,), (two,) = on_rows([finished], rows, device), on_rows([other], its_rows, device)
        one, two = by_key(one, rows), by_key(two, its_rows)
        check_same(one, rows, two, its_rows, frozen)
        return one, two
    if other.card.rows_contract != rows.card.rows_contract:
        raise RunError(
            f"{rows}: these rows were made by other transforms than those of the released run {now.run}; build them "
            f"with its own too, {frozen}, and name that version with --released-data"
        )
    one, two = on_rows([finished, other], rows, device)
    return one, two


def judge(
    data_stall: float, measured: Mapping[str, Interval], comparison: Mapping[str, Any] | None, gates: Gates
) -> list[str]:
    """Why a run is not to be released, in sentences; [] where it is."""
    reasons = []
    if not data_stall <= gates.max_stall:
        reasons.append(f"data stall {data_stall:.1%}, at most {gates.max_stall:.1%} is allowed (--max-stall)")
    reasons += [f"{name} is not finite" for name, found in measured.items() if not math.isfinite(found.value)]
    if comparison is None:
        return reasons
    name, figures = comparison["metric"], comparison["figures"]
    if any(figure["released"] is None for figure in figures.values()):  # than what is not finite nothing is worse
        return reasons
    if (figure := figures[name])["worse"]:
        reasons.append(f"{name} is worse: {_change(figure)}")
    for found in comparison["classes"]:
        if found["worse"] and -found["difference"]["value"] > gates.max_class_drop:
            reasons.append(
                f"less of class {found['label']} is found: recall {_change(found)} on {found['rows']:,} rows, a drop "
                f"of at most {gates.max_class_drop} is allowed (--max-class-drop)"
            )
    return reasons


def _why(reasons: Sequence[str], comparison: Mapping[str, Any] | None) -> str:
    if reasons:
        return f"forced, though {'; '.join(reasons)}"
    if comparison is None:
        return "the first release"
    name = comparison["metric"]
    return f"not worse than {comparison['with']['run']}: {name} {_change(comparison['figures'][name])}"


def _change(found: Mapping[str, Any]) -> str:
    before, now = _number(found["released"]), _number(found["candidate"])
    return f"{now} after {before}, difference {_signed(found['difference'])}"


def _signed(found: Mapping[str, Any]) -> str:
    value, low, high = (_number(found[name], "+") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(value: float | None, sign: str = "") -> str:
    return "not finite" if value is None else f"{value:{sign}.4f}"


def say(
    console: Console,
    metric: str,
    measured: Mapping[str, Interval],
    comparison: Mapping[str, Any] | None,
    rows: Rows,
) -> None:
    """The comparison as people read it; without one the run's own figures."""
    console.say(f"{rows.count:,} rows: {rows}")
    if comparison is None:
        own = [(name, f"{i.value:.4f}", f"[{i.low:.4f}, {i.high:.4f}]") for name, i in measured.items()]
        say_table([("", "candidate", "95 % interval"), *own], console)
        return
    console.say(f"Released is number {comparison['with']['number']}: {comparison['with']['run']}")
    lines = [(name, found, "decides" if name == metric else "") for name, found in comparison["figures"].items()]
    lines += [(_class(found), found, "") for found in comparison["classes"][:NUM_SHOWN]]
    table = [
        (
            name,
            _number(f["released"]),
            _number(f["candidate"]),
            _signed(f["difference"]),
            "worse" if f["worse"] else note,
        )
        for name, f, note in lines
    ]
    say_table([("", "released", "candidate", "difference, 95 % interval", ""), *table], console)
    if (more := comparison["num_classes"] - NUM_SHOWN) > 0:
        console.say(f"and {more:,} classes more, whose recall fell less")


def _class(found: Mapping[str, Any]) -> str:
    return f"recall of class {found['label']} ({found['rows']:,} rows)"


def parser() -> argparse.ArgumentParser:
    made = command.parser(
        "release",
        "Compare a finished run with the released one on the same test rows, and release it unless it is worse.\n"
        "Exit code 3: it is not released; what was found is kept beside the history.",
        "penstock release /data/runs/2 --to /data/releases/mnist\n"
        "  penstock release /data/runs/2 --to /data/releases/shop --released-data /data/shop_frozen",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a finished run, local or a URL")
    made.add_argument("--to", required=True, metavar="URL", help="the release folder; a path, hdfs:// or s3://")
    made.add_argument("--data", metavar="URL", help="the dataset to test on; default: the one the run was trained on")
    made.add_argument("--version", help="default: of --data the newest, else the one the run was trained on")
    made.add_argument(
        "--released-data",
        metavar="URL",
        help="the same rows with the transforms of the released run, where these differ: etl … --frozen RUN/card.json",
    )
    made.add_argument("--released-version", help="of --released-data; default: the newest")
    made.add_argument("--split", default="test", help="default: test")
    made.add_argument("--metric", help="of the recipe, or loss; default: the recipe's first")
    made.add_argument(
        "--max-stall", type=float, default=Gates.max_stall, metavar="SHARE", help="of the run's time; default: 0.1"
    )
    made.add_argument(
        "--max-class-drop",
        type=float,
        default=Gates.max_class_drop,
        metavar="SHARE",
        help="of a class's rows, that are found no more; default: 0.02",
    )
    made.add_argument("--force", action="store_true", help="release whatever is found, and record that")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    return made


def work(arguments: argparse.Namespace, console: Console) -> JSON:
    told = release(
        arguments.run,
        arguments.to,
        console,
        data_url=arguments.data,
        version=arguments.version,
        released_data_url=arguments.released_data,
        released_version=arguments.released_version,
        split=arguments.split,
        gates=Gates(arguments.metric, arguments.max_stall, arguments.max_class_drop),
        force=arguments.force,
        device=choose_device(arguments.device),
    )
    if not told["released"]:
        console.say(f"Not released: {'; '.join(told['reasons'])}")
    elif told["reused"]:
        console.say(f"Released already, as number {told['number']}: {told['run']}")
    else:
        console.say(f"Released as number {told['number']}, {told['why']}: {told['run']}")
    return told


def code(told: Mapping[str, Any]) -> int:
    return 0 if told["released"] else NOT_RELEASED


def main(argv: Sequence[str] | None = None) -> int:
    return command.execute(parser().parse_args(argv), work, code=code)


if __name__ == "__main__":
    sys.exit(main())
