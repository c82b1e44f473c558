"""From runs to a release: better or equal goes out, worse is kept, by what both give for the same rows."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock import cli, store
from penstock import released as releases
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RunError
from penstock.recipe import find
from penstock.schema import Field, Schema
from tests.cards import edit_card
from tests.penstock.test_released import check
from tests.train.conftest import SCHEMA, write_dataset
from tests.train.test_run import CPU
from train.comparison import compare, on_rows, rows_of
from train.config import Optimizer, TrainConfig
from train.finished import load
from train.release import Gates, judge, release
from train.run import train

RECIPE = '''
"""Which of x's three values is the largest; `brier` is how far the first class's probability is off, squared."""
import torch
from torch import nn
from train.classification import loss, metrics, predict
from train.config import TrainConfig

lower_is_better = {"brier"}

def brier(logits, batch):
    return (logits.softmax(dim=1)[:, 0] - (batch["_label"] == 0).float()) ** 2

metrics = {**metrics, "brier": brier}

def config(model=None):
    return TrainConfig(model="linear", epochs=3, global_batch_size=16, lanes=4)

def build_model(config, card):
    return nn.Linear(3, 3)

def prepare(batch, card):
    fitted = card.transforms.get("x", {"mean": 0.0, "std": 1.0})
    return (batch["x"] - fitted["mean"]) / fitted["std"]
'''
UNLABELLED = '''
"""The next token from the one before."""
import torch
import torch.nn.functional as F
from torch import nn
from train.config import TrainConfig

metrics = {}

def config(model=None):
    return TrainConfig(model="linear", epochs=3, global_batch_size=16, lanes=4)

def build_model(config, card):
    return nn.Embedding(4, 4)

def prepare(batch, card):
    return batch["tokens"][:, :-1].long()

def loss(logits, batch, config):
    tokens, lengths = batch["tokens"].long(), batch["_tokens_length"]
    there = (torch.arange(1, tokens.shape[1]) < lengths[:, None]).float()
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none") * there
    return losses.sum(dim=1), there.sum(dim=1)

def predict(logits):
    return logits.argmax(dim=2), logits.softmax(dim=2).max(dim=2).values
'''
GOOD = TrainConfig(
    model="linear",
    epochs=4,
    global_batch_size=16,
    lanes=4,
    optimizer=Optimizer(lr=0.03),
    label_smoothing=0.1,
    class_weights=(1.0, 2.0, 1.0),
)
BAD = replace(GOOD, steps=3)
ANY_STALL = Gates(max_stall=1)
SIZES = {"train": 400, "test": 600}
FITTED = {"kind": "standardise", "mean": 0.5, "std": 2.0}  # for `prepare`; with `of` it would be by ETL


def rows(split: str, seed: int = 0) -> dict[str, Any]:
    size, first = SIZES[split], 1000 * (split == "test")
    x = np.random.default_rng([seed, first]).normal(size=(size, 3)).astype(np.float32)
    return {"id": np.arange(first, first + size), "x": x, "label": x.argmax(axis=1).astype(np.int64)}


def dataset(
    folder: Path,
    change: Callable[[dict[str, Any]], Mapping[str, Any]] = dict,
    transforms: Mapping[str, Any] | None = None,
) -> Path:
    splits = {split: [[change(rows(split))]] for split in SIZES}
    return write_dataset(folder, SCHEMA, splits, transforms=transforms)


def trained(place: Path, name: str, config: TrainConfig = GOOD, data: str = "dataset") -> Path:
    run = place / "runs" / name
    train(find(str(place / "largest")), str(place / data), run, config, CPU, None, Console(quiet=True))
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a dataset, and runs of it: two good ones, one that was stopped after three steps."""
    place = tmp_path_factory.mktemp("made")
    (place / "largest").mkdir()
    (place / "largest" / "model.py").write_text(RECIPE)
    dataset(place / "dataset")
    trained(place, "good")
    trained(place, "other", replace(GOOD, seed=1))
    trained(place, "bad", BAD)
    return place


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "releases"


def released(run: Path | str, to: Path | str, gates: Gates = ANY_STALL, **options: Any) -> dict[str, Any]:
    told = release(str(run), str(to), Console(quiet=True), gates=gates, **options)
    json.dumps(told, allow_nan=False)
    check(store.absolute(str(to)))
    return told


