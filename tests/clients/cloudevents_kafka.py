"""CloudEvents by the SDK of the CloudEvents project, as records of Kafka: the other side of wasmill's codec.

    cloudevents_kafka.py write         prints events in both modes, each as a record on a line
    cloudevents_kafka.py read < LINES  reads records, prints each as an event

A record is {"headers": {name: text}, "key": text or null, "value": base64}.
"""

import base64
import json
import sys
from datetime import datetime, timezone

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

FORMAT = JSONFormat()


def events():
    plain = {"specversion": "1.0", "id": "1", "source": "/flights", "type": "departed"}
    plain["time"] = datetime(2013, 1, 31, 18, 59, 59, 123456, tzinfo=timezone.utc)
    yield plain | {"datacontenttype": "application/json"}, {"delay": 1.5, "tail": "N1é"}
    yield plain | {"subject": "UA 1", "dataschema": "https://schemas.example/1", "extone": "a %20 é"}, None
    yield plain | {"datacontenttype": "text/plain", "partitionkey": "k-1"}, "lines\nof text"
    yield plain | {"datacontenttype": "application/octet-stream"}, b"\x00\xff\xfe"


def write():
    for attributes, data in events():
        for mode in (to_binary, to_structured):
            message = mode(CloudEvent(dict(attributes), data), FORMAT)
            record = {
                "headers": {name: value.decode() for name, value in message.headers.items()},
                "key": message.key,
                "value": base64.b64encode(message.value).decode(),
            }
            print(json.dumps(record))


def read():
    for line in sys.stdin:
        record = json.loads(line)
        headers = {name: value.encode() for name, value in record["headers"].items()}
        key = record["key"] and record["key"].encode()
        event = from_kafka(KafkaMessage(headers, key, base64.b64decode(record["value"])), FORMAT)
        attributes = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in event.get_attributes().items()
        }
        data = event.get_data()
        if isinstance(data, (bytes, bytearray)):
            data = {"base64": base64.b64encode(data).decode()}
        print(json.dumps({"attributes": attributes, "data": data}))


{"write": write, "read": read}[sys.argv[1]]()
