"""What every command shares: its parser, `--json`, and errors as one sentence with an exit code.

Exit codes: 0 success, 1 an error that the message tells how to mend, 2 wrong arguments, 75 asked to end and to be
started again, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.console import Console
from penstock.errors import PenstockError, Preempted

Work = Callable[[argparse.Namespace, Console], Mapping[str, Any]]


def parser(name: str, does: str, example: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"penstock {name}",
        description=does,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line of standard output")
    return made


def check_file(out: str, name: str) -> None:
    """Raises: PenstockError where what --out says is a folder, as a name that ends with a slash is."""
    if out.endswith("/") or Path(out).expanduser().is_dir():
        raise PenstockError(f"--out {out}: expected the name of a file, found a folder; say {out.rstrip('/')}/{name}")


def execute(arguments: argparse.Namespace, work: Work, quiet: bool = False) -> int:
    """Runs a command's work and returns its exit code; `work` returns what `--json` prints. `quiet`: only errors."""
    console = Console(arguments.json, quiet)
    try:
        console.result(work(arguments, console))
    except PenstockError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if arguments.json:
            print(json.dumps({"error": str(error)}), flush=True)
        return 1
    except Preempted as stopped:
        if not quiet:
            print(stopped, file=sys.stderr, flush=True)
        if console.as_json:
            print(json.dumps({"stopped": str(stopped)}), flush=True)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    return 0
