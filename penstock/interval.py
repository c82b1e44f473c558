"""The time that one piece of raw data is about, as a scheduler gives it: from `start`, before `end`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from penstock.errors import PenstockError


@dataclass(frozen=True, order=True)
class Interval:
    """Written as ISO 8601 has it: `2011-01-05` (a day), `2011-01-05/2011-01-12`, `…T06:00/…T12:00`; UTC unless said."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Raises: PenstockError."""
        first, slash, last = text.partition("/")
        try:
            start = _moment(first)
            end = _moment(last) if slash else start + timedelta(days=1)
        except (ValueError, OverflowError) as error:
            raise PenstockError(
                f"interval {text!r}: {error}; expected a day such as 2011-01-05, or START/END in ISO 8601"
            ) from error
        if not slash and len(first.strip()) > len("2011-01-05"):
            raise PenstockError(f"interval {text!r}: a moment and no day; say where it ends: START/END")
        if end <= start:
            raise PenstockError(f"interval {text!r}: it must end after it starts")
        return cls(start, end)

    def __str__(self) -> str:
        return f"{_short(self.start)}/{_short(self.end)}"

    def overlaps(self, other: Interval) -> bool:
        return self.start < other.end and other.start < self.end


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text.strip())
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _short(moment: datetime) -> str:
    is_day = moment == moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return moment.date().isoformat() if is_day else moment.isoformat()
