"""The errors that a user can cause and mend.

The command line prints them as one sentence without a stack trace; everything else that is raised is a
bug of ours. A message says what was expected, what was found, where, and what to do. Logs get it without
values of rows.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import Self

IN_LOGS = "in logs: "
NOT_RELEASED, PREEMPTED = 3, 75  # exit codes that a scheduler acts on; penstock/command.py has all


class PenstockError(ValueError):
    """Anything a user can cause; the root of the five below.

    `values` are parts of the message that come from rows: `logged` is the message without them.
    """

    def __init__(self, message: str, values: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.values, self.logged = tuple(filter(None, values)), message
        # As they are and as Python writes them, the longest first: one may be a part of another.
        written = {text for value in self.values for text in (value, repr(value)[1:-1])}
        for value in sorted(written, key=lambda text: (-len(text), text)):
            self.logged = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "…", self.logged)
        if self.logged != message:
            self.add_note(f"{IN_LOGS}{self.logged}")  # so that a traceback of an executor, which is text, has it

    def of(self, who: str) -> Self:
        """The same error, said of somebody."""
        error = type(self)(f"{who}: {self}")
        error.logged = f"{who}: {self.logged}"  # also where it came from an executor, as text
        return error


class RawDataError(PenstockError):
    """The raw data cannot be read, or is worse than the recipe allows."""


class RecipeError(PenstockError):
    """A recipe is not found, lacks a part, or contradicts itself."""


class DatasetError(PenstockError):
    """A dataset version is missing, damaged, or not the one that was asked for."""


class StorageError(PenstockError):
    """A place cannot be read or written: permissions, space, an unknown protocol."""


class RunError(PenstockError):
    """A run folder is missing, damaged, or does not fit the data or the configuration."""


class Preempted(Exception):
    """A signal asked a run to end, which it does where it can go on: no error, and no success either."""

    def __init__(self, signum: int, done: str = "before its first step") -> None:
        super().__init__(f"{signal.Signals(signum).name}: stopped {done}; the same command goes on from there")
        self.signum = signum
        self.exit_code = {signal.SIGTERM: PREEMPTED, signal.SIGINT: 130}[signal.Signals(signum)]
