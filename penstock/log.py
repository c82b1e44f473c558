"""What goes to standard error, for people or, with PENSTOCK_LOG=json, for what collects logs: one JSON object a line.

Each has time (UTC), level, command, message and, as far as they are known, recipe, version, run, rank and Spark's
application; Python's warnings and what libraries log are such lines too. No value of a row and no secret is in any:
errors have a text for logs (penstock/errors.py), those that only a bug can cause are told by type and stack alone.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from penstock.errors import PenstockError

VARIABLE = "PENSTOCK_LOG"
SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)$")  # names of variables whose values appear nowhere

LOG = logging.getLogger("penstock")
_known: dict[str, Any] = {}  # what all lines of this process are about


def is_json() -> bool:
    return os.environ.get(VARIABLE) == "json"


def start(command: str) -> None:
    """To be called once, before a command says anything. Raises: PenstockError for an unknown kind of lines."""
    if (asked := os.environ.get(VARIABLE) or "text") not in ("text", "json"):
        raise PenstockError(f"{VARIABLE}: expected json or text, found {asked!r}")
    if not is_json():
        return
    _known.clear()
    about(command=command)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        about(rank=int(os.environ["RANK"]))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOG.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _bug


def about(**known: Any) -> None:
    """What is known from here on of what the lines are about."""
    _known.update(known)


def info(text: str, **figures: Any) -> None:
    _say(logging.INFO, "", text, figures)


def warning(text: str, **figures: Any) -> None:
    _say(logging.WARNING, "warning: ", text, figures)


def error(text: str, **figures: Any) -> None:
    _say(logging.ERROR, "error: ", text, figures)


def _say(level: int, prefix: str, text: str, figures: dict[str, Any]) -> None:
    if is_json():
        if not _known:  # before a command began
            start("penstock")
        LOG.log(level, "%s", text, extra={"figures": figures})
    else:
        print(f"{prefix}{text}", file=sys.stderr, flush=True)


def _bug(kind: type[BaseException], error: BaseException, stack: TracebackType | None) -> None:
    LOG.critical(
        "%s: a bug, or something that Penstock does not know; without %s=json its text is shown",
        kind.__name__,
        VARIABLE,
        exc_info=(kind, error, stack),
    )


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            **_known,
            **getattr(record, "figures", {}),
            "message": record.getMessage().strip(),
        }
        if record.name != LOG.name:
            line["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            line["stack"] = _stack(record.exc_info[1])
        return _without_secrets(json.dumps(line, default=str))


def _stack(error: BaseException) -> list[str]:
    """Where it was raised, and what it follows from: types, files and lines, but no text, which may hold a value."""
    places = [f"{place.filename}:{place.lineno} {place.name}" for place in traceback.extract_tb(error.__traceback__)]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [*([] if cause is None else _stack(cause)), *places, type(error).__name__]


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 8:
            text = text.replace(json.dumps(value)[1:-1], "***")
    return text
