"""What a person reads while a command works: steps with their time, on a terminal with a live line.

With `--json` all of it goes to standard error, so that standard output holds one JSON object and nothing else. With
PENSTOCK_LOG=json it is lines of standard error too (penstock/log.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

from penstock import log

Update = Callable[[str], None]
PLAIN_LINE_EVERY_S = 30.0


class Console:
    """`shows_values`: what a command prints are values of rows, its result and nothing for logs."""

    def __init__(self, as_json: bool = False, quiet: bool = False, shows_values: bool = False) -> None:
        self.as_json = as_json and not quiet
        self._quiet, self._logs = quiet, log.is_json() and not shows_values
        quiet = quiet or self._logs or (log.is_json() and as_json)
        self.rich = RichConsole(stderr=as_json, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        return self.rich.is_terminal and not self.rich.quiet

    def say(self, text: str = "", **figures: object) -> None:
        """`figures` are for logs alone."""
        if not self._logs:
            self.rich.print(text)
        elif text and not self._quiet:
            log.info(text, **figures)

    def stream(self, text: str) -> None:
        """A piece of what a command makes, as soon as it is there, and the next one right behind it."""
        if not self._logs:
            self.rich.out(text, end="", highlight=False)

    def warn(self, text: str) -> None:
        if not self._logs:
            self.rich.print(f"Warning: {text}")
        elif not self._quiet:
            log.warning(text)

    @contextmanager
    def step(self, name: str) -> Iterator[Update]:
        """Shows that `name` is under way, and its time when done. The yielded function shows how far it is."""
        start = said = time.monotonic()
        if self.live:
            with self.rich.status(name) as status:
                yield lambda detail: status.update(f"{name}  {detail}")
        else:

            def say_now_and_then(detail: str) -> None:
                nonlocal said
                if time.monotonic() - said >= PLAIN_LINE_EVERY_S:
                    said = time.monotonic()
                    self.say(f"  {name}  {detail}")

            yield say_now_and_then
        seconds = time.monotonic() - start
        self.say(name if self._logs else f"  {name:<44}{seconds:8.1f} s", seconds=round(seconds, 3))

    def table(self, rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> None:
        if self._logs:
            for row in rows:
                self.say("  ".join(map(str, row)))
            return
        table = Table(box=None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 2))
        for i in range(len(rows[0])):
            column = header[i] if header else ""
            numbers = all(isinstance(row[i], int) for row in rows)
            table.add_column(column, justify="right" if numbers else "left")
        for row in rows:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row))
        self.rich.print(table)

    def result(self, value: Mapping[str, Any]) -> None:
        """The command's result, as the last line, where `--json` asks for it."""
        if self.as_json:
            print(json.dumps(value), flush=True)
