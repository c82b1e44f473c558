"""What a person reads while a command works: steps with their time, on a terminal with a live line.

With `--json` all of it goes to standard error, so that standard output holds one JSON object and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.table import Table

Update = Callable[[str], None]
PLAIN_LINE_EVERY_S = 30.0


class Console:
    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json and not quiet
        self.rich = RichConsole(stderr=as_json, quiet=quiet, markup=False, highlight=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        return self.rich.is_terminal and not self.rich.quiet

    def say(self, text: str = "") -> None:
        self.rich.print(text)

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
        self.say(f"  {name:<44}{time.monotonic() - start:8.1f} s")

    def table(self, rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> None:
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
