"""Text files cut into records: by Spark where a record is a line, else by numpy in blocks that cross in Arrow batches.

Spark's own text source is the fast way, several tasks to a file. What it cannot read comes the other way, which also
knows each record's line: values with line ends in quotes, archives, other encodings than UTF-8.
"""

from __future__ import annotations

import codecs
import functools
import io
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from etl.read.files import ARCHIVE, INSIDE, Part, by_task, planned, streams
from penstock.errors import RecipeError

BLOCK_BYTES = 4 << 20
LONGEST_BYTES = 64 << 20  # of a record; what is longer is refused, so that a file of any size can be read
HEADER_BYTES = 64 << 10  # read at once of a file's beginning
SHOWN_BYTES = 4_096  # of a record that is too long
SPARK_READS = re.compile(r"^(?!.*\.xz$)", re.IGNORECASE)  # Hadoop has no codec for xz
UTF8_MARK = codecs.BOM_UTF8
UNDECODABLE = "\udcff"  # becomes bytes that are no UTF-8, so that its record is refused

codecs.register_error("penstock.undecodable", lambda error: (UNDECODABLE, error.end))  # type: ignore[attr-defined]

Positions = npt.NDArray[np.int64]


class Readable(Protocol):
    """What has bytes."""

    def read(self, num_bytes: int, /) -> bytes: ...


@dataclass(frozen=True)
class Format:
    """How a text file is cut into records: at line ends (LF, CR LF, CR), but for those in quotes.

    `quote` and `delimiter` are one and one or more bytes; without a `quote` every line is a record. A value is quoted
    where a quote is the first of it, or the first but for white space where that is to be trimmed.
    """

    encoding: str = "utf-8"
    quote: bytes | None = None
    delimiter: bytes = b","
    trim: bool = True

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise RecipeError(
                f"encoding: Python knows none named {self.encoding!r}; name one such as 'cp1252'"
            ) from error

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name == "utf-8"


def lines(
    spark: SparkSession,
    urls: Collection[str],
    form: Format,
    only: str,
    *,
    folder: str | None = None,
    numbered: bool = False,
) -> DataFrame:
    """The records of these files: `value` as it is in the file, its `_file`, its line in `_position`, and `_problem`,
    which says why a record cannot be read.

    `urls` may be those of members, to which an archive is then limited. `folder` is the URL that names the same files
    at once, where there is one. Where Spark cuts the lines they are not known, unless they are asked to be `numbered`.
    """
    by_spark = all(SPARK_READS.search(url) and INSIDE not in url and not ARCHIVE.search(url) for url in urls)
    if urls and by_spark and form.quote is None and form.is_utf8 and not numbered:
        paths = [folder] if folder else list(urls)
        text = spark.read.option("recursiveFileLookup", "true").text([escaped(path) for path in paths])
        nothing = F.lit(None)
        return text.select(
            "value",
            file_url().alias("_file"),
            nothing.cast("long").alias("_position"),
            nothing.cast("string").alias("_problem"),
        )
    tasks = planned(spark, dict.fromkeys(url.partition(INSIDE)[0] for url in urls))
    members = frozenset(url for url in urls if INSIDE in url)
    columns = "value binary, _file string, _position long, _problem string"

    def read(task: int) -> Iterator[pa.RecordBatch]:
        for part in tasks[task]:
            yield from _records_of(part, form, only, members)

    df = by_task(spark, len(tasks), read, columns)
    return df.withColumn("value", F.col("value").cast("string"))


def file_url() -> Column:
    """The URL of the file that Spark reads a row of, as `store.absolute` writes it; most need no change of any kind."""
    path = F.col("_metadata.file_path")
    decoded = F.url_decode(F.replace(path, F.lit("+"), F.lit("%2B")))
    path = F.when(F.contains(path, F.lit("%")), decoded).otherwise(path)
    has_one_slash = path.startswith("file:/") & ~path.startswith("file://")
    return F.when(has_one_slash, F.regexp_replace(path, "^file:/", "file:///")).otherwise(path)


