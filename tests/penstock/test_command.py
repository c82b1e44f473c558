"""What every command shares: an exit code for each way to end, and where its words go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from penstock import command
from penstock.console import Console
from penstock.errors import DatasetError, PenstockError
from penstock.interval import Interval


def run(work: Any, *argv: str) -> int:
    return command.execute(command.parser("try", "Try.", "penstock try").parse_args(argv), work)


def works(arguments: Any, console: Console) -> Mapping[str, Any]:
    with console.step("count") as update:
        update("1 of 2")
    console.table([["rows", 1234]], ["", "count"])
    console.say("[bold]as it is[/bold]")
    return {"rows": 1234}


def test_what_a_person_reads_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(works) == 0
    output = capsys.readouterr()
    assert "1,234" in output.out
    assert "[bold]as it is[/bold]" in output.out
    assert output.err == ""


def test_values_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("2001:ab:cd::1 [red]file:key:x")
    console.table([["::on:", ":ab:"]])
    assert capsys.readouterr().out.split() == ["2001:ab:cd::1", "[red]file:key:x", "::on:", ":ab:"]


def test_what_logs_have_of_an_error_has_no_part_of_a_value() -> None:
    error = PenstockError("has Anna, Anna Schmidt, 'a\\\\b' (missing x)", ["Anna", "Anna Schmidt", "a\\b"])
    assert error.logged == "has …, …, '…' (missing x)"


@pytest.mark.parametrize("text", ["9999-12-31", "2011-02-30", "soon"])
def test_an_interval_that_is_none_is_said(text: str) -> None:
    with pytest.raises(PenstockError, match=f"interval '{text}': .*; expected a day such as 2011-01-05"):
        Interval.parse(text)


def test_with_json_standard_output_is_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(works, "--json") == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == {"rows": 1234}
    assert "1,234" in output.err


def fails(arguments: Any, console: Console) -> Mapping[str, Any]:
    raise DatasetError("split 'a': expected 1 row, found 2")


def test_an_error_that_can_be_mended_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fails) == 1
    assert capsys.readouterr() == ("", "error: split 'a': expected 1 row, found 2\n")
    assert run(fails, "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": "split 'a': expected 1 row, found 2",
        "kind": "DatasetError",
    }


def test_an_interruption_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: Any, console: Console) -> Mapping[str, Any]:
        raise KeyboardInterrupt

    assert run(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_keeps_its_stack_trace() -> None:
    def bug(arguments: Any, console: Console) -> Mapping[str, Any]:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(bug)
