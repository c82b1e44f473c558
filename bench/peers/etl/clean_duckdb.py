"""The invoices cleaned with DuckDB, as its users would write it: a table of what was read, then SQL over it.

clean_duckdb.py --raw FOLDER --out FOLDER
"""

import argparse
import json
import time
from pathlib import Path

import duckdb

COLUMNS = """{'InvoiceNo': 'VARCHAR', 'StockCode': 'VARCHAR', 'Description': 'VARCHAR', 'Quantity': 'INTEGER',
    'InvoiceDate': 'TIMESTAMP', 'UnitPrice': 'DOUBLE', 'CustomerID': 'VARCHAR', 'Country': 'VARCHAR'}"""


def main() -> None:
    made = argparse.ArgumentParser()
    made.add_argument("--raw", type=Path, required=True)
    made.add_argument("--out", type=Path, required=True)
    arguments = made.parse_args()
    start = time.perf_counter()
    db = duckdb.connect()
    db.execute(f"""
        CREATE TABLE lines AS
        SELECT * REPLACE (regexp_replace(CustomerID, '\\.0$', '') AS CustomerID,
                          coalesce(trim(Description), '') AS Description)
        FROM read_csv('{arguments.raw}/**/*.csv', header = true, columns = {COLUMNS})
    """)
    db.execute("""
        ALTER TABLE lines ADD COLUMN good BOOLEAN;
        UPDATE lines SET good = UnitPrice >= 0 AND regexp_full_match(InvoiceNo, '[AC]?\\d{6,}')
                                AND (CustomerID IS NULL OR regexp_full_match(CustomerID, '\\d{5}'))
    """)
    counted = db.execute("""
        SELECT count(*) raw, count_if(NOT good) quarantined, count_if(CustomerID IS NULL) customer_known,
               count_if(starts_with(InvoiceNo, 'C')) no_cancellation, count_if(Quantity <= 0) quantity_sign,
               count_if(UnitPrice = 0) price_given
        FROM lines
    """)
    counts = dict(zip([column[0] for column in counted.description], counted.fetchone(), strict=True))
    db.execute(f"COPY (FROM lines WHERE NOT good) TO '{arguments.out}/quarantine.parquet'")
    db.execute("""
        CREATE TABLE clean AS
        SELECT *, hash(unique_lines) AS key
        FROM (SELECT DISTINCT * EXCLUDE (good) REPLACE (coalesce(CustomerID, '0')::BIGINT AS CustomerID)
              FROM lines WHERE good) unique_lines
    """)
    for name, low, high in (("train", 0, 800_000), ("val", 800_000, 900_000), ("test", 900_000, 1_000_000)):
        db.execute(f"""
            COPY (FROM clean WHERE key % 1000000 >= {low} AND key % 1000000 < {high} ORDER BY key)
            TO '{arguments.out}/{name}.parquet'
        """)
    counts["built"] = db.execute("SELECT count(*) FROM clean").fetchone()[0]
    print(json.dumps({"seconds": time.perf_counter() - start, "counts": counts}))


if __name__ == "__main__":
    main()
