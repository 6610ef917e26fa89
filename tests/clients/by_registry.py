"""Confluent's client of a schema registry, with Avro and Protocol Buffers, for host/codec/tests/it/by_registry.

  by_registry.py avro write     REGISTRY TOPIC VALUES SCHEMA   writes the records below, and their schema to a file
  by_registry.py avro read      REGISTRY TOPIC VALUES          reads values and compares them with the records
  by_registry.py protobuf write REGISTRY TOPIC VALUES DESCRIPTORS MESSAGE PAYLOADS   payloads, one a line, to values
  by_registry.py protobuf read  REGISTRY TOPIC VALUES DESCRIPTORS MESSAGE PAYLOADS   and back

Each value stands behind its length, as four bytes, big-endian.
"""

import json
import struct
import sys
import uuid
from datetime import date, datetime, time, timezone
from decimal import Decimal

from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext

what, way, url, topic, values_file, *more = sys.argv[1:]
client = SchemaRegistryClient({"url": url})
context = SerializationContext(topic, MessageField.VALUE)


def values():
    with open(values_file, "rb") as file:
        while length := file.read(4):
            yield file.read(*struct.unpack(">I", length))


def write(all_values):
    with open(values_file, "wb") as file:
        for value in all_values:
            file.write(struct.pack(">I", len(value)) + value)


def avro():
    from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer

    def logical(base, name, /, **more):
        return {"type": base, "logicalType": name, **more}

    # A named type of another subject.
    place = {"type": "record", "name": "Place", "namespace": "geo", "fields": [
        {"name": "code", "type": {"type": "enum", "name": "Code", "symbols": ["JFK", "LGA", "EWR"]}}]}
    fields = [
        ("id", logical("string", "uuid")),
        ("fare", logical("bytes", "decimal", precision=12, scale=2)),
        ("tax", logical("fixed", "decimal", name="Tax", size=5, precision=9, scale=3)),
        ("at", logical("long", "timestamp-micros")),
        ("day", logical("int", "date")),
        ("clock", logical("int", "time-millis")),
        ("origin", "geo.Place"),
        ("next", ["null", "long", "string", "Flight"]),
        ("codes", {"type": "map", "values": "geo.Code"}),
        ("stops", {"type": "array", "items": "geo.Place"}),
        ("delay", "double"),
        ("raw", "bytes"),
    ]
    flight = {"type": "record", "name": "Flight", "namespace": "air",
              "fields": [{"name": name, "type": kind} for name, kind in fields]}

    def record(n, onward):
        return {
            "id": uuid.UUID(int=n), "fare": Decimal(-n * 100 - 1).scaleb(-2), "tax": Decimal(n).scaleb(-3),
            "at": datetime(2013, 1, 31, 23, 59, 59, 123456, timezone.utc), "day": date(2013, 1, 31 - n % 3),
            "clock": time(12, 0, 0, 5000), "origin": {"code": ["JFK", "LGA", "EWR"][n % 3]}, "next": onward,
            "codes": {"a": "JFK", "é": "EWR"}, "stops": [{"code": "LGA"}] * (n % 3), "delay": -n / 8, "raw": bytes([n, 255]),
        }

    records = [record(n, [None, n << 40, "text", record(n, None)][n % 4]) for n in range(40)]
    for each in records:
        if isinstance(each["next"], dict):
            each["next"]["next"] = 7

    if way == "write":
        client.register_schema(topic + "-place", Schema(json.dumps(place), "AVRO"))
        schema = Schema(json.dumps(flight), "AVRO", [SchemaReference("geo.Place", topic + "-place", 1)])
        serialize = AvroSerializer(client, schema)
        write(serialize(each, context) for each in records)
    else:
        deserialize = AvroDeserializer(client)
        found = [deserialize(value, context) for value in values()]
        assert len(found) == len(records), len(found)
        for n, (ours, theirs) in enumerate(zip(found, records)):
            assert ours == theirs, (n, ours, theirs)


def protobuf():
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer, ProtobufSerializer
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    descriptors, message, payloads = more
    pool = descriptor_pool.DescriptorPool()
    with open(descriptors, "rb") as file:
        for each in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
            pool.Add(each)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(message))
    if way == "write":
        serialize = ProtobufSerializer(kind, client, {"use.deprecated.format": False})
        with open(payloads) as file:
            write([serialize(json_format.Parse(line, kind(), descriptor_pool=pool), context) for line in file])
    else:
        # It asks for a schema as a descriptor, which Apicurio can't give, but needs it for rules alone. So it gets no
        # registry, and passes over the id and the indexes.
        deserialize = ProtobufDeserializer(kind, {"use.deprecated.format": False})
        with open(payloads, "w") as file:
            for value in values():
                found = deserialize(value, context)
                text = json_format.MessageToJson(found, preserving_proto_field_name=True, indent=None, descriptor_pool=pool)
                file.write(text + "\n")


{"avro": avro, "protobuf": protobuf}[what]()
