"""Raw formats: each function gives a DataFrame with one row per raw record, broken ones included.

Beside the record's own columns every reader gives where it came from: `_file` (its URL), `_position` (its line in a
text file, else its number, where the reader knows it), `_record` (its text, where it has one), `_malformed` (whether it
could not be read) and `_why` not. Readers drop nothing and fail only where a whole file is unreadable.
"""

from etl.read.delimited import csv
from etl.read.idx_files import idx
from etl.read.json_lines import json_lines
from etl.read.plain_text import text
from etl.read.records import escaped
from etl.read.tables import avro, orc, parquet, table
from etl.read.whole import files

__all__ = ["avro", "csv", "escaped", "files", "idx", "json_lines", "orc", "parquet", "table", "text"]
