"""The command line: exit codes, JSON as the last line, help with an example, and a sentence for what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import __version__, cli

COMMANDS = ["etl", "train", "run", "predict", "generate", "export", "release", "rollback"]
COMMANDS += ["adopt", "show", "compare", "verify", "doctor"]


def last_line(capture: pytest.CaptureFixture[str]) -> dict[str, object]:
    value = json.loads(capture.readouterr().out.splitlines()[-1])
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    told = capsys.readouterr().out
    assert f"example:\n  penstock {name}" in told
    assert "--json" in told


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_without_a_command_all_are_listed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in COMMANDS)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_command_is_an_argument_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: no command 'trian'\n\nusage: penstock COMMAND")
    assert output.out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["verify"], "the following arguments are required: URL"),
        (["verify", "x", "--nothing"], "unrecognized arguments: --nothing"),
        (["etl", "digits"], "the following arguments are required: --out"),
        (["etl", "digits", "--out", "x"], "one of the arguments --raw --rows-of is required"),
        (["train", "digits", "--data", "x", "--out", "y", "--epochs", "many"], "invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_end_with_code_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    error = capsys.readouterr().err
    assert error.startswith(f"usage: penstock {argv[0]}")
    assert message in error


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["verify", "{tmp}/none"], "none: no dataset here"),
        (["verify", "nosuch://x"], "no filesystem for this protocol is installed"),
        (["etl", "digits", "--raw", "{tmp}/none", "--out", "{tmp}/out"], "raw data: nothing at"),
        (["etl", "diggits", "--raw", "{tmp}", "--out", "{tmp}/out"], "did you mean 'digits'?"),
        (["etl", "digits", "--raw", "{tmp}", "--out", "{tmp}/out", "--frozen", "{tmp}/none"], "no dataset here"),
        (["etl", "digits", "--raw", "{tmp}", "--out", "{tmp}/o", "--frozen", "{tmp}/c.json"], "--frozen: no card at"),
        (["train", "digits", "--data", "{tmp}/none", "--out", "{tmp}/run"], "no dataset here"),
        (["run", "./none", "--raw", "{tmp}", "--out", "{tmp}/out"], "no folder at ./none"),
    ],
)
def test_an_error_is_one_sentence_with_code_1_and_json(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(tmp=tmp_path) for argument in argv]
    assert cli.main([*filled, "--json"]) == 1
    output = capsys.readouterr()
    assert "error: " in output.err
    assert "Traceback" not in output.err
    assert message in json.loads(output.out.splitlines()[-1])["error"]
    assert message in output.err
    assert list(tmp_path.iterdir()) == []


def test_standard_output_holds_the_json_alone(built_digits: Path) -> None:
    command = [sys.executable, "-m", "penstock.cli", "verify", built_digits, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["whole"]
    assert "is whole: 1,797 rows" in done.stderr


@pytest.mark.parametrize(("name", "package"), [("etl", "pyspark"), ("train", "torch"), ("run", "torch")])
def test_a_side_that_is_not_installed_is_said(name: str, package: str) -> None:
    argv = [name, "digits", "--raw", "x", "--data", "x", "--out", "y", "--json"]
    code = f"import sys; sys.modules[{package!r}] = None; from penstock.cli import main; sys.exit(main({argv!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    sentence = f"penstock {name} needs {package}, which is not installed; `penstock doctor` says how to mend it"
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")
    assert json.loads(done.stdout) == {"error": sentence}


@pytest.mark.parametrize("side", ["pyspark", "torch"])
def test_what_both_sides_share_needs_neither(side: str, built_digits: Path) -> None:
    code = f"import sys; sys.modules[{side!r}] = None; from penstock.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "verify", built_digits], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
