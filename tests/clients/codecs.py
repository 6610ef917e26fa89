"""Other implementations of codecs: they read and write the files of the codecs' interop tests.

    codecs.py protobuf    DESCRIPTORS MESSAGE IN OUT JSON   reads delimited bodies of IN, writes them again to OUT,
                                                            and the JSON of each on a line of JSON
    codecs.py messagepack IN OUT JSON                       the same with objects one behind the other
"""

import json
import sys


def protobuf(descriptors, name, source, target, text):
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, proto

    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(open(descriptors, "rb").read())
    for file in files.file:
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
    with open(source, "rb") as src, open(target, "wb") as out, open(text, "w") as lines:
        while (message := proto.parse_length_prefixed(kind, src)) is not None:
            proto.serialize_length_prefixed(message, out)
            as_json = json_format.MessageToDict(
                message, preserving_proto_field_name=True, descriptor_pool=pool
            )
            lines.write(json.dumps(as_json) + "\n")


def messagepack(source, target, text):
    import msgpack

    with open(source, "rb") as src, open(target, "wb") as out, open(text, "w") as lines:
        for value in msgpack.Unpacker(src):
            out.write(msgpack.packb(value))
            lines.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    {"protobuf": protobuf, "messagepack": messagepack}[sys.argv[1]](*sys.argv[2:])
