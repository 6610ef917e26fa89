"""Confluent's client of a schema registry, with JSON Schema.

  json_schema.py write REGISTRY TOPIC SCHEMA PAYLOADS VALUES   payloads, one a line, to values
  json_schema.py read  REGISTRY TOPIC SCHEMA VALUES PAYLOADS   and back

Each value stands behind its length, as four bytes, big-endian.
"""

import json
import struct
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def main(what, url, topic, schema_file, source, sink):
    with open(schema_file) as file:
        schema = file.read()
    client = SchemaRegistryClient({"url": url})
    context = SerializationContext(topic, MessageField.VALUE)
    if what == "write":
        serialize = JSONSerializer(schema, client)
        with open(source) as payloads, open(sink, "wb") as values:
            for line in payloads:
                value = serialize(json.loads(line), context)
                values.write(struct.pack(">I", len(value)) + value)
    else:
        deserialize = JSONDeserializer(schema, schema_registry_client=client)
        with open(source, "rb") as values, open(sink, "w") as payloads:
            while length := values.read(4):
                value = values.read(*struct.unpack(">I", length))
                payloads.write(json.dumps(deserialize(value, context)) + "\n")


main(*sys.argv[1:])