def escaped(url: str) -> str:
    """The URL for a reader of Spark, which would take `[`, `{`, `*` or `?` in a folder's name as a pattern."""
    return re.sub(r"([\\{}\[\]*?])", r"\\\1", url)


def first_records(url: str, form: Format, only: str) -> dict[str, str]:
    """The first record with something in it of the file, or of each member of an archive, by URL; none of an empty one.

    Raises: RawDataError where the file is damaged before its first record's end.
    """
    found = {}
    for stream in streams(Part(url), only):
        values = (value for block in records(stream, form, HEADER_BYTES) for value in block.values.to_pylist())
        if first := next((value for value in values if value.strip()), None):
            found[stream.url] = first.decode(errors="replace")
    return found


def _records_of(part: Part, form: Format, only: str, members: Collection[str]) -> Iterator[pa.RecordBatch]:
    for stream in streams(part, only):
        if members and INSIDE in stream.url and stream.url not in members:
            continue
        for block in records(stream, form):
            n = len(block.values)
            columns = [block.values, pa.repeat(stream.url, n), pa.array(block.positions)]
            problem = pa.repeat(pa.scalar(block.problem, pa.string()), n)
            yield pa.RecordBatch.from_arrays([*columns, problem], ["value", "_file", "_position", "_problem"])


def decoded(text: bytes, form: Format) -> bytes:
    """A whole text in UTF-8."""
    return b"".join(_text(io.BytesIO(text), form, BLOCK_BYTES))


@dataclass(frozen=True)
class Block:
    """Records that follow each other in a file, without their line ends, and the line that each begins on, from 1."""

    values: pa.BinaryArray
    positions: Positions
    problem: str | None = None  # why they cannot be read


