"""Passages of a text: every character in one, and predicted once; and a model that trains, goes on and speaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import SparkSession
from tokenizers import Tokenizer

from bench import pages
from etl.run import Built, etl
from penstock import cli, tokens
from penstock.console import Console
from penstock.recipe import find
from recipes.shakespeare import model
from tests.conftest import SHARED_DATA
from tests.recipes.resuming import train_and_resume
from train.config import TrainConfig
from train.feed import Feed
from train.random import drawing

LINES = [
    f"{'ROMEO' if i % 2 else 'JULIET'}:" + (f"\nO, {i} times {chr(97 + i % 26)} I say." if i % 5 else "")
    for i in range(700)
]
TEXT = "\n".join(LINES) + "\n"


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    folder = tmp_path_factory.mktemp("plays")
    (folder / "raw.txt").write_text(TEXT)
    return folder / "dataset", etl(find("shakespeare"), str(folder / "raw.txt"), str(folder / "dataset"), Console())


def passages(out: Path, built: Built) -> list[dict[str, Any]]:
    rows = pq.read_table(out / built.card.data).to_pylist()
    return sorted(rows, key=lambda row: (["train", "val", "test"].index(row["split"]), row["id"]))


def test_every_character_is_in_one_passage_and_no_split_sees_another(built: tuple[Path, Built]) -> None:
    card, rows = built[1].card, passages(*built)
    assert card.counts["raw"] == card.counts["used"] == TEXT.count("\n")
    assert "".join(row["text"] for row in rows) == TEXT
    of = {split: "".join(row["text"] for row in rows if row["split"] == split) for split in card.splits}
    assert len(of["train"]) == int(0.8 * len(TEXT))
    assert len(of["test"]) == len(TEXT) - int(0.9 * len(TEXT))
    letters, pairs = (Tokenizer.from_str(json.dumps(card.transforms[f]["tokenizer"])) for f in ("letters", "tokens"))
    at = dict.fromkeys(of, 0)
    for row in rows:
        split, first = row["split"], at[row["split"]]
        assert row["num_before"] == min(first, 256)
        assert row["letters"] == letters.encode(of[split][first - row["num_before"] : first + 2 * 256]).ids
        assert pairs.decode(row["tokens"]) == row["text"]
        assert row["num_characters"] == len(row["text"])
        at[split] += len(row["text"])


@pytest.mark.parametrize("name", ["characters", "byte_pairs"])
def test_each_character_is_predicted_once(built: tuple[Path, Built], name: str) -> None:
    """A model that knows nothing has ln(vocabulary) for each token, of all of the split but what nothing is before."""
    config = model.config(name)
    card = built[1].card
    network = model.build_model(config, card)
    feed = Feed(str(built[0]), "val", global_batch_size=5, shuffle=False)
    nats = characters = 0.0
    for batch in feed.epoch():
        loss, weight = model.loss(network(model.prepare(batch, card)), batch, config)
        nats, characters = nats + float(loss.detach().sum()), characters + float(weight.sum())
    rows = [row for row in passages(*built) if row["split"] == "val"]
    in_text = sum(len(row["text"]) for row in rows)
    if name == "characters":
        assert characters == in_text - 1
        num_tokens = in_text - 1
    else:
        assert characters == in_text
        num_tokens = sum(len(row["tokens"]) for row in rows)
    size = tokens.vocabulary_size(card, model.speaks(config)[0])
    assert nats == pytest.approx(num_tokens * np.log(size), rel=1e-5)


def test_training_begins_at_any_letter_and_learns_all_that_follow(built: tuple[Path, Built]) -> None:
    config = model.config()
    batch = next(Feed(str(built[0]), global_batch_size=20, lanes=1, shuffle=False).epoch())
    firsts = set()
    for key in range(60):
        found = model.augment(batch, config, drawing(torch.full((20,), key * 7919)), 0.0)
        assert found["letters"].shape == (20, 513)
        whole, cut = batch["letters"][3].tolist(), found["letters"][3].tolist()
        firsts.add(next(i for i in range(256) if whole[i : i + 513] == cut))
        assert num_learnt(found, config)[3] == 512
    assert len(firsts) > 30
    assert min(firsts) < 30
    assert max(firsts) > 225
    short = {**batch, "letters": batch["letters"][:, :100], "_letters_length": torch.full((20,), 100)}
    found = model.augment(short, config, drawing(torch.arange(20)), 0.0)
    assert found["letters"][:, :100].equal(short["letters"])
    assert num_learnt(found, config) == [99] * 20


def num_learnt(batch: dict[str, torch.Tensor], config: TrainConfig) -> list[int]:
    """Of each row the number of characters that the loss is of."""
    size = (len(batch["letters"]), min(batch["letters"].shape[1], model.CONTEXT), 67)
    return [int(weight) for weight in model.loss(torch.zeros(size), batch, config)[1]]


def test_a_passage_is_judged_behind_what_comes_before_it(built: tuple[Path, Built]) -> None:
    """Changing a character before the passage changes its loss; changing one behind it does not."""
    torch.manual_seed(0)
    config, card = model.config(), built[1].card
    network = model.build_model(config, card).eval()
    for weight in network.parameters():  # which begins as a model that says nothing, and looks at nothing
        torch.nn.init.normal_(weight, std=0.1)
    batch = next(Feed(str(built[0]), "val", global_batch_size=4, lanes=1, shuffle=False).epoch())

    def nats(changed: int | None) -> list[float]:
        letters = batch["letters"].clone()
        if changed is not None:
            letters[:, changed] = letters[:, changed] % 20 + 2
        read = {**batch, "letters": letters}
        with torch.no_grad():
            return model.loss(network(model.prepare(read, card)), read, config)[0].tolist()  # type: ignore[no-any-return]

    whole = batch["num_before"].tolist().index(256)
    assert nats(250)[whole] != nats(None)[whole]
    assert nats(512)[whole] == nats(None)[whole]


@pytest.mark.parametrize("name", ["characters", "byte_pairs"])
def test_a_slice_trains_goes_on_predicts_and_speaks(
    built: tuple[Path, Built],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, data = tmp_path / "run", built[0]
    train_and_resume("shakespeare", data, run, "--model", name)
    assert cli.main(["predict", str(run), "--data", str(data), "--split", "test", "--out", str(tmp_path / "p")]) == 0
    assert pq.read_table(tmp_path / "p").num_rows == built[1].card.splits["test"].rows
    capsys.readouterr()
    assert cli.main(["generate", str(run), "--prompt", "ROMEO:", "--max-tokens", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 20

    monkeypatch.setattr(pages, "PAGES", tmp_path)
    monkeypatch.setattr(pages, "NUM_TOKENS", 20)
    assert pages.main([str(run), "--data", str(data)]) == 0
    page = (tmp_path / "shakespeare.md").read_text()
    assert f"    {pages.PROMPT}" in page.split("## What it writes")[1]
    val = "".join(" ".join(row["text"].split()) for row in passages(*built) if row["split"] == "val")
    assert page.split("## The hardest")[1].splitlines()[4].split(" | ")[1][:100] in val


@pytest.mark.soak
def test_the_plays_are_those_that_are_known(spark: SparkSession, tmp_path: Path) -> None:
    raw = SHARED_DATA / "tinyshakespeare"
    if not raw.is_dir():
        pytest.skip("the plays are not on this machine (expected in ../shared/data/tinyshakespeare)")
    found = etl(find("shakespeare"), str(raw), str(tmp_path / "out"), Console())
    assert found.card.counts == {
        "raw": 40_000,
        "quarantined": 0,
        "clean": 40_000,
        "duplicates": 0,
        "left_out": 0,
        "used": 40_000,
        "built": 4_358,
    }
    text = (raw / "input.txt").read_text()
    assert len(text) == 1_115_394
    rows = passages(tmp_path / "out", found)
    assert "".join(row["text"] for row in rows) == text
    assert len(found.card.transforms["letters"]["tokenizer"]["model"]["vocab"]) == 65 + 2
    assert all(min(row["letters"]) > 1 for row in rows)  # val and test have no character that train lacks
