"""Showing a version: what is there is said, in text and as a page on which hostile data is only text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import card as cards
from penstock import cli, overview, show_html
from penstock.card import CleanCard, Split
from penstock.overview import lines, look
from tests.penstock.test_compare import card, rows

HOSTILE = '<script>alert("x")</script>'
NAMES = (
    "html meta title style main section h1 h2 h3 p code div svg path rect text line span i br table tr td th dl dt dd"
)
TAGS = set(NAMES.split())


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def clean_card(**changed: Any) -> CleanCard:
    counts = {"raw": 300, "clean": 200, "quarantined": 100}
    parts = {
        "version": "c1",
        "recipe": "made",
        "data": None,
        "quarantine": "quarantine/c1-a",
        "files": {},
        "counts": counts,
    }
    return CleanCard(
        **{**parts, "rules": {"malformed": 1, HOSTILE: 99}, "lineage": {"raw_url": "file:///raw"}, **changed}
    )


def publish(folder: Path, **changed: Any) -> Path:
    words = [HOSTILE] * 150 + ["b"] * 50
    made = card("v1", rows(np.arange(200) / 7, word=words))
    counts = {"raw": 300, "quarantined": 100, "clean": 200, "duplicates": 0, "built": 200}
    profile = {"train": made.profile["train"], "val": made.profile["train"]}
    splits = {"train": Split(100, "00"), "val": Split(100, "00")}
    parts = {"counts": counts, "splits": splits, "profile": profile, "lineage": {"clean": ["c1"], "code": HOSTILE}}
    cards.publish(f"file://{folder}", card("v1", rows(np.arange(3)), **{**parts, **changed}))
    cards.publish(f"file://{folder}/clean", clean_card())
    (folder / "quarantine" / "c1-a").mkdir(parents=True)
    refused = {
        "file": [f"{HOSTILE}.csv"] * 2,
        "line": [7, None],
        "record": [f"a,{HOSTILE}", None],
        "rules": [[HOSTILE], ["malformed", HOSTILE]],
        "reasons": [["must be <b>bold</b>"], ["expected 2 fields", "&amp;"]],
    }
    pq.write_table(pa.table(refused), folder / "quarantine" / "c1-a" / "part-0.parquet")
    return folder


def test_a_version_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path)
    assert cli.main(["show", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "Version v1 of recipe made, made 2026-01-01 00:00:00 UTC" in told
    assert re.search(r"quarantined +100", told)
    assert re.search(r"malformed +1 +expected 2 fields", told)
    assert re.search(r"must be <b>bold</b> +<script>.*csv:7  a,<script>", told)
    assert "Columns, of split train (--split shows val)" in told
    assert re.search(r"x +float64 +200 +0 +14\.14 +28\.43 +14\.21 +8\.248", told)
    assert f"'{HOSTILE}' (150), 'b' (50)" in told
    assert "raw_url: file:///raw" in told


def test_json_is_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path)
    assert cli.main(["show", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == json.loads((tmp_path / "cards" / "v1.json").read_text())


def test_data_is_only_text_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path)
    assert cli.main(["show", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    tags = parsed(page)
    assert tags.tags <= TAGS
    assert not any(name.startswith("on") or name in ("src", "href") for name, _ in tags.attributes)
    assert "http" not in page  # no other file is needed
    assert tags.text.count(HOSTILE) >= 4
    for part in (
        "How the rows came to be",
        "quarantined",
        "100 · 33.3%",
        "must be <b>bold</b>",
        "&amp;",
        "Lineage",
        "file:///raw",
    ):
        assert part in tags.text
    assert page.count("<svg") == 1 + 4  # the flow, and a picture for each column


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=40)
def test_no_value_becomes_markup(tmp_path_factory: pytest.TempPathFactory, word: str, name: str) -> None:
    made = card(
        "v1",
        rows(np.zeros(30), word=[f"<i>{word}"] * 30),
        recipe=f"<b>{name}",
        transforms={f"<a {name}": {"x": [f"<u>{word}"]}},
    )
    refused = [overview.Refused(f"<img {name}", 3, [(f"<p>{name}", f"<hr>{word}", f"<em>{word}")])]
    shown = overview.Overview(made, "/data", refused, {f"<q>{name}": {f"<s {word}": [word, {"<tt>": 1}]}})
    assert parsed(show_html.page(shown)).tags <= TAGS


def test_a_version_without_a_profile_or_clean_rows_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards.publish(f"file://{tmp_path}", card("v1", rows(np.arange(3)), profile={}))
    assert cli.main(["show", str(tmp_path)]) == 0
    assert "Columns (this version has no profile of its values)" in capsys.readouterr().out
    assert cli.main(["show", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert "No profile of the values" in (tmp_path / "page.html").read_text()
    assert cli.main(["show", str(tmp_path), "--split", "val"]) == 1
    assert "no profile of a split 'val'; the splits: none" in capsys.readouterr().err
    assert cli.main(["show", str(tmp_path), "--html", str(tmp_path / "none" / "page.html")]) == 1
    assert "page.html: cannot be written (No such file" in capsys.readouterr().err


def test_refused_rows_that_cannot_be_read_are_only_counted(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "quarantine" / "c1-a" / "part-0.parquet").write_bytes(b"no Parquet")
    assert [(r.rule, r.num_rows, list(r.examples)) for r in look(str(tmp_path)).refused] == [
        (HOSTILE, 99, []),
        ("malformed", 1, []),
    ]


def test_no_rows_and_rows_made_of_several_are_shown() -> None:
    none, made = card("v1", rows(np.zeros(0))), card("v2", rows(np.arange(9)))
    made.counts.update(raw=100, clean=100, duplicates=1, left_out=9, used=90)
    assert [[n for n, _ in stage] for stage in show_html.stages(made)] == [
        ["raw"], ["clean", "quarantined"], ["used", "duplicates", "left out"], ["built"], ["train"],
    ]  # fmt: skip
    for one in (none, made):
        assert parsed(show_html.page(overview.Overview(one, "/data", [], {}))).tags <= TAGS


def test_whatever_a_card_has_is_listed() -> None:
    part = {"a": {"b": 1_000, "c": [1, 2]}, "d": [{"e": 0.5, "f": "g"}]}
    assert list(lines("name", part)) == ["name", "  a", "    b: 1,000", "    c: 1, 2", "  d", "    e 0.5, f g"]
