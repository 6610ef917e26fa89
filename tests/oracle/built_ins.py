#!/usr/bin/env python3
"""Computes by SQL what built-in aggregates must tell of the flights: no line of this is wasmill's.

    python3 tests/oracle/built_ins.py FLIGHTS.jsonl.gz

Prints one JSON line for each window (carrier and hour). Quantiles are the values at their ranks themselves.
"""

import json
import sqlite3
import sys

# No folder of compiled code beside the sources.
sys.dont_write_bytecode = True

import flights  # noqa: E402

QUERY = """
WITH ranked AS (
    SELECT carrier, timestamp / :hour * :hour AS start, dep_delay,
           ROW_NUMBER() OVER (PARTITION BY carrier, timestamp / :hour ORDER BY dep_delay) - 1 AS rank,
           COUNT(*) OVER (PARTITION BY carrier, timestamp / :hour) AS size
    FROM flights WHERE dep_delay IS NOT NULL
), quantiles AS (
    SELECT carrier, start,
           MAX(dep_delay) FILTER (WHERE rank = CAST(0.5 * (size - 1) AS INTEGER)) AS median,
           MAX(dep_delay) FILTER (WHERE rank = CAST(0.9 * (size - 1) AS INTEGER)) AS p90
    FROM ranked GROUP BY carrier, start
)
SELECT carrier, timestamp / :hour * :hour AS start, COUNT(*), COUNT(dep_delay), SUM(dep_delay),
       AVG(dep_delay), MIN(dep_delay), MAX(dep_delay), COUNT(DISTINCT dep_delay), median, p90
FROM flights LEFT JOIN quantiles USING (carrier, start)
GROUP BY carrier, flights.timestamp / :hour
ORDER BY 2, 1
"""
NAMES = ["key", "start", "flights", "departed", "sum", "mean", "least", "longest", "distinct", "median", "p90"]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: built_ins.py FLIGHTS.jsonl.gz")
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE TABLE flights (type TEXT, timestamp INTEGER, carrier TEXT, dep_delay INTEGER,"
        " start INTEGER GENERATED ALWAYS AS (timestamp / 3600000 * 3600000))"
    )
    database.executemany("INSERT INTO flights VALUES (?, ?, ?, ?)", flights.read(sys.argv[1]))
    for row in database.execute(QUERY, {"hour": flights.HOUR_MS}):
        print(json.dumps(dict(zip(NAMES, row))))


if __name__ == "__main__":
    main()
