"""What every command shares: its parser, `--json`, and errors as one sentence with an exit code.

Exit codes: 0 success, 1 an error that the message tells how to mend, 2 wrong arguments, 3 a run that `penstock release`
compared and did not release, 75 asked to end and to be started again, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from penstock import log, store
from penstock.console import Console
from penstock.errors import PenstockError, Preempted

Work = Callable[[argparse.Namespace, Console], Mapping[str, Any]]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if not log.is_json():
            super().error(message)
        log.error(f"{self.prog}: {message}", exit_code=2)
        self.exit(2)


def parser(name: str, does: str, example: str) -> argparse.ArgumentParser:
    made = Parser(
        prog=f"penstock {name}",
        description=does,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line of standard output")
    made.set_defaults(command=name)
    return made


def check_file(out: str, name: str) -> None:
    """Raises: PenstockError where what --out says is a folder, as a name that ends with a slash is."""
    if out.endswith("/") or Path(out).expanduser().is_dir():
        raise PenstockError(f"--out {out}: expected the name of a file, found a folder; say {out.rstrip('/')}/{name}")


def add_result(made: argparse.ArgumentParser) -> None:
    """For commands whose output a scheduler does not see, such as a driver's on a cluster."""
    made.add_argument("--result", metavar="URL", help="write what --json prints to this file too, errors included")


def _write_result(arguments: argparse.Namespace, result: Mapping[str, Any]) -> None:
    if url := getattr(arguments, "result", None):
        try:
            store.replace(store.absolute(url), json.dumps(result).encode())
        except (PenstockError, OSError) as error:
            log.error(f"--result {url}: cannot be written ({error})")


def execute(
    arguments: argparse.Namespace,
    work: Work,
    quiet: bool = False,
    shows_values: bool = False,
    code: Callable[[Mapping[str, Any]], int] = lambda result: 0,
) -> int:
    """Runs a command's work and returns its exit code: where it succeeds, what `code` makes of its result.

    `work` returns what `--json` prints. `quiet`: only errors.
    """
    start = time.monotonic()
    try:
        log.start(arguments.command)
        console = Console(arguments.json, quiet, shows_values)
        result = work(arguments, console)
        if log.is_json() and not quiet:
            log.info("done", seconds=round(time.monotonic() - start, 3), exit_code=code(result))
        console.result(result)
        _write_result(arguments, result)
    except PenstockError as error:
        said = error.logged if log.is_json() else str(error)
        log.error(said, error=type(error).__name__, exit_code=1)
        _write_result(arguments, {"error": error.logged, "kind": type(error).__name__})
        if arguments.json:
            print(json.dumps({"error": said, "kind": type(error).__name__}), flush=True)
        return 1
    except Preempted as stopped:
        if not quiet:
            log.info(str(stopped), exit_code=stopped.exit_code)
        if arguments.json and not quiet:
            print(json.dumps({"stopped": str(stopped)}), flush=True)
        return stopped.exit_code
    except KeyboardInterrupt:
        log.info("interrupted", exit_code=130)
        return 130
    return code(result)
