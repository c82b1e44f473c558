"""Texts that a run goes on with: the same for a seed, with and without cache, and drawn as top-p says."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from penstock import cli, tokens
from penstock.schema import Field, Schema
from tests.train.conftest import write_dataset
from train.generate import drawn, generated
from train.models.transformer import LanguageModel, Shape

SAID = "abcab" * 40
RECIPE = '''
"""What follows a letter, of three."""
from torch import nn
from penstock import tokens
from train.config import Optimizer, TrainConfig
from train.models.transformer import LanguageModel, Shape, next_token_loss

metrics = {}

def config(model=None):
    return TrainConfig(epochs=30, global_batch_size=8, lanes=4, optimizer=Optimizer("muon", lr=1e-2, momentum=0.95))

def speaks(config):
    return "letters", []

def build_model(config, card):
    return LanguageModel(Shape(tokens.vocabulary_size(card, "letters"), 12, layers=2, width=16, heads=2))

def prepare(batch, card):
    return batch["letters"][:, :-1]

def loss(logits, batch, config):
    losses = next_token_loss(logits, batch["letters"][:, 1:])
    return losses, losses * 0 + 12

def predict(logits):
    return logits[:, -1].max(dim=1)
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt that abcab goes on with abcab."""
    folder = tmp_path_factory.mktemp("speaking")
    (folder / "letters").mkdir()
    (folder / "letters" / "model.py").write_text(RECIPE)
    fitted = {"kind": "characters", "of": "text", "tokenizer": tokens.characters("abc\n")}
    known = {letter: i for i, letter in enumerate("\nabc", 2)}
    texts = [SAID[i : i + 13] for i in range(160)]
    rows = {"id": list(range(160)), "letters": [[known[letter] for letter in text] for text in texts]}
    schema = Schema((Field("id", "int64"), Field("letters", "int32", (None,))), key="id")
    data = write_dataset(folder / "dataset", schema, {"train": [[rows]]}, transforms={"letters": fitted})
    out = folder / "run"
    assert cli.main(["train", str(folder / "letters"), "--data", str(data), "--out", str(out), "--device", "cpu"]) == 0
    return out


def said(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    assert cli.main(["generate", str(run), "--json", "--device", "cpu", *options]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_it_goes_on_with_what_it_has_learnt_beyond_its_context(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--prompt", "abcab", "--max-tokens", "60", "--temperature", "0", "--compare-cache"]
    found = said(run, capsys, *options)
    assert found["text"] == SAID[:65]
    assert found["tokens"] == 60
    assert found["same_without_cache"] is True
    assert isinstance(found["tokens_per_s_without_cache"], float)


def test_a_seed_says_the_same_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(seed: int) -> object:
        options = ["--prompt", "b", "--max-tokens", "80", "--temperature", "3", "--seed", str(seed)]
        return said(run, capsys, *options)["text"]

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) == 4


def test_the_text_is_streamed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(run), "--prompt", "ca", "--max-tokens", "5", "--temperature", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cababcab"[:7] + "\n5 tokens, ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--prompt", ""], "--prompt: expected one token or more, found an empty text"),
        (["--max-tokens", "0"], "--max-tokens: expected 1 or more, found 0"),
        (["--temperature", "-1"], "--temperature: expected 0 or more, found -1.0"),
        (["--top-p", "0"], "--top-p: expected a share above 0, up to 1, found 0.0"),
    ],
)
def test_settings_without_a_meaning_are_said(
    run: Path, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", str(run), *options]) == 1
    assert sentence in capsys.readouterr().err


def test_a_run_of_another_kind_generates_nothing(
    dataset: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["train", str(recipe), "--data", str(dataset), "--out", str(out), "--steps", "1"]) == 0
    assert cli.main(["generate", str(out), "--prompt", "a"]) == 1
    assert "generates no text: expected one LanguageModel and `speaks`, found 0 and none" in capsys.readouterr().err


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_with_and_without_a_cache_the_same_is_drawn(positions: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(Shape(11, 16, layers=2, width=24, heads=3, positions=positions)).double()  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for prompt in ([3], list(range(11)), [1, 2] * 20):
        with_cache, without = (list(islice(generated(model, prompt, seed=5, cached=c), 40)) for c in (True, False))
        assert with_cache == without
    assert len(set(with_cache)) > 3
    said = islice(generated(model, [1], never=[2, *range(5, 11)], temperature=9.0), 60)
    assert set(said) == {0, 1, 3, 4}


def test_tokens_are_drawn_by_their_probability_within_top_p() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    grid = [(i + 0.5) / 1000 for i in range(1000)]
    for top_p, expected in (
        (1.0, {1: 500, 3: 250, 2: 150, 0: 100}),
        (0.75, {1: 667, 3: 333}),  # as few as have 0.75 together
        (0.76, {1: 556, 3: 278, 2: 166}),
        (1e-9, {1: 1000}),
    ):
        assert Counter(drawn(logits, 1.0, top_p, chance) for chance in grid) == pytest.approx(expected, abs=1)
    assert {drawn(logits, 0, 1.0, chance) for chance in grid} == {1}
    equal = torch.zeros(4) + 1e-7 * torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert sum(drawn(equal[0], 1.0, 1.0, chance) != drawn(equal[1], 1.0, 1.0, chance) for chance in grid) == 0
    hot = Counter(drawn(logits, 100.0, 1.0, chance) for chance in grid)
    assert max(hot.values()) < 260
