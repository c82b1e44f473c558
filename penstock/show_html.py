"""A dataset version as one HTML page: how its rows came to be, what was refused, and a picture of each column.

The page needs no other file and no script. All that comes from data is escaped: raw data may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock import store
from penstock.card import Card
from penstock.compare import cumulative
from penstock.overview import Overview, Refused, figure, kind, value
from penstock.profile import NUM_TOP
from penstock.schema import Field
from penstock.sketch import F64

WIDTH, HEIGHT = 300, 96  # of a histogram
NUM_CELLS = 40
FAR_OUT = 2  # a range that is so many times that of the inner 98 % is cut to it
MOST_LISTED = 50  # parts of a list in a card
NUM_BARS = 6  # of the most frequent strings
FLOW_WIDTH, FLOW_HEIGHT = 1000, 150
FLOW_TOP, FLOW_MARGIN = 14.0, 170  # above, and for the labels of the splits
NODE_WIDTH, LABEL_HEIGHT = 8, 30
RECORD_LENGTH, WORD_LENGTH = 300, 22  # characters
LEAST_HEIGHT = 1.5  # of a flow with any rows, so that it is seen

STYLE = """
:root { --ink: #1f2933; --soft: #6b7785; --line: #e3e7ec; --ground: #fbfbfa; --card: #fff;
        --main: #5b84b1; --second: #c08457; --third: #6d9f71; --lost: #c9a9a6; }
@media (prefers-color-scheme: dark) {
:root { --ink: #e4e7eb; --soft: #95a1ae; --line: #323a45; --ground: #171b21; --card: #1e242c;
        --main: #6f9bcc; --second: #d09a6c; --third: #83b587; --lost: #8a6a68; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 24px 96px; }
h1 { font-size: 26px; font-weight: 600; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; font-weight: 600; margin: 48px 0 16px; }
h3 { font-size: 15px; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
p { margin: 0; }
.soft, dt, th, text.soft { color: var(--soft); fill: var(--soft); }
code, .mono { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; }
code, .mono { overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; min-width: 0; }
.head { display: flex; justify-content: space-between; gap: 12px; align-items: baseline; margin-bottom: 10px; }
.tag { font-size: 12px; color: var(--main); border: 1px solid var(--main); border-radius: 99px; }
.tag { padding: 0 8px; margin-left: 6px; font-weight: 400; }
.top { font-size: 13px; margin-top: 6px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--ink); }
.flow text { font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 10px 3px 0; vertical-align: top; font-weight: 400; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; white-space: nowrap; }
.figures { margin-top: 10px; }
.figures td, .figures th { padding: 1px 0 1px 8px; font-size: 12px; white-space: nowrap; }
.figures th { padding-left: 0; width: 1%; }
.narrow td, .narrow th { font-size: 10px; padding-left: 5px; }
.rule + .rule { margin-top: 20px; }
.rule table { margin-top: 6px; table-layout: fixed; }
.rule tr { border-top: 1px solid var(--line); }
.legend span { margin-right: 14px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.parts { display: grid; grid-template-columns: minmax(120px, auto) 1fr; gap: 4px 20px; margin: 0; font-size: 13px; }
.parts dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
"""
LOST = "var(--lost)"
COLOURS = ("var(--main)", "var(--second)", "var(--third)")


def page(shown: Overview) -> str:
    card = shown.card
    sections = [
        _section("How the rows came to be", _flow(card)),
        _section("Refused rows", "".join(map(_rule, shown.refused))) if shown.refused else "",
        _section("Columns", _columns(card)),
        *(
            _section(name[:1].upper() + name[1:], f'<div class="card">{_anything(part)}</div>')
            for name, part in shown.rest.items()
        ),
    ]
    made = f"made {card.created[:16].replace('T', ' ')} UTC"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(card.recipe)} {escape(card.version)}</title>\n<style>{STYLE}</style>\n<main>\n"
        f"<h1>{escape(card.recipe)}</h1>\n"
        f'<p class="soft">Dataset version <code>{escape(card.version)}</code>, {escape(made)}, '
        f"{card.counts['built']:,} rows of {len(card.schema.fields)} columns</p>\n"
        f'<p class="soft"><code>{escape(store.shown(shown.url))}</code></p>\n{"".join(sections)}</main>\n</html>\n'
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>\n"


# The flow of rows: a column for each stage, what goes on above, what stays behind below it.


def stages(card: Card) -> list[list[tuple[str, int]]]:
    """For each stage the rows that go on, then those that stay behind; the last one has the splits."""
    counts = card.counts
    used = counts.get("used", counts["built"])
    found = [
        [("raw", counts["raw"])],
        [("clean", counts["clean"]), ("quarantined", counts["quarantined"])],
        [("used" if "used" in counts else "built", used), ("duplicates", counts["duplicates"])],
    ]
    if counts.get("left_out"):
        found[-1].append(("left out", counts["left_out"]))
    if "used" in counts:
        found.append([("built", counts["built"])])
    return [*found, [(name, split.rows) for name, split in card.splits.items()]]


def _flow(card: Card) -> str:
    columns = stages(card)
    step = (FLOW_WIDTH - FLOW_MARGIN) / (len(columns) - 1)
    made, before, bottom = [], float(FLOW_HEIGHT), 0.0
    for i, column in enumerate(columns):
        is_last, whole = i == len(columns) - 1, max(1, sum(n for _, n in column))
        x, y, y_before = i * step, FLOW_TOP, FLOW_TOP
        heights = [max(LEAST_HEIGHT, before * n / whole) if n else 0.0 for _, n in column]
        for j, ((name, n), height) in enumerate(zip(column, heights, strict=True)):
            stays_behind = j > 0 and not is_last
            if stays_behind and not n:
                continue
            colour = LOST if stays_behind else COLOURS[j % len(COLOURS)] if is_last else COLOURS[0]
            share = f" · {_percent(n / whole)}" if stays_behind or is_last else ""
            if i and n:
                made.append(_band((i - 1) * step + NODE_WIDTH, y_before, x, y, height, colour))
            made.append(_node(x, y, height, colour, name, f"{n:,}{share}"))
            y_before += height
            y += max(height, LABEL_HEIGHT) + (8 if is_last else 24)
        before, bottom = heights[0], max(bottom, y)
    return (
        f'<div class="card"><svg class="flow" viewBox="0 0 {FLOW_WIDTH} {bottom:.0f}" role="img" '
        f'aria-label="rows from raw to splits">{"".join(made)}</svg></div>'
    )


def _node(x: float, y: float, height: float, colour: str, name: str, told: str) -> str:
    left, middle = x + NODE_WIDTH + 8, y + max(height / 2 - 5, 10)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{NODE_WIDTH}" height="{height:.1f}" rx="1.5" fill="{colour}"/>'
        f'<text x="{left:.1f}" y="{middle:.1f}">{escape(name)}</text>'
        f'<text class="soft" x="{left:.1f}" y="{middle + 15:.1f}">{told}</text>'
    )


def _band(x0: float, y0: float, x1: float, y1: float, height: float, colour: str) -> str:
    middle, y2, y3 = (x0 + x1) / 2, y1 + height, y0 + height
    return (
        f'<path d="M{x0:.1f} {y0:.1f} C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f} '
        f'V{y2:.1f} C{middle:.1f} {y2:.1f} {middle:.1f} {y3:.1f} {x0:.1f} {y3:.1f} Z" fill="{colour}" opacity=".22"/>'
    )


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "&lt;0.1%"


def _rule(refused: Refused) -> str:
    rows = "".join(
        f'<tr><td class="mono soft">{escape(place)}</td><td class="mono">{escape(record[:RECORD_LENGTH])}</td>'
        f"<td>{escape(reason)}</td></tr>"
        for place, record, reason in refused.examples
    )
    number = f"{refused.num_rows:,} {'row' if refused.num_rows == 1 else 'rows'}"
    head = f'<div class="head"><h3>{escape(refused.rule)}</h3><span class="soft">{number}</span></div>'
    return f'<div class="card rule">{head}<table>{rows}</table></div>'


# Columns


def _columns(card: Card) -> str:
    splits = [name for name, split in card.splits.items() if split.rows and name in card.profile]
    legend = "".join(
        f'<span><i style="background:{COLOURS[i % 3]}"></i>{escape(s)}</span>' for i, s in enumerate(splits)
    )
    roles = {card.schema.key: "key", card.schema.label: "label"}
    made = [_column(f, {s: card.profile[s][f.name] for s in splits}, roles.get(f.name)) for f in card.schema.fields]
    told = f'<p class="legend soft">{legend}</p><br>' if splits else '<p class="soft">No profile of the values.</p><br>'
    return f'{told}<div class="grid">{"".join(made)}</div>'


def _column(field: Field, found: Mapping[str, Mapping[str, Any]], role: str | None) -> str:
    tag = f'<span class="tag">{role}</span>' if role else ""
    head = f'<div class="head"><h3>{escape(field.name)}{tag}</h3><span class="soft">{escape(kind(field))}</span></div>'
    if not found:
        return f'<div class="card">{head}</div>'
    bars = _word_bars if field.dtype == "string" and not field.shape and _is_named(found) else _histogram
    return f'<div class="card">{head}{bars(field, found)}{_figures(field, found)}</div>'


def _is_named(found: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(split.get("top", {"values": []})["values"] for split in found.values())


def _word_bars(field: Field, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The most frequent strings of the first split: a bar for each split below each other."""
    first = next(iter(found.values()))
    words = [word for word, _ in first["top"]["values"][:NUM_BARS]]
    shares = [{word: n / max(1, f["count"]) for word, n in f["top"]["values"]} for f in found.values()]
    longest = max(share for split in shares for share in split.values())
    line, made = HEIGHT / NUM_BARS, []
    for i, word in enumerate(words):
        label = word if len(word) <= WORD_LENGTH else f"{word[: WORD_LENGTH - 1]}…"
        made.append(f'<text x="0" y="{i * line + 11:.1f}">{escape(label)}</text>')
        made.append(f'<text class="soft" x="{WIDTH}" y="{i * line + 11:.1f}" text-anchor="end">')
        made.append(f"{_percent(shares[0][word])}</text>")
        thick = 11 / len(shares)
        for j, split in enumerate(shares):
            wide, top = 115 * split.get(word, 0) / longest, i * line + 2 + j * thick
            made.append(
                f'<rect x="140" y="{top:.1f}" width="{wide:.1f}" height="{thick:.1f}" fill="{COLOURS[j % 3]}"/>'
            )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 4}" role="img" aria-label="most frequent values">{"".join(made)}</svg>'


def _histogram(field: Field, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Bars of the first split, and a line for each other one, as shares of each split's own values."""
    there = {split: f for split, f in found.items() if f["bins"]}
    if not there:
        return '<p class="soft">no values</p>'
    points = sorted({low for f in there.values() for low, _, _ in f["bins"]})
    is_few = len(points) <= NUM_TOP and all(low == high for f in there.values() for low, high, _ in f["bins"])
    if is_few:
        counted = [{low: n for low, _, n in f["bins"]} for f in there.values()]
        shares = [np.array([split.get(p, 0) for p in points]) / sum(split.values()) for split in counted]
        ends = (value(points[0], field), value(points[-1], field)) if len(points) > 1 else (value(points[0], field), "")
    else:
        edges = _edges(list(there.values()))
        shares = [_shares(f, edges) for f in there.values()]
        first = edges[0].item() + isinstance(edges[0].item(), int)
        ends = (figure(first), figure(min(edges[-1].item(), max(f["max"] for f in there.values()))))
    highest = max(float(s.max()) for s in shares) or 1.0
    cell = WIDTH / len(shares[0])
    gap = min(1.0, cell / 8) if not is_few else min(6.0, cell / 4)
    bars = "".join(
        f'<rect x="{i * cell + gap / 2:.1f}" y="{HEIGHT - HEIGHT * s / highest:.1f}" width="{cell - gap:.1f}" '
        f'height="{HEIGHT * s / highest:.1f}" fill="{COLOURS[0]}" opacity=".75"/>'
        for i, s in enumerate(shares[0])
        if s > 0
    )
    others = "".join(_steps(split, highest, cell, COLOURS[(j + 1) % 3]) for j, split in enumerate(shares[1:]))
    axis = (
        f'<line x1="0" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}" stroke="var(--line)"/>'
        f'<text class="soft" x="0" y="{HEIGHT + 14}">{escape(ends[0])}</text>'
        f'<text class="soft" x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{escape(ends[1])}</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 18}" role="img" aria-label="histogram">{bars}{others}{axis}</svg>'


def _steps(shares: Sequence[float], highest: float, cell: float, colour: str) -> str:
    path = " ".join(
        f"{'M' if i == 0 else 'L'}{i * cell:.1f} {HEIGHT - HEIGHT * s / highest:.1f} h{cell:.1f}"
        for i, s in enumerate(shares)
    )
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def _edges(found: Sequence[Mapping[str, Any]]) -> npt.NDArray[Any]:
    """From the smallest value to the largest, without the outermost hundredths where these are far out.

    Integers share cells evenly, and the first edge is one below the smallest: values up to an edge are before it.
    """
    low, high = min(f["min"] for f in found), max(f["max"] for f in found)
    near, far = min(f["quantiles"]["1"] for f in found), max(f["quantiles"]["99"] for f in found)
    if near < far and high - low > FAR_OUT * (far - near):
        low, high = max(low, near), min(high, far)
    if not isinstance(low, int):
        return np.linspace(low, high, NUM_CELLS + 1)
    width = -(-(high - low + 1) // NUM_CELLS)
    edges: npt.NDArray[np.int64] = low - 1 + width * np.arange(-(-(high - low + 1) // width) + 1)
    return edges


def _shares(found: Mapping[str, Any], edges: npt.NDArray[Any]) -> F64:
    """(n - 1,) shares of the values between n edges; what is beyond the ends counts in the outermost cells."""
    up_to = cumulative(found["bins"], edges)
    up_to[0], up_to[-1] = 0, sum(n for _, _, n in found["bins"])
    shares: F64 = np.diff(up_to) / up_to[-1]
    return shares


def _figures(field: Field, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each figure, a column for each split."""
    of = next(iter(found.values()))["of"]
    rows = [("" if of == "values" else of.replace("num_", ""), list(found))]
    rows.append(("distinct", [_distinct(f) for f in found.values()]))
    rows += [(name, [figure(f[name]) for f in found.values()]) for name in ("min", "max", "mean")]
    rows.insert(3, ("median", [figure(f["quantiles"].get("50")) for f in found.values()]))
    rows.append(("deviation", [figure(f["std"]) for f in found.values()]))
    for name, label in (("nulls", "NaN"), ("infinite", "infinite")):
        if any(f[name] for f in found.values()):
            rows.append((label, [figure(f[name]) for f in found.values()]))
    made = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    narrow = " narrow" if sum(max(map(len, column)) for column in zip(*(c for _, c in rows), strict=True)) > 36 else ""
    return f'<table class="figures{narrow}">{made}</table>{_most_frequent(field, next(iter(found.values())))}'


def _distinct(found: Mapping[str, Any]) -> str:
    return ("" if found["distinct"]["exact"] else "≈ ") + figure(found["distinct"]["count"])


def _most_frequent(field: Field, found: Mapping[str, Any]) -> str:
    top = found.get("top", {"values": []})
    if field.dtype == "string" or not top["values"]:
        return ""
    about = "" if top["exact"] else "≈ "
    told = ", ".join(f"{escape(value(v, field))} <span class=soft>({about}{n:,})</span>" for v, n in top["values"][:3])
    return f'<p class="top"><span class="soft">most frequent</span> {told}</p>'


def _anything(part: Any) -> str:
    """Any part of a card: names beside their values, and a table of what is alike."""
    if isinstance(part, Mapping):
        rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{_anything(inner)}</dd>" for name, inner in part.items())
        return f'<dl class="parts">{rows}</dl>'
    if isinstance(part, list | tuple):
        if part and all(isinstance(inner, Mapping) for inner in part):
            return _table(part)
        return ", ".join(map(_anything, part[:MOST_LISTED])) + _more(part)
    return escape(figure(part) if isinstance(part, int | float | None) else str(part))


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    cells = ("".join(f"<td>{_anything(row.get(name, ''))}</td>" for name in names) for row in rows[:MOST_LISTED])
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><tr>{head}</tr>{body}</table>{_more(rows)}"


def _more(listed: Sequence[Any]) -> str:
    return f'<p class="soft">and {len(listed) - MOST_LISTED:,} more</p>' if len(listed) > MOST_LISTED else ""
