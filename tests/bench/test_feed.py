import json
import os
from itertools import count
from pathlib import Path

import pytest
import torch

import bench.clock
from bench.cases import CASES, Case, row_groups
from bench.clock import BATCH_ROWS, check, measure
from bench.feed import IN_PROCESS, PEERS, Peer, PeerFailed, main, peer_process, summary
from bench.publish import publish

ROWS = 2 * BATCH_ROWS + 100


@pytest.mark.slow
def test_the_bench_prints_every_system_of_a_case(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.clock, "AT_LEAST_S", 0.01)
    out = tmp_path / "feed.json"
    options = ["--rows", str(ROWS), "--repeats", "2", "--seconds", "5", "--out", str(out)]
    assert main(["--cases", "floats,scalars,lists,png,binary", "--peers", "index_select", *options]) == 0
    printed = capfd.readouterr()
    result = json.loads(printed.out.strip().splitlines()[-1])
    assert result == json.loads(out.read_text())
    assert result["failed"] == {}
    assert {name for name, case in result["cases"].items() if case["fixed_size"]} == {"floats", "binary"}
    assert list(result["cases"]["floats"]["peers"]) == ["index_select"]
    assert result["cases"]["binary"]["peers"] == {}  # systems in memory are for the small rows
    for case in result["cases"].values():
        assert all(case[system] > 0 for system in IN_PROCESS)
    assert "raw_decode" in printed.err


@pytest.mark.parametrize("option", ["--cases", "--peers"])
def test_an_unknown_name_is_named(option: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([option, "nothing"]) == 1
    assert f"{option}: no 'nothing'; there are" in capfd.readouterr().err


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    case = CASES["floats"]
    parquet = publish(tmp_path / "dataset", case.schema, row_groups(case, ROWS))
    with (
        pytest.raises(PeerFailed, match="invalid choice: 'nonsense'"),
        peer_process(Peer("memory", "nonsense", None), "floats", parquet, tmp_path, 1.0),
    ):
        pass


def test_every_peer_has_a_script_and_a_lock() -> None:
    folder = Path(bench.__file__).parent / "peers"
    for peer in PEERS.values():
        assert (folder / peer.folder / "feed.py").is_file()
        assert peer.environment is None or (folder / peer.environment / "requirements.lock").is_file()


def test_a_ratio_is_the_median_of_the_repeats() -> None:
    rates = {name: [1.0, 1.0, 1.0] for name in IN_PROCESS} | {"penstock": [2.0, 8.0, 3.0], "lance": [1.0, 2.0, 3.0]}
    found = summary(CASES["floats"], rates)
    assert found["ratios"]["lance"] == 2.0
    assert found["peers"] == {"lance": 2.0}
    assert found["spread"]["penstock"] == [2.0, 8.0]


def test_the_clock_reads_whole_epochs_or_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.clock, "AT_LEAST_S", 0.0001)
    read: list[int] = []

    def epoch(number: int) -> list[dict[str, range]]:
        read.append(number)
        return [{"label": range(10)}] * 3

    numbers = count()
    rows, seconds = measure(epoch, numbers, 10.0)
    assert rows == 30 * len(read)
    assert seconds >= 0.0001
    assert read == list(range(len(read)))
    assert measure(epoch, numbers, 0.0)[0] == 10


@pytest.mark.parametrize(
    ("name", "feature", "fits"),
    [
        ("floats", torch.zeros(BATCH_ROWS, 64), True),
        ("floats", torch.zeros(BATCH_ROWS, 64, dtype=torch.float64), False),
        ("floats", torch.zeros(BATCH_ROWS, 32), False),
        ("lists", torch.zeros(BATCH_ROWS, 77, dtype=torch.int32), True),
        ("lists", torch.zeros(BATCH_ROWS, dtype=torch.int32), False),
        ("png", torch.zeros(BATCH_ROWS, 64, 64, 3, dtype=torch.uint8), True),
        ("png", torch.zeros(BATCH_ROWS, 3, 64, 64, dtype=torch.uint8), False),
    ],
)
def test_batches_are_those_that_all_systems_give(name: str, feature: torch.Tensor, fits: bool) -> None:
    case: Case = CASES[name]
    batch = {case.columns[0]: feature, "label": torch.zeros(BATCH_ROWS, dtype=torch.int64)}
    if fits:
        check(batch, case)
    else:
        with pytest.raises(ValueError, match=r"expected .*, found"):
            check(batch, case)


def test_peers_know_no_module_of_ours_but_the_cases_and_the_schema() -> None:
    folder = Path(bench.__file__).parent / "peers"
    for script in folder.glob("*/feed.py"):
        ours = [line for line in script.read_text().splitlines() if line.startswith(("from penstock", "from train"))]
        assert ours in ([], ["from penstock.schema import Field"]), f"{script}{os.linesep}{ours}"
