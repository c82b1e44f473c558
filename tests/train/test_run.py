"""A run: exact figures, exact resume, a folder that explains itself, and sentences for what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from penstock import cli
from penstock.adopt import Columns, adopt
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError, RunError
from penstock.recipe import find
from tests.train.conftest import SCHEMA, numbered_files, write_dataset
from tests.train.remote import RemoteFileSystem, remote
from train.config import Options, TrainConfig
from train.distributed import World
from train.evaluate import evaluate
from train.feed import Feed, feed
from train.feed.fetch import Ahead
from train.predict import predict
from train.run import train

CPU = World(torch.device("cpu"))
SMALL = TrainConfig(model="linear", epochs=3, global_batch_size=16, lanes=4)


def start(recipe: Path, dataset: Path, run: Path, config: TrainConfig = SMALL) -> dict[str, Any]:
    return dict(train(find(str(recipe)), str(dataset), run, config, CPU, None, Console()).report)


def result(run: Path) -> tuple[bytes, dict[str, torch.Tensor]]:
    return (run / "metrics.jsonl").read_bytes(), load_file(run / "model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    (metrics, weights), (other_metrics, other_weights) = result(one), result(other)
    assert metrics == other_metrics
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def test_a_run_folder_explains_itself(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    report = start(recipe, dataset, tmp_path / "run")
    assert report["dataset_version"] == "v1"
    assert report["test_rows"] == 23
    assert 0 <= report["data_stall"] <= 1
    assert report["rows_per_s"] > 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {
        "config.json",
        "card.json",
        "starts.jsonl",
        "tensorboard",
        "metrics.jsonl",
        "timings.jsonl",
        "status.json",
        "checkpoints",
        "model.safetensors",
        "report.json",
    }
    assert names == expected
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert {"train_loss", "val_loss", "val_accuracy"} < set(metrics[0])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert TrainConfig.from_json(config["config"]) == SMALL
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as weights:
        assert json.loads(weights.metadata()["penstock"])["config"] == config["config"]


def test_two_runs_end_bit_for_bit_the_same(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        start(recipe, dataset, tmp_path / name)
    assert_same(tmp_path / "one", tmp_path / "other")


def test_another_seed_ends_elsewhere(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "one")
    start(recipe, dataset, tmp_path / "other", replace(SMALL, seed=1))
    assert result(tmp_path / "one")[0] != result(tmp_path / "other")[0]


def test_a_finished_run_is_not_trained_again(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    start(recipe, dataset, tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_with_another_run_is_refused_with_what_differs(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run")
    with pytest.raises(RunError, match=r"another run \(seed: 0 there, 5 now\); choose another --out"):
        start(recipe, dataset, tmp_path / "run", replace(SMALL, seed=5))


def test_another_run_goes_on_from_a_folder_if_told_to(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    run, longer = tmp_path / "run", replace(SMALL, epochs=4, seed=5)
    start(recipe, dataset, run)
    three = (run / "metrics.jsonl").read_text()
    options = Options(resume_anyway=True)
    told = train(find(str(recipe)), str(dataset), run, longer, CPU, None, Console(), options=options)
    assert told.report["epochs"] == 4
    lines = (run / "metrics.jsonl").read_text()
    assert lines.startswith(three)
    assert lines.count("\n") == 4
    config = json.loads((run / "config.json").read_text())
    assert (config["config"]["seed"], config["earlier"][0]["config"]["seed"]) == (5, 0)


def test_a_longer_run_goes_on_with_what_is_given_now(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    """Other weight decay, and averages, which the run had not before."""
    run = tmp_path / "run"
    start(recipe, dataset, run)
    decayed = replace(SMALL.optimizer, weight_decay=0.5, betas=(0.5, 0.6))
    go_on(recipe, dataset, run, replace(SMALL, epochs=4, optimizer=decayed, ema_decay=0.9))
    newest = torch.load(max((run / "checkpoints").glob("step-*.pt")), weights_only=True)
    groups = newest["optimizers"][0]["param_groups"]
    assert [(group["weight_decay"], group["betas"]) for group in groups] == [(0.5, (0.5, 0.6)), (0.0, (0.5, 0.6))]
    assert not torch.equal(newest["ema"][0], next(iter(newest["model"].values())))


def test_a_run_that_cannot_go_on_as_it_is_told_to_says_so(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    run, sgd = tmp_path / "run", replace(SMALL.optimizer, name="sgd")
    start(recipe, dataset, run)
    files = [run / name for name in ("config.json", "report.json", "model.safetensors", "metrics.jsonl")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(RunError, match="the state of the optimizer adamw, with which sgd cannot go on"):
        go_on(recipe, dataset, run, replace(SMALL, epochs=4, optimizer=sgd))
    with pytest.raises(RunError, match=r"checkpoint is after step 15, and the run .* now ends after step 5; ask for"):
        go_on(recipe, dataset, run, replace(SMALL, epochs=1))
    assert [file.read_bytes() for file in files] == before


def go_on(recipe: Path, dataset: Path, run: Path, config: TrainConfig) -> None:
    train(find(str(recipe)), str(dataset), run, config, CPU, None, Console(), options=Options(resume_anyway=True))


def test_what_is_fetched_as_an_epoch_ends_is_used_in_the_next(
    recipe: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RemoteFileSystem.reset()
    begun: list[Ahead] = []

    def ahead(*arguments: Any) -> Ahead:
        begun.append(Ahead(*arguments))
        return begun[-1]

    monkeypatch.setattr(feed, "Ahead", ahead)
    train(find(str(recipe)), remote(dataset), tmp_path / "run", SMALL, CPU, None, Console())
    assert len(begun) == 1 + 1 + 3 + 1  # the first rows, train, val of three epochs, test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-workers", "0"], "expected 1 or more threads for the feed (num_workers), found 0"),
        (["--device", "gpu"], "--device gpu: expected auto, cpu or cuda"),
        (["--train-split", "train+train"], "split 'train' is asked for twice; name it once"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(
    recipe: Path, dataset: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe), "--data", str(dataset), "--out", str(tmp_path / "run"), *arguments]
    assert cli.main(command) == 1
    assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused_with_what_does_not_fit(
    recipe: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(recipe, dataset, tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    edited = nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 3))
    monkeypatch.setattr(find(str(recipe)).model(), "build_model", lambda config, card: edited)
    with pytest.raises(RunError, match=r"does not fit the model .* size mismatch for 0.weight.*choose another --out"):
        start(recipe, dataset, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


class Constant(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([inputs[:, 0], inputs[:, 1] * 0, inputs[:, 2] * 0], dim=1)


def test_evaluation_counts_every_row_once(recipe: Path, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", SCHEMA, {"test": numbered_files([[700, 1], [400]])})
    feed = Feed(str(folder), "test", global_batch_size=256, shuffle=False)
    found = evaluate(Constant(), find(str(recipe)).model(), feed, SMALL, CPU)
    ids = np.arange(1101)
    logits = np.stack([ids / 100, np.zeros(1101), np.zeros(1101)], axis=1).astype(np.float32).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[ids, ids % 3]
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx((logits.argmax(axis=1) == ids % 3).mean(), abs=1e-9)


def test_predictions_are_one_for_each_row(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run")
    told = predict(tmp_path / "run", str(dataset), str(tmp_path / "p.parquet"), Console())
    table = pq.read_table(tmp_path / "p.parquet")
    assert told["rows"] == table.num_rows == 100
    assert table.column_names == ["id", "split", "prediction", "score"]
    assert table["id"].to_pylist() == [*range(67), *range(100, 110), *range(200, 223)]
    assert set(table["prediction"].to_pylist()) <= {0, 1, 2}
    assert all(1 / 3 <= score <= 1 for score in table["score"].to_pylist())
    predict(tmp_path / "run", str(dataset), str(tmp_path / "p.parquet"), Console(), splits=["test"])
    assert pq.read_table(tmp_path / "p.parquet")["split"].unique().to_pylist() == ["test"]


def test_a_run_in_float64_predicts_in_float64(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run", replace(SMALL, precision="float64"))
    predict(tmp_path / "run", str(dataset), str(tmp_path / "p.parquet"), Console(), splits=["train"])
    table = pq.read_table(tmp_path / "p.parquet")
    model = find(str(recipe)).model().build_model(SMALL, None).eval().double()
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    x = torch.tensor(numbered_files([[67]])[0][0]["x"]) / 100
    scores = model(x.double()).softmax(dim=1).max(dim=1).values
    np.testing.assert_allclose(table["score"].to_numpy(), scores.detach().numpy(), rtol=0, atol=1e-14)


def test_ranks_that_do_not_share_the_lanes_are_refused_before_one_starts(
    recipe: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.launch.launch", lambda *_: pytest.fail("ranks were started"))
    command = ["train", str(recipe), "--data", str(dataset), "--out", str(tmp_path / "run"), "--nproc-per-node", "5"]
    with pytest.raises(SystemExit, match="2"):
        cli.main(command)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "expected a world size that divides the 4 lanes" in said
    assert said.endswith("start 1 or 2 or 4 ranks, or choose lanes that 5 divides")
    assert not (tmp_path / "run").exists()


def test_rows_without_label_are_predicted_as_those_with_one(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run")
    unlabelled = write_dataset(tmp_path / "new", SCHEMA.without_label(), {"train": numbered_files([[67]])})
    predict(tmp_path / "run", str(unlabelled), str(tmp_path / "new.parquet"), Console())
    predict(tmp_path / "run", str(dataset), str(tmp_path / "old.parquet"), Console(), splits=["train"])
    assert pq.read_table(tmp_path / "new.parquet").equals(pq.read_table(tmp_path / "old.parquet"))


def test_adopted_rows_are_trained_on_and_predicted(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    """Lists that another job wrote make the same model as the tensors of a dataset; a prediction needs a key."""
    folder = tmp_path / "plain"
    for split, groups in {"train": [[20, 13], [1, 17, 16]], "val": [[10]]}.items():
        for i, file in enumerate(numbered_files(groups, 0 if split == "train" else 100)):
            (folder / f"split={split}").mkdir(parents=True, exist_ok=True)
            schema = pa.schema([("id", pa.int64()), ("x", pa.list_(pa.float32())), ("label", pa.int64())])
            with pq.ParquetWriter(folder / f"split={split}" / f"{i}.parquet", schema) as writer:
                for rows in file:
                    writer.write_table(pa.table({**rows, "x": rows["x"].tolist()}, schema=schema))
    columns = Columns({"x": SCHEMA["x"]})
    adopt(str(folder), Console(), columns=columns, key="id", label="label")
    start(recipe, folder, tmp_path / "run")
    start(recipe, dataset, tmp_path / "other")
    assert_same(tmp_path / "run", tmp_path / "other")
    assert predict(tmp_path / "run", str(folder), str(tmp_path / "p.parquet"), Console())["rows"] == 77
    adopt(str(folder), Console(), columns=columns, label="label")
    with pytest.raises(DatasetError, match=r"adopted without a key, .* adopt it with `penstock adopt … --key COLUMN`"):
        predict(tmp_path / "run", str(folder), str(tmp_path / "p.parquet"), Console())


def test_data_of_another_contract_is_refused(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run")
    fitted = {"x": {"kind": "standardise", "mean": 1.0, "std": 2.0}}
    other = write_dataset(tmp_path / "other", SCHEMA, {"train": numbered_files([[5]])}, transforms=fitted)
    with pytest.raises(RunError, match=r"does not fit the run .* transforms .*--frozen"):
        predict(tmp_path / "run", str(other), str(tmp_path / "p.parquet"), Console())
    assert not (tmp_path / "p.parquet").exists()


def test_what_cannot_be_predicted_gets_a_sentence(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "p.parquet")
    with pytest.raises(RunError, match=r"not a run folder \(no config.json\)"):
        predict(tmp_path / "nothing", str(dataset), out, Console())
    start(recipe, dataset, tmp_path / "run")
    with pytest.raises(DatasetError, match="no split 'dev'"):
        predict(tmp_path / "run", str(dataset), out, Console(), splits=["dev"])
    weights = tmp_path / "run" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:50])
    with pytest.raises(RunError, match="damaged"):
        predict(tmp_path / "run", str(dataset), out, Console())
    weights.unlink()
    with pytest.raises(RunError, match="the run is not finished"):
        predict(tmp_path / "run", str(dataset), out, Console())
    assert not Path(out).exists()


def test_a_damaged_file_leaves_no_predictions(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    start(recipe, dataset, tmp_path / "run")
    next(dataset.glob("data/*/split=test/*.parquet")).unlink()
    with pytest.raises(PenstockError, match="missing"):
        predict(tmp_path / "run", str(dataset), str(tmp_path / "p.parquet"), Console())
    assert not (tmp_path / "p.parquet").exists()


def test_what_was_refused_before_its_first_step_leaves_the_folder_to_another_run(
    recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    refused = ["train", "mnist", "--data", str(dataset), "--out", str(tmp_path / "run")]
    assert cli.main(refused) == 1
    assert (tmp_path / "run" / "status.json").exists()
    start(recipe, dataset, tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--data", "/nothing", "--out", "{tmp}/r"], "no dataset here"),
        (
            ["train", "mnist", "--data", "{data}", "--out", "{tmp}/r", "--model", "vit"],
            "no model 'vit'; there are mlp, cnn and residual",
        ),
        (["train", "digits", "--data", "{data}", "--out", "{tmp}/r", "--model", "vit"], "no model 'vit'; there is cnn"),
        (["train", "digits", "--data", "{data}", "--out", "/proc/run"], "/proc"),
        (["train", "digits", "--data", "{data}", "--out", "{tmp}/r", "--device", "cuda"], "torch sees no GPU"),
        (
            ["train", "mnist", "--data", "{data}", "--out", "{tmp}/r"],
            "version v1 was made by 'made' and does not fit the model of 'mnist' (KeyError: 'image'); its fields are",
        ),
        (["predict", "{tmp}/nothing", "--data", "{data}", "--out", "{tmp}/p"], "not a run folder"),
        (["predict", "{tmp}/nothing", "--data", "{data}", "--out", "{tmp}/"], "found a folder; say {tmp}/predictions"),
        (
            ["export", "{tmp}/nothing", "--to", "torch", "--out", "{tmp}/new/"],
            "found a folder; say {tmp}/new/model.pt2",
        ),
    ],
)
def test_the_command_line_says_one_sentence(
    arguments: list[str], message: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    code = cli.main([a.format(tmp=tmp_path, data=dataset) for a in arguments])
    error = capsys.readouterr().err
    assert code == 1
    assert message.format(tmp=tmp_path) in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("train.predict", "pyspark"),
        ("train.release", "pyspark"),
        ("etl.run", "torch"),
        ("penstock.verify", "torch"),
        ("penstock.released", "torch"),
    ],
)
def test_each_side_runs_without_the_other(module: str, forbidden: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name.partition('.')[0] == {forbidden!r} for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_petastorm_is_left_as_it_was_for_others() -> None:
    code = (
        "import sys, train.feed, petastorm.reader as r, pyarrow\n"
        "assert 'pyarrow.filesystem' not in sys.modules\n"
        "try: r.pq.ParquetDataset('/nothing')\n"
        "except FileNotFoundError: print('stock')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "stock\n"
