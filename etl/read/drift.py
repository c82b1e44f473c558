"""Schema drift: raw files whose columns are not those that the recipe reads, said file by file before a row is read."""

from __future__ import annotations

import csv as python_csv
from collections.abc import Mapping, Sequence

from penstock import store
from penstock.errors import RawDataError

HEADERS_SHOWN = 3


def layouts(
    headers: Mapping[str, str],
    options: Mapping[str, str],
    columns: Mapping[str, str],
    aliases: Mapping[str, str],
    extra_columns: bool,
) -> dict[str, tuple[list[str | None], list[str]]]:
    """Header -> the columns in its order, None for one that is not read, and the files that have it.

    `headers` has the header of each file by URL; `options` are those of Spark's csv.

    Raises: RawDataError where a column is missing, unexpected, or there twice.
    """
    files: dict[str, list[str]] = {}
    for url, line in headers.items():
        files.setdefault(line, []).append(url)
    found = {line: _names(line, options, urls) for line, urls in files.items()}
    known = {line: [aliases.get(name, name) for name in names] for line, names in found.items()}
    drifted = []
    for line, names in known.items():
        if problem := _difference(list(columns), names, extra_columns):
            drifted.append((files[line], found[line], problem))
    if drifted:
        # A file without a header begins with a row.
        unknown = {name for _, names, _ in drifted for name in names if name not in columns and name not in aliases}
        raise RawDataError(_said(drifted, list(columns), len(headers)), values=unknown)
    return {line: ([n if n in columns else None for n in names], files[line]) for line, names in known.items()}


def check_types(files: Mapping[str, Mapping[str, str]], expected: Mapping[str, str], extra_columns: bool) -> None:
    """Compares what typed files say of their columns, name -> Spark SQL type for each URL, with what is expected.

    Raises: RawDataError where a column is missing, unexpected, or of another type.
    """
    drifted: dict[tuple[tuple[str, str], ...], tuple[list[str], list[str], str]] = {}
    for url, types in files.items():
        retyped = [
            f"{name} is {types[name]}, not {kind}" for name, kind in expected.items() if types.get(name, kind) != kind
        ]
        parts = [_difference(list(expected), list(types), extra_columns), *retyped]
        if problem := "; ".join(part for part in parts if part):
            columns = [f"{name} {kind}" for name, kind in types.items()]
            drifted.setdefault(tuple(types.items()), ([], columns, problem))[0].append(url)
    if drifted:
        raise RawDataError(_said(list(drifted.values()), [f"{n} {k}" for n, k in expected.items()], len(files)))


def _names(line: str, options: Mapping[str, str], urls: Sequence[str]) -> list[str]:
    if len(options["sep"]) > 1:
        names = line.split(options["sep"])
    else:
        try:
            names = next(python_csv.reader([line], delimiter=options["sep"], quotechar=options["quote"]))
        except python_csv.Error as error:
            raise RawDataError(
                f"raw data: the header of {_named(urls)} cannot be read ({error}); is the delimiter another one?"
            ) from error
    return [name.strip() for name in names]


def _difference(expected: Sequence[str], found: Sequence[str], extra_columns: bool) -> str:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    twice = sorted({name for name in found if found.count(name) > 1 and name in expected})
    parts = [
        f"missing {', '.join(missing)}" if missing else "",
        f"not expected {', '.join(map(repr, unexpected))}" if unexpected and (missing or not extra_columns) else "",
        f"there twice {', '.join(twice)}" if twice else "",
    ]
    return "; ".join(part for part in parts if part)


def _said(drifted: Sequence[tuple[list[str], list[str], str]], expected: Sequence[str], num_files: int) -> str:
    """One message for all files: the columns that are expected, those of each kind of file, and the difference."""
    kinds = [
        f"{_named(urls)} has {', '.join(map(_printable, names))} ({difference})"
        for urls, names, difference in drifted[:HEADERS_SHOWN]
    ]
    more = f"; and {len(drifted) - HEADERS_SHOWN} more kinds of files" if len(drifted) > HEADERS_SHOWN else ""
    count = sum(len(urls) for urls, _, _ in drifted)
    return (
        f"raw data: {count:,} of {num_files:,} files have other columns than the recipe reads. "
        f"Expected {', '.join(expected)}. {'. '.join(kinds)}{more}. Mend the files, or change the recipe's columns, "
        f"delimiter, aliases or extra_columns"
    )


def _printable(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _named(urls: Sequence[str]) -> str:
    more = f" (and {len(urls) - 1:,} like it)" if len(urls) > 1 else ""
    return f"{store.shown(urls[0])}{more}"