def edited(run: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A run like that, with other weights."""
    shutil.copytree(run, to)
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors")
    return to


def files(to: Path) -> dict[str, bytes]:
    return {str(path.relative_to(to)): path.read_bytes() for path in to.rglob("*") if path.is_file()}


# What goes out


def test_the_first_run_is_released_with_the_figures_of_its_test(made: Path, to: Path) -> None:
    told = released(made / "runs" / "good", to)
    assert (told["released"], told["reused"], told["number"], told["reasons"]) == (True, False, 1, [])
    now = releases.released(str(to))
    assert now is not None
    assert now.run == str(made / "runs" / "good")
    assert (now.dataset, now.dataset_version, now.recipe) == (str(made / "dataset"), "v1", str(made / "largest"))
    report = json.loads((made / "runs" / "good" / "report.json").read_text())
    assert now.metric["name"] == "accuracy"
    assert now.metric["value"] == pytest.approx(report["test"]["accuracy"], abs=1e-12)
    assert now.metric["low"] < now.metric["value"] < now.metric["high"]
    assert now.metric["rows"] == SIZES["test"]
    assert now.data_stall == report["data_stall"]
    assert json.loads((to / "released.json").read_text())["why"] == "the first release"


def test_better_and_equal_are_released_and_worse_is_kept(made: Path, to: Path) -> None:
    good, other, bad = (made / "runs" / name for name in ("good", "other", "bad"))
    assert released(bad, to)["number"] == 1
    better = released(good, to)
    assert better["number"] == 2
    figure = better["comparison"]["figures"]["accuracy"]
    accuracies = [json.loads((run / "report.json").read_text())["test"]["accuracy"] for run in (good, bad)]
    assert [figure["candidate"], figure["released"]] == pytest.approx(accuracies)
    assert figure["difference"]["value"] == pytest.approx(accuracies[0] - accuracies[1])
    assert better["comparison"]["with"] == {"number": 1, "run": str(bad), "dataset_version": "v1"}
    assert released(other, to)["number"] == 3  # another seed, which is as good
    before = files(to)
    worse = edited(bad, to.parent / "worse", lambda weights: None)
    for _ in range(2):
        told = released(worse, to)
        assert (told["released"], told["number"]) == (False, None)
        assert told["reasons"][0].startswith("accuracy is worse: ")
        assert told["comparison"]["figures"]["loss"]["worse"]
        after = files(to)
        assert {name: after[name] for name in before} == before
        (kept,) = set(after) - set(before)
        assert kept.startswith("kept/000003-")
        decision = json.loads(after[kept])
        assert decision["reasons"] == told["reasons"]
        assert (decision["run"], decision["comparison"]["with"]["run"]) == (str(worse), str(other))


def test_a_run_is_released_once(made: Path, to: Path) -> None:
    good, other = made / "runs" / "good", made / "runs" / "other"
    released(good, to)
    before = files(to)
    again = released(f"file://{good}/", to)
    assert (again["released"], again["reused"], again["number"]) == (True, True, 1)
    assert files(to) == before
    released(other, to)
    before = files(to)
    told = released(good, to, force=True)
    assert (told["released"], told["number"]) == (False, 1)
    assert "it was released before, as number 1, and number 2 took its place" in told["reasons"][0]
    assert files(to) == before
    releases.rollback(str(to))
    before = files(to)
    told = released(other, to)  # a scheduler that tries again does not undo what a person has done
    assert "as number 2, and number 3 took its place (rollback" in told["reasons"][0]
    assert files(to) == before
    assert released(good, to)["reused"]


@pytest.mark.parametrize("metric", ["loss", "brier"])
def test_where_lower_is_better_higher_is_worse(metric: str, made: Path, to: Path) -> None:
    gates = replace(ANY_STALL, metric=metric, max_class_drop=1)
    released(made / "runs" / "bad", to, gates)
    better = released(made / "runs" / "good", to, gates)
    assert better["released"]
    assert better["comparison"]["figures"][metric]["difference"]["high"] < 0
    told = released(edited(made / "runs" / "bad", to.parent / "worse", lambda weights: None), to, gates)
    assert [reason.partition(":")[0] for reason in told["reasons"]] == [f"{metric} is worse"]


def test_losses_are_compared_without_weights_of_classes(made: Path, to: Path) -> None:
    """So that runs of other configurations have the same loss."""
    told = released(made / "runs" / "good", to, replace(ANY_STALL, metric="loss"))
    finished, test = load(str(made / "runs" / "good")), rows("test")
    with torch.no_grad():
        logits = finished.model(torch.from_numpy(test["x"]))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(test["label"]))
    assert told["metric"]["value"] == pytest.approx(float(loss), rel=1e-5)


# What does not


def test_a_run_that_waited_for_its_data_is_kept(made: Path, to: Path) -> None:
    run = edited(made / "runs" / "good", to.parent / "slow", lambda weights: None)
    report = json.loads((run / "report.json").read_text())
    for stall, fits in [(0.1, True), (0.11, False), (float("nan"), False)]:
        (run / "report.json").write_text(json.dumps({**report, "data_stall": stall}))
        shutil.rmtree(to, ignore_errors=True)
        told = released(run, to, Gates())
        assert told["released"] is fits
        assert fits or "at most 10.0% is allowed (--max-stall)" in told["reasons"][0]


def test_a_model_whose_figures_are_not_finite_is_kept(made: Path, to: Path) -> None:
    broken = edited(made / "runs" / "good", to.parent / "broken", lambda weights: weights["weight"].fill_(torch.nan))
    assert released(broken, to)["reasons"] == ["brier is not finite", "loss is not finite"]
    assert released(broken, to, force=True)["forced"]
    assert released(made / "runs" / "good", to)["released"]


def test_a_class_that_is_lost_stops_a_release_though_the_metric_is_better(made: Path, to: Path) -> None:
    """Of the released one the second class is weak; of the candidate the third is."""

    def weaken(label: int, by: float) -> Callable[[dict[str, torch.Tensor]], None]:
        return lambda weights: weights["bias"].__setitem__(label, weights["bias"][label] - by)

    released(edited(made / "runs" / "good", to.parent / "one", weaken(1, 9.0)), to)
    lost = edited(made / "runs" / "good", to.parent / "two", weaken(2, 0.7))
    told = released(lost, to)
    assert told["comparison"]["figures"]["accuracy"]["difference"]["low"] > 0
    assert told["reasons"][0].startswith("less of class 2 is found: recall ")
    assert all(reason.startswith("less of class") for reason in told["reasons"])
    labels = rows("test")["label"]
    found = {c["label"]: c for c in told["comparison"]["classes"]}
    assert {label: c["rows"] for label, c in found.items()} == {i: int((labels == i).sum()) for i in range(3)}
    assert released(lost, to, replace(ANY_STALL, max_class_drop=1))["released"]


def test_force_releases_and_says_so(made: Path, to: Path) -> None:
    released(made / "runs" / "good", to)
    told = released(made / "runs" / "bad", to, force=True)
    assert (told["released"], told["number"], told["forced"]) == (True, 2, True)
    assert told["why"].startswith("forced, though accuracy is worse: ")
    assert not released(made / "runs" / "other", to, force=True)["forced"]


def test_a_released_model_that_is_gone_is_said_and_can_be_left_behind(made: Path, to: Path) -> None:
    first = edited(made / "runs" / "good", to.parent / "first", lambda weights: None)
    released(first, to)
    (first / "model.safetensors").unlink()
    expected = pytest.raises(RunError, match=rf"{first}: its model is not there .*release this run with --force, or")
    with expected:
        released(made / "runs" / "other", to)
    edited(made / "runs" / "bad", to.parent / "second", lambda weights: None)
    shutil.copy(to.parent / "second" / "model.safetensors", first)
    with pytest.raises(RunError, match="it holds another model now"):
        released(made / "runs" / "other", to)
    with pytest.raises(RunError, match="train into another folder"):
        released(first, to)
    told = released(made / "runs" / "other", to, force=True)
    assert told["why"].startswith(f"forced, though it could not be compared with the released run: {first}: it holds")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"split": "dev"}, DatasetError, r"dataset: no split 'dev'; there are train, test"),
        ({"gates": Gates(metric="auc")}, RunError, r"--metric: .* has no 'auc'; there are accuracy, brier, loss"),
        ({"version": "v2"}, DatasetError, r"no version 'v2'"),
        ({"data_url": "{place}/none"}, DatasetError, r"no dataset here"),
        ({"data_url": "{place}/unlabelled"}, DatasetError, r"version v1 has no labels, .* name another with --data"),
        (
            {"data_url": "{place}/one"},
            DatasetError,
            r"test of version v1 .*: expected 2 rows or more .* found 1",
        ),
        ({"data_url": "{place}/etl"}, RunError, r"does not fit the run .* transforms .*--frozen .*good/card.json"),
    ],
)
def test_what_cannot_be_tested_is_an_error_that_leaves_nothing(
    options: dict[str, Any], kind: type[PenstockError], message: str, made: Path, to: Path
) -> None:
    if not (made / "one").exists():
        test = {name: values[:1] for name, values in rows("test").items()}
        write_dataset(made / "one", SCHEMA, {"test": [[test]]})
        write_dataset(made / "unlabelled", SCHEMA.without_label(), {"test": [[rows("test")]]})
        dataset(made / "etl", transforms={"x": {**FITTED, "of": "x"}})
    filled = {k: v.format(place=made) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(kind, match=message):
        release(str(made / "runs" / "good"), str(to), Console(quiet=True), **filled)
    assert not to.exists() or not files(to)


def test_a_run_that_is_not_finished_is_refused(made: Path, to: Path) -> None:
    run = edited(made / "runs" / "good", to.parent / "run", lambda weights: None)
    (run / "report.json").write_text("{}")
    with pytest.raises(RunError, match=r"report.json: damaged"):
        released(run, to)
    (run / "report.json").unlink()
    with pytest.raises(RunError, match=r"not finished \(no report.json\)"):
        released(run, to)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(RunError, match="--max-stall: expected a share from 0 to 1"):
            Gates(max_stall=share)


# The same rows


def test_each_model_is_prepared_by_the_card_that_it_was_trained_on(made: Path, to: Path) -> None:
    """What `prepare` alone computes with changes no row: one version serves both."""
    if not (made / "fitted").exists():
        dataset(made / "fitted", transforms={"x": FITTED})
    candidate = trained(made, "fitted", data="fitted")
    released(made / "runs" / "good", to)
    told = released(candidate, to)
    for name, run in (("candidate", candidate), ("released", made / "runs" / "good")):
        report = json.loads((run / "report.json").read_text())
        assert told["comparison"]["figures"]["accuracy"][name] == pytest.approx(report["test"]["accuracy"])


def test_where_etl_transformed_the_rows_each_model_gets_its_own(made: Path, to: Path) -> None:
    """The same rows in another order and by other transforms, as a second ETL with --frozen makes them."""

    def halved(found: dict[str, Any]) -> dict[str, Any]:
        return {"id": found["id"][::-1], "x": found["x"][::-1] / 2, "label": found["label"][::-1]}

    def more(found: dict[str, Any]) -> dict[str, Any]:
        return {**halved(found), "id": found["id"][::-1] + (found["id"][::-1] == 1599)}

    def relabelled(found: dict[str, Any]) -> dict[str, Any]:
        return {**halved(found), "label": (found["label"][::-1] + 1) % 3}

    by_etl, other = ({"x": {**FITTED, "of": "x", "std": std}} for std in (2.0, 4.0))
    place = to.parent
    shutil.copytree(made / "largest", place / "largest")
    dataset(place / "dataset", halved, by_etl)
    dataset(place / "frozen", transforms=other)
    dataset(place / "more", more, by_etl)
    dataset(place / "relabelled", relabelled, by_etl)
    first, second = trained(place, "first"), trained(place, "second", replace(GOOD, seed=1), data="frozen")
    released(first, to)
    with pytest.raises(RunError, match=r"other transforms .*--frozen .*first/card.json`.* with --released-data"):
        released(second, to)
    for name, message in [
        ("more", r"the first has 1 rows that the second has not, and lacks 1 of its rows; build the second .*--frozen"),
        ("relabelled", "the first has other labels"),
        ("frozen", "does not fit the run"),
    ]:
        with pytest.raises(PenstockError, match=message):
            released(second, to, released_data_url=str(place / name))
    told = released(second, to, released_data_url=str(place / "dataset"), released_version="v1")
    assert told["number"] == 2
    report = json.loads((first / "report.json").read_text())
    assert told["comparison"]["figures"]["accuracy"]["released"] == pytest.approx(report["test"]["accuracy"])
    hits = [
        tested.figures["accuracy"].values[np.argsort(tested.keys)]
        for run, data in ((second, "frozen"), (first, "dataset"))
        for tested in on_rows([load(str(run))], rows_of(load(str(run)), str(place / data), None, "test"), CPU.device)
    ]
    wins, losses = ((hits[0] > hits[1]).sum() + 0.5, (hits[0] < hits[1]).sum() + 0.5)
    half = 1.959964 * np.sqrt(wins + losses - (wins - losses) ** 2 / 602) / 602
    found = told["comparison"]["figures"]["accuracy"]["difference"]
    assert (found["low"], found["high"]) == pytest.approx(
        ((wins - losses) / 602 - half, (wins - losses) / 602 + half), abs=1e-6
    )


def test_a_model_without_labels_is_compared_by_what_its_recipe_has(to: Path) -> None:
    """As one of language: the loss is summed over what a row holds, and a prediction is no class."""
    place = to.parent
    (place / "next").mkdir()
    (place / "next" / "model.py").write_text(UNLABELLED)
    schema = Schema((Field("id", "int64"), Field("tokens", "int32", (None,))), key="id")
    draw = np.random.default_rng(0)
    tokens = [(np.arange(draw.integers(2, 9)) + draw.integers(0, 4)) % 4 for _ in range(300)]
    written = {"id": np.arange(300), "tokens": [row.astype(np.int32) for row in tokens]}
    write_dataset(place / "data", schema, {"train": [[written]], "test": [[written]]}, transforms={})
    runs = []
    for name, config in {"bad": BAD, "good": GOOD}.items():
        runs.append(place / name)
        config = replace(config, class_weights=(), label_smoothing=0.0)
        train(find(str(place / "next")), str(place / "data"), runs[-1], config, CPU, None, Console(quiet=True))
        told = released(runs[-1], to)
        assert told["released"]
        report = json.loads((runs[-1] / "report.json").read_text())
        assert told["metric"]["name"] == "loss"
        assert told["metric"]["value"] == pytest.approx(report["test"]["loss"])
    assert told["comparison"]["classes"] == []
    assert told["comparison"]["figures"]["loss"]["difference"]["high"] < 0


def test_many_classes_alone_stop_no_release() -> None:
    """Of 200 pairs of models that are equally good at 50 classes, at most one in twenty."""
    from train.comparison import Tested
    from train.paired import Figure

    draw, stopped = np.random.default_rng(0), 0
    labels = np.repeat(np.arange(50), 30)
    for _ in range(200):
        both = draw.random(1500) < 0.7
        tested = []
        for _ in range(2):
            hits = np.where(draw.random(1500) < 0.3, draw.random(1500) < 0.7, both)
            predictions = np.where(hits, labels, 50)
            tested.append(Tested(None, labels, predictions, {"accuracy": Figure(hits.astype(np.float64))}))
        reasons = judge(0.0, {}, compare(*tested, "accuracy", set()), Gates())
        stopped += any(reason.startswith("less of class") for reason in reasons)
    assert stopped <= 10


# The commands


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "penstock.cli", *map(str, arguments), "--max-stall", "1", "--device", "cpu", "--json"]


def test_exit_codes_and_what_people_and_schedulers_read(
    made: Path, to: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = made / "runs" / "good", made / "runs" / "bad"
    common = ["--to", str(to), "--max-stall", "1", "--device", "cpu"]
    assert cli.main(["release", str(good), *common]) == 0
    assert "Released as number 1, the first release: " in capsys.readouterr().out
    assert cli.main(["release", str(good), *common]) == 0
    assert "Released already, as number 1: " in capsys.readouterr().out
    assert cli.main(["release", str(bad), *common]) == 3
    told = capsys.readouterr().out
    assert "difference, 95 % interval" in told
    assert "recall of class 0" in told
    assert "Not released: accuracy is worse: " in told
    assert cli.main(["release", str(bad), *common, "--json"]) == 3
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["released"], answer["run"], answer["pointer"]) == (False, str(bad), str(to / "released.json"))
    assert cli.main(["release", str(made / "none"), *common, "--json"]) == 1
    assert "not a run folder" in json.loads(capsys.readouterr().out)["error"]
    assert cli.main(["rollback", "--to", str(to), "--json"]) == 1
    assert "was the first release; there is none before it" in capsys.readouterr().err
    assert cli.main(["release", str(bad), *common, "--force"]) == 0
    assert cli.main(["rollback", "--to", str(to)]) == 0
    assert "Number 3: rolled back from number 2, " in capsys.readouterr().out
    assert cli.main(["rollback", "--to", str(to), "--run", str(good), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["released"], answer["reused"], answer["number"], answer["release"]) == (True, True, 3, 1)
    check(store.absolute(str(to)))


def test_a_double_start_releases_once(made: Path, to: Path) -> None:
    started = [
        subprocess.Popen(command("release", made / "runs" / "good", "--to", to), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sorted(answer["reused"] for answer in told) == [False, True]
    assert len(check(store.absolute(str(to)))) == 1


def test_who_was_overtaken_while_it_compared_changes_nothing(
    made: Path, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(made / "runs" / "bad", to)

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert released(made / "runs" / "other", to)["number"] == 2
        return on_rows(*arguments)

    monkeypatch.setattr("train.release.on_rows", overtaken)
    with pytest.raises(RunError, match=r"another process has switched to .*other meanwhile \(number 2\).*run the same"):
        released(made / "runs" / "good", to)
    assert [switch.number for switch in check(store.absolute(str(to)))] == [1, 2]
    assert released(made / "runs" / "good", to)["number"] == 3


KILLED = """
import os, signal, sys
from penstock import cli

def killed(*names):
    if "after" in sys.argv[1]:
        link(*names)
    os.kill(os.getpid(), signal.SIGKILL)

link = os.link
if "number" in sys.argv[1]:
    os.link = killed
else:
    os.replace = killed
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("when", "is_out"),
    [
        ("before the number has its name", False),
        ("after the number has its name", True),
        ("before the pointer has its name", True),
    ],
)
def test_a_killed_release_is_all_or_nothing_and_the_next_one_mends_it(
    when: str, is_out: bool, made: Path, to: Path
) -> None:
    good = made / "runs" / "good"
    released(made / "runs" / "bad", to)
    line = [sys.executable, "-c", KILLED, when, *command("release", good, "--to", to)[3:]]
    assert subprocess.run(line, timeout=120).returncode == -signal.SIGKILL
    assert len(check(store.absolute(str(to)), at_rest=False)) == 1 + is_out
    assert json.loads((to / "released.json").read_text())["number"] == 1
    now = releases.released(str(to))
    assert now is not None
    assert now.run.endswith("good") == is_out
    told = released(good, to)
    assert (told["number"], told["reused"]) == (2, is_out)


