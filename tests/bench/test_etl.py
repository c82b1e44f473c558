"""What bench.etl cleans: copies of the days' files in which no line is another's duplicate."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from bench.etl import replicate, summary

DAY = b"InvoiceNo,StockCode\n536365,1\nC536379,D\nA563186,B\n536365,1\n"


def test_copies_have_numbers_of_their_own(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "days.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("by-day/2010-12-01.csv")
        info.size = len(DAY)
        archive.addfile(info, io.BytesIO(DAY))
    to = tmp_path / "raw"
    to.mkdir()
    replicate(tmp_path, 3, to)
    texts = [(to / name / "2010-12-01.csv").read_bytes() for name in ("00", "01", "02")]
    assert texts[0] == DAY
    assert texts[1] == b"InvoiceNo,StockCode\n01536365,1\nC01536379,D\nA01563186,B\n01536365,1\n"
    lines = [set(text.splitlines()[1:]) for text in texts]
    assert lines[0] & lines[1] == lines[0] & lines[2] == lines[1] & lines[2] == set()


def test_ratios_are_of_medians() -> None:
    took = {"penstock": [9, 6, 7], "copy": [2, 4, 3.5], "shuffled": [5, 5, 5], "polars": []}
    repeats = {name: [{"seconds": s, "peak_mb": {"all": 100 * s}} for s in found] for name, found in took.items()}
    made = summary(repeats)
    told = {name: made[name] for name in ("penstock_s", "copy_s", "ratio", "shuffled_ratio", "polars_s")}
    assert told == {"penstock_s": 7, "copy_s": 3.5, "ratio": 2.0, "shuffled_ratio": 1.4, "polars_s": None}
    assert made["peak_mb"] == {"penstock": 900, "copy": 400, "shuffled": 500}
