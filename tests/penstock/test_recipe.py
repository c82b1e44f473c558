"""Recipes: found by name or by path, complete, and told what is wrong with them in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import recipe as recipes
from penstock.errors import RecipeError

WHOLE = """
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema
schema = Schema((Field("k", "int64"), Field("x", "uint8", (2,)), Field("y", "float32", (2,))), key="k")
split = Split({"train": 1.0})
def read(spark, raw_url, labelled): ...
def clean(df): ...
"""


def write_recipe(folder: Path, dataset: str, **others: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.py").write_text(dataset)
    for name, text in others.items():
        (folder / f"{name}.py").write_text(text)
    return str(folder)


def test_the_shipped_recipes_are_complete() -> None:
    assert {"credit_default", "digits", "mnist", "online_retail", "online_retail_customers"} <= set(recipes.shipped())
    for name in recipes.shipped():
        assert recipes.find(name).dataset().name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", r"no recipe named 'mnits'; did you mean 'mnist'\? There are .*digits, mnist, "),
        ("xyz", r"no recipe named 'xyz'; There are .*digits, mnist, .*; .* give its path, such as \./xyz"),
        ("", "no recipe named ''"),
        ("__pycache__", "no recipe named '__pycache__'"),
        ("./nothing", r"no folder at \./nothing; expected one with dataset\.py and model\.py"),
    ],
)
def test_a_recipe_that_is_not_there_is_said(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.find(name)


def test_a_recipe_is_found_by_path_with_its_neighbours(tmp_path: Path) -> None:
    for key in ("a", "b"):  # two folders of one name are two recipes
        dataset = WHOLE.replace('"k"', "KEY")
        path = write_recipe(tmp_path / key / "mine", f"from .names import KEY\n{dataset}", names=f"KEY = {key!r}")
        assert recipes.find(path).dataset().schema.key == key
        assert recipes.find(path).name == "mine"


def test_a_path_relative_to_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(tmp_path / "my recipe", WHOLE)
    monkeypatch.chdir(tmp_path)
    assert recipes.find("./my recipe").dataset().name == "my recipe"
    monkeypatch.chdir(tmp_path / "my recipe")
    assert recipes.find(".").dataset().name == "my recipe"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("x", r"dataset\.py cannot be imported: NameError: name 'x' is not defined"),
        ("def (", r"dataset\.py cannot be imported: SyntaxError: invalid syntax \(dataset\.py, line 1\)"),
        ("import nothing_here", "cannot be imported: ModuleNotFoundError: No module named 'nothing_here'"),
        ("from .gone import x", "cannot be imported: ModuleNotFoundError"),
        (
            "def clean(df): ...",
            r"dataset\.py lacks the fields of a row: schema = Schema\(\.\.\.\); how raw files become",
        ),
        (WHOLE + "schema = 3", "schema must be a Schema with a key, is 3 in .*dataset"),
        (WHOLE + "schema = Schema(schema.fields, key=None)", "schema must be a Schema with a key, is Schema"),
        (WHOLE + "split = {'train': 1.0}", r"split must be a Split, is \{'train': 1.0\}"),
        (WHOLE + "clean = 3", "clean must be a function, is 3"),
        (WHOLE + "rules = Rule", "rules must be a tuple of Rule"),
        (WHOLE + "rules = ['age > 3']", r"rules must be a tuple of Rule, .* or Expect, is \['age > 3'\]"),
        (WHOLE + "fixes = ['trim(x)']", r"fixes must be a tuple of Fix, is \['trim\(x\)'\]"),
        (WHOLE + "rules = (Rule('a', 'x > 0', ''), Rule('a', 'x < 9', ''))", "rules: 'a' names 2 of them; each needs"),
        (WHOLE + "rules = (Rule('malformed', 'x > 0', ''),)", "rules: 'malformed' names 2 of them"),
        (WHOLE + "rules = (Rule('a b', 'x > 0', ''),)", "rules: 'a b' is no name; use letters, digits"),
        (
            WHOLE + "rules = (Rule('a', 'x > 0', '', severity='stop'),)",
            "rules: the severity of 'a' must be 'quarantine' or 'warn' or 'fail', is 'stop'",
        ),
        (
            WHOLE + "from penstock.rules import Expect\nrules = (Expect('a', 'x', '', severity='quarantine'),)",
            "rules: the severity of 'a' must be 'warn' or 'fail', is 'quarantine'",
        ),
        (WHOLE + "max_quarantined = 5", "max_quarantined must be a share from 0 to 1, is 5"),
        (WHOLE + "row_group_bytes = 0", "row_group_bytes must be a whole number above 0, is 0"),
        (WHOLE + "keep = 'first'", r"keep must be Smallest\(\), First\(\), Last\(\) or Greatest\(column\), is 'first'"),
        (WHOLE + "max_drift = -1", "max_drift must be a PSI, such as 0.25, is -1"),
        (WHOLE + "max_drift = {'x': '0.1'}", "max_drift must be a PSI, such as 0.25, is '0.1'"),
        (WHOLE + "max_drift = {'z': 0.1}", "max_drift: 'z' is no field, or the key, which has no drift"),
        (WHOLE + "max_drift = {'k': 0.1}", "max_drift: 'k' is no field, or the key, which has no drift"),
        (WHOLE + "fit = 'x'", "fit must be a dict, is 'x'"),
        (WHOLE + "fit = {'x': 'whiten'}", "fit: unknown transform 'whiten'; there is 'standardise'"),
        (WHOLE + "fit = {'z': 'standardise'}", "fit: 'z' is no tensor of integers of 32 bits or fewer"),
        (WHOLE + "fit = {'y': 'standardise'}", "fit: 'y' is no tensor of integers"),
        (WHOLE + "fit = {'k': 'standardise'}", "fit: 'k' is no tensor of integers"),
        (
            WHOLE + "fit = {'x': 'standardise'}\nsplit = Split({'fit': 0.5, 'test': 0.5})",
            "fit needs a split named 'train', there are fit, test",
        ),
    ],
)
def test_a_recipe_that_is_wrong_is_told_why(dataset: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"recipe 'r': .*{message}"):
        recipes.find(write_recipe(tmp_path / "r", dataset)).dataset()


def test_a_recipe_that_was_mended_is_read_again(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r", "x")
    with pytest.raises(RecipeError):
        recipes.find(path).dataset()
    write_recipe(tmp_path / "r", WHOLE)
    assert recipes.find(path).dataset().name == "r"


def test_a_recipe_without_a_model_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.py is missing; docs/adding_a_recipe\.md says what it holds"):
        recipes.find(write_recipe(tmp_path / "r", WHOLE)).model()
    with pytest.raises(RecipeError, match=r"model\.py lacks the complete configuration: .*; per row figures by name"):
        recipes.find(write_recipe(tmp_path / "r", WHOLE, model="x = 1")).model()


def settings(folder: Path) -> str:
    return recipes.find(str(folder)).dataset().settings


def test_settings_follow_the_code_that_makes_the_dataset(tmp_path: Path) -> None:
    folder = Path(write_recipe(tmp_path / "r", WHOLE, helper="x = 1", model="y = 1"))
    (folder / "sub").mkdir()
    (folder / "sub" / "more.py").write_text("z = 1")
    (folder / ".venv").mkdir()
    first = settings(folder)
    for harmless in ("model.py", ".venv/lib.py", "notes.txt"):
        (folder / harmless).write_text("y = 2")
        assert settings(folder) == first, harmless
    (folder / "helper.py").write_text("x = 1  # why")
    assert settings(folder) == first
    seen = {first}
    for change in ("helper.py", "sub/more.py", "new.py"):
        (folder / change).write_text("x = 2")
        seen.add(settings(folder))
    assert len(seen) == 4


@pytest.mark.parametrize(
    "imports",
    [
        "from recipes.one.dataset import clean",
        "import recipes.one.dataset",
        "from recipes import one",
        "def late():\n    from recipes.one import dataset",
        "from ..one.dataset import clean",
    ],
)
def test_settings_follow_the_other_recipes_that_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: str
) -> None:
    monkeypatch.setattr(recipes, "SHIPPED", tmp_path / "recipes")
    one, two, mine, apart = (tmp_path / "recipes" / name for name in ("one", "two", "mine", "apart"))
    write_recipe(one, WHOLE + "from recipes.two.dataset import clean\n", helper="x = 1")
    write_recipe(two, WHOLE + "from recipes.one.dataset import clean\n", model="x = 1")  # a circle ends
    write_recipe(mine, f"{imports}\n{WHOLE}")
    write_recipe(apart, WHOLE)
    first = recipes._code(mine)
    for harmless in (two / "model.py", apart / "dataset.py"):
        harmless.write_text("x = 2")
        assert recipes._code(mine) == first
    for change in (one / "helper.py", two / "dataset.py"):
        change.write_text("x = 2")
        assert recipes._code(mine) != first
        first = recipes._code(mine)


def test_a_neighbour_that_is_no_python_is_said(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r", WHOLE, scratch="def (")
    with pytest.raises(RecipeError, match=r"a file of .*r is no Python: invalid syntax .*scratch\.py"):
        recipes.find(path).dataset()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "above 0"),
        ({"train": 0.5}, "must sum to 1, found 0.5"),
        ({"train": 1.5, "val": -0.5}, "above 0"),
        ({"train": 1.0, "val": 0.0}, "above 0"),
        ({"train": float("nan"), "val": 0.5}, "must sum to 1"),
    ],
)
def test_shares_must_make_a_whole(shares: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=f"split: shares .*{message}"):
        recipes.Split(shares)


@pytest.mark.parametrize(
    "said",
    [
        {"by": "t", "before": {"train": "2011-01-01"}},
        {"by": "t", "before": {"train": None}},
        {"by": "t", "before": {"train": None, "test": "2011-01-01"}},
        {"before": {"train": "2011-01-01", "test": None}},
        {"by": "t", "before": {"train": "2011-01-01", "test": None}, "shares": {"train": 1.0}},
    ],
)
def test_a_split_by_time_has_its_borders(said: dict[str, Any]) -> None:
    with pytest.raises(
        RecipeError, match=r"split: by time it needs `by`, no shares, and in `before` a border for each"
    ):
        recipes.Split(**said)
    assert recipes.Split(by="t", before={"train": 3, "val": 5, "test": None}).names == ("train", "val", "test")


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_shares_of_any_whole_are_accepted(parts: list[int]) -> None:
    recipes.Split({f"s{i}": part / sum(parts) for i, part in enumerate(parts)})