def test_runs_and_releases_on_s3(
    s3: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for file in (path for path in (made / "dataset").rglob("*") if path.is_file()):
        store.put(file, f"{s3}/data/{file.relative_to(made / 'dataset')}")
    to, runs = f"{s3}/releases", [f"{s3}/runs/{i}" for i in range(3)]
    configs = [GOOD, replace(GOOD, seed=1), BAD]
    for run, config in zip(runs, configs, strict=True):
        train(find(str(made / "largest")), f"{s3}/data", run, config, CPU, None, Console(quiet=True))
    assert [released(run, to)["released"] for run in runs] == [True, True, False]
    assert releases.rollback(to)[0].run == runs[0]
    assert released(runs[0], to)["reused"]
    assert [switch.kind for switch in check(to)] == ["release", "release", "rollback"]
    assert cli.main(["release", runs[2], "--to", to, "--max-stall", "1", "--device", "cpu", "--json"]) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pointer"] == f"{to}/released.json"


def test_the_data_of_a_card_that_was_changed_is_refused(made: Path, to: Path, tmp_path: Path) -> None:
    run = edited(made / "runs" / "good", tmp_path / "run", lambda weights: None)
    edit_card(run / "card.json", lambda card: card.update(transforms={"x": {**FITTED, "of": "x"}}))
    with pytest.raises(RunError, match="does not fit the run"):
        released(run, to)
