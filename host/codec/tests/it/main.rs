//! Each codec, from bytes and back: against references, other implementations and a real registry.

mod apicurio;
mod avro;
mod by_registry;
mod clients;
mod interop_avro;
mod interop_binary;
mod json;
mod json_schema;
mod messagepack;
mod protobuf;
mod registry;
mod texts;
