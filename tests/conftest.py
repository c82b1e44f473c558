"""What tests share: one Spark session, the digits that scikit-learn ships, and one dataset version built from them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sklearn.datasets
from pyspark.sql import SparkSession

from etl.run import etl
from etl.spark import session
from penstock.console import Console
from penstock.recipe import find

# A generated example is judged by what it gives, not by how long a busy machine takes.
hypothesis.settings.register_profile("penstock", deadline=None)
hypothesis.settings.load_profile("penstock")

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    with session("tests", "local[2]", raw_bytes=0) as started:  # Java's second compiler would take a third of its time
        yield started


@pytest.fixture(scope="session")
def digits_csv() -> Path:
    return Path(sklearn.datasets.__path__[0]) / "data" / "digits.csv.gz"


@pytest.fixture(scope="session")
def built_digits(spark: SparkSession, digits_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset version of the digits. Read it only; a test that damages one takes `digits_dataset`."""
    out = tmp_path_factory.mktemp("digits") / "dataset"
    etl(find("digits"), str(digits_csv), str(out), Console())
    return out


@pytest.fixture
def digits_dataset(built_digits: Path, tmp_path: Path) -> Path:
    """A copy of the digits' dataset that a test may damage."""
    return Path(shutil.copytree(built_digits, tmp_path / "dataset"))


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture(scope="session")
def mnist_raw() -> Path:
    folder = SHARED_DATA / "mnist"
    if not folder.is_dir():
        pytest.skip("MNIST's idx files are not on this machine (expected in ../shared/data/mnist)")
    return folder
