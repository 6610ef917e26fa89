"""Container files and datums of every type, for host/codec/tests/it/interop_avro.rs.

    avro_files.py write FILE SCHEMA CODEC    writes the records below
    avro_files.py check FILE                 reads a file and compares it with them
    avro_files.py datums FILE SCHEMA         writes datums, each behind its length as four bytes, and their schema
"""

import io
import json
import struct
import sys
import uuid
from datetime import date, datetime, time, timezone
from decimal import Decimal

import fastavro


def logical(base, name, /, **more):
    return {"type": base, "logicalType": name, **more}


FIELDS = [
    ("nothing", "null"),
    ("flag", "boolean"),
    ("i", "int"),
    ("l", "long"),
    ("f", "float"),
    ("d", "double"),
    ("b", "bytes"),
    ("s", "string"),
    ("list", {"type": "array", "items": "long"}),
    ("map", {"type": "map", "values": ["null", "string"]}),
    ("e", {"type": "enum", "name": "E", "symbols": ["A", "B"]}),
    ("x", {"type": "fixed", "name": "X", "size": 2}),
    ("u", ["null", "int", "string", "Every"]),
    ("day", logical("int", "date")),
    ("ms", logical("int", "time-millis")),
    ("us", logical("long", "time-micros")),
    ("tms", logical("long", "timestamp-millis")),
    ("tus", logical("long", "timestamp-micros")),
    ("lms", logical("long", "local-timestamp-millis")),
    ("lus", logical("long", "local-timestamp-micros")),
    ("dec", logical("bytes", "decimal", precision=30, scale=4)),
    ("id", logical("string", "uuid")),
]
SCHEMA = {"type": "record", "name": "Every", "fields": [{"name": n, "type": t} for n, t in FIELDS]}


def record(n, inner):
    at = datetime(2013, 1, 31, 23, 59, 59, 999000, timezone.utc)
    return {
        "nothing": None, "flag": n % 2 == 0, "i": -n, "l": n << 40, "f": n / 4, "d": n / 8, "b": bytes([n % 256, 255]),
        "s": f'é"{n}', "list": list(range(n % 5)), "map": {"k": None, "v": str(n)}, "e": "AB"[n % 2], "x": b"\x00\xff",
        "u": inner, "day": date(2013, 1, 31), "ms": time(23, 59, 59, 999000), "us": time(23, 59, 59, 999999),
        "tms": at, "tus": at.replace(microsecond=123456), "lms": at.replace(tzinfo=None),
        "lus": at.replace(tzinfo=None, microsecond=1), "dec": Decimal(-n).scaleb(-4),
        "id": uuid.UUID(int=n),
    }


RECORDS = [record(n, [None, n, "text", record(n, None)][n % 4]) for n in range(3000)]

# Bare datums, with what fastavro's container files above don't have.
DATUMS_SCHEMA = {"type": "record", "name": "Datum", "fields": [
    {"name": "ns", "type": logical("long", "timestamp-nanos")},
    {"name": "lns", "type": logical("long", "local-timestamp-nanos")},
    {"name": "dec", "type": logical("fixed", "decimal", name="Dec", size=6, precision=12, scale=3)},
    {"name": "id", "type": logical("string", "uuid")},
    {"name": "bin", "type": logical("fixed", "uuid", name="Bin", size=16)},
    {"name": "took", "type": logical("fixed", "duration", name="Took", size=12)},
    {"name": "more", "type": ["null", "Dec", "Datum"]},
]}


def datum(n, more):
    # fastavro has no nanoseconds, no duration and no uuid of a fixed: they are what they stand on.
    return {
        "ns": 1359676799123456789 + n, "lns": -n, "dec": Decimal(-n).scaleb(-3), "id": uuid.UUID(int=n),
        "bin": uuid.UUID(int=n << 64).bytes, "took": struct.pack("<III", n, 2, 3004), "more": more,
    }


if sys.argv[1] == "datums":
    with open(sys.argv[3], "w") as file:
        json.dump(DATUMS_SCHEMA, file)
    schema = fastavro.parse_schema(DATUMS_SCHEMA)
    with open(sys.argv[2], "wb") as file:
        for n in range(100):
            out = io.BytesIO()
            more = [None, Decimal("0.001"), datum(n, None)][n % 3]
            fastavro.schemaless_writer(out, schema, datum(n, more))
            file.write(struct.pack(">I", len(out.getvalue())) + out.getvalue())
elif sys.argv[1] == "write":
    with open(sys.argv[3], "w") as file:
        json.dump(SCHEMA, file)
    with open(sys.argv[2], "wb") as file:
        fastavro.writer(file, SCHEMA, RECORDS, codec=sys.argv[4])
else:
    with open(sys.argv[2], "rb") as file:
        found = list(fastavro.reader(file))
    assert len(found) == len(RECORDS), len(found)
    for n, (ours, theirs) in enumerate(zip(found, RECORDS)):
        assert ours == theirs, (n, ours, theirs)
