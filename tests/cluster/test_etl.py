"""ETL from HDFS to HDFS gives the rows, and the digests, that it gives on local files."""

from __future__ import annotations

from pathlib import Path

import pytest
import sklearn.datasets

from cluster.__main__ import Cluster
from etl.run import etl
from penstock import store
from penstock.card import Card
from penstock.console import Console
from penstock.recipe import find
from penstock.verify import verify

RAW = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"


@pytest.fixture(scope="module")
def local_card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return etl(find("digits"), str(RAW), str(tmp_path_factory.mktemp("local") / "dataset"), Console()).card


def test_hdfs_to_hdfs(hdfs: Cluster, local_card: Card) -> None:
    raw, out = f"{hdfs.hdfs_url}/raw/digits.csv.gz", f"{hdfs.hdfs_url}/user/tester/digits"
    store.write(raw, memoryview(RAW.read_bytes()))
    card = etl(find("digits"), raw, out, Console()).card
    assert card.counts == local_card.counts
    assert card.splits == local_card.splits
    found, faults = verify(out, Console())
    assert found == card
    assert not faults
    assert etl(find("digits"), raw, out, Console()).reused
