#!/usr/bin/env python3
"""Computes what the flights pipeline must give, in SQL: no line of this is wasmill's.

    python3 tests/oracle/flights.py FLIGHTS.jsonl.gz

Prints one JSON line for each window (carrier and hour) to stdout, in the form of the payload of the
pipeline's messages, ordered by (start, key):

    {"key":"UA","start":…,"end":…,"final":true,"value":{"departures":…,"cancelled":…,…}}

and the totals to stderr.
"""

import gzip
import json
import math
import sqlite3
import sys

HOUR_MS = 3_600_000

QUERY = """
SELECT carrier,
       timestamp / :hour * :hour AS start,
       COUNT(*) FILTER (WHERE type = 'departed') AS departures,
       COUNT(*) FILTER (WHERE type = 'cancelled') AS cancelled,
       SUM(dep_delay) FILTER (WHERE type = 'departed') AS dep_delay_sum,
       MAX(dep_delay) FILTER (WHERE type = 'departed') AS max_dep_delay
FROM flights
WHERE type <> 'ignore'
GROUP BY carrier, start
ORDER BY start, carrier
"""


def read(path):
    """The rows of the flights' file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            flight = json.loads(line)
            payload = flight["payload"]
            yield flight["type"], flight["timestamp"], payload["carrier"], payload["dep_delay"]


def two_places(number):
    """Rounds to two places as the plugin does, in doubles, half away from zero. Python's own `round`
    goes to the even neighbour."""
    hundredths = abs(number * 100.0)
    whole = math.floor(hundredths)
    if hundredths - whole >= 0.5:
        whole += 1
    return math.copysign(whole, number) / 100.0


def windows(path):
    """Every window's payload, in order."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE flights (type TEXT, timestamp INTEGER, carrier TEXT, dep_delay INTEGER)")
    database.executemany("INSERT INTO flights VALUES (?, ?, ?, ?)", read(path))
    for carrier, start, departures, cancelled, delays, longest in database.execute(QUERY, {"hour": HOUR_MS}):
        average = two_places(delays / departures) if departures else None
        yield {
            "key": carrier,
            "start": start,
            "end": start + HOUR_MS,
            "final": True,
            "value": {
                "departures": departures,
                "cancelled": cancelled,
                "avg_dep_delay": average,
                "max_dep_delay": longest,
            },
        }


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: flights.py FLIGHTS.jsonl.gz")
    count = departures = cancelled = 0
    for window in windows(sys.argv[1]):
        print(json.dumps(window, separators=(",", ":"), ensure_ascii=False))
        count += 1
        departures += window["value"]["departures"]
        cancelled += window["value"]["cancelled"]
    print(f"{count} windows, {departures} departures, {cancelled} cancelled", file=sys.stderr)


if __name__ == "__main__":
    main()
