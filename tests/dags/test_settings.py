"""The settings of pipelines: what a site may say, and the sentence that it gets for anything else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dags.settings import SHIPPED, load
from penstock.errors import PenstockError

LEAST = 'recipe = "digits"\nraw = "/raw"\ndataset = "/dataset"\n'


def settings(folder: Path, text: str) -> Path:
    (folder / "pipelines.toml").write_text(text)
    return folder / "pipelines.toml"


def test_a_pipeline_has_what_its_table_says_and_the_defaults_for_the_rest(tmp_path: Path) -> None:
    file = settings(
        tmp_path,
        '[defaults]\nretries = 7\nspark = "yarn"\nlauncher = {kind = "ssh", penstock = "/opt/penstock"}\n'
        f'[pipelines.a]\n{LEAST}schedule = "@daily"\nstart = 2026-01-02\n'
        f'[pipelines.b]\n{LEAST}retries = 1\nlauncher = {{ssh = "box"}}\nlimits = {{max_drift = 1}}\n',
    )
    a, b = load(file)
    assert (a.name, a.retries, a.spark, a.start) == ("a", 7, "yarn", datetime(2026, 1, 2, tzinfo=UTC))
    assert (b.retries, b.launcher.kind, b.launcher.ssh, b.launcher.penstock) == (1, "ssh", "box", "/opt/penstock")
    assert b.limits.max_drift == 1.0


def test_texts_name_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        '[pipelines.a]\nrecipe = "digits"\nraw = "$RAW/${DAY}.csv"\ndataset = "/d"\nspark_options = {e = {P = "$RAW"}}'
    )
    file = settings(tmp_path, text)
    monkeypatch.setenv("RAW", "hdfs:///raw")
    with pytest.raises(PenstockError, match=r"raw names \$DAY, which is not set"):
        load(file)
    monkeypatch.setenv("DAY", "1")
    (pipeline,) = load(file)
    assert (pipeline.raw, pipeline.spark_options) == ("hdfs:///raw/1.csv", {"e": {"P": "hdfs:///raw"}})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[pipelines.a\n", "cannot be read as settings"),
        (f"[pipeline.a]\n{LEAST}", r"expected tables \[defaults\] and \[pipelines.NAME\], found \[pipeline\]"),
        ('[pipelines.a]\nrecipe = "digits"\n', "pipeline 'a': lacks raw, dataset"),
        (f"[pipelines.a]\n{LEAST}retrys = 1\n", "'retrys' is no setting; did you mean retries"),
        (f'[pipelines.a]\n{LEAST}retries = "2"\n', "retries must be int, is '2'"),
        (f"[pipelines.a]\n{LEAST}intervals = 1\n", "intervals must be bool, is 1"),
        (f'[pipelines.a]\n{LEAST}missing_raw = "wait"\n', "missing_raw must be one of fail, skip, is 'wait'"),
        (f"[pipelines.a]\n{LEAST}intervals = true\n", "intervals are those of a schedule"),
        (f'[pipelines.a]\n{LEAST}releases = "/r"\n', "say where these go: runs = URL"),
        (f'[pipelines.a]\n{LEAST}runs = "/r"\npredictions = "/p"\n', "say releases = URL"),
        (f'[pipelines.a]\n{LEAST}launcher = {{kind = "kubernetes"}}\n', "needs the image"),
        (f"[pipelines.a]\n{LEAST}limits = {{max_drift = true}}\n", "limits: max_drift must be float, is True"),
        (f'[pipelines."a b"]\n{LEAST}', "a name has letters"),
        (f'[pipelines.a]\n{LEAST}schedule = "dayly"\n', "schedule 'dayly' is no cron expression"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    file = settings(tmp_path, text)
    with pytest.raises(PenstockError, match=sentence) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="PENSTOCK_PIPELINES names the file"):
        load(tmp_path / "none.toml")


def test_the_shipped_settings_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PENSTOCK_DEMO", "PENSTOCK_PYTHON", "PENSTOCK_COMMAND"):
        monkeypatch.setenv(name, "/somewhere")
    assert [pipeline.name for pipeline in load(SHIPPED)] == ["digits", "digits_daily"]
