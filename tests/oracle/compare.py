#!/usr/bin/env python3
"""Compares what the flights pipeline wrote with what SQL computes from the same flights.

    python3 tests/oracle/compare.py FLIGHTS.jsonl.gz OUTPUT_FOLDER

Every window must be there once, its payload byte for byte the oracle's. Exit code 0 if so, else 1 with
the windows that differ.
"""

import json
import pathlib
import sys

# No folder of compiled code beside the sources.
sys.dont_write_bytecode = True

import flights  # noqa: E402

SHOWN_MAX = 10
PAYLOAD = '"payload":'


def payload_of(line):
    """The payload's text as it was written, and its window."""
    begins = line.index(PAYLOAD) + len(PAYLOAD)
    payload, ends = json.JSONDecoder().raw_decode(line, begins)
    return (payload["start"], payload["key"]), line[begins:ends]


def written(folder):
    """The payloads' texts by window, from the finished files alone."""
    texts = {}
    for part in sorted(pathlib.Path(folder).glob("part-*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            window, text = payload_of(line)
            texts.setdefault(window, []).append(text)
    return texts


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: compare.py FLIGHTS.jsonl.gz OUTPUT_FOLDER")
    expected = {}
    for window in flights.windows(sys.argv[1]):
        text = json.dumps(window, separators=(",", ":"), ensure_ascii=False)
        expected[window["start"], window["key"]] = [text]
    found = written(sys.argv[2])
    wrong = sorted(w for w in expected.keys() | found.keys() if expected.get(w) != found.get(w))
    for window in wrong[:SHOWN_MAX]:
        print(f"{window[1]} at {window[0]}\n  expected: {expected.get(window)}\n  found:    {found.get(window)}")
    if wrong:
        sys.exit(f"{len(wrong)} of {len(expected)} windows differ")
    print(f"{len(expected)} windows, each byte for byte as SQL computes it")


if __name__ == "__main__":
    main()