def records(file: Readable, form: Format, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """The records of a file in order, in UTF-8; of one longer than LONGEST_BYTES its beginning, as a problem."""
    text = _text(file, form, block_bytes)
    rest, line, ended = b"", 1, False
    while not ended:
        chunk = next(text, b"")
        ended, rest = not chunk, rest + chunk
        too_long = len(rest) > LONGEST_BYTES
        cut = _cut(rest, form, ended, too_long)
        if len(cut.starts):
            yield Block(_taken(rest, cut), line + cut.lines)
        elif too_long:
            value = rest[:SHOWN_BYTES].decode(errors="ignore").encode()
            yield Block(pa.array([value]), np.array([line]), f"expected a record of at most {LONGEST_BYTES:,} bytes")
            rest = _from_line_end(text)
            _, nexts = _line_ends(rest, ended=True)
            line, rest = line + 1, rest[nexts[0] :] if len(nexts) else b""
            continue
        line += cut.num_lines
        rest = rest[cut.end :]


def _text(file: Readable, form: Format, block_bytes: int) -> Iterator[bytes]:
    """The file in UTF-8, without a byte order mark, in blocks that are not empty."""
    decoder = None if form.is_utf8 else codecs.getincrementaldecoder(form.encoding)("penstock.undecodable")
    text, at_start, chunk = b"", True, b"-"
    while chunk:
        chunk = file.read(block_bytes)
        text += decoder.decode(chunk, not chunk).encode(errors="surrogatepass") if decoder else chunk
        if at_start and chunk and len(text) < len(UTF8_MARK):
            continue
        text, at_start = text.removeprefix(UTF8_MARK) if at_start else text, False
        if text:
            yield text
        text = b""


@dataclass(frozen=True)
class Cut:
    """Where the whole records in a piece of text are: the bytes of each, and the line it begins on, from 0."""

    starts: Positions
    stops: Positions
    lines: Positions
    num_lines: int  # in these records
    end: int  # of them, with the last one's line end


def _cut(text: bytes, form: Format, ended: bool, too_long: bool = False) -> Cut:
    """The whole records in `text`, which begins where a record does; `ended`: nothing comes after it.

    Of well-formed csv each record holds an even number of quotes, so that a line with an odd number begins or ends a
    value of several lines; only those lines are looked at one by one. A quote that nothing closes up to the end, or for
    LONGEST_BYTES, leaves its line a record of its own, so that it does not swallow what follows.
    """
    stops, nexts = _line_ends(text, ended)
    starts = np.concatenate([[0], nexts])[: len(stops)]
    first = np.ones(len(stops), bool)  # whether a record begins on the line
    num_lines = len(stops)
    if form.quote and form.quote in text:
        quotes = np.flatnonzero(np.frombuffer(text, np.uint8) == form.quote[0])
        odd = np.flatnonzero(np.diff(np.searchsorted(quotes, nexts), prepend=0) % 2).tolist()
        opens = _left_open(form)
        i = 0
        while i < len(odd):
            if not opens(text[starts[odd[i]] : stops[odd[i]]]):
                i += 1
            elif i + 1 < len(odd):
                first[odd[i] + 1 : odd[i + 1] + 1] = False
                i += 2
            elif ended or (too_long and odd[i] == 0):
                i += 1
            else:  # what closes it has not been read yet
                num_lines = odd[i]
                break
    begins = np.flatnonzero(first[:num_lines])
    last_lines = np.append(begins[1:], num_lines)[: len(begins)] - 1
    end = int(nexts[num_lines - 1]) if num_lines else 0
    return Cut(starts[begins], stops[last_lines], begins, num_lines, end)


def _line_ends(text: bytes, ended: bool) -> tuple[Positions, Positions]:
    """Where each line of the text stops, and where the next one starts; the last one counts if nothing follows it."""
    found = np.frombuffer(text, np.uint8)
    stops = np.flatnonzero(found == 10)
    nexts = stops + 1
    if b"\r" in text:
        returns = np.flatnonzero(found == 13)
        if not ended:
            returns = returns[returns < len(text) - 1]  # whether LF follows is not known yet
        is_pair = returns + 1 < len(text)
        is_pair[is_pair] = found[returns[is_pair] + 1] == 10
        alone, paired = returns[~is_pair], returns[is_pair]
        stops = np.sort(np.concatenate([np.setdiff1d(stops, paired + 1, assume_unique=True), returns]))
        nexts = np.sort(np.concatenate([nexts, alone + 1]))
    if ended and len(text) > (nexts[-1] if len(nexts) else 0):
        stops, nexts = np.append(stops, len(text)), np.append(nexts, len(text))
    return stops, nexts


@functools.cache
def _left_open(form: Format) -> Callable[[bytes], object]:
    """Whether a line that begins a record ends in a quoted value.

    Source: RFC 4180, section 2, rules 5 to 7; as in Spark a quote within an unquoted value is a character of it.
    """
    quote, delimiter = re.escape(form.quote or b""), re.escape(form.delimiter)
    space = rb"[ \t]*" if form.trim else b""
    # No possessive quantifiers, which Python 3.11 gets wrong before 3.11.5: no part can match in a second way anyhow.
    quoted = b"%b%b[^%b]*(?:%b%b[^%b]*)*" % (space, quote, quote, quote, quote, quote)
    value = b"(?:%b%b(?!%b)|(?!%b%b))(?:(?!%b).)*%b" % (quoted, quote, quote, space, quote, delimiter, delimiter)
    return re.compile(b"(?:%b)*%b$" % (value, quoted), re.DOTALL).match


def _taken(text: bytes, cut: Cut) -> pa.BinaryArray:
    """The records as an Arrow array: what lies between them, line ends of one or two bytes, is left out."""
    is_value = np.ones(cut.end, bool)
    gaps, ends = cut.stops, np.append(cut.starts[1:], cut.end)
    is_value[gaps[ends > gaps]] = False
    is_value[gaps[ends > gaps + 1] + 1] = False
    offsets = np.concatenate([[0], np.cumsum(cut.stops - cut.starts)]).astype(np.int32)
    values = np.frombuffer(text, np.uint8, cut.end)[is_value]
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(cut.starts), [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    )


def _from_line_end(text: Iterator[bytes]) -> bytes:
    """Reads on to the end of the line, and gives what was read from there on."""
    for chunk in text:
        if found := re.search(rb"[\r\n]", chunk):
            rest = chunk[found.start() :]
            return rest if len(rest) > 1 else rest + next(text, b"")
    return b""
