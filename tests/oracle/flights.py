#!/usr/bin/env python3
"""Computes what the flights pipeline must give, in SQL: no line of this is wasmill's.

    python3 tests/oracle/flights.py FLIGHTS.jsonl.gz [WINDOWS]

Prints one JSON line for each window of a carrier to stdout, in the form of the payload of the pipeline's
messages, ordered by (start, key). WINDOWS is `tumbling` (hours, the default), `sliding` (three hours, every
hour), `at-messages` (ten minutes up to each flight, and from behind each flight) or `session` (flights no
more than ten minutes apart):

    {"key":"UA","start":…,"end":…,"final":true,"value":{"departures":…,"cancelled":…,…}}

and the totals to stderr.
"""

import gzip
import json
import math
import sqlite3
import sys

HOUR_MS = 3_600_000
TEN_MINUTES_MS = 600_000

# Which flight is in which window, as (carrier, start, end, type, dep_delay).
MEMBERS = {
    "tumbling": """
        SELECT carrier, timestamp / :hour * :hour AS start, timestamp / :hour * :hour + :hour AS end,
               type, dep_delay
        FROM flights""",
    "sliding": """
        WITH back(hours) AS (VALUES (0), (1), (2))
        SELECT carrier, (timestamp / :hour - hours) * :hour AS start,
               (timestamp / :hour - hours + 3) * :hour AS end, type, dep_delay
        FROM flights, back""",
    # No flight is as early as the first ten minutes of 1970. A window without a flight has no row here.
    "at-messages": """
        WITH bounds AS (
            SELECT carrier, timestamp - :ten_minutes AS start, timestamp + 1 AS end FROM flights
            UNION
            SELECT carrier, timestamp + 1, timestamp + :ten_minutes + 2 FROM flights)
        SELECT carrier, start, end, type, dep_delay
        FROM bounds JOIN flights USING (carrier)
        WHERE timestamp >= start AND timestamp < end""",
    "session": """
        WITH begins AS (
            SELECT *, timestamp - LAG(timestamp) OVER (PARTITION BY carrier ORDER BY timestamp)
                          <= :ten_minutes AS goes_on
            FROM flights),
        numbered AS (
            SELECT *, COUNT(*) FILTER (WHERE goes_on IS NOT TRUE)
                          OVER (PARTITION BY carrier ORDER BY timestamp) AS session
            FROM begins)
        SELECT carrier, MIN(timestamp) OVER whole AS start,
               MAX(timestamp) OVER whole + :ten_minutes AS end, type, dep_delay
        FROM numbered
        WINDOW whole AS (PARTITION BY carrier, session)""",
}

QUERY = """
SELECT carrier, start, end,
       COUNT(*) FILTER (WHERE type = 'departed') AS departures,
       COUNT(*) FILTER (WHERE type = 'cancelled') AS cancelled,
       SUM(dep_delay) FILTER (WHERE type = 'departed') AS dep_delay_sum,
       MAX(dep_delay) FILTER (WHERE type = 'departed') AS max_dep_delay
FROM ({members})
GROUP BY carrier, start, end
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


def windows(path, kind="tumbling"):
    """Every window's payload, in order."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE flights (type TEXT, timestamp INTEGER, carrier TEXT, dep_delay INTEGER)")
    database.executemany("INSERT INTO flights VALUES (?, ?, ?, ?)", read(path))
    database.execute("DELETE FROM flights WHERE type = 'ignore'")
    database.execute("CREATE INDEX by_time ON flights (carrier, timestamp)")
    times = {"hour": HOUR_MS, "ten_minutes": TEN_MINUTES_MS}
    rows = database.execute(QUERY.format(members=MEMBERS[kind]), times)
    for carrier, start, end, departures, cancelled, delays, longest in rows:
        average = two_places(delays / departures) if departures else None
        yield {
            "key": carrier,
            "start": start,
            "end": end,
            "final": True,
            "value": {
                "departures": departures,
                "cancelled": cancelled,
                "avg_dep_delay": average,
                "max_dep_delay": longest,
            },
        }


def main():
    if len(sys.argv) not in (2, 3) or (len(sys.argv) == 3 and sys.argv[2] not in MEMBERS):
        sys.exit(f"usage: flights.py FLIGHTS.jsonl.gz [{'|'.join(MEMBERS)}]")
    count = departures = cancelled = 0
    for window in windows(*sys.argv[1:]):
        print(json.dumps(window, separators=(",", ":"), ensure_ascii=False))
        count += 1
        departures += window["value"]["departures"]
        cancelled += window["value"]["cancelled"]
    print(f"{count} windows, {departures} departures, {cancelled} cancelled", file=sys.stderr)


if __name__ == "__main__":
    main()
