"""Recipes: what a task must say, and how its folder is found by name or by path.

A recipe is a folder with `dataset.py` for the data engineer (Spark, never torch) and `model.py` for the ML
engineer (torch, never Spark). docs/adding_a_recipe.md walks through one.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from penstock.digest import code_digest, json_digest
from penstock.errors import RecipeError
from penstock.privacy import Drop, Treatment
from penstock.rules import Check, Fix, check_names
from penstock.rules import Rule as Rule  # recipes import it from here too
from penstock.schema import Schema
from penstock.transforms import Transforms
from penstock.transforms import check as check_transforms

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HASHES = 1_000_000  # that splits tell apart: shares are exact to a millionth
ROW_GROUP_BYTES = 4 << 20
SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
MODEL_FILE = "model.py"
DATASET_PARTS = {
    "schema": "the fields of a row: schema = Schema(...)",
    "read": "how raw files become rows: def read(spark, raw_url, labelled)",
    "clean": "how a raw row becomes a clean one: def clean(df)",
    "split": "which rows train: split = Split({...})",
}
MODEL_PARTS = {
    "config": "the complete configuration: def config(model)",
    "build_model": "the network: def build_model(config, card)",
    "prepare": "a batch as the network wants it: def prepare(batch, card)",
    "loss": "per row the loss and its weight: def loss(outputs, batch, config)",
    "predict": "what a prediction says: def predict(outputs)",
    "metrics": "per row figures by name: metrics = {...}",
}


@dataclass(frozen=True)
class Split:
    """Which split a row goes to: by its key's hash in these shares, so that a key keeps its split for ever.

    With `by`, a column of clean(), by the hash of its value instead, so that all rows of a group are in one split; rows
    where it is null go by their key. With `before` by time: `by` is the column of time (or another one that has an
    order), and `before` says for each split, in their order, which value its rows are before; None for the last one.
    A row whose column `source` is not null goes to the split that it names instead, as the source says.

    `rotate` moves all hashes on by this share of them, in a circle: with a fifth for test, the five splits by 0, 0.2, …
    0.8 have every row in test once, as cross-validation wants them.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    source: str | None = None
    by: str | None = None
    before: Mapping[str, str | int | float | None] = field(default_factory=dict)
    rotate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotate < 1 or (self.rotate and self.before):
            raise RecipeError(f"split: rotate is a share of the hashes, 0 to below 1, and none by time, found {self}")
        if self.before:
            *borders, last = self.before.values()
            if self.shares or self.by is None or not borders or last is not None or None in borders:
                raise RecipeError(
                    f"split: by time it needs `by`, no shares, and in `before` a border for each split but the last, "
                    f"found {self}"
                )
            return
        if not self.shares or any(share <= 0 for share in self.shares.values()):
            raise RecipeError(f"split: shares must be above 0, found {dict(self.shares)}")
        if not math.isclose(sum(self.shares.values()), 1):
            raise RecipeError(f"split: shares must sum to 1, found {sum(self.shares.values())}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the splits that there will be; `source` may name more."""
        return tuple(self.shares or self.before)

    @property
    def is_by_group(self) -> bool:
        return self.by is not None and not self.before

    @property
    def limits(self) -> dict[str, int]:
        """In the order of their names the splits with which hash, mod `HASHES`, they end; the last takes the rest."""
        below, found = 0.0, {}
        for name in sorted(self.shares):
            below += self.shares[name]
            found[name] = round(below * HASHES)
        return found


@dataclass(frozen=True)
class Smallest:
    """Of the rows with one key the smallest by all other fields stays, in the schema's order."""


@dataclass(frozen=True)
class First:
    """Of the rows with one key the first stays: by the name of its file, then by its place in it."""


@dataclass(frozen=True)
class Last:
    """Of the rows with one key the last stays: by the name of its file, then by its place in it."""


@dataclass(frozen=True)
class Greatest:
    """Of the rows with one key the one with the greatest value of `column` stays, of several the smallest of these.

    `column` is one of clean(); null is less than any value.
    """

    column: str


Keep = Smallest | First | Last | Greatest


@dataclass(frozen=True)
class DatasetRecipe:
    """The parts of `dataset.py`, checked; those with a default may be left out there."""

    name: str
    module: ModuleType
    code: str  # digest of what the recipe's dataset code means
    schema: Schema
    split: Split
    read: Callable[[SparkSession, str, bool], DataFrame]
    clean: Callable[[DataFrame], DataFrame]
    fixes: tuple[Fix, ...] = ()
    rules: tuple[Check, ...] = ()
    keep: Keep = field(default_factory=Smallest)  # which of the rows with one key stays
    fit: Mapping[str, str] = field(default_factory=dict)  # field -> transform fitted on the training split
    build: Callable[[DataFrame, bool], DataFrame] | None = None  # rows made of several clean ones
    clean_key: tuple[
        str, ...
    ] = ()  # columns that name a clean row; (): the schema's key, or all where there is a build
    transforms: Transforms = field(default_factory=dict)  # field -> what makes it, fitted on the training split
    max_quarantined: float = 0.01  # share of the raw rows
    row_group_bytes: int = ROW_GROUP_BYTES
    max_drift: float | Mapping[str, float] | None = None  # PSI against the newest version before, penstock/compare.py
    private: Mapping[str, Treatment] = field(default_factory=dict)  # column that clean() gives -> how it is treated
    not_private: Mapping[str, str] = field(default_factory=dict)  # column that looks personal -> why it is not
    window: timedelta | None = None  # of clean intervals that a version is built from, etl/window.py; None: all
    quarantine_records: bool = True  # whether quarantine holds the refused records, or only where they are, and why

    @property
    def settings(self) -> str:
        """The digest of what the recipe says about the data: its code, and every default that it relies on."""
        values = [
            self.schema.to_json(),
            {name: value for name, value in asdict(self.split).items() if name != "rotate" or value},
            repr(self.keep),
            dict(self.fit),
            self.row_group_bytes,
        ]
        two_stages = self.build or self.transforms or self.clean_key
        built = [list(self.clean_key), repr(dict(self.transforms))] if two_stages else []
        treated = [{name: repr(treatment) for name, treatment in self.private.items()}] if self.private else []
        return json_digest([self.code, *values, *built, *treated])


@dataclass(frozen=True)
class Recipe:
    """A recipe's folder, and the name or path it was asked for by."""

    name: str
    folder: Path
    reference: str

    def dataset(self) -> DatasetRecipe:
        """Raises: RecipeError where `dataset.py` is missing, fails to import, or lacks a part."""
        module = self._load("dataset.py", DATASET_PARTS)
        try:
            code = _code(self.folder)
        except (SyntaxError, ValueError) as error:
            raise RecipeError(f"recipe {self.name!r}: a file of {self.folder} is no Python: {error}") from error
        optional = {
            name: getattr(module, name)
            for name in (
                *("keep", "fit", "max_quarantined", "row_group_bytes"),
                *("build", "clean_key", "transforms", "max_drift"),
                *("private", "not_private", "quarantine_records", "window"),
            )
            if hasattr(module, name)
        }
        _check_parts(self.name, module)
        recipe = DatasetRecipe(
            name=self.name,
            module=module,
            code=code,
            schema=module.schema,
            split=module.split,
            read=module.read,
            clean=module.clean,
            fixes=tuple(getattr(module, "fixes", ())),
            rules=tuple(getattr(module, "rules", ())),
            **optional,
        )
        _check_fit(recipe)
        _check_drift(recipe)
        _check_private(recipe)
        try:
            check_names(recipe.fixes, recipe.rules)
        except RecipeError as error:
            raise RecipeError(f"recipe {self.name!r}: {error}") from None
        return recipe

    def model(self) -> Any:
        """The module `model.py`. Raises: RecipeError where it is missing, fails to import, or lacks a part."""
        return self._load(MODEL_FILE, MODEL_PARTS)

    def _load(self, file: str, parts: Mapping[str, str]) -> ModuleType:
        path = self.folder / file
        if not path.is_file():
            raise RecipeError(f"recipe {self.name!r}: {path} is missing; docs/adding_a_recipe.md says what it holds")
        module = _import(self, path)
        lacking = [what for part, what in parts.items() if not hasattr(module, part)]
        if lacking:
            raise RecipeError(f"recipe {self.name!r}: {path} lacks {'; '.join(lacking)}")
        return module


def find(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a user's own by the path of its folder. Raises: RecipeError."""
    folder = Path(name_or_path).expanduser()
    if os.sep in name_or_path or name_or_path in (".", ".."):
        if not folder.is_dir():
            raise RecipeError(f"recipe: no folder at {name_or_path}; expected one with dataset.py and model.py")
        return Recipe(folder.resolve().name, folder.resolve(), str(folder.resolve()))
    if name_or_path in shipped():
        return Recipe(name_or_path, SHIPPED / name_or_path, name_or_path)
    near = difflib.get_close_matches(name_or_path, shipped(), n=1, cutoff=0.4)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise RecipeError(
        f"recipe: no recipe named {name_or_path!r}; {guess}There are {', '.join(shipped())}; "
        f"for a folder of your own give its path, such as ./{name_or_path}"
    )


def shipped() -> list[str]:
    return sorted(path.parent.name for path in SHIPPED.glob("*/dataset.py"))


def _code(folder: Path) -> str:
    """The digest of all that `dataset.py` may import: its folder, and the shipped recipes that files of it import."""
    folders, waiting = {folder}, [folder]
    while waiting:
        imported = {SHIPPED / name for name in _imported_recipes(waiting.pop())} - folders
        folders |= imported
        waiting += imported
    others = sorted(folders - {folder})  # all of them beside each other: in the order of their names
    return json_digest([code_digest(_code_files(found)) for found in (folder, *others)])


def _code_files(folder: Path) -> list[Path]:
    """A helper that only model.py uses counts too: building once too often is the harmless mistake."""
    files = [path.relative_to(folder) for path in folder.rglob("*.py")]
    return [folder / f for f in files if f != Path(MODEL_FILE) and not any(p.startswith(".") for p in f.parts)]


def _imported_recipes(folder: Path) -> set[str]:
    """Names of the shipped recipes that a folder's code imports, wherever in it."""
    names: set[str] = set()
    for path in _code_files(folder):
        for node in ast.walk(ast.parse(path.read_bytes(), path)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                # `..` of a file in a shipped recipe's folder is `recipes`
                above = "recipes." if node.level == 2 and folder.parent == SHIPPED else ""
                names |= {f"{above}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "recipes" and len(part) > 1 and (SHIPPED / part[1]).is_dir()}


def _import(recipe: Recipe, path: Path) -> ModuleType:
    """Imports a file of a recipe as `<package>.<file>`, so that it may import its neighbours relatively."""
    if recipe.folder.parent == SHIPPED:
        package = f"recipes.{recipe.name}"
    else:
        # Two folders of one name are two recipes: the path is part of the package's name.
        package = f"penstock_recipe_{json_digest([str(recipe.folder)], 8)}_{recipe.name}"
        if package not in sys.modules:
            parent = ModuleType(package)
            parent.__path__ = [str(recipe.folder)]
            sys.modules[package] = parent
    try:
        return importlib.import_module(f"{package}.{path.stem}")
    except Exception as error:
        raise RecipeError(
            f"recipe {recipe.name!r}: {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _check_parts(name: str, module: ModuleType) -> None:
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "schema": ("a Schema with a key", lambda value: isinstance(value, Schema) and value.key is not None),
        "split": ("a Split", lambda value: isinstance(value, Split)),
        "read": ("a function", callable),
        "clean": ("a function", callable),
        "fixes": ("a tuple of Fix", lambda v: isinstance(v, tuple | list) and all(isinstance(f, Fix) for f in v)),
        "rules": (
            "a tuple of Rule, Unique, Reference or Expect",
            lambda v: isinstance(v, tuple | list) and all(isinstance(r, Check) for r in v),
        ),
        "keep": ("Smallest(), First(), Last() or Greatest(column)", lambda value: isinstance(value, Keep)),
        "fit": ("a dict", lambda value: isinstance(value, Mapping)),
        "build": ("a function", callable),
        "clean_key": (
            "a tuple of column names",
            lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value),
        ),
        "transforms": ("a dict of field -> transform, or tuple of them", lambda value: isinstance(value, Mapping)),
        "max_quarantined": ("a share from 0 to 1", lambda v: isinstance(v, int | float) and 0 <= v <= 1),
        "row_group_bytes": ("a whole number above 0", lambda value: isinstance(value, int) and value > 0),
        "private": (
            "a dict of column -> Drop(), Pseudonymise(), Mask(…) or Derive(…)",
            lambda value: isinstance(value, Mapping) and all(isinstance(v, Treatment) for v in value.values()),
        ),
        "not_private": (
            "a dict of column -> why it is no personal data",
            lambda value: isinstance(value, Mapping) and all(isinstance(v, str) and v.strip() for v in value.values()),
        ),
        "window": (
            "a timedelta above 0, or None",
            lambda v: v is None or (isinstance(v, timedelta) and v > timedelta()),
        ),
        "quarantine_records": ("True or False", lambda value: isinstance(value, bool)),
    }
    for part, (expected, holds) in checks.items():
        if hasattr(module, part) and not holds(found := getattr(module, part)):
            raise RecipeError(f"recipe {name!r}: {part} must be {expected}, is {found!r} in {module.__file__}")


def _check_drift(recipe: DatasetRecipe) -> None:
    limits = recipe.max_drift if isinstance(recipe.max_drift, Mapping) else {"": recipe.max_drift or 0}
    for name, limit in limits.items():
        if name and (name not in recipe.schema.names or name == recipe.schema.key):
            raise RecipeError(
                f"recipe {recipe.name!r}: max_drift: {name!r} is no field, or the key, which has no drift"
            )
        if not isinstance(limit, int | float) or limit < 0:
            raise RecipeError(f"recipe {recipe.name!r}: max_drift must be a PSI, such as 0.25, is {limit!r}")


def _check_fit(recipe: DatasetRecipe) -> None:
    try:
        check_transforms(recipe.transforms, recipe.schema)
        if recipe.transforms:
            _check_train(recipe.split, "transforms")
        check_fit(recipe.fit, recipe.schema, recipe.split)
    except RecipeError as error:
        raise RecipeError(f"recipe {recipe.name!r}: {error}") from None
    if twice := sorted(recipe.fit.keys() & recipe.transforms.keys()):
        raise RecipeError(f"recipe {recipe.name!r}: {twice[0]!r} is both in fit and in transforms; choose one")


def check_fit(fit: Mapping[str, str], schema: Schema, split: Split) -> None:
    """Raises: RecipeError where a field cannot be fitted, or there is no split to fit it on."""
    if fit:
        _check_train(split, "fit")
    for name, transform in fit.items():
        if transform != "standardise":
            raise RecipeError(f"fit: unknown transform {transform!r}; there is 'standardise'")
        known = name in schema.names and schema[name]
        if not known or not known.is_tensor or known.numpy_dtype.kind not in "iu" or known.numpy_dtype.itemsize > 4:
            raise RecipeError(f"fit: {name!r} is no tensor of integers of 32 bits or fewer")


def _check_train(split: Split, what: str) -> None:
    if "train" not in split.names and split.source is None:
        raise RecipeError(f"{what} needs a split named 'train', there are {', '.join(split.names)}")


def _check_private(recipe: DatasetRecipe) -> None:
    for name, treatment in recipe.private.items():
        if isinstance(treatment, Drop) and name in recipe.schema.names:
            raise RecipeError(
                f"recipe {recipe.name!r}: private: {name!r} is to be dropped, but is a field of the schema"
            )
